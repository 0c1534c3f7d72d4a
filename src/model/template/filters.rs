//! What `transformers` adds to Jinja, and where Python differs from the engine: `tojson`, `raise_exception`,
//! `strftime_now`, whitespace, float texts.

use minijinja::value::{Kwargs, StringInput, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, State, Value};
use std::fmt::Write;

/// Nesting beyond which `tojson` gives up.
const MAX_DEPTH: usize = 100;

/// Marks an error as one the template raised itself.
#[derive(Debug)]
struct Raised(String);

impl std::fmt::Display for Raised {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

/// The text given to `raise_exception`, if that is what failed.
pub(super) fn raised(error: &Error) -> Option<&str> {
    std::error::Error::source(error)?.downcast_ref().map(|Raised(message)| message.as_str())
}

pub(super) fn install(environment: &mut Environment<'static>) {
    environment.add_filter("tojson", tojson);
    environment.add_filter("join", join);
    environment.add_filter("trim", |value: &Value, chars: Option<&str>| trim(&value.to_string(), chars, true, true));
    environment.add_function("raise_exception", |message: &Value| -> Result<Value, Error> {
        let message = message.to_string();
        Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
    });
    set_now(environment, None);
    environment.set_unknown_method_callback(method);
    environment.set_formatter(|output, state, value| match float(value) {
        Some(number) => output.write_str(&python_float(number)).map_err(Error::from),
        None => minijinja::escape_formatter(output, state, value),
    });
}

/// `strftime_now(format)` at a fixed time, or at the time of the call.
pub(super) fn set_now(environment: &mut Environment<'static>, seconds: Option<i64>) {
    environment.add_function("strftime_now", move |format: &str| {
        strftime(format, seconds)
            .ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "strftime_now takes a short format"))
    });
}

/// Local time in C's `strftime`, which Python's is too.
fn strftime(format: &str, seconds: Option<i64>) -> Option<String> {
    let format = std::ffi::CString::new(format).ok()?;
    let mut buffer = [0_u8; 512];
    // SAFETY: localtime_r fills `local`, which strftime reads; strftime writes at most the buffer's length and returns
    // how many bytes it wrote. The format ends with a NUL.
    let length = unsafe {
        let now = seconds.unwrap_or_else(|| libc::time(std::ptr::null_mut()));
        let mut local = std::mem::zeroed();
        if libc::localtime_r(&now, &mut local).is_null() {
            return None;
        }
        libc::strftime(buffer.as_mut_ptr().cast(), buffer.len(), format.as_ptr(), &local)
    };
    if length == 0 && !format.is_empty() {
        return None;
    }
    String::from_utf8(buffer[..length].to_vec()).ok()
}

/// Python's methods where `pycompat` lacks or differs from them.
fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let Some(text) = value.as_str() else {
        return minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args);
    };
    match name {
        "strip" | "lstrip" | "rstrip" => {
            let (chars,): (Option<&str>,) = from_args(args)?;
            Ok(Value::from(trim(text, chars, name != "rstrip", name != "lstrip")))
        }
        "split" if args.is_empty() => {
            charge(state, text.len())?;
            Ok(text.split(is_python_space).filter(|part| !part.is_empty()).map(Value::from).collect())
        }
        "join" => {
            let (items,): (&Value,) = from_args(args)?;
            charge_texts(state, items)?;
            minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args)
        }
        "format" => {
            // A width asks for that much memory, wherever it stands.
            let long_number = |text: &str| text.split(|c: char| !c.is_ascii_digit()).any(|digits| digits.len() > 4);
            if long_number(text) {
                return Err(Error::new(ErrorKind::InvalidOperation, "format was given too large a width"));
            }
            minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args)
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Ok(Value::from(text.strip_prefix(prefix).unwrap_or(text)))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Ok(Value::from(text.strip_suffix(suffix).unwrap_or(text)))
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            let found = if name == "partition" { text.split_once(separator) } else { text.rsplit_once(separator) };
            let parts = match (found, name) {
                (Some((before, after)), _) => [before, separator, after],
                (None, "partition") => [text, "", ""],
                (None, _) => ["", "", text],
            };
            Ok(parts.into_iter().map(Value::from).collect())
        }
        "rsplit" => {
            let (separator, limit): (&str, Option<usize>) = from_args(args)?;
            charge(state, text.len())?;
            let mut parts: Vec<Value> = match limit {
                Some(limit) => text.rsplitn(limit.saturating_add(1), separator).map(Value::from).collect(),
                None => text.rsplit(separator).map(Value::from).collect(),
            };
            parts.reverse();
            Ok(Value::from(parts))
        }
        _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args),
    }
}

/// Pays for as many values, ahead of making them.
fn charge(state: &State, values: usize) -> Result<(), Error> {
    state.consume_fuel(values as u64)
}

/// Pays for a copy of the strings in a list, which it may hold many times over.
fn charge_texts(state: &State, items: &Value) -> Result<(), Error> {
    if items.kind() != ValueKind::Seq {
        return Ok(());
    }
    for item in items.try_iter()? {
        charge(state, 1 + item.as_str().map_or(0, |text| text.len() / 64))?;
    }
    Ok(())
}

fn join(
    state: &mut State,
    value: &Value,
    joiner: Option<StringInput<'_>>,
    attribute: Option<&str>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    charge_texts(state, value)?;
    minijinja::filters::join(state, value, joiner, attribute, kwargs)
}

/// `str.isspace`: Unicode's white space and the four separators before it.
fn is_python_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

