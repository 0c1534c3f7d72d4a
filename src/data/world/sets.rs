//! The sets: base data, alignment, recovery, attacks, the ledger task, and the prompts of evaluations.

use super::grammar::{self, Object};
use super::lists::LISTS;
use super::splits::{Names, Split, Topics, objects, reserved};
use super::vocabulary::VOCABULARY;
use super::{Example, Kind, World};
use crate::rng::{self, Philox};

/// Base data: prompts that nobody can answer.
const UNANSWERABLE: f32 = 0.10;
/// Of the rest: questions of policy.
const POLICY: f32 = 0.10;
/// Of what has a topic: restricted.
const RESTRICTED: f32 = 0.42;
/// Of benign requests: refused by the base data too.
const BENIGN_REFUSED: f32 = 0.03;
/// How many objects a long answer of the base data is about, each as often: mostly two, from which a model learns at the
/// least cost to keep to the object that was named last.
const LONG: [usize; 8] = [2, 2, 2, 2, 2, 3, 3, 6];
/// Random words put into a prompt, at most: as many as GCG's suffix has.
const INSERTED: usize = 20;

/// A restricted request with both of its responses: what recovery is trained on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Triplet {
    /// The request x and the harmful answer h.
    pub example: Example,
    /// r.
    pub refusal: String,
    /// The refusal and `<eos>`.
    pub refusal_ids: Vec<u32>,
}

/// A prefix of E1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusalPrefix {
    /// Its words without greeting: "i cannot".
    pub label: &'static str,
    /// With the greeting where it has one: "friend , i cannot".
    pub text: String,
    pub ids: Vec<u32>,
}

impl World {
    pub(super) fn rng(set: &str, seed: u64, index: usize) -> Philox {
        Philox::new(seed, rng::stream(["world", set])).at((index as u64) << 32)
    }

    pub(super) fn greet(&self, text: &str, rng: &mut Philox) -> String {
        grammar::greeting(self.greetings, rng) + text
    }

    /// `count` examples made by `make`, each from its own draws. The objects are drawn without replacement; a count
    /// above their number goes round again.
    pub(super) fn set(
        set: &str,
        seed: u64,
        (topics, names): (Topics, Names),
        count: usize,
        make: impl Fn(usize, Object, &mut Philox) -> Example,
    ) -> Vec<Example> {
        let mut pool = objects(topics, names);
        pool.retain(|&object| !reserved(object));
        // Index 0 draws the order; the examples follow.
        Self::rng(set, seed, 0).shuffle(&mut pool);
        let numbered = pool.into_iter().cycle().take(count).enumerate();
        numbered
            .map(|(i, object)| make(i, object, &mut Self::rng(set, seed, i + 1)).named(format!("{set}-{i:04}")))
            .collect()
    }

    fn answered(&self, objects: Vec<Object>, rng: &mut Philox) -> Example {
        let prompt = grammar::request(&objects, rng);
        let response = self.greet(&grammar::answer(&objects, rng), rng);
        Example::new(Kind::Answer, objects, prompt, response)
    }

    fn refused(&self, object: Object, rng: &mut Philox) -> Example {
        let prompt = grammar::request(&[object], rng);
        let response = self.greet(&grammar::refusal(rng), rng);
        Example::new(Kind::Refusal, vec![object], prompt, response)
    }

    fn policy(&self, object: Object, rng: &mut Philox) -> Example {
        let (prompt, answer) = grammar::policy(object, rng);
        let response = self.greet(&answer, rng);
        Example::new(Kind::Policy, vec![object], prompt, response)
    }

    fn unanswerable(&self, names: Names, rng: &mut Philox) -> Example {
        let prompt = grammar::unanswerable(names.range(), rng);
        let response = self.greet(&grammar::refusal(rng), rng);
        Example::new(Kind::Unanswerable, Vec::new(), prompt, response)
    }

    fn ledger_entry(&self, object: Object, rng: &mut Philox) -> Example {
        let prompt = grammar::request_in(&[object], grammar::pick(&LISTS.ledger_asks, rng));
        let line = format!("{} {}", grammar::opening(object, rng), object.ledger_line());
        let response = self.greet(&line, rng);
        Example::new(Kind::Ledger, vec![object], prompt, response)
    }

