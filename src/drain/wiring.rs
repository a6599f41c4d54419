//! Checks how a drain is wired: which parts the program uses, and when its supervisor kills it.
//!
//! Each part records its fact once, where it is made, off the path of requests. The rules read the
//! facts when the drain begins, and for its reports.
//!
//! A layer alone and a listener alone are supported. So the rules for these two report only a loss
//! that the other part would have prevented.

use std::{
    env, fmt,
    sync::atomic::{AtomicBool, AtomicU8, Ordering},
    time::Duration,
};

/// Names what is known of the program around a drain. Each is a bit.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(crate) enum Fact {
    /// Says that a layer counts HTTP requests, or that `serve` does.
    HttpLayer = 1,
    /// Says that a layer counts the calls of another service.
    CallLayer = 1 << 1,
    /// Says that a listener or a stream of the drain accepts connections.
    Listener = 1 << 2,
    /// Says that `axum::serve` accepts from a listener of the drain. It stops only when it is told.
    AxumAccepts = 1 << 3,
    /// Says that something was made that tells a server to stop, or that the server has ended. It
    /// need not have been polled: the first signal may come before that.
    StopSignal = 1 << 4,
    /// Says that the process runs in a pod.
    Kubernetes = 1 << 5,
    /// Says that the process is a service of systemd that notifies it.
    Systemd = 1 << 6,
    /// Says that process 1 is the parent, and a shell that forwards no signal.
    ShellIsFirst = 1 << 7,
}

/// Holds the facts that were seen at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Facts(u8);

impl Facts {
    pub(super) fn has(self, fact: Fact) -> bool {
        self.0 & fact as u8 != 0
    }

    fn and(self, fact: Fact, is_seen: bool) -> Self {
        Self(self.0 | if is_seen { fact as u8 } else { 0 })
    }

    /// Returns what the environment says of the supervisor.
    fn of_environment(has: impl Fn(&str) -> bool) -> Self {
        Self::default()
            .and(Fact::Kubernetes, has("KUBERNETES_SERVICE_HOST"))
            .and(Fact::Systemd, has("NOTIFY_SOCKET"))
    }
}

/// Says whether `check_process_one` has found a shell.
static SHELL_IS_FIRST: AtomicBool = AtomicBool::new(false);

/// Records the facts of one drain.
///
/// All accesses are relaxed: a fact publishes nothing else.
#[derive(Default)]
pub(super) struct Wiring(AtomicU8);

impl Wiring {
    pub(super) fn record(&self, fact: Fact) {
        // Most calls only read, and do not take the cache line from each other.
        if !Facts(self.0.load(Ordering::Relaxed)).has(fact) {
            self.0.fetch_or(fact as u8, Ordering::Relaxed);
        }
    }

    /// Records what the environment says of the supervisor. Called when the drain begins.
    pub(super) fn record_environment(&self) {
        let Facts(bits) = Facts::of_environment(|name| env::var_os(name).is_some());
        self.0.fetch_or(bits, Ordering::Relaxed);
    }

    pub(super) fn facts(&self) -> Facts {
        let is_shell = SHELL_IS_FIRST.load(Ordering::Relaxed);
        Facts(self.0.load(Ordering::Relaxed)).and(Fact::ShellIsFirst, is_shell)
    }
}

/// Names what is likely to be wrong. Its text says what was seen, what follows, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Hint {
    /// Says that the handlers of all requests that are left wait for their own drain.
    WaitsForItself,
    /// Says that only servers are left, and go on.
    ServerAlone,
    /// Says that axum's server accepts, and that the drain does not tell it to stop.
    NotTold,
    /// Says that connections are left that are idle, or whose requests nothing counts.
    NotClosed,
    /// Says that requests were refused, and that no listener could tell those that came in time.
    NoListener,
    /// Says that requests were cut, and that no layer could answer them.
    NoLayer,
    /// Says that the supervisor kills the process before the drain's deadline.
    TooLong {
        text: String,
        /// Says whether the time of the supervisor is its default, and not what the program says.
        is_default: bool,
    },
    /// Says that process 1 is a shell.
    ShellIsFirst,
}

