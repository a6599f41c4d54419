//! Measures everything, by running the other parts of this package, and prints it as one table in
//! Markdown: the command `benches/overhead/run`.
//!
//! All figures are of one run on one machine. Elsewhere the times are others; what holds is the
//! counts, and the ratios more or less.

mod parts;
mod profile;
mod row;
mod wall;

use overhead::STACKS;
use row::Row;
use std::error::Error;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    parts::bench("instructions", &["--save-summary=json"])?;
    parts::bench("wall", &["--noplot"])?;
    let memory = parts::figures("memory")?;
    let cpu = parts::figures("cpu")?;

    let mut profiles = profile::Profiles::default();
    let mut rows = Vec::new();
    for entry in STACKS {
        let (instructions, locked) = profiles.read(entry.name)?;
        rows.push(Row {
            title: entry.title,
            instructions,
            locked,
            memory: parts::of(&memory, entry.name)?,
            wall: wall::read(entry.name)?,
            cpu: parts::of(&cpu, entry.name)?,
        });
    }
    row::print(&rows, parts::of(&cpu, "cpus")?);
    Ok(())
}
