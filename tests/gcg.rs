//! GCG on tiny models: its gradient, its candidates, its losses, and searches that are broken off and gone on with.

use safedepth::attack::gcg::loss::{self, Batching};
use safedepth::attack::gcg::{Behaviour, Draft, Found, Frame, Parts, Search, Settings, State, gradient, rank};
use safedepth::device::{Cpu, DType, Tensor};
use safedepth::model::Transformer;
use safedepth::rng::Philox;
use safedepth::run::Console;
use safedepth::train::{Example, scoring};
use safedepth::{Error, Result};
use std::path::PathBuf;

const ARCHITECTURES: [&str; 7] = ["llama", "llama3", "mistral", "qwen2", "qwen3", "gemma", "gemma2"];

fn model(name: &str) -> Transformer<Cpu> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name);
    Transformer::load(Cpu::new(), &folder, Some(DType::F32)).unwrap()
}

/// A prompt of numbers: text is token ids with spaces between. A token of `merging` does not come back from its text.
struct Numbers {
    before: Vec<u32>,
    after: Vec<u32>,
    merging: Option<u32>,
}

impl Frame for Numbers {
    fn parts(&self, text: &str) -> Result<Parts> {
        let suffix = text.split(' ').map(|word| word.parse().unwrap()).collect();
        Ok(Parts { before: self.before.clone(), suffix, after: self.after.clone() })
    }

    fn prompt(&self, text: &str) -> Result<Vec<u32>> {
        let Parts { before, mut suffix, after } = self.parts(text)?;
        suffix.retain(|&id| Some(id) != self.merging);
        Ok([before, suffix, after].concat())
    }

    fn text(&self, suffix: &[u32]) -> Option<String> {
        Some(suffix.iter().map(u32::to_string).collect::<Vec<_>>().join(" "))
    }
}

const INIT: &str = "50 51 52 53 54 55";
const SUFFIX: [u32; 6] = [50, 51, 52, 53, 54, 55];

fn behaviour(number: u32, merging: Option<u32>) -> Behaviour {
    // Longer than a page of the cache, and of another length each.
    let before = (0..14 + 3 * number).map(|i| (7 * i + number) % 40).collect();
    let frame = Numbers { before, after: vec![41, 42 + number], merging };
    Behaviour::new(format!("number {number}"), Box::new(frame), vec![44, 45 + number, 43], INIT).unwrap()
}

fn behaviours(count: u32) -> Vec<Behaviour> {
    (0..count).map(|number| behaviour(number, None)).collect()
}

fn batching(tokens: Option<usize>, prefix_cache: bool) -> Batching {
    Batching { tokens, prefix_cache }
}

/// Candidates that differ from [`SUFFIX`] in one token, in several, in none.
fn candidates(count: usize) -> Vec<Vec<u32>> {
    let mut draws = Philox::new(3, 4);
    let mut list: Vec<Vec<u32>> = vec![SUFFIX.to_vec()];
    while list.len() < count {
        let mut candidate = SUFFIX.to_vec();
        for _ in 0..1 + draws.below(2) {
            candidate[draws.below(6)] = draws.below(60) as u32;
        }
        list.push(candidate);
    }
    list
}

/// Along each one-hot direction the loss changes as the gradient says: central differences on the row that the embedding
/// table holds for the suffix token, in a copy whose unembedding stays what it was.
#[test]
fn the_gradient_is_that_of_the_embedded_tokens() {
    for name in ARCHITECTURES {
        let model = model(name);
        let behaviours = behaviours(2);
        let rows = gradient::of_rows(&model, &behaviours, &SUFFIX).unwrap();
        let tokens = gradient::of_tokens(&model, &rows).unwrap();
        let (size, vocab) = (model.config.hidden_size, model.config.vocab_size);
        let table = model.parameters.embed_tokens.to_vec(&model.device).unwrap();
        let unembedding = model.parameters.unembedding().to_vec(&model.device).unwrap();
        let loss_with = |table: &[f32]| {
            let mut copy = model.try_clone().unwrap();
            let tensor = |values: &[f32]| Tensor::from_slice(&model.device, DType::F32, vocab, size, values).unwrap();
            copy.parameters.lm_head = Some(tensor(&unembedding));
            copy.parameters.embed_tokens = tensor(table);
            let suffix = [SUFFIX.to_vec()];
            loss::of_candidates(&copy, &behaviours, &SUFFIX, &suffix, batching(None, true)).unwrap().0[0].mean
        };
        let (mut squares, mut errors) = (0.0, 0.0);
        for (position, &token) in SUFFIX.iter().enumerate() {
            for direction in [1, 30] {
                let scaled = |h: f32| {
                    let mut table = table.clone();
                    for i in 0..size {
                        table[token as usize * size + i] += h * table[direction * size + i];
                    }
                    loss_with(&table)
                };
                // Two steps of h and 2h leave no curvature; f32 losses are good to 1e-6, so h = 5 % leaves 1e-5 of noise.
                let slope = |h: f32| (scaled(h) - scaled(-h)) / (2.0 * f64::from(h));
                let measured = (4.0 * slope(0.05) - slope(0.1)) / 3.0;
                let given = f64::from(tokens[position * vocab + direction]);
                squares += measured * measured;
                errors += (measured - given).powi(2);
            }
        }
        let error = (errors / squares).sqrt();
        assert!(error < 3e-3, "{name}: the gradient is off by {error:.1e}");
    }
}

