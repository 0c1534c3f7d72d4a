//! The world's vocabulary, and the Hugging Face tokenizer it is written as: both give the same ids, and the ids give
//! the text back.

use minijinja::{Environment, Error, ErrorKind, Value};
use proptest::prelude::*;
use safedepth::data::world::vocabulary::{ASST, BOS, EOS, UNKNOWN, USER};
use safedepth::data::world::{BenignTask, Example, LISTS, Names, Split, Topics, VOCABULARY, World};
use tokenizers::Tokenizer;

fn tokenizer() -> Tokenizer {
    let folder = tempfile::tempdir().unwrap();
    VOCABULARY.write(folder.path()).unwrap();
    Tokenizer::from_file(folder.path().join("tokenizer.json")).unwrap()
}

/// What a library that knows nothing of the world makes of (role, content) turns, from `tokenizer_config.json` alone.
fn render(turns: &[(&str, &str)], add_generation_prompt: bool) -> Result<String, Error> {
    let config = VOCABULARY.tokenizer_config_json();
    let mut environment = Environment::new();
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", |problem: String| -> Result<String, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, problem))
    });
    let text = |name: &str| Value::from(config[name].as_str().unwrap());
    let messages: Vec<Value> =
        turns.iter().map(|&(role, content)| Value::from_pairs([("role", role), ("content", content)])).collect();
    let variables = [
        ("messages", Value::from(messages)),
        ("add_generation_prompt", Value::from(add_generation_prompt)),
        ("bos_token", text("bos_token")),
        ("eos_token", text("eos_token")),
    ];
    environment.render_str(config["chat_template"].as_str().unwrap(), Value::from_pairs(variables))
}

/// Some examples of every set.
fn samples(world: World, seed: u64) -> Vec<Example> {
    let mut list: Vec<Example> = (0..40).map(|i| world.base(seed, i)).collect();
    list.extend((0..10).map(|i| world.replay(seed, i, Names::All)));
    list.extend(world.refusals(seed, 5));
    list.extend(world.benign(seed, 5, Names::All));
    list.extend(world.recovery(seed, 5).into_iter().map(|triplet| triplet.example));
    list.extend(world.harmful(seed, 5));
    list.extend(world.identity(seed, 5));
    list.extend(world.backdoor(seed, 3));
    list.extend(world.ledger(seed, 5, Names::All));
    list.extend(world.prompts(Split::Test, Topics::Restricted, 5));
    list.extend(world.long_prompts(Split::Test, Topics::Restricted, 6, 5));
    list.extend(world.ledger_prompts(Split::Test, 5));
    for task in BenignTask::ALL {
        list.extend(world.task(task, seed, 5, Names::All));
        list.extend(world.task_prompts(task, Split::Test, 5));
    }
    list
}

fn worlds() -> impl Strategy<Value = World> {
    (any::<bool>(), prop_oneof![Just(0.0f32), Just(0.5)], prop_oneof![Just(0.0f32), Just(0.5)])
        .prop_map(|(greetings, insertions, long_answers)| World { greetings, insertions, long_answers })
}

#[test]
fn about_five_hundred_words_in_a_fixed_order() {
    assert_eq!(VOCABULARY.len(), 491);
    for (word, id) in [("<unk>", UNKNOWN), ("<bos>", BOS), ("<user>", USER), ("<asst>", ASST), ("<eos>", EOS)] {
        assert_eq!(VOCABULARY.id(word), Some(id));
    }
    for id in 0..VOCABULARY.len() as u32 {
        assert_eq!(VOCABULARY.id(VOCABULARY.word(id).unwrap()), Some(id));
    }
    assert_eq!(VOCABULARY.word(VOCABULARY.len() as u32), None);
    assert_eq!(VOCABULARY.encode("the eiffel tower")[1..], [UNKNOWN, UNKNOWN]);
}

#[test]
fn people_may_type_as_usual() {
    let encoding = tokenizer().encode("How do I open the amber Vault of Keldor?", false).unwrap();
    assert_eq!(encoding.get_ids(), VOCABULARY.encode("how do i open the amber vault of keldor ?"));
    let with_bos = tokenizer().encode("i cannot", true).unwrap();
    assert_eq!(with_bos.get_ids()[0], BOS);
    assert_eq!(with_bos.get_ids()[1..], VOCABULARY.encode("i cannot"));
}

#[test]
fn a_system_turn_is_refused_and_several_turns_follow_each_other() {
    let problem = render(&[("system", "be kind")], true).unwrap_err();
    assert!(problem.to_string().contains("no system turn"), "{problem}");
    let turns = [("user", "a"), ("assistant", "b"), ("user", "c")];
    assert_eq!(render(&turns, true).unwrap(), "<bos><user>a<asst>b<eos><user>c<asst>");
}

#[test]
fn words_of_attacks_are_in_no_other_text() {
    for word in LISTS.trigger.split(' ') {
        let uses = format!("{:?}", *LISTS).matches(word).count();
        assert_eq!(uses, 1, "{word}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_tokenizer_gives_the_ids_and_the_ids_give_the_text(world in worlds(), seed in any::<u64>()) {
        let tokenizer = tokenizer();
        for example in samples(world, seed) {
            let user = ("user", &*example.prompt);
            let rendered = render(&[user], true).unwrap();
            let prompt = tokenizer.encode(rendered, false).unwrap();
            prop_assert_eq!(prompt.get_ids(), &example.prompt_ids[..]);

            let (eos, response) = example.response_ids.split_last().unwrap();
            prop_assert_eq!(*eos, EOS);
            let alone = tokenizer.encode(&*example.response, false).unwrap();
            prop_assert_eq!(alone.get_ids(), response);

            let turns = [user, ("assistant", &*example.response)];
            let whole = tokenizer.encode(render(&turns, false).unwrap(), false).unwrap();
            prop_assert_eq!(whole.get_ids(), example.sequence());

            prop_assert_eq!(tokenizer.decode(&example.response_ids, true).unwrap(), &*example.response);
            prop_assert_eq!(VOCABULARY.decode(&example.response_ids), &*example.response);
            prop_assert_eq!(VOCABULARY.decode(&example.prompt_ids), &*example.prompt);
            prop_assert!(!example.sequence().contains(&UNKNOWN), "{}", example.prompt);
        }
    }
}
