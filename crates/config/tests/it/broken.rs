//! Broken files, and what is said of them.

use crate::{read, said};
use std::fmt::Write;

/// The files are in `broken.txt`, each after a line `=== what is wrong`; `␉` is a tab.
#[test]
fn every_mistake_is_said_with_its_place_and_what_to_write() {
    let mut report = String::new();
    for case in include_str!("broken.txt").split("=== ").skip(1) {
        let (title, text) = case.split_once('\n').unwrap();
        let said = said(&text.replace('␉', "\t"));
        let _ = writeln!(report, "=== {title}\n{said}\n");
    }
    insta::assert_snapshot!(report);
}

#[test]
fn text_nested_ten_thousand_deep_is_refused() {
    let deep = 10_000;
    let sources = [
        "[".repeat(deep),
        format!("a: {}", "{b: ".repeat(deep)),
        "- ".repeat(deep),
        (0..deep).map(|indent| format!("{}a:\n", " ".repeat(indent))).collect::<String>(),
        format!("{}x{}", "[".repeat(deep), "]".repeat(deep)),
        "? ".repeat(deep),
    ];
    for source in sources {
        let mistakes = read(&source).unwrap_err();
        assert_eq!(mistakes.0.len(), 1, "{mistakes}");
        let said = mistakes.to_string();
        assert!(said.contains("nest more than 64 deep") || said.contains("key must be"), "{said}");
        assert!(said.len() < 1000, "{said}");
    }
}

#[test]
fn sixty_four_deep_is_read_and_one_more_is_not() {
    let nested = |depth: usize| format!("a: {}1{}", "[".repeat(depth), "]".repeat(depth));
    assert!(said(&nested(63)).contains("unknown field"), "{}", said(&nested(63)));
    assert!(said(&nested(64)).contains("nest more than 64 deep"), "{}", said(&nested(64)));
}

#[test]
fn aliases_cannot_multiply_or_deepen() {
    let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let below = vec![format!("*a{}", level - 1); 9].join(", ");
        let _ = writeln!(laughs, "a{level}: &a{level} [{below}]");
    }
    assert!(said(&laughs).contains("more than 200000 values"), "{}", said(&laughs));

    let mut chain = "a0: &a0 [x]\n".to_owned();
    for level in 1..200 {
        let _ = writeln!(chain, "a{level}: &a{level} [*a{}]", level - 1);
    }
    assert!(said(&chain).contains("nest more than 64 deep"), "{}", said(&chain));
}

#[test]
fn a_huge_text_gives_a_short_excerpt() {
    let huge = "x".repeat(500_000);
    let text =
        format!("pipeline: {huge}\nsource: {{ topic: t, format: {huge} }}\n{}: 1\n", &huge[..900]);
    let said = said(&text);
    assert!(said.len() < 3000, "{} bytes", said.len());
    assert!(said.contains("a name has at most 200 characters"), "{said}");
    assert!(said.contains("unknown field `xxxxxxxx"), "{said}");
    // The mark stays in view, far into a line.
    let far =
        format!("pipeline: p\nsource: {{ topic: t, description: \"{huge}\", format: avor }}\n");
    let line = crate::said(&far);
    assert!(line.contains("format: avor"), "{line}");
}

#[test]
fn a_file_of_mistakes_shows_the_first_hundred() {
    let text: String = (0..5000).map(|n| format!("field{n}: 1\n")).collect();
    let mistakes = read(&text).unwrap_err();
    assert_eq!(mistakes.0.len(), 101);
    // The 5,000 fields and three that are missing.
    assert!(mistakes.0[100].message.starts_with("4903 more"), "{}", mistakes.0[100].message);
}

#[test]
fn windows_line_ends_do_not_move_a_place() {
    let text = include_str!("broken.txt");
    let case = text.split("=== ").find(|case| case.starts_with("several in one file")).unwrap();
    let text = case.split_once('\n').unwrap().1;
    assert_eq!(said(text), said(&text.replace('\n', "\r\n")));
    assert_eq!(said(text), said(&text.replace('\n', "\r")));
    assert_eq!(said(text), said(&format!("\u{feff}{text}")));
}

#[test]
fn characters_that_no_text_has_are_refused() {
    for (text, place) in [
        ("pipeline: p\0\nsource: x", "pipeline.yaml:1:12"),
        ("pipeline: p\nsource: \x1b[31m", "pipeline.yaml:2:9"),
        ("pipeline: p\r\nsou\u{feff}rce: x", "pipeline.yaml:2:4"),
    ] {
        let said = said(text);
        assert!(said.contains("is not allowed") && said.contains(place), "{said}");
        assert!(!said.contains('\x1b') && !said.contains('\0'), "{said:?}");
    }
}

#[test]
fn a_file_without_content_says_how_to_begin() {
    for text in ["", "\n\n", "# only a comment\n", "\u{feff}", "---\n", "--- \n...\n"] {
        let said = said(text);
        assert!(said.contains("is empty") && said.contains("pipeline: NAME"), "{text:?}: {said}");
    }
}

/// No text makes the reader panic or hang: every prefix of a real file, and each of its characters
/// replaced by ones that YAML gives a meaning.
#[test]
fn damaged_files_are_mistakes_and_never_a_panic() {
    let text = include_str!("navigation.yaml");
    let starts: Vec<usize> = text.char_indices().map(|(index, _)| index).collect();
    for &cut in &starts {
        let _ = read(&text[..cut]).map_err(|mistakes| mistakes.to_string());
    }
    let meanings = [
        "{", "}", "[", "]", ":", "- ", "|", ">", "\"", "'", "&a ", "*a", "!", "%", "\t", "\n",
        "${", "#", "?", ",",
    ];
    for (turn, &at) in starts.iter().enumerate() {
        let end = starts.get(turn + 1).copied().unwrap_or(text.len());
        let damaged = format!("{}{}{}", &text[..at], meanings[turn % meanings.len()], &text[end..]);
        let _ = read(&damaged).map_err(|mistakes| mistakes.to_string());
    }
}

#[test]
fn mistakes_are_json_and_colour_is_a_choice() {
    let mistakes =
        read("pipeline: p\nsource: { topik: t, format: json }\nsinks: [discard: true]\n");
    let mistakes = mistakes.unwrap_err();
    insta::assert_json_snapshot!(mistakes, @r#"
    [
      {
        "file": "pipeline.yaml",
        "line": 2,
        "column": 11,
        "message": "unknown field `topik` in `source`",
        "hint": "did you mean `topic`?",
        "excerpt": "source: { topik: t, format: json }",
        "mark": [
          10,
          5
        ]
      }
    ]
    "#);
    assert!(mistakes.render(true).contains("\x1b["));
    assert!(!mistakes.render(false).contains('\x1b'));
    let plain = anstrip(&mistakes.render(true));
    assert_eq!(plain, mistakes.render(false));
}

fn anstrip(text: &str) -> String {
    let mut parts = text.split("\x1b[");
    let first = parts.next().unwrap().to_owned();
    parts.fold(first, |all, part| all + part.split_once('m').unwrap().1)
}
