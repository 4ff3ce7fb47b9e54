//! Bytes in the JSON of the API: as text, or as base64 where they are none.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// The bytes of a piece of a log; none if it has none.
pub(super) fn of_piece(piece: &Value) -> Vec<u8> {
    match (piece["text"].as_str(), piece["base64"].as_str()) {
        (Some(text), _) => text.as_bytes().to_vec(),
        (None, Some(encoded)) => STANDARD.decode(encoded).unwrap_or_default(),
        (None, None) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_piece_is_text_or_base64() {
        assert_eq!(of_piece(&json!({"text": "ä"})), "ä".as_bytes());
        assert_eq!(of_piece(&json!({"base64": "/wA="})), [0xff, 0x00]);
        assert!(of_piece(&json!({})).is_empty());
    }
}
