//! Chat templates: Jinja that turns a conversation into the text a model was trained on.
//!
//! The environment is the one `transformers` renders with (`trim_blocks`, `lstrip_blocks`, `break` and `continue`,
//! `raise_exception`, `strftime_now`, its own `tojson`, Python's methods), held to a budget of work and output.

mod filters;

use super::json::{self, Keys};
use super::message::Message;
use super::tokenizer::Tokenizer;
use crate::{Error, Result};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, Value};
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// Work a rendering may do: about one unit an instruction or 64 bytes of data made. Real templates use a few hundred a
/// message, and a fuel for every 64 bytes they copy.
const FUEL: u64 = 1_000_000;
/// Time a rendering may take: a few kinds of work, such as comparing lists that share their parts, cost no fuel.
const DEADLINE: Duration = Duration::from_secs(5);
/// Stack of a rendering: values may be nested as deep as the fuel lasts. Only touched pages cost memory.
const STACK: usize = 256 << 20;
/// Bytes a rendering may write.
const MAX_OUTPUT: usize = 16 << 20;

/// A built-in template. `prefixed`: the tokenizer's own prefix (BOS) comes before the text, which holds none.
struct BuiltIn {
    name: &'static str,
    source: &'static str,
    prefixed: bool,
}

const BUILT_IN: [BuiltIn; 7] = [
    BuiltIn { name: "llama2", source: include_str!("../../data/templates/llama2.jinja"), prefixed: false },
    BuiltIn { name: "llama3", source: include_str!("../../data/templates/llama3.jinja"), prefixed: false },
    BuiltIn { name: "mistral", source: include_str!("../../data/templates/mistral.jinja"), prefixed: false },
    BuiltIn { name: "gemma", source: include_str!("../../data/templates/gemma.jinja"), prefixed: false },
    BuiltIn { name: "chatml", source: include_str!("../../data/templates/chatml.jinja"), prefixed: false },
    BuiltIn { name: "alpaca", source: include_str!("../../data/templates/alpaca.jinja"), prefixed: true },
    BuiltIn { name: "plain", source: include_str!("../../data/templates/plain.jinja"), prefixed: true },
];

/// A compiled template with the special tokens it may name.
pub struct ChatTemplate {
    environment: Arc<Environment<'static>>,
    place: String,
    variables: Vec<(&'static str, String)>,
    prefixed: bool,
    deadline: Duration,
}

impl ChatTemplate {
    /// The template that `--template CHOICE` asks for. `auto` is the folder's own (`chat_template.jinja`, then
    /// `chat_template` of `tokenizer_config.json`), and `plain` where it has none; a name is a built-in; anything else
    /// is a file.
    pub fn load(choice: &str, dir: &Path, tokenizer: &Tokenizer) -> Result<Self> {
        if choice == "auto" {
            return match own_template(dir)? {
                Some((place, source)) => Self::compile(place, source, tokenizer, false),
                None => Self::load("plain", dir, tokenizer),
            };
        }
        if let Some(BuiltIn { name, source, prefixed }) = BUILT_IN.into_iter().find(|template| template.name == choice)
        {
            return Self::compile(format!("template {name}"), source.to_owned(), tokenizer, prefixed);
        }
        let path = Path::new(choice);
        if !path.is_file() {
            let names = BUILT_IN.map(|template| template.name).join(", ");
            return Err(Error::Usage(format!("no template {choice}: give auto, {names}, or the path of a file")));
        }
        Self::compile(choice.to_owned(), json::read_text(path)?, tokenizer, false)
    }

    /// The source of a built-in template.
    pub fn built_in(name: &str) -> Option<&'static str> {
        BUILT_IN.iter().find(|template| template.name == name).map(|template| template.source)
    }

    /// A template from its source; `place` names it in errors.
    pub fn from_source(place: &str, source: &str, tokenizer: &Tokenizer) -> Result<Self> {
        Self::compile(place.to_owned(), source.to_owned(), tokenizer, false)
    }

