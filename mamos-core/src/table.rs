//! Renders a state machine as a Markdown table, so that the documents can be compared with the code.

use std::fmt::Debug;

pub(crate) fn render<S: Copy + Debug, E: Copy + Debug>(
    corner: &str,
    states: &[S],
    events: &[E],
    after: impl Fn(S, E) -> Option<S>,
) -> String {
    let mut table = format!("| {corner} |");
    for event in events {
        table += &format!(" {event:?} |");
    }
    table += "\n| --- |";
    table += &" --- |".repeat(events.len());
    for state in states {
        table += &format!("\n| {state:?} |");
        for event in events {
            match after(*state, *event) {
                Some(next) => table += &format!(" {next:?} |"),
                None => table += " · |",
            }
        }
    }
    table.push('\n');
    table
}
