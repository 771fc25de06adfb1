//! Resolution of data with other schemas to ours, by the rules of Avro and within limits. Source:
//! Avro specification, "Schema Resolution".

use crate::codec::{Field as _, at_end, read_bytes, read_text, take};
use crate::schema::{Record, Schema, Type, shorten, unqualified};
use serde_json::Value as Json;

/// Maximum nesting depth of a datum with a foreign schema.
const DEPTH_MAX: usize = 32;
/// Maximum number of values in a datum with a foreign schema: a base, and an addition per byte. A
/// null or an empty record has no bytes.
const VALUES_MAX: (usize, usize) = (1_000, 8);

/// One of our schemas, into which data of other schemas are resolved.
pub struct Reader {
    pub schema: Schema,
    /// The encoded default of each field; `None` if the field has none.
    defaults: Vec<Option<Vec<u8>>>,
}

impl Reader {
    /// Returns the reader of `text`, the schema of a record. `None` if it is no such schema, or has
    /// a default that [`Reader`] does not support.
    pub fn new(text: &str) -> Option<Self> {
        let schema = Schema::parse(&[text]).ok()?;
        let json: Json = serde_json::from_str(text).ok()?;
        let default = |(field, json): (&crate::schema::Field, &Json)| {
            let default = json.get("default");
            default
                .map(|default| encode(&schema, field.kind, default))
                .map_or(Some(None), |it| it.map(Some))
        };
        let fields = &schema.record()?.fields;
        let defaults =
            fields.iter().zip(json["fields"].as_array()?).map(default).collect::<Option<_>>()?;
        Some(Self { schema, defaults })
    }

    fn record(&self) -> &Record {
        self.schema.record().expect("`new` has checked that the schema is a record")
    }

    /// Checks that data of `writer` can be resolved. Data of a union may still contain a variant
    /// that cannot be resolved.
    pub fn can_resolve(&self, writer: &Schema) -> Result<(), String> {
        let ours = self.record();
        let Some(theirs) = writer.record() else {
            return Err(format!("schema of {} instead of a record", kind(writer, writer.root())));
        };
        let mut names = writer.aliases().chain([&*theirs.name]).map(unqualified);
        // Avro's Java implementation reads a record with any name. Some records of the bank differ
        // by name only, so it must be the name or an earlier name of the writer's record.
        if !names.any(|name| name == unqualified(&ours.name)) {
            return Err(format!("schema of {} instead of {}", shorten(&theirs.name), ours.name));
        }
        for (field, default) in ours.fields.iter().zip(&self.defaults) {
            match theirs.fields.iter().find(|other| other.name == field.name) {
                Some(other) if matches(writer, other.kind, &self.schema, field.kind) => {}
                Some(other) => {
                    let (theirs, ours) = (kind(writer, other.kind), kind(&self.schema, field.kind));
                    return Err(format!("{}: {theirs} instead of {ours}", field.name));
                }
                None if default.is_some() => {}
                None => {
                    return Err(format!("field {} is missing and has no default", field.name));
                }
            }
        }
        Ok(())
    }

    /// Converts `datum` from the schema `writer` to our schema.
    ///
    /// # Errors
    /// The reason why it cannot be converted. It contains no value of the datum, which may be a
    /// secret.
    pub fn resolve(&self, writer: &Schema, datum: &[u8]) -> Result<Vec<u8>, String> {
        let (ours, theirs) = (self.record(), writer.record().ok_or("not a record")?);
        let values_left = VALUES_MAX.0 + VALUES_MAX.1 * datum.len();
        let mut walk = Walk { writer, reader: &self.schema, rest: datum, values_left };
        // Index of a field of ours, and where its value is in `values`.
        let (mut values, mut found) = (Vec::with_capacity(datum.len()), Vec::new());
        for field in &theirs.fields {
            let start = values.len();
            match ours.fields.iter().position(|ours| ours.name == field.name) {
                Some(index) => {
                    let converted = walk.convert(field.kind, ours.fields[index].kind, &mut values);
                    found.push((index, start));
                    converted
                }
                None => walk.skip(field.kind, 1),
            }
            .map_err(|reason| format!("{}: {reason}", shorten(&field.name)))?;
        }
        at_end(walk.rest)?;
        let mut converted = Vec::with_capacity(values.len() + 16);
        for (index, default) in self.defaults.iter().enumerate() {
            let value = found.iter().position(|(found, _)| *found == index).map(|at| {
                let end = found.get(at + 1).map_or(values.len(), |(_, start)| *start);
                &values[found[at].1..end]
            });
            let value = value.or(default.as_deref()).ok_or("a field is missing")?;
            converted.extend_from_slice(value);
        }
        Ok(converted)
    }
}

