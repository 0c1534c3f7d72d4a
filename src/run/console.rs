//! What a person at a terminal sees while a run works: bars with an ETA there, nothing elsewhere.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;

/// Where progress goes.
#[derive(Clone, Copy, Debug)]
pub struct Console {
    visible: bool,
}

/// One bar; disappears when dropped.
pub struct Bar(ProgressBar);

impl Console {
    /// Shows progress if standard error is a terminal and `quiet` is off.
    pub fn new(quiet: bool) -> Self {
        Self { visible: !quiet && std::io::stderr().is_terminal() }
    }

    /// Shows nothing.
    pub fn silent() -> Self {
        Self { visible: false }
    }

    /// A bar of `total` steps.
    pub fn bar(self, label: impl Into<String>, total: usize) -> Bar {
        let target = if self.visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(total as u64), target);
        let style = ProgressStyle::with_template("{prefix:28} {wide_bar} {pos}/{len} {elapsed} eta {eta} {msg}");
        bar.set_style(style.expect("a valid template"));
        bar.set_prefix(label.into());
        Bar(bar)
    }
}

impl Bar {
    /// `done` steps are done.
    pub fn set(&self, done: usize) {
        self.0.set_position(done as u64);
    }

    /// A few words after the bar: the loss, say.
    pub fn note(&self, words: impl Into<String>) {
        self.0.set_message(words.into());
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
