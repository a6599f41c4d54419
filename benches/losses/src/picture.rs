//! The table as an SVG: a bar for each row, in the order in which it hurts.

use crate::{client::Mode, table::Row};
use std::fmt::Write;

const WIDTH: usize = 760;
const BARS: usize = 230;
const BAR_WIDTH: usize = 440;
const LINE: usize = 22;
const BAR: usize = 14;

/// It brings its own ground, so that it can be read on any page, and follows the reader's theme where
/// the page says it. The colours are of the palette that most colour-blind readers tell apart.
const STYLE: &str = "    text { font: 12px Helvetica, Arial, sans-serif; fill: #1f2328 }
    .title { font-weight: bold }
    .end { text-anchor: end }
    .ground { fill: #ffffff; stroke: #d1d9e0 }
    .lost { fill: #d55e00 }
    .told { fill: #56b4e9 }
    .closed { fill: #0072b2 }
    @media (prefers-color-scheme: dark) {
      text { fill: #f0f6fc }
      .ground { fill: #0d1117; stroke: #3d444d }
    }";

type Part = (&'static str, &'static str, fn(&Row) -> usize);

/// Class, name, number.
const PARTS: [Part; 3] = [
    ("lost", "lost", |row| row.lost),
    ("told", "refused: told so", |row| row.told_so),
    ("closed", "refused: not connected", |row| row.not_connected),
];

pub fn draw(rows: &[Row]) -> String {
    let modes: Vec<Mode> = Mode::ALL
        .into_iter()
        .filter(|&mode| rows.iter().any(|row| row.mode == mode))
        .collect();
    let height = 42 + rows.len() * LINE + modes.len() * 34;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" role=\"img\">\n\
         <title>What became of the last request of each client when its server stopped</title>\n\
         <style>\n{STYLE}\n</style>\n\
         <rect class=\"ground\" x=\"0.5\" y=\"0.5\" width=\"{}\" height=\"{}\" rx=\"6\"/>\n",
        WIDTH - 1,
        height - 1,
    );
    let each = rows.first().map_or(0, Row::last_requests);
    let title = format!("{each} last requests each");
    text(&mut svg, 16, 26, "title", &title);
    for (number, (class, name, _)) in PARTS.into_iter().enumerate() {
        let x = BARS + number * 140;
        rect(&mut svg, class, x, 15, BAR);
        text(&mut svg, x + BAR + 6, 26, "", name);
    }
    let mut y = 62;
    for mode in modes {
        text(&mut svg, 16, y, "title", mode.title());
        y += 8;
        for row in rows.iter().filter(|row| row.mode == mode) {
            bar(&mut svg, y, row);
            y += LINE;
        }
        y += 26;
    }
    svg.push_str("</svg>\n");
    svg
}

fn bar(svg: &mut String, y: usize, row: &Row) {
    let baseline = y + BAR - 3;
    let class = if row.server.ours { "title end" } else { "end" };
    text(svg, BARS - 10, baseline, class, row.server.title);
    let all = row.last_requests().max(1);
    let mut before = 0;
    for (class, _, part) in PARTS {
        let part = part(row);
        if part > 0 {
            let start = BAR_WIDTH * before / all;
            let end = BAR_WIDTH * (before + part) / all;
            // One of a thousand shall be seen, too.
            rect(svg, class, BARS + start, y, (end - start).max(2));
        }
        before += part;
    }
    let lost = format!("{} lost", row.lost);
    text(svg, BARS + BAR_WIDTH + 10, baseline, "", &lost);
}

fn rect(svg: &mut String, class: &str, x: usize, y: usize, width: usize) {
    let _ = writeln!(
        svg,
        "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{BAR}\"/>"
    );
}

fn text(svg: &mut String, x: usize, y: usize, class: &str, text: &str) {
    let _ = writeln!(
        svg,
        "<text class=\"{class}\" x=\"{x}\" y=\"{y}\">{text}</text>"
    );
}
