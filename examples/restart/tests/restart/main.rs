//! What a restart may cost: nothing.
#![cfg(target_os = "linux")]

mod load;
mod server;

use load::{Load, Per};
use nix::sys::signal::Signal::{SIGHUP, SIGTERM};
use server::{Executable, Server};
use std::{
    mem,
    net::{SocketAddr, TcpListener},
    time::Duration,
};

/// For what takes milliseconds, on a machine that is busy with something else.
const GUARD: Duration = Duration::from_secs(20);

#[test]
fn twenty_restarts_under_load_refuse_and_lose_nothing() {
    let executable = Executable::new("load");
    let mut server = Server::bind(&executable);
    let (mut serving, address) = server.serves();
    let mut load = Load::start(
        address,
        &[
            (Per::Connection, "/", 3),
            (Per::Request, "/", 3),
            // Longer than the rest of a restart takes.
            (Per::Connection, "/sleep/200", 1),
            (Per::Request, "/sleep/200", 1),
        ],
    );
    let mut old = Vec::new();
    for restart in 0..20 {
        // Half of them when all have come over, half while some of the last ones are draining still.
        load.is_answered_by(serving, if restart < 10 { 8 } else { 1 });
        server.signal(serving, SIGHUP);
        old.push(mem::replace(&mut serving, server.serves().0));
    }
    load.is_answered_by(serving, 8);
    println!("{} requests", load.finish());

    server.signal(serving, SIGTERM);
    old.push(serving);
    for process in old {
        let outcome = server.drained(process);
        assert!(
            outcome.ends_with("0 refused, nothing left"),
            "{process} {outcome}"
        );
        assert_eq!(server.exit_code(process), 0, "{process} {outcome}");
    }
    server.is_over();
}

/// As `systemctl restart` does it, where there is a socket unit.
#[test]
fn the_holder_of_the_socket_may_start_one_after_the_other() {
    let executable = Executable::new("held");
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port of the loopback");
    let address = socket.local_addr().expect("bound");
    let mut load = Load::start(
        address,
        &[(Per::Connection, "/", 4), (Per::Request, "/", 4)],
    );
    for _ in 0..10 {
        let socket = socket.try_clone().expect("a descriptor");
        let mut server = Server::inherit(&executable, socket);
        let (serving, _) = server.serves();
        load.is_answered_by(serving, 8);
        server.signal(serving, SIGTERM);
        server.drained(serving);
        assert_eq!(server.exit_code(serving), 0);
    }
}

#[test]
fn a_successor_that_fails_leaves_everything_as_it_was() {
    let executable = Executable::new("fails");
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port of the loopback");
    let mut server = Server::inherit(&executable, socket);
    let (first, address) = server.serves();

    executable.replace_by_script("exit 1");
    server.signal(first, SIGHUP);
    server.goes_on(first);
    assert_eq!(answered_by(address), first);

    executable.replace_by_good_one();
    server.signal(first, SIGHUP);
    let (second, _) = server.serves();
    server.drained(first);
    assert_eq!(server.exit_code(first), 0);
    assert_eq!(answered_by(address), second);
}

#[test]
fn a_successor_that_is_not_ready_ends_with_its_predecessor() {
    let executable = Executable::new("hangs");
    let mut server = Server::bind(&executable);
    let (process, _) = server.serves();

    executable.replace_by_script("echo $$ starts; exec sleep 1000");
    server.signal(process, SIGHUP);
    server.says(|line| line.ends_with(" starts"));
    server.signal(process, SIGTERM);
    server.drained(process);
    assert_eq!(server.exit_code(process), 0);
    server.is_over();
}

fn answered_by(address: SocketAddr) -> u32 {
    load::Client::new(address, Per::Request)
        .get("/")
        .expect("an answer")
}