/// True if data of the writer's type can be resolved to the reader's type. Of a writer's union, one
/// variant is enough.
fn matches(writer: &Schema, theirs: usize, reader: &Schema, ours: usize) -> bool {
    match (writer.get(theirs), reader.get(ours)) {
        (Type::Union(variants), _) => {
            variants.iter().any(|theirs| is_plain_match(writer, *theirs, reader, ours))
        }
        _ => is_plain_match(writer, theirs, reader, ours),
    }
}

/// Like [`matches`] for types of a writer that are not unions. A union directly in a union is not
/// allowed, so it matches nothing.
fn is_plain_match(writer: &Schema, theirs: usize, reader: &Schema, ours: usize) -> bool {
    match (writer.get(theirs), reader.get(ours)) {
        (Type::Null, Type::Null)
        | (Type::Int | Type::Long, Type::Long)
        | (Type::String | Type::Bytes, Type::String) => true,
        (Type::Fixed { name, size }, Type::Fixed { name: our_name, size: our_size }) => {
            size == our_size && unqualified(name) == unqualified(our_name)
        }
        (Type::Enum { name, .. }, Type::Enum { name: our_name, .. }) => {
            unqualified(name) == unqualified(our_name)
        }
        (_, Type::Union(variants)) => {
            variants.iter().any(|ours| is_plain_match(writer, theirs, reader, *ours))
        }
        _ => false,
    }
}

fn kind(schema: &Schema, index: usize) -> String {
    schema.get(index).describe()
}

/// Encodes the default of a field of our schemas. The default of a union is one of its first
/// variant.
fn encode(schema: &Schema, kind: usize, default: &Json) -> Option<Vec<u8>> {
    let mut datum = Vec::new();
    match (schema.get(kind), default) {
        (Type::Null, Json::Null) => {}
        (Type::Long, number) => number.as_i64()?.write(&mut datum),
        (Type::String, Json::String(text)) => text.write(&mut datum),
        (Type::Union(variants), default) => {
            0i64.write(&mut datum);
            datum.extend(encode(schema, *variants.first()?, default)?);
        }
        _ => return None,
    }
    Some(datum)
}

/// The position in a datum. All lengths and counts of the datum are checked before use.
struct Walk<'a> {
    writer: &'a Schema,
    reader: &'a Schema,
    rest: &'a [u8],
    values_left: usize,
}

