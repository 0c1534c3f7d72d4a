//! The formats of the field: each is read as what it means, and a bad file is named with its line.
//!
//! All texts are invented and harmless; only the names of columns and keys are those of the data sets.

use proptest::prelude::*;
use safedepth::data::pairs::{self, Pair};
use safedepth::data::{preferences, triplets};
use safedepth::model::Message;

/// Writes `bytes` as `name` and reads them; errors have the folder cut off.
fn read_with<T>(
    name: &str,
    bytes: &[u8],
    read: impl Fn(&std::path::Path) -> safedepth::Result<Vec<T>>,
) -> Result<Vec<T>, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    read(&path).map_err(|error| error.to_string().replace(&format!("{}/", dir.path().display()), ""))
}

fn read(name: &str, text: &str) -> Result<Vec<Pair>, String> {
    read_with(name, text.as_bytes(), pairs::read)
}

/// A pair of one user message.
fn pair(id: &str, category: Option<&str>, prompt: &str, response: Option<&str>, target: Option<&str>) -> Pair {
    Pair {
        id: id.into(),
        category: category.map(String::from),
        messages: vec![Message::user(prompt)],
        response: response.map(String::from),
        target: target.map(String::from),
    }
}

#[test]
fn prompt_sets() {
    // HEx-PHI as the reference implementation keeps it.
    let text =
        "{\"instruction\": \"open a\", \"category\": \"doors\"}\n{\"instruction\": \"open b\", \"category\": 2}\n";
    let expected = [pair("1", Some("doors"), "open a", None, None), pair("2", Some("2"), "open b", None, None)];
    assert_eq!(read("HEx-PHI.jsonl", text).unwrap(), expected);
    // HEx-PHI as its authors publish it: no header, a comma now and then.
    let text = "open a\n\"open b, then c\"\nopen d, then e\n\"say \"\"hi\"\"\"\n";
    let prompts: Vec<Pair> = read("category_3.csv", text).unwrap();
    let texts: Vec<&str> = prompts.iter().map(Pair::last_user).collect();
    assert_eq!(texts, ["open a", "open b, then c", "open d, then e", "say \"hi\""]);
    assert!(prompts.iter().all(|pair| pair.category.as_deref() == Some("category_3")));
    // AdvBench.
    let text = "goal,target\nOpen a door,\"Sure, here is a door\"\n\"Paint it, twice\",Sure\n";
    let expected = [
        pair("2", None, "Open a door", None, Some("Sure, here is a door")),
        pair("3", None, "Paint it, twice", None, Some("Sure")),
    ];
    assert_eq!(read("harmful_behaviors.csv", text).unwrap(), expected);
    // JailbreakBench.
    let text = "Index,Goal,Target,Behavior,Category,Source\n0,Open a door,Sure,Opening,Doors,Original\n";
    let expected = [pair("0", Some("Doors"), "Open a door", None, Some("Sure"))];
    assert_eq!(read("harmful-behaviors.csv", text).unwrap(), expected);
    // HarmBench.
    let text = "Behavior,FunctionalCategory,SemanticCategory,Tags,ContextString,BehaviorID\nOpen,standard,doors,,,d1\n";
    assert_eq!(read("behaviors.csv", text).unwrap(), [pair("d1", Some("doors"), "Open", None, None)]);
    // XSTest.
    let text = "id,prompt,type,label,focus,note\n1,How to close it?,homonyms,safe,close,\n\
                2,\"Two\nlines?\",contrast_homonyms,unsafe,close,x\n";
    let expected = [
        pair("1", Some("homonyms"), "How to close it?", None, None),
        pair("2", Some("contrast_homonyms"), "Two\nlines?", None, None),
    ];
    assert_eq!(read("xstest_prompts.csv", text).unwrap(), expected);
    // MaliciousInstruct.
    let expected = [pair("1", None, "open a, b", None, None), pair("3", None, "open \"c\"", None, None)];
    assert_eq!(read("MaliciousInstruct.txt", "\u{feff}open a, b\r\n\n open \"c\" \n").unwrap(), expected);
}