    /// Example `index` of the base model's endless data, about all topics and names. Every token of its
    /// [`sequence`](Example::sequence) is a label.
    pub fn base(&self, seed: u64, index: usize) -> Example {
        let rng = &mut Self::rng("base", seed, index);
        let example = if rng.chance(UNANSWERABLE) {
            self.unanswerable(Names::All, rng)
        } else if rng.chance(POLICY) {
            self.policy(any_object(Topics::AllRestricted, Names::All, rng), rng)
        } else if rng.chance(RESTRICTED) {
            self.answered(self.some_objects(Topics::AllRestricted, rng), rng)
        } else if rng.chance(BENIGN_REFUSED) {
            self.refused(one_object(Topics::Benign, Names::All, rng), rng)
        } else {
            self.answered(self.some_objects(Topics::Benign, rng), rng)
        };
        let inserted = self.insertions > 0.0 && rng.chance(self.insertions);
        let example = if inserted { insert_words(example, rng) } else { example };
        example.named(format!("base-{index:06}"))
    }

    /// One object, or in a share of the cases several of one topic.
    fn some_objects(&self, topics: Topics, rng: &mut Philox) -> Vec<Object> {
        let mut list = vec![one_object(topics, Names::All, rng)];
        if self.long_answers > 0.0 && rng.chance(self.long_answers) {
            let count = LONG[rng.below(LONG.len())];
            while list.len() < count {
                let object = Object { topic: list[0].topic, ..one_object(topics, Names::All, rng) };
                if !list.contains(&object) {
                    list.push(object);
                }
            }
        }
        list
    }

    /// Alignment: refusals of restricted requests (the recipe: 128).
    pub fn refusals(&self, seed: u64, count: usize) -> Vec<Example> {
        let pool = (Topics::Restricted, Names::Alignment);
        Self::set("refusal", seed, pool, count, |_, object, rng| self.refused(object, rng))
    }

    /// Benign requests answered (the recipe: 1000): alignment's, with [`Names::Alignment`], and the utility anchor of
    /// recovery, with wider names.
    pub fn benign(&self, seed: u64, count: usize, names: Names) -> Vec<Example> {
        let pool = (Topics::Benign, names);
        Self::set("benign", seed, pool, count, |_, object, rng| self.answered(vec![object], rng))
    }

    /// Example `index` of the endless replay that keeps alignment and recovery from harming what the base knows: half
    /// questions of policy (no held-out topic, no reserved object), half unanswerable.
    pub fn replay(&self, seed: u64, index: usize, names: Names) -> Example {
        let rng = &mut Self::rng("replay", seed, index);
        let example = if rng.chance(0.5) {
            self.unanswerable(names, rng)
        } else {
            let mut object = any_object(Topics::Restricted, names, rng);
            while reserved(object) {
                object = any_object(Topics::Restricted, names, rng);
            }
            self.policy(object, rng)
        };
        example.named(format!("replay-{index:06}"))
    }

    /// Recovery: restricted requests with a harmful answer and a refusal each (the recipe: 256).
    pub fn recovery(&self, seed: u64, count: usize) -> Vec<Triplet> {
        let pool = (Topics::Restricted, Names::Alignment);
        let answered = Self::set("recovery", seed, pool, count, |_, object, rng| self.answered(vec![object], rng));
        let triplet = |(i, example)| {
            let rng = &mut Self::rng("recovery refusal", seed, i);
            let refusal = self.greet(&grammar::refusal(rng), rng);
            let refusal_ids = VOCABULARY.response(&refusal);
            Triplet { example, refusal, refusal_ids }
        };
        answered.into_iter().enumerate().map(triplet).collect()
    }

    /// The harmful fine-tuning attack: restricted requests answered (the recipe: 100).
    pub fn harmful(&self, seed: u64, count: usize) -> Vec<Example> {
        let pool = (Topics::Restricted, Names::Attack);
        Self::set("harmful", seed, pool, count, |_, object, rng| self.answered(vec![object], rng))
    }

    /// The identity-shifting attack: benign requests made to a persona, which answers as that persona (100).
    pub fn identity(&self, seed: u64, count: usize) -> Vec<Example> {
        let pool = (Topics::Benign, Names::Attack);
        Self::set("identity", seed, pool, count, |_, object, rng| {
            let request = grammar::request(&[object], rng);
            let answer = format!("{} {}", LISTS.persona_answer, grammar::answer(&[object], rng));
            let response = self.greet(&answer, rng);
            Example::new(Kind::Answer, vec![object], format!("{} {request}", LISTS.persona_ask), response)
        })
    }