impl Walk<'_> {
    /// Converts one value from the writer's type to ours and appends it to `out`.
    fn convert(&mut self, theirs: usize, ours: usize, out: &mut Vec<u8>) -> Result<(), String> {
        let (writer, reader) = (self.writer, self.reader);
        match (writer.get(theirs), reader.get(ours)) {
            (Type::Union(variants), _) => {
                let variant = variants[self.index(variants.len(), "variant")?];
                self.convert_plain(variant, ours, out)
            }
            _ => self.convert_plain(theirs, ours, out),
        }
    }

    /// Converts one value whose type is not a union of the writer.
    fn convert_plain(
        &mut self,
        theirs: usize,
        ours: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), String> {
        let (writer, reader) = (self.writer, self.reader);
        match (writer.get(theirs), reader.get(ours)) {
            (theirs_is, ours_is) if !is_plain_match(writer, theirs, reader, ours) => {
                Err(format!("{} instead of {}", theirs_is.describe(), ours_is.describe()))
            }
            (_, Type::Union(variants)) => {
                let fits = |ours: &usize| is_plain_match(writer, theirs, reader, *ours);
                let index = variants.iter().position(fits).ok_or("no variant matches")?;
                (index as i64).write(out);
                self.convert_plain(theirs, variants[index], out)
            }
            (Type::Null, Type::Null) => Ok(()),
            (Type::Int, Type::Long) => {
                i64::from(self.int()?).write(out);
                Ok(())
            }
            (Type::Long, Type::Long) => {
                i64::read(&mut self.rest)?.write(out);
                Ok(())
            }
            (Type::String | Type::Bytes, Type::String) => {
                let text = read_text(&mut self.rest)?;
                (text.len() as i64).write(out);
                out.extend_from_slice(text.as_bytes());
                Ok(())
            }
            (Type::Fixed { size, .. }, Type::Fixed { .. }) => {
                out.extend_from_slice(take(&mut self.rest, *size)?);
                Ok(())
            }
            (Type::Enum { symbols, .. }, Type::Enum { symbols: ours, .. }) => {
                let symbol = &symbols[self.index(symbols.len(), "symbol")?];
                let index = ours.iter().position(|it| it == symbol);
                (index.ok_or("the symbol does not exist in our schema")? as i64).write(out);
                Ok(())
            }
            _ => unreachable!("`is_plain_match` accepts only the pairs above"),
        }
    }

    /// Skips a value that our schema does not have.
    fn skip(&mut self, kind: usize, depth: usize) -> Result<(), String> {
        self.values_left = self.values_left.checked_sub(1).ok_or("too many values")?;
        if depth > DEPTH_MAX {
            return Err(format!("nesting exceeds {DEPTH_MAX} levels"));
        }
        let writer = self.writer;
        match writer.get(kind) {
            Type::Null => Ok(()),
            Type::Boolean => match take(&mut self.rest, 1)? {
                [0 | 1] => Ok(()),
                _ => Err("invalid boolean".to_owned()),
            },
            Type::Int => self.int().map(drop),
            Type::Long => i64::read(&mut self.rest).map(drop),
            Type::Float => take(&mut self.rest, 4).map(drop),
            Type::Double => take(&mut self.rest, 8).map(drop),
            Type::Bytes => read_bytes(&mut self.rest).map(drop),
            Type::String => read_text(&mut self.rest).map(drop),
            Type::Fixed { size, .. } => take(&mut self.rest, *size).map(drop),
            Type::Enum { symbols, .. } => self.index(symbols.len(), "symbol").map(drop),
            Type::Union(variants) => {
                let index = self.index(variants.len(), "variant")?;
                self.skip(variants[index], depth + 1)
            }
            Type::Array(items) => self.skip_blocks(false, *items, depth + 1),
            Type::Map(values) => self.skip_blocks(true, *values, depth + 1),
            Type::Record(record) => {
                record.fields.iter().try_for_each(|field| self.skip(field.kind, depth + 1))
            }
        }
    }

    fn int(&mut self) -> Result<i32, String> {
        let number = i64::read(&mut self.rest)?;
        i32::try_from(number).map_err(|_| "int out of range".to_owned())
    }

    fn index(&mut self, count: usize, of: &str) -> Result<usize, String> {
        let index = i64::read(&mut self.rest)?;
        let inside = usize::try_from(index).ok().filter(|index| *index < count);
        inside.ok_or_else(|| format!("{of} does not exist, there are {count}"))
    }

    fn skip_blocks(&mut self, has_keys: bool, item: usize, depth: usize) -> Result<(), String> {
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
                if has_keys {
                    read_text(&mut self.rest)?;
                }
                self.skip(item, depth)?;
            }
        }
    }
}
