//! The transport of `docs/writing-a-transport.md` keeps every promise, and the page shows it as it is.

use mamos_core::transport::MAX_FRAME_BYTES;
use mamos_transport::conformance::Pair;
use mamos_transport::transport_conformance;

#[path = "../examples/custom_transport.rs"]
mod example;

async fn fresh() -> Pair {
    let (listener, connector) = example::pair();
    Pair::new(listener, connector).with_max_frame_bytes(MAX_FRAME_BYTES)
}

transport_conformance!(fresh);

#[test]
fn the_page_shows_the_code_that_is_tested() {
    let (page, example) =
        (include_str!("../../docs/writing-a-transport.md"), include_str!("../examples/custom_transport.rs"));
    let (_, code) = example.split_once("// The transport begins here.\n").unwrap();
    let (code, _) = code.split_once("// The transport ends here.\n").unwrap();
    assert!(page.contains(code), "copy the transport from the example into the page");
}
