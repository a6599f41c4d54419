//! The rows, and the table of them.

use crate::{
    load::Kind,
    restart::{Case, Outcome},
};
use std::fmt::{self, Display, Write};

impl Case {
    pub fn title(&self) -> String {
        format!("{:<9}{}", self.proxy.title(), self.behind())
    }

    /// What is behind the proxy.
    fn behind(&self) -> String {
        let mut title = self.server.title().to_owned();
        if self.server.is_ours() {
            let lame_duck = self.lame_duck.as_secs_f64();
            let _ = write!(title, ", lame duck {lame_duck} s");
        }
        if let Some(lag) = self.lag {
            let _ = write!(title, ", proxy told {} s late", lag.as_secs_f64());
        }
        title
    }

    pub fn title_of_panel(&self) -> String {
        format!("{}: {}", self.proxy.title(), self.behind())
    }
}

pub fn head() -> String {
    let kinds = Kind::ALL.map(|kind| kind.title().to_owned());
    format!(
        "{:120}failed requests, by the client's kind\n{}",
        "",
        line(
            "",
            "restarts",
            "slowest",
            "requests",
            "late",
            "sent twice",
            "failed",
            &kinds
        )
    )
}

impl Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seen = &self.seen;
        let by_kind = seen.by_kind.map(|count| count.failed.to_string());
        f.write_str(&line(
            &self.case.title(),
            self.restarts,
            format!("{} ms", self.slowest.as_millis()),
            seen.all.answered + seen.all.failed,
            seen.late,
            self.sent_twice,
            seen.all.failed,
            &by_kind,
        ))
    }
}

fn line(
    title: &str,
    restarts: impl Display,
    slowest: impl Display,
    requests: impl Display,
    late: impl Display,
    sent_twice: impl Display,
    failed: impl Display,
    by_kind: &[String],
) -> String {
    let mut line = format!(
        "{title:<79}{restarts:>8}{slowest:>9}{requests:>9}{late:>6}{sent_twice:>11}{failed:>8}"
    );
    for count in by_kind {
        let _ = write!(line, "{count:>11}");
    }
    line
}

/// Why requests have failed, the most frequent reasons first.
pub fn reasons(outcome: &Outcome) -> String {
    let mut reasons: Vec<_> = outcome.seen.reasons.iter().collect();
    reasons.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let mut text = format!("{}\n", outcome.case.title());
    for (reason, count) in reasons {
        let _ = writeln!(text, "{count:>8}  {reason}");
    }
    text
}
