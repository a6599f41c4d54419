//! A rolling restart, as clients see it: two replicas behind a real proxy are restarted one after the
//! other, under load.
//!
//! `cargo run --release -p rolling` does that behind nginx and HAProxy, with `tower_graceful::serve`,
//! with `axum::serve` and this crate's listener and layer, and with `axum::serve` and its own graceful
//! shutdown; and prints what failed. Then it makes the proxy one that learns late that a replica stops,
//! as in Kubernetes, with a lame duck and without. `--svg` draws it.
//!
//! The clients retry nothing, see [`client`], and the proxies nothing that had been sent: their
//! configurations, which are meant to be taken, are `nginx.conf` and `haproxy.cfg` next to this.
//!
//! It fails if a request of ours has failed, or none where some have to: then it has proved nothing.

mod client;
mod events;
mod load;
mod options;
mod picture;
mod process;
mod proxy;
mod replica;
mod restart;
mod table;

use options::{Command, Options};
use restart::{Case, Outcome};
use std::{env, error::Error, fs, process::ExitCode, time::Duration};

type BoxError = Box<dyn Error + Send + Sync>;

/// For what takes milliseconds, on a machine that is busy with something else.
const GUARD: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let done = match Command::of_command_line() {
        Ok(Command::Rig(options)) => measure(options),
        Ok(Command::Replica(settings)) => replica::run(settings).map(|()| Vec::new()),
        Ok(Command::Help) => {
            println!("{}", options::help());
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("{error}; --help lists the options");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(wrong) if wrong.is_empty() => ExitCode::SUCCESS,
        Ok(wrong) => {
            for wrong in wrong {
                eprintln!("WRONG: {wrong}");
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints the table and draws the picture; gives what is not as it has to be.
#[tokio::main(worker_threads = 2)]
async fn measure(mut options: Options) -> Result<Vec<String>, BoxError> {
    leave_out_what_is_not_installed(&mut options)?;
    let mut outcomes = Vec::new();
    println!("{}", table::head());
    for case in Case::all(&options) {
        let outcome = case.run(&options).await?;
        println!("{outcome}");
        outcomes.push(outcome);
    }
    if outcomes.iter().any(|outcome| outcome.seen.all.failed > 0) {
        println!("\nWhat has failed, by the kind of client, and why:\n");
    }
    for outcome in outcomes
        .iter()
        .filter(|outcome| outcome.seen.all.failed > 0)
    {
        println!("{}", table::failures(outcome));
    }
    if let Some(path) = &options.svg {
        fs::write(path, picture::draw(&outcomes))?;
    }
    Ok(outcomes.iter().flat_map(what_is_wrong).collect())
}

fn leave_out_what_is_not_installed(options: &mut Options) -> Result<(), BoxError> {
    let mut there = Vec::new();
    for &proxy in &options.proxies {
        match proxy.version() {
            Ok(version) => {
                println!("{version}");
                there.push(proxy);
            }
            Err(error) if env::var_os("PROXIES").is_some_and(|value| value == "required") => {
                return Err(error);
            }
            Err(error) => eprintln!("SKIPPED: {}: {error}", proxy.title()),
        }
    }
    options.proxies = there;
    Ok(())
}

fn what_is_wrong(outcome: &Outcome) -> Vec<String> {
    let title = outcome.case.title();
    let failed = outcome.seen.all.failed;
    let mut wrong = Vec::new();
    match (outcome.case.shall_fail(), failed) {
        (true, 0) => wrong.push(format!(
            "{title}: nothing has failed, so this proves nothing"
        )),
        (false, 1..) => wrong.push(format!("{title}: {failed} requests have failed")),
        _ => {}
    }
    if !outcome.case.shall_fail() {
        if outcome.sent_twice > 0 {
            wrong.push(format!("{title}: {} were sent twice", outcome.sent_twice));
        }
        let complaints = outcome.complaints.iter();
        wrong.extend(complaints.map(|complaint| format!("{title}: {complaint}")));
    }
    wrong
}
