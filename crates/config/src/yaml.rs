//! YAML text to a tree that knows the place of every key and value.
//!
//! Depth, aliases and size are bounded here, while the tree is built from the parser's events and
//! before anything recurses over it.

use crate::mistake::Found;
use crate::source::{Extent, Source};
use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span};
use std::collections::HashMap;
use std::rc::Rc;

/// How deep values may nest.
const DEPTH_MAX: u32 = 64;
/// How many values a file may hold when its aliases are written out.
const VALUES_MAX: u32 = 200_000;

#[derive(Debug)]
pub(crate) struct Node {
    pub extent: Extent,
    pub kind: Kind,
    height: u32,
    weight: u32,
}

#[derive(Debug)]
pub(crate) enum Kind {
    Scalar(Scalar),
    List(Vec<Rc<Node>>),
    Map(Vec<Entry>),
}

#[derive(Debug, Clone)]
pub(crate) struct Scalar {
    pub text: String,
    pub style: ScalarStyle,
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub key: String,
    pub key_extent: Extent,
    pub value: Rc<Node>,
}

/// What a text holds.
#[derive(Debug, Default)]
pub(crate) struct Document {
    /// `None` when the text has no content or is not YAML; the mistakes then say why not.
    pub root: Option<Rc<Node>>,
    /// Values that are not in the tree because their key was given before.
    pub dropped: Vec<(String, Extent)>,
}

pub(crate) fn parse(text: &str, source: &Source, found: &mut Vec<Found>) -> Document {
    if let Some(mistake) = unprintable(text) {
        found.push(mistake);
        return Document::default();
    }
    let mut builder = Builder {
        source,
        found,
        open: Vec::new(),
        root: None,
        dropped: Vec::new(),
        anchors: HashMap::new(),
    };
    if let Err(mistake) = builder.build(text) {
        builder.root = None;
        builder.found.push(mistake);
    }
    let empty = |root: &Rc<Node>| {
        matches!(&root.kind, Kind::Scalar(scalar)
            if scalar.text.is_empty() && scalar.style == ScalarStyle::Plain)
    };
    Document { root: builder.root.filter(|root| !empty(root)), dropped: builder.dropped }
}

struct Builder<'a> {
    source: &'a Source,
    found: &'a mut Vec<Found>,
    open: Vec<Open>,
    root: Option<Rc<Node>>,
    dropped: Vec<(String, Extent)>,
    /// By the parser's number; `None` while the anchored value is still open.
    anchors: HashMap<usize, Option<Rc<Node>>>,
}

/// A list or map whose end was not seen yet.
struct Open {
    extent: Extent,
    anchor: usize,
    items: Items,
    height: u32,
    weight: u32,
}

enum Items {
    List(Vec<Rc<Node>>),
    Map { entries: Vec<Entry>, seen: HashMap<String, Extent>, key: Option<(String, Extent)> },
}

