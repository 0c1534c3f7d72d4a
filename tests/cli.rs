//! The command line end to end, on small random models: what it writes, how it fails, and how it goes on after a kill.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

fn safedepth(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_safedepth"))
        .args(arguments)
        .args(["--threads", "2"])
        .output()
        .expect("the binary runs")
}

#[track_caller]
fn succeed(arguments: &[&str]) -> String {
    let output = safedepth(arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "safedepth {arguments:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a command that must fail with `code` and one sentence on standard error that contains `words`.
#[track_caller]
fn fail(arguments: &[&str], code: i32, words: &str) {
    let output = safedepth(arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "safedepth {arguments:?}: {stderr}");
    assert!(stderr.contains(words), "safedepth {arguments:?}: {stderr}");
    if code == 1 {
        assert_eq!(stderr.trim_end().lines().count(), 1, "one sentence: {stderr}");
        assert!(stderr.starts_with("error: "), "{stderr}");
    }
    assert!(!stderr.contains("panicked"), "{stderr}");
}

struct Fixture {
    dir: tempfile::TempDir,
}

impl Fixture {
    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    fn file(&self, name: &str, text: &str) -> String {
        std::fs::write(self.dir.path().join(name), text).unwrap();
        self.path(name)
    }
}

fn fixture() -> Fixture {
    Fixture { dir: tempfile::tempdir().unwrap() }
}

/// Two tiny models that share a tokenizer.
static MODELS: LazyLock<(tempfile::TempDir, [String; 2])> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let models = ["1", "2"].map(|seed| {
        let path = dir.path().join(seed).to_str().unwrap().to_owned();
        succeed(&["synth", "--like", "tiny-llama", "--seed", seed, "--output", &path]);
        path
    });
    (dir, models)
});

fn models() -> &'static [String; 2] {
    &MODELS.1
}

const PAIRS: &str = concat!(
    r#"{"id": "a", "prompt": "how are you today", "response": "very well thank you"}"#,
    "\n",
    r#"{"messages": [{"role": "user", "content": "open the door"}, {"role": "assistant", "content": "it is open now"}]}"#,
    "\n",
);

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path.as_ref()).unwrap_or_else(|error| panic!("{}: {error}", path.as_ref().display()))
}

fn table(path: impl AsRef<Path>) -> Vec<csv::StringRecord> {
    csv::Reader::from_path(path).unwrap().records().map(Result::unwrap).collect()
}

#[test]
fn generate_writes_the_same_rows_alone_and_together() {
    let f = fixture();
    let input = f.file("prompts.jsonl", PAIRS);
    let [model, _] = models();
    let sampling =
        ["--temperature", "0.9", "--top-p", "0.9", "--top-k", "50", "--samples", "3", "--max-new-tokens", "9"];
    let run = |input: &str, output: &str, rows: &str| {
        let output = f.path(output);
        let mut arguments = vec!["generate", model, "--input", input, "--output", &output, "--max-rows", rows];
        arguments.extend(sampling);
        succeed(&arguments);
        read(&output)
    };
    let together = run(&input, "together.jsonl", "64");
    assert_eq!(together.lines().count(), 6);
    assert_eq!(together, run(&input, "one.jsonl", "1"));
    let first = f.file("first.jsonl", PAIRS.lines().next().unwrap());
    assert!(together.starts_with(&run(&first, "first-out.jsonl", "2")));
    let config: toml::Table = read(f.path("together.jsonl.config.toml")).parse().unwrap();
    assert_eq!(config["generate"]["top_k"].as_integer(), Some(50));
    // A command that ends early leaves its finished rows behind (here it cannot write its output): the next goes on from
    // them. One of them is changed, to see that it is not generated again.
    let output = f.path("early.jsonl");
    std::fs::create_dir(&output).unwrap();
    let mut arguments = vec!["generate", model, "--input", &input, "--output", &output];
    arguments.extend(sampling);
    fail(&arguments, 1, "early.jsonl");
    std::fs::remove_dir(&output).unwrap();
    let partial = format!("{output}.partial");
    let parts = read(&partial);
    assert_eq!(parts.lines().count(), 1 + 6, "{parts}");
    let head = parts.lines().next().unwrap();
    std::fs::write(&partial, format!("{head}\n[4,{{\"tokens\":[],\"finish\":\"stop\"}}]\n[5,{{")).unwrap();
    succeed(&arguments);
    for (row, (resumed, whole)) in read(&output).lines().zip(together.lines()).enumerate() {
        assert_eq!(resumed == whole, row != 4, "row {row}: {resumed}");
    }
    assert!(!Path::new(&partial).exists());
    // The resolved options are a config file: they give the same rows again.
    let again = f.path("again.jsonl");
    let config = f.path("together.jsonl.config.toml");
    succeed(&["generate", model, "--input", &input, "--config", &config, "--output", &again]);
    assert_eq!(together, read(&again));
}

