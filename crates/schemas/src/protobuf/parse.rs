//! A `.proto` file as it is written: declarations with names still to be resolved.
//!
//! The grammar is that of the [proto2](https://protobuf.dev/reference/protobuf/proto2-spec/),
//! [proto3](https://protobuf.dev/reference/protobuf/proto3-spec/) and
//! [edition 2023](https://protobuf.dev/reference/protobuf/edition-2023-spec/) references; what does
//! not change how bytes are read (options, services, extensions, reserved numbers) is stepped over.

use super::lex::{Token, tokens};

/// How deep messages may be declared in each other.
const DEPTH_MAX: usize = 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syntax {
    Proto2,
    Proto3,
    Edition,
}

#[derive(Debug)]
pub struct File {
    pub package: String,
    pub imports: Vec<String>,
    pub messages: Vec<Message>,
    pub enums: Vec<Enum>,
}

#[derive(Debug, Default)]
pub struct Message {
    pub name: String,
    pub fields: Vec<Field>,
    pub messages: Vec<Message>,
    pub enums: Vec<Enum>,
    pub oneofs: usize,
    /// How many messages that maps imply stand before each of `messages` where it is declared: those
    /// who register descriptors count them, those who register text do not.
    pub entries_before: Vec<usize>,
}

#[derive(Debug)]
pub struct Field {
    pub name: String,
    pub number: u32,
    pub kind: Kind,
    pub label: Label,
    /// Repeated numbers are written as one run.
    pub packed: bool,
    pub oneof: Option<usize>,
}

