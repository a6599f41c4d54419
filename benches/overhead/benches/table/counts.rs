//! Counts by callgrind. It runs this program again with a stack, a loop and a number of requests.
//! The difference between two numbers of requests leaves the set-up out.
//!
//! A profile says how often each instruction ran and how often each function was called. So locked
//! instructions and allocations are counted exactly, too. objdump says which addresses hold a
//! `lock` prefix, or an `xchg` with memory, which locks without one.

use crate::Result;
use overhead::{Loop, Stack, stacks};
use std::{
    collections::{HashMap, HashSet},
    env, fs, process,
    process::Command,
    thread,
};

/// As the first argument: this process is the one that callgrind looks at.
pub(crate) const DRIVE: &str = "drive";

pub(crate) fn drive(name: &str, how: &str, requests: u64) -> Result<()> {
    let all = [Loop::Cloned, Loop::Kept, Loop::Connection, Loop::Listened];
    let mut loops = all.into_iter();
    let how = loops.find(|known| format!("{known:?}") == how);
    let stack = stacks().into_iter().find(|stack| stack.name == name);
    let (how, stack) = how.zip(stack).ok_or("no such loop or stack")?;
    let mut drive = stack.drive(how);
    // How many instructions a copy takes depends on its alignment. The stack of the main thread lies
    // where arguments and environment leave it, and that of any other thread begins with a page.
    let thread = thread::spawn(move || drive(requests));
    thread.join().map_err(|_| "a request panicked".into())
}

/// Per request.
pub(crate) struct Counts {
    pub(crate) instructions: f64,
    /// `None` where the instruction set is not known.
    pub(crate) locked: Option<f64>,
    pub(crate) allocations: f64,
}

/// Remembers the addresses of locked instructions by executable and library.
#[derive(Default)]
pub(crate) struct Profiler {
    locked: HashMap<String, HashSet<u64>>,
}

const FEW: u32 = 1_000;
const MANY: u32 = 3_000;

impl Profiler {
    pub(crate) fn per_request(&mut self, stack: &Stack, how: Loop) -> Result<Counts> {
        let few = self.profile(stack, how, FEW)?;
        let many = self.profile(stack, how, MANY)?;
        let each = |few: u64, many: u64| {
            let difference = many as f64 - few as f64;
            (difference / f64::from(MANY - FEW)).round()
        };
        Ok(Counts {
            instructions: each(few.instructions, many.instructions),
            locked: cfg!(target_arch = "x86_64").then(|| each(few.locked, many.locked)),
            allocations: each(few.allocations, many.allocations),
        })
    }

    fn profile(&mut self, stack: &Stack, how: Loop, requests: u32) -> Result<Totals> {
        let file = env::temp_dir().join(format!("overhead-{}.callgrind", process::id()));
        let output = Command::new("valgrind")
            .args(["--tool=callgrind", "--dump-instr=yes", "--dump-line=no"])
            .args(["--compress-pos=no", "--compress-strings=no"])
            .arg(format!("--callgrind-out-file={}", file.display()))
            .arg(env::current_exe()?)
            .args([
                DRIVE,
                stack.name,
                &format!("{how:?}"),
                &requests.to_string(),
            ])
            .output()
            .map_err(|error| format!("valgrind: {error}"))?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into());
        }
        let profile = fs::read_to_string(&file)?;
        fs::remove_file(&file)?;
        self.read(&profile)
    }

    fn read(&mut self, profile: &str) -> Result<Totals> {
        let mut totals = Totals::default();
        let mut expected = None;
        let mut object = "";
        let mut callee = "";
        let mut lines = profile.lines();
        while let Some(line) = lines.next() {
            if let Some(name) = line.strip_prefix("ob=") {
                object = name;
            } else if let Some(name) = line.strip_prefix("cfn=") {
                callee = name;
            } else if let Some(calls) = line.strip_prefix("calls=") {
                if ["malloc", "calloc", "realloc", "posix_memalign"].contains(&callee) {
                    let times = calls.split(' ').next().unwrap_or_default();
                    totals.allocations += times.parse::<u64>()?;
                }
                // The cost of the callee, which its own lines say again.
                lines.next();
            } else if let Some(line) = line.strip_prefix("0x") {
                let (address, times) = line.split_once(' ').ok_or("an address without a cost")?;
                let (address, times) = (u64::from_str_radix(address, 16)?, times.parse::<u64>()?);
                totals.instructions += times;
                if self.locked_in(object)?.contains(&address) {
                    totals.locked += times;
                }
            } else if let Some(sum) = line.strip_prefix("totals: ") {
                expected = Some(sum.parse::<u64>()?);
            }
        }
        match expected == Some(totals.instructions) {
            true => Ok(totals),
            false => Err("the lines of the profile do not add up to its total".into()),
        }
    }

    fn locked_in(&mut self, object: &str) -> Result<&HashSet<u64>> {
        if !self.locked.contains_key(object) {
            self.locked.insert(object.to_owned(), disassemble(object)?);
        }
        Ok(&self.locked[object])
    }
}

#[derive(Default)]
struct Totals {
    instructions: u64,
    locked: u64,
    allocations: u64,
}

/// Returns the addresses of locked instructions in an executable or a library.
fn disassemble(object: &str) -> Result<HashSet<u64>> {
    let output = Command::new("objdump")
        .args(["--disassemble", "--no-show-raw-insn", object])
        .output()
        .map_err(|error| format!("objdump: {error}"))?;
    let mut locked = HashSet::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        // `  5af05:<tab>lock xadd %rax,(%rdx)`
        let Some((address, instruction)) = line.split_once(":\t") else {
            continue;
        };
        let is_exchange = instruction.starts_with("xchg ") && instruction.contains('(');
        if is_exchange || instruction.starts_with("lock ") {
            locked.insert(u64::from_str_radix(address.trim(), 16)?);
        }
    }
    Ok(locked)
}