#[test]
fn generate_prints_text_for_one_prompt_and_json_if_asked() {
    let [model, _] = models();
    let arguments = ["generate", model, "--prompt", "hello", "--prefill", "well then", "--max-new-tokens", "4"];
    let text = succeed(&arguments);
    assert!(text.starts_with("well then"), "{text}");
    let json = succeed(&[&arguments[..], &["--json"]].concat());
    let answer: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(answer["prefill"], "well then");
    assert_eq!(text, format!("well then{}\n", answer["response"].as_str().unwrap()));
}

#[test]
fn score_and_kl_have_their_columns_and_agree_with_theory() {
    let f = fixture();
    let input = f.file("pairs.jsonl", PAIRS);
    let [one, two] = models();
    let scores = f.path("scores.csv");
    succeed(&["score", one, "--input", &input, "--output", &scores]);
    assert_eq!(read(&scores).lines().next().unwrap(), "example,position,token_id,token,logprob,entropy,rank");
    let rows = table(&scores);
    assert!(rows.len() >= 8);
    assert_eq!((&rows[0][0], &rows[0][1]), ("a", "1"));
    for row in &rows {
        let (logprob, entropy): (f64, f64) = (row[4].parse().unwrap(), row[5].parse().unwrap());
        assert!(logprob < 0.0 && entropy > 0.0, "{row:?}");
        // Rank r means r tokens are likelier, so p <= 1 / (r + 1).
        let rank: f64 = row[6].parse().unwrap();
        assert!(logprob.exp() <= 1.0 / (rank + 1.0) + 1e-6, "{row:?}");
    }
    let kl = f.path("kl.csv");
    succeed(&["kl", "--aligned", one, "--base", two, "--input", &input, "--output", &kl]);
    assert!(read(&kl).starts_with("example,position,token_id,token,kl"));
    let divergences: Vec<f64> = table(&kl).iter().map(|row| row[4].parse().unwrap()).collect();
    assert_eq!(divergences.len(), rows.len());
    assert!(divergences.iter().all(|&kl| kl > 0.0));
    succeed(&["kl", "--aligned", one, "--base", one, "--input", &input, "--output", &kl]);
    assert!(table(&kl).iter().all(|row| row[4].parse::<f64>().unwrap() == 0.0));
}

/// Every file of a model folder but the resolved options, which name the folder's own paths.
fn model_bytes(dir: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_none_or(|extension| extension != "toml"));
    files.sort();
    files.into_iter().map(|path| (path.file_name().unwrap().into(), std::fs::read(&path).unwrap())).collect()
}

#[test]
fn train_learns_resumes_after_a_kill_and_does_not_depend_on_threads() {
    let f = fixture();
    let data = f.file("pairs.jsonl", PAIRS);
    let [model, _] = models();
    let options =
        ["--lr", "0.003", "--batch-size", "2", "--steps", "300", "--save-every", "4", "--schedule", "constant"];
    let train = |output: &str, more: &[&str]| {
        let output = f.path(output);
        let mut arguments = vec!["train", model, "--data", &data, "--output", &output];
        arguments.extend(options);
        arguments.extend(more);
        succeed(&arguments);
        output
    };
    let whole = train("whole", &[]);
    let losses: Vec<f64> =
        table(format!("{whole}/training_log.csv")).iter().map(|row| row[1].parse().unwrap()).collect();
    assert_eq!(losses.len(), 300);
    assert!(losses[299] < 0.5 * losses[0], "{losses:?}");
    assert!(!Path::new(&whole).join("training").exists());

    // Killed as soon as it has saved a state.
    let killed = f.path("killed");
    let mut child = Command::new(env!("CARGO_BIN_EXE_safedepth"))
        .args(["train", model, "--data", &data, "--output", &killed, "--threads", "1", "--quiet"])
        .args(options)
        .spawn()
        .unwrap();
    let state = Path::new(&killed).join("training/state.bin");
    while !state.exists() {
        assert!(child.try_wait().unwrap().is_none(), "training ended before it could be killed");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!Path::new(&killed).join("config.json").exists(), "a half-trained model must not look whole");
    assert_eq!(train("killed", &[]), killed);
    assert!(model_bytes(&whole) == model_bytes(&killed), "a resumed run ends with the same bytes");

    // The trained folder is a model like any other.
    succeed(&["generate", &whole, "--prompt", "how are you today", "--max-new-tokens", "8"]);
    fail(&["train", model, "--data", &data, "--output", &whole], 1, "already holds a model");
}

