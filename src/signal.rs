//! Signals that begin a drain, and force it when they come again.

#[cfg(feature = "signal")]
mod requests;
#[cfg(feature = "signal")]
mod terminate;
#[cfg(all(feature = "signal", unix))]
mod watch;

#[cfg(feature = "signal")]
pub use self::terminate::{Terminate, terminate};
pub use crate::drain::SecondSignal;
