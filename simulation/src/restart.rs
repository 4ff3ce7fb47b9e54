//! A server and many agents as real processes over real WebSockets, under load: killed, paused, stopped in
//! order, and cut off from each other. Nobody who waits for a job may notice.
//!
//! - [`scenario`]: what is done to them. [`World`]: the processes, the client and the network between.
//! - [`judge`]: what must hold afterwards, from what the agents wrote down and what the store kept.
//! - [`server`] and [`agent`]: the programs that are tormented.

pub mod agent;
pub mod judge;
pub mod scenario;
pub mod server;

mod client;
mod evidence;
mod figures;
mod place;
mod work;
mod world;

pub use self::evidence::Evidence;
pub use self::evidence::Ran;
pub use self::evidence::Seen;
pub use self::evidence::What;
pub use self::figures::Figures;
pub use self::figures::table;
pub use self::place::Place;
pub use self::place::Sabotage;
pub use self::world::Settings;
pub use self::world::World;
pub use crate::proxy::Weather;