#[derive(Debug)]
pub enum Kind {
    /// A scalar, or the name of an enum or a message.
    Named(String),
    Map(String, String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Label {
    /// Absent is the zero value, for what has one.
    Implicit,
    /// Absent is told from the zero value.
    Explicit,
    Required,
    Repeated,
}

#[derive(Debug)]
pub struct Enum {
    pub name: String,
    pub values: Vec<(String, i32)>,
}

pub fn file(text: &str) -> Result<File, String> {
    let mut parser = Parser { tokens: tokens(text)?, at: 0, syntax: Syntax::Proto2 };
    parser.file()
}

struct Parser<'a> {
    tokens: Vec<(Token<'a>, u32)>,
    at: usize,
    syntax: Syntax,
}

type Parsed<T> = Result<T, String>;

impl<'a> Parser<'a> {
    fn file(&mut self) -> Parsed<File> {
        let mut file =
            File { package: String::new(), imports: vec![], messages: vec![], enums: vec![] };
        while self.at < self.tokens.len() {
            if self.sign(b';') {
                continue;
            }
            match self.word()? {
                "syntax" => {
                    self.expect(b'=')?;
                    self.syntax = match self.text()? {
                        "proto2" => Syntax::Proto2,
                        "proto3" => Syntax::Proto3,
                        other => return Err(self.wrong(&format!("there is no syntax `{other}`"))),
                    };
                    self.expect(b';')?;
                }
                "edition" => {
                    self.syntax = Syntax::Edition;
                    self.statement()?;
                }
                "package" => {
                    file.package = self.word()?.to_owned();
                    self.expect(b';')?;
                }
                "import" => {
                    if matches!(self.peek(), Some(Token::Word("public" | "weak" | "option"))) {
                        self.at += 1;
                    }
                    file.imports.push(self.text()?.to_owned());
                    self.expect(b';')?;
                }
                "message" => file.messages.push(self.message(0)?),
                "enum" => file.enums.push(self.enumeration()?),
                "option" => self.statement()?,
                "service" | "extend" => {
                    self.word()?;
                    self.block()?;
                }
                other => return Err(self.wrong(&format!("`{other}` begins no declaration"))),
            }
        }
        Ok(file)
    }

    fn message(&mut self, depth: usize) -> Parsed<Message> {
        if depth > DEPTH_MAX {
            return Err(self.wrong(&format!("messages are declared over {DEPTH_MAX} deep")));
        }
        let mut message = Message { name: self.name()?, ..Message::default() };
        self.expect(b'{')?;
        while !self.sign(b'}') {
            if self.sign(b';') {
                continue;
            }
            // A keyword may be the name of a type: what follows tells.
            match (self.word()?, self.peek()) {
                ("message", Some(Token::Word(_))) if self.opens() => {
                    message.messages.push(self.message(depth + 1)?);
                    message.entries_before.push(0);
                }
                ("enum", Some(Token::Word(_))) if self.opens() => {
                    message.enums.push(self.enumeration()?);
                }
                ("oneof", Some(Token::Word(_))) if self.opens() => self.oneof(&mut message)?,
                ("extend", Some(Token::Word(_))) if self.opens() => {
                    self.word()?;
                    self.block()?;
                }
                ("option" | "reserved" | "extensions", Some(_)) if !self.is_field() => {
                    self.statement()?;
                }
                (first, _) => {
                    let field = self.field(first, None)?;
                    message.fields.push(field);
                }
            }
        }
        Ok(message)
    }

    fn oneof(&mut self, message: &mut Message) -> Parsed<()> {
        self.name()?;
        self.expect(b'{')?;
        let number = message.oneofs;
        message.oneofs += 1;
        while !self.sign(b'}') {
            if self.sign(b';') {
                continue;
            }
            match self.word()? {
                "option" if !self.is_field() => self.statement()?,
                first => {
                    let field = self.field(first, Some(number))?;
                    message.fields.push(field);
                }
            }
        }
        Ok(())
    }

    /// A field whose first word was read.
    fn field(&mut self, first: &'a str, oneof: Option<usize>) -> Parsed<Field> {
        let labelled = matches!(self.peek(), Some(Token::Word(_)))
            && matches!(
                self.tokens.get(self.at + 1),
                Some((Token::Word(_), _)) | Some((Token::Sign(b'<'), _))
            );
        let (written, named) = match first {
            "optional" | "required" | "repeated" if labelled => (first, self.word()?),
            _ => ("", first),
        };
        if named == "group" {
            return Err(self.wrong("groups are not supported; declare a message"));
        }
        let kind = match named {
            "map" if self.sign(b'<') => {
                let key = self.word()?.to_owned();
                self.expect(b',')?;
                let value = self.word()?.to_owned();
                self.expect(b'>')?;
                Kind::Map(key, value)
            }
            named => Kind::Named(named.to_owned()),
        };
        let name = self.name()?;
        self.expect(b'=')?;
        let number = self.integer()?;
        let number = u32::try_from(number).ok().filter(|number| (1..1 << 29).contains(number));
        let number = number.ok_or_else(|| self.wrong(&format!("`{name}` has no valid number")))?;
        let mut label = match (written, self.syntax) {
            ("repeated", _) => Label::Repeated,
            ("required", _) => Label::Required,
            _ if matches!(kind, Kind::Map(..)) => Label::Repeated,
            ("optional", _) => Label::Explicit,
            (_, Syntax::Proto3) if oneof.is_none() => Label::Implicit,
            _ => Label::Explicit,
        };
        let mut packed = self.syntax != Syntax::Proto2;
        if self.sign(b'[') {
            let mut depth = 1;
            while depth > 0 {
                let follows = |parser: &Self, at: usize| parser.tokens.get(parser.at + at).cloned();
                match self.next()? {
                    Token::Sign(b'[' | b'{' | b'(') => depth += 1,
                    Token::Sign(b']' | b'}' | b')') => depth -= 1,
                    Token::Word(option) if depth == 1 => {
                        let (Some((Token::Sign(b'='), _)), Some((Token::Word(value), _))) =
                            (follows(self, 0), follows(self, 1))
                        else {
                            continue;
                        };
                        match (option, value) {
                            ("packed", value) => packed = value == "true",
                            ("features.repeated_field_encoding", value) => {
                                packed = value == "PACKED"
                            }
                            ("features.field_presence", "IMPLICIT") => label = Label::Implicit,
                            ("features.field_presence", "LEGACY_REQUIRED") => {
                                label = Label::Required
                            }
                            _ => {}
                        }
                    }
                    _ => {}
                }
            }
        }
        self.expect(b';')?;
        Ok(Field { name, number, kind, label, packed, oneof })
    }

    fn enumeration(&mut self) -> Parsed<Enum> {
        let mut found = Enum { name: self.name()?, values: Vec::new() };
        self.expect(b'{')?;
        while !self.sign(b'}') {
            if self.sign(b';') {
                continue;
            }
            let name = self.word()?;
            if matches!(name, "option" | "reserved")
                && !matches!(self.peek(), Some(Token::Sign(b'=')))
            {
                self.statement()?;
                continue;
            }
            self.expect(b'=')?;
            let number = self.integer()?;
            let number = i32::try_from(number)
                .map_err(|_| self.wrong(&format!("`{name}` has no number of 32 bits")))?;
            found.values.push((name.to_owned(), number));
            self.statement()?;
        }
        match found.values.is_empty() {
            true => Err(self.wrong(&format!("enum `{}` has no value", found.name))),
            false => Ok(found),
        }
    }

    /// To the end of a statement, over whatever is nested in it.
    fn statement(&mut self) -> Parsed<()> {
        let mut depth = 0_usize;
        loop {
            match self.next()? {
                Token::Sign(b'{' | b'[' | b'(') => depth += 1,
                Token::Sign(b'}' | b']' | b')') => {
                    depth = depth.checked_sub(1).ok_or_else(|| self.wrong("a `;` is missing"))?;
                }
                Token::Sign(b';') if depth == 0 => return Ok(()),
                _ => {}
            }
        }
    }

    fn block(&mut self) -> Parsed<()> {
        self.expect(b'{')?;
        let mut depth = 1;
        while depth > 0 {
            match self.next()? {
                Token::Sign(b'{') => depth += 1,
                Token::Sign(b'}') => depth -= 1,
                _ => {}
            }
        }
        Ok(())
    }

    /// After a keyword: whether `NAME {` follows.
    fn opens(&self) -> bool {
        matches!(self.tokens.get(self.at + 1), Some((Token::Sign(b'{'), _)))
    }

    /// After a first word: whether `NAME =` follows, so that the word was a type.
    fn is_field(&self) -> bool {
        matches!(self.peek(), Some(Token::Word(_)))
            && matches!(self.tokens.get(self.at + 1), Some((Token::Sign(b'='), _)))
            && matches!(self.tokens.get(self.at + 2), Some((Token::Number(_), _)))
    }

    fn peek(&self) -> Option<Token<'a>> {
        self.tokens.get(self.at).map(|(token, _)| token.clone())
    }

    fn next(&mut self) -> Parsed<Token<'a>> {
        let token = self.peek().ok_or_else(|| "the file ends in a declaration".to_owned())?;
        self.at += 1;
        Ok(token)
    }

