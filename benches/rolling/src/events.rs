//! What happens to a replica, and when: said by its process in a line each, read by the rig.

use std::{
    fmt::Debug,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Serving,
    /// The proxy has sent it a request.
    AnswersHttp,
    AnswersGrpc,
    LameDuck,
    Draining,
    /// With its outcome.
    Ended,
    /// The process is no more. That, its parent says.
    Gone,
    /// Said by the rig, where it is what tells the proxy where to send requests.
    RoutedTo,
    NotRoutedTo,
}

impl Change {
    const SAID: [Self; 6] = [
        Self::Serving,
        Self::AnswersHttp,
        Self::AnswersGrpc,
        Self::LameDuck,
        Self::Draining,
        Self::Ended,
    ];
}

/// Of one replica, by its number.
#[derive(Clone)]
pub struct Event {
    pub replica: usize,
    pub at: Duration,
    pub change: Change,
}

/// The time of day: all processes of this machine have the same.
pub fn now() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("it is later than 1970")
}

pub fn say(change: Change, more: &str) {
    println!("{} {change:?} {more}", now().as_micros());
}

/// What [`say`] has said.
pub fn parse(line: &str) -> Option<(Duration, Change, &str)> {
    let mut parts = line.splitn(3, ' ');
    let at = Duration::from_micros(parts.next()?.parse().ok()?);
    let name = parts.next()?;
    let change = Change::SAID
        .into_iter()
        .find(|change| format!("{change:?}") == name)?;
    Some((at, change, parts.next()?))
}
