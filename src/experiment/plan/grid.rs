//! E7 to E10 of a plan: which sets each model is tuned on, by which methods, and what it is asked then.

use super::Plan;
use crate::Result;
use crate::attack::finetune::{self, Tuning};
use crate::attack::{Case, Subject};
use crate::experiment::finetuning_grid::{self, Column, Start};
use crate::experiment::materials::{FinetuningKind, Task};
use crate::experiment::{Materials, over_refusal};
use crate::ops::Ops;
use crate::run::RunFolder;
use crate::train::Stage;
use std::time::Instant;

/// A set that models are tuned on, what they are asked then, and the tables that have it.
pub(super) struct Target<'a> {
    pub tuning: Tuning<'a>,
    asked: Vec<(&'a str, &'a [Case])>,
    tables: &'static [&'static str],
}

impl Target<'_> {
    pub fn wants(&self, column: &Column) -> bool {
        self.tables.contains(&column.experiment)
    }
}

impl<D: Ops> Plan<'_, D> {
    /// The columns of E7 to E10 and of the sweep that tune this model.
    pub(super) fn columns(&self, from: Start) -> Vec<Column> {
        let mut columns: Vec<Column> = Vec::new();
        for (name, table) in [
            ("e7", finetuning_grid::constrained_finetuning()),
            ("e8", finetuning_grid::beta_ablation(&self.settings.betas)),
            ("e9", finetuning_grid::warmup()),
            ("e10", finetuning_grid::augmented_finetuning()),
            ("sweep", finetuning_grid::rate_sweep(&self.settings.sweep_rates)),
        ] {
            if self.asked(&[name]) {
                columns.extend(table.into_iter().filter(|column| column.start == from));
            }
        }
        columns
    }

    /// What a model that is tuned on a benign task is asked: what it should refuse, and the task.
    pub(super) fn asked_of_task<'a>(&'a self, task: &'a Task) -> [(&'a str, &'a [Case]); 2] {
        [&self.materials.cases, &task.test].map(|cases| (task.name.as_str(), &cases[..]))
    }

    fn task_target<'a>(&'a self, task: &'a Task, stage: Stage, tables: &'static [&'static str]) -> Target<'a> {
        let tuning = Tuning { name: &task.name, examples: &task.train, stage };
        Target { tuning, asked: self.asked_of_task(task).into(), tables }
    }

    /// What this model is tuned on.
    pub(super) fn targets(&self, from: Start) -> Vec<Target<'_>> {
        let Materials { cases, harmful, attacks, tasks, stand_ins, .. } = self.materials;
        let settings = self.settings;
        let mut targets = Vec::new();
        if !harmful.is_empty() {
            let tuning = Tuning { name: "harmful", examples: harmful, stage: settings.harmful };
            targets.push(Target {
                tuning,
                asked: vec![("harmful", cases)],
                tables: &["e7", "e8", "e9", "e10", "sweep"],
            });
        }
        if from == Start::Aligned {
            targets.extend(attacks.iter().map(|attack| {
                let stage = match attack.kind {
                    FinetuningKind::Identity => settings.identity,
                    FinetuningKind::Backdoor => settings.backdoor,
                };
                let tuning = Tuning { name: attack.kind.name(), examples: &attack.train, stage };
                Target { tuning, asked: attack.asked().collect(), tables: &["e7"] }
            }));
        }
        let tables: &[&str] =
            if settings.all_tasks { &["e7", "e8", "e9", "e10", "sweep"] } else { &["e7", "e8", "sweep"] };
        targets.extend(tasks.iter().map(|task| self.task_target(task, settings.task, tables)));
        targets.extend(stand_ins.iter().map(|task| self.task_target(task, settings.stand_in, &["e7"])));
        targets
    }

    pub(super) fn grid_cell(&self, start: &str, tuning: &Tuning<'_>, column: &Column) -> String {
        self.cell_name(&format!("tune {start} on {} by {}", tuning.name, column.method.name))
    }

    /// E7 to E10: every (data, method) that a column wants, once.
    pub(super) fn grid(&self, folder: &mut RunFolder, start: &Subject<'_, D>, from: Start) -> Result<()> {
        let columns = self.columns(from);
        if columns.is_empty() {
            return Ok(());
        }
        let targets = self.targets(from);
        self.needs("e7 to e10", "harmful pairs or a benign task to tune on", targets.is_empty())?;
        for target in &targets {
            let tuning = &target.tuning;
            let columns: Vec<&Column> = columns.iter().filter(|column| target.wants(column)).collect();
            let mut reference = None;
            let mut done: Vec<&finetune::Method> = Vec::new();
            for &column in &columns {
                if done.contains(&&column.method) {
                    continue;
                }
                done.push(&column.method);
                let wanted: Vec<&Column> =
                    columns.iter().copied().filter(|other| other.method == column.method).collect();
                let cell = self.grid_cell(start.name, tuning, column);
                if folder.is_done(&cell) {
                    continue;
                }
                if reference.is_none() && column.method.betas.is_some() {
                    let begin = Instant::now();
                    let (scores, cost) = finetune::reference(&self.lab, start.model, tuning.examples)?;
                    let stage = self.cell_name(&format!("reference of {} on {}", start.name, tuning.name));
                    folder.note_time(&stage, begin.elapsed().as_secs_f64(), cost)?;
                    reference = Some(scores);
                }
                let reference = reference.as_deref().unwrap_or_default();
                // E7's models are asked harmless prompts too.
                let setting = format!("{} on {}", column.method.name, tuning.name);
                let beside = self.asked(&["overrefusal"]) && wanted.iter().any(|column| column.experiment == "e7");
                let beside = if beside { over_refusal::branches(self.materials, &setting) } else { Vec::new() };
                folder.cell(&cell, || {
                    finetuning_grid::run(
                        &self.lab,
                        start,
                        tuning,
                        reference,
                        &column.method,
                        self.settings.warmup_steps,
                        &wanted,
                        &target.asked,
                        &beside,
                    )
                })?;
            }
        }
        Ok(())
    }
}
