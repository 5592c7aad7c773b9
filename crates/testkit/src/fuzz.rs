//! A small mutation fuzzer for whatever parses bytes from outside, on the stable toolchain.
//!
//! Every case is made from its own seed and the corpus, and from nothing else, so that a failure is
//! replayed by its seed alone. Coverage does not guide it: the corpus must reach the branches.
//!
//! - `MILLSTREAM_FUZZ_SECONDS=60` runs each target so long, from seeds that nobody tried before.
//!   Without it a target runs for a moment, always from the same seeds: a good tree stays good.
//! - `MILLSTREAM_FUZZ_SEED=7` runs the one case of this seed.
//! - `MILLSTREAM_FUZZ_TRACE=1` names each seed before it runs, for what no test can catch: an abort,
//!   a stack that overflows, a case that never ends.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use std::env;
use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

/// Inputs grow no longer than this, or than twice the longest of the corpus.
const BYTES_MAX: usize = 64 << 10;
const DEFAULT_MS: u64 = 300;

/// Where bounds, signs and lengths go wrong.
const INTEGERS: [i64; 24] = [
    0,
    1,
    -1,
    2,
    7,
    8,
    16,
    32,
    63,
    64,
    100,
    127,
    128,
    255,
    256,
    32_767,
    65_535,
    65_536,
    i32::MAX as i64,
    i32::MIN as i64,
    u32::MAX as i64,
    1 << 62,
    i64::MAX,
    i64::MIN,
];

const WORDS: [&str; 44] = [
    "0",
    "1",
    "-1",
    "2147483647",
    "2147483648",
    "-2147483649",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
    "340282366920938463463374607431768211456",
    "1e308",
    "1e999",
    "-0.0",
    "0.1",
    "1e-400",
    "NaN",
    "inf",
    "null",
    "true",
    "false",
    "",
    " ",
    "\n",
    "\t",
    "\r\n",
    "\0",
    "\u{1b}",
    "\u{feff}",
    "\u{2028}",
    "é",
    "日本",
    "🦀",
    "e\u{301}",
    "\\",
    "\\u0000",
    "\\ud800",
    "'",
    "\"",
    "`",
    ",",
    ".",
    ":",
    "/",
    "%",
];

const PAIRS: [(&str, &str); 7] =
    [("(", ")"), ("[", "]"), ("{", "}"), ("<", ">"), ("'", "'"), ("\"", "\""), ("a(", ")")];

/// Gives `target` mutants of a binary corpus. `name` is the name of the test.
///
/// # Panics
/// When the target does, after printing how to replay it.
pub fn run<T: AsRef<[u8]>>(name: &str, corpus: &[T], target: impl FnMut(&[u8])) {
    let corpus: Vec<&[u8]> = corpus.iter().map(AsRef::as_ref).collect();
    drive(name, &corpus, |rng| mutant(rng, &corpus, &[]), target);
}

/// Gives `target` mutants of a corpus of text, made token by token most of the time. `words` are
/// those that the parser knows.
///
/// # Panics
/// When the target does, after printing how to replay it.
pub fn run_text<T: AsRef<str>>(
    name: &str,
    corpus: &[T],
    words: &[&str],
    mut target: impl FnMut(&str),
) {
    let texts: Vec<&str> = corpus.iter().map(AsRef::as_ref).collect();
    let bytes: Vec<&[u8]> = texts.iter().map(|text| text.as_bytes()).collect();
    let tokens: Vec<Vec<&str>> = texts.iter().map(|text| tokens(text)).collect();
    let words: Vec<&str> = words.iter().chain(&WORDS).copied().collect();
    let make = |rng: &mut StdRng| match rng.random_ratio(1, 5) {
        true => mutant(rng, &bytes, &words),
        false => text_mutant(rng, &tokens, &words).into_bytes(),
    };
    drive(name, &bytes, make, |bytes| target(&String::from_utf8_lossy(bytes)));
}

/// What the environment asks for.
struct Plan {
    first: u64,
    budget: Duration,
    one: bool,
    trace: bool,
}

impl Plan {
    fn of(name: &str) -> Self {
        let number = |key: &str| -> Option<f64> {
            env::var(key).ok().map(|text| text.parse().expect("a number in a fuzz variable"))
        };
        let seed = env::var("MILLSTREAM_FUZZ_SEED").ok();
        let one = seed.map(|text| text.parse().expect("MILLSTREAM_FUZZ_SEED is a number"));
        let seconds = number("MILLSTREAM_FUZZ_SECONDS");
        let first = match (one, seconds) {
            (Some(seed), _) => seed,
            (None, Some(_)) => rand::random::<u64>() >> 1,
            (None, None) => u64::from(crc32c::crc32c(name.as_bytes())) << 24,
        };
        let budget = seconds.map(Duration::from_secs_f64);
        Self {
            first,
            budget: budget.unwrap_or(Duration::from_millis(DEFAULT_MS)),
            one: one.is_some(),
            trace: env::var_os("MILLSTREAM_FUZZ_TRACE").is_some(),
        }
    }
}

