//! The words of a `.proto` file.

/// Longer than any schema that a registry takes.
const TEXT_BYTES_MAX: usize = 4 << 20;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// A name or a keyword; with dots where they touch it: `.google.protobuf.Any`.
    Word(&'a str),
    /// A number as it is written.
    Number(&'a str),
    /// What is between the quotes, escapes untouched: only the names of files matter.
    Text(&'a str),
    Sign(u8),
}

/// The words, each with its line, from 1.
pub(super) fn tokens(text: &str) -> Result<Vec<(Token<'_>, u32)>, String> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(format!("it has {} bytes, more than {TEXT_BYTES_MAX}", text.len()));
    }
    let bytes = text.as_bytes();
    let (mut tokens, mut at, mut line) = (Vec::new(), 0, 1);
    while let Some(&byte) = bytes.get(at) {
        let rest = &text.as_bytes()[at..];
        match byte {
            b'\n' => (line, at) = (line + 1, at + 1),
            b' ' | b'\t' | b'\r' | 0x0b | 0x0c => at += 1,
            b'/' if rest.starts_with(b"//") => {
                at += rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
            }
            b'/' if rest.starts_with(b"/*") => {
                let end = text[at + 2..].find("*/");
                let end = end.ok_or_else(|| format!("line {line}: a comment does not end"))?;
                let comment = &bytes[at..at + end + 4];
                line += comment.iter().filter(|byte| **byte == b'\n').count() as u32;
                at += comment.len();
            }
            b'"' | b'\'' => {
                let mut end = 1;
                while rest.get(end).is_some_and(|inner| *inner != byte && *inner != b'\n') {
                    end += if rest[end] == b'\\' { 2 } else { 1 };
                }
                if rest.get(end) != Some(&byte) {
                    return Err(format!("line {line}: a text does not end"));
                }
                // Quotes are ASCII: they are at the borders of characters.
                tokens.push((Token::Text(&text[at + 1..at + end]), line));
                at += end + 1;
            }
            _ if word(byte) || (byte == b'.' && rest.get(1).is_some_and(|next| word(*next))) => {
                let number = byte.is_ascii_digit()
                    || (byte == b'.' && rest.get(1).is_some_and(u8::is_ascii_digit));
                let inside = |byte: &u8| word(*byte) || *byte == b'.';
                let length = rest.iter().position(|byte| !inside(byte)).unwrap_or(rest.len());
                let whole = &text[at..at + length];
                tokens.push((if number { Token::Number(whole) } else { Token::Word(whole) }, line));
                at += length;
            }
            _ if byte.is_ascii_graphic() => {
                tokens.push((Token::Sign(byte), line));
                at += 1;
            }
            _ => return Err(format!("line {line}: byte {byte:#04x} has no place outside a text")),
        }
    }
    Ok(tokens)
}

fn word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}
