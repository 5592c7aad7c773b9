//! A file as a serialized `FileDescriptorProto` in base64, which is what Confluent's Python client
//! registers. Field numbers are those of `google/protobuf/descriptor.proto`.

use super::parse::{Enum, Field, File, Kind, Label, Message, Syntax};
use super::wire::{Cursor, Fault, Raw};
use crate::values::base64_decode;

const DEPTH_MAX: usize = 32;
const SCALARS: [&str; 19] = [
    "", "double", "float", "int64", "uint64", "int32", "fixed64", "fixed32", "bool", "string", "",
    "", "bytes", "uint32", "", "sfixed32", "sfixed64", "sint32", "sint64",
];

/// None when the text is no base64, so that it is the file itself.
pub(super) fn decode(text: &str) -> Option<Result<File, String>> {
    let text = text.trim();
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b)) {
        return None;
    }
    let bytes = base64_decode(text)?;
    Some(
        file(&bytes).map_err(|fault| format!("its descriptor does not read: {}", fault.sentence())),
    )
}

fn file(bytes: &[u8]) -> Result<File, Fault> {
    let mut file =
        File { package: String::new(), imports: vec![], messages: vec![], enums: vec![] };
    let mut syntax = Syntax::Proto2;
    each(bytes, |number, raw| {
        match (number, raw) {
            (2, Raw::Bytes(name)) => file.package = text(name),
            (3, Raw::Bytes(name)) => file.imports.push(text(name)),
            (5, Raw::Bytes(found)) => file.enums.push(enumeration(found)?),
            (12, Raw::Bytes(b"proto3")) => syntax = Syntax::Proto3,
            (12, Raw::Bytes(b"editions")) => syntax = Syntax::Edition,
            _ => {}
        }
        Ok(())
    })?;
    // The syntax comes after the messages that it is about.
    each(bytes, |number, raw| {
        if let (4, Raw::Bytes(found)) = (number, raw) {
            file.messages.push(message(found, syntax, 0)?.0);
        }
        Ok(())
    })?;
    Ok(file)
}

/// With the types of its key and its value when it is the entry of a map.
fn message(
    bytes: &[u8],
    syntax: Syntax,
    depth: usize,
) -> Result<(Message, Option<(String, String)>), Fault> {
    if depth > DEPTH_MAX {
        return Err(Fault::new(format!("messages are declared over {DEPTH_MAX} deep")));
    }
    let mut found = Message::default();
    let (mut entries, mut is_entry) = (Vec::new(), false);
    each(bytes, |number, raw| {
        match (number, raw) {
            (1, Raw::Bytes(name)) => found.name = text(name),
            (2, Raw::Bytes(inner)) => found.fields.push(field(inner, syntax)?),
            (3, Raw::Bytes(inner)) => {
                let (inner, entry) = message(inner, syntax, depth + 1)?;
                match entry {
                    Some((key, value)) => entries.push((inner.name, key, value)),
                    None => {
                        found.messages.push(inner);
                        found.entries_before.push(entries.len());
                    }
                }
            }
            (4, Raw::Bytes(inner)) => found.enums.push(enumeration(inner)?),
            (7, Raw::Bytes(options)) => each(options, |number, raw| {
                is_entry |= matches!((number, raw), (7, Raw::Varint(1)));
                Ok(())
            })?,
            (8, _) => found.oneofs += 1,
            _ => {}
        }
        Ok(())
    })?;
    for field in &mut found.fields {
        let Kind::Named(name) = &field.kind else { continue };
        let last = name.rsplit('.').next().unwrap_or_default();
        if field.label == Label::Repeated
            && let Some((_, key, value)) = entries.iter().find(|(entry, ..)| entry == last)
        {
            field.kind = Kind::Map(key.clone(), value.clone());
        }
    }
    let named = |number: u32| {
        found.fields.iter().find(|field| field.number == number).and_then(|field| {
            match &field.kind {
                Kind::Named(name) => Some(name.clone()),
                Kind::Map(..) => None,
            }
        })
    };
    let entry = if is_entry { named(1).zip(named(2)) } else { None };
    Ok((found, entry))
}

fn field(bytes: &[u8], syntax: Syntax) -> Result<Field, Fault> {
    let (mut name, mut type_name, mut oneof) = (String::new(), String::new(), None);
    let (mut number, mut label, mut kind, mut optional) = (0, 0, 0, false);
    let mut packed = syntax != Syntax::Proto2;
    each(bytes, |at, raw| {
        match (at, raw) {
            (1, Raw::Bytes(text_of)) => name = text(text_of),
            (3, Raw::Varint(value)) => number = value as u32,
            (4, Raw::Varint(value)) => label = value,
            (5, Raw::Varint(value)) => kind = value as usize,
            (6, Raw::Bytes(text_of)) => type_name = text(text_of),
            (8, Raw::Bytes(options)) => each(options, |number, raw| {
                if let (2, Raw::Varint(value)) = (number, raw) {
                    packed = value == 1;
                }
                Ok(())
            })?,
            (9, Raw::Varint(value)) => oneof = Some(value as usize),
            (17, Raw::Varint(1)) => optional = true,
            _ => {}
        }
        Ok(())
    })?;
    let scalar = SCALARS.get(kind).copied().unwrap_or_default();
    let kind = match (scalar, kind) {
        (_, 10) => {
            return Err(Fault::new("groups are not supported; declare a message").within(&name));
        }
        ("", 11 | 14) => type_name,
        ("", _) => return Err(Fault::new("its type is none").within(&name)),
        (scalar, _) => scalar.to_owned(),
    };
    // `optional` of proto3 is told by a oneof of its own, which is none to the user.
    let oneof = oneof.filter(|_| !optional);
    let label = match label {
        3 => Label::Repeated,
        2 => Label::Required,
        _ if syntax == Syntax::Proto3 && oneof.is_none() && !optional => Label::Implicit,
        _ => Label::Explicit,
    };
    Ok(Field { name, number, kind: Kind::Named(kind), label, packed, oneof })
}

fn enumeration(bytes: &[u8]) -> Result<Enum, Fault> {
    let mut found = Enum { name: String::new(), values: Vec::new() };
    each(bytes, |number, raw| {
        match (number, raw) {
            (1, Raw::Bytes(name)) => found.name = text(name),
            (2, Raw::Bytes(value)) => {
                let (mut name, mut number) = (String::new(), 0);
                each(value, |at, raw| {
                    match (at, raw) {
                        (1, Raw::Bytes(text_of)) => name = text(text_of),
                        (2, Raw::Varint(value)) => number = value as i32,
                        _ => {}
                    }
                    Ok(())
                })?;
                found.values.push((name, number));
            }
            _ => {}
        }
        Ok(())
    })?;
    match found.values.is_empty() {
        true => Err(Fault::new("an enum has no value")),
        false => Ok(found),
    }
}

fn each<'a>(
    bytes: &'a [u8],
    mut one: impl FnMut(u32, Raw<'a>) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut cursor = Cursor::new(bytes);
    while let Some((number, raw)) = cursor.field()? {
        one(number, raw)?;
    }
    Ok(())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
