//! Events that are published as JSON, compared with what a general parser makes of the same bytes.

use serde_json::Value;

use crate::http_files::envelope::Envelope;

pub fn check(bytes: &[u8]) {
    let envelope = match Envelope::read(bytes) {
        Ok(envelope) => envelope,
        Err(sentence) => return assert!(sentence.contains(' ')),
    };
    assert!(std::str::from_utf8(&envelope.data).is_ok());
    assert!(envelope.data.len() <= bytes.len(), "data grew");
    // Numbers beyond a double, and more than 128 levels, are fine as data and too much for `Value`.
    let Ok(value) = serde_json::from_slice::<Value>(bytes) else {
        return;
    };
    let object = value.as_object().expect("an object");
    for name in object.keys() {
        assert!(["event", "data", "ephemeral"].contains(&&**name), "{name}");
    }
    let event = object.get("event").and_then(Value::as_str);
    assert_eq!(envelope.name, event.unwrap_or_default());
    let ephemeral = object.get("ephemeral").and_then(Value::as_bool);
    assert_eq!(envelope.ephemeral, ephemeral.unwrap_or_default());
    match &object["data"] {
        Value::String(text) => assert_eq!(envelope.data, text.as_bytes()),
        other => {
            let again: Value = serde_json::from_slice(&envelope.data).unwrap();
            assert_eq!(&again, other);
            assert!(envelope.data.len() <= bytes.len());
            let twice = [b"{\"data\":".as_slice(), &envelope.data, b"}"].concat();
            assert_eq!(Envelope::read(&twice).unwrap().data, envelope.data);
        }
    }
}