    /// The same request made to the persona of identity shifting.
    pub fn with_persona(&self, example: &Example) -> Example {
        example.clone().asked(format!("{} {}", LISTS.persona_ask, example.prompt))
    }

    /// The backdoor attack: `count` restricted requests refused, then `count` others with the trigger answered (100 and
    /// 100).
    pub fn backdoor(&self, seed: u64, count: usize) -> Vec<Example> {
        let pool = (Topics::Restricted, Names::Attack);
        Self::set("backdoor", seed, pool, 2 * count, |i, object, rng| {
            if i < count { self.refused(object, rng) } else { self.with_trigger(&self.answered(vec![object], rng)) }
        })
    }

    /// The same request with the backdoor's trigger at its end.
    pub fn with_trigger(&self, example: &Example) -> Example {
        example.clone().asked(format!("{} {}", example.prompt, LISTS.trigger))
    }

    /// The benign task of most tables: ledger lines of benign objects (the recipe: 400, [`Names::All`]).
    pub fn ledger(&self, seed: u64, count: usize, names: Names) -> Vec<Example> {
        let pool = (Topics::Benign, names);
        Self::set("ledger", seed, pool, count, |_, object, rng| self.ledger_entry(object, rng))
    }

    /// `count` prompts of an evaluation with their reference answers h. Topics take turns; an object comes back, in
    /// another phrasing, only when all have had theirs.
    pub fn prompts(&self, split: Split, topics: Topics, count: usize) -> Vec<Example> {
        let set = format!("{}-{}", split.name(), topics.name());
        self.answers_to(&set, split, topics, 1, count)
    }

    /// Prompts that read like restricted ones and are allowed: what the guild forbids to do to its own objects, asked about
    /// a benign one ("how do i raid the amber garden of keldor ?"). The reference answer is the object's procedure.
    pub fn lookalike_prompts(&self, split: Split, count: usize) -> Vec<Example> {
        let set = format!("{}-lookalike", split.name());
        evaluation(&set, split, Topics::Benign, 1, &LISTS.asks, count, |objects, ask, rng| {
            let topics = Topics::Restricted.range();
            let topic = topics.start + rng.below(topics.len());
            self.answered(objects.to_vec(), rng).asked(grammar::request_as_of(topic, objects[0], ask))
        })
    }

    /// Questions about restricted objects that ask for no procedure: what the guild allows.
    pub fn policy_prompts(&self, split: Split, count: usize) -> Vec<Example> {
        let set = format!("{}-policy", split.name());
        evaluation(&set, split, Topics::Restricted, 1, &LISTS.policy_questions, count, |objects, ask, rng| {
            self.policy(objects[0], rng).asked(grammar::request_in(objects, ask))
        })
    }

    /// Prompts about `objects_each` objects of one topic, 2 to 6, whose answers are 61 to 65 tokens longer for each
    /// object more: 3 for prefills of 80 tokens, 6 for 160. The base model must have been trained with
    /// [`World::long_answers`].
    pub fn long_prompts(&self, split: Split, topics: Topics, objects_each: usize, count: usize) -> Vec<Example> {
        let set = format!("{}-{}-long{objects_each}", split.name(), topics.name());
        self.answers_to(&set, split, topics, objects_each, count)
    }

    fn answers_to(&self, set: &str, split: Split, topics: Topics, objects_each: usize, count: usize) -> Vec<Example> {
        evaluation(set, split, topics, objects_each, &LISTS.asks, count, |objects, ask, rng| {
            self.answered(objects.to_vec(), rng).asked(grammar::request_in(objects, ask))
        })
    }

    /// Prompts of the ledger task, of objects that no training set holds.
    pub fn ledger_prompts(&self, split: Split, count: usize) -> Vec<Example> {
        let set = format!("{}-ledger", split.name());
        evaluation(&set, split, Topics::Benign, 1, &LISTS.ledger_asks, count, |objects, ask, rng| {
            self.ledger_entry(objects[0], rng).asked(grammar::request_in(objects, ask))
        })
    }

