//! The rows, and the table of them.

use crate::restart::{Case, Outcome};
use std::{
    cmp::Reverse,
    fmt::{self, Display, Write},
    time::Duration,
};

impl Case {
    /// In messages and in the picture.
    pub fn title(&self) -> String {
        let mut title = format!("{}: {}", self.proxy.title(), self.server.title());
        if self.server.is_ours() {
            let _ = write!(title, ", lame duck {}", seconds(self.lame_duck));
        }
        if let Some(lag) = self.lag {
            let _ = write!(title, ", proxy told {} late", seconds(lag));
        }
        title
    }
}

pub fn head() -> String {
    let columns = line(
        "",
        "",
        "lame duck",
        "told",
        "restarts",
        "slowest",
        "requests",
        "late",
        "twice",
        "failed",
    );
    format!(
        "\
lame duck: of each replica; told: how long after its SIGTERM the proxy is told, or `-` if it finds out
itself; slowest: from a SIGTERM to the end of the process; late: answered after more than 0.5 s; twice:
sent again by the proxy, though something of it had been sent.

{columns}"
    )
}

impl Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { case, seen, .. } = self;
        let ours = case.server.is_ours();
        let lame_duck = ours.then(|| seconds(case.lame_duck));
        let told = case.lag.map(seconds);
        f.write_str(&line(
            case.proxy.title(),
            case.server.title(),
            lame_duck.as_deref().unwrap_or("-"),
            told.as_deref().unwrap_or("-"),
            self.restarts,
            format!("{} ms", self.slowest.as_millis()),
            seen.all.answered + seen.all.failed,
            seen.late,
            self.sent_twice,
            seen.all.failed,
        ))
    }
}

#[expect(clippy::too_many_arguments, reason = "the columns")]
fn line(
    proxy: &str,
    server: &str,
    lame_duck: &str,
    told: &str,
    restarts: impl Display,
    slowest: impl Display,
    requests: impl Display,
    late: impl Display,
    twice: impl Display,
    failed: impl Display,
) -> String {
    format!(
        "{proxy:<9}{server:<28}{lame_duck:>10}{told:>7}{restarts:>9}{slowest:>9}{requests:>9}{late:>6}\
         {twice:>6}{failed:>7}"
    )
}

fn seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs_f64())
}

/// What has failed, by the kind of its client and by reason, the most frequent first.
pub fn failures(outcome: &Outcome) -> String {
    let mut reasons: Vec<_> = outcome.seen.reasons.iter().collect();
    reasons.sort_by_key(|(_, count)| Reverse(**count));
    let mut text = format!("{}\n", outcome.case.title());
    for (reason, count) in reasons {
        let _ = writeln!(text, "{count:>8}  {reason}");
    }
    text
}
