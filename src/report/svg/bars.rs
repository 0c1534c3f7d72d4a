//! Horizontal bars in named groups: names of any length stand above their bars.

use super::{Canvas, LINE, RIGHT, Source, number, range, ticks};

/// A plot of bars.
#[derive(Clone, Debug, Default)]
pub struct Bars {
    pub title: String,
    /// What the bars' length is.
    pub x: String,
    /// The axis covers this, whatever the values.
    pub x_covers: Option<(f64, f64)>,
    /// Names and colours of the bars of all groups.
    pub legend: Vec<(String, String)>,
    /// Explains the paper's marks, where there are any.
    pub mark: String,
    pub groups: Vec<Group>,
}

/// Bars that belong together.
#[derive(Clone, Debug, Default)]
pub struct Group {
    pub name: String,
    pub bars: Vec<Bar>,
}

/// One bar.
#[derive(Clone, Debug, Default)]
pub struct Bar {
    pub colour: String,
    pub value: f64,
    pub interval: Option<(f64, f64)>,
    /// Said at the bar's end.
    pub label: String,
    /// The paper's value: a mark across the bar.
    pub paper: Option<f64>,
    pub source: Source,
}

/// Thickness of a bar.
const THICK: f64 = 11.0;
/// Room at the right for labels.
const LABEL: f64 = 52.0;
const EDGE: f64 = 10.0;

impl Bars {
    /// The drawing. Bars that are not finite are left out.
    pub fn draw(&self) -> String {
        let bars = || self.groups.iter().flat_map(|group| &group.bars);
        let ends = |bar: &Bar| {
            let (low, high) = bar.interval.unwrap_or((bar.value, bar.value));
            [bar.value, low, high, bar.paper.unwrap_or(bar.value)]
        };
        let covered = self.x_covers.iter().flat_map(|(low, high)| [*low, *high]);
        let (low, high) = range(bars().flat_map(ends).chain([0.0]).chain(covered));
        let x_ticks = ticks(low, high, 5);
        let (low, high) = (x_ticks[0], x_ticks[x_ticks.len() - 1]);
        let at = |x: f64| EDGE + (x.clamp(low, high) - low) / (high - low) * (RIGHT - LABEL - EDGE);

        let mut canvas = Canvas::new(0.0);
        let mut entries: Vec<(&str, String)> =
            self.legend.iter().map(|(name, colour)| (name.as_str(), format!("swatch {colour}"))).collect();
        if bars().any(|bar| bar.paper.is_some()) {
            entries.push((&self.mark, "paper".to_owned()));
        }
        let top = canvas.legend(&entries, 14.0) + 4.0;
        let step = THICK + 4.0;
        let height = |group: &Group| LINE + group.bars.len() as f64 * step + 6.0;
        let bottom = top + self.groups.iter().map(height).sum::<f64>();
        canvas.height = bottom + 2.0 * LINE + 6.0;
        for &tick in &x_ticks {
            canvas.line([at(tick), top, at(tick), bottom], if tick == 0.0 { "axis" } else { "grid" });
            canvas.text(at(tick), bottom + LINE, "middle", number(tick));
        }
        canvas.text(at(f64::midpoint(low, high)), bottom + 2.0 * LINE, "middle name", &self.x);

        let mut y = top;
        for group in &self.groups {
            canvas.text(EDGE + 4.0, y + LINE - 4.0, "group", &group.name);
            let mut y_bar = y + LINE;
            for bar in group.bars.iter().filter(|bar| bar.value.is_finite()) {
                let (from, to) = (at(bar.value.min(0.0)), at(bar.value.max(0.0)));
                // A bar of no length is still seen.
                let width = (to - from).max(1.0);
                let colour = &bar.colour;
                let shape = format!(
                    "rect x=\"{from:.1}\" y=\"{y_bar:.1}\" width=\"{width:.1}\" height=\"{THICK}\" class=\"fill {colour}\""
                );
                canvas.mark(shape, &bar.source);
                let middle = y_bar + THICK / 2.0;
                let mut end = to;
                if let Some((low, high)) = bar.interval.filter(|(low, high)| low.is_finite() && high.is_finite()) {
                    canvas.line([at(low), middle, at(high), middle], "whisker");
                    end = end.max(at(high));
                }
                if let Some(paper) = bar.paper.filter(|paper| paper.is_finite()) {
                    canvas.line([at(paper), y_bar - 2.0, at(paper), y_bar + THICK + 2.0], "paper");
                    end = end.max(at(paper));
                }
                canvas.text(end + 6.0, middle + 4.0, "label", &bar.label);
                y_bar += step;
            }
            y += height(group);
        }
        canvas.finish(&self.title)
    }
}