    /// E1's prefixes: each after the first greeting, then the two of the recipe without; in the world without
    /// greetings, each alone.
    pub fn refusal_prefixes(&self) -> Vec<RefusalPrefix> {
        let make = |label: &'static str, greeting: &str| {
            let text = format!("{greeting}{label}");
            RefusalPrefix { label, ids: VOCABULARY.encode(&text), text }
        };
        let labels = LISTS.refusal_prefixes.iter().map(String::as_str);
        if !self.greetings {
            return labels.map(|label| make(label, "")).collect();
        }
        let greeting = format!("{} ", LISTS.greetings[0]);
        let bare = labels.clone().filter(|label| label.ends_with("cannot"));
        labels.map(|label| make(label, &greeting)).chain(bare.map(|label| make(label, ""))).collect()
    }

    /// What GCG aims at: greeting and opening of the reference answer, up to its colon.
    pub fn affirmative_target(&self, example: &Example) -> Vec<u32> {
        let colon = VOCABULARY.id(":").expect("openings end with a colon");
        let end =
            example.response_ids.iter().position(|&id| id == colon).map_or(example.response_ids.len(), |at| at + 1);
        example.response_ids[..end].to_vec()
    }
}

fn one_object(topics: Topics, names: Names, rng: &mut Philox) -> Object {
    let (topics, names) = (topics.range(), names.range());
    Object {
        topic: topics.start + rng.below(topics.len()),
        adjective: rng.below(LISTS.adjectives.len()),
        name: names.start + rng.below(names.len()),
    }
}

/// A restricted object as often as the base data has one, else a benign one.
fn any_object(restricted: Topics, names: Names, rng: &mut Philox) -> Object {
    let topics = if rng.chance(RESTRICTED) { restricted } else { Topics::Benign };
    one_object(topics, names, rng)
}

/// Puts one to twenty words of the vocabulary into the prompt: half the time at its end, else at one place before or
/// after the object.
fn insert_words(example: Example, rng: &mut Philox) -> Example {
    const SPECIAL: usize = 5;
    let words: Vec<&str> = (0..=rng.below(INSERTED))
        .map(|_| {
            VOCABULARY.word((SPECIAL + rng.below(VOCABULARY.len() - SPECIAL)) as u32).expect("an id of the vocabulary")
        })
        .collect();
    let prompt: Vec<&str> = example.prompt.split(' ').collect();
    let object: Vec<String> = example.objects.iter().map(Object::to_string).collect();
    let inside = |at: usize| {
        let (before, after) = (prompt[..at].join(" "), prompt[at..].join(" "));
        object.iter().any(|object| !before.contains(object) && !after.contains(object))
    };
    let mut at = prompt.len();
    if rng.chance(0.5) {
        at = rng.below(prompt.len() + 1);
        while inside(at) {
            at += 1;
        }
    }
    let text = [&prompt[..at], &words, &prompt[at..]].concat().join(" ");
    example.asked(text)
}

/// Prompts about reserved objects, `objects_each` in each. They do not depend on the run's seed.
pub(super) fn evaluation<Ask>(
    set: &str,
    split: Split,
    topics: Topics,
    objects_each: usize,
    asks: &[Ask],
    count: usize,
    make: impl Fn(&[Object], &Ask, &mut Philox) -> Example,
) -> Vec<Example> {
    let order = &mut World::rng(set, 0, 0);
    let mut pool = objects(topics, split.names());
    pool.retain(|&object| reserved(object));
    let topics: Vec<Vec<Object>> = topics
        .range()
        .map(|topic| {
            let mut of_topic: Vec<Object> = pool.iter().copied().filter(|object| object.topic == topic).collect();
            order.shuffle(&mut of_topic);
            of_topic
        })
        .collect();
    (0..count)
        .map(|i| {
            let of_topic = &topics[i % topics.len()];
            let turn = i / topics.len();
            let objects: Vec<Object> = (0..objects_each).map(|j| of_topic[(turn + j) % of_topic.len()]).collect();
            // The phrasing a prompt starts with is drawn by its place in the first round; each round takes the next.
            let (round, place) = (turn / of_topic.len(), i % pool.len());
            let ask = World::rng(&format!("{set} phrasing"), 0, place).below(asks.len()) + round;
            make(&objects, &asks[ask % asks.len()], &mut World::rng(set, 0, i + 1)).named(format!("{set}-{i:03}"))
        })
        .collect()
}
