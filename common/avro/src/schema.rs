//! Schemas of other programs: parsed within limits, without the attributes that do not determine
//! the encoded bytes.

use serde_json::{Map, Value as Json};
use std::collections::{HashMap, HashSet};

/// Maximum number of types in a schema and the schemas that it references.
pub const TYPES_MAX: usize = 5_000;
/// Maximum size of the full names of all types, bytes. Types inherit a namespace, so their names
/// may be a thousand times larger than the text of the schema.
pub const NAMES_BYTES_MAX: usize = 128 << 10;
/// Maximum length of a name in a message, characters.
const NAME_MAX: usize = 100;

/// True if both schemas encode a record to the same bytes, field by field: their canonical forms
/// are equal. Source: Avro specification, "Parsing Canonical Form for Schemas".
pub fn writes_the_same(one: &str, other: &str) -> bool {
    match (Schema::parse(&[one]), Schema::parse(&[other])) {
        (Ok(one), Ok(other)) => one.encodes_like(&other),
        _ => false,
    }
}

/// A schema as a list of its types. A type names its parts by their index in the list.
#[derive(Debug)]
pub struct Schema {
    types: Vec<Type>,
    root: usize,
    /// Earlier names of the record type of the whole schema.
    aliases: Vec<Box<str>>,
    names_bytes: usize,
}

/// A type of a schema, without logical type and documentation. Names are full names.
#[derive(Debug, PartialEq, Eq)]
pub enum Type {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    String,
    Array(usize),
    Map(usize),
    Union(Box<[usize]>),
    Fixed { name: Box<str>, size: usize },
    Enum { name: Box<str>, symbols: Box<[Box<str>]> },
    Record(Record),
}

/// A record type.
#[derive(Debug, PartialEq, Eq)]
pub struct Record {
    pub name: Box<str>,
    pub fields: Box<[Field]>,
}

/// A field of a record type.
#[derive(Debug, PartialEq, Eq)]
pub struct Field {
    pub name: Box<str>,
    /// Index of its type.
    pub kind: usize,
}

impl Schema {
    /// Parses the last one of `texts`. It may refer to the types of the others, and each of them to
    /// the types of those before it.
    ///
    /// # Errors
    /// The reason why a text is not a schema.
    pub fn parse<T: AsRef<str>>(texts: &[T]) -> Result<Self, String> {
        let mut parser = Parser { types: Vec::new(), named: HashMap::new(), names_bytes: 0 };
        let mut root = Err("not a schema: no text".to_owned());
        let mut aliases = Vec::new();
        for text in texts {
            let json = serde_json::from_str(text.as_ref());
            let json: Json = json.map_err(|err| format!("not a schema: {err}"))?;
            root = parser.parse(&json, "").map_err(|why| format!("not a schema: {why}"));
            if root.is_err() {
                break;
            }
            let names = json.get("aliases").and_then(Json::as_array).into_iter().flatten();
            aliases = names.filter_map(Json::as_str).map(Box::from).collect();
        }
        let names_bytes =
            parser.names_bytes + texts.iter().map(|text| text.as_ref().len()).sum::<usize>();
        Ok(Self { types: parser.types, root: root?, aliases, names_bytes })
    }

    /// True if the canonical forms of both schemas are equal.
    pub fn encodes_like(&self, other: &Self) -> bool {
        (&self.types, self.root) == (&other.types, other.root)
    }

    /// Earlier names of the record type of the whole schema.
    pub fn aliases(&self) -> impl Iterator<Item = &str> {
        self.aliases.iter().map(|name| &**name)
    }

    /// Index of the type of the whole schema.
    pub fn root(&self) -> usize {
        self.root
    }

    /// The type with this index.
    pub fn get(&self, index: usize) -> &Type {
        &self.types[index]
    }

    /// Number of types.
    pub fn len(&self) -> usize {
        self.types.len()
    }

    /// Size of its names, bytes, at most: the full names of its types, and its texts, in which all
    /// other names are.
    pub fn names_bytes(&self) -> usize {
        self.names_bytes
    }

    /// The record type of the whole schema. `None` if it is another type.
    pub fn record(&self) -> Option<&Record> {
        match self.get(self.root) {
            Type::Record(record) => Some(record),
            _ => None,
        }
    }
}

impl Type {
    /// What a message calls this type.
    pub fn describe(&self) -> String {
        match self {
            Self::Null => "null".to_owned(),
            Self::Boolean => "boolean".to_owned(),
            Self::Int => "int".to_owned(),
            Self::Long => "long".to_owned(),
            Self::Float => "float".to_owned(),
            Self::Double => "double".to_owned(),
            Self::Bytes => "bytes".to_owned(),
            Self::String => "string".to_owned(),
            Self::Array(_) => "array".to_owned(),
            Self::Map(_) => "map".to_owned(),
            Self::Union(_) => "union".to_owned(),
            Self::Fixed { name, size } => format!("fixed {} of {size} bytes", shorten(name)),
            Self::Enum { name, .. } => format!("enum {}", shorten(name)),
            Self::Record(Record { name, .. }) => format!("record {}", shorten(name)),
        }
    }
}

/// Shortens a name from outside for a message.
pub fn shorten(name: &str) -> String {
    name.chars().take(NAME_MAX).collect()
}

