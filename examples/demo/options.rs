//! The options of the command line.

use lexopt::{Arg, Error, Parser, ValueExt};
use std::{str::FromStr, time::Duration};

const HELP: &str = "\
Stops a server under load, and counts what was lost.

Options:
  --clients <N>           Clients, in a closed loop; every other one makes a connection for each
                          request [default: 32]
  --lame-duck <SECONDS>   How long everything is still served after the signal [default: 1]
  --timeout <SECONDS>     How long the whole shutdown may take [default: 5]
  --before <SECONDS>      How long there is load before the signal [default: 2]
  --without               The same server without this crate: axum's graceful shutdown under a timeout
  -h, --help              This";

pub struct Options {
    pub clients: usize,
    pub lame_duck: Duration,
    pub timeout: Duration,
    pub before: Duration,
    pub without: bool,
}

impl Options {
    /// Returns `None` after `--help`.
    pub fn of_command_line() -> Result<Option<Self>, Error> {
        let mut options = Self {
            clients: 32,
            lame_duck: Duration::from_secs(1),
            timeout: Duration::from_secs(5),
            before: Duration::from_secs(2),
            without: false,
        };
        let mut parser = Parser::from_env();
        while let Some(arg) = parser.next()? {
            match arg {
                Arg::Long("clients") => options.clients = parser.value()?.parse()?,
                Arg::Long("lame-duck") => options.lame_duck = seconds(&mut parser)?,
                Arg::Long("timeout") => options.timeout = seconds(&mut parser)?,
                Arg::Long("before") => options.before = seconds(&mut parser)?,
                Arg::Long("without") => options.without = true,
                Arg::Long("help") | Arg::Short('h') => {
                    println!("{HELP}");
                    return Ok(None);
                }
                other => return Err(other.unexpected()),
            }
        }
        Ok(Some(options))
    }
}

fn seconds(parser: &mut Parser) -> Result<Duration, Error> {
    parser.value()?.parse_with(|text| {
        let seconds = f64::from_str(text).map_err(|error| error.to_string())?;
        Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
    })
}
