//! One line of an application: `{"message":"…","severity":"error","unit":"…","app":"…"}`. Only the message is needed;
//! what else stands there is ignored, as a reader of the agent's own messages does.

use serde::Deserialize;

use crate::engine::observation::Severity;

/// Bytes of a unit's or an application's name; systemd's own limit (UNIT_NAME_MAX).
const NAME_BYTES_MAX: usize = 255;

/// What an application said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) message: String,
    pub(crate) severity: Severity,
    pub(crate) unit: Option<String>,
    pub(crate) app: Option<String>,
}

#[derive(Deserialize)]
struct Form {
    message: String,
    severity: Option<Word>,
    unit: Option<String>,
    app: Option<String>,
}

/// syslog's word or its number.
#[derive(Deserialize)]
#[serde(untagged)]
enum Word {
    Word(String),
    Level(u8),
}

/// Reads a line; or says why it can't be read.
pub(crate) fn parse(line: &[u8]) -> Result<Said, String> {
    // serde takes a list for the fields in their order, too.
    if line.trim_ascii_start().first() != Some(&b'{') {
        return Err("it is no JSON object".to_owned());
    }
    let form: Form = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    if form.message.trim().is_empty() {
        return Err("its message is empty".to_owned());
    }
    let severity = match form.severity {
        None => Some(Severity::Error),
        Some(Word::Word(word)) => Severity::parse(&word),
        Some(Word::Level(level)) => Severity::from_level(level),
    };
    Ok(Said {
        message: form.message,
        severity: severity.ok_or("its severity is none of syslog's, such as error or 3")?,
        unit: name(form.unit, "unit")?,
        app: name(form.app, "app")?,
    })
}

/// A name that can be shown; an empty one is none.
fn name(name: Option<String>, what: &str) -> Result<Option<String>, String> {
    match name {
        Some(name) if name.len() > NAME_BYTES_MAX => Err(format!("its {what} is longer than {NAME_BYTES_MAX} B")),
        Some(name) if name.contains(char::is_control) => Err(format!("its {what} has control characters")),
        name => Ok(name.filter(|name| !name.is_empty())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_enough_and_the_rest_is_taken_where_it_is_there() {
        let said = parse(br#"{"message":"pump stuck"}"#).unwrap();
        assert_eq!(said, Said { message: "pump stuck".into(), severity: Severity::Error, unit: None, app: None });
        let line = r#" {"message":"p","severity":"crit","unit":"a.service","app":"ä","code":{"x":[1]}} "#;
        let said = parse(line.as_bytes()).unwrap();
        assert_eq!(
            (said.severity, said.unit.as_deref(), said.app.as_deref()),
            (Severity::Critical, Some("a.service"), Some("ä"))
        );
        assert_eq!(parse(br#"{"message":"p","severity":4,"app":""}"#).unwrap().severity, Severity::Warning);
    }

    #[test]
    fn what_is_no_such_line_is_refused_with_its_reason() {
        let long = format!(r#"{{"message":"p","app":"{}"}}"#, "x".repeat(300));
        let deep = "[".repeat(4_000);
        for (line, why) in [
            (&b"pump stuck"[..], "no JSON object"),
            (br#"["a",3,"b","c"]"#, "no JSON object"),
            (b"{}", "missing field `message`"),
            (br#"{"message":7}"#, "invalid type"),
            (br#"{"message":" "}"#, "empty"),
            (br#"{"message":"a","message":"b"}"#, "duplicate field"),
            (br#"{"message":"a","severity":"loud"}"#, "severity"),
            (br#"{"message":"a","severity":8}"#, "severity"),
            (br#"{"message":"a","unit":"a\nb"}"#, "control"),
            (br#"{"message":"a"} {"message":"b"}"#, "trailing"),
            (b"{\"message\":\"\xff\"}", "unicode"),
            (long.as_bytes(), "longer"),
            (deep.as_bytes(), ""),
        ] {
            let refused = parse(line).expect_err(&String::from_utf8_lossy(line));
            assert!(refused.contains(why), "{refused}");
        }
    }
}
