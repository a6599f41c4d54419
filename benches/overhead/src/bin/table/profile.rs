//! Reads what callgrind has seen, by way of gungraun: how many instructions, and how many of them
//! were locked operations.
//!
//! A profile says how often the instruction at each address was executed, and objdump which of
//! those addresses hold an instruction with a `lock` prefix or an `xchg` with memory, which locks
//! without one. So the count is exact, also where the compiler has left nothing to see in the
//! source. For x86-64 only.

use crate::{Result, parts};
use serde_json::Value;
use std::{
    collections::{HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Knows, for each executable and library that it came across, the addresses that lock.
#[derive(Default)]
pub(crate) struct Profiles {
    locked: HashMap<String, HashSet<u64>>,
}

impl Profiles {
    /// Instructions and locked operations of one request.
    pub(crate) fn read(&mut self, stack: &str) -> Result<(f64, f64)> {
        let directory = directory(stack)?;
        let summary: Value = serde_json::from_slice(&fs::read(directory.join("summary.json"))?)?;
        let total = &summary["profiles"][0]["data"]["total"]["metrics"];
        let instructions = total["Ir"]["values"]["new"].as_u64();
        let instructions = instructions.ok_or("no instructions in the summary")?;

        let profile = directory.join(format!("callgrind.request.{stack}.out"));
        let (mut executed, mut locked) = (0, 0);
        for line in executions(&fs::read_to_string(profile)?)? {
            executed += line.times;
            if self.locked_in(line.object)?.contains(&line.address) {
                locked += line.times;
            }
        }
        if executed != instructions {
            return Err(format!("{stack}: {executed} of {instructions} instructions found").into());
        }
        Ok((instructions as f64, locked as f64))
    }

    fn locked_in(&mut self, object: &str) -> Result<&HashSet<u64>> {
        if !self.locked.contains_key(object) {
            self.locked.insert(object.to_owned(), disassemble(object)?);
        }
        Ok(&self.locked[object])
    }
}

fn directory(stack: &str) -> Result<PathBuf> {
    let group = Path::new("gungraun/overhead/instructions/stacks");
    Ok(parts::target()?
        .join(group)
        .join(format!("request.{stack}")))
}

struct Execution<'a> {
    object: &'a str,
    address: u64,
    times: u64,
}

/// A line of a profile is an address and its costs, of which the first is how often it was
/// executed. The line after `calls=` is about the callee, whose own lines say it again.
fn executions(profile: &str) -> Result<Vec<Execution<'_>>> {
    let mut executions = Vec::new();
    let mut object = "";
    let mut lines = profile.lines();
    while let Some(line) = lines.next() {
        if let Some(name) = line.strip_prefix("ob=") {
            object = name;
        } else if line.starts_with("calls=") {
            lines.next();
        } else if let Some(line) = line.strip_prefix("0x") {
            let mut words = line.split(' ');
            executions.push(Execution {
                object,
                address: u64::from_str_radix(words.next().unwrap_or_default(), 16)?,
                times: words.next().unwrap_or_default().parse()?,
            });
        }
    }
    Ok(executions)
}

/// The addresses of locked operations in an executable or a library.
fn disassemble(object: &str) -> Result<HashSet<u64>> {
    let output = Command::new("objdump")
        .args(["--disassemble", "--no-show-raw-insn", object])
        .output()?;
    if !output.status.success() {
        return Err(format!("objdump {object}: {}", output.status).into());
    }
    let mut locked = HashSet::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        // `  5af05:<tab>lock xadd %rax,(%rdx)`
        let Some((address, instruction)) = line.split_once(":\t") else {
            continue;
        };
        let with_memory = instruction.contains('(');
        if instruction.starts_with("lock ") || instruction.starts_with("xchg ") && with_memory {
            locked.insert(u64::from_str_radix(address.trim(), 16)?);
        }
    }
    Ok(locked)
}