#[test]
fn losses_are_the_same_with_and_without_the_prefix_cache_and_in_any_batch() {
    for name in ARCHITECTURES {
        let model = model(name);
        let (behaviours, candidates) = (behaviours(3), candidates(40));
        let (losses, stats) =
            loss::of_candidates(&model, &behaviours, &SUFFIX, &candidates, batching(None, true)).unwrap();
        for (tokens, cache) in [(None, false), (Some(1), true), (Some(50), true), (Some(70), false)] {
            let (other, all) =
                loss::of_candidates(&model, &behaviours, &SUFFIX, &candidates, batching(tokens, cache)).unwrap();
            assert_eq!(other, losses, "{name}, {tokens:?} tokens, cache {cache}");
            assert_eq!(all.unshared_tokens, stats.unshared_tokens);
            if !cache {
                assert_eq!(all.tokens, all.unshared_tokens);
                assert!(stats.tokens < all.tokens / 2, "{name}: {stats:?}");
            }
        }
        // And as the model says it of whole sequences, without any cache.
        for (candidate, loss) in candidates.iter().zip(&losses) {
            let whole: Vec<Example> =
                behaviours.iter().map(|b| Example::new(&b.prompt(candidate), &b.target)).collect();
            let scores = scoring::score(&model, &whole, true, |_| {}).unwrap();
            let mean = |values: &[f32]| values.iter().map(|&v| f64::from(v)).sum::<f64>() / values.len() as f64;
            let expected = -scores.iter().map(|score| mean(&score.logprob)).sum::<f64>() / 3.0;
            assert!((expected - loss.mean).abs() < 1e-12, "{name}");
            let exact = scores.iter().filter(|score| score.rank.iter().all(|&rank| rank == 0)).count();
            assert_eq!(exact, loss.exact, "{name}");
        }
    }
}

fn settings() -> Settings {
    Settings { steps: 6, candidates: 24, top_k: 8, early_stop: false, progressive: false, ..Settings::default() }
}

fn run(behaviours: &[Behaviour], settings: &Settings, restart: usize, file: Option<&std::path::Path>) -> Result<State> {
    run_with(None, behaviours, settings, restart, file)
}

/// With the golden of this name as the draft model of probe sampling.
fn run_with(
    draft: Option<&str>,
    behaviours: &[Behaviour],
    settings: &Settings,
    restart: usize,
    file: Option<&std::path::Path>,
) -> Result<State> {
    let (attacked, draft) = (model("llama"), draft.map(model));
    let allowed: Vec<u32> = (0..60).collect();
    let draft = draft.as_ref().map(|model| Draft { model, behaviours, factor: 8, reduction: 4 });
    let search = Search { model: &attacked, behaviours, init: INIT, allowed: &allowed, settings, draft, seed: 5 };
    Ok(search.run(restart, file, &Console::silent().bar("test", settings.steps))?.0)
}

#[test]
fn a_draft_that_is_the_model_changes_nothing_but_the_cost() {
    let settings = Settings { candidates: 48, ..settings() };
    for count in [1, 2] {
        let whole = run(&behaviours(count), &settings, 0, None).unwrap();
        let probed = run_with(Some("llama"), &behaviours(count), &settings, 0, None).unwrap();
        // It agrees with itself in everything, so that its best candidate alone is asked for, which is the best of all.
        assert_eq!(probed.curve, whole.curve);
        assert_eq!(probed.best, whole.best);
    }
}

