//! Real signals. Only one test sends them to this process, as all tests share its handlers. The
//! other tests send them to child processes.

use crate::support::*;
use axum::{Router, routing::get};
use nix::{
    pty::openpty,
    sys::signal::{
        Signal::{self, SIGINT, SIGKILL, SIGTERM},
        kill, killpg, raise,
    },
    unistd::Pid,
};
use std::{
    env,
    io::{Read, Write, stdin, stdout},
    net::TcpStream,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            net::UnixStream,
            process::{CommandExt, ExitStatusExt},
        },
    },
    process::{self, Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};
use tokio::{runtime, time::sleep};
use tower_graceful::{Drain, Phase, RunError, signal};

/// Longer than the 500 ms within which signals are copies of the first one.
const APART: Duration = Duration::from_millis(800);

/// How far apart two copies of one signal are.
const COPIES_APART: Duration = Duration::from_millis(2);

/// Several rounds check that each `terminate` counts anew: otherwise the first signal of the next
/// round would be the third one, and end this process.
#[tokio::test]
async fn g53_the_first_signal_begins_the_second_forces() {
    for (first, second) in [(SIGTERM, SIGTERM), (SIGINT, SIGTERM), (SIGTERM, SIGINT)] {
        let drain = Drain::new();
        let _guard = drain.guard().expect("serving");
        // It listens from here on, before the first poll.
        let signals = signal::terminate();
        raise(first).expect("a signal");
        let run = tokio::spawn(drain.run(drain.reached(Phase::Draining), signals));
        guarded(drain.reached(Phase::Draining)).await;
        assert_eq!(drain.phase(), Phase::Draining);
        sleep(APART).await;
        raise(second).expect("a signal");
        match guarded(run).await.expect("no panic") {
            Err(RunError::Timeout(timeout)) => assert_eq!(timeout.report().left.guards, 1),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_third_signal_ends_what_hangs() {
    thread::scope(|scope| {
        for hangs in ["hangs in a handler", "hangs after its end"] {
            for signals in [
                [SIGTERM, SIGTERM, SIGTERM],
                [SIGTERM, SIGINT, SIGTERM],
                [SIGINT, SIGTERM, SIGINT],
            ] {
                scope.spawn(move || {
                    let mut child = Child::start(hangs, Stdio::null());
                    child.says("listens\n");
                    child.signal(signals[0]);
                    child.says("hangs\n");
                    thread::sleep(APART);
                    child.signal(signals[1]);
                    child.says(SURVIVED);
                    thread::sleep(APART);
                    child.signal(signals[2]);
                    let killed_by = child.ends().signal();
                    assert_eq!(killed_by, Some(signals[2] as i32), "{hangs} {signals:?}");
                });
            }
        }
    });
}

/// `kill` twice, or two of a supervisor and a wrapper: the request of 2 s is answered.
#[test]
fn i64_copies_of_a_signal_are_one_request_to_stop() {
    thread::scope(|scope| {
        for copies in [[SIGTERM, SIGTERM], [SIGINT, SIGTERM], [SIGTERM, SIGINT]] {
            scope.spawn(move || {
                let mut child = Child::start("answers after two seconds", Stdio::null());
                let client = child.asks();
                for signal in copies {
                    child.signal(signal);
                    thread::sleep(COPIES_APART);
                }
                child.answers(client);
                assert!(child.ends().success());
            });
        }
    });
}

/// The process group gets the signal, and a wrapper in the group sends it to its child again, as
/// `docker compose`, npm and `cargo watch` do.
#[test]
fn i64_a_signal_to_the_group_that_is_forwarded_is_one() {
    let mut wrapper = Command::new("sh");
    let script = r#""$0" "$@" & trap "sleep 0.01; kill -TERM $!" TERM; wait $!; wait $!"#;
    wrapper.args(["-c", script]).process_group(0);
    wrapper.arg(env::current_exe().expect("a test binary"));
    let mut child = Child::spawn(wrapper, "answers after two seconds", Stdio::null());
    let client = child.asks();
    killpg(child.pid(), SIGTERM).expect("it is not waited for yet");
    child.answers(client);
    assert!(child.ends().success());
}

/// The runtime may see the first two signals at the same time. Copies count as one signal.
#[test]
fn i64_the_one_that_begins_the_one_that_forces_and_the_one_that_kills() {
    thread::scope(|scope| {
        for copies in [1, 2] {
            scope.spawn(move || {
                let mut child = Child::start("is busy", Stdio::piped());
                child.says("is busy\n");
                for _ in 0..2 {
                    for _ in 0..copies {
                        child.signal(SIGTERM);
                        thread::sleep(COPIES_APART);
                    }
                    thread::sleep(APART);
                }
                drop(child.process.stdin.take());
                child.says("left: 1 guard\n");
                child.signal(SIGTERM);
                assert_eq!(child.ends().signal(), Some(SIGTERM as i32));
            });
        }
    });
}

/// The process hangs after the server has ended, or before the runtime polls for signals.
#[test]
fn the_third_signal_needs_no_listener() {
    thread::scope(|scope| {
        for role in ["hangs and does not listen", "hangs before it listens"] {
            scope.spawn(move || {
                let mut child = Child::start(role, Stdio::null());
                child.says("hangs\n");
                for _ in 0..2 {
                    child.signal(SIGTERM);
                    child.says(SURVIVED);
                    thread::sleep(APART);
                }
                child.signal(SIGTERM);
                assert_eq!(child.ends().signal(), Some(SIGTERM as i32), "{role}");
            });
        }
    });
}

/// A task blocks the only thread that polls the kernel.
#[test]
fn the_first_signal_begins_though_the_runtime_hears_of_nothing() {
    let mut child = Child::start("hears of nothing", Stdio::null());
    child.says("hangs\n");
    child.signal(SIGTERM);
    child.says("phase: LameDuck\n");
}

/// Signals without a handler do not end process 1 of a container.
#[cfg(target_os = "linux")]
#[test]
fn the_third_signal_ends_a_container() {
    let mut unshare = Command::new("unshare");
    unshare.args(["--user", "--map-root-user", "--pid", "--fork"]);
    unshare.arg("--kill-child");
    let mut probe = Command::new("unshare");
    let able = probe.args(unshare.get_args()).arg("true").status();
    if !able.is_ok_and(|status| status.success()) {
        return eprintln!("SKIPPED: no namespaces here");
    }
    unshare.arg(env::current_exe().expect("a test binary"));
    let mut child = Child::spawn(unshare, "raises three", Stdio::null());
    child.says("survived the second\n");
    assert_eq!(child.ends().code(), Some(128 + SIGTERM as i32));
}

#[test]
fn ctrl_c_at_a_terminal_skips_the_lame_duck() {
    let terminal = openpty(None, None).expect("a pseudo-terminal");
    let at_terminal = || Stdio::from(terminal.slave.try_clone().expect("a descriptor"));
    for (signal, stdin, phase) in [
        (SIGINT, at_terminal(), "Draining\n"),
        (SIGTERM, at_terminal(), "LameDuck\n"),
        (SIGINT, Stdio::null(), "LameDuck\n"),
    ] {
        let mut child = Child::start("says its phase", stdin);
        child.says("listens\n");
        child.signal(signal);
        child.says("phase: ");
        assert_eq!(child.says("\n"), phase, "{signal}");
    }
}

const ROLE: &str = "TOWER_GRACEFUL_ROLE";
/// What signal-hook writes to a pipe at a signal.
const SURVIVED: &str = "X";

/// Runs as the child process of other tests, which name its role.
#[test]
#[ignore = "is a child of others, and alone has no role to play"]
fn child() {
    let Ok(role) = env::var(ROLE) else { return };
    let hour = Duration::from_secs(3600);
    let builder = Drain::builder().timeout(2 * hour);
    let runtime = match role.as_str() {
        "hears of nothing" => runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build(),
        _ => runtime::Builder::new_current_thread().enable_all().build(),
    };
    let runtime = runtime.expect("a runtime");
    runtime.block_on(async {
        let terminate = signal::terminate();
        println!("listens");
        match role.as_str() {
            "hangs in a handler" => {
                let drain = builder.build();
                let server = async {
                    drain.reached(Phase::Draining).await;
                    hangs();
                    block();
                };
                let _ = drain.run(server, terminate).await;
            }
            "hangs after its end" => {
                tokio::task::spawn_blocking(block);
                let drain = builder.build();
                let server = drain.reached(Phase::Draining);
                drain.run(server, terminate).await.expect("nothing is left");
                hangs();
            }
            "hangs and does not listen" => {
                tokio::task::spawn_blocking(block);
                let server = std::future::ready(());
                let drain = builder.build();
                drain.run(server, terminate).await.expect("nothing is left");
                hangs();
            }
            "hangs before it listens" => {
                hangs();
                block();
            }
            "raises three" => {
                raise(SIGTERM).expect("a signal");
                terminate.await;
                sleep(APART).await;
                raise(SIGTERM).expect("a signal");
                println!("survived the second");
                sleep(APART).await;
                raise(SIGTERM).expect("a signal");
                block();
            }
            "hears of nothing" => {
                let (reach, reached) = tokio::sync::oneshot::channel();
                tokio::spawn(async {
                    reach.send(()).expect("it is waited for");
                    block();
                });
                reached.await.expect("it blocks");
                let drain = builder.lame_duck(hour).build();
                let server = async {
                    hangs();
                    drain.reached(Phase::LameDuck).await;
                    println!("phase: {:?}", drain.phase());
                    block();
                };
                let _ = drain.run(server, terminate).await;
            }
            "answers after two seconds" => {
                let drain = builder.build();
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
                let listener = listener.expect("loopback");
                println!("at {}", listener.local_addr().expect("bound"));
                let handler = async || {
                    println!("handles");
                    sleep(Duration::from_secs(2)).await;
                    "whole"
                };
                let app = Router::new().route("/", get(handler)).layer(drain.layer());
                let server =
                    axum::serve(listener, app).with_graceful_shutdown(drain.shutdown_signal());
                drain.run(server, terminate).await.expect("nothing is left");
            }
            "is busy" => {
                let drain = builder.build();
                let _guard = drain.guard().expect("serving");
                let server = async {
                    println!("is busy");
                    stdin().read_to_end(&mut Vec::new()).expect("a pipe");
                    drain.reached(Phase::Draining).await;
                };
                match drain.run(server, terminate).await {
                    Err(RunError::Timeout(timeout)) => {
                        println!("left: {} guard", timeout.report().left.guards)
                    }
                    other => panic!("{other:?}"),
                }
                block();
            }
            "says its phase" => {
                let drain = builder.lame_duck(hour).build();
                let server = async {
                    drain.reached(Phase::LameDuck).await;
                    println!("phase: {:?}", drain.phase());
                    block();
                };
                let _ = drain.run(server, terminate).await;
            }
            role => panic!("nobody plays {role:?}"),
        }
    });
}

/// Prints that it hangs. From here on, each signal prints too, if the handlers that were registered
/// before have not ended the process.
fn hangs() {
    for signal in [SIGTERM, SIGINT] {
        let stdout = stdout().as_fd().try_clone_to_owned().expect("a descriptor");
        signal_hook::low_level::pipe::register(signal as i32, stdout).expect("an action");
    }
    println!("hangs");
}

fn block() {
    loop {
        thread::park();
    }
}

struct Child {
    process: process::Child,
    stdout: UnixStream,
}

impl Child {
    fn start(role: &str, stdin: Stdio) -> Self {
        let exe = env::current_exe().expect("a test binary");
        Self::spawn(Command::new(exe), role, stdin)
    }

    fn spawn(mut command: Command, role: &str, stdin: Stdio) -> Self {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        ours.set_read_timeout(Some(GUARD)).expect("not zero");
        let process = command
            .args(["--exact", "signals::child", "--ignored", "--nocapture"])
            .env(ROLE, role)
            .stdin(stdin)
            .stdout(OwnedFd::from(theirs))
            .spawn()
            .expect("it starts");
        Self {
            process,
            stdout: ours,
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.process.id() as i32)
    }

    fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("it is not waited for yet");
    }

    /// Sends a request to the child's server, and waits until it has reached its handler.
    fn asks(&mut self) -> TcpStream {
        self.says("at ");
        let address = self.says("\n");
        let mut client = TcpStream::connect(address.trim()).expect("it listens");
        client
            .write_all(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n")
            .expect("the server reads");
        self.says("handles\n");
        client
    }

    /// Reads the answer to that request.
    fn answers(&self, mut client: TcpStream) {
        let mut answer = String::new();
        client.set_read_timeout(Some(GUARD)).expect("not zero");
        client.read_to_string(&mut answer).expect("an answer");
        assert!(answer.ends_with("\r\n\r\nwhole"), "{answer:?}");
    }

    /// Reads up to and including that text.
    fn says(&mut self, text: &str) -> String {
        let mut said = String::new();
        while !said.ends_with(text) {
            let mut byte = [0];
            match self.stdout.read_exact(&mut byte) {
                Ok(()) => said.push(byte[0].into()),
                Err(error) => panic!("{error} before {text:?}, after {said:?}"),
            }
        }
        said
    }

    fn ends(&mut self) -> ExitStatus {
        let mut rest = String::new();
        if let Err(error) = self.stdout.read_to_string(&mut rest) {
            panic!("it goes on: {error} after {rest:?}");
        }
        self.process.wait().expect("a child")
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // What it has started, if it leads a group.
        if let Ok(None) = self.process.try_wait() {
            let _ = killpg(self.pid(), SIGKILL);
        }
        // An error means that it has ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
