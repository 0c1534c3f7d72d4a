//! Chat templates: the strings and ids of `transformers` on the golden conversations, refusals in one sentence, and no
//! template, however wrong, that panics or never ends.

mod support_model;

use proptest::prelude::*;
use safedepth::model::{ChatTemplate, Message, Tokenizer};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use support_model::sentence;

fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/templates")
}

fn golden(name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(goldens().join(name)).unwrap()).unwrap()
}

/// The golden GPT-2 tokenizer with the given `tokenizer_config.json`.
fn tokenizer_with(config: &Value) -> Tokenizer {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(goldens().join("tokenizer_gpt2/tokenizer.json"), dir.path().join("tokenizer.json")).unwrap();
    std::fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    Tokenizer::load(dir.path()).unwrap()
}

fn messages(value: &Value) -> Vec<Message> {
    value.as_array().unwrap().iter().map(|message| Message::from_json(message.clone()).unwrap()).collect()
}

fn template(source: &str) -> safedepth::Result<ChatTemplate> {
    static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| tokenizer_with(&serde_json::json!({"bos_token": "<s>"})));
    ChatTemplate::from_source("t.jinja", source, &TOKENIZER)
}

fn render(source: &str) -> safedepth::Result<String> {
    template(source)?.render(&[Message::user("hello")], true)
}

fn refusal(source: &str) -> String {
    sentence(render(source), Path::new("/nowhere"))
}

/// Golden strings, by a part of them, that the engine does not reproduce; no known chat template depends on either.
const KNOWN_DIFFERENCES: [(&str, &str); 2] = [
    // Jinja runs a loop's `else` also where every turn ended in `continue`.
    ("features_control", "header of 1\nnobody spokeusers 1"),
    // Python escapes invisible characters of strings in a printed dictionary.
    ("features_repr", "\\u202eRTL"),
];

#[test]
fn strings_and_ids_equal_transformers() {
    let templates = golden("templates.json");
    let cases = golden("cases.json");
    let (mut seen, mut differing) = (0, 0);
    let mut failures = Vec::new();
    for (name, about) in templates.as_object().unwrap() {
        let tokenizer = tokenizer_with(about);
        let source = std::fs::read_to_string(goldens().join(about["file"].as_str().unwrap())).unwrap();
        // The engine has the `format` filter but not `%` between a string and a tuple, which no known template uses.
        let source = source.replace("'%s says %d' % (", "'%s says %d' | format(");
        let template = ChatTemplate::from_source(name, &source, &tokenizer).unwrap();
        for case in cases.as_array().unwrap().iter().filter(|case| case["template"] == **name) {
            seen += 1;
            let messages = messages(&case["messages"]);
            let prompt = case["add_generation_prompt"].as_bool().unwrap();
            let rendered = template.render(&messages, prompt);
            let about = format!("{name} {} {prompt}", case["messages"]);
            if let Some(error) = case.get("error") {
                let message = sentence(rendered, Path::new("/nowhere"));
                if case["raised"] == true {
                    let expected = error.as_str().unwrap().trim_end_matches('.');
                    assert_eq!(message, format!("{name}: the template refuses these messages: {expected}"), "{about}");
                }
                continue;
            }
            let rendered = rendered.unwrap_or_else(|error| format!("ERROR {error}"));
            let expected = case["rendered"].as_str().unwrap();
            if KNOWN_DIFFERENCES.iter().any(|(template, theirs)| name == template && expected.contains(theirs)) {
                assert_ne!(rendered, expected, "{about}: no longer differs, take it off the list");
                differing += 1;
                continue;
            }
            if rendered != expected {
                failures.push(format!("{about}\n  ours   {rendered:?}\n  theirs {expected:?}"));
                continue;
            }
            let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
            assert_eq!(tokenizer.encode(&rendered, false).unwrap(), ids, "{about}");
            if prompt {
                assert_eq!(template.prompt_ids(&tokenizer, &messages).unwrap(), ids, "{about}");
            }
        }
    }
    assert!(failures.is_empty(), "{} of {seen} differ\n{}", failures.len(), failures.join("\n"));
    assert_eq!((seen, differing), (cases.as_array().unwrap().len(), KNOWN_DIFFERENCES.len()));
}

