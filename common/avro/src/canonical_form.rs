//! The canonical form of untrusted schemas: only the attributes that determine the encoded bytes.

use avro_rs::Schema;
use serde_json::{Map, Value as Json};

/// True if both schemas encode a record to the same bytes, field by field: their canonical forms
/// are equal. Source: Avro specification, "Parsing Canonical Form for Schemas".
pub fn writes_the_same(one: &str, other: &str) -> bool {
    match (parse(one), parse(other)) {
        // `==` of the crate ignores the names of fields. `from` and `to` are both strings, so
        // schemas with exchanged fields would be equal.
        (Ok(one), Ok(other)) => one.canonical_form() == other.canonical_form(),
        _ => false,
    }
}

/// Parses an untrusted schema. The crate receives only the attributes that determine the bytes.
///
/// Its parser and its canonical form panic on some aliases, names and attributes. With a logical
/// type it would decode values of other types than our fields have.
pub fn parse(text: &str) -> Result<Schema, String> {
    let schema: Json = serde_json::from_str(text).map_err(|err| format!("not a schema: {err}"))?;
    let bare = bare(&schema).ok_or("not a schema: a type or name is missing or invalid")?;
    Schema::parse(&bare).map_err(|err| format!("not a schema: {err}"))
}

/// Returns `schema` with only the attributes that determine the bytes. `None` if one is invalid.
fn bare(schema: &Json) -> Option<Json> {
    match schema {
        Json::String(name) => name_in(name),
        Json::Array(variants) => variants.iter().map(bare).collect(),
        Json::Object(schema) => {
            let kind = schema.get("type")?;
            let mut bare_schema = Map::new();
            match kind.as_str() {
                Some("record") => {
                    let fields = schema.get("fields")?.as_array()?.iter().map(bare_field);
                    bare_schema.insert("fields".into(), fields.collect::<Option<_>>()?);
                }
                Some("enum") => {
                    let symbols = schema.get("symbols")?.as_array()?.iter();
                    let symbols = symbols.map(|symbol| name_in(symbol.as_str()?));
                    bare_schema.insert("symbols".into(), symbols.collect::<Option<_>>()?);
                }
                Some("fixed") => {
                    let size = schema.get("size")?.as_u64().and_then(|n| i32::try_from(n).ok())?;
                    bare_schema.insert("size".into(), size.into());
                }
                Some(container @ ("array" | "map")) => {
                    let of = if container == "array" { "items" } else { "values" };
                    bare_schema.insert(of.into(), bare(schema.get(of)?)?);
                    bare_schema.insert("type".into(), kind.clone());
                    return Some(bare_schema.into());
                }
                // `{"type": "string", "logicalType": ...}`, `{"type": {"type": ...}}`.
                _ => return bare(kind),
            }
            bare_schema.insert("type".into(), kind.clone());
            bare_schema.insert("name".into(), name_in(schema.get("name")?.as_str()?)?);
            let namespace = schema.get("namespace").and_then(Json::as_str);
            if let Some(namespace) = namespace.filter(|namespace| !namespace.is_empty()) {
                bare_schema.insert("namespace".into(), name_in(namespace)?);
            }
            Some(bare_schema.into())
        }
        _ => None,
    }
}

fn bare_field(field: &Json) -> Option<Json> {
    let mut bare_field = Map::new();
    bare_field.insert("name".into(), name_in(field.get("name")?.as_str()?)?);
    bare_field.insert("type".into(), bare(field.get("type")?)?);
    Some(bare_field.into())
}

/// Returns `name` if it is valid by the Avro specification. A name has parts joined by dots. A part
/// matches `[A-Za-z_][A-Za-z0-9_]*`.
fn name_in(name: &str) -> Option<Json> {
    let fits = |part: &str| {
        part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && part.bytes().next().is_some_and(|b| !b.is_ascii_digit())
    };
    name.split('.').all(fits).then(|| name.into())
}
