//! The first seconds of some rows as an SVG, over time: what was answered, what failed, and what the
//! replicas did meanwhile.

use crate::{
    events::{Change, Event},
    load::{BUCKET, Seen},
    replica::Server,
    restart::Outcome,
};
use std::{collections::BTreeSet, fmt::Write, time::Duration};

const WIDTH: usize = 760;
const LEFT: usize = 96;
const PLOT: usize = 640;

/// Of a panel, from its top: the title, the requests, what failed of them, and each replica.
const RATE: usize = 22;
const RATE_HEIGHT: usize = 64;
const FAILED: usize = RATE + RATE_HEIGHT + 4;
const FAILED_HEIGHT: usize = 22;
const BANDS: usize = FAILED + FAILED_HEIGHT + 8;
const BAND: usize = 10;
const BAND_PITCH: usize = 17;
const AXIS: usize = BANDS + 2 * BAND_PITCH;
const PANEL: usize = AXIS + 42;

/// It brings its own ground, so that it can be read on any page, and follows the reader's theme where
/// the page says it. The colours are of the palette that most colour-blind readers tell apart.
const STYLE: &str = "    text { font: 12px Helvetica, Arial, sans-serif; fill: #1f2328 }
    .title { font-weight: bold }
    .end { text-anchor: end }
    .middle { text-anchor: middle }
    .small { font-size: 10px }
    .ground { fill: #ffffff; stroke: #d1d9e0 }
    .grid { stroke: #d1d9e0 }
    .answered { fill: #999999 }
    .failed { fill: #d55e00 }
    .serving { fill: #56b4e9 }
    .lame { fill: #f0e442 }
    .draining { fill: #cc79a7 }
    .routed { fill: #1f2328 }
    @media (prefers-color-scheme: dark) {
      text { fill: #f0f6fc }
      .ground { fill: #0d1117; stroke: #3d444d }
      .grid { stroke: #3d444d }
      .answered { fill: #8b949e }
      .routed { fill: #f0f6fc }
    }";

/// Class and name, in the order of the legend.
const LEGEND: [(&str, &str); 6] = [
    ("answered", "answered"),
    ("failed", "failed"),
    ("serving", "serves"),
    ("lame", "lame duck"),
    ("draining", "drains"),
    ("routed", "proxy told to send"),
];

/// Panels that share an axis stand below each other.
struct Axis {
    length: Duration,
    /// Answers in a bucket.
    answered: usize,
    failed: usize,
}

/// For one proxy, ours and the one that loses; and where the proxy is told late, with and without a
/// lame duck.
pub fn draw(outcomes: &[Outcome]) -> String {
    let first = |wanted: &dyn Fn(&Outcome) -> bool| outcomes.iter().find(|one| wanted(one));
    let proxy = outcomes.last().map(|outcome| outcome.case.proxy);
    let rolling = |server: Server| {
        first(&|one: &Outcome| {
            let case = one.case;
            Some(case.proxy) == proxy && case.server == server && case.lag.is_none()
        })
    };
    let race = |fails: bool| {
        first(&|one: &Outcome| one.case.lag.is_some() && one.case.shall_fail() == fails)
    };
    let groups = [
        ([rolling(Server::Serve), rolling(Server::Plain)], 3),
        ([race(false), race(true)], 1),
    ];
    let groups: Vec<(Vec<&Outcome>, usize)> = groups
        .into_iter()
        .map(|(group, rounds)| (group.into_iter().flatten().collect(), rounds))
        .collect();
    let panels: usize = groups.iter().map(|(group, _)| group.len()).sum();

    let height = 46 + panels * PANEL;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" role=\"img\">\n\
         <title>Requests while two replicas are restarted one after the other</title>\n\
         <style>\n{STYLE}\n</style>\n\
         <rect class=\"ground\" x=\"0.5\" y=\"0.5\" width=\"{}\" height=\"{}\" rx=\"6\"/>\n",
        WIDTH - 1,
        height - 1,
    );
    for (number, (class, name)) in LEGEND.into_iter().enumerate() {
        let x = 16 + number * 112;
        let thin = if class == "routed" { 3 } else { BAND };
        rect(&mut svg, class, x as f64, 16 + BAND - thin, 14.0, thin);
        text(&mut svg, x + 20, 26, "", name);
    }
    let mut top = 46;
    for (group, rounds) in groups {
        let axis = Axis::of(&group, rounds);
        for outcome in group {
            panel(&mut svg, top, &axis, outcome);
            top += PANEL;
        }
    }
    svg.push_str("</svg>\n");
    svg
}

impl Axis {
    /// As long as so many rounds take, of whoever takes longest.
    fn of(group: &[&Outcome], rounds: usize) -> Self {
        let ends = group.iter().map(|outcome| {
            let mut back: Vec<Duration> = outcome
                .events
                .iter()
                .filter(|event| event.change == Change::AnswersGrpc)
                .map(|event| event.at.saturating_sub(outcome.seen.start))
                .collect();
            back.sort();
            // The first two are their first start.
            let end = back.get(1 + 2 * rounds).or(back.last());
            end.copied().unwrap_or_default()
        });
        let length = ends.max().unwrap_or_default() + 3 * BUCKET;
        let most = |of: fn(&Seen, usize) -> usize| {
            let all = group.iter().flat_map(|outcome| {
                let buckets = buckets(&outcome.seen, length);
                (0..buckets).map(|bucket| of(&outcome.seen, bucket))
            });
            all.max().unwrap_or_default().max(1)
        };
        Self {
            length,
            answered: most(|seen, bucket| seen.buckets[bucket].answered),
            failed: most(|seen, bucket| seen.buckets[bucket].failed),
        }
    }

    fn x(&self, at: Duration) -> f64 {
        let share = at.as_secs_f64() / self.length.as_secs_f64();
        LEFT as f64 + PLOT as f64 * share.min(1.0)
    }
}

/// Those that are drawn.
fn buckets(seen: &Seen, length: Duration) -> usize {
    let drawn = (length.as_millis() / BUCKET.as_millis()) as usize;
    seen.buckets.len().min(drawn)
}

fn panel(svg: &mut String, top: usize, axis: &Axis, outcome: &Outcome) {
    let seen = &outcome.seen;
    let drawn = &seen.buckets[..buckets(seen, axis.length)];
    let failed: usize = drawn.iter().map(|bucket| bucket.failed).sum();
    text(svg, 16, top + 14, "title", &outcome.case.title());
    let summary = format!("{failed} failed");
    text(svg, LEFT + PLOT, top + 14, "title end", &summary);

    label(svg, top + RATE + 11, "requests");
    label(svg, top + RATE + 24, "a second");
    let per_second = Duration::from_secs(1).as_millis() / BUCKET.as_millis();
    let most = format!("{}", axis.answered * per_second as usize);
    text(svg, LEFT - 8, top + RATE + RATE_HEIGHT, "end small", "0");
    text(
        svg,
        LEFT - 8,
        top + RATE + 37,
        "end small",
        &format!("to {most}"),
    );
    label(svg, top + FAILED + 15, "failed");
    let width = PLOT as f64 * BUCKET.as_secs_f64() / axis.length.as_secs_f64();
    for (number, bucket) in drawn.iter().enumerate() {
        let x = axis.x(BUCKET * number as u32);
        let height = RATE_HEIGHT * bucket.answered / axis.answered;
        let base = top + RATE + RATE_HEIGHT;
        rect(svg, "answered", x, base - height, width, height);
        if bucket.failed > 0 {
            // One shall be seen, too.
            let height = (FAILED_HEIGHT * bucket.failed / axis.failed).max(5);
            let base = top + FAILED + FAILED_HEIGHT;
            rect(svg, "failed", x, base - height, width.max(3.0), height);
        }
    }
    for y in [RATE + RATE_HEIGHT, FAILED + FAILED_HEIGHT] {
        let y = top + y;
        line(svg, (LEFT as f64, y), ((LEFT + PLOT) as f64, y));
    }

    let replicas: BTreeSet<usize> = outcome.events.iter().map(|event| event.replica).collect();
    for replica in replicas {
        let y = top + BANDS + replica * BAND_PITCH;
        label(svg, y + 9, &format!("replica {}", replica + 1));
        let events = outcome.events.iter();
        let events: Vec<&Event> = events.filter(|event| event.replica == replica).collect();
        band(svg, y, axis, seen, &events);
        if outcome.case.lag.is_some() {
            routes(svg, y + BAND + 1, axis, seen, &events);
        }
    }

    let seconds = axis.length.as_secs();
    let y = top + AXIS;
    for second in 0..=seconds {
        let x = axis.x(Duration::from_secs(second));
        line(svg, (x, y), (x, y + 4));
        // The last one might not find room.
        if x < (LEFT + PLOT - 10) as f64 {
            let name = match second {
                0 => "0 s".to_owned(),
                _ => second.to_string(),
            };
            text(svg, x as usize, y + 16, "small middle", &name);
        }
    }
    line(svg, (LEFT as f64, y), ((LEFT + PLOT) as f64, y));
}

/// What a replica does; nothing is drawn where there is no process.
fn band(svg: &mut String, y: usize, axis: &Axis, seen: &Seen, events: &[&Event]) {
    let class = |change: Change| match change {
        Change::Serving => Some("serving"),
        Change::LameDuck => Some("lame"),
        Change::Draining => Some("draining"),
        Change::Gone => Some(""),
        _ => None,
    };
    let changes = events
        .iter()
        .filter_map(|event| Some((event.at, class(event.change)?)));
    intervals(svg, y, BAND, axis, seen, changes);
}

/// When the proxy is told to send it requests.
fn routes(svg: &mut String, y: usize, axis: &Axis, seen: &Seen, events: &[&Event]) {
    let class = |change: Change| match change {
        Change::RoutedTo => Some("routed"),
        Change::NotRoutedTo => Some(""),
        _ => None,
    };
    let changes = events
        .iter()
        .filter_map(|event| Some((event.at, class(event.change)?)));
    let changes = std::iter::once((seen.start, "routed")).chain(changes);
    intervals(svg, y, 3, axis, seen, changes);
}

fn intervals(
    svg: &mut String,
    y: usize,
    height: usize,
    axis: &Axis,
    seen: &Seen,
    changes: impl Iterator<Item = (Duration, &'static str)>,
) {
    let changes: Vec<_> = changes
        .map(|(at, class)| (at.saturating_sub(seen.start), class))
        .collect();
    let length = axis.length.min(BUCKET * seen.buckets.len() as u32);
    for (number, &(from, class)) in changes.iter().enumerate() {
        let next = changes.get(number + 1);
        let to = next.map_or(length, |&(at, _)| at).min(length);
        if !class.is_empty() && from < to {
            let (from, to) = (axis.x(from), axis.x(to));
            rect(svg, class, from, y, to - from, height);
        }
    }
}

fn label(svg: &mut String, y: usize, name: &str) {
    text(svg, 16, y, "small", name);
}

fn rect(svg: &mut String, class: &str, x: f64, y: usize, width: f64, height: usize) {
    let _ = writeln!(
        svg,
        "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y}\" width=\"{width:.1}\" height=\"{height}\"/>"
    );
}

fn line(svg: &mut String, (x1, y1): (f64, usize), (x2, y2): (f64, usize)) {
    let _ = writeln!(
        svg,
        "<line class=\"grid\" x1=\"{x1:.1}\" y1=\"{y1}\" x2=\"{x2:.1}\" y2=\"{y2}\"/>"
    );
}

fn text(svg: &mut String, x: usize, y: usize, class: &str, text: &str) {
    let _ = writeln!(
        svg,
        "<text class=\"{class}\" x=\"{x}\" y=\"{y}\">{text}</text>"
    );
}
