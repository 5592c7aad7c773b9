//! What a server says of a request, without the secrets that the request held. Servers repeat a part
//! of a header as well as all of it, and write it as their answer's format wants: escaped as in JSON,
//! HTML or an address.

use crate::request::Headers;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hyper::header::HeaderValue;

/// Shorter ones are left: they would tear other words apart, and keep nobody out.
const SECRET_BYTES_MIN: usize = 4;
/// Words that headers say how they are to be read by.
const NO_SECRETS: [&str; 10] = [
    "apikey",
    "api-key",
    "basic",
    "bearer",
    "digest",
    "key",
    "negotiate",
    "oauth",
    "password",
    "token",
];

/// The secrets of a request as it was sent, and parts of them.
#[derive(Default)]
pub(crate) struct Secrets(Vec<String>);

impl Secrets {
    /// `authorization` is the header of that name that the request had besides `headers`.
    pub fn of(target: &str, headers: &Headers, authorization: Option<&HeaderValue>) -> Secrets {
        let mut secrets = Secrets::default();
        let given = headers.0.iter().map(|(_, value)| value);
        for value in given.chain(authorization) {
            // Not all that a header may hold is ASCII.
            secrets.header(&String::from_utf8_lossy(value.as_bytes()));
        }
        if let Some((_, query)) = target.split_once('?') {
            for pair in query.split('&') {
                let value = pair.split_once('=').map_or(pair, |(_, value)| value);
                secrets.add(value);
                secrets.add(&value.replace('+', " "));
            }
        }
        secrets.0.sort_unstable();
        secrets.0.dedup();
        secrets
    }

    /// `TOKEN`, `SCHEME TOKEN`, `USER:PASSWORD`, `NAME=VALUE; NAME="VALUE"`.
    fn header(&mut self, value: &str) {
        self.add(value);
        let mut before = "";
        for word in value.split([' ', '\t', ';', ',']).filter(|word| !word.is_empty()) {
            self.add(word);
            for sign in ['=', ':'] {
                if let Some((_, value)) = word.split_once(sign) {
                    self.add(value);
                }
            }
            if before.eq_ignore_ascii_case("basic")
                && let Ok(decoded) = BASE64.decode(word)
            {
                let decoded = String::from_utf8_lossy(&decoded);
                self.add(&decoded);
                self.add(decoded.split_once(':').map_or("", |(_, password)| password));
            }
            before = word;
        }
    }

    /// Adds it, without the signs around it too, and decoded.
    fn add(&mut self, secret: &str) {
        let bare = secret.trim_matches(['"', '\'', '=']);
        for one in [secret, bare, &unescaped(secret), &unescaped(bare)] {
            let is_known = NO_SECRETS.iter().any(|word| word.eq_ignore_ascii_case(one));
            if one.len() >= SECRET_BYTES_MIN && !is_known {
                self.0.push(one.to_owned());
            }
        }
    }

    /// The text with `***` in place of each of them. Where they overlap all of them are gone.
    pub fn hide(&self, text: &str) -> String {
        let mut may_begin = [false; 256];
        self.0.iter().for_each(|secret| may_begin[usize::from(secret.as_bytes()[0])] = true);
        b"\\%&".iter().for_each(|escape| may_begin[usize::from(*escape)] = true);
        let mut shown = String::with_capacity(text.len());
        let mut hidden_to = 0;
        for (at, letter) in text.char_indices() {
            if may_begin[usize::from(text.as_bytes()[at])] {
                let found = self.0.iter().filter_map(|secret| begins_with(&text[at..], secret));
                if let Some(length) = found.max() {
                    if at >= hidden_to {
                        shown.push_str("***");
                    }
                    hidden_to = hidden_to.max(at + length);
                }
            }
            if at >= hidden_to {
                shown.push(letter);
            }
        }
        shown
    }
}

/// How many bytes of the text are the secret, if it begins so: as it is, or each letter as it is or
/// escaped.
fn begins_with(text: &str, secret: &str) -> Option<usize> {
    if text.starts_with(secret) {
        return Some(secret.len());
    }
    let mut rest = text;
    for letter in secret.chars() {
        rest = match escaped(rest) {
            Some((found, length)) if found == letter => &rest[length..],
            _ => rest.strip_prefix(letter)?,
        };
    }
    Some(text.len() - rest.len())
}

/// The letter whose escape the text begins with, and the escape's length.
fn escaped(text: &str) -> Option<(char, usize)> {
    match text.as_bytes() {
        [b'%', ..] => percent(text),
        [b'\\', b'u', ..] => {
            let unit = |at: usize| {
                let found = text.get(at..at + 6)?.strip_prefix("\\u")?;
                number(found, 16).and_then(|unit| u16::try_from(unit).ok())
            };
            let first = unit(0)?;
            match char::decode_utf16([first]).next()? {
                Ok(letter) => Some((letter, 6)),
                Err(_) => {
                    let both = char::decode_utf16([first, unit(6)?]).next()?;
                    both.ok().map(|letter| (letter, 12))
                }
            }
        }
        [b'\\', letter, ..] => Some(match letter {
            b'"' | b'\\' | b'/' | b'\'' => (char::from(*letter), 2),
            b't' => ('\t', 2),
            _ => return None,
        }),
        [b'&', ..] => {
            let (name, _) = text[1..].split_once(';')?;
            let letter = match name {
                "amp" => '&',
                "lt" => '<',
                "gt" => '>',
                "quot" => '"',
                "apos" => '\'',
                _ => {
                    let digits = name.strip_prefix('#')?;
                    let code = match digits.strip_prefix(['x', 'X']) {
                        Some(digits) => number(digits, 16),
                        None => number(digits, 10),
                    };
                    char::from_u32(code?)?
                }
            };
            Some((letter, name.len() + 2))
        }
        _ => None,
    }
}