    fn compile(place: String, source: String, tokenizer: &Tokenizer, prefixed: bool) -> Result<Self> {
        let mut environment = Environment::new();
        // Release builds too say which value is undefined.
        environment.set_debug(true);
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| Error::input(&place, error.to_string()))?);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_fuel(Some(FUEL));
        filters::install(&mut environment);
        let added = environment.add_template_owned("chat", without_generation_tags(&source));
        let variables = tokenizer.named_tokens().to_vec();
        let this = Self { environment: Arc::new(environment), place, variables, prefixed, deadline: DEADLINE };
        added.map_err(|error| explain(&this.place, &error))?;
        Ok(this)
    }

    /// Fixes what `strftime_now` takes for now, in seconds since 1970; else it is the time of each rendering. Some
    /// templates put the date into the prompt.
    pub fn set_now(&mut self, seconds: i64) {
        filters::set_now(Arc::make_mut(&mut self.environment), Some(seconds));
    }

    /// The text of a conversation, with the opening of the assistant's turn if `add_generation_prompt`.
    ///
    /// # Errors
    /// The template refuses the messages, is wrong, or does not end within its budget.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        if messages.is_empty() {
            return Err(Error::input(&self.place, "there are no messages to render; give at least one"));
        }
        let messages: Value = messages.iter().map(|message| filters::object_to_value(message.fields())).collect();
        let mut context = vec![
            ("messages", messages),
            ("tools", Value::from(())),
            ("documents", Value::from(())),
            ("add_generation_prompt", Value::from(add_generation_prompt)),
        ];
        context.extend(self.variables.iter().map(|(name, token)| (*name, Value::from(token.as_str()))));
        // The rendering has a thread of its own: it is left behind at the deadline, and a panic ends there.
        let environment = Arc::clone(&self.environment);
        let place = self.place.clone();
        let (sender, receiver) = mpsc::channel();
        let work = move || {
            let mut output = Bounded { bytes: Vec::new(), full: false };
            let template = environment.get_template("chat");
            let result = template
                .and_then(|template| template.render_captured_to(Value::from_pairs(context), &mut output).map(|_| ()));
            // The engine's error may hold values too deep to be dropped on an ordinary stack: it stays here.
            let result = match result {
                Ok(()) => Ok(output.bytes),
                Err(_) if output.full => Err(never_ends(&place)),
                Err(error) => Err(explain(&place, &error)),
            };
            // Nobody listens after the deadline.
            let _ = sender.send(result);
        };
        let thread = std::thread::Builder::new().name("template".to_owned()).stack_size(STACK).spawn(work);
        thread.map_err(|error| Error::Device(format!("cannot start a thread for the chat template: {error}")))?;
        match receiver.recv_timeout(self.deadline) {
            Ok(bytes) => String::from_utf8(bytes?)
                .map_err(|_| Error::input(&self.place, "the template writes text that is not UTF-8")),
            Err(mpsc::RecvTimeoutError::Timeout) => Err(never_ends(&self.place)),
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                Err(Error::input(&self.place, "the template engine failed on this template; choose another"))
            }
        }
    }

    /// The ids of a prompt: what `apply_chat_template(messages, add_generation_prompt=True)` gives, or for `plain` and
    /// `alpaca` the tokenizer's prefix and then the text.
    pub fn prompt_ids(&self, tokenizer: &Tokenizer, messages: &[Message]) -> Result<Vec<u32>> {
        let text = tokenizer.encode(&self.render(messages, true)?, false)?;
        Ok([self.prefix(tokenizer), &text].concat())
    }

    /// What [`Self::prompt_ids`] puts before the ids of the rendered text.
    pub fn prefix<'a>(&self, tokenizer: &'a Tokenizer) -> &'a [u32] {
        if self.prefixed { tokenizer.prefix() } else { &[] }
    }

    /// What the template writes before an assistant's answer: the text between the user's words and the answer, without
    /// what closes the user's turn where the template writes that by itself. Empty if it writes nothing there.
    pub fn assistant_header(&self, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
        const MARKER: &str = "safedepthmarker";
        let after = |generation: bool| {
            let text = self.render(&[Message::user(MARKER)], generation)?;
            Ok(text.rsplit_once(MARKER).map_or_else(String::new, |(_, rest)| rest.to_owned()))
        };
        let (with, without) = (after(true)?, after(false)?);
        let header = with.strip_prefix(without.as_str()).filter(|header| !header.is_empty()).unwrap_or(&with);
        tokenizer.encode(header, false)
    }

    /// The token that ends an assistant's turn: the first special token after an assistant's message, as the template
    /// writes it. `None` if the template writes none there, as those for base models do.
    pub fn end_of_turn(&self, tokenizer: &Tokenizer) -> Option<u32> {
        const MARKER: &str = "safedepthmarker";
        let text = self.render(&[Message::user("a"), Message::assistant(MARKER)], false).ok()?;
        let (_, rest) = text.rsplit_once(MARKER)?;
        tokenizer.encode(rest, false).ok()?.into_iter().find(|&id| tokenizer.is_special(id))
    }
}

