//! Waits for the signal that begins a drain, and for the second one, which forces it.
//!
//! `terminate` (feature `signal`) waits for SIGTERM and SIGINT. A future of your own may end with a
//! [`SecondSignal`], or with `()` if there is none.

#[cfg(feature = "signal")]
mod requests;
#[cfg(feature = "signal")]
mod terminate;
#[cfg(all(feature = "signal", unix))]
mod watch;

#[cfg(feature = "signal")]
pub use self::terminate::{Terminate, terminate};
pub use crate::drain::SecondSignal;
