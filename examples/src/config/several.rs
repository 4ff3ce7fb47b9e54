//! Settings that name one or several.

/// One text or a list of them, for `#[serde(with = "config::texts")]`. A text may hold several, with commas or
/// line ends between; a text of a list is taken as it is.
pub mod texts {
    use std::fmt;

    use serde::de::{Deserializer, SeqAccess, Visitor};

    /// Reads them.
    ///
    /// # Errors
    ///
    /// It is neither a text nor a list of texts.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
        deserializer.deserialize_any(Several)
    }

    struct Several;

    impl<'de> Visitor<'de> for Several {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a text or a list of texts")
        }

        fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
            let items = text.split([',', '\n']).map(str::trim).filter(|item| !item.is_empty());
            Ok(items.map(str::to_owned).collect())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
            let mut texts = Vec::new();
            while let Some(text) = items.next_element()? {
                texts.push(text);
            }
            Ok(texts)
        }
    }
}

/// The same, of texts that must not be seen, for `#[serde(with = "config::secret_texts")]`.
pub mod secrets {
    use mamos_core::auth::Secret;
    use serde::de::Deserializer;

    /// Reads them.
    ///
    /// # Errors
    ///
    /// It is neither a text nor a list of texts.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Secret>, D::Error> {
        Ok(super::texts::deserialize(deserializer)?.into_iter().map(Secret::new).collect())
    }
}