fn never_ends(place: &str) -> Error {
    Error::input(place, "the template never ends, or writes more than any prompt can hold; choose another")
}

/// One sentence from an engine's error.
fn explain(place: &str, error: &minijinja::Error) -> Error {
    let mut innermost = error;
    while let Some(cause) = std::error::Error::source(innermost).and_then(|cause| cause.downcast_ref()) {
        innermost = cause;
    }
    if innermost.kind() == ErrorKind::OutOfFuel {
        return never_ends(place);
    }
    let one_line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ").trim_end_matches('.').to_owned();
    if let Some(message) = filters::raised(innermost) {
        return Error::input(place, format!("the template refuses these messages: {}", one_line(message)));
    }
    let line = error.line().map(|line| format!(" at line {line}")).unwrap_or_default();
    let detail = innermost.detail().map(|detail| format!(": {}", one_line(detail))).unwrap_or_default();
    Error::input(place, format!("the template fails{line}: {}{detail}", innermost.kind()))
}

/// The folder's own template and where it stands.
fn own_template(dir: &Path) -> Result<Option<(String, String)>> {
    let file = dir.join("chat_template.jinja");
    if file.is_file() {
        return Ok(Some((file.display().to_string(), json::read_text(&file)?)));
    }
    let path = dir.join("tokenizer_config.json");
    if !path.exists() {
        return Ok(None);
    }
    let place = path.display();
    let map = json::parse_object(&place, &json::read_text(&path)?)?;
    let keys = Keys { place: &place, map: &map };
    let source = match keys.get("chat_template") {
        None => return Ok(None),
        Some(serde_json::Value::String(source)) => source,
        Some(serde_json::Value::Array(named)) => {
            let text = |entry: &'_ serde_json::Value, key: &str| {
                entry.get(key).and_then(|value| value.as_str().map(str::to_owned))
            };
            let default = named.iter().find(|entry| text(entry, "name").as_deref() == Some("default"));
            let default = default.and_then(|entry| text(entry, "template"));
            let default = default.ok_or_else(|| keys.error("chat_template", "lists no template named default"))?;
            return Ok(Some((path.display().to_string(), default)));
        }
        Some(_) => return Err(keys.error("chat_template", "must be a string or a list of named templates")),
    };
    Ok(Some((path.display().to_string(), source.clone())))
}

/// `{% generation %} ... {% endgeneration %}` marks what the assistant said and prints its body; here it becomes a
/// plain block with a scope of its own.
fn without_generation_tags(source: &str) -> String {
    let mut output = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start + 2..].find("%}") else { break };
        let tag = &rest[start..start + 2 + length];
        let name = tag[2..].trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        let replacement = match name {
            "generation" => Some("with"),
            "endgeneration" => Some("endwith"),
            _ => None,
        };
        match replacement {
            Some(replacement) => {
                output.push_str(&rest[..start]);
                output.push_str(&tag.replacen(name, replacement, 1));
                rest = &rest[start + tag.len()..];
            }
            None => {
                output.push_str(&rest[..start + 2]);
                rest = &rest[start + 2..];
            }
        }
    }
    output.push_str(rest);
    output
}

/// Takes at most [`MAX_OUTPUT`] bytes.
struct Bounded {
    bytes: Vec<u8>,
    full: bool,
}

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.bytes.len() + bytes.len() > MAX_OUTPUT {
            self.full = true;
            return Err(std::io::Error::other("the output is too long"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_costs_no_fuel_ends_at_the_deadline() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/templates/tokenizer_gpt2");
        let tokenizer = Tokenizer::load(&folder).unwrap();
        // Two equal trees of 2^24 leaves, whose nodes are shared: small to make, long to compare.
        let source = "{% set ns = namespace(a=[], b=[]) %}{% for i in range(24) %}{% set ns.a = [ns.a, ns.a] %}\
            {% set ns.b = [ns.b, ns.b] %}{% endfor %}{{ ns.a == ns.b }}";
        let mut template = ChatTemplate::from_source("t.jinja", source, &tokenizer).unwrap();
        template.deadline = Duration::from_millis(1);
        let error = template.render(&[Message::user("x")], true).unwrap_err();
        assert!(error.to_string().starts_with("t.jinja: the template never ends"), "{error}");
    }
}
