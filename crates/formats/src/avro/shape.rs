//! What an Avro type looks like as an Arrow column.
//!
//! Plain types that SQL handles well: enums and UUIDs are text, `fixed` is bytes, a union of
//! several types is a struct with one nullable field a branch, and where a record holds itself
//! again the inner one is JSON text.

use super::schema::{Id, Logical, Schema, Type};
use arrow_schema::{DataType, Field, Fields, IntervalUnit, SchemaRef, TimeUnit};
use std::sync::Arc;

/// A reader's type with its Arrow counterpart.
#[derive(Debug)]
pub(crate) struct Shape {
    /// The reader's type; of an optional one, the type beside null.
    pub id: Id,
    pub nullable: bool,
    pub form: Form,
    pub data_type: DataType,
}

#[derive(Debug)]
pub(crate) enum Form {
    Leaf,
    List(Box<Shape>),
    Map(Box<Shape>),
    /// The fields of a record, in its order.
    Struct(Vec<Shape>),
    /// The branches of a union, null left out.
    Branches(Vec<Shape>),
    /// The record is already open further out.
    Json,
}

/// How many columns, nested ones included, a schema may have.
const COLUMNS_MAX: usize = 20_000;

/// The full schema as Arrow columns.
pub(crate) fn arrow_schema(schema: &Schema) -> Result<SchemaRef, String> {
    let shape = rows(schema, None)?;
    let DataType::Struct(fields) = shape.data_type else { unreachable!("rows are structs") };
    Ok(Arc::new(arrow_schema::Schema::new(fields)))
}

/// The shape of the rows, with the named columns only: `site`, or `site.name` for one field of a
/// record. A path goes as deep as records do, and names all that is below its end.
pub(crate) fn rows(schema: &Schema, columns: Option<&[String]>) -> Result<Shape, String> {
    let fields = schema.root_fields()?;
    let paths = columns.map(|columns| columns.iter().map(String::as_str).collect::<Vec<_>>());
    for path in paths.iter().flatten() {
        let column = path.split('.').next().unwrap_or(path);
        if !fields.iter().any(|f| f.name == column) {
            return Err(format!("the reader schema has no field `{column}`"));
        }
    }
    let mut shaper = Shaper { schema, open: vec![schema.root], left: COLUMNS_MAX };
    let (names, shapes) = shaper.fields(fields, false, paths.as_deref())?;
    let data_type = struct_of(names, &shapes);
    Ok(Shape { id: schema.root, nullable: false, form: Form::Struct(shapes), data_type })
}

/// The columns that [`rows`] gives.
pub(crate) fn arrow_schema_of(schema: &Schema, columns: &[String]) -> Result<SchemaRef, String> {
    let shape = rows(schema, Some(columns))?;
    let DataType::Struct(fields) = shape.data_type else { unreachable!("rows are structs") };
    Ok(Arc::new(arrow_schema::Schema::new(fields)))
}

/// What the paths name below a field: nothing of it, all of it, or these paths.
fn below<'p>(paths: &[&'p str], field: &str) -> Option<Option<Vec<&'p str>>> {
    let mut named = paths.iter().filter_map(|path| {
        let rest = path.strip_prefix(field)?;
        if rest.is_empty() { Some(None) } else { rest.strip_prefix('.').map(Some) }
    });
    let mut deeper = vec![named.next()?];
    deeper.extend(named);
    Some(deeper.into_iter().collect())
}

/// The name of a union's branch as a field of a struct.
pub(crate) fn branch_names(schema: &Schema, branches: &[Id]) -> Vec<String> {
    let word = |id: Id| match schema.kind(id).names() {
        Some(names) => names.short().to_owned(),
        None => schema.kind(id).word().to_owned(),
    };
    let words: Vec<String> = branches.iter().map(|id| word(*id)).collect();
    let mut names = Vec::with_capacity(words.len());
    for (at, id) in branches.iter().enumerate() {
        let alone = words.iter().filter(|w| **w == words[at]).count() == 1;
        match schema.kind(*id).names() {
            Some(full) if !alone => names.push(full.full.replace('.', "_")),
            _ => names.push(words[at].clone()),
        }
    }
    names
}

/// The Arrow type of a type that holds no other.
pub(crate) fn leaf(kind: &Type, logical: Option<Logical>) -> DataType {
    let utc = || Some("UTC".into());
    if let Some(logical) = logical {
        return match logical {
            Logical::Date => DataType::Date32,
            Logical::TimeMillis | Logical::TimeMicros => DataType::Time64(TimeUnit::Microsecond),
            Logical::TimestampMillis => DataType::Timestamp(TimeUnit::Millisecond, utc()),
            Logical::TimestampMicros => DataType::Timestamp(TimeUnit::Microsecond, utc()),
            Logical::TimestampNanos => DataType::Timestamp(TimeUnit::Nanosecond, utc()),
            Logical::LocalTimestampMillis => DataType::Timestamp(TimeUnit::Millisecond, None),
            Logical::LocalTimestampMicros => DataType::Timestamp(TimeUnit::Microsecond, None),
            Logical::LocalTimestampNanos => DataType::Timestamp(TimeUnit::Nanosecond, None),
            Logical::Decimal { precision, scale } if precision <= 38 => {
                DataType::Decimal128(precision, scale)
            }
            Logical::Decimal { precision, scale } => DataType::Decimal256(precision, scale),
            Logical::Uuid => DataType::Utf8,
            Logical::Duration => DataType::Interval(IntervalUnit::MonthDayNano),
        };
    }
    match kind {
        Type::Null => DataType::Null,
        Type::Boolean => DataType::Boolean,
        Type::Int => DataType::Int32,
        Type::Long => DataType::Int64,
        Type::Float => DataType::Float32,
        Type::Double => DataType::Float64,
        Type::Bytes | Type::Fixed(..) => DataType::Binary,
        Type::String | Type::Enum(..) => DataType::Utf8,
        // These hold others and never come here; text is what they could be shown as.
        Type::Array(_) | Type::Map(_) | Type::Union(_) | Type::Record(..) => DataType::Utf8,
    }
}

