//! Two threads that wait for signals, one for SIGTERM and one for SIGINT, and do nothing else.
//!
//! A runtime is not enough: if a handler blocks the worker that was about to poll the kernel, the runtime
//! hears of no signal. A watcher thread wakes the runtime from outside, so that another worker runs the
//! task. If every worker is blocked, the thread ends the process itself.

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

/// The count of the process, made by the first call of [`listen`]. It outlives every drain: what hangs may
/// be what the program does after the drain.
static WATCH: Mutex<Option<watch::Sender<Requests>>> = Mutex::new(None);

/// Returns the count of the requests to stop, which begins anew for what ends the process.
pub(super) fn listen() -> io::Result<watch::Receiver<Requests>> {
    let mut watch = WATCH.lock().unwrap_or_else(PoisonError::into_inner);
    let requests = match &*watch {
        Some(requests) => requests,
        None => {
            let requests = watch::Sender::default();
            for signal in [SIGTERM, SIGINT] {
                // The handler writes a byte for each signal, so that none is lost among others.
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

fn count(signal: i32, mut signals: UnixStream, requests: &watch::Sender<Requests>) {
    // It errs only without the handler, which stays as long as the process.
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

/// Ends the process as a signal does that has no handler.
fn kill(signal: i32) -> ! {
    // The first process of a container survives signals that it does not handle.
    if process::id() != 1 {
        let _ = low_level::emulate_default_handler(signal);
    }
    low_level::exit(128 + signal)
}