#[test]
fn the_built_in_templates_are_the_golden_ones() {
    for name in ["llama2", "gemma"] {
        let built_in =
            std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("data/templates/{name}.jinja")));
        assert_eq!(built_in.unwrap(), std::fs::read_to_string(goldens().join(format!("{name}.jinja"))).unwrap());
    }
}

#[test]
fn a_template_that_never_ends_is_an_error() {
    let message = "t.jinja: the template never ends, or writes more than any prompt can hold; choose another";
    for source in [
        "{% for i in range(100000) %}{% for j in range(100000) %}{% for k in range(100000) %}{% endfor %}{% endfor %}{% endfor %}",
        "{% for i in range(100000) %}{{ 'x' * 100000 }}{% endfor %}",
        "{{ 'x' * 100000000 }}",
        "{% set ns = namespace(s='x') %}{% for i in range(64) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}",
        "{% set ns = namespace(s='xx') %}{% for i in range(64) %}{% set ns.s = ns.s.replace('x', ns.s) %}{% endfor %}",
        "{% set ns = namespace(s='xx') %}{% for i in range(64) %}{% set ns.s = ns.s | replace('x', ns.s) %}{% endfor %}",
        "{% set ns = namespace(s='xx') %}{% for i in range(64) %}{% set ns.s = [ns.s, ns.s] | tojson %}{% endfor %}",
        "{% set ns = namespace(s=['x']) %}{% for i in range(64) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}",
        // A string shared many times, nesting deeper than an ordinary stack.
        "{{ ''.join(['x' * 1000000] * 100000) }}",
        "{{ (['x' * 1000000] * 100000) | join }}",
        "{% set ns = namespace(a=[]) %}{% for i in range(99999) %}{% for j in range(99999) %}{% set ns.a = [ns.a] %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(s='x,') %}{% for i in range(64) %}{% set ns.s = ns.s ~ ns.s.rsplit(',') | join(ns.s) %}{% endfor %}",
    ] {
        let started = std::time::Instant::now();
        assert_eq!(refusal(source), message, "{source}");
        assert!(started.elapsed().as_secs() < 20, "{source} took {:?}", started.elapsed());
    }
}

#[test]
fn endless_recursion_is_an_error() {
    for source in [
        "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
        "{% macro f(x) %}{% for i in [1] %}{% if true %}{{ f([x]) | trim }}{% endif %}{% endfor %}{% endmacro %}{{ f(1) }}",
        "{% include 'chat' %}",
        "{% extends 'chat' %}",
        "{% import 'chat' as c %}",
    ] {
        assert!(refusal(source).starts_with("t.jinja: the template "), "{source}: {}", refusal(source));
    }
    // On the stack of a worker thread too.
    let deep = format!("{}1{}", "(".repeat(5000), ")".repeat(5000));
    assert!(refusal(&format!("{{{{ {deep} }}}}")).starts_with("t.jinja: the template fails"));
    let deep = format!("{}{}", "{% if 1 %}".repeat(5000), "{% endif %}".repeat(5000));
    assert!(refusal(&deep).starts_with("t.jinja: the template fails"));
    let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
    assert!(refusal(&format!("{{{{ {deep} }}}}")).starts_with("t.jinja: the template fails"));
}

#[test]
fn wrong_templates_say_where() {
    assert_eq!(
        refusal("line\n{% if %}"),
        "t.jinja: the template fails at line 2: syntax error: unexpected end of block"
    );
    assert_eq!(
        refusal("\n\n{{ messages[0].content | nofilter }}"),
        "t.jinja: the template fails at line 3: unknown filter: filter nofilter is unknown"
    );
    assert_eq!(
        refusal("{{ messages.content.more }}"),
        "t.jinja: the template fails at line 1: undefined value: `messages.content` is undefined"
    );
    assert_eq!(
        refusal("{{ raise_exception('Only\nusers.') }}"),
        "t.jinja: the template refuses these messages: Only users"
    );
    assert_eq!(
        sentence(template("{{ messages }}").unwrap().render(&[], true), Path::new("/nowhere")),
        "t.jinja: there are no messages to render; give at least one"
    );
}

#[test]
fn a_system_prompt_that_gemma_refuses_is_named() {
    let tokenizer = tokenizer_with(&serde_json::json!({"bos_token": "<bos>"}));
    let gemma = ChatTemplate::load("gemma", Path::new("/nowhere"), &tokenizer).unwrap();
    assert_eq!(
        sentence(gemma.render(&[Message::system("Be brief."), Message::user("Hi")], true), Path::new("/nowhere")),
        "template gemma: the template refuses these messages: System role not supported"
    );
}

