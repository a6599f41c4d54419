//! Runs the parts that measure.

use crate::Result;
use std::{
    collections::HashMap,
    env, io,
    path::PathBuf,
    process::{Command, Stdio},
};

/// Figures by the name of the stack.
pub(crate) type Figures = HashMap<String, Vec<f64>>;

/// One of `benches/`; what it has to say goes to where errors go.
pub(crate) fn bench(name: &str, arguments: &[&str]) -> Result<()> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["bench", "--package", "overhead", "--bench", name, "--"])
        .args(arguments)
        .stdout(Stdio::from(io::stderr()))
        .status()?;
    if !status.success() {
        return Err(format!("bench {name}: {status}").into());
    }
    Ok(())
}

/// One of `src/bin/`, which lies next to this one: lines of a name and figures.
pub(crate) fn figures(name: &str) -> Result<Figures> {
    eprintln!("Running {name}");
    let output = Command::new(env::current_exe()?.with_file_name(name))
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(format!("{name}: {}", output.status).into());
    }
    let mut figures = Figures::new();
    for line in String::from_utf8(output.stdout)?.lines() {
        let mut words = line.split('\t');
        let stack = words.next().unwrap_or_default().to_owned();
        figures.insert(
            stack,
            words
                .map(str::parse)
                .collect::<std::result::Result<_, _>>()?,
        );
    }
    Ok(figures)
}

/// The figures of one stack.
pub(crate) fn of<const N: usize>(figures: &Figures, stack: &str) -> Result<[f64; N]> {
    let figures = figures.get(stack).ok_or_else(|| format!("no {stack}"))?;
    Ok(figures.as_slice().try_into()?)
}

/// Where cargo, Criterion and gungraun put what they make.
pub(crate) fn target() -> Result<PathBuf> {
    // This one is in `release` there.
    let target = env::current_exe()?.ancestors().nth(2).map(PathBuf::from);
    Ok(target.ok_or("not in a target directory")?)
}
