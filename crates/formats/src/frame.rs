//! Which schema a record was written with: Confluent's frame before the value, or the header that
//! newer serializers write in its place.
//!
//! ```text
//! 00 | id, four bytes      | record          before the value
//! 01 | GUID, sixteen bytes | record
//! __value_schema_id: 01 | GUID               in a header; the value is the record alone
//! ```

use crate::run::Refusal;
use millstream_core::{Guid, Headers, RegisteredSchema, Result, Schemas};
use std::fmt;
use std::sync::Arc;

/// The header that names the schema of a record's value.
const HEADER: &[u8] = b"__value_schema_id";

/// A schema's name in a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum SchemaName {
    Id(u32),
    Guid(Guid),
}

impl SchemaName {
    pub async fn fetch(self, schemas: &dyn Schemas) -> Result<Arc<RegisteredSchema>> {
        match self {
            SchemaName::Id(id) => schemas.by_id(id).await,
            SchemaName::Guid(guid) => schemas.by_guid(guid).await,
        }
    }
}

impl fmt::Display for SchemaName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SchemaName::Id(id) => write!(f, "schema id {id}"),
            SchemaName::Guid(guid) => write!(f, "schema {guid}"),
        }
    }
}

/// A value taken out of its frame.
pub(crate) struct Framed<'a> {
    pub schema: SchemaName,
    /// What stands after the name in a header: Protobuf puts there which message it is. Without a
    /// header it stands at the beginning of the body.
    pub beside: Option<&'a [u8]>,
    pub body: &'a [u8],
}

impl Framed<'_> {
    /// Refuses a header that says more than a schema's name.
    #[inline]
    pub fn nothing_beside(&self) -> Result<(), Refusal> {
        match self.beside {
            None | Some([]) => Ok(()),
            Some(left) => Err(Refusal::malformed(format!(
                "header `__value_schema_id`: {} bytes are left over after the schema's id",
                left.len()
            ))),
        }
    }
}

#[inline]
pub(crate) fn unframe<'a>(value: &'a [u8], headers: Headers<'a>) -> Result<Framed<'a>, Refusal> {
    // Records mostly have no headers, which takes one byte.
    if headers.0.len() > 1
        && let Some(header) = headers.iter().find(|header| header.key == HEADER)
    {
        let name = header.value.unwrap_or_default();
        let (schema, rest) = split(name).map_err(|refusal| {
            Refusal::malformed(format!("header `__value_schema_id`: {}", refusal.reason))
        })?;
        return Ok(Framed { schema, beside: Some(rest), body: value });
    }
    let (schema, body) = split(value)?;
    Ok(Framed { schema, beside: None, body })
}

/// The bytes before the record where they are an id and no header can say otherwise: the same bytes
/// again are the same schema.
#[inline]
pub(crate) fn id_frame(value: &[u8], has_headers: bool) -> Option<&[u8; 5]> {
    match value.first_chunk() {
        Some(frame) if frame[0] == 0 && !has_headers => Some(frame),
        _ => None,
    }
}

#[inline]
fn split(bytes: &[u8]) -> Result<(SchemaName, &[u8]), Refusal> {
    match bytes {
        [0, a, b, c, d, rest @ ..] => {
            Ok((SchemaName::Id(u32::from_be_bytes([*a, *b, *c, *d])), rest))
        }
        [1, rest @ ..] if rest.len() >= 16 => {
            let (guid, rest) = rest.split_at(16);
            let mut bytes = [0; 16];
            bytes.copy_from_slice(guid);
            Ok((SchemaName::Guid(Guid(bytes)), rest))
        }
        [magic @ (0 | 1), ..] => Err(Refusal::malformed(format!(
            "{} bytes are too few for a schema{} before the record",
            bytes.len(),
            if *magic == 0 { " id" } else { "'s GUID" }
        ))),
        [magic, ..] => Err(Refusal::malformed(format!(
            "the first byte is {magic:#04x}, where Confluent framing has 0x00"
        ))),
        [] => Err(Refusal::malformed("the value is empty, where a schema id was expected")),
    }
}
