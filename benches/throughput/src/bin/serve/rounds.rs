//! Servers that take turns, and what comes of it.

use crate::server::Kind;
use throughput::{cell, ratio};

/// What was measured in each round, for each server.
pub struct Rounds<const N: usize> {
    kinds: Vec<Kind>,
    values: Vec<Vec<[f64; N]>>,
}

/// Each in each round, in an order that changes. The first round, which warms up, is left out.
pub async fn turns<const N: usize>(
    kinds: &[Kind],
    rounds: usize,
    mut run: impl AsyncFnMut(usize) -> [f64; N],
) -> Rounds<N> {
    let mut values = Vec::new();
    for round in 0..=rounds {
        let mut now = vec![[0.0; N]; kinds.len()];
        for turn in 0..kinds.len() {
            let which = (turn + round) % kinds.len();
            now[which] = run(which).await;
        }
        if round > 0 {
            values.push(now);
        }
    }
    Rounds {
        kinds: kinds.to_vec(),
        values,
    }
}

pub fn head(title: &str, kinds: &[Kind]) -> String {
    let mut titles: Vec<_> = kinds.iter().map(|kind| kind.title()).collect();
    if kinds.contains(&Kind::Loop) {
        titles.push("serve to the loop");
    }
    let line = "--:|".repeat(titles.len());
    format!("| {title} | {} |\n|---|{line}", titles.join(" | "))
}

impl<const N: usize> Rounds<N> {
    /// Of one of the values: each server's, with its ratio to the first one's of the same round.
    pub fn row(&self, title: &str, value: usize, digits: usize) -> String {
        let against = |this: usize, that: usize| {
            let pairs = self.values.iter().map(move |round| {
                let (this, that) = (round[this][value], round[that][value]);
                (this, this / that)
            });
            pairs.collect::<Vec<_>>()
        };
        let mut cells: Vec<_> = (0..self.kinds.len())
            .map(|which| cell(&against(which, 0), digits))
            .collect();
        let at = |kind| self.kinds.iter().position(|one| *one == kind);
        if let (Some(ours), Some(bare)) = (at(Kind::Ours), at(Kind::Loop)) {
            cells.push(ratio(
                against(ours, bare).into_iter().map(|it| it.1).collect(),
            ));
        }
        format!("| {title} | {} |", cells.join(" | "))
    }
}
