//! Watches for SIGTERM and SIGINT on a thread of its own.
//!
//! The runtime alone is not enough: if a handler blocks the worker that was about to poll the
//! kernel, the runtime sees no signal. The thread wakes the runtime from outside, so that another
//! worker runs the task. If every worker is blocked, the thread ends the process itself at the third
//! request.

use super::requests::Requests;
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
    low_level,
};
use std::{
    io, process,
    sync::{Mutex, PoisonError},
    thread,
    time::Instant,
};
use tokio::sync::watch;

/// Holds the count of the process, made by the first call of [`listen`]. It outlives every drain,
/// as the program may hang after its drain.
static WATCH: Mutex<Option<watch::Sender<Requests>>> = Mutex::new(None);

/// Returns a receiver of the count, and counts anew: the next request is the first one.
pub(super) fn listen() -> io::Result<watch::Receiver<Requests>> {
    let mut watch = WATCH.lock().unwrap_or_else(PoisonError::into_inner);
    let requests = match &*watch {
        Some(requests) => {
            requests.send_modify(Requests::begin_anew);
            requests
        }
        None => {
            // Its count begins here: a signal may come as soon as there is a handler.
            let requests = watch::Sender::default();
            let signals = Signals::new([SIGTERM, SIGINT])?;
            let counted = requests.clone();
            thread::Builder::new()
                .name("signals".to_owned())
                .spawn(move || count(signals, &counted))?;
            watch.insert(requests)
        }
    };
    Ok(requests.subscribe())
}

/// Counts the signals; the body of the thread. The iterator may merge signals of one kind that are
/// there at the same time. They are copies of one request anyway.
fn count(mut signals: Signals, requests: &watch::Sender<Requests>) {
    for signal in signals.forever() {
        let mut kills = false;
        requests.send_modify(|requests| {
            requests.count(Instant::now(), signal == SIGINT);
            kills = requests.kills();
        });
        if kills {
            kill(signal);
        }
    }
}

/// Ends the process as the signal would without a handler.
fn kill(signal: i32) -> ! {
    // Process 1 of a container is not ended by a signal that it does not handle.
    if process::id() != 1 {
        let _ = low_level::emulate_default_handler(signal);
    }
    low_level::exit(128 + signal)
}
