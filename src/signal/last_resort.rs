//! The third signal, which ends the process whatever its threads are at: all of it is done in the
//! signal's handler.
//!
//! The second one, which tokio tells the drain of, arms here; the one after that does what it would
//! do to a process that does not listen for it.

use signal_hook::{SigId, flag, low_level};
use std::{
    process,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicBool},
};
use tokio::signal::unix::SignalKind;

/// What is registered. Nobody's but the process's: what hangs may be what comes after the drain, when
/// all that belonged to it is gone.
static ACTIONS: Mutex<Vec<SigId>> = Mutex::new(Vec::new());

/// The first signal has come. Nothing more is done for others who listen for it, too: one signal is
/// the first of all of them.
pub(super) fn prepare() {
    let mut actions = actions();
    if !actions.is_empty() {
        return;
    }
    let armed = Arc::new(AtomicBool::new(false));
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let signal = kind.as_raw_value();
        // They run in this order: so the signal that arms does not end the process.
        let ends = match process::id() {
            // The first of its namespace survives signals that it does not handle.
            1 => flag::register_conditional_shutdown(signal, 128 + signal, armed.clone()),
            _ => flag::register_conditional_default(signal, armed.clone()),
        };
        let arms = flag::register(signal, armed.clone());
        // An error is unheard of, as tokio has its handler by now. The third signal would be nothing.
        actions.extend([ends, arms].into_iter().flatten());
    }
}

/// The next signal is a first one.
pub(super) fn withdraw() {
    for action in actions().drain(..) {
        low_level::unregister(action);
    }
}

fn actions() -> MutexGuard<'static, Vec<SigId>> {
    ACTIONS.lock().unwrap_or_else(PoisonError::into_inner)
}
