//! What the command line says.

use crate::{
    proxy::Proxy,
    replica::{self, Server},
};
use lexopt::{Arg, Error, Parser, ValueExt};
use std::{path::PathBuf, time::Duration};

pub enum Command {
    Rig(Options),
    /// What the rig starts: the same binary in another role.
    Replica(replica::Settings),
    Help,
}

#[derive(Clone)]
pub struct Options {
    pub rounds: usize,
    pub race_rounds: usize,
    pub rolling: bool,
    pub race: bool,
    pub proxies: Vec<Proxy>,
    pub servers: Vec<Server>,
    pub lame_duck: Duration,
    pub race_lame_duck: Duration,
    pub lag: Duration,
    /// Between two restarts.
    pub pause: Duration,
    /// Of each kind.
    pub clients: usize,
    pub svg: Option<PathBuf>,
}

impl Command {
    pub fn of_command_line() -> Result<Self, Error> {
        let mut parser = Parser::from_env();
        let mut options = Options {
            rounds: 20,
            race_rounds: 3,
            rolling: true,
            race: true,
            proxies: Proxy::ALL.to_vec(),
            servers: Server::ALL.to_vec(),
            lame_duck: Duration::from_millis(500),
            race_lame_duck: Duration::from_secs(5),
            lag: Duration::from_secs(3),
            pause: Duration::from_millis(500),
            clients: 8,
            svg: None,
        };
        while let Some(arg) = parser.next()? {
            match arg {
                Arg::Value(role) if role == replica::ROLE => return replica_of(&mut parser),
                Arg::Long("rounds") => options.rounds = parser.value()?.parse()?,
                Arg::Long("race-rounds") => options.race_rounds = parser.value()?.parse()?,
                Arg::Long("only") => {
                    let only = parser.value()?.string()?;
                    (options.rolling, options.race) = match only.as_str() {
                        "rolling" => (true, false),
                        "race" => (false, true),
                        _ => return Err(Error::Custom(format!("there is no {only:?}").into())),
                    };
                }
                Arg::Long("proxies") => {
                    options.proxies = some_of(&mut parser, Proxy::ALL, Proxy::name)?;
                }
                Arg::Long("servers") => {
                    options.servers = some_of(&mut parser, Server::ALL, Server::name)?;
                }
                Arg::Long("lame-duck") => options.lame_duck = millis(&mut parser)?,
                Arg::Long("race-lame-duck") => options.race_lame_duck = millis(&mut parser)?,
                Arg::Long("lag") => options.lag = millis(&mut parser)?,
                Arg::Long("pause") => options.pause = millis(&mut parser)?,
                Arg::Long("clients") => options.clients = parser.value()?.parse()?,
                Arg::Long("svg") => options.svg = Some(parser.value()?.into()),
                Arg::Long("help") | Arg::Short('h') => return Ok(Self::Help),
                other => return Err(other.unexpected()),
            }
        }
        Ok(Self::Rig(options))
    }
}

/// The arguments that [`replica::Settings::arguments`] makes.
fn replica_of(parser: &mut Parser) -> Result<Command, Error> {
    let [server] = <[Server; 1]>::try_from(some_of(parser, Server::ALL, Server::name)?)
        .map_err(|_| Error::Custom("one server".into()))?;
    Ok(Command::Replica(replica::Settings {
        server,
        port: parser.value()?.parse()?,
        lame_duck: millis(parser)?,
        timeout: millis(parser)?,
    }))
}

pub fn help() -> String {
    format!(
        "\
Restarts two replicas behind a proxy, one after the other, under load, and counts the requests that failed.

Options:
  --rounds <N>           How often both replicas are restarted, in each row [default: 20]
  --race-rounds <N>      Likewise, where the proxy is told late [default: 3]
  --only <WHICH>         rolling, or race: the rows where the proxy is told late
  --proxies <NAMES>      Only these, by comma: {}
  --servers <NAMES>      Only these, by comma: {}
  --lame-duck <MS>       Of our servers [default: 500]
  --race-lame-duck <MS>  Likewise, where the proxy is told late [default: 5000]
  --lag <MS>             How late the proxy is told [default: 3000]
  --pause <MS>           Between two restarts, at the least [default: 500]
  --clients <N>          Clients of each kind [default: 8]
  --svg <FILE>           Draws the first seconds to that file
  -h, --help             This

A proxy that is not installed is skipped, or the run fails, if the environment says PROXIES=required.",
        Proxy::ALL.map(Proxy::name).join(", "),
        Server::ALL.map(Server::name).join(", "),
    )
}

fn millis(parser: &mut Parser) -> Result<Duration, Error> {
    Ok(Duration::from_millis(parser.value()?.parse()?))
}

/// Those of `all` that the option names.
fn some_of<T: Copy, const N: usize>(
    parser: &mut Parser,
    all: [T; N],
    name: fn(T) -> &'static str,
) -> Result<Vec<T>, Error> {
    let names = parser.value()?.string()?;
    names
        .split(',')
        .map(|wanted| {
            let mut all = all.into_iter();
            all.find(|&one| name(one) == wanted.trim())
                .ok_or_else(|| Error::Custom(format!("there is no {wanted:?}").into()))
        })
        .collect()
}
