//! `mamosctl logs`: what a job printed, and what it prints.

use clap::Args;
use serde_json::Value;

use super::bytes;
use super::client::Client;
use super::ending::Ending;
use super::output::Output;
use super::stream::Stream;
use super::trouble::Trouble;
use super::view::text;

/// How much is read at once.
const PIECE_BYTES: u64 = 256 * 1024;

#[derive(Debug, Args)]
pub(super) struct LogsOrder {
    /// The id of the job
    job: String,
    /// Go on until the job ends
    #[arg(long, short)]
    follow: bool,
    /// Which run; the last one if not given
    #[arg(long)]
    epoch: Option<String>,
}

pub(super) async fn run(order: LogsOrder, client: &Client, output: &Output) -> Result<Ending, Trouble> {
    if order.follow {
        follow(client, output, &order.job, order.epoch).await?;
    } else {
        print(client, output, &order.job, order.epoch).await?;
    }
    Ok(Ending::Fine)
}

async fn print(
    client: &Client,
    output: &Output,
    job: &str,
    mut epoch: Option<String>,
) -> Result<(), Trouble> {
    let mut printer = Printer::new(output);
    let mut offset = 0;
    loop {
        let page = client
            .get(&["jobs", job, "log"], format!("read the log of job {job}"))
            .query("format", Some("json"))
            .query("epoch", epoch.as_deref())
            .query("offset", Some(offset))
            .query("limit_bytes", Some(PIECE_BYTES))
            .send()
            .await?
            .value;
        // The last run may change while it is read; what was begun is read to its end.
        epoch = number(&page["epoch"]).map(|epoch| epoch.to_string()).or(epoch);
        for piece in page["pieces"].as_array().into_iter().flatten() {
            printer.piece(epoch.as_deref().and_then(|epoch| epoch.parse().ok()), piece)?;
        }
        let next = page["next_offset"].as_u64().unwrap_or(offset);
        if next <= offset {
            return Ok(());
        }
        offset = next;
    }
}

/// Prints a job's log as it grows, over all attempts, until the job ends.
pub(super) async fn follow(
    client: &Client,
    output: &Output,
    job: &str,
    epoch: Option<String>,
) -> Result<(), Trouble> {
    let query = epoch.map(|epoch| ("epoch", epoch)).into_iter().collect();
    let mut stream =
        Stream::new(client, &["jobs", job, "log", "follow"], query, &format!("follow the log of job {job}"));
    let mut printer = Printer::new(output);
    loop {
        let told = stream.next().await?;
        match told.name.as_str() {
            "end" => match told.data["reason"].as_str() {
                Some("unreadable") => {
                    let message =
                        format!("cannot follow the log of job {job}: the orchestrator cannot read it");
                    return Err(
                        Trouble::new(Ending::Failed, message).next("the log of the orchestrator says more")
                    );
                }
                // Only the end of the job is the end; a stream that was ended for another reason goes on.
                Some("job_removed") => return Ok(()),
                _ if told.data["state"].is_string() => return Ok(()),
                _ => {}
            },
            // Told at the beginning and after each cut, too.
            "attempt" => {
                let begun = number(&told.data["epoch"]);
                if printer.epoch.is_some() && begun != printer.epoch && !output.is_json() {
                    output.say(format_args!("-- the job is tried again (run {})", text(&told.data, "epoch")));
                }
            }
            "gap" => output.say(format_args!("-- {} was missed", missed(&told.data))),
            _ if told.data["stream"].is_string() => {
                printer.piece(number(&told.data["epoch"]), &told.data)?;
            }
            _ => {}
        }
    }
}

pub(super) fn missed(gap: &Value) -> String {
    let count = gap["missed"].as_u64().map_or_else(|| "something".to_owned(), |count| format!("{count}"));
    match gap["reason"].as_str() {
        Some(reason) => format!("{count} ({})", super::view::harmless(reason)),
        None => count,
    }
}

/// An integer that may be written as a text.
fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

/// Prints each byte of a log once, whatever comes twice after a cut.
struct Printer<'a> {
    output: &'a Output,
    epoch: Option<u64>,
    next: u64,
}

impl<'a> Printer<'a> {
    fn new(output: &'a Output) -> Self {
        Self { output, epoch: None, next: 0 }
    }

    fn piece(&mut self, epoch: Option<u64>, piece: &Value) -> Result<(), Trouble> {
        let all = bytes::of_piece(piece);
        let (bytes, gap) = self.fresh(epoch, piece["offset"].as_u64(), &all);
        if gap > 0 {
            self.output.say(format_args!("-- {gap} bytes of the log are missing"));
        }
        if bytes.is_empty() {
            return Ok(());
        }
        if self.output.is_json() {
            return self.output.line(piece);
        }
        if piece["stream"] == "stdout" {
            return self.output.raw(bytes);
        }
        self.output.raw_error(bytes);
        Ok(())
    }

    /// What of these bytes was not seen yet, and how many are missing before them.
    fn fresh<'b>(&mut self, epoch: Option<u64>, offset: Option<u64>, bytes: &'b [u8]) -> (&'b [u8], u64) {
        if epoch.is_some() && epoch != self.epoch {
            (self.epoch, self.next) = (epoch, 0);
        }
        let offset = offset.unwrap_or(self.next);
        let seen = self.next.saturating_sub(offset).min(bytes.len() as u64);
        let gap = offset.saturating_sub(self.next);
        self.next = self.next.max(offset + bytes.len() as u64);
        (&bytes[usize::try_from(seen).unwrap_or(bytes.len())..], gap)
    }
}

#[cfg(test)]
mod tests {
    use super::super::cli::When;
    use super::*;

    #[test]
    fn what_comes_twice_is_printed_once_and_what_is_missing_is_counted() {
        let output = Output::new(false, When::Never);
        let mut printer = Printer::new(&output);
        assert_eq!(printer.fresh(Some(1), Some(0), b"abc"), (&b"abc"[..], 0));
        assert_eq!(printer.fresh(Some(1), Some(1), b"bcde"), (&b"de"[..], 0));
        assert_eq!(printer.fresh(Some(1), Some(0), b"abc"), (&b""[..], 0));
        assert_eq!(printer.fresh(Some(1), Some(9), b"x"), (&b"x"[..], 4));
        assert_eq!(printer.fresh(Some(2), Some(0), b"again"), (&b"again"[..], 0));
    }
}
