//! What the command line says.

use crate::{
    client::Mode,
    servers::{SERVERS, Server},
};
use lexopt::{Arg, Error, Parser, ValueExt};
use std::path::PathBuf;

pub struct Options {
    pub shutdowns: usize,
    pub clients: usize,
    pub servers: Vec<&'static Server>,
    pub modes: Vec<Mode>,
    pub svg: Option<PathBuf>,
}

impl Options {
    /// `None` if it was help that was asked for.
    pub fn of_command_line() -> Result<Option<Self>, Error> {
        let mut options = Self {
            shutdowns: 20,
            clients: 64,
            servers: SERVERS.iter().collect(),
            modes: Mode::ALL.to_vec(),
            svg: None,
        };
        let mut parser = Parser::from_env();
        while let Some(arg) = parser.next()? {
            match arg {
                Arg::Long("shutdowns") => options.shutdowns = parser.value()?.parse()?,
                Arg::Long("clients") => options.clients = parser.value()?.parse()?,
                Arg::Long("servers") => {
                    options.servers = some_of(&mut parser, SERVERS.iter(), |server| server.name)?;
                }
                Arg::Long("modes") => {
                    options.modes = some_of(&mut parser, Mode::ALL.into_iter(), Mode::name)?;
                }
                Arg::Long("svg") => options.svg = Some(parser.value()?.into()),
                Arg::Long("help") | Arg::Short('h') => {
                    println!("{}", help());
                    return Ok(None);
                }
                other => return Err(other.unexpected()),
            }
        }
        Ok(Some(options))
    }
}

fn help() -> String {
    format!(
        "\
Stops servers under load, and counts what became of the last request of each client.

Options:
  --shutdowns <N>    How often each server is stopped in each mode [default: 20]
  --clients <N>      Clients, in a closed loop [default: 64]
  --servers <NAMES>  Only these, by comma: {}
  --modes <NAMES>    Only these, by comma: {}
  --svg <FILE>       Draws the table to that file
  -h, --help         This",
        SERVERS.map(|server| server.name).join(", "),
        Mode::ALL.map(Mode::name).join(", "),
    )
}

/// Those of `all` that the option names.
fn some_of<T>(
    parser: &mut Parser,
    all: impl Iterator<Item = T> + Clone,
    name: impl Fn(T) -> &'static str,
) -> Result<Vec<T>, Error>
where
    T: Copy,
{
    let names = parser.value()?.string()?;
    names
        .split(',')
        .map(|wanted| {
            let mut all = all.clone();
            all.find(|&one| name(one) == wanted.trim())
                .ok_or_else(|| Error::Custom(format!("there is no {wanted:?}").into()))
        })
        .collect()
}