/// Returns the last part of a full name.
pub fn unqualified(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

struct Parser {
    types: Vec<Type>,
    /// Index of each named type, by full name.
    named: HashMap<String, usize>,
    /// Size of all full names.
    names_bytes: usize,
}

impl Parser {
    /// Parses a type in `namespace` and returns its index. `serde_json` limits the depth.
    fn parse(&mut self, json: &Json, namespace: &str) -> Result<usize, String> {
        match json {
            Json::String(name) => self.primitive_or_named(name, namespace),
            Json::Array(variants) => {
                let index = self.add(Type::Null)?;
                let variants: Result<_, String> =
                    variants.iter().map(|variant| self.parse(variant, namespace)).collect();
                self.types[index] = Type::Union(variants?);
                Ok(index)
            }
            Json::Object(schema) => match schema.get("type") {
                Some(Json::String(kind)) => self.object(kind, schema, namespace),
                // `{"type": {"type": ...}}` and `{"type": [...]}`.
                Some(kind) => self.parse(kind, namespace),
                None => Err("a type is missing".to_owned()),
            },
            _ => Err("a type is neither a name, an object nor a list".to_owned()),
        }
    }

    fn object(
        &mut self,
        kind: &str,
        schema: &Map<String, Json>,
        namespace: &str,
    ) -> Result<usize, String> {
        let part =
            |name: &str| schema.get(name).ok_or_else(|| format!("{kind} without attribute {name}"));
        match kind {
            "array" | "map" => {
                let index = self.add(Type::Null)?;
                let of = if kind == "array" { "items" } else { "values" };
                let of = self.parse(part(of)?, namespace)?;
                self.types[index] = if kind == "array" { Type::Array(of) } else { Type::Map(of) };
                Ok(index)
            }
            "fixed" => {
                let size = part("size")?.as_u64().and_then(|size| i32::try_from(size).ok());
                let size = size.and_then(|size| usize::try_from(size).ok());
                let size = size.ok_or("size of a fixed type is out of range")?;
                let (index, name) = self.define(schema, namespace)?;
                self.types[index] = Type::Fixed { name: name.into(), size };
                Ok(index)
            }
            "enum" => {
                let symbols = part("symbols")?.as_array().ok_or("symbols is not a list")?;
                let symbols: Result<_, String> = symbols.iter().map(name_in).collect();
                let (index, name) = self.define(schema, namespace)?;
                self.types[index] = Type::Enum { name: name.into(), symbols: symbols? };
                Ok(index)
            }
            "record" => {
                let fields = part("fields")?.as_array().ok_or("fields is not a list")?;
                let (index, name) = self.define(schema, namespace)?;
                let namespace = name.rsplit_once('.').map_or("", |(namespace, _)| namespace);
                let fields = self.fields(fields, namespace)?;
                self.types[index] = Type::Record(Record { name: name.into(), fields });
                Ok(index)
            }
            // `{"type": "string", "logicalType": ...}`
            name => self.primitive_or_named(name, namespace),
        }
    }

    fn fields(&mut self, fields: &[Json], namespace: &str) -> Result<Box<[Field]>, String> {
        let mut names = HashSet::new();
        let field = |field: &Json| {
            let name = name_in(&field["name"])?;
            // Two fields `from` would leave open which account is debited.
            if !names.insert(name.clone()) {
                return Err(format!("field {} exists twice", shorten(&name)));
            }
            let kind = field.get("type").ok_or("a field has no type")?;
            Ok(Field { name, kind: self.parse(kind, namespace)? })
        };
        fields.iter().map(field).collect()
    }

    fn primitive_or_named(&mut self, name: &str, namespace: &str) -> Result<usize, String> {
        let primitive = match name {
            "null" => Type::Null,
            "boolean" => Type::Boolean,
            "int" => Type::Int,
            "long" => Type::Long,
            "float" => Type::Float,
            "double" => Type::Double,
            "bytes" => Type::Bytes,
            "string" => Type::String,
            _ => {
                // Avro's Java implementation also finds names without a namespace.
                let full = self.named.get(&full_name(name, namespace));
                let found = full.or_else(|| self.named.get(name)).copied();
                return found.ok_or_else(|| format!("type {} is not defined", shorten(name)));
            }
        };
        self.add(primitive)
    }

    /// Adds a named type, which its own parts may refer to. Returns its index and full name.
    fn define(
        &mut self,
        schema: &Map<String, Json>,
        namespace: &str,
    ) -> Result<(usize, String), String> {
        let name = name_in(schema.get("name").unwrap_or(&Json::Null))?;
        let namespace = schema.get("namespace").and_then(Json::as_str).unwrap_or(namespace);
        if !namespace.is_empty() {
            name_in(&namespace.into())?;
        }
        let name = full_name(&name, namespace);
        self.names_bytes += name.len();
        if self.names_bytes > NAMES_BYTES_MAX {
            return Err(format!("names of types exceed {NAMES_BYTES_MAX} bytes"));
        }
        let index = self.add(Type::Null)?;
        match self.named.insert(name.clone(), index) {
            Some(_) => Err(format!("type {} is defined twice", shorten(&name))),
            None => Ok((index, name)),
        }
    }

    fn add(&mut self, kind: Type) -> Result<usize, String> {
        if self.types.len() >= TYPES_MAX {
            return Err(format!("more than {TYPES_MAX} types"));
        }
        self.types.push(kind);
        Ok(self.types.len() - 1)
    }
}

fn full_name(name: &str, namespace: &str) -> String {
    if name.contains('.') || namespace.is_empty() {
        name.to_owned()
    } else {
        format!("{namespace}.{name}")
    }
}

/// Returns a name that is valid by the Avro specification. A name has parts joined by dots. A part
/// matches `[A-Za-z_][A-Za-z0-9_]*`.
fn name_in(name: &Json) -> Result<Box<str>, String> {
    let fits = |part: &str| {
        part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && part.bytes().next().is_some_and(|b| !b.is_ascii_digit())
    };
    match name.as_str() {
        Some(name) if name.split('.').all(fits) => Ok(name.into()),
        Some(_) => Err("a name is invalid".to_owned()),
        None => Err("a name is missing".to_owned()),
    }
}
