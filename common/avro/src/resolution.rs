//! Resolution of data with other schemas to ours, within limits.

use crate::codec::{Field, at_end, read_bytes, read_text, take};
use avro_rs::Schema;
use avro_rs::reader::datum::GenericDatumReader;
use avro_rs::schema::{NamesRef, RecordSchema, ResolvedSchema};
use avro_rs::writer::datum::GenericDatumWriter;
use service::log::Chain;

/// Maximum nesting depth of a datum with a foreign schema.
const DEPTH_MAX: usize = 32;
/// Maximum number of values in a datum with a foreign schema: a base, and an addition per byte. The
/// crate allocates an object for each value, and a null or an empty record has no bytes.
const VALUES_MAX: (usize, usize) = (1_000, 8);

/// Checks that data of `writer` can be resolved to records of `reader`.
///
/// The types of fields are only checked for each datum. The crate's own check rejects pairs that
/// its resolution supports, such as a second reference to a named fixed type.
pub fn can_resolve(writer: &Schema, reader: &Schema) -> Result<(), String> {
    let (Schema::Record(writer), Schema::Record(reader)) = (writer, reader) else {
        return Err("not a record".to_owned());
    };
    if writer.name != reader.name {
        return Err(format!("schema of {} instead of {}", writer.name, reader.name));
    }
    let lacks = |field: &&avro_rs::schema::RecordField| {
        field.default.is_none() && !writer.fields.iter().any(|other| other.name == field.name)
    };
    match reader.fields.iter().find(lacks) {
        Some(field) => Err(format!("field {} is missing and has no default", field.name)),
        None => Ok(()),
    }
}

/// Converts `datum` from the schema `writer` to the schema `reader`.
pub fn resolve(writer: &Schema, datum: &[u8], reader: &Schema) -> Result<Vec<u8>, String> {
    let resolved = ResolvedSchema::try_from(writer).map_err(|err| err.to_string())?;
    let values_left = VALUES_MAX.0 + VALUES_MAX.1 * datum.len();
    let mut walk = Walk { names: resolved.get_names(), rest: datum, values_left };
    walk.value(writer, None, 0)?;
    at_end(walk.rest)?;
    let convert = || {
        let from = GenericDatumReader::builder(writer).reader_schema(reader).build()?;
        let value = from.read_value(&mut &*datum)?;
        GenericDatumWriter::builder(reader).build()?.write_value_to_vec(value)
    };
    convert().map_err(|err| Chain(&err).to_string())
}

/// Validates a datum before the crate decodes it. The crate allocates by lengths taken from the
/// datum, recurses without limit, and decodes a truncated string, boolean or union as null.
struct Walk<'a> {
    names: &'a NamesRef<'a>,
    rest: &'a [u8],
    values_left: usize,
}

impl Walk<'_> {
    fn value(&mut self, schema: &Schema, within: Option<&str>, depth: usize) -> Result<(), String> {
        self.values_left = self.values_left.checked_sub(1).ok_or("too many values")?;
        if depth > DEPTH_MAX {
            return Err(format!("nesting exceeds {DEPTH_MAX} levels"));
        }
        match schema {
            Schema::Null => Ok(()),
            Schema::Boolean => match take(&mut self.rest, 1)? {
                [0 | 1] => Ok(()),
                other => Err(format!("invalid boolean {other:?}")),
            },
            Schema::Int => {
                let number = i64::read(&mut self.rest)?;
                i32::try_from(number).map(drop).map_err(|_| format!("int {number} out of range"))
            }
            Schema::Long => i64::read(&mut self.rest).map(drop),
            Schema::Float => take(&mut self.rest, 4).map(drop),
            Schema::Double => take(&mut self.rest, 8).map(drop),
            Schema::Bytes => read_bytes(&mut self.rest).map(drop),
            Schema::String => read_text(&mut self.rest).map(drop),
            Schema::Fixed(fixed) => take(&mut self.rest, fixed.size).map(drop),
            Schema::Enum(of) => self.index(of.symbols.len(), "symbol").map(drop),
            Schema::Union(union) => {
                let index = self.index(union.variants().len(), "variant")?;
                self.value(&union.variants()[index], within, depth + 1)
            }
            Schema::Array(array) => self.blocks(None, &array.items, within, depth + 1),
            Schema::Map(map) => self.blocks(Some(&Schema::String), &map.types, within, depth + 1),
            Schema::Record(RecordSchema { name, fields, .. }) => {
                let name = name.fully_qualified_name(within);
                fields.iter().try_for_each(|field| {
                    self.value(&field.schema, name.namespace(), depth + 1)
                        .map_err(|reason| format!("{}: {reason}", field.name))
                })
            }
            Schema::Ref { name } => {
                let name = name.fully_qualified_name(within);
                let schema = self.names.get(&name).copied();
                let schema = schema.ok_or_else(|| format!("type {name} is not defined"))?;
                self.value(schema, name.namespace(), depth + 1)
            }
            // `canonical_form` removed all logical types.
            other => Err(format!("type {other:?} is not supported")),
        }
    }

    fn index(&mut self, count: usize, of: &str) -> Result<usize, String> {
        let index = i64::read(&mut self.rest)?;
        let inside = usize::try_from(index).ok().filter(|index| *index < count);
        inside.ok_or_else(|| format!("{of} {index} does not exist, there are {count}"))
    }

    fn blocks(
        &mut self,
        key: Option<&Schema>,
        item: &Schema,
        within: Option<&str>,
        depth: usize,
    ) -> Result<(), String> {
        loop {
            let count = i64::read(&mut self.rest)?;
            if count == 0 {
                return Ok(());
            }
            if count < 0 {
                // A negative count is followed by the size of the block in bytes.
                i64::read(&mut self.rest)?;
            }
            // `values_left` bounds the loop even if the values have no bytes.
            for _ in 0..count.unsigned_abs() {
                if let Some(key) = key {
                    self.value(key, within, depth)?;
                }
                self.value(item, within, depth)?;
            }
        }
    }
}
