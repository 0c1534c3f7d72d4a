//! Judges that are not rules: an endpoint (a real HTTP server in this process, with every way it can fail), a model, and
//! verdicts made elsewhere; and how far judges agree.

mod support_report;

use safedepth::device::Cpu;
use safedepth::judge::openai::Settings;
use safedepth::judge::{Judge, JudgeRequest, ModelJudge, OpenAiJudge, Outcome, Pair};
use safedepth::model::{Prompter, Transformer, synth};
use std::cmp::Ordering;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support_report::write_run;

/// How the server answers one request.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Reply {
    Score(u8),
    Status(u16),
    RetryAfter(u64),
    /// Text in place of JSON.
    NoJson,
    /// JSON without a score.
    NoScore,
    Better(&'static str),
    /// Half an answer.
    BreakOff,
    /// Nothing for a long time.
    Hang,
}

/// What the server saw: each request's question and Authorization header.
type Seen = Arc<Mutex<Vec<(String, String)>>>;

/// A server on a port of its own. `reply(question, how often it was asked before)` says what it answers.
fn serve(reply: impl Fn(&str, usize) -> Reply + Send + Sync + 'static) -> (String, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}/v1", listener.local_addr().unwrap());
    let (seen, reply) = (Seen::default(), Arc::new(reply));
    let of_server = Arc::clone(&seen);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let (seen, reply) = (Arc::clone(&of_server), Arc::clone(&reply));
            std::thread::spawn(move || answer(stream, &seen, reply.as_ref()));
        }
    });
    (endpoint, seen)
}

fn answer(mut stream: TcpStream, seen: &Seen, reply: &(dyn Fn(&str, usize) -> Reply + Send + Sync)) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let (mut line, mut length, mut authorization) = (String::new(), 0, String::new());
    reader.read_line(&mut line).ok()?;
    assert!(line.starts_with("POST /v1/chat/completions "), "{line}");
    loop {
        line.clear();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().unwrap(),
            "authorization" => authorization = value.to_owned(),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((body["model"].as_str(), body["temperature"].as_f64()), (Some("grader"), Some(0.0)));
    let question = body["messages"][0]["content"].as_str().unwrap().to_owned();
    let before = {
        let mut seen = seen.lock().unwrap();
        let before = seen.iter().filter(|(asked, _)| *asked == question).count();
        seen.push((question.clone(), authorization));
        before
    };
    let say = |stream: &mut TcpStream, status: u16, more: &str, body: &str| {
        let length = body.len();
        let head = format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\nconnection: close\r\n{more}");
        let _ = stream.write_all(format!("{head}content-length: {length}\r\n\r\n{body}").as_bytes());
    };
    let content = |words: &str| {
        let usage = serde_json::json!({"prompt_tokens": 100, "completion_tokens": 7});
        serde_json::json!({"choices": [{"message": {"content": words}}], "usage": usage}).to_string()
    };
    match reply(&question, before) {
        Reply::Score(score) => say(&mut stream, 200, "", &content(&format!("It is so.\n#score: {score}"))),
        Reply::Status(status) => say(&mut stream, status, "", "{\"error\": {\"message\": \"no\"}}"),
        Reply::Better(which) => say(&mut stream, 200, "", &content(&format!("So it is.\n#better: {which}"))),
        Reply::RetryAfter(seconds) => say(&mut stream, 429, &format!("retry-after: {seconds}\r\n"), "{}"),
        Reply::NoJson => say(&mut stream, 200, "", "<html>busy</html>"),
        Reply::NoScore => say(&mut stream, 200, "", &content("I would rather not say.")),
        Reply::BreakOff => {
            let _ = stream.write_all(b"HTTP/1.1 200 X\r\ncontent-length: 500\r\n\r\n{\"choices\"");
        }
        Reply::Hang => std::thread::sleep(Duration::from_secs(20)),
    }
    Some(())
}

fn settings(endpoint: &str, cache: &Path) -> Settings {
    Settings {
        endpoint: endpoint.to_owned(),
        model: "grader".into(),
        rubric: "request {prompt} answer [{response}]".into(),
        concurrency: 4,
        tries: 4,
        backoff: Duration::from_millis(5),
        timeout: Duration::from_millis(700),
        cache: cache.to_owned(),
    }
}

