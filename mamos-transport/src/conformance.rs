//! Conformance kits: what a transport and a bus promise, each promise a named test.
//!
//! ```
//! use mamos_transport::conformance::Pair;
//! use mamos_transport::memory as my_transport;
//!
//! async fn fresh() -> Pair {
//!     let (listener, connector) = my_transport::pair();
//!     Pair::new(listener, connector)
//! }
//! mamos_transport::transport_conformance!(fresh);
//! # fn main() {}
//! ```
//!
//! The macros make one `#[test]` for each promise. To judge an implementation without them, ask
//! [`transport::broken_promises`] and [`bus::broken_promises`].

mod links;
mod promise;

pub mod bus;
pub mod transport;

pub use promise::Broken;
#[doc(hidden)]
pub use promise::run;
pub use transport::Pair;

/// Makes a test for each promise of a transport.
///
/// The argument is the name of an `async fn() -> Pair` that makes a new listener with its connector each
/// time it is called.
#[macro_export]
macro_rules! transport_conformance {
    ($fresh:path) => {
        $crate::__transport_promises! { ($crate::__conformance_tests) (transport $fresh) }
    };
}

/// Makes a test for each promise of a bus.
///
/// The argument is the name of an `async fn() -> Box<dyn Bus>`. It may give the same bus each time: the
/// kit uses topics and groups of its own for every promise.
#[macro_export]
macro_rules! bus_conformance {
    ($fresh:path) => {
        $crate::__bus_promises! { ($crate::__conformance_tests) (bus $fresh) }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_tests {
    (($kit:ident $fresh:path) $($promise:ident)+) => { $(
        #[test]
        fn $promise() {
            $crate::conformance::run(async {
                let fresh = $fresh().await;
                $crate::conformance::$kit::check(stringify!($promise), fresh).await
            });
        }
    )+ };
}
