//! The whole of MAMOS in one process under a seed, and as real processes that are killed.
//!
//! - [`crash`]: what the processes that are killed have in common.
//! - [`faults`]: orchestrators and agents on real databases and brokers, which are stopped under them.
//! - [`history`]: what clients, handlers and the store saw.
//! - [`checker`]: reads a history and says which promises it breaks.
//! - [`recorder`]: a store that writes down what another store did.
//! - [`restart`]: a server and many agents as processes that are killed, paused and cut off.
//! - [`simulate`](simulate::simulate): the whole system under a seed, in virtual time.

pub mod checker;
pub mod crash;
pub mod faults;
pub mod history;
pub mod recorder;
pub mod restart;
pub mod simulate;

mod chaos;
mod clients;
mod crew;
mod jobs;
mod process;
mod proxy;
mod roads;
mod world;