    fn word(&mut self) -> Parsed<&'a str> {
        match self.next()? {
            Token::Word(word) => Ok(word),
            other => Err(self.wrong(&format!("a name is due before {}", shown(&other)))),
        }
    }

    /// A name that is declared, which has no dots.
    fn name(&mut self) -> Parsed<String> {
        let name = self.word()?;
        match name.contains('.') {
            true => Err(self.wrong(&format!("`{name}` has dots, where a plain name is due"))),
            false => Ok(name.to_owned()),
        }
    }

    fn text(&mut self) -> Parsed<&'a str> {
        match self.next()? {
            Token::Text(text) => Ok(text),
            other => Err(self.wrong(&format!("a quoted text is due before {}", shown(&other)))),
        }
    }

    fn integer(&mut self) -> Parsed<i64> {
        let minus = self.sign(b'-');
        let Token::Number(number) = self.next()? else {
            return Err(self.wrong("a number is due"));
        };
        let value = match number.strip_prefix("0x").or_else(|| number.strip_prefix("0X")) {
            Some(hex) => i64::from_str_radix(hex, 16),
            None if number.len() > 1 && number.starts_with('0') => i64::from_str_radix(number, 8),
            None => number.parse(),
        };
        let value = value.map_err(|_| self.wrong(&format!("`{number}` is no number here")))?;
        Ok(if minus { -value } else { value })
    }

    fn sign(&mut self, sign: u8) -> bool {
        let found = self.peek() == Some(Token::Sign(sign));
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, sign: u8) -> Parsed<()> {
        match self.next()? {
            Token::Sign(found) if found == sign => Ok(()),
            other => {
                let due = char::from(sign);
                Err(self.wrong(&format!("`{due}` is due before {}", shown(&other))))
            }
        }
    }

    /// With the line of the word that was read last.
    fn wrong(&self, why: &str) -> String {
        let line = self.tokens.get(self.at.saturating_sub(1)).map_or(1, |(_, line)| *line);
        format!("line {line}: {why}")
    }
}

fn shown(token: &Token<'_>) -> String {
    match token {
        Token::Word(text) | Token::Number(text) => format!("`{text}`"),
        Token::Text(text) => format!("\"{text}\""),
        Token::Sign(sign) => format!("`{}`", char::from(*sign)),
    }
}