fn drive(
    name: &str,
    corpus: &[&[u8]],
    mut make: impl FnMut(&mut StdRng) -> Vec<u8>,
    mut target: impl FnMut(&[u8]),
) {
    assert!(!corpus.is_empty(), "{name} has no corpus");
    let plan = Plan::of(name);
    let longest = corpus.iter().map(|entry| entry.len()).max().unwrap_or(0);
    let bytes_max = BYTES_MAX.max(2 * longest);
    if !plan.one {
        for (at, entry) in corpus.iter().enumerate() {
            case(&format!("{name}: entry {at} of the corpus"), "", entry, &mut target);
        }
    }
    let begun = Instant::now();
    let mut slowest = (Duration::ZERO, plan.first);
    let mut seed = plan.first;
    loop {
        if plan.trace {
            eprintln!("{name}: seed {seed}");
        }
        let mut input = make(&mut StdRng::seed_from_u64(seed));
        input.truncate(bytes_max);
        let package = env::var("CARGO_PKG_NAME").unwrap_or_else(|_| "PACKAGE".into());
        let replay = format!("MILLSTREAM_FUZZ_SEED={seed} cargo test -p {package} {name}");
        let started = Instant::now();
        case(&format!("{name}: seed {seed}"), &replay, &input, &mut target);
        slowest = slowest.max((started.elapsed(), seed));
        seed = seed.wrapping_add(1);
        if plan.one || begun.elapsed() >= plan.budget {
            break;
        }
    }
    let cases = seed.wrapping_sub(plan.first);
    eprintln!(
        "{name}: {cases} cases from seed {}, the slowest {} in {:?}",
        plan.first, slowest.1, slowest.0
    );
}

fn case(what: &str, replay: &str, input: &[u8], target: &mut impl FnMut(&[u8])) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(input))) {
        let hex = input.iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        eprintln!("\n{what} panics\n  input   {hex}");
        if let Ok(text) = std::str::from_utf8(input) {
            eprintln!("  as text {text:?}");
        }
        if !replay.is_empty() {
            eprintln!("  replay  {replay}");
        }
        resume_unwind(panic);
    }
}

/// How many changes a case has: mostly one or two.
fn changes(rng: &mut StdRng) -> usize {
    *[1, 1, 1, 2, 2, 3, 5, 10].choose(rng).expect("not empty")
}

/// How often something is repeated.
fn times(rng: &mut StdRng) -> usize {
    *[1, 1, 2, 2, 3, 8, 33, 129, 1_000, 20_000].choose(rng).expect("not empty")
}

fn mutant(rng: &mut StdRng, corpus: &[&[u8]], words: &[&str]) -> Vec<u8> {
    let mut bytes = corpus.choose(rng).expect("not empty").to_vec();
    for _ in 0..changes(rng) {
        change(rng, &mut bytes, corpus, words);
    }
    bytes
}

fn change(rng: &mut StdRng, bytes: &mut Vec<u8>, corpus: &[&[u8]], words: &[&str]) {
    let at = rng.random_range(0..=bytes.len());
    let len_max = 1 << rng.random_range(0..12);
    let len = rng.random_range(0..=(bytes.len() - at).min(len_max));
    match rng.random_range(0..13) {
        0 | 1 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
        2 if at < bytes.len() => bytes[at] = rng.random(),
        3 if at < bytes.len() => {
            let step = rng.random_range(1..=16);
            bytes[at] = match rng.random() {
                true => bytes[at].wrapping_add(step),
                false => bytes[at].wrapping_sub(step),
            };
        }
        4 => bytes.truncate(at),
        5 => drop(bytes.drain(at..at + len)),
        6 => {
            let fresh: Vec<u8> = (0..rng.random_range(1..=16)).map(|_| rng.random()).collect();
            bytes.splice(at..at, fresh);
        }
        7 => {
            let number = integer(rng);
            let end = (at + number.len()).min(bytes.len());
            bytes.splice(at..end, number);
        }
        8 => {
            let varint = varint(rng);
            let over = if rng.random() { (at + 1).min(bytes.len()) } else { at };
            bytes.splice(at..over, varint);
        }
        9 => {
            let piece = bytes[at..at + len].to_vec();
            let count = times(rng).min(BYTES_MAX / piece.len().max(1));
            bytes.splice(at..at, piece.repeat(count));
        }
        10 => {
            let other = corpus.choose(rng).expect("not empty");
            let from = rng.random_range(0..=other.len());
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..]);
        }
        11 if !words.is_empty() => {
            let word = words.choose(rng).expect("not empty");
            bytes.splice(at..at, word.bytes());
        }
        _ => {
            let to = rng.random_range(0..=bytes.len());
            let piece = bytes[at..at + len].to_vec();
            let end = (to + piece.len()).min(bytes.len());
            bytes.splice(to..end, piece);
        }
    }
}

fn integer(rng: &mut StdRng) -> Vec<u8> {
    let value = *INTEGERS.choose(rng).expect("not empty");
    let width = *[1, 2, 4, 8].choose(rng).expect("not empty");
    match rng.random() {
        true => value.to_be_bytes()[8 - width..].to_vec(),
        false => value.to_le_bytes()[..width].to_vec(),
    }
}

