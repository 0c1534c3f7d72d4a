//! A heat map: rows by columns of shares.

use super::{Canvas, LETTER, LINE, Source, WIDTH};

/// A heat map.
#[derive(Clone, Debug, Default)]
pub struct HeatMap {
    pub title: String,
    /// What the columns are.
    pub x: String,
    pub columns: Vec<String>,
    /// Each row's name, and a square or none for each column.
    pub rows: Vec<(String, Vec<Option<Square>>)>,
}

/// One square.
#[derive(Clone, Debug, Default)]
pub struct Square {
    /// 0 to 1: how strong its colour is.
    pub share: f64,
    pub label: String,
    pub source: Source,
}

const EDGE: f64 = 6.0;
const SQUARE: f64 = 26.0;

impl HeatMap {
    /// The drawing.
    pub fn draw(&self) -> String {
        let letters = self.rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        let left = (letters as f64 * LETTER + EDGE + 8.0).min(WIDTH / 2.0);
        let width = ((WIDTH - EDGE - left) / self.columns.len().max(1) as f64).min(70.0);
        let top = 2.0 * LINE + 6.0;
        let mut canvas = Canvas::new(top + self.rows.len() as f64 * SQUARE + EDGE);
        canvas.text(left + 2.0, LINE - 4.0, "name", &self.x);
        let middle = |i: usize| left + (i as f64 + 0.5) * width;
        // Names that would run into each other are left out in turns.
        let widest = self.columns.iter().map(|name| name.chars().count()).max().unwrap_or(0);
        let turns = ((widest + 1) as f64 * LETTER / width).ceil().max(1.0) as usize;
        for (i, name) in self.columns.iter().enumerate().filter(|(i, _)| (i + 1) % turns == 0) {
            canvas.text(middle(i), 2.0 * LINE, "middle", name);
        }
        for (j, (name, squares)) in self.rows.iter().enumerate() {
            let y = top + j as f64 * SQUARE;
            canvas.text(left - 6.0, y + SQUARE / 2.0 + 4.0, "end", name);
            for (i, square) in squares.iter().enumerate() {
                let Some(square) = square else { continue };
                let strength = if square.share.is_finite() { square.share.clamp(0.0, 1.0) } else { 0.0 };
                let shape = format!(
                    "rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" rx=\"2\" class=\"heat\" \
                     fill-opacity=\"{:.3}\"",
                    middle(i) - width / 2.0 + 1.0,
                    y + 1.0,
                    width - 2.0,
                    SQUARE - 2.0,
                    0.04 + 0.7 * strength
                );
                canvas.mark(shape, &square.source);
                canvas.text(middle(i), y + SQUARE / 2.0 + 4.0, "middle", &square.label);
            }
        }
        canvas.finish(&self.title)
    }
}
