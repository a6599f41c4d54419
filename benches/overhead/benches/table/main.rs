//! Prints what each layer adds to a request, as two tables in Markdown: `benches/overhead/run`.
//!
//! Counts come from callgrind, CPU times from threads that take turns with the stacks. Both are
//! differences to the service without a layer in the same run, so compare figures of one run only.

mod counts;
mod times;

use counts::Profiler;
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
    let mut figures = Vec::new();
    for stack in stacks {
        let alone = profiler.per_request(stack, Loop::Cloned)?;
        // A refusal closes its connection.
        let connection = match stack.refuses {
            true => None,
            false => Some(profiler.per_request(stack, Loop::Connection)?.instructions),
        };
        figures.push([
            Some(alone.instructions),
            alone.locked,
            Some(alone.allocations),
            Some(stack.future as f64),
            Some(stack.body as f64),
            connection,
        ]);
    }

    let bare = figures[0];
    for added in &mut figures[1..] {
        for (figure, bare) in added.iter_mut().zip(bare) {
            *figure = figure.zip(bare).map(|(figure, bare)| figure - bare);
        }
    }
    let yardstick = figures[1][0].unwrap_or(f64::NAN);
    let rows = stacks.iter().zip(&figures).enumerate();
    let rows = rows.map(|(index, (stack, figures))| {
        let cell = |figure: &Option<f64>| figure.map_or("–".to_owned(), |f| format!("{f:.0}"));
        let mut row = vec![stack.title.to_owned()];
        row.extend(figures.iter().map(cell));
        let ratio = figures[0]
            .filter(|_| index > 0)
            .map(|added| added / yardstick);
        row.insert(
            2,
            ratio.map_or("–".to_owned(), |ratio| format!("{ratio:.2}")),
        );
        row
    });
    let rows: Vec<_> = rows.collect();
    println!("Counted, the same in each run of one build:\n");
    print_table(COUNTS, &rows);
    println!(
        "\nEach step of a request is a function of its own, as in a server, and the service is \
         cloned for each request.\nThe last column is hyper without a network; a refusal ends its \
         connection (–). Bytes are by `size_of`.\nFrom build to build the first column moves by \
         about 15, the last one by 100: what the compiler inlines,\nand the alignment of copies.\n"
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
        let mut row = vec![stack.title.to_owned()];
        row.extend(columns.iter().map(|column| {
            let mark = if column.is_reliable { "" } else { "?" };
            // Adding 0 turns -0 into 0.
            let ratio = (column.added[index] / column.added[1] * 100.0).round() / 100.0 + 0.0;
            format!("{ratio:.2}{mark}")
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
