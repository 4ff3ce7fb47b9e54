//! Problems (RFC 9457) as the API tells them.

use serde::Deserialize;

/// What the orchestrator says of a request that it did not do.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub(super) struct Problem {
    pub(super) status: u16,
    pub(super) code: String,
    pub(super) title: String,
    pub(super) detail: String,
    pub(super) errors: Vec<Fault>,
    pub(super) current_state: Option<String>,
}

/// A part of the request that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub(super) struct Fault {
    pub(super) pointer: String,
    pub(super) detail: String,
}

/// How much of an answer that is no problem is shown.
const MAX_SHOWN: usize = 200;

impl Problem {
    /// Reads an answer. One from something between, which is no problem, is quoted.
    pub(super) fn read(status: u16, body: &[u8]) -> Self {
        match serde_json::from_slice::<Self>(body) {
            Ok(problem) if !problem.code.is_empty() || !problem.detail.is_empty() => {
                Self { status, ..problem }
            }
            _ => {
                let text = String::from_utf8_lossy(body);
                let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
                Self { status, detail: line.chars().take(MAX_SHOWN).collect(), ..Self::default() }
            }
        }
    }

    /// The most telling of what it says, with the code for programs.
    pub(super) fn said(&self) -> String {
        let text = if self.detail.is_empty() { &self.title } else { &self.detail };
        match (text.is_empty(), self.code.is_empty()) {
            (true, _) => format!("it answered with status {}", self.status),
            (false, true) => format!("{text} (status {})", self.status),
            (false, false) => format!("{text} ({})", self.code),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_says_its_detail_and_code() {
        let body =
            br#"{"type":"/problems/not_found","code":"not_found","status":404,"detail":"no such job"}"#;
        assert_eq!(Problem::read(404, body).said(), "no such job (not_found)");
    }

    #[test]
    fn an_answer_of_something_else_is_quoted() {
        let problem = Problem::read(502, b"<html>\n  Bad   Gateway</html>");
        assert_eq!(problem.said(), "<html> Bad Gateway</html> (status 502)");
        assert_eq!(Problem::read(500, b"").said(), "it answered with status 500");
    }
}