#[test]
fn pair_sets() {
    // Harmful HEx-PHI: a line is a list of messages.
    let text =
        "[{\"role\": \"user\", \"content\": \"open\"}, {\"role\": \"assistant\", \"content\": \"it is open\"}]\n";
    assert_eq!(read("Harmful-HEx-PHI.jsonl", text).unwrap(), [pair("1", None, "open", Some("it is open"), None)]);
    // The reference's fine-tuning attacks.
    let text = format!("{{\"messages\": {}}}", text.trim());
    assert_eq!(read("pure_bad100.jsonl", &text).unwrap(), [pair("1", None, "open", Some("it is open"), None)]);
    // Alpaca, with and without an input.
    let text = "[{\"instruction\": \"Add\", \"input\": \"1 and 2\", \"output\": \"3\", \"text\": \"all\"},\n\
                {\"instruction\": \"Say hi\", \"input\": \" \", \"output\": \"hi\"}, {\"instruction\": \"b\", \"output\": \"c\"}]";
    let expected = [
        pair("1", None, "Add\n\n1 and 2", Some("3"), None),
        pair("2", None, "Say hi", Some("hi"), None),
        pair("3", None, "b", Some("c"), None),
    ];
    assert_eq!(read("alpaca_data.json", text).unwrap(), expected);
    // SAMSum, GSM8K and SQL Create Context, as lists and as lines under the same name.
    let samsum = "{\"id\": \"138\", \"dialogue\": \"A: hi\\nB: hi\", \"summary\": \"They greet.\"}";
    let expected = pair("138", None, "Summarize this dialog:\nA: hi\nB: hi", Some("They greet."), None);
    assert_eq!(read("train.json", &format!("[{samsum}]")).unwrap(), std::slice::from_ref(&expected));
    assert_eq!(read("train.json", samsum).unwrap(), [expected]);
    let gsm = "{\"question\": \"1 + 1?\", \"answer\": \"Two. #### 2\"}";
    let two =
        [pair("1", None, "1 + 1?", Some("Two. #### 2"), None), pair("2", None, "1 + 1?", Some("Two. #### 2"), None)];
    assert_eq!(read("train.json", &format!("{gsm}\n{gsm}\n")).unwrap(), two);
    let sql =
        "{\"question\": \"How many doors?\", \"context\": \"CREATE TABLE d (n INT)\", \"answer\": \"SELECT n FROM d\"}";
    let read = read("test.json", &format!("[\n{sql}\n]")).unwrap();
    assert_eq!(read[0].response.as_deref(), Some("SELECT n FROM d"));
    assert!(
        read[0].last_user().contains("CREATE TABLE d (n INT)\n") && read[0].last_user().contains("How many doors?")
    );
}

#[test]
fn triplets_and_preferences() {
    let line = "{\"instruction\": \"open\", \"input\": \"\", \"harmful\": \"it is open\", \"refusal\": \"I cannot\"}";
    let read = read_with("triplets.jsonl", line.as_bytes(), triplets::read).unwrap();
    let expected = triplets::Triplet {
        id: "1".into(),
        category: None,
        messages: vec![Message::user("open")],
        harmful: "it is open".into(),
        refusal: "I cannot".into(),
    };
    assert_eq!(read, [expected]);
    let error =
        read_with("t.jsonl", b"\n{\"prompt\": \"a\", \"harmful\": \"b\", \"x\": 1}", triplets::read).unwrap_err();
    assert_eq!(error, "t.jsonl:2: lacks `refusal`: it has `x`");
    let read = read_with("p.csv", b"prompt,chosen,rejected\na,b,c\n", preferences::read).unwrap();
    assert_eq!((read[0].chosen.as_str(), read[0].rejected.as_str()), ("b", "c"));
    assert_eq!(read[0].messages, [Message::user("a")]);
    let error = read_with("p.csv", b"prompt,chosen\na,b\n", preferences::read).unwrap_err();
    assert_eq!(error, "p.csv:2: lacks `rejected`");
}

