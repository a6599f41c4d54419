//! A report as text: a line, and a table of its blockers.

use super::{
    phase::Phase,
    report::{Blocker, BlockerKind, Report},
    wiring::Hint,
};
use std::{
    fmt::{self, Write as _},
    time::Duration,
};

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            elapsed, remaining, ..
        } = self;
        if let Some(name) = &self.name {
            write!(f, "{name}: ")?;
        }
        match (self.phase, self.forced_by) {
            (Phase::Serving, _) => f.write_str("serving")?,
            (Phase::Done, _) => write!(f, "done after {}", time(*elapsed))?,
            (Phase::Forced, Some(by)) => {
                write!(f, "forced {} after {}", by.phrase(), time(*elapsed))?;
            }
            (phase, _) => write!(f, "{phase} for {}", time(*elapsed))?,
        }
        let has_deadline = Phase::LameDuck..=Phase::Draining;
        if let Some(remaining) = remaining.filter(|_| has_deadline.contains(&self.phase)) {
            write!(f, ", {} to go", time(remaining))?;
        }
        match self.phase {
            Phase::Serving => write!(f, ": {}", self.left)?,
            _ => write!(f, ": {} left", self.left)?,
        }
        write!(
            f,
            "; {} completed, {} refused",
            self.completed, self.refused
        )?;
        write_answered(self, f)?;
        for (what, last) in [
            ("request", self.last_request),
            ("connection", self.last_connection),
        ] {
            if let Some(last) = last {
                write!(f, ", last {what} after {}", time(last))?;
            }
        }
        write_hints(&self.hints, f)?;
        write_table(self, f)
    }
}

/// Writes how many requests were answered at the deadline, if some were.
pub(super) fn write_answered(report: &Report, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match report.answered_at_deadline {
        0 => Ok(()),
        count => write!(f, ", {count} answered at the deadline"),
    }
}

/// Writes what is likely to be wrong, at the end of a line.
pub(super) fn write_hints(hints: &[Hint], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    hints.iter().try_for_each(|hint| write!(f, "; {hint}"))
}

/// Writes a line break and the table of a report's blockers, or nothing if there are none: twenty
/// of them, with `{:#}` all.
pub(super) fn write_table(report: &Report, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    const SHOWN: usize = 20;
    const HEAD: [&str; 7] = ["kind", "name", "state", "peer", "age", "sent", "taken at"];

    let blockers = &report.blockers;
    if blockers.is_empty() {
        return Ok(());
    }
    let shown = match f.alternate() {
        true => blockers.len(),
        false => blockers.len().min(SHOWN),
    };
    let rows: Vec<_> = blockers[..shown].iter().map(cells).collect();
    let mut widths = HEAD.map(str::len);
    // A column without a value is left out.
    let mut has_values = [false; HEAD.len()];
    for row in &rows {
        for (column, cell) in row.iter().enumerate() {
            widths[column] = widths[column].max(cell.chars().count());
            has_values[column] |= !cell.is_empty();
        }
    }
    let mut write = |row: [&str; HEAD.len()]| {
        let mut line = String::from("\n");
        for (column, cell) in row
            .into_iter()
            .enumerate()
            .filter(|(at, _)| has_values[*at])
        {
            write!(line, "{cell:<width$}  ", width = widths[column])?;
        }
        f.write_str(line.trim_end())
    };
    write(HEAD)?;
    for row in &rows {
        write(std::array::from_fn(|column| &*row[column]))?;
    }
    match blockers.len() - shown + report.more_blockers {
        0 => Ok(()),
        more => write!(f, "\n… and {more} more"),
    }
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [kind, name, state, peer, age, sent, taken_at] = cells(self);
        f.write_str(&kind)?;
        if !name.is_empty() {
            write!(f, " {name}")?;
        }
        let parts = [
            ("", state, ""),
            ("from ", peer, ""),
            ("", age, " old"),
            ("", sent, " sent"),
            ("taken at ", taken_at, ""),
        ];
        for (before, part, after) in parts.iter().filter(|(_, part, _)| !part.is_empty()) {
            write!(f, ", {before}{part}{after}")?;
        }
        Ok(())
    }
}

/// Returns a blocker's row of the table.
fn cells(blocker: &Blocker) -> [String; 7] {
    let name = match (&blocker.method, &blocker.path) {
        (Some(method), Some(path)) => format!("{method} {}", abridged(path)),
        _ => blocker.name.as_deref().map(abridged).unwrap_or_default(),
    };
    let state = match blocker.kind {
        BlockerKind::Connection(state) => state.as_str(),
        BlockerKind::Request => blocker.request_state(),
        _ => "",
    };
    let or_empty = |text: Option<String>| text.unwrap_or_default();
    [
        blocker.kind.to_string(),
        name,
        state.to_owned(),
        or_empty(blocker.peer.map(|peer| peer.to_string())),
        time(blocker.age),
        or_empty(blocker.sent.map(bytes)),
        or_empty(blocker.taken_at.map(|place| place.to_string())),
    ]
}

/// Writes a duration for people: `125ms`, `42.1s`, `3m05s`, `26h00m`.
pub(super) fn time(duration: Duration) -> String {
    let millis = (duration.as_micros() + 500) / 1000;
    let tenths = (millis + 50) / 100;
    match tenths {
        _ if millis < 1000 => format!("{millis}ms"),
        0..600 => format!("{}.{}s", tenths / 10, tenths % 10),
        600..36_000 => format!("{}m{:02}s", tenths / 600, tenths / 10 % 60),
        _ => format!("{}h{:02}m", tenths / 36_000, tenths / 600 % 60),
    }
}

/// Cuts a text that is too long for a table.
fn abridged(text: &str) -> String {
    const MOST: usize = 60;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Writes a number of bytes for people: `312 B`, `1.5 KiB`.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_for_people() {
        for (seconds, text) in [
            (0.04, "40ms"),
            (0.9994, "999ms"),
            (0.9996, "1.0s"),
            (59.94, "59.9s"),
            (59.96, "1m00s"),
            (60.0, "1m00s"),
            (3599.96, "1h00m"),
        ] {
            assert_eq!(time(Duration::from_secs_f64(seconds)), text);
        }
        assert_eq!(time(Duration::from_secs(3599)), "59m59s");
        assert_eq!(time(Duration::from_secs(26 * 3600)), "26h00m");
        assert_eq!(time(Duration::MAX), "5124095576030431h00m");
        for (count, text) in [(1023, "1023 B"), (1024, "1.0 KiB"), (3 << 20, "3.0 MiB")] {
            assert_eq!(bytes(count), text);
        }
        assert_eq!(bytes(u64::MAX), "16384.0 PiB");
    }
}
