//! Reads a type from settings.

use serde::de::value::{MapDeserializer, SeqDeserializer, StrDeserializer};
use serde::de::{DeserializeSeed, Deserializer, Error, IntoDeserializer, MapAccess, Unexpected, Visitor};
use serde::forward_to_deserialize_any;

use super::error::ConfigError;
use super::node::{Node, Table, Value};

impl<'de> Deserializer<'de> for &'de Node {
    type Error = ConfigError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
        match &self.value {
            Value::Nothing => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Integer(value) => visitor.visit_i64(*value),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::Text(value) | Value::Loose(value) => visitor.visit_str(value),
            Value::List(items) => visitor.visit_seq(SeqDeserializer::new(items.iter())),
            Value::Table(table) => visitor.visit_map(Keys::new(table)),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
        match &self.value {
            Value::Loose(text) => match text.parse() {
                Ok(value) => visitor.visit_bool(value),
                Err(_) => Err(ConfigError::invalid_value(Unexpected::Str(text), &"true or false")),
            },
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
        match &self.value {
            Value::Loose(text) => match text.parse() {
                Ok(value) => visitor.visit_i64(value),
                Err(_) => Err(ConfigError::invalid_value(Unexpected::Str(text), &"a whole number")),
            },
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
        match &self.value {
            Value::Loose(text) => match text.parse() {
                Ok(value) => visitor.visit_f64(value),
                Err(_) => Err(ConfigError::invalid_value(Unexpected::Str(text), &"a number")),
            },
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_i8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
        self.deserialize_i64(visitor)
    }

    fn deserialize_i16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
        self.deserialize_i64(visitor)
    }

    fn deserialize_i32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
        self.deserialize_i64(visitor)
    }

    fn deserialize_u8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
        self.deserialize_i64(visitor)
    }

    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
        self.deserialize_i64(visitor)
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
        self.deserialize_i64(visitor)
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
        self.deserialize_i64(visitor)
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
        match self.value {
            Value::Nothing => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, ConfigError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
        match &self.value {
            Value::Loose(text) => {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                visitor.visit_seq(SeqDeserializer::new(items.map(Loose)))
            }
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
        match &self.value {
            Value::Loose(text) => {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                let pairs: Option<Vec<_>> = items.map(|item| item.split_once('=')).collect();
                let pairs = pairs.ok_or_else(|| {
                    ConfigError::invalid_value(Unexpected::Str(text), &"pairs: name=value,name=value")
                })?;
                visitor.visit_map(MapDeserializer::new(pairs.into_iter()))
            }
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ConfigError> {
        self.deserialize_any(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ConfigError> {
        match &self.value {
            Value::Text(text) | Value::Loose(text) => {
                let variant: StrDeserializer<'_, ConfigError> = text.as_str().into_deserializer();
                visitor.visit_enum(variant)
            }
            _ => Err(ConfigError::custom("it must be a text")),
        }
    }

    forward_to_deserialize_any! {
        i128 u128 char str string bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

impl<'de> IntoDeserializer<'de, ConfigError> for &'de Node {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// An item of a list that was written with commas.
struct Loose<'a>(&'a str);

impl<'de> IntoDeserializer<'de, ConfigError> for Loose<'de> {
    type Deserializer = StrDeserializer<'de, ConfigError>;

    fn into_deserializer(self) -> Self::Deserializer {
        self.0.into_deserializer()
    }
}

/// The keys of a table, one after the other. Errors learn from it in which key they are.
struct Keys<'de> {
    rest: std::collections::btree_map::Iter<'de, String, Node>,
    current: Option<(&'de str, &'de Node)>,
}

impl<'de> Keys<'de> {
    fn new(table: &'de Table) -> Self {
        Self { rest: table.iter(), current: None }
    }
}

impl<'de> MapAccess<'de> for Keys<'de> {
    type Error = ConfigError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, ConfigError> {
        let Some((key, node)) = self.rest.next() else {
            return Ok(None);
        };
        self.current = Some((key, node));
        let name: StrDeserializer<'_, ConfigError> = key.as_str().into_deserializer();
        seed.deserialize(name).map(Some).map_err(|error| error.within(key, &node.origin))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, ConfigError> {
        let (key, node) = self.current.take().ok_or_else(|| ConfigError::custom("a value without a key"))?;
        seed.deserialize(node).map_err(|error| error.within(key, &node.origin))
    }
}
