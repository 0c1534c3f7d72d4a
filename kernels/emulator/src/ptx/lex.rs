//! Cuts PTX text into tokens: words (`ld.global.f32`, `%r1`, `$L__BB0_2`, `0f3F800000`), quoted strings and single punctuation marks.

/// One token and the line of the PTX text it stands on, counted from 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    pub text: String,
    pub line: u32,
    /// A quoted string: its text is never an operand or a directive.
    pub quoted: bool,
}

fn in_word(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'_' | b'$' | b'%' | b'.')
}

/// Comments are dropped, but not inside quotes: `.file` names may hold `//`.
pub fn tokens(text: &str) -> Vec<Token> {
    let bytes = text.as_bytes();
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < bytes.len() {
        let start = at;
        let mut quoted = false;
        match bytes[at] {
            b'\n' => {
                line += 1;
                at += 1;
                continue;
            }
            c if c.is_ascii_whitespace() || c == 0 => {
                at += 1;
                continue;
            }
            b'/' if bytes.get(at + 1) == Some(&b'/') => {
                while at < bytes.len() && bytes[at] != b'\n' {
                    at += 1;
                }
                continue;
            }
            b'/' if bytes.get(at + 1) == Some(&b'*') => {
                let end = text[at + 2..].find("*/").map_or(bytes.len(), |end| at + 2 + end + 2);
                line += text[at..end].matches('\n').count() as u32;
                at = end;
                continue;
            }
            b'"' => {
                quoted = true;
                at += 1;
                while at < bytes.len() && bytes[at] != b'"' {
                    at += 1;
                }
                at += 1;
            }
            c if in_word(c) => {
                // `::` belongs to a word (`.shared::cta`), a single `:` ends a label.
                while at < bytes.len() {
                    if in_word(bytes[at]) {
                        at += 1;
                    } else if bytes[at..].starts_with(b"::") {
                        at += 2;
                    } else {
                        break;
                    }
                }
            }
            _ => at += 1,
        }
        let piece = if quoted { &text[start + 1..at.min(bytes.len()).max(start + 2) - 1] } else { &text[start..at] };
        tokens.push(Token { text: piece.to_owned(), line, quoted });
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<String> {
        tokens(text).into_iter().map(|token| token.text).collect()
    }

    #[test]
    fn slashes_in_file_names_start_no_comment() {
        assert_eq!(texts(".file 1 \"a//b.cu\" // end\nret;"), [".file", "1", "a//b.cu", "ret", ";"]);
    }

    #[test]
    fn scoped_qualifiers_stay_in_their_word() {
        assert_eq!(texts("a.shared::cta.b64 [%rd1+8];"), ["a.shared::cta.b64", "[", "%rd1", "+", "8", "]", ";"]);
        assert_eq!(texts("$L1: @!%p1 bra $L1;"), ["$L1", ":", "@", "!", "%p1", "bra", "$L1", ";"]);
    }

    #[test]
    fn lines_are_counted_through_comments() {
        assert_eq!(tokens("/* a\nb */\nret").first().map(|token| token.line), Some(3));
    }
}
