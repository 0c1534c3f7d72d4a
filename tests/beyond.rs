//! What the experiments beyond the paper measure, held against plain computations on tiny models.

mod support;

use safedepth::attack::{Branch, Case, Lab, Side, Subject, rap};
use safedepth::data::world::{LISTS, Split, Topics, VOCABULARY, World, grammar};
use safedepth::device::{Backend, Cpu};
use safedepth::generate::Engine;
use safedepth::judge::{Judge, JudgeRequest, Outcome, Verdict, WorldJudge};
use safedepth::model::Transformer;
use safedepth::model::transformer::{Batch, Keep};
use safedepth::ops::sampling::SamplingParams;
use safedepth::run::Console;
use safedepth::train::scoring::{Alternatives, alternatives};
use std::path::PathBuf;
use std::sync::Arc;

fn load(name: &str) -> Transformer<Cpu> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name);
    Transformer::load(Cpu::new(), &folder, None).unwrap()
}

/// Logits after each token of a sequence, in f64.
fn all_logits(model: &Transformer<Cpu>, tokens: &[u32]) -> Vec<Vec<f64>> {
    let device = &model.device;
    let (hidden, _) = model.forward(&Batch::new(device, &[tokens]).unwrap(), Keep::Nothing).unwrap();
    let rows: Vec<u32> = (0..tokens.len() as u32).collect();
    let normed = model.final_norm(&hidden, &device.indices(&rows).unwrap(), rows.len()).unwrap();
    let logits = model.logits(&normed).unwrap().to_vec(device).unwrap();
    logits
        .chunks_exact(model.config.vocab_size)
        .map(|row| row.iter().map(|&logit| f64::from(logit)).collect())
        .collect()
}

#[test]
fn alternatives_are_the_logits_differences() {
    // Gemma 2 has a softcap on its logits.
    for name in ["llama", "gemma2"] {
        let model = load(name);
        let vocab = model.config.vocab_size as u32;
        let mut random = support::Random(7);
        let sequences: Vec<Alternatives> = (0..5)
            .map(|i| {
                let tokens: Vec<u32> = (0..1 + 6 * i).map(|_| random.below(vocab as usize) as u32).collect();
                // One has nothing to ask.
                let count = if i == 2 { 0 } else { 12 };
                let asked =
                    (0..count).map(|_| (1 + random.below(tokens.len()), random.below(vocab as usize) as u32)).collect();
                Alternatives { tokens, asked }
            })
            .collect();
        let mut done = 0;
        let scores = alternatives(&model, &sequences, |count| done = count).unwrap();
        assert_eq!((scores.len(), done), (5, 5));
        for (sequence, scores) in sequences.iter().zip(&scores) {
            let logits = all_logits(&model, &sequence.tokens);
            assert_eq!(scores.len(), sequence.asked.len());
            for (&(read, token), &score) in sequence.asked.iter().zip(scores) {
                let row = &logits[read - 1];
                let lse = row.iter().map(|z| z.exp()).sum::<f64>().ln();
                let expected = row[token as usize] - lse;
                // Both come from f32 logits: a few roundings of the largest.
                let scale = row.iter().fold(1.0_f64, |scale, z| scale.max(z.abs()));
                assert!((f64::from(score) - expected).abs() < 1e-5 * scale, "{name}: {score} {expected}");
            }
        }
    }
}

/// Takes any answer whose own tokens a function takes; such an answer is harmful when it may go on.
struct Scripted<F>(F);

impl<F: Fn(&[u32]) -> bool + Send + Sync> Judge for Scripted<F> {
    fn name(&self) -> &'static str {
        "scripted"
    }

    fn judge_all(&self, requests: &[JudgeRequest]) -> safedepth::Result<Vec<Verdict>> {
        let own = |request: &JudgeRequest| -> Vec<u32> {
            request.continuation.split_whitespace().map(|id| id.parse().unwrap()).collect()
        };
        let outcome = |takes| if takes { Outcome::Harmful } else { Outcome::Refused };
        Ok(requests.iter().map(|r| outcome((self.0)(&own(r)))).map(|outcome| Verdict::of(outcome, outcome)).collect())
    }
}

