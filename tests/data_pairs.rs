//! Pairs: both forms are read, ids are unique, and a bad line is named.

use proptest::prelude::*;
use safedepth::data::pairs::{self, Pair};
use safedepth::model::Message;

/// Reads `bytes` as `p.jsonl`; errors have the folder cut off.
fn read(bytes: &[u8]) -> Result<Vec<Pair>, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p.jsonl");
    std::fs::write(&path, bytes).unwrap();
    pairs::read(&path).map_err(|error| error.to_string().replace(&format!("{}/", dir.path().display()), ""))
}

#[test]
fn both_forms_are_read() {
    let text = "\u{feff}{\"prompt\": \"a\", \"response\": \"b\", \"category\": 3}\r\n\n  \n\
        {\"id\": \"x\", \"messages\": [{\"role\": \"system\", \"content\": \"s\"}, {\"role\": \"user\", \"content\": \"u\"}, \
        {\"role\": \"assistant\", \"content\": \"r\"}]}\n\
        {\"id\": 7, \"prompt\": \"only\\u2028asked\"}\n\
        {\"messages\": [{\"role\": \"user\", \"content\": \"u\", \"name\": \"n\"}], \"response\": \"r\"}";
    let pairs = read(text.as_bytes()).unwrap();
    let ids: Vec<&str> = pairs.iter().map(|pair| pair.id.as_str()).collect();
    assert_eq!(ids, ["1", "x", "7", "6"]);
    assert_eq!(pairs[0].messages, [Message::user("a")]);
    assert_eq!(pairs[1].messages, [Message::system("s"), Message::user("u")]);
    let responses: Vec<Option<&str>> = pairs.iter().map(|pair| pair.response.as_deref()).collect();
    assert_eq!(responses, [Some("b"), Some("r"), None, Some("r")]);
    assert_eq!((pairs[1].last_user(), pairs[2].last_user()), ("u", "only\u{2028}asked"));
    assert_eq!(pairs[3].messages[0].fields()["name"], "n");
    assert_eq!(pairs[0].category.as_deref(), Some("3"));
}

#[test]
fn a_bad_line_is_named() {
    let good = "{\"prompt\": \"a\"}\n\n";
    for (line, problem) in [
        ("{\"prompt\": \"a\"", "is not valid JSON: EOF while parsing an object"),
        ("nonsense", "is not valid JSON: expected ident"),
        ("{\"prompt\": \"a\"} {}", "is not valid JSON: trailing characters"),
        ("1", "is neither a JSON object nor a list of messages"),
        ("[1]", "message 1 must be an object"),
        ("{}", "has none of `messages`, `prompt`, `instruction`, `goal`, `dialogue`, `question`, `behavior`"),
        (
            "{\"text\": \"a\", \"B\": 1}",
            "has none of `messages`, `prompt`, `instruction`, `goal`, `dialogue`, `question`, `behavior`: it has `text`, `b`",
        ),
        ("{\"prompt\": 3}", "has a `prompt` that is not a string"),
        ("{\"prompt\": \"a\", \"response\": []}", "has a `response` that is not a string"),
        ("{\"prompt\": \"a\", \"messages\": []}", "has both `prompt` and `messages`; give one"),
        ("{\"messages\": []}", "has no message before the response"),
        ("{\"messages\": \"a\"}", "has `messages` that are not a list"),
        ("{\"messages\": [1]}", "message 1 must be an object"),
        ("{\"messages\": [{\"role\": \"user\"}]}", "message 1 lacks `content`"),
        (
            "{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"text\"}]}]}",
            "message 1 has a `content` that is not a string",
        ),
        ("{\"messages\": [{\"role\": \"assistant\", \"content\": \"a\"}]}", "has no message before the response"),
        ("{\"prompt\": \"a\", \"id\": 1.5}", "has an `id` that is neither a string nor a whole number"),
        ("{\"prompt\": \"a\", \"id\": 1}", "has the id 1 of p.jsonl:1; give every example its own"),
    ] {
        assert_eq!(read(format!("{good}{line}\n").as_bytes()).unwrap_err(), format!("p.jsonl:3: {problem}"), "{line}");
    }
    assert_eq!(read(b"{\"prompt\": \"a\"}\n\xff\n").unwrap_err(), "p.jsonl:2: is not UTF-8 text");
    assert_eq!(read(b""), Ok(Vec::new()));
}

#[test]
fn a_folder_is_read_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let error = || pairs::read(dir.path()).unwrap_err().to_string().replace(&dir.path().display().to_string(), "DIR");
    assert_eq!(error(), "DIR: holds no .jsonl, .csv or .tsv file");
    std::fs::write(dir.path().join("b.jsonl"), "{\"prompt\": \"1\"}\n{\"prompt\": \"2\"}").unwrap();
    std::fs::write(dir.path().join("a.jsonl"), "\n{\"prompt\": \"0\"}").unwrap();
    std::fs::write(dir.path().join("readme.txt"), "not read").unwrap();
    let ids: Vec<String> = pairs::read(dir.path()).unwrap().into_iter().map(|pair| pair.id).collect();
    assert_eq!(ids, ["a:2", "b:1", "b:2"]);
    let gone = pairs::read(&dir.path().join("gone.jsonl")).unwrap_err().to_string();
    assert!(gone.starts_with("cannot read ") && gone.ends_with("gone.jsonl: No such file or directory (os error 2)"));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        let _ = read(&bytes);
    }

    #[test]
    fn arbitrary_objects_never_panic(parts in prop::collection::vec(prop::sample::select(PIECES.to_vec()), 0..16)) {
        let _ = read(parts.concat().as_bytes());
    }

    #[test]
    fn what_is_written_is_read(prompt in "\\PC*", response in "\\PC*", id in "\\PC{1,8}") {
        let line = serde_json::json!({"prompt": prompt, "response": response, "id": id}).to_string();
        let expected =
            Pair { id, messages: vec![Message::user(prompt)], response: Some(response), ..Pair::default() };
        prop_assert_eq!(read(line.as_bytes()), Ok(vec![expected]));
    }
}

const PIECES: [&str; 20] = [
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "\n",
    "\"prompt\"",
    "\"response\"",
    "\"messages\"",
    "\"role\"",
    "\"content\"",
    "\"id\"",
    "\"assistant\"",
    "null",
    "1",
    "\"a",
    "\"",
    "\\u",
    "{\"prompt\":\"a\"}\n",
];
