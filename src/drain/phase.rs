/// How far a [`Drain`](crate::Drain) has come. Phases only ever go forward, and compare so; their
/// numbers are not part of the API.
///
/// ```
/// use tower_graceful::{Drain, Phase};
///
/// let drain = Drain::new();
/// assert_eq!(drain.phase(), Phase::Serving);
/// drain.begin();
/// assert!(drain.phase() >= Phase::Draining);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum Phase {
    /// Nobody has asked to stop: everything is served.
    Serving,
    /// The end is announced and everything is still served: readiness says no, and HTTP/1
    /// responses carry `Connection: close`, so that balancers and clients move elsewhere.
    LameDuck,
    /// New work is refused; what is in flight is waited for.
    Draining,
    /// The deadline has passed, or [`Drain::force`](crate::Drain::force) was called: what is left
    /// is cut.
    Forced,
    /// It is over, and every waiter has the same outcome.
    Done,
}

impl Phase {
    /// The phase whose discriminant this is; the last one for any number beyond it.
    pub(crate) fn from_u8(discriminant: u8) -> Self {
        const ALL: [Phase; 5] = [
            Phase::Serving,
            Phase::LameDuck,
            Phase::Draining,
            Phase::Forced,
            Phase::Done,
        ];
        ALL[usize::from(discriminant).min(ALL.len() - 1)]
    }
}
