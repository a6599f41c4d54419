//! Counts what clients see of a SIGTERM under load, with and without this crate.
//!
//! `cargo run --release --example demo` starts an axum server with fast, slow and streaming routes,
//! and clients. It sends itself a SIGTERM, and ends with a table of what the clients saw.
//! `-- --without` stops the same server without this crate.
//!
//! It fails if a request was lost: one that was sent, even in part, and got no whole response.

mod load;
mod options;
mod server;

use load::{Fate, Load};
use options::Options;
use server::{Server, Stopping};
use std::{
    io::{IsTerminal, Write},
    process::ExitCode,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

fn main() -> ExitCode {
    let options = match Options::of_command_line() {
        Ok(Some(options)) => options,
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}; --help lists the options");
            return ExitCode::from(2);
        }
    };
    let stopping = match options.without {
        true => Stopping::without(options.timeout),
        false => Stopping::with(options.lame_duck, options.timeout),
    };
    let server = Server::start(stopping.clone());
    let load = Load::start(server.address, options.clients);
    println!(
        "axum on {} with {} clients, {}; SIGTERM in {:?}",
        server.address,
        options.clients,
        match options.without {
            true => "without tower-graceful".to_owned(),
            false => format!(
                "lame duck {:?}, timeout {:?}",
                options.lame_duck, options.timeout
            ),
        },
        options.before,
    );

    watch_until(&stopping, &load, |elapsed| elapsed >= options.before);
    let signalled = Instant::now();
    terminate_self();
    watch_until(&stopping, &load, |_| server.has_ended());
    let stopped_after = signalled.elapsed();
    // Closes what is still open, as the end of a process would.
    let (executed, outcome) = server.exit();
    let seen = load.finish();

    println!();
    println!(
        "{:<44}{:>8}{:>8}{:>8}{:>8}",
        "", "fast", "slow", "stream", "all"
    );
    let row = |name: &str, wanted: &dyn Fn(&load::Seen) -> bool| {
        let count = |route: Option<load::Route>| {
            seen.iter()
                .filter(|seen| route.is_none_or(|route| seen.route == route) && wanted(seen))
                .count()
        };
        let [fast, slow, stream] = load::Route::ALL.map(|route| count(Some(route)));
        let all = count(None);
        println!("{name:<44}{fast:>8}{slow:>8}{stream:>8}{all:>8}");
        all
    };
    let lost = |seen: &load::Seen| matches!(seen.fate, Fate::NoAnswer | Fate::CutAnswer);
    row("answered", &|seen| seen.fate == Fate::Answered);
    row("refused: 503", &|seen| seen.fate == Fate::Refused);
    row("refused: nobody listens", &|seen| {
        seen.fate == Fate::NotConnected
    });
    let executed = row("lost: had reached its handler", &|seen| {
        lost(seen) && executed.contains(&seen.id)
    });
    let all = row("lost: all of them", &lost);
    println!("\n{stopped_after:.1?} from the signal to the end: {outcome}");
    if all > executed {
        println!(
            "{} of the lost were never read: they sat in the accept queue or in a kept connection \
             when it closed.",
            all - executed
        );
    }
    if options.without || all == 0 {
        return ExitCode::SUCCESS;
    }
    eprintln!("{all} requests were lost");
    ExitCode::FAILURE
}

/// Shows the figures until the server has stopped.
fn watch_until(stopping: &Arc<Stopping>, load: &Load, over: impl Fn(Duration) -> bool) {
    let live = std::io::stdout().is_terminal();
    let start = Instant::now();
    let mut shown = None::<Instant>;
    loop {
        let over = over(start.elapsed());
        // A log gets a line now and then, a terminal one line that changes.
        let pause = Duration::from_millis(if live { 100 } else { 500 });
        if over || shown.is_none_or(|shown| shown.elapsed() >= pause) {
            shown = Some(Instant::now());
            let (answered, refused, lost) = load.so_far();
            let line = format!("{stopping}, {answered} answered, {refused} refused, {lost} lost");
            if live {
                print!("\r\x1b[K{line}");
            } else {
                println!("{line}");
            }
            let _ = std::io::stdout().flush();
        }
        if over {
            return;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(unix)]
fn terminate_self() {
    use nix::{
        sys::signal::{Signal, kill},
        unistd::Pid,
    };
    kill(Pid::this(), Signal::SIGTERM).expect("a process may signal itself");
}

#[cfg(not(unix))]
fn terminate_self() {
    println!("\nThere is no SIGTERM here: press Ctrl-C.");
}
