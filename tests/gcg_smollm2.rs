//! GCG beside nanoGCG on a real model: the same start and the same candidates give the same gradients, losses and tokens.

mod support_model;

use safedepth::attack::gcg::loss::{self, Batching};
use safedepth::attack::gcg::{Behaviour, ChatFrame, Frame, alphabet, gradient};
use safedepth::device::{Cpu, DType};
use safedepth::model::{Message, Prompter, Transformer};
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;
use support_model::smollm2 as model_dir;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn load() -> (Transformer<Cpu>, Arc<Prompter>) {
    // The golden's arithmetic is f32: widen the weights, so that no instruction set multiplies in bf16.
    let model = Transformer::load(Cpu::new(), &model_dir(), Some(DType::F32)).unwrap();
    let prompter = Prompter::load(&model_dir(), &model.config, "auto").unwrap();
    (model, Arc::new(prompter))
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

#[test]
fn steps_equal_nanogcg() {
    let text = std::fs::read_to_string(root().join("tests/goldens/gcg.json")).unwrap();
    let golden: Value = serde_json::from_str(&text).unwrap();
    let (model, prompter) = load();
    let messages: Vec<Message> =
        golden["messages"].as_array().unwrap().iter().map(|m| Message::from_json(m.clone()).unwrap()).collect();
    let init = golden["init"].as_str().unwrap();
    let target = prompter.response_ids(golden["target"].as_str().unwrap()).unwrap();
    assert_eq!(target, ids(&golden["target_ids"]));
    let frame = ChatFrame::new(prompter.clone(), &messages, init).unwrap();
    let parts = frame.parts(init).unwrap();
    assert_eq!((parts.before, parts.after), (ids(&golden["before"]), ids(&golden["after"])));
    let behaviours = [Behaviour::new("sea", Box::new(frame), target, init).unwrap()];

    let mut suffix = parts.suffix;
    assert_eq!(suffix, ids(&golden["init_ids"]));
    for (number, step) in golden["steps"].as_array().unwrap().iter().enumerate() {
        assert_eq!(suffix, ids(&step["ids"]), "step {number}");
        let rows = gradient::of_rows(&model, &behaviours, &suffix).unwrap();
        let tokens = gradient::of_tokens(&model, &rows).unwrap();
        let positions = tokens.chunks(model.config.vocab_size).zip(numbers(&step["norm"]));
        for ((position, norm), best) in positions.zip(step["best"].as_array().unwrap()) {
            let ours = position.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
            // Both sides are f32: the same to 1e-4 at the start, to 3e-4 once a rare token is in.
            assert!((ours - norm).abs() < 2e-3 * norm, "step {number}: norm {ours}, not {norm}");
            for pair in best.as_array().unwrap() {
                let (id, value) = (pair[0].as_u64().unwrap() as usize, pair[1].as_f64().unwrap());
                let given = f64::from(position[id]);
                assert!((given - value).abs() < 3e-3 * value.abs(), "step {number}, {id}: {given}, not {value}");
            }
        }

        let candidates: Vec<Vec<u32>> = step["candidates"].as_array().unwrap().iter().map(ids).collect();
        let batching = Batching { tokens: None, prefix_cache: true };
        let (losses, stats) = loss::of_candidates(&model, &behaviours, &suffix, &candidates, batching).unwrap();
        assert!(stats.tokens < stats.unshared_tokens / 2, "{stats:?}");
        for (ours, theirs) in losses.iter().zip(numbers(&step["losses"])) {
            assert!((ours.mean - theirs).abs() < 5e-5, "step {number}: {}, not {theirs}", ours.mean);
        }
        let least = (0..losses.len()).min_by(|&a, &b| losses[a].mean.total_cmp(&losses[b].mean)).unwrap();
        suffix = candidates[least].clone();
        assert_eq!(suffix, ids(&step["chosen"]), "step {number}");
    }
}

/// What survives alone but not inside of the whole chat is no candidate, nor is what its text would encode otherwise.
#[test]
fn a_suffix_survives_inside_of_the_whole_chat() {
    let (model, prompter) = load();
    let frame = |content: &str, init: &str| ChatFrame::new(prompter.clone(), &[Message::user(content)], init);
    let behaviour = |content: &str, init: &str| {
        Behaviour::new("x", Box::new(frame(content, init).unwrap()), vec![10], init).unwrap()
    };
    let encode = |text: &str| prompter.response_ids(text).unwrap();

    // After a space, as without a place: the space is the first token's, and not the suffix's text.
    for content in ["Tell me a story.", "Tell me a story. {optim_str}"] {
        let behaviour = behaviour(content, "! ! !");
        let suffix = encode(" ! ! !");
        assert_eq!(behaviour.text(&suffix).as_deref(), Some("! ! !"));
        assert_eq!(behaviour.text(&encode(" sea ! !")).as_deref(), Some("sea ! !"));
        // Without the space the prompt's own words would change.
        assert_eq!(behaviour.text(&encode("! ! !")), None);
        let whole = prompter.prompt(&[Message::user("Tell me a story. sea ! !")]).unwrap().ids;
        assert_eq!(behaviour.prompt(&encode(" sea ! !")), whole);
    }

    // Two tokens whose text is one.
    let split = [encode(" beaut"), encode("iful")].concat();
    assert_ne!(split, encode(" beautiful"));
    assert_eq!(behaviour("Tell me.", "! ! !").text(&split), None);

    // Alone it survives; before the chat's own "ing" it is another word.
    let inside = behaviour("Keep {optim_str}ing now.", "!");
    let word = encode(" play");
    assert_eq!(word.len(), 1);
    assert_eq!(inside.text(&word), None);
    assert_eq!(behaviour("Keep {optim_str} now.", "!").text(&word).as_deref(), Some("play"));

    // Ordinary tokens that spell a special one.
    let spelled = [" <", "|", "im", "_", "end", "|", ">"].map(encode).concat();
    assert_eq!(behaviour("Tell me.", "! ! !").text(&spelled), None);

    // In a system message, and at the very start of the user's words.
    for (messages, expected) in [
        (vec![Message::system("Be {optim_str} please."), Message::user("Hi.")], "<|im_start|>system\nBe ! ! please."),
        (vec![Message::user("{optim_str}: hi.")], "<|im_start|>user\n! !: hi."),
    ] {
        let frame = ChatFrame::new(prompter.clone(), &messages, "! !").unwrap();
        let behaviour = Behaviour::new("x", Box::new(frame), vec![10], "! !").unwrap();
        let suffix = behaviour.frame.parts("! !").unwrap().suffix;
        assert_eq!(behaviour.text(&suffix).as_deref(), Some("! !"));
        let whole = prompter.tokenizer.decode(&behaviour.prompt(&suffix), false).unwrap();
        assert!(whole.contains(expected), "{whole}");
    }
    let twice = frame("{optim_str} and {optim_str}", "!").err().unwrap().to_string();
    assert_eq!(twice, "a conversation has 2 places {optim_str}: give it one");

    let allowed = alphabet::of_tokenizer(&prompter.tokenizer, model.config.vocab_size, false);
    for text in [" sea", "!", "X"] {
        assert!(allowed.contains(&encode(text)[0]), "{text}");
    }
    for text in ["<|im_end|>", "<|endoftext|>", "<filename>", "é", "\n", "日"] {
        assert!(!allowed.contains(&encode(text)[0]), "{text}");
    }
    let more = alphabet::of_tokenizer(&prompter.tokenizer, model.config.vocab_size, true);
    assert!(more.contains(&encode("é")[0]) && !more.contains(&encode("<filename>")[0]));
}