impl Hint {
    /// Returns the hints for a timeout that is longer than what the supervisor allows. A timeout of
    /// `None` has no limit. `pod` is the time that `DrainBuilder::kubernetes` was given.
    pub(super) fn too_long(
        facts: Facts,
        timeout: Option<Duration>,
        pod: Option<Duration>,
    ) -> impl Iterator<Item = Self> {
        const POD: &str = " that `DrainBuilder::kubernetes` was given: Kubernetes kills the \
                           process first: do not set `timeout` after it, or raise the grace period";
        const KUBERNETES: &str = ": if `terminationGracePeriodSeconds` is not set, Kubernetes \
                                  kills the process first: set it, and give it to \
                                  `DrainBuilder::kubernetes`";
        const SYSTEMD: &str = ": if `TimeoutStopSec=` is not set, systemd kills the process \
                               first: set it, 2 s longer than the timeout";

        let seconds = Duration::from_secs;
        let said = pod.map(|limit| (limit, "", POD));
        let in_pod = (seconds(30), "default of Kubernetes, ", KUBERNETES);
        let in_unit = (seconds(90), "default of systemd, ", SYSTEMD);
        [
            said.or(facts.has(Fact::Kubernetes).then_some(in_pod)),
            facts.has(Fact::Systemd).then_some(in_unit),
        ]
        .into_iter()
        .flatten()
        .filter(move |(limit, ..)| timeout.is_none_or(|timeout| timeout > *limit))
        .map(move |(limit, whose, advice)| {
            let taken = match timeout {
                Some(timeout) => format!("the timeout of {} s", timeout.as_secs_f64()),
                None => "an unlimited timeout".to_owned(),
            };
            let limit = limit.as_secs_f64();
            Self::TooLong {
                text: format!("{taken} is longer than the {whose}{limit} s{advice}"),
                is_default: !whose.is_empty(),
            }
        })
    }

    /// Returns the hint of a drain that has refused so many requests.
    pub(super) fn of_refusals(facts: Facts, refused: u64) -> Option<Self> {
        // With a layer for other calls, nobody knows which of them were refused.
        let lacks =
            facts.has(Fact::HttpLayer) && !facts.has(Fact::CallLayer) && !facts.has(Fact::Listener);
        (lacks && refused > 0).then_some(Self::NoListener)
    }

    /// Returns the hint of a drain that cuts so many connections with a request. Over HTTP/2, a
    /// response may have begun, which no layer could have answered.
    pub(super) fn of_cuts(facts: Facts, handling: usize, has_http2: bool) -> Option<Self> {
        let has_layer = facts.has(Fact::HttpLayer) || facts.has(Fact::CallLayer);
        let lacks = facts.has(Fact::Listener) && !has_layer;
        (lacks && handling > 0 && !has_http2).then_some(Self::NoLayer)
    }

    /// Returns whether the hint is known when the drain begins.
    #[cfg(feature = "tracing")]
    pub(super) fn is_known_at_begin(&self) -> bool {
        matches!(self, Self::NotTold | Self::TooLong { .. })
    }

    /// Returns whether the hint depends on what the process cannot see.
    #[cfg(feature = "tracing")]
    pub(super) fn is_likely_only(&self) -> bool {
        matches!(
            self,
            Self::TooLong {
                is_default: true,
                ..
            }
        )
    }
}

/// Serialises as its text.
#[cfg(feature = "serde")]
impl serde::Serialize for Hint {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WaitsForItself => {
                "the handler of each request that is left waits for this drain, and so for itself: \
                 begin the drain and answer"
            }
            Self::ServerAlone => {
                "either `with_graceful_shutdown(drain.shutdown_signal())` is missing, or the server \
                 waits for connections that the drain does not know"
            }
            Self::NotTold => {
                "the drain does not tell axum's server to stop: \
                 `with_graceful_shutdown(drain.shutdown_signal())` is missing"
            }
            Self::NotClosed => {
                "connections are left on which the drain counts no request: the server has not closed its \
                 idle ones (in a loop on hyper, call `graceful_shutdown` of each connection), or they \
                 have requests that are exempt, or outside of the layer"
            }
            Self::NoListener => {
                "requests were refused, and the drain has no listener to tell those that came in \
                 time: give the server `drain.listener(..)`, or set a longer lame duck"
            }
            Self::NoLayer => {
                "requests were cut without an answer, as the drain has no layer: add \
                 `.layer(drain.layer())` to the service, if it is HTTP"
            }
            Self::ShellIsFirst => {
                "process 1 is a shell, which forwards no SIGTERM to this process: start the program \
                 with `exec`, or with the exec form of ENTRYPOINT"
            }
            Self::TooLong { text, .. } => text,
        })
    }
}

