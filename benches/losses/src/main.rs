//! What becomes of requests when a server is told to stop: ours next to others, in one run.
//!
//! `cargo run --release -p losses` starts each server, lets clients loose on it, tells it to stop
//! the way its documentation says, and asks what the last request of each client came to; as often
//! as it is told to, over HTTP/1.1 with kept connections, with a connection for each request, and
//! over HTTP/2. `--svg` also draws it.
//!
//! The clients are strict and of our own, see [`client`]: they retry nothing, and what is lost no
//! library hides. They write the next request as soon as they have an answer, which is the worst
//! that a server can meet; real traffic loses less, but of the same kind.
//!
//! A server that is not written in Rust is built first. Where that can not be done it is skipped, and
//! the run says so. It fails if ours has lost a request.

mod client;
mod load;
mod options;
mod picture;
mod servers;
mod table;

use load::Load;
use options::Options;
use std::{error::Error, fs, process::ExitCode};
use table::Row;
use tokio::runtime::Runtime;

type BoxError = Box<dyn Error + Send + Sync>;

fn main() -> ExitCode {
    let options = match Options::of_command_line() {
        Ok(Some(options)) => options,
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}; --help lists the options");
            return ExitCode::from(2);
        }
    };
    match measure(&options) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(lost) => {
            eprintln!("ours has lost {lost}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints the table and draws the picture; gives what ours has lost.
fn measure(options: &Options) -> Result<usize, BoxError> {
    // Of its own, so that no server's end touches a client.
    let runtime = Runtime::new()?;
    println!("{}", table::head(options.shutdowns, options.clients));
    let mut rows = Vec::new();
    for &server in &options.servers {
        for &mode in &options.modes {
            let start = match server.prepare(mode) {
                Ok(start) => start,
                Err(error) => {
                    eprintln!("SKIPPED: {}, {}: {error}", server.title, mode.title());
                    continue;
                }
            };
            let mut row = Row::new(server, mode);
            for _ in 0..options.shutdowns {
                let server = start()?;
                let load = Load::start(&runtime, server.address(), mode, options.clients);
                load.warm_up()?;
                let stopped = server.stop();
                row.add(stopped, load.finish(&runtime));
            }
            println!("{row}");
            rows.push(row);
        }
    }
    if let Some(path) = &options.svg {
        fs::write(path, picture::draw(&rows))?;
    }
    Ok(rows
        .iter()
        .filter(|row| row.server.ours)
        .map(|row| row.lost)
        .sum())
}
