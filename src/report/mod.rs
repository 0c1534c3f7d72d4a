//! Reading results: summaries with intervals, the paper's claims, tables and figures beside the paper's numbers.

pub mod agreement;
pub mod cells;
pub mod claims;
pub mod compare;
pub mod depth;
pub mod experiments;
pub mod figures;
pub mod html;
pub mod load;
pub mod paper;
mod responses;
pub mod summary;
pub mod svg;
pub mod tables;

use crate::run::{write_atomic, write_csv};
use crate::{Error, Result};
use claims::Finding;
use figures::Figure;
use load::Run;
use std::path::Path;
use summary::Summary;
use tables::Table;

/// What a run's rows say.
#[derive(Clone, Debug)]
pub struct Report {
    pub summary: Vec<Summary>,
    pub claims: Vec<Finding>,
    pub figures: Vec<Figure>,
}

/// Writes `summary.csv`, `claims.csv`, `plots/*.svg` and `report.html` into a run folder, from what it holds.
///
/// # Errors
/// If `dir` is no run folder, a file in it is damaged, or it cannot be written to.
pub fn write(dir: &Path) -> Result<Report> {
    let run = Run::read(dir)?;
    let report = Report::of(&run);
    write_csv(&dir.join("summary.csv"), &report.summary)?;
    write_csv(&dir.join("claims.csv"), &report.claims)?;
    let plots = dir.join("plots");
    std::fs::create_dir_all(&plots).map_err(Error::io("create", &plots))?;
    remove_old(&plots, &report.figures)?;
    for figure in &report.figures {
        write_atomic(&plots.join(format!("{}.svg", figure.file)), svg::standalone(&figure.svg).as_bytes())?;
    }
    write_atomic(&dir.join("report.html"), html::page(&run, &report).as_bytes())?;
    Ok(report)
}

/// Removes figures that earlier rows had and these do not; files of other names stay.
fn remove_old(plots: &Path, figures: &[Figure]) -> Result<()> {
    for entry in std::fs::read_dir(plots).map_err(Error::io("read", plots))?.flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        let Some(stem) = name.strip_suffix(".svg") else { continue };
        let known = stem.split_once('_').is_some_and(|(id, _)| experiments::find(id).is_some());
        if known && !figures.iter().any(|figure| figure.file == stem) {
            std::fs::remove_file(&path).map_err(Error::io("remove", &path))?;
        }
    }
    Ok(())
}

impl Report {
    /// Works a run's rows out.
    pub fn of(run: &Run) -> Self {
        let mut summary = summary::summarise(&run.rows);
        summary.extend(summary::by_category(&run.rows, &run.categories()));
        summary.extend(depth::lines(&run.rows));
        let claims = claims::check(&run.rows, |experiments| run.command_for(experiments));
        let figures = figures::draw(&summary);
        Self { summary, claims, figures }
    }

    /// Tables and claims for a terminal.
    pub fn text(&self) -> String {
        let columns = ["verdict", "claim", "this run"];
        let columns = columns.map(|name| tables::Column { name: name.to_owned(), numeric: false }).into();
        let measured = self.claims.iter().filter(|finding| finding.value.is_some());
        let rows: Vec<Vec<tables::Cell>> = measured.map(Finding::row).collect();
        let title = "Claims of the paper".to_owned();
        let claims =
            if rows.is_empty() { String::new() } else { Table { title, columns, rows, folded: false }.to_text() };
        format!("{}\n{claims}", tables::text(&self.summary))
    }
}