fn varint(rng: &mut StdRng) -> Vec<u8> {
    let value = *INTEGERS.choose(rng).expect("not empty");
    let mut rest = match rng.random() {
        true => ((value << 1) ^ (value >> 63)) as u64,
        false => value as u64,
    };
    let mut bytes = Vec::new();
    while rest >= 0x80 {
        bytes.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
    if rng.random_ratio(1, 8) {
        // Longer than it need be, or than it may be.
        let last = bytes.len() - 1;
        bytes[last] |= 0x80;
        bytes.extend(std::iter::repeat_n(0x80, rng.random_range(0..10)));
        bytes.push(rng.random::<u8>() & 1);
    }
    bytes
}

/// Words and numbers, runs of blanks, and every other character alone.
fn tokens(text: &str) -> Vec<&str> {
    let class = |c: char| match c {
        c if c.is_alphanumeric() || c == '_' => 0,
        ' ' => 1,
        _ => 2,
    };
    let mut tokens = Vec::new();
    let mut start = 0;
    let mut last = None;
    for (at, c) in text.char_indices() {
        if at > 0 && (class(c) == 2 || Some(class(c)) != last) {
            tokens.push(&text[start..at]);
            start = at;
        }
        last = Some(class(c));
    }
    tokens.push(&text[start..]);
    tokens
}

fn text_mutant(rng: &mut StdRng, corpus: &[Vec<&str>], words: &[&str]) -> String {
    let mut text = corpus.choose(rng).expect("not empty").clone();
    for _ in 0..changes(rng) {
        change_text(rng, &mut text, corpus, words);
    }
    text.concat()
}

fn change_text<'a>(
    rng: &mut StdRng,
    text: &mut Vec<&'a str>,
    corpus: &[Vec<&'a str>],
    words: &[&'a str],
) {
    let at = rng.random_range(0..=text.len());
    let len_max = 1 << rng.random_range(0..6);
    let len = rng.random_range(0..=(text.len() - at).min(len_max));
    let other = corpus.choose(rng).expect("not empty");
    let from = rng.random_range(0..=other.len());
    let upto = from + rng.random_range(0..=(other.len() - from).min(12));
    let word = *words.choose(rng).expect("not empty");
    match rng.random_range(0..12) {
        0 | 1 if at < text.len() => text[at] = word,
        2 if at < text.len() && from < other.len() => text[at] = other[from],
        3 => drop(text.splice(at..at, [word])),
        4 => drop(text.splice(at..at, [" ", word, " "])),
        5 => drop(text.splice(at..at + len, other[from..upto].iter().copied())),
        6 => drop(text.drain(at..at + len)),
        7 => {
            let piece = text[at..at + len].to_vec();
            let bytes: usize = piece.iter().map(|token| token.len()).sum();
            let count = times(rng).min(BYTES_MAX / bytes.max(1));
            drop(text.splice(at..at, piece.repeat(count)));
        }
        8 => {
            let (open, close) = *PAIRS.choose(rng).expect("not empty");
            let depth = times(rng);
            drop(text.splice(at + len..at + len, std::iter::repeat_n(close, depth)));
            drop(text.splice(at..at, std::iter::repeat_n(open, depth)));
        }
        9 => {
            text.truncate(at);
            text.extend_from_slice(&other[from..]);
        }
        10 => {
            let end = at + len;
            let to = rng.random_range(0..=text.len() - len);
            let piece: Vec<&str> = text.drain(at..end).collect();
            drop(text.splice(to..to, piece));
        }
        _ => text.truncate(at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_the_same_case_and_others_make_others() {
        let corpus: [&[u8]; 2] = [b"the first of two", b"and the second"];
        let make = |seed| mutant(&mut StdRng::seed_from_u64(seed), &corpus, &["word"]);
        let texts = [tokens("SELECT a, b FROM t"), tokens("{\"a\": [1, 2]}")];
        let text = |seed| text_mutant(&mut StdRng::seed_from_u64(seed), &texts, &["word"]);
        let mut distinct = std::collections::BTreeSet::new();
        for seed in 0..1_000 {
            assert_eq!(make(seed), make(seed));
            assert_eq!(text(seed), text(seed));
            distinct.insert(make(seed));
        }
        assert!(distinct.len() > 800, "{}", distinct.len());
    }

    #[test]
    fn tokens_are_the_whole_text() {
        for text in ["", "a", "SELECT a_1, 'é' FROM  t\n", "🦀🦀"] {
            assert_eq!(tokens(text).concat(), text);
        }
        assert_eq!(tokens("a_1<=  23"), ["a_1", "<", "=", "  ", "23"]);
    }

    #[test]
    fn a_panic_of_the_target_is_found_and_passed_on() {
        let found = catch_unwind(|| {
            run("planted", &[b"abcdefgh"], |bytes| assert!(bytes.len() < 9, "planted"));
        });
        assert!(found.is_err(), "a longer mutant is among the first few");
    }
}
