//! `docs/backends.md` says what the kits show.
//!
//! The table is made by running every kit over every backend. `MAMOS_WRITE_DOCS=1` writes it; otherwise what is
//! committed must be what comes out. The name of this binary tells `scripts/test.sh` that it needs all servers.

#![expect(clippy::unwrap_used, reason = "tests")]

mod buses;
mod stores;
mod transports;

use std::fmt::Write;
use std::future::Future;
use std::thread::JoinHandle;

use futures_util::stream::{self, StreamExt};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/backends.md");

/// A line of a table on its way: the kits run beside each other, each on a runtime of its own.
type Line = JoinHandle<String>;

fn beside<F: Future<Output = String>>(line: impl FnOnce() -> F + Send + 'static) -> Line {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.unwrap().block_on(line())
    })
}

/// How many promises of one backend are checked at once: each has a store, bus or pair of its own, and mostly waits
/// for the server or for silence. Few enough that what must come soon does.
const AT_ONCE: usize = 4;

/// The promises that were found broken, in the order of the kit.
async fn broken(
    checks: impl Iterator<Item = impl Future<Output = Option<&'static str>>>,
) -> Vec<&'static str> {
    let found: Vec<_> = stream::iter(checks).buffered(AT_ONCE).collect().await;
    found.into_iter().flatten().collect()
}

/// How many of a kit's promises are kept, and which are not.
fn kept(promises: usize, broken: &[&str]) -> String {
    let mut text = format!("{} of {promises}", promises - broken.len());
    for name in broken {
        let _ = write!(text, "; not: {name}");
    }
    text
}

fn yes(is_so: bool) -> &'static str {
    if is_so { "yes" } else { "no" }
}

/// The page with the lines between the markers of a table in the place of those that are there.
fn with_table(page: &str, name: &str, lines: Vec<Line>) -> String {
    let (begin, end) = (format!("<!-- {name}: begin -->\n"), format!("<!-- {name}: end -->"));
    let (before, rest) = page.split_once(&begin).expect("the page has the table");
    let (old, after) = rest.split_once(&end).expect("the table ends");
    let heading: String = old.lines().take(2).map(|line| format!("{line}\n")).collect();
    let lines: String = lines.into_iter().map(|line| line.join().unwrap() + "\n").collect();
    format!("{before}{begin}{heading}{lines}{end}{after}")
}

#[test]
fn the_page_of_backends_is_what_the_kits_show() {
    let page = std::fs::read_to_string(PAGE).unwrap();
    let (stores, buses, transports) = (stores::lines(), buses::lines(), transports::lines());
    let shown = with_table(&page, "stores", stores);
    let shown = with_table(&shown, "buses", buses);
    let shown = with_table(&shown, "transports", transports);
    if std::env::var("MAMOS_WRITE_DOCS").is_ok_and(|value| value == "1") {
        std::fs::write(PAGE, &shown).unwrap();
        return;
    }
    assert_eq!(
        page, shown,
        "write it anew: MAMOS_WRITE_DOCS=1 cargo test -p mamos-simulation --test servers"
    );
}