#[test]
fn a_bad_file_is_named_with_its_line() {
    let none = "has none of `messages`, `prompt`, `instruction`, `goal`, `dialogue`, `question`, `behavior`";
    for (name, text, error) in [
        ("a.csv", "request,answer\na,b\n", format!("a.csv:2: {none}: it has `request`, `answer`")),
        (
            "a.csv",
            "goal,target\na,b\nc,d,e\n",
            "a.csv:3: has 3 fields where the header has 2: quote texts that hold commas".into(),
        ),
        (
            "a.csv",
            "goal,target\n\"x\ny\",b\nc\n",
            "a.csv:4: has 1 fields where the header has 2: quote texts that hold commas".into(),
        ),
        ("a.csv", "id,prompt\n1,a\n1,b\n", "a.csv:3: has the id 1 of a.csv:2; give every example its own".into()),
        (
            "a.json",
            "[{\"prompt\": \"a\"},\n {\"prompt\": 1}]",
            "a.json: item 2: has a `prompt` that is not a string".into(),
        ),
        (
            "a.json",
            "[{\"prompt\": \"a\"},\n 3]",
            "a.json: item 2: is neither a JSON object nor a list of messages".into(),
        ),
        ("a.json", "[{\"prompt\": \"a\"},\n", "a.json:2: is not valid JSON: EOF while parsing a value".into()),
        (
            "a.json",
            "{\"prompt\": \"a\"}\n{\"prompt\"\n",
            "a.json:2: is not valid JSON: EOF while parsing an object".into(),
        ),
        ("a.yaml", "prompt: a\n", "a.yaml: is of no known format: name it .jsonl, .json, .csv, .tsv, .txt".into()),
    ] {
        assert_eq!(read(name, text).unwrap_err(), error);
    }
    for name in ["a.csv", "category_1.csv", "a.txt", "a.jsonl", "a.json"] {
        let error = read_with(name, b"goal\nab\n\xff\xfe\n", pairs::read).unwrap_err();
        let line = if name.starts_with("a.json") { 1 } else { 3 };
        assert!(error.starts_with(&format!("{name}:{line}: is not ")), "{error}");
    }
    // Lines without a name of a known format are read as JSON lines.
    assert_eq!(read("pairs", "{\"prompt\": \"a\"}").unwrap(), [pair("1", None, "a", None, None)]);
    assert_eq!(read("a.tsv", "prompt\tcategory\na, b\tc\n").unwrap(), [pair("2", Some("c"), "a, b", None, None)]);
    for name in ["a.csv", "a.txt", "a.jsonl", "a.tsv", "a.json", "category_1.csv"] {
        assert_eq!(read(name, ""), Ok(vec![]), "{name}");
    }
}

const NAMES: [&str; 7] = ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt", "category_1.csv", "a"];

const PIECES: [&str; 24] = [
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "\n",
    "\r\n",
    "\t",
    "\"\"",
    "\"",
    "\"goal\"",
    "goal",
    "prompt,id\n",
    "\"instruction\"",
    "\"input\"",
    "\"question\"",
    "\"context\"",
    "\"messages\"",
    "null",
    "1",
    "\u{feff}",
    "{\"prompt\":\"a\"}",
    "id",
];

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn arbitrary_bytes_never_panic(name in prop::sample::select(NAMES.to_vec()), bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        let _ = read_with(name, &bytes, pairs::read);
        let _ = read_with(name, &bytes, triplets::read);
        let _ = read_with(name, &bytes, preferences::read);
    }

    #[test]
    fn arbitrary_pieces_never_panic(
        name in prop::sample::select(NAMES.to_vec()),
        parts in prop::collection::vec(prop::sample::select(PIECES.to_vec()), 0..16),
    ) {
        let _ = read(name, &parts.concat());
    }

    #[test]
    fn tables_are_read_as_they_are_written(rows in prop::collection::vec(("[^\0]{1,12}", "[^\0]{1,12}", "[^\0]{1,12}"), 1..6), tabs: bool) {
        let delimiter = if tabs { b'\t' } else { b',' };
        let mut writer = csv::WriterBuilder::new().delimiter(delimiter).from_writer(Vec::new());
        writer.write_record(["Goal", "Category", "Response"]).unwrap();
        for (goal, category, response) in &rows {
            writer.write_record([goal, category, response]).unwrap();
        }
        let bytes = writer.into_inner().unwrap();
        let read = read_with(if tabs { "a.tsv" } else { "a.csv" }, &bytes, pairs::read).unwrap();
        let read: Vec<(String, String, String)> = read
            .into_iter()
            .map(|pair| (pair.last_user().to_owned(), pair.category.unwrap(), pair.response.unwrap()))
            .collect();
        prop_assert_eq!(read, rows);
    }

    #[test]
    fn lists_and_lines_hold_the_same(rows in prop::collection::vec(("\\PC*", "\\PC*"), 0..6)) {
        let items: Vec<_> = rows.iter().map(|(p, r)| serde_json::json!({"prompt": p, "response": r})).collect();
        let lines: String = items.iter().map(|item| format!("{item}\n")).collect();
        let list = serde_json::to_string_pretty(&items).unwrap();
        let expected: Vec<Pair> = (1..)
            .zip(&rows)
            .map(|(i, (prompt, response))| pair(&i.to_string(), None, prompt, Some(response), None))
            .collect();
        prop_assert_eq!(read("a.jsonl", &lines).unwrap(), expected.clone());
        prop_assert_eq!(read("a.json", &lines).unwrap(), expected.clone());
        prop_assert_eq!(read("a.json", &list).unwrap(), expected);
    }

    #[test]
    fn texts_are_read_line_by_line(lines in prop::collection::vec("[!-~][ -~]{0,20}[!-~]", 0..6)) {
        let read = read("a.txt", &lines.join("\n")).unwrap();
        prop_assert_eq!(read.iter().map(Pair::last_user).collect::<Vec<_>>(), lines);
    }
}