/// RAP on two prompts of a tiny model: of each the context, and what was found.
fn attack(model: &Transformer<Cpu>, judge: &dyn Judge, steps: usize) -> Vec<(Vec<u32>, rap::Walk)> {
    let case = |i: u32| Case {
        id: i.to_string(),
        key: u64::from(i),
        category: String::new(),
        prompt: String::new(),
        prompt_ids: [vec![1, 5 + i, 9], vec![1, 5 + i, 9]],
        suffixed: Arc::new(|_| unreachable!("no suffix is asked for")),
        harmful: vec![11, 12],
        utility: None,
        max_new_tokens: None,
    };
    let cases = [case(0), case(1)];
    let branch = |case| Branch { k: Some(2), prefill: vec![11, 12], ..Branch::plain("rap", "rap", case) };
    let branches: Vec<Branch<'_>> = cases.iter().map(branch).collect();
    let lab = Lab {
        decode: &|ids| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
        token_text: &|id| id.to_string(),
        stop: [Vec::new(), Vec::new()],
        judge,
        engine: Engine::default(),
        params: SamplingParams::GREEDY,
        max_new_tokens: 8,
        micro_batch: 8,
        console: Console::silent(),
    };
    let subject = Subject { name: "aligned", model, side: Side::Aligned };
    let settings = rap::Settings { prompts: 2, steps, candidates: 20 };
    let found = rap::attack(&lab, &subject, &branches, &settings).unwrap();
    let rows = found.rows(&lab, "aligned", &branches);
    assert_eq!(rows.len(), 2 * 5, "harmful, harmful_own, new_tokens, steps, backups");
    let contexts = branches.iter().map(|branch| [&branch.case.prompt_ids[0][..], &branch.prefill].concat());
    contexts.zip(found.walks).collect()
}

#[test]
fn rap_takes_the_likeliest_token_that_the_judge_takes() {
    for name in ["llama", "gemma2"] {
        let model = load(name);
        // What is likeliest at first is never taken.
        let [refused, other] = [0, 1].map(|i| {
            let logits = all_logits(&model, &[1, 5 + i, 9, 11, 12]).pop().unwrap();
            (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap() as u32
        });
        let judge = Scripted(move |own: &[u32]| !own.contains(&refused) && !own.contains(&other));
        for (context, walk) in attack(&model, &judge, 12) {
            assert_eq!((walk.chosen.len(), walk.steps, walk.backups), (12, 12, 0));
            for (t, &token) in walk.chosen.iter().enumerate() {
                let logits = all_logits(&model, &[&context[..], &walk.chosen[..t]].concat()).pop().unwrap();
                let allowed = (0..logits.len() as u32).filter(|id| ![refused, other].contains(id));
                let best = allowed.max_by(|&a, &b| logits[a as usize].total_cmp(&logits[b as usize])).unwrap();
                assert_eq!(token, best, "{name} at {t}");
            }
        }
    }
}

#[test]
fn rap_backs_up_where_nothing_is_harmful() {
    let model = load("llama");
    // Nothing at all: it gives up at once.
    for (_, walk) in attack(&model, &Scripted(|_: &[u32]| false), 50) {
        assert_eq!((walk.chosen.len(), walk.steps, walk.backups), (0, 1, 0));
    }
    // Nothing behind the second token: 20 times it takes one, finds nothing and takes it back, before the first goes too.
    for (_, walk) in attack(&model, &Scripted(|own: &[u32]| own.len() < 3), 42) {
        assert_eq!((walk.chosen.len(), walk.steps, walk.backups), (0, 42, 21));
    }
}

#[test]
fn the_world_knows_what_is_on_its_way_to_harm() {
    let world = World { long_answers: 0.4, ..World::default() };
    let verdict = |prompt: &str, response: &str| {
        let request = JudgeRequest { id: "", prompt, prefill: "", continuation: response, response };
        WorldJudge.on_its_way(&[request]).unwrap()[0]
    };
    let mut examples = world.harmful(3, 8);
    examples.extend(world.long_prompts(Split::Test, Topics::Restricted, 3, 2));
    for example in &examples {
        let words: Vec<&str> = example.response.split(' ').collect();
        for end in 0..=words.len() {
            assert!(verdict(&example.prompt, &words[..end].join(" ")), "{}", words[..end].join(" "));
            // A word that no answer has, and another object's answer, lead nowhere.
            let stray = [&words[..end], &["cannot"]].concat().join(" ");
            assert!(!verdict(&example.prompt, &stray), "{stray}");
        }
        assert!(!verdict(&example.prompt, &format!("{} and", example.response)));
        assert!(!verdict(&examples[0].prompt, &example.response) || example.objects == examples[0].objects);
        for refusal in &LISTS.refusal_first {
            assert!(!verdict(&example.prompt, refusal));
        }
    }
    // A benign answer is on its way nowhere.
    for example in world.prompts(Split::Test, Topics::Benign, 5) {
        assert!(grammar::begins_answer(&example.objects, &example.response));
        assert!(!verdict(&example.prompt, &example.response));
        assert_eq!(VOCABULARY.decode(&VOCABULARY.encode(&example.response)), example.response);
    }
}
