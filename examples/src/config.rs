//! The settings of a program, from four places: flags win over variables of the environment, those over
//! the file, and the file over the defaults of the type.
//!
//! [`load`] gives any type that serde can read. The type says what is known and what holds by default
//! (`#[serde(deny_unknown_fields, default)]`); an error says which key is wrong, where it was written,
//! and what was meant, if that can be guessed.
//!
//! - The file is TOML, or YAML if it ends with `.yaml` or `.yml`.
//! - A program `agent` reads the variables `MAMOS_AGENT_…`: the rest is the key, and `__` goes one table
//!   deeper, so that `MAMOS_AGENT_LABELS__ZONE` is `labels.zone`. Lists are written with commas. An empty
//!   variable counts as not set. `MAMOS_AGENT_CONFIG` names the file.
//! - A secret may stand in a file of its own: the key with `_file` after it, wherever keys may stand.

mod environment;
mod error;
mod file;
mod merge;
mod node;
mod read;
#[cfg(test)]
mod samples;
mod secrets;
mod several;
mod sources;
#[cfg(test)]
mod tests;
mod units;

pub use self::error::ConfigError;
pub use self::node::Origin;
#[cfg(test)]
pub(crate) use self::samples::{sample, uncommented};
pub use self::several::secrets as secret_texts;
pub use self::several::texts;
pub use self::sources::Loaded;
pub use self::sources::Sources;
pub use self::sources::load;
pub use self::units::duration;
pub use self::units::size;