#[test]
fn the_clock_can_be_fixed() {
    let mut template = template("{{ strftime_now('%Y-%m') }}").unwrap();
    template.set_now(1_700_000_000);
    assert_eq!(template.render(&[Message::user("x")], true).unwrap(), "2023-11");
    assert!(refusal("{{ strftime_now('%Y' * 1000) }}").contains("strftime_now takes a short format"));
}

#[test]
fn python_methods_and_json() {
    for (source, expected) in [
        ("{{ ' \x1ca\u{85} '.strip() }}|{{ ' \x1fa ' | trim }}", "a|a"),
        ("{{ 'a.b.c'.rsplit('.', 1) }}", "['a.b', 'c']"),
        ("{{ 'abc'.removeprefix('a').removesuffix('c') }}", "b"),
        ("{{ 'a=b=c'.partition('=')[2] }}|{{ 'a=b=c'.rpartition('=')[0] }}|{{ 'x'.partition('=')[0] }}", "b=c|a=b|x"),
        ("{{ 1e16 }}|{{ 1e-5 }}|{{ 0.1 }}|{{ 2.0 }}", "1e+16|1e-05|0.1|2.0"),
        ("{{ {'b': 1, 'a': 'é'} | tojson(sort_keys=true) }}", "{\"a\": \"é\", \"b\": 1}"),
        ("{{ ['é😀\n'] | tojson(ensure_ascii=true) }}", "[\"\\u00e9\\ud83d\\ude00\\n\"]"),
        ("{{ {'a': [1, {}], 'b': []} | tojson(indent=2) }}", "{\n  \"a\": [\n    1,\n    {}\n  ],\n  \"b\": []\n}"),
        ("{{ [1, 2] | tojson(separators=(',', ':')) }}", "[1,2]"),
        ("{% generation %}{% set a = 1 %}x{%- endgeneration -%} {{ a is defined }}", "xFalse"),
        ("{%+ generation +%}y{% endgeneration %}", "y"),
    ] {
        assert_eq!(render(source).unwrap(), expected, "{source}");
    }
    assert!(refusal("{{ '{:>99999999999}'.format('x') }}").ends_with("format was given too large a width"));
    assert!(refusal("{{ missing | tojson }}").contains("tojson cannot write a value of type undefined"));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1500) })]

    #[test]
    fn arbitrary_text_never_panics(source in "\\PC{0,60}") {
        let _ = render(&source);
    }

    #[test]
    fn arbitrary_tags_never_panic(parts in prop::collection::vec(prop::sample::select(PIECES.to_vec()), 0..24)) {
        let _ = render(&parts.join(" "));
    }

    #[test]
    fn mutated_templates_never_panic(
        name in prop::sample::select(vec!["llama2", "mistral", "features_control", "features_strings", "features_tojson", "features_generation"]),
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..8, prop::sample::select(PIECES.to_vec())), 1..4),
    ) {
        let mut source: Vec<char> = std::fs::read_to_string(goldens().join(format!("{name}.jinja"))).unwrap().chars().collect();
        for (at, removed, inserted) in cuts {
            let at = at.index(source.len());
            let end = (at + removed).min(source.len());
            source.splice(at..end, inserted.chars());
        }
        let _ = render(&source.into_iter().collect::<String>());
    }
}

const PIECES: [&str; 48] = [
    "{%",
    "%}",
    "{{",
    "}}",
    "{#",
    "#}",
    "{%-",
    "-%}",
    "if",
    "endif",
    "for",
    "endfor",
    "in",
    "set",
    "macro",
    "endmacro",
    "generation",
    "endgeneration",
    "raw",
    "endraw",
    "x",
    "messages",
    "messages[0]",
    ".content",
    "'a'",
    "\"",
    "(",
    ")",
    "[",
    "]",
    "|",
    "tojson",
    "trim",
    "+",
    "*",
    "~",
    "9999999999",
    "-1",
    "1.5",
    "=",
    "==",
    "[::-1]",
    "range(9999999)",
    ".format(x)",
    "'%999999999d'|format(1)",
    "namespace()",
    ".split()",
    "\u{1f600}",
];