fn request<'a>(prompt: &'a str, prefill: &'a str, continuation: &'a str, response: &'a str) -> JudgeRequest<'a> {
    JudgeRequest { id: "x", prompt, prefill, continuation, response }
}

#[test]
fn an_endpoint_is_asked_once_whatever_goes_wrong_on_the_way() {
    let temp = tempfile::tempdir().unwrap();
    // Each kind of failure once, then a score.
    let (endpoint, seen) = serve(|question, before| match question {
        _ if before > 0 => Reply::Score(if question.contains("[bad") { 5 } else { 3 }),
        q if q.contains("[a]") => Reply::Status(500),
        q if q.contains("[b]") => Reply::RetryAfter(0),
        q if q.contains("[c]") => Reply::NoJson,
        q if q.contains("[d]") => Reply::NoScore,
        q if q.contains("[e]") => Reply::BreakOff,
        q if q.contains("[f]") => Reply::Hang,
        q if q.contains("[bad") => Reply::Score(5),
        _ => Reply::Score(1),
    });
    let judge = OpenAiJudge::new(settings(&endpoint, temp.path()), Some("secret".into())).unwrap();
    let mut requests: Vec<JudgeRequest> = ["a", "b", "c", "d", "e", "f"].map(|r| request("p", "", r, r)).to_vec();
    // A prefill: the whole and what follows it are asked apart. The same words twice are asked once. What a request holds
    // is not filled in again.
    requests.push(request("p {response}", "bad", " end", "bad end"));
    requests.push(request("p", "", "a", "a"));
    let verdicts = judge.judge_all(&requests).unwrap();
    assert!(verdicts[..6].iter().all(|verdict| verdict.whole == Outcome::Neither && verdict.own == Outcome::Neither));
    assert_eq!((verdicts[6].whole, verdicts[6].own), (Outcome::Harmful, Outcome::Refused));
    assert_eq!((verdicts[6].score, verdicts[0].score), (1.0, 0.5));
    assert_eq!(verdicts[7], verdicts[0]);
    let asked: Vec<(String, String)> = seen.lock().unwrap().clone();
    assert_eq!(asked.len(), 6 * 2 + 2, "{asked:?}");
    assert!(asked.iter().all(|(_, authorization)| authorization == "Bearer secret"));
    assert!(asked.iter().any(|(question, _)| question == "request p {response} answer [bad end]"));
    let usage = judge.usage();
    assert_eq!((usage.asked, usage.cached, usage.prompt_tokens, usage.completion_tokens), (8, 0, 800, 56));

    // Another judge, another day: all is on disk.
    let again = OpenAiJudge::new(settings(&endpoint, temp.path()), None).unwrap();
    assert_eq!(again.judge_all(&requests).unwrap(), verdicts);
    assert_eq!((again.usage().asked, again.usage().cached), (0, 8));
    assert_eq!(seen.lock().unwrap().len(), asked.len());
    // A file that was cut short is asked for again.
    let file = std::fs::read_dir(temp.path()).unwrap().next().unwrap().unwrap().path();
    std::fs::write(&file, "{\"sco").unwrap();
    assert_eq!(again.judge_all(&requests).unwrap().len(), 8);
    assert_eq!(seen.lock().unwrap().len(), asked.len() + 1);
    // The key is in no file.
    for file in std::fs::read_dir(temp.path()).unwrap() {
        assert!(!std::fs::read_to_string(file.unwrap().path()).unwrap().contains("secret"));
    }
}

#[test]
fn a_preference_for_a_place_is_none() {
    let temp = tempfile::tempdir().unwrap();
    // It prefers the good answer wherever it stands, and between others whatever stands first.
    let (endpoint, _) = serve(|question, _| {
        let (a, b) = (
            question.find("good").is_some_and(|at| at < question.find("Answer B").unwrap()),
            question.contains("good"),
        );
        if question.contains("equal") { Reply::Better("tie") } else { Reply::Better(if a || !b { "A" } else { "B" }) }
    });
    let judge = OpenAiJudge::new(settings(&endpoint, temp.path()), None).unwrap();
    let pair = |a, b| Pair { prompt: "p", a, b };
    let orders =
        judge.compare_all(&[pair("good", "bad"), pair("bad", "good"), pair("bad", "poor"), pair("equal", "same")]);
    assert_eq!(orders.unwrap().unwrap(), [Ordering::Greater, Ordering::Less, Ordering::Equal, Ordering::Equal]);
}

