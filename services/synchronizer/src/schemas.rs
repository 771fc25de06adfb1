//! Finds and takes the next step towards the target schema of a topic.

use avro::registry::{BACKWARD, Error, Registry};
use bank::topology::Topic;
use serde_json::Value;

/// A change of the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Set the compatibility level of a subject.
    SetCompatibility {
        subject: String,
        /// Current level; `None` if the subject has none.
        from: Option<String>,
    },
    /// Register the bank's schema as the newest version of a subject.
    Register { subject: String, schema: &'static str },
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::SetCompatibility { subject, from } => {
                let from = from.as_deref().unwrap_or("unset");
                write!(f, "set compatibility of {subject}: {from} -> {BACKWARD}")
            }
            Self::Register { subject, .. } => write!(f, "register the schema of {subject}"),
        }
    }
}

impl Step {
    pub fn take(&self, registry: &Registry) -> Result<(), Error> {
        match self {
            Self::SetCompatibility { subject, .. } => registry.set_compatibility(subject, BACKWARD),
            Self::Register { subject, schema } => registry.register(subject, schema).map(drop),
        }
    }
}

/// The next action for the schema of a topic.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// The schema is in the target state.
    Settled,
    /// A change. The topic is checked again after it.
    Step(Step),
    /// A difference that cannot be changed, with the message of the registry.
    Problem(String),
}

/// Returns the next action for the schema of `topic`. The compatibility level comes first, because
/// the registry checks new versions against it. A dry run passes `level_set` after this step, since
/// the level is unchanged.
pub fn next(registry: &Registry, topic: &Topic, level_set: bool) -> Result<Next, Error> {
    let Some(schema) = topic.schema else { return Ok(Next::Settled) };
    let subject = topic.subject();
    let level = registry.compatibility(&subject)?;
    if !level_set && level.as_deref() != Some(BACKWARD) {
        return Ok(Next::Step(Step::SetCompatibility { subject, from: level }));
    }
    // Checked even if the bank's schema is registered: records of a newer incompatible version
    // would all go to dead_letter.
    if let Some(message) = registry.incompatibility(&subject, schema)? {
        return Ok(Next::Problem(format!(
            "the bank's schema of {subject} cannot read records of the newest version: {message}"
        )));
    }
    // Compared as JSON, because the registry would register different whitespace as a new version.
    // The canonical form is not enough: it omits the default values, which readers need for missing
    // fields.
    let json = |text: &str| serde_json::from_str::<Value>(text).ok();
    Ok(match registry.find(&subject, schema, |text| json(text) == json(schema))? {
        Some(_) => Next::Settled,
        None => Next::Step(Step::Register { subject, schema }),
    })
}
