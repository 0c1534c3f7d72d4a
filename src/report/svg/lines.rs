//! Lines over a numeric axis, with bands or error bars.

use super::{Canvas, LEFT, LETTER, LINE, RIGHT, Source, number, range, ticks};
use std::fmt::Write;

/// A plot of lines.
#[derive(Clone, Debug, Default)]
pub struct Lines {
    pub title: String,
    pub x: String,
    pub y: String,
    /// Places named on the x axis; round numbers where there are none.
    pub x_ticks: Vec<(f64, String)>,
    /// The y axis covers this, whatever the values.
    pub y_covers: Option<(f64, f64)>,
    pub series: Vec<Series>,
}

/// One line.
#[derive(Clone, Debug, Default)]
pub struct Series {
    pub name: String,
    /// A CSS class: c0, c1, ...
    pub colour: String,
    /// The paper's numbers are dashed.
    pub dashed: bool,
    /// Intervals as a band, for curves of many points; else as error bars.
    pub band: bool,
    pub points: Vec<Point>,
}

/// A point with its interval.
#[derive(Clone, Debug, Default)]
pub struct Point {
    pub x: f64,
    pub y: f64,
    pub interval: Option<(f64, f64)>,
    pub source: Source,
}

/// Height of the plotted area.
const HEIGHT: f64 = 200.0;

impl Lines {
    /// The drawing. Points that are not finite are left out.
    pub fn draw(&self) -> String {
        let finite = |point: &&Point| point.x.is_finite() && point.y.is_finite();
        let points = || self.series.iter().flat_map(|series| series.points.iter().filter(finite));
        let (x_low, x_high) = range(points().map(|point| point.x));
        let ends = |point: &Point| point.interval.map_or([point.y; 2], |(low, high)| [low, high]);
        let covered = self.y_covers.iter().flat_map(|(low, high)| [*low, *high]);
        let (y_low, y_high) = range(points().flat_map(|p| [p.y].into_iter().chain(ends(p))).chain(covered));
        let y_ticks = ticks(y_low, y_high, 5);
        let (y_low, y_high) = (y_ticks[0], y_ticks[y_ticks.len() - 1]);

        let mut canvas = Canvas::new(0.0);
        let entries: Vec<(&str, String)> = self
            .series
            .iter()
            .map(|series| {
                let dashed = if series.dashed { " dashed" } else { "" };
                (series.name.as_str(), format!("curve {}{dashed}", series.colour))
            })
            .collect();
        canvas.text(LEFT, 14.0, "name", &self.y);
        let top = 14.0 + canvas.legend(&entries, 14.0 + LINE) + 12.0;
        let bottom = top + HEIGHT;
        canvas.height = bottom + 2.0 * LINE + 6.0;
        let x_span = if x_high > x_low { x_high - x_low } else { 1.0 };
        // Points stand a little inside the frame.
        let (left, right) = (LEFT + 8.0, RIGHT - 8.0);
        let at_x = |x: f64| left + (x - x_low) / x_span * (right - left);
        let at_y = |y: f64| bottom - (y.clamp(y_low, y_high) - y_low) / (y_high - y_low) * HEIGHT;

        for &tick in &y_ticks {
            canvas.line([LEFT, at_y(tick), RIGHT, at_y(tick)], if tick == 0.0 { "axis" } else { "grid" });
            canvas.text(LEFT - 5.0, at_y(tick) + 4.0, "end", number(tick));
        }
        canvas.line([LEFT, bottom, RIGHT, bottom], "axis");
        let x_ticks = if self.x_ticks.is_empty() {
            let round = ticks(x_low, x_high, 6).into_iter().filter(|tick| (x_low..=x_high).contains(tick));
            round.map(|tick| (tick, number(tick))).collect()
        } else {
            self.x_ticks.clone()
        };
        let mut free = 0.0;
        for (tick, name) in &x_ticks {
            let half = name.chars().count() as f64 * LETTER / 2.0;
            canvas.line([at_x(*tick), bottom, at_x(*tick), bottom + 4.0], "axis");
            // Names that would run into each other are left out.
            if at_x(*tick) - half > free {
                canvas.text(at_x(*tick), bottom + LINE, "middle", name);
                free = at_x(*tick) + half + 4.0;
            }
        }
        canvas.text((LEFT + RIGHT) / 2.0, bottom + 2.0 * LINE, "middle name", &self.x);

        for series in &self.series {
            let points: Vec<&Point> = series.points.iter().filter(finite).collect();
            let place = |x: f64, y: f64| format!("{:.1},{:.1}", at_x(x), at_y(y));
            let with_interval = points.iter().filter_map(|point| {
                let (low, high) = point.interval.filter(|(low, high)| low.is_finite() && high.is_finite())?;
                Some((point.x, low, high))
            });
            if series.band {
                let upper = with_interval.clone().map(|(x, _, high)| place(x, high));
                let lower = with_interval.rev().map(|(x, low, _)| place(x, low));
                let outline: Vec<String> = upper.chain(lower).collect();
                let _ = writeln!(
                    canvas.body,
                    "<polygon points=\"{}\" class=\"band {}\"/>",
                    outline.join(" "),
                    series.colour
                );
            } else {
                for (x, low, high) in with_interval {
                    canvas.line([at_x(x), at_y(low), at_x(x), at_y(high)], &format!("bar {}", series.colour));
                }
            }
            let way: Vec<String> = points.iter().map(|point| place(point.x, point.y)).collect();
            let dashed = if series.dashed { " dashed" } else { "" };
            let _ = writeln!(
                canvas.body,
                "<polyline points=\"{}\" class=\"curve {}{dashed}\"/>",
                way.join(" "),
                series.colour
            );
            let radius = if series.band { 1.6 } else { 3.4 };
            for point in points {
                let class = if series.dashed { "hollow" } else { "dot" };
                let (x, y) = (at_x(point.x), at_y(point.y));
                let shape =
                    format!("circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\" class=\"{class} {}\"", series.colour);
                canvas.mark(shape, &point.source);
            }
        }
        canvas.finish(&self.title)
    }
}