#[test]
fn an_endpoint_that_stays_broken_ends_in_one_sentence() {
    let temp = tempfile::tempdir().unwrap();
    let message = |reply: Reply, dir: &str| {
        let (endpoint, seen) = serve(move |_, _| reply);
        let judge = OpenAiJudge::new(settings(&endpoint, &temp.path().join(dir)), Some("secret".into())).unwrap();
        let error = judge.judge_all(&[request("p", "", "r", "r")]).unwrap_err().to_string();
        assert!(!error.contains("secret") && !error.contains('\n'), "{error}");
        let tries = seen.lock().unwrap().len();
        (error, tries)
    };
    let (error, tries) = message(Reply::Status(503), "a");
    assert!(error.contains("status 503") && tries == 4, "{error}, {tries} tries");
    let (error, tries) = message(Reply::Status(401), "b");
    assert!(error.contains("OPENAI_API_KEY") && tries == 1, "{error}, {tries} tries");
    let (error, tries) = message(Reply::Status(400), "c");
    assert!(error.contains("status 400") && tries == 1, "{error}, {tries} tries");
    let (error, _) = message(Reply::NoScore, "d");
    assert!(error.contains("score"), "{error}");
    // Nobody listens there.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let judge = OpenAiJudge::new(settings(&format!("http://{free}/v1"), temp.path()), None).unwrap();
    assert!(judge.judge_all(&[request("p", "", "r", "r")]).unwrap_err().to_string().contains("did not answer"));
}

fn safedepth(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_safedepth"));
    command.args(arguments).args(["--threads", "2"]).env("OPENAI_API_KEY", "secret");
    command
}

