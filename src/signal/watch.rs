//! Threads that wait for signals, one for each, and do nothing else.
//!
//! Not the runtime, which may not come to it: a handler that blocks a thread can keep a runtime with many
//! from hearing of anything, if it is the thread that was about to ask the kernel. Whom one of these wakes,
//! is run by another; and what has to be done when nobody can be woken, it does itself.

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
};
use tokio::sync::watch;

/// How many of each there have been.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    pub(super) terminate: u64,
    pub(super) interrupt: u64,
    /// How many of all when the last one began to listen.
    since: u64,
}

/// One for the process, from the first who listens on: what hangs may be what comes after the drain, when
/// all that belonged to it is gone.
static WATCH: Mutex<Option<watch::Sender<Seen>>> = Mutex::new(None);

impl Seen {
    pub(super) fn all(&self) -> u64 {
        self.terminate + self.interrupt
    }
}

/// What has come, and what comes. From here on they are counted anew: the third one ends the process.
pub(super) fn listen() -> io::Result<watch::Receiver<Seen>> {
    let mut watch = WATCH.lock().unwrap_or_else(PoisonError::into_inner);
    let seen = match &*watch {
        Some(seen) => seen,
        None => {
            let seen = watch::Sender::default();
            for signal in [SIGTERM, SIGINT] {
                // Each one is a byte, so that none is lost among others.
                let (signals, handler) = UnixStream::pair()?;
                pipe::register(signal, handler)?;
                let seen = seen.clone();
                thread::Builder::new()
                    .name(format!("signal {signal}"))
                    .spawn(move || count(signal, signals, &seen))?;
            }
            watch.insert(seen)
        }
    };
    seen.send_modify(|seen| seen.since = seen.all());
    Ok(seen.subscribe())
}

fn count(signal: i32, mut signals: UnixStream, seen: &watch::Sender<Seen>) {
    // It errs only without the handler, which stays as long as the process.
    while signals.read_exact(&mut [0]).is_ok() {
        let mut ends = false;
        seen.send_modify(|seen| {
            match signal {
                SIGINT => seen.interrupt += 1,
                _ => seen.terminate += 1,
            }
            ends = seen.all() - seen.since >= 3;
        });
        if ends {
            end(signal);
        }
    }
}

/// As one ends that does not listen for it.
fn end(signal: i32) -> ! {
    // The first process of a container survives signals that it does not handle.
    if process::id() != 1 {
        let _ = low_level::emulate_default_handler(signal);
    }
    low_level::exit(128 + signal)
}
