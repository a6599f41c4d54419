//! The rows, and the table of them.

use crate::{
    client::{Fate, Mode},
    servers::Server,
};
use std::{
    fmt::{self, Display},
    time::Duration,
};

/// One server in one mode, over all shutdowns.
pub struct Row {
    pub server: &'static Server,
    pub mode: Mode,
    pub answered: usize,
    pub not_connected: usize,
    pub told_so: usize,
    pub lost: usize,
    slowest: Duration,
    hung: usize,
}

impl Row {
    pub fn new(server: &'static Server, mode: Mode) -> Self {
        Self {
            server,
            mode,
            answered: 0,
            not_connected: 0,
            told_so: 0,
            lost: 0,
            slowest: Duration::ZERO,
            hung: 0,
        }
    }

    /// Adds a shutdown: how long it took, and what the clients saw.
    pub fn add(&mut self, stopped: Option<Duration>, (answered, fates): (usize, Vec<Fate>)) {
        match stopped {
            Some(took) => self.slowest = self.slowest.max(took),
            None => self.hung += 1,
        }
        self.answered += answered;
        for fate in fates {
            match fate {
                Fate::NotConnected => self.not_connected += 1,
                Fate::ToldSo => self.told_so += 1,
                Fate::Lost => self.lost += 1,
            }
        }
    }

    /// One request for each client of each shutdown.
    pub fn last_requests(&self) -> usize {
        self.not_connected + self.told_so + self.lost
    }
}

pub fn head(shutdowns: usize, clients: usize) -> String {
    let columns = line(
        "",
        "",
        "answered",
        "not connected",
        "told so",
        "lost",
        "slowest",
    );
    format!(
        "{shutdowns} shutdowns of {clients} clients. All answers, then what the last {} requests came \
         to, then the slowest stop:\n\n{columns}",
        shutdowns * clients,
    )
}

impl Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slowest = match self.hung {
            0 => format!("{} ms", self.slowest.as_millis()),
            hung => format!("{hung} hung"),
        };
        f.write_str(&line(
            self.server.title,
            self.mode.title(),
            self.answered,
            self.not_connected,
            self.told_so,
            self.lost,
            slowest,
        ))
    }
}

fn line(
    server: &str,
    mode: &str,
    answered: impl Display,
    not_connected: impl Display,
    told_so: impl Display,
    lost: impl Display,
    slowest: impl Display,
) -> String {
    format!(
        "{server:<29}{mode:<28}{answered:>9}{not_connected:>15}{told_so:>9}{lost:>6}{slowest:>9}"
    )
}