#[test]
fn another_draft_leaves_few_candidates_to_the_model() {
    let settings = Settings { candidates: 48, ..settings() };
    let whole = run(&behaviours(1), &settings, 0, None).unwrap();
    let probed = run_with(Some("qwen2"), &behaviours(1), &settings, 0, None).unwrap();
    assert_ne!(probed.curve, whole.curve, "two unlike models draw no one path");
    let model = model("llama");
    for (before, point) in probed.curve.iter().zip(&probed.curve[1..]) {
        assert_eq!(before.suffix.iter().zip(&point.suffix).filter(|(a, b)| a != b).count(), 1, "one token a step");
        let suffix = [point.suffix.clone()];
        let loss =
            loss::of_candidates(&model, &behaviours(1), &SUFFIX, &suffix, batching(None, true)).unwrap().0.remove(0);
        assert_eq!((loss.mean, loss.exact), (point.loss, point.exact), "the losses are the attacked model's");
    }
    // A sixth of 48 and a quarter of the rest at most, and all of them by the draft: fewer than 48 times two.
    assert!(probed.cost.unshared_tokens < 2 * whole.cost.unshared_tokens);
    assert!(probed.cost.unshared_tokens > whole.cost.unshared_tokens, "the draft's work counts");
}

#[test]
fn a_search_lowers_the_loss_and_keeps_to_its_alphabet() {
    let state = run(&behaviours(1), &settings(), 0, None).unwrap();
    assert_eq!(state.curve.len(), 7);
    let found = state.found.clone().unwrap();
    assert!(found.loss < state.curve[0].loss - 0.05, "{:?}", state.curve);
    let lowest = state.curve.iter().map(|point| point.loss).fold(f64::INFINITY, f64::min);
    assert_eq!((found.loss, found.steps), (lowest, 6));
    for (a, b) in state.curve.iter().zip(&state.curve[1..]) {
        assert_eq!(a.suffix.iter().zip(&b.suffix).filter(|(a, b)| a != b).count(), 1, "one token a step");
        assert!(b.suffix.iter().all(|&id| id < 60));
    }
    assert!(state.cost.flops > 0.0 && state.cost.unshared_tokens > 2 * state.cost.forward_tokens);
    // Other draws, another path; the same draws, the same path, whatever the cache does.
    assert_ne!(run(&behaviours(1), &settings(), 1, None).unwrap().curve, state.curve);
    let other = Settings { prefix_cache: false, batch_tokens: Some(37), ..settings() };
    assert_eq!(run(&behaviours(1), &other, 0, None).unwrap().curve, state.curve);
}

#[test]
fn a_search_goes_on_from_its_file_to_the_same_bytes() {
    let temp = tempfile::tempdir().unwrap();
    for (name, draft, settings) in [
        ("plain", None, settings()),
        ("momentum and buffer", None, Settings { momentum: 0.4, buffer: 3, ..settings() }),
        ("progressive", None, Settings { progressive: true, ..settings() }),
        ("probe sampling", Some("qwen2"), settings()),
    ] {
        let run = |behaviours: &[Behaviour], settings: &Settings, restart, file| {
            run_with(draft, behaviours, settings, restart, file)
        };
        let (whole, broken) = (temp.path().join("whole"), temp.path().join("broken"));
        run(&behaviours(2), &settings, 0, Some(&whole)).unwrap();
        for steps in [1, 4] {
            let short = Settings { steps, ..settings };
            run(&behaviours(2), &short, 0, Some(&broken)).unwrap();
            // A killed search has found nothing yet.
            let mut state = State::read(&broken).unwrap().unwrap();
            assert_eq!((state.steps(), state.found.take().unwrap().steps), (steps, steps));
            state.write(&broken).unwrap();
        }
        run(&behaviours(2), &settings, 0, Some(&broken)).unwrap();
        assert_eq!(std::fs::read(&broken).unwrap(), std::fs::read(&whole).unwrap(), "{name}");
        // Over is over.
        run(&behaviours(2), &settings, 0, Some(&broken)).unwrap();
        assert_eq!(std::fs::read(&broken).unwrap(), std::fs::read(&whole).unwrap(), "{name}");
        std::fs::remove_file(&whole).unwrap();
        std::fs::remove_file(&broken).unwrap();
    }
    std::fs::write(temp.path().join("bad"), "{").unwrap();
    let error = run(&behaviours(1), &settings(), 0, Some(&temp.path().join("bad"))).unwrap_err().to_string();
    assert!(
        error.contains("bad: is no state of a GCG search (") && error.ends_with("the search begins anew"),
        "{error}"
    );
}

/// Behaviours whose targets are what the model says anyway after [`SUFFIX`].
fn easy(numbers: &[u32]) -> Vec<Behaviour> {
    let model = model("llama");
    let easy = |&number: &u32| {
        let mut behaviour = behaviour(number, None);
        let mut prompt = behaviour.prompt(&SUFFIX);
        behaviour.target.clear();
        for _ in 0..2 {
            // The most likely next token is the one that no other is above.
            let next = (0..model.config.vocab_size as u32)
                .find(|&id| {
                    let example = Example::new(&prompt, &[id]);
                    scoring::score(&model, &[example], true, |_| {}).unwrap()[0].rank == [0]
                })
                .unwrap();
            prompt.push(next);
            behaviour.target.push(next);
        }
        behaviour
    };
    numbers.iter().map(easy).collect()
}