fn trim(text: &str, chars: Option<&str>, start: bool, end: bool) -> String {
    let drop = |c: char| chars.map_or_else(|| is_python_space(c), |chars| chars.contains(c));
    let text = if start { text.trim_start_matches(drop) } else { text };
    let text = if end { text.trim_end_matches(drop) } else { text };
    text.to_owned()
}

/// The value of a number that is not an integer.
fn float(value: &Value) -> Option<f64> {
    let is_float = value.kind() == ValueKind::Number && !value.is_integer();
    f64::try_from(value.clone()).ok().filter(|_| is_float)
}

/// `repr(float)`: Rust finds the same shortest digits and the same bounds, and writes exponents without sign and zeros.
fn python_float(number: f64) -> String {
    let text = format!("{number:?}");
    match text.split_once('e') {
        Some((digits, exponent)) => {
            let exponent: i32 = exponent.parse().unwrap_or_default();
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.abs())
        }
        None => text.replace("NaN", "nan"),
    }
}

/// A JSON object as a template value, keys in order.
pub(super) fn object_to_value(map: &serde_json::Map<String, serde_json::Value>) -> Value {
    Value::from_pairs(map.iter().map(|(key, value)| (key.clone(), json_to_value(value))))
}

fn json_to_value(value: &serde_json::Value) -> Value {
    match value {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(truth) => Value::from(*truth),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(n), _) => Value::from(n),
            (_, Some(n)) => Value::from(n),
            _ => Value::from(number.as_f64().unwrap_or_default()),
        },
        serde_json::Value::String(text) => Value::from(text.as_str()),
        serde_json::Value::Array(items) => items.iter().map(json_to_value).collect(),
        serde_json::Value::Object(map) => object_to_value(map),
    }
}

/// Python's `json.dumps(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
fn tojson(state: &State, value: &Value, kwargs: Kwargs) -> Result<String, Error> {
    let indent = match kwargs.get::<Option<Value>>("indent")?.filter(|indent| !indent.is_none()) {
        None => None,
        Some(indent) => match indent.as_str() {
            Some(text) => Some(text.to_owned()),
            None => Some(" ".repeat(indent.as_usize().unwrap_or(0).min(64))),
        },
    };
    let separators = match kwargs.get::<Option<Value>>("separators")?.filter(|pair| !pair.is_none()) {
        None => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
        Some(pair) => (pair.get_item_by_index(0)?.to_string(), pair.get_item_by_index(1)?.to_string()),
    };
    let mut writer = JsonWriter {
        state,
        output: String::new(),
        indent,
        separators,
        sorted: kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        ascii: kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
    };
    kwargs.assert_all_used()?;
    writer.value(value, 0)?;
    Ok(writer.output)
}

struct JsonWriter<'a> {
    state: &'a State<'a, 'a>,
    output: String,
    indent: Option<String>,
    /// Between items, and between key and value.
    separators: (String, String),
    sorted: bool,
    ascii: bool,
}

impl JsonWriter<'_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(Error::new(ErrorKind::InvalidOperation, "tojson was given too deep a nesting"));
        }
        charge(self.state, 1)?;
        match value.kind() {
            ValueKind::None => self.output.push_str("null"),
            ValueKind::Bool => self.output.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => match float(value) {
                Some(number) if number.is_nan() => self.output.push_str("NaN"),
                Some(number) if number.is_infinite() => {
                    self.output.push_str(if number > 0.0 { "Infinity" } else { "-Infinity" });
                }
                Some(number) => self.output.push_str(&python_float(number)),
                None => self.output.push_str(&value.to_string()),
            },
            ValueKind::String => {
                let text = value.as_str().unwrap_or_default();
                charge(self.state, text.len() / 64)?;
                self.string(text);
            }
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.group(['[', ']'], items, depth, |this, item| this.value(&item, depth + 1))?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sorted {
                    keys.sort();
                }
                self.group(['{', '}'], keys, depth, |this, key| {
                    this.string(&key.to_string());
                    this.output.push_str(&this.separators.1.clone());
                    this.value(&value.get_item(&key)?, depth + 1)
                })?;
            }
            other => {
                let detail = format!("tojson cannot write a value of type {other}");
                return Err(Error::new(ErrorKind::BadSerialization, detail));
            }
        }
        Ok(())
    }

    fn group(
        &mut self,
        [open, close]: [char; 2],
        items: Vec<Value>,
        depth: usize,
        mut write: impl FnMut(&mut Self, Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.output.push(open);
        let empty = items.is_empty();
        for (number, item) in items.into_iter().enumerate() {
            if number > 0 {
                self.output.push_str(&self.separators.0.clone());
            }
            self.new_line(depth + 1);
            write(self, item)?;
        }
        if !empty {
            self.new_line(depth);
        }
        self.output.push(close);
        Ok(())
    }

    fn new_line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.output.push('\n');
            self.output.push_str(&indent.repeat(depth));
        }
    }

    fn string(&mut self, text: &str) {
        self.output.push('"');
        for c in text.chars() {
            match c {
                '"' => self.output.push_str("\\\""),
                '\\' => self.output.push_str("\\\\"),
                '\n' => self.output.push_str("\\n"),
                '\r' => self.output.push_str("\\r"),
                '\t' => self.output.push_str("\\t"),
                '\x08' => self.output.push_str("\\b"),
                '\x0c' => self.output.push_str("\\f"),
                c if c < ' ' || self.ascii && !c.is_ascii() => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        // Writing to a String cannot fail.
                        let _ = write!(self.output, "\\u{unit:04x}");
                    }
                }
                c => self.output.push(c),
            }
        }
        self.output.push('"');
    }
}
