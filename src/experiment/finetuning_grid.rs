//! E7 to E10: models tuned on harmful pairs and on benign tasks by standard and by constrained fine-tuning, each trained
//! once however many tables want it.
//!
//! | table | rows |
//! |---|---|
//! | E7, Table 4: constrained against standard | [`constrained_finetuning`] |
//! | E8, Table 8: which beta | [`beta_ablation`] |
//! | E9, Table 9: warm-up | [`warmup`] |
//! | E10, Table 10: the augmented model | [`augmented_finetuning`] |
//! | sweep: learning rate by warm-up | [`rate_sweep`] |

use crate::Result;
use crate::attack::finetune::{Method, Tuning, finetune};
use crate::attack::{Branch, Case, Lab, Subject, respond};
use crate::ops::Ops;
use crate::run::Findings;
use crate::train::BetaSchedule;
use crate::train::Trainer;

/// Which model is tuned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    Aligned,
    Augmented,
}

/// One column of one table: how it tunes, and what its rows are called.
pub struct Column {
    pub experiment: &'static str,
    pub setting: String,
    pub start: Start,
    pub method: Method,
}

fn column(experiment: &'static str, setting: &str, start: Start, method: Method) -> Column {
    Column { experiment, setting: setting.into(), start, method }
}

/// E7: warm-up for constrained fine-tuning only, as the paper has it.
pub fn constrained_finetuning() -> Vec<Column> {
    vec![
        column("e7", "sft", Start::Aligned, Method::sft(false)),
        column("e7", "constrained", Start::Aligned, Method::constrained(BetaSchedule::Paper, true)),
    ]
}

/// E8's schedules: Table 8's, and the two biased ones.
pub const BETAS: [BetaSchedule; 5] = [
    BetaSchedule::Uniform(0.1),
    BetaSchedule::Uniform(0.5),
    BetaSchedule::Uniform(2.0),
    BetaSchedule::Paper,
    BetaSchedule::Slides,
];

/// E8.
pub fn beta_ablation(betas: &[BetaSchedule]) -> Vec<Column> {
    let method = |&betas| column("e8", &String::from(betas), Start::Aligned, Method::constrained(betas, true));
    betas.iter().map(method).collect()
}

fn four(experiment: &'static str, start: Start) -> Vec<Column> {
    let constrained = |warmup| Method::constrained(BetaSchedule::Paper, warmup);
    vec![
        column(experiment, "sft", start, Method::sft(false)),
        column(experiment, "sft+warmup", start, Method::sft(true)),
        column(experiment, "constrained", start, constrained(false)),
        column(experiment, "constrained+warmup", start, constrained(true)),
    ]
}

/// E9.
pub fn warmup() -> Vec<Column> {
    four("e9", Start::Aligned)
}

/// E10.
pub fn augmented_finetuning() -> Vec<Column> {
    four("e10", Start::Augmented)
}

/// The four of E9 at each factor on the learning rate (beyond the paper); those at 1 are E9's own, trained once for both.
pub fn rate_sweep(rates: &[f32]) -> Vec<Column> {
    let at = |&rate: &f32| {
        four("sweep", Start::Aligned).into_iter().map(move |column| Column {
            setting: format!("{} at lr x{rate}", column.setting),
            method: column.method.at_rate(rate),
            ..column
        })
    };
    rates.iter().flat_map(at).collect()
}

/// Tunes once, asks what is `asked`, and gives the rows of every column in `wanted`: `EXPERIMENT,model,DATA,SETTING,,seed,example,harmful` and
/// the benign task's `utility`; then those of the branches `beside`. Adam's beta1 is 0.5, the paper's.
#[allow(clippy::too_many_arguments)]
pub fn run<D: Ops>(
    lab: &Lab<'_>,
    start: &Subject<'_, D>,
    tuning: &Tuning<'_>,
    reference: &[Vec<f32>],
    method: &Method,
    warmup_steps: usize,
    wanted: &[&Column],
    asked: &[(&str, &[Case])],
    beside: &[Branch<'_>],
) -> Result<Findings> {
    let mut stage = tuning.stage;
    stage.lr *= method.rate;
    stage.warmup_steps = if method.warmup { warmup_steps } else { 0 };
    let label = format!("{} on {} by {}", start.name, tuning.name, method.name);
    let mut trainer = Trainer::new(start.model.try_clone()?.into_owned(None)?, stage.hyper)?;
    let tuning = Tuning { name: tuning.name, examples: tuning.examples, stage };
    let cost = finetune(lab, &mut trainer, &tuning, method.objective(), reference, &label, |_, _| Ok(()))?;
    let mut findings = Findings { cost, ..Findings::default() };
    let tuned = Subject { name: start.name, model: &trainer.model, side: start.side };
    let branches = branches(asked);
    let (outcomes, cost) = respond(lab, &tuned, &[&branches[..], beside].concat(), &label)?;
    findings.cost += cost;
    for (branch, outcome) in beside.iter().zip(&outcomes[branches.len()..]) {
        findings.rows.extend(outcome.rows(lab, start.name, branch));
    }
    for column in wanted {
        for (branch, outcome) in branches.iter().zip(&outcomes) {
            let branch = Branch { experiment: column.experiment, setting: column.setting.clone(), ..branch.clone() };
            findings.rows.extend(outcome.rows(lab, start.name, &branch));
        }
    }
    Ok(findings)
}

/// What is asked of a tuned model, or of one before it is tuned: cases, by what rows call the data.
pub fn branches<'a>(asked: &[(&str, &'a [Case])]) -> Vec<Branch<'a>> {
    let mut branches = Vec::new();
    for (data, cases) in asked {
        let branch = |case| Branch { setting: "initial".into(), ..Branch::plain("e7", *data, case) };
        branches.extend(cases.iter().map(branch));
    }
    branches
}