impl Builder<'_> {
    fn build(&mut self, text: &str) -> Result<(), Found> {
        let mut parser = Parser::new_from_str(text);
        let mut documents = 0;
        while let Some(event) = parser.next_event() {
            let (event, span) = event.map_err(|error| syntax(&error, self.source))?;
            let extent = extent(span);
            match event {
                Event::StreamEnd => break,
                Event::DocumentStart(_) => {
                    documents += 1;
                    if documents > 1 {
                        return Err(mistake(
                            extent,
                            "a second document begins here",
                            "keep one document a file: remove the `---`, or make it a file of its own",
                        ));
                    }
                }
                Event::Scalar(text, style, anchor, tag) => {
                    refuse_tag(tag.is_some(), extent)?;
                    let scalar = Scalar { text: text.into_owned(), style };
                    if self.take_key(&scalar, extent)? {
                        if anchor != 0 {
                            self.anchors.insert(anchor, None);
                        }
                        continue;
                    }
                    let kind = Kind::Scalar(scalar);
                    self.attach(Rc::new(Node { extent, kind, height: 1, weight: 1 }), anchor)?;
                }
                Event::SequenceStart(anchor, tag) => {
                    refuse_tag(tag.is_some(), extent)?;
                    self.open(Items::List(Vec::new()), extent, anchor)?;
                }
                Event::MappingStart(anchor, tag) => {
                    refuse_tag(tag.is_some(), extent)?;
                    let items = Items::Map { entries: Vec::new(), seen: HashMap::new(), key: None };
                    self.open(items, extent, anchor)?;
                }
                Event::SequenceEnd | Event::MappingEnd => self.close(extent)?,
                Event::Alias(anchor) => match self.anchors.get(&anchor) {
                    _ if self.wants_key() => return Err(key_is_not_text(extent)),
                    Some(Some(node)) => {
                        let node = node.clone();
                        self.attach(node, 0)?;
                    }
                    _ => {
                        let hint = "an alias repeats a whole value above it";
                        return Err(mistake(extent, "this alias stands in its own value", hint));
                    }
                },
                Event::StreamStart | Event::DocumentEnd | Event::Nothing => {}
            }
        }
        Ok(())
    }

    fn wants_key(&self) -> bool {
        matches!(self.open.last(), Some(Open { items: Items::Map { key: None, .. }, .. }))
    }

    /// Takes a scalar as the next key, where one is due.
    fn take_key(&mut self, scalar: &Scalar, extent: Extent) -> Result<bool, Found> {
        let Some(Open { items: Items::Map { key, seen, .. }, .. }) = self.open.last_mut() else {
            return Ok(false);
        };
        if key.is_some() {
            return Ok(false);
        }
        if scalar.text == "<<" && scalar.style == ScalarStyle::Plain {
            let hint = "write the fields out, or give the whole value an anchor";
            return Err(mistake(extent, "merge keys (`<<`) are not supported", hint));
        }
        if let Some(first) = seen.get(&scalar.text) {
            self.found.push(Found {
                extent,
                message: format!("`{}` is given twice", scalar.text.escape_debug()),
                hint: Some(format!("it is also on line {}: keep one of them", first.line)),
            });
        } else {
            seen.insert(scalar.text.clone(), extent);
        }
        *key = Some((scalar.text.clone(), extent));
        Ok(true)
    }

    fn open(&mut self, items: Items, extent: Extent, anchor: usize) -> Result<(), Found> {
        if self.wants_key() {
            return Err(key_is_not_text(extent));
        }
        if self.open.len() as u32 >= DEPTH_MAX {
            return Err(too_deep(extent));
        }
        if anchor != 0 {
            self.anchors.insert(anchor, None);
        }
        self.open.push(Open { extent, anchor, items, height: 1, weight: 1 });
        Ok(())
    }

    fn close(&mut self, end: Extent) -> Result<(), Found> {
        let open = self.open.pop().expect("the parser ends only what it began");
        let kind = match open.items {
            Items::List(items) => Kind::List(items),
            Items::Map { entries, .. } => Kind::Map(entries),
        };
        let extent = Extent { end_line: end.end_line, end_column: end.end_column, ..open.extent };
        let node = Node { extent, kind, height: open.height, weight: open.weight };
        self.attach(Rc::new(node), open.anchor)
    }

    /// Puts a finished value where it belongs.
    fn attach(&mut self, node: Rc<Node>, anchor: usize) -> Result<(), Found> {
        if anchor != 0 {
            self.anchors.insert(anchor, Some(node.clone()));
        }
        let depth = self.open.len() as u32;
        let Some(parent) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        parent.height = parent.height.max(node.height + 1);
        parent.weight = parent.weight.saturating_add(node.weight);
        if depth + node.height > DEPTH_MAX + 1 {
            return Err(too_deep(node.extent));
        }
        if parent.weight > VALUES_MAX {
            let message = format!("more than {VALUES_MAX} values, counting what aliases repeat");
            return Err(Found { extent: node.extent, message, hint: None });
        }
        match &mut parent.items {
            Items::List(items) => items.push(node),
            Items::Map { entries, key, seen } => {
                let (key, key_extent) = key.take().expect("a value comes after its key");
                // Of a key that is given twice the first counts.
                if seen.get(&key) == Some(&key_extent) {
                    entries.push(Entry { key, key_extent, value: node });
                } else {
                    self.dropped.push((key, node.extent));
                }
            }
        }
        Ok(())
    }
}