/// A letter of one or more bytes that are each `%XX`.
fn percent(text: &str) -> Option<(char, usize)> {
    let byte = |at: usize| {
        let digits = text.get(3 * at..3 * at + 3)?.strip_prefix('%')?;
        number(digits, 16).and_then(|byte| u8::try_from(byte).ok())
    };
    let width = match byte(0)? {
        0xC0..0xE0 => 2,
        0xE0..0xF0 => 3,
        0xF0.. => 4,
        _ => 1,
    };
    let bytes: Vec<u8> = (0..width).map(byte).collect::<Option<_>>()?;
    let letter = std::str::from_utf8(&bytes).ok()?.chars().next()?;
    Some((letter, 3 * width))
}

fn unescaped(text: &str) -> String {
    let (mut plain, mut rest) = (String::new(), text);
    while let Some(letter) = rest.chars().next() {
        let (letter, length) = percent(rest).unwrap_or((letter, letter.len_utf8()));
        plain.push(letter);
        rest = &rest[length..];
    }
    plain
}

/// Digits alone, no more than a letter's code has.
fn number(digits: &str, radix: u32) -> Option<u32> {
    let is_number = digits.len() <= 7 && digits.chars().all(|digit| digit.is_digit(radix));
    is_number.then(|| u32::from_str_radix(digits, radix).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::headers;
    use millstream_core::Hidden;

    fn shown(given: &[&str], target: &str, said: &str) -> String {
        let given: Vec<_> = given.iter().map(|value| Hidden((*value).into())).collect();
        let headers = headers(given.iter().map(|value| ("X-Given", value))).unwrap();
        Secrets::of(target, &headers, None).hide(said)
    }

    #[test]
    fn each_part_of_a_header_is_a_secret_but_not_what_it_is_called() {
        for (given, said, expected) in [
            ("Token canary", "Invalid token `canary`", "Invalid token `***`"),
            ("bearer canary", "bearer canary", "***"),
            ("s=canary", "the session canary ended", "the session *** ended"),
            ("a=1; s=\"canary\", b=x", "s: canary", "s: ***"),
            ("me:canary", "me: canary", "me: ***"),
            ("s=can%20ary", "no can ary", "no ***"),
            ("Basic bWU6Y2FuYXJ5", "me may not canary", "me may not ***"),
            ("Y2FuYXJ5MQ==", "no Y2FuYXJ5MQ", "no ***"),
            ("Digest username=\"me\", response=\"canary\"", "Digest canary", "Digest ***"),
            ("abc", "abc", "abc"),
            ("Token abc", "token abc of Token", "token abc of Token"),
        ] {
            assert_eq!(shown(&[given], "/", said), expected, "{given}");
        }
    }

    #[test]
    fn a_query_is_hidden_as_it_was_sent_and_as_it_is_meant() {
        let target = "/?key=can%2Fary&q=a+canary+b&barekey&n=1";
        let said = "can/ary, can%2fary, can%2Fary, a canary b, a+canary+b, barekey, 1";
        assert_eq!(shown(&[], target, said), "***, ***, ***, ***, ***, ***, 1");
    }

    #[test]
    fn escapes_of_every_format_are_seen_through() {
        let secret = "c\"a\\n/ä😀&y";
        for said in [
            r#"c"a\n/ä😀&y"#,
            r#"c\"a\\n\/ä😀&y"#,
            r"c\u0022a\u005cn\u002F\u00e4\ud83d\ude00\u0026y",
            "%63%22a%5Cn%2f%C3%A4%F0%9F%98%80%26y",
            "c&quot;a&#92;n&#x2F;&#xe4;&#128512;&amp;y",
        ] {
            assert_eq!(shown(&[secret], "/", &format!("no {said}!")), "no ***!", "{said}");
        }
        // What is no escape, or half of one, is itself.
        for said in ["%", "%4", "%c3%", "%zz", "\\", "\\u", "\\u+123", "\\ud83d", "&", "&#;", "&ä;"]
        {
            assert_eq!(shown(&["canary"], "/", said), said);
            assert_eq!(shown(&["canary"], "/", &format!("{said}canary")), format!("{said}***"));
        }
    }

    #[test]
    fn secrets_that_overlap_leave_nothing() {
        assert_eq!(shown(&["abcdef", "xabc", "defg"], "/", "<xabcdefg>"), "<***>");
        assert_eq!(shown(&["hunter2", "hunter22"], "/", "hunter22, hunter2s"), "***, ***s");
    }
}
