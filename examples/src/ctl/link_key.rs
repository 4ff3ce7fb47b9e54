//! `mamosctl link-key`: what agents pin over a bus.

use super::client::Client;
use super::ending::Ending;
use super::output::Output;
use super::trouble::Trouble;
use super::view::text;

/// Prints the key alone, so that it can be given to an agent: `mamos-agent --pin "$(mamosctl link-key)"`.
pub(super) async fn run(client: &Client, output: &Output) -> Result<Ending, Trouble> {
    let key = client.get(&["link-key"], "show the key of links over a bus").send().await?.value;
    if output.is_json() {
        output.line(&key)?
    } else {
        output.line(text(&key, "public_key"))?
    }
    Ok(Ending::Fine)
}