fn succeed(arguments: &[&str]) -> String {
    let output = safedepth(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    assert!(!String::from_utf8_lossy(&output.stderr).contains("secret"));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_judge_killed_in_the_middle_asks_only_for_the_rest() {
    let temp = tempfile::tempdir().unwrap();
    let run = temp.path().join("run");
    std::fs::create_dir(&run).unwrap();
    write_run(&run, 12, 1);
    let (endpoint, seen) = serve(|question, _| {
        std::thread::sleep(Duration::from_millis(20));
        Reply::Score(if question.contains("number 3") { 5 } else { 1 })
    });
    let (dir, cache) = (run.to_str().unwrap(), temp.path().join("cache"));
    let mut arguments = vec!["judge", "run", dir, "--judge", "openai:grader", "--judge-endpoint", &endpoint];
    arguments.extend(["--judge-concurrency", "2", "--judge-backoff", "0.01", "--judge-cache", cache.to_str().unwrap()]);
    let mut child = safedepth(&arguments).spawn().unwrap();
    let start = Instant::now();
    while seen.lock().unwrap().len() < 8 {
        assert!(start.elapsed() < Duration::from_secs(30), "the judge asks nothing");
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!run.join("judgements.csv").exists());
    let kept = std::fs::read_dir(&cache).unwrap().flatten().filter(|file| file.path().extension().unwrap() == "json");
    let kept = kept.count();
    assert!(kept >= 5, "{kept} answers kept");
    let before = seen.lock().unwrap().len();
    let table = succeed(&arguments);
    let mut times: HashMap<String, usize> = HashMap::new();
    for (question, _) in seen.lock().unwrap().iter() {
        *times.entry(question.clone()).or_default() += 1;
    }
    assert_eq!(seen.lock().unwrap().len() - before, times.len() - kept, "only what is not kept is asked for");
    assert!(table.contains("openai:grader") && table.contains("run"), "{table}");
    let judgements = std::fs::read_to_string(run.join("judgements.csv")).unwrap();
    assert!(judgements.lines().count() == 1 + 24 && judgements.contains("harmful"), "{judgements}");
}

#[test]
fn verdicts_made_elsewhere_come_back_and_agreement_is_reported() {
    let temp = tempfile::tempdir().unwrap();
    let run = temp.path().join("run");
    std::fs::create_dir(&run).unwrap();
    write_run(&run, 12, 1);
    let (dir, file) = (run.to_str().unwrap(), temp.path().join("labels.csv"));
    let labels = file.to_str().unwrap();
    succeed(&["judge", "export", dir, labels]);
    // Someone fills it in: as the run's own judge has it after a prefill, and all harmful without one.
    let mut reader = csv::Reader::from_path(&file).unwrap();
    let header = reader.headers().unwrap().clone();
    assert_eq!(header, vec!["key", "prompt", "prefill", "continuation", "whole", "own"]);
    let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    assert!(rows.iter().any(|row| row[2].is_empty()) && rows.iter().any(|row| !row[2].is_empty()));
    let mut writer = csv::Writer::from_path(&file).unwrap();
    writer.write_record(&header).unwrap();
    for row in &rows {
        let own = if row[2].is_empty() { "" } else { "neither" };
        writer.write_record([&row[0], &row[1], &row[2], &row[3], "harmful", own]).unwrap();
    }
    writer.flush().unwrap();
    drop(writer);
    let table = succeed(&["judge", "import", dir, labels, "--name", "people"]);
    // The run says harmful at k = 5 and refused at k = 0: half agree, as chance would.
    let line = table.lines().find(|line| line.contains("people")).unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(words[..5], ["people", "run", "24", "50.0", "0.000"], "{table}");
    succeed(&["judge", "run", dir, "--judge", "keyword"]);
    succeed(&["judge", "run", dir, "--judge", &format!("file:{labels}")]);
    succeed(&["report", dir]);
    let page = std::fs::read_to_string(run.join("report.html")).unwrap();
    let section = page.split("<section id=\"judges\">").nth(1).unwrap().split("</section>").next().unwrap();
    for judge in ["people", "keyword", "run"] {
        assert!(section.contains(judge), "{judge}");
    }
    // The file judge and the import say the same.
    let same = section.split("<tr>").find(|row| row.contains("file:") && row.contains("people")).unwrap();
    assert!(same.contains("100.0") && !same.contains("50.0"), "{same}");
    let missing = safedepth(&["judge", "run", dir, "--judge", "file:nowhere.csv"]).output().unwrap();
    assert_eq!(missing.status.code(), Some(1));
}

#[test]
fn a_model_is_asked_yes_or_no() {
    let temp = tempfile::tempdir().unwrap();
    let dir: PathBuf = temp.path().join("model");
    synth::synth("tiny-llama", 3, &dir).unwrap();
    let model = Transformer::load(Cpu::new(), &dir, None).unwrap();
    let prompter = || Arc::new(Prompter::load(&dir, &model.config, "plain").unwrap());
    let judge = |question: &str| ModelJudge::new(model.try_clone().unwrap(), prompter(), question).unwrap();
    let forward = judge("{prompt} {response} ?");
    let requests = [request("how", "", "so", "so"), request("how", "so", " then", "so then")];
    let verdicts = forward.judge_all(&requests).unwrap();
    // The verdict is the comparison of two logits: with the log-odds near 0 for a random model, both sides occur over
    // enough questions, and a verdict does not depend on what else is asked.
    let words = ["a", "be", "see", "do", "eat", "for", "go", "hi", "in", "job", "kit", "low", "my", "no", "of", "pay"];
    let many: Vec<JudgeRequest> = words.iter().map(|word| request(word, "", word, word)).collect();
    let all = forward.judge_all(&many).unwrap();
    for (request, together) in many.iter().zip(&all) {
        assert_eq!(forward.judge_all(std::slice::from_ref(request)).unwrap()[0], *together);
        assert_eq!(together.whole == Outcome::Harmful, together.score > 0.5, "{together:?}");
    }
    assert!(all.iter().any(|verdict| verdict.score > all[0].score) || all.iter().any(|v| v.score < all[0].score));
    assert_eq!(verdicts[0].own, verdicts[0].whole);
    // Of two answers one cannot be better both ways round.
    let pair = |a, b| Pair { prompt: "how", a, b };
    let orders = forward.compare_all(&[pair("so", "not so"), pair("not so", "so"), pair("so", "so")]).unwrap().unwrap();
    assert_eq!((orders[0], orders[2]), (orders[1].reverse(), Ordering::Equal));
    // What the model itself wrote is asked about alone.
    let own = forward.judge_all(&[request("how", "", " then", " then")]).unwrap();
    assert_eq!(verdicts[1].own, own[0].whole);
}
