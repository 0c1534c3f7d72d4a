//! Laws of what is done to a model's insides and to its answers: refusal-direction ablation and rethinking.

use proptest::prelude::*;
use safedepth::attack::refusal_direction::{ablate, directions, mean_residuals};
use safedepth::attack::{Branch, Case, Draw, Lab, Side, Subject, respond, rethinking};
use safedepth::device::Cpu;
use safedepth::generate::Engine;
use safedepth::judge::KeywordJudge;
use safedepth::model::Transformer;
use safedepth::model::transformer::{Batch, Keep};
use safedepth::ops::sampling::SamplingParams;
use safedepth::run::Console;
use std::path::PathBuf;
use std::sync::Arc;

fn load(name: &str) -> Transformer<Cpu> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name);
    Transformer::load(Cpu::new(), &folder, None).unwrap()
}

/// The residual stream of one sequence before each layer and after the last: `[layers + 1][tokens][hidden_size]`.
fn residuals(model: &Transformer<Cpu>, ids: &[u32]) -> Vec<Vec<Vec<f32>>> {
    let batch = Batch::new(&model.device, &[ids]).unwrap();
    let (output, activations) = model.forward(&batch, Keep::LayerInputs).unwrap();
    let rows = |values: Vec<f32>| values.chunks_exact(model.config.hidden_size).map(<[f32]>::to_vec).collect();
    activations.layer_inputs().chain([&output]).map(|stream| rows(stream.to_vec(&model.device).unwrap())).collect()
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|value| value * value).sum::<f64>().sqrt()
}

fn along(row: &[f32], direction: &[f64]) -> f64 {
    row.iter().zip(direction).map(|(&value, r)| f64::from(value) * r).sum()
}

/// The largest share of the residual stream that lies along a direction, of the sum of all that was written to it.
fn share(model: &Transformer<Cpu>, ids: &[u32], direction: &[f64]) -> f64 {
    let streams = residuals(model, ids);
    let mut largest = 0.0_f64;
    for token in 0..ids.len() {
        let mut written = norm(streams[0][token].iter().map(|&value| f64::from(value)));
        for (layer, stream) in streams.iter().enumerate() {
            if layer > 0 {
                let before = &streams[layer - 1][token];
                written += norm(stream[token].iter().zip(before).map(|(&to, &from)| f64::from(to) - f64::from(from)));
            }
            largest = largest.max(along(&stream[token], direction).abs() / written);
        }
    }
    largest
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    /// Nothing of an ablated model's residual stream lies along the direction, whatever the architecture: plain, with
    /// biases, tied, with norms after the branches.
    #[test]
    fn an_ablated_model_writes_nothing_along_the_direction(
        direction in prop::collection::vec(-1.0_f64..1.0, 32),
        ids in prop::collection::vec(0_u32..61, 1..12),
    ) {
        let length = norm(direction.iter().copied());
        prop_assume!(length > 0.1);
        let direction: Vec<f64> = direction.iter().map(|value| value / length).collect();
        for name in ["llama", "qwen2", "gemma", "gemma2"] {
            let model = load(name);
            prop_assert_eq!(model.config.hidden_size, 32);
            let ablated = ablate(&model, &direction).unwrap();
            let (before, after) = (share(&model, &ids, &direction), share(&ablated, &ids, &direction));
            // A sum of 40 f32 products rounds by at most 40 half units in the last place of what is summed.
            prop_assert!(after < 1e-5, "{} {}", name, after);
            prop_assert!(before > 100.0 * after, "{} {} {}", name, before, after);
            // The unembedding is what it was, also where it was the embedding.
            let unembedding = |model: &Transformer<Cpu>| model.parameters.unembedding().to_vec(&model.device).unwrap();
            prop_assert_eq!(unembedding(&model), unembedding(&ablated));
        }
    }
}

#[test]
fn a_direction_is_the_difference_of_means_at_the_last_token() {
    let model = load("llama");
    let prompts: [&[u32]; 4] = [&[1, 5, 9, 3], &[1, 7, 3], &[1, 20, 21, 22, 3], &[1, 30, 3]];
    let (harmful, harmless) = prompts.split_at(2);
    let last = |prompt: &[u32]| -> Vec<Vec<f32>> {
        residuals(&model, prompt).into_iter().map(|mut stream| stream.pop().unwrap()).collect()
    };
    let means = mean_residuals(&model, harmful).unwrap();
    let found = directions(&model, harmful, harmless).unwrap();
    // All prompts end with one token: before the first layer there is no difference.
    assert_eq!(found.iter().map(|direction| direction.layer).collect::<Vec<_>>(), [1, 2]);
    for direction in found {
        let layer = direction.layer;
        let of = |prompt: &[u32], i: usize| f64::from(last(prompt)[layer][i]);
        let half = |set: &[&[u32]], i: usize| (of(set[0], i) + of(set[1], i)) / 2.0;
        let difference: Vec<f64> = (0..32).map(|i| half(harmful, i) - half(harmless, i)).collect();
        let length = norm(difference.iter().copied());
        for i in 0..32 {
            assert!((means[layer][i] - half(harmful, i)).abs() < 1e-6);
            assert!((direction.unit[i] - difference[i] / length).abs() < 1e-5);
        }
    }
}

