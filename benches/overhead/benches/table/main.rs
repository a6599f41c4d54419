//! Prints what each layer adds to a request, as two tables in Markdown: `benches/overhead/run`.
//!
//! Counts come from callgrind, CPU times from threads that take turns with the stacks. Both are
//! differences to the service without a layer in the same run, so compare figures of one run only.

mod counts;
mod times;

use counts::{Counts, Profiler};
use overhead::{Loop, Stack, stacks};
use std::{env, error::Error};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    if let [command, stack, how, requests] = &arguments[..]
        && command == counts::DRIVE
    {
        return counts::drive(stack, how, requests.parse()?);
    }
    let stacks = stacks();
    print_counts(&stacks)?;
    print_times(&stacks);
    Ok(())
}

const COUNTS: &[&str] = &[
    "added to each request",
    "instructions",
    "times tower-http's",
    "locked instructions",
    "allocations",
    "bytes in the response future",
    "bytes in the response body",
    "instructions, whole HTTP/1 connection",
];

fn print_counts(stacks: &[Stack]) -> Result<()> {
    eprintln!("Counting instructions with callgrind: about a minute");
    let mut profiler = Profiler::default();
    let mut measured = Vec::new();
    for stack in stacks {
        let alone = profiler.per_request(stack, Loop::Cloned)?;
        // A refusal closes its connection.
        let connection = match stack.refuses {
            true => None,
            false => Some(profiler.per_request(stack, Loop::Connection)?.instructions),
        };
        measured.push((alone, connection));
    }
    let (bare, bare_connection) = &measured[0];
    let yardstick = measured[1].0.instructions - bare.instructions;

    let mut rows = Vec::new();
    for (index, (stack, (counts, connection))) in stacks.iter().zip(&measured).enumerate() {
        let added = match index {
            0 => *counts,
            _ => counts.minus(bare),
        };
        let Counts {
            instructions,
            locked,
            allocations,
        } = added;
        let base = |bytes: usize| if index == 0 { 0 } else { bytes };
        let connection = connection
            .zip(*bare_connection)
            .map(|(all, bare)| match index {
                0 => all,
                _ => all - bare,
            });
        rows.push(vec![
            title(stack, index),
            format!("{instructions:.0}"),
            match index {
                0 => String::new(),
                _ => format!("{:.2}", instructions / yardstick),
            },
            locked.map_or("?".to_owned(), |locked| format!("{locked:.0}")),
            format!("{allocations:.0}"),
            (stack.future - base(stacks[0].future)).to_string(),
            (stack.body - base(stacks[0].body)).to_string(),
            connection.map_or("–".to_owned(), |added| format!("{added:.0}")),
        ]);
    }
    println!("Counted, the same in each run of one build:\n");
    print_table(COUNTS, &rows);
    println!(
        "\nWithout a server: each step of a request is a function of its own, and the service is \
         cloned for each\nrequest. The last column is hyper with the network taken away; what the \
         compiler inlines there moves\nit by 100 from build to build, and a refusal ends the \
         connection (–). Future and body are compared by\n`size_of`.\n"
    );
    Ok(())
}

const TIMES: [(&str, Loop, usize); 4] = [
    ("1 thread", Loop::Cloned, 1),
    ("2 threads, a clone for each request", Loop::Cloned, 2),
    ("2 threads, a service each, no clones", Loop::Kept, 2),
    ("8 threads, a clone for each request", Loop::Cloned, 8),
];

fn print_times(stacks: &[Stack]) {
    let columns = TIMES.map(|(title, how, threads)| {
        eprintln!(
            "Measuring CPU time, {title}: up to {} s",
            times::PATIENCE.as_secs()
        );
        times::measure(stacks, how, threads)
    });
    let mut rows = Vec::new();
    for (index, stack) in stacks.iter().enumerate().skip(1) {
        let mut row = vec![title(stack, index)];
        row.extend(columns.iter().map(|column| {
            let mark = if column.is_reliable { "" } else { "?" };
            format!("{:.2}{mark}", column.added[index] / column.added[1])
        }));
        rows.push(row);
    }
    let mut head = vec!["CPU time added to each request, times tower-http's"];
    head.extend(TIMES.map(|(title, ..)| title));
    println!("Timed, as a multiple of what tower-http's layer adds in the same run:\n");
    print_table(&head, &rows);
    let yardstick: Vec<_> = columns
        .iter()
        .map(|column| format!("{:.0} to {:.0}", column.bare, column.bare + column.added[1]))
        .collect();
    println!(
        "\nWith tower-http's layer a request goes from {} ns of CPU time.\nThe control shows what \
         is noise. `?`: the threads too seldom ran at the same time to be compared.",
        yardstick.join(", "),
    );
}

fn title(stack: &Stack, index: usize) -> String {
    match index {
        0 => format!("{} (in all)", stack.title),
        _ => stack.title.to_owned(),
    }
}

/// Prints a table of which the first column is text and the others are figures.
fn print_table(head: &[&str], rows: &[Vec<String>]) {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0).max(head[column].chars().count())
    };
    let print = |cell: &dyn Fn(usize) -> String| {
        let cells: Vec<_> = (0..head.len()).map(cell).collect();
        println!("| {} |", cells.join(" | "));
    };
    print(&|column| format!("{:<1$}", head[column], width(column)));
    print(&|column| match column {
        0 => "-".repeat(width(0)),
        _ => format!("{}:", "-".repeat(width(column) - 1)),
    });
    for row in rows {
        print(&|column| match column {
            0 => format!("{:<1$}", row[0], width(0)),
            _ => format!("{:>1$}", row[column], width(column)),
        });
    }
}