#[test]
fn the_constrained_objective_holds_the_model_back() {
    let f = fixture();
    let data = f.file("pairs.jsonl", PAIRS);
    let [model, _] = models();
    let final_logprob = |name: &str, more: &[&str]| -> f64 {
        let output = f.path(name);
        let mut arguments = vec!["train", model, "--data", &data, "--output", &output, "--lr", "0.01"];
        arguments.extend(["--steps", "15", "--schedule", "constant", "--adam-beta1", "0.5"]);
        arguments.extend(more);
        succeed(&arguments);
        let scores = f.path(&format!("{name}.csv"));
        succeed(&["score", &output, "--input", &data, "--output", &scores]);
        table(&scores).iter().map(|row| row[4].parse::<f64>().unwrap()).sum()
    };
    let free = final_logprob("sft", &[]);
    let held = final_logprob("held", &["--objective", "constrained", "--beta", "uniform:4"]);
    assert!(held < free - 1.0, "constrained {held}, free {free}");
}

#[test]
fn dpo_prefers_the_chosen_answer() {
    let f = fixture();
    let data = f.file(
        "preferences.jsonl",
        "{\"prompt\": \"how are you\", \"chosen\": \"very well\", \"rejected\": \"not so well\"}\n",
    );
    let [model, _] = models();
    let tuned = f.path("tuned");
    let mut arguments = vec!["train", model, "--data", &data, "--objective", "dpo", "--output", &tuned];
    arguments.extend(["--lr", "0.003", "--steps", "10", "--schedule", "constant"]);
    succeed(&arguments);
    let losses: Vec<f64> =
        table(format!("{tuned}/training_log.csv")).iter().map(|row| row[1].parse().unwrap()).collect();
    assert!((losses[0] - std::f64::consts::LN_2).abs() < 1e-4, "at theta = reference the loss is ln 2: {losses:?}");
    assert!(losses[9] < 0.5 * losses[0], "{losses:?}");
}

#[test]
fn suite_runs_resumes_and_is_the_same_at_any_batch_size() {
    let f = fixture();
    let data = f.file("pairs.jsonl", PAIRS);
    let [one, two] = models();
    let run = |output: &str, more: &[&str]| {
        let output = f.path(output);
        let mut arguments = vec!["suite", "--aligned", one, "--base", two, "--data", &data, "--output", &output];
        arguments.extend(["--max-new-tokens", "6", "--depths", "0,2", "--experiments", "e1,e2,e3"]);
        arguments.extend(more);
        let printed = succeed(&arguments);
        (printed, read(format!("{output}/results.csv")))
    };
    let (printed, results) = run("a", &[]);
    assert!(printed.contains("Prefilling attack") && printed.contains("Per-token KL"), "{printed}");
    assert!(results.starts_with("experiment,model,attack,setting,k,seed,example,metric,value\n"));
    assert_eq!(results, run("b", &["--max-rows", "1"]).1);
    // Half of a journal: the rest is computed, and the results are the same.
    let journal = f.path("a/journal.jsonl");
    let half: String = read(&journal).split_inclusive('\n').take(2).collect();
    std::fs::write(&journal, half).unwrap();
    std::fs::remove_file(f.path("a/results.csv")).unwrap();
    assert_eq!(run("a", &[]).1, results);
    let output = f.path("a");
    let mut arguments = vec!["suite", "--aligned", one, "--base", two, "--data", &data, "--output", &output];
    arguments.extend(["--seed", "5"]);
    fail(&arguments, 1, "another configuration");
}