fn extent(span: Span) -> Extent {
    Extent {
        line: span.start.line() as u32,
        column: span.start.col() as u32 + 1,
        end_line: span.end.line() as u32,
        end_column: span.end.col() as u32 + 1,
    }
}

fn mistake(extent: Extent, message: &str, hint: &str) -> Found {
    Found { extent, message: message.into(), hint: Some(hint.into()) }
}

fn too_deep(extent: Extent) -> Found {
    let message = format!("values nest more than {DEPTH_MAX} deep");
    Found { extent: Extent::point(extent.line, extent.column), message, hint: None }
}

fn key_is_not_text(extent: Extent) -> Found {
    let extent = Extent::point(extent.line, extent.column);
    mistake(extent, "a key must be plain text", "a value with `{` or `${` in it needs quotes")
}

fn refuse_tag(tagged: bool, extent: Extent) -> Result<(), Found> {
    if tagged {
        return Err(mistake(extent, "tags (`!name`) are not supported", "remove the tag"));
    }
    Ok(())
}

/// The first character that YAML does not allow. The parser would end the file at a NUL.
fn unprintable(text: &str) -> Option<Found> {
    let (mut line, mut column) = (1, 1);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\r' if chars.peek() == Some(&'\n') => {}
            '\n' | '\r' => (line, column) = (line + 1, 0),
            '\t' => {}
            c if c.is_control() && c != '\u{85}' || c == '\u{feff}' => {
                let message = format!("the character U+{:04X} is not allowed", c as u32);
                let hint = "remove it, or write it as an escape in double quotes";
                return Some(mistake(Extent::point(line, column), &message, hint));
            }
            _ => {}
        }
        column += 1;
    }
    None
}

/// The parser's error in our words.
fn syntax(error: &ScanError, source: &Source) -> Found {
    let marker = error.marker();
    let extent = source.clamp(marker.line() as u32, marker.col() as u32 + 1);
    let info = error.info();
    if info.contains("recursion limit") {
        return too_deep(extent);
    }
    let has = |part: &str| info.contains(part);
    if has("tab") && !has("table") {
        let extent = source.tab_indent(extent.line).unwrap_or(extent);
        return mistake(extent, "a tab where YAML wants spaces", "indent with spaces");
    }
    let (message, hint) = if source.line(extent.line).contains("${")
        && (has("flow") || has("bracket"))
    {
        ("`${…}` without quotes inside `{ }` or `[ ]`", "put it in quotes: \"${VAR}\"")
    } else if has("mapping values are not allowed") || has("illegal placement of ':'") {
        (
            "a `:` that begins a value where none can be",
            "put a text that holds `: ` in quotes, and check the indentation",
        )
    } else if has("did not find expected key") || has("expected '-' indicator") || has("simple key")
    {
        (
            "this line does not fit the lines around it",
            "fields of one object, and items of one list, begin in the same column",
        )
    } else if has("found unexpected end of stream") || has("indentation in quoted scalar") {
        (
            "a quote is not closed",
            "close it with the same quote; lines after the first are indented",
        )
    } else if has("trailing content after") {
        ("text after the closing quote", "put the whole value in quotes, with inner quotes doubled")
    } else if has("unknown escape") || has("hexadecimal") || has("Unicode character escape") {
        ("an unknown escape", "in single quotes `\\` stands for itself")
    } else if has("expected ',' or '}'") {
        (
            "`,` or `}` is missing",
            "an object that a `{` begins is still open here: close it with `}`",
        )
    } else if has("expected ',' or ']'") {
        ("`,` or `]` is missing", "a list that a `[` begins is still open here: close it with `]`")
    } else if has("unknown anchor") {
        ("this alias names no anchor above it", "an alias `*name` repeats the value after `&name`")
    } else if has("indentation") || has("indented") {
        ("wrong indentation", "indent the lines of one value alike, deeper than the line above")
    } else if has("unexpected character") {
        ("a character that cannot begin a value", "put the value in quotes")
    } else {
        let message = format!("not valid YAML: {info}");
        return Found { extent, message, hint: None };
    };
    mistake(extent, message, hint)
}