struct Shaper<'a> {
    schema: &'a Schema,
    open: Vec<Id>,
    left: usize,
}

impl Shaper<'_> {
    /// The fields of a record that the paths name, all without paths.
    fn fields(
        &mut self,
        fields: &[super::schema::Field],
        nullable: bool,
        paths: Option<&[&str]>,
    ) -> Result<(Vec<String>, Vec<Shape>), String> {
        // A path to a field that is not there names the whole record.
        let known = |path: &&str| {
            let first = path.split('.').next().unwrap_or(path);
            fields.iter().any(|field| field.name == first)
        };
        let paths = paths.filter(|paths| paths.iter().all(known));
        let (mut names, mut shapes) = (Vec::new(), Vec::new());
        for field in fields {
            let deeper = match paths {
                None => None,
                Some(paths) => match below(paths, &field.name) {
                    None => continue,
                    Some(deeper) => deeper,
                },
            };
            shapes.push(self.shape(field.type_id, nullable, deeper.as_deref())?);
            names.push(field.name.clone());
        }
        Ok((names, shapes))
    }

    /// `within_optional`: what lies in a nullable struct is nullable too, so that a reader who
    /// looks past the struct's own nulls still sees them.
    fn shape(
        &mut self,
        id: Id,
        within_optional: bool,
        paths: Option<&[&str]>,
    ) -> Result<Shape, String> {
        self.left = self
            .left
            .checked_sub(1)
            .ok_or_else(|| format!("the schema has more than {COLUMNS_MAX} nested columns"))?;
        let schema = self.schema;
        match schema.kind(id) {
            Type::Union(branches) => {
                let some: Vec<Id> = branches
                    .iter()
                    .copied()
                    .filter(|b| !matches!(schema.kind(*b), Type::Null))
                    .collect();
                let nullable = within_optional || some.len() < branches.len();
                match some.as_slice() {
                    [] => Ok(self.leaf(branches[0], true)),
                    [one] => self.solid(*one, nullable, paths),
                    many => {
                        let names = branch_names(schema, many);
                        let shapes: Result<Vec<_>, _> =
                            many.iter().map(|b| self.shape(*b, true, None)).collect();
                        let shapes = shapes?;
                        let data_type = struct_of(names, &shapes);
                        Ok(Shape { id, nullable, form: Form::Branches(shapes), data_type })
                    }
                }
            }
            _ => self.solid(id, within_optional, paths),
        }
    }

    fn solid(&mut self, id: Id, nullable: bool, paths: Option<&[&str]>) -> Result<Shape, String> {
        let schema = self.schema;
        Ok(match schema.kind(id) {
            Type::Array(items) => {
                let item = self.shape(*items, false, None)?;
                let field = Field::new("item", item.data_type.clone(), item.nullable);
                let data_type = DataType::List(Arc::new(field));
                Shape { id, nullable, form: Form::List(Box::new(item)), data_type }
            }
            Type::Map(values) => {
                let value = self.shape(*values, false, None)?;
                let entries = Fields::from(vec![
                    Field::new("key", DataType::Utf8, false),
                    Field::new("value", value.data_type.clone(), value.nullable),
                ]);
                let entries = Field::new("entries", DataType::Struct(entries), false);
                let data_type = DataType::Map(Arc::new(entries), false);
                Shape { id, nullable, form: Form::Map(Box::new(value)), data_type }
            }
            Type::Record(..) if self.open.contains(&id) => {
                Shape { id, nullable, form: Form::Json, data_type: DataType::Utf8 }
            }
            Type::Record(_, fields) => {
                self.open.push(id);
                let shaped = self.fields(fields, nullable, paths);
                self.open.pop();
                let (names, shapes) = shaped?;
                let data_type = struct_of(names, &shapes);
                Shape { id, nullable, form: Form::Struct(shapes), data_type }
            }
            _ => self.leaf(id, nullable),
        })
    }

    fn leaf(&self, id: Id, nullable: bool) -> Shape {
        let node = self.schema.node(id);
        let data_type = leaf(&node.kind, node.logical);
        let nullable = nullable || data_type == DataType::Null;
        Shape { id, nullable, form: Form::Leaf, data_type }
    }
}

fn struct_of(names: impl IntoIterator<Item = String>, shapes: &[Shape]) -> DataType {
    let fields = names.into_iter().zip(shapes);
    DataType::Struct(
        fields.map(|(name, s)| Field::new(name, s.data_type.clone(), s.nullable)).collect(),
    )
}