#[test]
fn info_describes_a_folder() {
    let [model, _] = models();
    let text = succeed(&["info", model]);
    assert!(text.contains("num_hidden_layers"), "{text}");
    let json: serde_json::Value = serde_json::from_str(&succeed(&["info", model, "--json"])).unwrap();
    assert!(json["parameters"].as_u64().unwrap() > 1000);
}

#[test]
fn bad_input_is_one_sentence() {
    let f = fixture();
    let [model, _] = models();
    let pairs = f.file("pairs.jsonl", PAIRS);
    let bad = f.file("bad.jsonl", "{\"prompt\": \"a\", \"response\": \"b\"}\n{\"prompt\": \"a\", \n");
    let out = f.path("out.csv");
    fail(&["info", "no/such/folder"], 1, "no/such/folder");
    fail(&["score", model, "--input", &bad, "--output", &out], 1, "bad.jsonl:2");
    fail(&["score", model, "--input", "nowhere.jsonl", "--output", &out], 1, "nowhere.jsonl");
    assert!(!Path::new(&out).exists(), "nothing is written for bad input");
    fail(&["generate", model, "--prompt", "a", "--temperature", "-1"], 2, "--temperature");
    fail(&["generate", model], 2, "--prompt");
    fail(&["generate", model, "--prompt", "a", "--isa", "mmx"], 2, "unknown instruction set");
    fail(&["generate", model, "--prompt", "a", "--device", "tpu"], 2, "unknown device");
    fail(&["train", model, "--data", &pairs, "--beta", "uniform:0", "--output", &out], 2, "beta");
    fail(
        &["suite", "--aligned", model, "--base", model, "--data", &pairs, "--experiments", "e99", "--output", &out],
        2,
        "e99",
    );
    fail(&["synth", "--like", "gpt-9", "--output", &out], 2, "gpt-9");
    fail(&["demo", "--config", "no.toml"], 1, "no.toml");
    let config = f.file("bad.toml", "seed = = 1\n");
    fail(&["demo", "--config", &config], 1, "bad.toml:1");
    // A prompt longer than the context.
    let long = "word ".repeat(100_000);
    let long = f.file("long.jsonl", &format!("{{\"prompt\": \"{long}\"}}\n"));
    fail(&["generate", model, "--input", &long], 1, "context");
}

#[test]
fn bad_weights_are_one_sentence() {
    let f = fixture();
    let [model, _] = models();
    let copy = |name: &str| {
        let dir = f.path(name);
        std::fs::create_dir(&dir).unwrap();
        for entry in std::fs::read_dir(model).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, Path::new(&dir).join(path.file_name().unwrap())).unwrap();
        }
        dir
    };
    let generate = |dir: &str, words: &str| fail(&["generate", dir, "--prompt", "a"], 1, words);

    let dir = copy("truncated");
    let file = format!("{dir}/model.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() - 100]).unwrap();
    generate(&dir, "truncated");

    let dir = copy("nan");
    let mut broken = bytes.clone();
    let end = broken.len();
    broken[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(format!("{dir}/model.safetensors"), broken).unwrap();
    generate(&dir, "NaN");

    let dir = copy("architecture");
    let config = read(format!("{dir}/config.json")).replace("LlamaForCausalLM", "MambaForCausalLM");
    std::fs::write(format!("{dir}/config.json"), config.replace("\"llama\"", "\"mamba\"")).unwrap();
    generate(&dir, "MambaForCausalLM");

    let dir = copy("shape");
    let config: serde_json::Value = serde_json::from_str(&read(format!("{dir}/config.json"))).unwrap();
    let mut wider = config.clone();
    wider["intermediate_size"] = (config["intermediate_size"].as_u64().unwrap() + 8).into();
    std::fs::write(format!("{dir}/config.json"), wider.to_string()).unwrap();
    generate(&dir, "gate_proj");

    let dir = copy("missing");
    let mut deeper = config.clone();
    deeper["num_hidden_layers"] = (config["num_hidden_layers"].as_u64().unwrap() + 1).into();
    std::fs::write(format!("{dir}/config.json"), deeper.to_string()).unwrap();
    generate(&dir, "is missing");

    let dir = copy("endless");
    let endless = "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}";
    std::fs::write(format!("{dir}/chat_template.jinja"), endless).unwrap();
    generate(&dir, "template");
}
