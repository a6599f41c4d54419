//! Watches for signals on two threads: one for SIGTERM and one for SIGINT.
//!
//! The runtime alone is not enough: if a handler blocks the worker that was about to poll the
//! kernel, the runtime sees no signal. A watcher thread wakes the runtime from outside, so that
//! another worker runs the task. If every worker is blocked, the thread ends the process itself at
//! the third signal.

use super::requests::Requests;
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    low_level::{self, pipe},
};
use std::{
    io::{self, Read},
    os::unix::net::UnixStream,
    process,
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
        Some(requests) => requests,
        None => {
            let requests = watch::Sender::default();
            for signal in [SIGTERM, SIGINT] {
                // The handler writes one byte for each signal, so that each one is counted.
                let (signals, handler) = UnixStream::pair()?;
                pipe::register(signal, handler)?;
                let requests = requests.clone();
                thread::Builder::new()
                    .name(format!("signal {signal}"))
                    .spawn(move || count(signal, signals, &requests))?;
            }
            watch.insert(requests)
        }
    };
    requests.send_modify(Requests::begin_anew);
    Ok(requests.subscribe())
}

/// Counts one kind of signal; the body of a watcher thread.
fn count(signal: i32, mut signals: UnixStream, requests: &watch::Sender<Requests>) {
    // It fails only without the handler, which stays until the process ends.
    while signals.read_exact(&mut [0]).is_ok() {
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
