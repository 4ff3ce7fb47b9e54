//! What the programs of this crate share: how they end, what they say, and what the system asks of them.

mod address;
mod ending;
mod place;
mod service;
mod system;
mod trouble;

pub(crate) use self::address::BUSES;
pub(crate) use self::address::without_credentials;
pub(crate) use self::ending::Ending;
pub(crate) use self::place::make_directory;
pub(crate) use self::place::state_directory;
pub(crate) use self::service::Service;
pub(crate) use self::service::ServiceOrder;
pub(crate) use self::service::serve_as;
pub(crate) use self::system::Signals;
pub(crate) use self::system::Wish;
pub(crate) use self::system::show_traces;
pub(crate) use self::system::tell;
pub(crate) use self::trouble::Trouble;
pub(crate) use self::trouble::complain;
pub(crate) use self::trouble::say;