/// Looks whether process 1 is a shell that forwards no signal to this process. Returns `true` once,
/// if it is.
///
/// The parent has to be process 1. A server that was started by hand in a container has another
/// parent, and gets its signals from there.
#[cfg(feature = "signal")]
pub(crate) fn check_process_one() -> bool {
    #[cfg(target_os = "linux")]
    let is_shell = std::os::unix::process::parent_id() == 1
        && forwards_nothing(std::path::Path::new("/proc/1"));
    #[cfg(not(target_os = "linux"))]
    let is_shell = false;
    is_shell && !SHELL_IS_FIRST.swap(true, Ordering::Relaxed)
}

/// Returns whether the process of that directory of `/proc` is a shell that neither catches nor
/// ignores SIGTERM. A shell with a trap may forward it, and one at a terminal ignores it.
#[cfg(all(feature = "signal", target_os = "linux"))]
fn forwards_nothing(process: &std::path::Path) -> bool {
    const SHELLS: [&str; 5] = ["sh", "bash", "dash", "ash", "busybox"];
    const SIGTERM: u64 = 1 << 14;
    let read = |name| std::fs::read_to_string(process.join(name)).unwrap_or_default();
    let status = read("status");
    let mask = |name| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        u64::from_str_radix(line?.trim(), 16).ok()
    };
    let handled = mask("SigCgt:").zip(mask("SigIgn:"));
    SHELLS.contains(&read("comm").trim())
        && handled.is_some_and(|(caught, ignored)| (caught | ignored) & SIGTERM == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hints(variables: &[&str], timeout: u64, pod: Option<u64>) -> Vec<String> {
        let facts = Facts::of_environment(|name| variables.contains(&name));
        let timeout = (timeout < u64::MAX).then(|| Duration::from_secs(timeout));
        let hints = Hint::too_long(facts, timeout, pod.map(Duration::from_secs));
        hints.map(|hint| hint.to_string()).collect()
    }

    #[test]
    fn a_timeout_is_compared_with_what_the_supervisor_allows() {
        const POD: &str = "KUBERNETES_SERVICE_HOST";
        const UNIT: &str = "NOTIFY_SOCKET";
        for (variables, timeout, pod, named) in [
            (&[][..], u64::MAX, None, &[][..]),
            (&["HOME"], u64::MAX, None, &[]),
            (&[], 30, Some(30), &[]),
            (&[], 31, Some(30), &["31 s", "30 s", "::kubernetes"]),
            (&[POD], 30, None, &[]),
            (&[POD], 31, None, &["31 s", "30 s", "terminationGrace"]),
            // What the program says counts, and not the default.
            (&[POD], 31, Some(60), &[]),
            (&[POD], 61, Some(60), &["61 s", "60 s"]),
            (&[UNIT], 90, None, &[]),
            (&[UNIT], 91, None, &["91 s", "90 s", "`TimeoutStopSec=`"]),
            (&[UNIT], u64::MAX, None, &["an unlimited timeout"]),
        ] {
            let hints = hints(variables, timeout, pod);
            assert_eq!(hints.len(), usize::from(!named.is_empty()), "{hints:?}");
            let says = |word: &&str| hints[0].contains(word);
            assert!(named.iter().all(says), "{hints:?}, and not {named:?}");
        }
        assert_eq!(hints(&[POD, UNIT], 100, None).len(), 2);
    }

    #[cfg(all(feature = "signal", target_os = "linux"))]
    #[test]
    fn a_shell_without_a_trap_forwards_nothing() {
        use std::{fs, process};

        let directory = env::temp_dir().join(format!("tower-graceful-{}", process::id()));
        fs::create_dir_all(&directory).expect("a directory");
        assert!(!forwards_nothing(&directory), "nothing can be read");
        // As `/proc` shows dash and bash: a script, a script with a trap, a shell at a terminal.
        let [script, trap, terminal] = [0x0001_0002, 0x0001_4002, 0x0001_0002];
        for (comm, caught, ignored, expected) in [
            ("sh", script, 0, true),
            ("bash", script, 4, true),
            ("bash", trap, 4, false),
            ("bash", terminal, 0x0038_4004, false),
            ("tini", 0, 0, false),
            ("server", 0x4002, 0, false),
        ] {
            let status =
                format!("Name:\t{comm}\nSigIgn:\t{ignored:016x}\nSigCgt:\t{caught:016x}\n");
            fs::write(directory.join("comm"), format!("{comm}\n")).expect("a file");
            assert!(!forwards_nothing(&directory), "its signals are not known");
            fs::write(directory.join("status"), status).expect("a file");
            assert_eq!(forwards_nothing(&directory), expected, "{comm} {caught:x}");
            fs::remove_file(directory.join("status")).expect("a file");
        }
        fs::remove_dir_all(&directory).expect("a directory");
    }
}
