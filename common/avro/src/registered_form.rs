//! The text in which schemas are registered.

/// Returns `schema` without whitespace: the text that Java's `Schema.toString()` returns, if its
/// attributes are in the same order. Apicurio compares texts, so serializers of other programs find
/// a schema only in the form that they send, and most send this one.
pub fn registered_form(schema: &str) -> String {
    let (mut in_text, mut escaped) = (false, false);
    let keep = |c: &char| {
        let kept = in_text || !c.is_ascii_whitespace();
        if *c == '"' && !escaped {
            in_text = !in_text;
        }
        escaped = in_text && *c == '\\' && !escaped;
        kept
    };
    schema.chars().filter(keep).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bank::topology::TOPICS;

    #[test]
    fn registered_schemas_equal_those_of_java() {
        // One line for each topic, written by Schema.toString() of Avro 1.12.0 on a JVM.
        let java = include_str!("../golden/java-schemas.txt");
        let schemas = TOPICS.iter().filter_map(|topic| topic.schema);
        let ours: Vec<String> = schemas.map(registered_form).collect();
        assert_eq!(ours, java.lines().collect::<Vec<_>>());
    }

    #[test]
    fn whitespace_in_texts_is_kept() {
        let schema = "{ \"doc\" :\t\"a \\\" b\\\\\", \"x\" : [ 1 ,\r\n2 ] }\n";
        assert_eq!(registered_form(schema), "{\"doc\":\"a \\\" b\\\\\",\"x\":[1,2]}");
    }
}
