//! What is known of a stack, and how it is shown: as what it adds to the bare service.

pub(crate) struct Row {
    pub(crate) title: &'static str,
    pub(crate) instructions: f64,
    pub(crate) locked: f64,
    /// Allocations; growth of the future around a boxed one, around a `Ready`, of the body.
    pub(crate) memory: [f64; 4],
    pub(crate) wall: f64,
    /// With 1, 2, 4 and 8 threads.
    pub(crate) cpu: [f64; 4],
}

const HEAD: &str = "\
| added to the bare service, per request | instructions | ratio | locked operations | allocations \
| future, boxed (bytes) | future, `Ready` (bytes) | body (bytes) | wall (ns) \
| CPU, 1 thread (ns) | 2 threads | 4 threads | 8 threads | ratio at 2 |
|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|";

/// The first row is the bare service, the second the yardstick. `cpus` were in use in the rounds
/// that the CPU times are from.
pub(crate) fn print(rows: &[Row], cpus: [f64; 4]) {
    let [bare, others @ ..] = rows else { return };
    let Some(yardstick) = others.first() else {
        return;
    };
    let yardstick = yardstick.added_to(bare);
    // Else the machine was too busy for two threads at a time, and none of this is contention.
    let side_by_side = cpus[1] > 1.5;
    println!("{HEAD}");
    println!("{}", bare.line("–", "–"));
    for row in others {
        let added = row.added_to(bare);
        let ratio = format!("{:.2}", added.instructions / yardstick.instructions);
        let contended = match side_by_side {
            true => format!("{:.2}", added.cpu[1] / yardstick.cpu[1]),
            false => "(busy)".to_owned(),
        };
        println!("{}", added.line(&ratio, &contended));
    }
    println!(
        "\nRatios are to {}. The bare service's row is absolute.",
        others[0].title
    );
    let cpus = cpus.map(|cpus| format!("{cpus:.1}")).join(", ");
    println!("CPUs in use at a time with 1, 2, 4 and 8 threads: {cpus}.");
}

impl Row {
    fn added_to(&self, bare: &Self) -> Self {
        Self {
            title: self.title,
            instructions: self.instructions - bare.instructions,
            locked: self.locked - bare.locked,
            memory: minus(self.memory, bare.memory),
            wall: self.wall - bare.wall,
            cpu: minus(self.cpu, bare.cpu),
        }
    }

    fn line(&self, ratio: &str, contended: &str) -> String {
        let [allocations, boxed, ready, body] = self.memory;
        let [one, two, four, eight] = self.cpu;
        format!(
            "| {} | {} | {ratio} | {} | {allocations} | {boxed} | {ready} | {body} | {:.1} \
             | {one:.1} | {two:.1} | {four:.1} | {eight:.1} | {contended} |",
            self.title, self.instructions, self.locked, self.wall,
        )
    }
}

fn minus<const N: usize>(mut these: [f64; N], those: [f64; N]) -> [f64; N] {
    for (this, that) in these.iter_mut().zip(those) {
        *this -= that;
    }
    these
}
