//! What stands in a journal, and how: length, checksum, record.

use mamos_core::id::{JobKind, SessionId};
use mamos_core::job::Outcome;
use mamos_core::lease::RunRef;
use serde::{Deserialize, Serialize};

/// Longer than any record: outputs are bounded far below it. A length beyond it is garbage.
pub(crate) const MAX_RECORD_BYTES: usize = 32 * 1024 * 1024;
/// Length and checksum, four bytes each, little-endian.
pub(crate) const HEADER_BYTES: usize = 8;

/// One thing that an agent must not forget.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Record {
    /// The agent has this session.
    Session(SessionId),
    /// The run is about to start.
    Started {
        /// The run.
        run: RunRef,
        /// What it runs.
        kind: JobKind,
    },
    /// The run ended, and the orchestrator does not know it yet.
    Ended {
        /// The run.
        run: RunRef,
        /// How.
        outcome: Outcome,
    },
    /// The orchestrator knows how the run ended, or does not want to.
    Forgotten {
        /// The run.
        run: RunRef,
    },
}

impl Record {
    /// The run that it is about.
    pub(crate) fn run(&self) -> Option<RunRef> {
        match self {
            Self::Session(_) => None,
            Self::Started { run, .. } | Self::Ended { run, .. } | Self::Forgotten { run } => Some(*run),
        }
    }

    /// Appends the record with its header to `buffer`; on failure `buffer` is unchanged.
    pub(crate) fn write_to(&self, buffer: &mut Vec<u8>) -> Result<(), String> {
        let start = buffer.len();
        buffer.extend_from_slice(&[0; HEADER_BYTES]);
        let written = rmp_serde::encode::write_named(buffer, self).map_err(|error| error.to_string());
        let body = start + HEADER_BYTES;
        let result = written.and_then(|()| match buffer.len() - body {
            length if length > MAX_RECORD_BYTES => Err(format!("a record of {length} bytes is too large")),
            length => u32::try_from(length).map_err(|error| error.to_string()),
        });
        match result {
            Ok(length) => {
                let checksum = crc32(&buffer[body..]);
                buffer[start..start + 4].copy_from_slice(&length.to_le_bytes());
                buffer[start + 4..body].copy_from_slice(&checksum.to_le_bytes());
                Ok(())
            }
            Err(why) => {
                buffer.truncate(start);
                Err(why)
            }
        }
    }

    /// Reads the body of a record, if the checksum is right.
    pub(crate) fn read(checksum: u32, body: &[u8]) -> Option<Self> {
        (crc32(body) == checksum).then(|| rmp_serde::from_slice(body).ok()).flatten()
    }
}

/// CRC-32 as in Ethernet and zip (reflected polynomial 0xEDB88320).
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc: u32, byte| TABLE[usize::from(crc as u8 ^ byte)] ^ (crc >> 8))
}

const TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut n = 0;
    while n < 256 {
        let mut entry = n as u32;
        let mut bit = 0;
        while bit < 8 {
            entry = if entry & 1 == 1 { 0xEDB8_8320 ^ (entry >> 1) } else { entry >> 1 };
            bit += 1;
        }
        table[n] = entry;
        n += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_one_of_the_catalogue() {
        // The check value of CRC-32/ISO-HDLC in the catalogue of parametrised CRC algorithms.
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }
}
