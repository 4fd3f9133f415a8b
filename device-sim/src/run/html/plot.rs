//! Lines over time as a drawing (SVG).

use super::escape;
use std::fmt::Write;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 240.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 28.0;
/// Colours that the style sheet has.
const COLOURS: usize = 6;

/// One line of a plot; `None` leaves a gap.
pub(super) struct Line<'a> {
    pub(super) name: &'a str,
    pub(super) values: Vec<Option<f64>>,
}

/// Lines over the same times.
pub(super) struct Plot<'a> {
    pub(super) title: &'a str,
    /// In seconds, ascending.
    pub(super) times: Vec<f64>,
    /// Whether each step up the axis is ten times the one before.
    pub(super) log: bool,
    pub(super) lines: Vec<Line<'a>>,
}

impl Plot<'_> {
    /// The plot with its title and legend.
    pub(super) fn section(&self) -> String {
        let mut out = format!("<h2>{}</h2>\n", escape(self.title));
        let axis = self.axis();
        let end = self.times.last().copied().unwrap_or(0.0).max(1.0);
        let _ = writeln!(
            out,
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">",
            escape(self.title)
        );
        for (value, label) in axis.ticks() {
            let y = axis.y(value);
            let _ = writeln!(
                out,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
                WIDTH - RIGHT,
                LEFT - 8.0,
                y + 4.0,
            );
        }
        let x = |t: f64| LEFT + t / end * (WIDTH - LEFT - RIGHT);
        for t in steps(end) {
            let _ = writeln!(
                out,
                "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{t} s</text>",
                x(t),
                HEIGHT - 8.0
            );
        }
        for (i, line) in self.lines.iter().enumerate() {
            let mut pen_down = false;
            let mut path = String::new();
            for (t, value) in self.times.iter().zip(&line.values) {
                match value {
                    Some(value) => {
                        let sign = if pen_down { 'L' } else { 'M' };
                        let _ = write!(path, "{sign}{:.1} {:.1}", x(*t), axis.y(*value));
                        pen_down = true;
                    }
                    None => pen_down = false,
                }
            }
            let _ = writeln!(out, "<path class=\"line k{}\" d=\"{path}\"/>", i % COLOURS);
        }
        out.push_str("</svg>\n");
        out.push_str(&self.legend());
        out
    }

    fn legend(&self) -> String {
        let mut out = "<p>".to_owned();
        for (i, line) in self.lines.iter().enumerate() {
            let _ = write!(
                out,
                "<svg style=\"width:1.6em;display:inline\" viewBox=\"0 0 16 8\">\
                 <rect class=\"f{}\" width=\"14\" height=\"4\" y=\"2\"/></svg>{} &nbsp; ",
                i % COLOURS,
                escape(line.name)
            );
        }
        out.push_str("</p>\n");
        out
    }

    fn axis(&self) -> Axis {
        let values = || self.lines.iter().flat_map(|line| line.values.iter().flatten().copied());
        let max = values().fold(0.0, f64::max);
        if self.log {
            let least = values().filter(|value| *value > 0.0).fold(f64::INFINITY, f64::min);
            let low = if least.is_finite() { least.log10().floor() } else { 0.0 };
            let high = max.max(f64::MIN_POSITIVE).log10().ceil().max(low + 1.0);
            Axis { low, high, log: true }
        } else {
            Axis { low: 0.0, high: if max > 0.0 { max * 1.05 } else { 1.0 }, log: false }
        }
    }
}

/// From values to heights; `low` and `high` are exponents of ten on a logarithmic axis.
struct Axis {
    low: f64,
    high: f64,
    log: bool,
}

impl Axis {
    fn y(&self, value: f64) -> f64 {
        let value = if self.log { value.max(f64::MIN_POSITIVE).log10() } else { value };
        let share = ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0);
        HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
    }

    fn ticks(&self) -> Vec<(f64, String)> {
        if self.log {
            #[expect(clippy::cast_possible_truncation, reason = "exponents of a few digits")]
            let (low, high) = (self.low as i32, self.high as i32);
            return (low..=high).map(|n| 10.0_f64.powi(n)).map(|v| (v, short(v))).collect();
        }
        steps(self.high).into_iter().map(|value| (value, short(value))).collect()
    }
}

/// Round numbers from 0 to `end`, four to ten of them.
fn steps(end: f64) -> Vec<f64> {
    let decade = 10.0_f64.powf((end / 5.0).log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .map(|factor| factor * decade)
        .into_iter()
        .find(|step| end / step <= 10.0)
        .unwrap_or(decade * 10.0);
    let mut at = 0.0;
    let mut out = Vec::new();
    while at <= end {
        out.push(at);
        at += step;
    }
    out
}

/// 1234567 → `1.23 M`.
fn short(value: f64) -> String {
    let (value, unit) = match value {
        v if v >= 1e9 => (v / 1e9, " G"),
        v if v >= 1e6 => (v / 1e6, " M"),
        v if v >= 1e4 => (v / 1e3, " k"),
        v => (v, ""),
    };
    let text = format!("{value:.3}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{text}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_round_numbers() {
        assert_eq!(steps(20.0), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0, 16.0, 18.0, 20.0]);
        for end in [0.3, 1.0, 7.0, 61.0, 600.0, 123_456.0] {
            assert!((4..=11).contains(&steps(end).len()), "{end}: {:?}", steps(end));
        }
        for (value, text) in [(0.0, "0"), (0.25, "0.25"), (9_000.0, "9000"), (12_500.0, "12.5 k")] {
            assert_eq!(short(value), text);
        }
    }

    #[test]
    fn a_gap_lifts_the_pen_and_names_are_escaped() {
        let values = vec![Some(1.0), None, Some(100.0), Some(10.0)];
        let lines = vec![Line { name: "<b>", values }];
        let plot = Plot { title: "t", times: vec![0.0, 1.0, 2.0, 3.0], log: true, lines };
        let svg = plot.section();
        let path = svg.split("d=\"").nth(1).unwrap_or_default();
        let path = &path[..path.find('"').unwrap_or(0)];
        assert_eq!(path.matches('M').count(), 2, "{path}");
        assert_eq!(path.matches('L').count(), 1, "{path}");
        assert!(svg.contains("&lt;b&gt;") && !svg.contains("<b>"));
        // 1, 10 and 100 are as far apart as the axis is high.
        assert!(path.starts_with("M64.0 212.0") && path.contains("10.0L"), "{path}");
    }
}