/// A case of the golden models' 61 tokens.
fn case(number: usize) -> Case {
    let prompt: Vec<u32> = (0..3 + number).map(|i| ((number * 7 + i * 11) % 61) as u32).collect();
    Case {
        id: format!("case {number}"),
        key: number as u64,
        category: String::new(),
        prompt: String::new(),
        suffixed: Arc::new(|_| unreachable!("no suffix is asked for")),
        prompt_ids: [prompt.clone(), prompt],
        harmful: (0..40).map(|i| (i * 5 + 3) % 61).collect(),
        utility: None,
        max_new_tokens: None,
    }
}

fn with_lab(check: impl Fn(&Lab<'_>, &Subject<'_, Cpu>, &[Branch<'_>])) {
    let model = load("llama");
    let lab = Lab {
        decode: &|ids| ids.iter().map(|id| format!("w{id} ")).collect(),
        token_text: &|id| format!("w{id} "),
        // Seldom said: some answers end by themselves, most by their length.
        stop: [vec![2], vec![2]],
        judge: &KeywordJudge::default(),
        engine: Engine { seed: 3, ..Engine::default() },
        params: SamplingParams::GREEDY,
        max_new_tokens: 60,
        micro_batch: 8,
        console: Console::silent(),
    };
    let subject = Subject { name: "aligned", model: &model, side: Side::Aligned };
    let cases: Vec<Case> = (0..4).map(case).collect();
    let params = SamplingParams { temperature: 1.5, ..SamplingParams::default() };
    let mut branches = Vec::new();
    for case in &cases {
        for k in [0, 3, 25, 40] {
            let plain = Branch { prefill: case.harmful[..k].to_vec(), ..Branch::plain("rethinking", "prefill", case) };
            let draw = Some(Draw { params, setting: 7, sample: 1 });
            branches.extend([plain.clone(), Branch { draw, ..plain }]);
        }
    }
    check(&lab, &subject, &branches);
}

#[test]
fn without_a_refusal_ahead_rethinking_changes_no_answer() {
    with_lab(|lab, subject, branches| {
        let plain = respond(lab, subject, branches, "plain").unwrap().0;
        let rethought = rethinking::respond(lab, subject, branches, &[4, 5], |_| false, "rethinking").unwrap().0;
        for (plain, rethought) in plain.iter().zip(&rethought) {
            assert_eq!(plain.own, rethought.own);
            assert_eq!((plain.verdict, plain.new_tokens), (rethought.verdict, rethought.new_tokens));
        }
        assert!(plain.iter().any(|outcome| outcome.own.len() == 60), "an answer must pass places to look ahead");
    });
}

#[test]
fn a_refusal_ahead_ends_the_answer_at_the_first_place_to_look() {
    with_lab(|lab, subject, branches| {
        let plain = respond(lab, subject, branches, "plain").unwrap().0;
        let rethought = rethinking::respond(lab, subject, branches, &[4, 5], |_| true, "rethinking").unwrap().0;
        for ((branch, plain), rethought) in branches.iter().zip(&plain).zip(&rethought) {
            let first = rethinking::EVERY - branch.prefill.len() % rethinking::EVERY;
            if plain.new_tokens <= first {
                assert_eq!(plain.own, rethought.own);
                continue;
            }
            assert_eq!(rethought.own[..first], plain.own[..first]);
            // What follows is what the model says after the header.
            let case = Case { prompt_ids: [0, 1].map(|side| branch.case.prompt_ids[side].clone()), ..case(0) };
            let prefill = [&branch.prefill[..], &plain.own[..first], &[4, 5]].concat();
            let ahead = Branch { prefill, ..Branch::plain("rethinking", "ahead", &case) };
            if branch.draw.is_none() {
                let mut said = respond(lab, subject, &[ahead], "ahead").unwrap().0[0].own.clone();
                said.truncate(rethinking::LOOK_AHEAD);
                assert_eq!(rethought.own[first..], said);
            }
            assert!(rethought.own.len() <= first + rethinking::LOOK_AHEAD);
        }
    });
}

#[test]
fn a_refusal_is_known_by_its_words() {
    assert!(rethinking::is_refusal("friend , i cannot help with that ."));
    assert!(!rethinking::is_refusal("friend , here is how to open it : first take the silver key and turn it twice"));
}