#[test]
fn a_search_stops_when_its_target_is_said() {
    let settings = Settings { early_stop: true, ..settings() };
    let state = run(&easy(&[1]), &settings, 0, None).unwrap();
    assert_eq!((state.steps(), state.found.as_ref().unwrap().exact), (0, 1));
    assert_eq!(state.found.unwrap().tokens, SUFFIX);
    // Told to, it goes on.
    let state = run(&easy(&[1]), &Settings { early_stop: false, ..settings }, 0, None).unwrap();
    assert_eq!(state.steps(), 6);
}

#[test]
fn a_universal_suffix_takes_on_behaviours_one_by_one() {
    let settings = Settings { early_stop: true, progressive: true, steps: 8, candidates: 60, top_k: 60, ..settings() };
    let mut list = easy(&[1, 2]);
    list.push(behaviour(3, None));
    let state = run(&list, &settings, 0, None).unwrap();
    let active: Vec<usize> = state.curve.iter().map(|point| point.active).collect();
    assert_eq!(active[0], 1, "it begins with the first");
    for pair in state.curve.windows(2) {
        let reached = pair[0].exact == pair[0].active && pair[0].active < 3;
        // The start is no step: what is reached there is seen after the first.
        let joined = usize::from(reached && pair[0].suffix != SUFFIX);
        assert_eq!(pair[1].active, pair[0].active + joined, "{active:?}");
    }
    assert!(active.contains(&2), "the first is reached within {} steps: {active:?}", settings.steps);
    // What was found is judged on all of them.
    let found = state.found.unwrap();
    let model = model("llama");
    let all = loss::of_candidates(&model, &list, &SUFFIX, std::slice::from_ref(&found.tokens), batching(None, true))
        .unwrap()
        .0;
    assert_eq!((found.loss, found.exact), (all[0].mean, all[0].exact));
    // All at once, all are active.
    let state = run(&list, &Settings { progressive: false, steps: 1, ..settings }, 0, None).unwrap();
    assert!(state.curve.iter().all(|point| point.active == 3));
}

#[test]
fn candidates_that_do_not_come_back_from_their_text_are_dropped() {
    for merging in [0, 7, 33] {
        // One frame of two is enough.
        let list = vec![behaviour(0, None), behaviour(1, Some(merging))];
        let wide = Settings { candidates: 200, top_k: 60, steps: 8, ..settings() };
        let state = run(&list, &wide, 0, None).unwrap();
        assert!(state.curve.iter().all(|point| !point.suffix.contains(&merging)), "{merging}: {:?}", state.curve);
    }
    // A suffix that does not survive is nothing to start from.
    let error = run(&[behaviour(0, None), behaviour(1, Some(53))], &settings(), 0, None).unwrap_err();
    let expected = format!("the suffix \"{INIT}\" has other tokens in the prompt of number 1: ");
    assert!(matches!(&error, Error::Usage(text) if text.starts_with(&expected)), "{error}");
}

#[test]
fn a_buffer_goes_on_from_its_best() {
    let state = run(&behaviours(1), &Settings { buffer: 2, ..settings() }, 0, None).unwrap();
    assert_eq!(state.buffer.len(), 2);
    let mut losses: Vec<f64> = state.curve.iter().map(|point| point.loss).collect();
    losses.sort_by(f64::total_cmp);
    assert_eq!(state.buffer.iter().map(|entry| entry.loss).collect::<Vec<_>>(), losses[..2]);
    assert_eq!(state.suffix, state.buffer[0].suffix);
    // Each step swaps one token of the best so far.
    let mut best = &state.curve[0];
    for point in &state.curve[1..] {
        assert_eq!(point.suffix.iter().zip(&best.suffix).filter(|(a, b)| a != b).count(), 1);
        best = if point.loss < best.loss { point } else { best };
    }
}

#[test]
fn the_best_restarts_are_those_that_reach_most() {
    let found = |restart, exact, loss| Found {
        restart,
        suffix: String::new(),
        tokens: Vec::new(),
        loss,
        exact,
        steps: 1,
        flops: 0.0,
    };
    let all = vec![found(0, 1, 0.5), found(1, 2, 0.9), found(2, 2, 0.7), found(3, 2, 0.7)];
    let order: Vec<usize> = rank(all, 3).iter().map(|found| found.restart).collect();
    assert_eq!(order, [2, 3, 1]);
}
