//! A small vocabulary of plots, drawn as SVG: lines with bands or error bars, bars, heat maps.
//!
//! Colours are CSS classes, so that one drawing serves light and dark. Inside the page its style sheet holds them; a
//! drawing in a file of its own carries them along ([`standalone`]).

mod bars;
mod heat;
mod lines;

pub use bars::{Bar, Bars, Group};
pub use heat::{HeatMap, Square};
pub use lines::{Lines, Point, Series};

use std::fmt::{Display, Write};

/// Colours and fonts of all plots.
pub const STYLE: &str = include_str!("../plot.css");

/// Width of every plot in its own units: small, so that text stays readable on a narrow screen.
const WIDTH: f64 = 480.0;
/// Width of a letter at the plots' font size, about.
const LETTER: f64 = 7.0;
/// Space for a line of text.
const LINE: f64 = 17.0;

/// The same drawing as a file of its own.
pub fn standalone(svg: &str) -> String {
    let Some(end) = svg.find('>') else { return svg.to_owned() };
    let (open, rest) = svg.split_at(end + 1);
    format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{open}<style>{STYLE}</style>{rest}\n")
}

/// Text that XML and HTML take as text. Characters that XML forbids are replaced.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            '\t' | '\n' | '\r' => escaped.push(c),
            c if c < ' ' || ('\u{fffe}'..='\u{ffff}').contains(&c) => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

/// What a mark stands for: the tooltip, and which line of `summary.csv` it shows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Source {
    pub tooltip: String,
    /// Key and exact value; none for the paper's numbers.
    pub line: Option<(String, f64)>,
}

/// An SVG being drawn.
struct Canvas {
    body: String,
    height: f64,
}

impl Canvas {
    fn new(height: f64) -> Self {
        Self { body: String::new(), height }
    }

    fn text(&mut self, x: f64, y: f64, class: &str, text: impl Display) {
        let text = escape(&text.to_string());
        let _ = writeln!(self.body, "<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"{class}\">{text}</text>");
    }

    fn line(&mut self, [x1, y1, x2, y2]: [f64; 4], class: &str) {
        let _ = writeln!(
            self.body,
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" class=\"{class}\"/>"
        );
    }

    /// A shape (an element up to its attributes' end) with its source.
    fn mark(&mut self, shape: impl Display, source: &Source) {
        let name = shape.to_string();
        let name = name.split(' ').next().unwrap_or_default();
        let data = source
            .line
            .as_ref()
            .map_or_else(String::new, |(key, value)| format!(" data-key=\"{}\" data-value=\"{value}\"", escape(key)));
        let _ = writeln!(self.body, "<{shape}{data}><title>{}</title></{name}>", escape(&source.tooltip));
    }

    /// The legend in as many lines as it needs, from `y` on; its height.
    fn legend(&mut self, entries: &[(&str, String)], y: f64) -> f64 {
        let (mut x, mut line) = (LEFT, 0.0);
        for (name, class) in entries {
            let width = name.chars().count() as f64 * LETTER + 36.0;
            if x > LEFT && x + width > WIDTH {
                (x, line) = (LEFT, line + LINE);
            }
            // As it stands in the plot: the paper's mark upright.
            let middle = y + line - 4.0;
            let sample = if class == "paper" {
                [x + 9.0, middle - 7.0, x + 9.0, middle + 7.0]
            } else {
                [x, middle, x + 18.0, middle]
            };
            self.line(sample, class);
            self.text(x + 23.0, y + line, "", name);
            x += width;
        }
        if entries.is_empty() { 0.0 } else { line + LINE }
    }

    fn finish(self, title: &str) -> String {
        let (title, height) = (escape(title), self.height);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"plot\" viewBox=\"0 0 {WIDTH} {height:.0}\" \
             role=\"img\"><title>{title}</title>\n{}</svg>",
            self.body
        )
    }
}

/// Left edge of what is plotted.
const LEFT: f64 = 46.0;
/// Right edge.
const RIGHT: f64 = WIDTH - 14.0;

/// A number as an axis shows it.
pub fn number(value: f64) -> String {
    if value == 0.0 {
        "0".to_owned()
    } else if value.abs() >= 1e5 || value.abs() < 1e-3 {
        format!("{value:.0e}")
    } else {
        // Ticks are round: what binary adds at the end is cut off.
        format!("{value:.4}").trim_end_matches('0').trim_end_matches('.').to_owned()
    }
}

/// Round ticks (1, 2 or 5 times a power of ten apart) from at or below `low` to at or above `high`: about `count`.
fn ticks(low: f64, high: f64, count: usize) -> Vec<f64> {
    let span = if high > low { high - low } else { 1.0 };
    let rough = span / count as f64;
    let power = 10.0_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|times| times * power).into_iter().find(|step| *step >= rough * 0.999);
    let step = step.unwrap_or(10.0 * power);
    let (first, last) = ((low / step).floor(), (high / step - 1e-9).ceil().max((low / step).floor() + 1.0));
    // Values too large for their differences have no ticks between: the ends must do.
    if !(last - first).is_finite() || last - first > 100.0 {
        return vec![low, high];
    }
    (0..=(last - first) as usize).map(|i| (first + i as f64) * step).collect()
}

/// The finite range of some values; 0 to 1 of none.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values
        .filter(|value| value.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)));
    if low <= high { (low, high) } else { (0.0, 1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_cover() {
        assert_eq!(ticks(0.0, 1.0, 5), [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]);
        assert_eq!(ticks(-0.3, 0.31, 4), [-0.4, -0.2, 0.0, 0.2, 0.4]);
        for (low, high) in [(3.0, 3.0), (0.0, 0.0), (1e300, 1.1e300), (-5.0, -4.999), (1e16, 1e16 + 2.0)] {
            let ticks = ticks(low, high, 5);
            // A tick is a multiple of the step: as near to the end as rounding lets it be.
            let slack = 1e-14 * low.abs().max(high.abs());
            let covers = ticks[0] <= low + slack && ticks[ticks.len() - 1] >= high - slack;
            assert!(ticks.len() >= 2 && covers, "{low} {high} {ticks:?}");
        }
    }

    #[test]
    fn text_cannot_leave_its_place() {
        assert_eq!(escape("<a href='x'>&\"\u{1}"), "&lt;a href=&#39;x&#39;&gt;&amp;&quot;\u{fffd}");
    }
}
