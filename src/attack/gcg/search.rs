//! The search: gradient, candidates, the best of them, again.

use super::loss::{self, Batching};
use super::state::{Entry, Point, State};
use super::{Behaviour, Draft, Found, Settings, behaviour, candidates, gradient, probe};
use crate::device::cuda::nvtx;
use crate::generate::branches::BranchStats;
use crate::model::{Config, Transformer, flops};
use crate::ops::Ops;
use crate::rng::{Philox, stream};
use crate::run::{Bar, Cost};
use crate::{Error, Result};
use rayon::prelude::*;
use std::path::Path;

/// Times that a step draws candidates anew when none survives the tokenizer.
const DRAWS: usize = 8;

/// What is attacked, and with which tokens.
pub struct Search<'a, D: Ops> {
    pub model: &'a Transformer<D>,
    /// One, or all that one suffix is to work for.
    pub behaviours: &'a [Behaviour],
    /// Text of the suffix to start from.
    pub init: &'a str,
    /// Tokens a suffix may be made of.
    pub allowed: &'a [u32],
    pub settings: &'a Settings,
    /// A smaller model that says which candidates are worth the attacked model's time; none: all are.
    pub draft: Option<Draft<'a, D>>,
    pub seed: u64,
}

impl<D: Ops> Search<'_, D> {
    /// Runs restart number `restart` to its end, or goes on with the one whose state is in `file`; also what that cost
    /// now.
    ///
    /// The restarts begin with the same suffix and draw other candidates.
    pub fn run(&self, restart: usize, file: Option<&Path>, bar: &Bar) -> Result<(State, Cost)> {
        let (mut state, before) = match file.map(State::read).transpose()?.flatten() {
            Some(state) => (state.clone(), state.cost),
            None => (self.start()?, Cost::default()),
        };
        let draws = Philox::new(self.seed, stream(["gcg", &restart.to_string()]));
        while !state.finished && state.steps() < self.settings.steps {
            note(bar, &state);
            let mut draws = draws.at((state.steps() as u64) << 32);
            self.step(&mut state, &mut draws)?;
            if let Some(file) = file {
                state.write(file)?;
            }
        }
        note(bar, &state);
        let mut finding = Cost::default();
        if state.found.is_none() {
            state.found = Some(self.found(restart, &state, &mut finding)?);
            if let Some(file) = file {
                state.write(file)?;
            }
        }
        let Cost { forward_tokens, trained_tokens, unshared_tokens, flops } = state.cost;
        let mut cost = Cost {
            forward_tokens: forward_tokens - before.forward_tokens,
            trained_tokens: trained_tokens - before.trained_tokens,
            unshared_tokens: unshared_tokens - before.unshared_tokens,
            flops: flops - before.flops,
        };
        cost += finding;
        Ok((state, cost))
    }

    /// The best suffix, with its loss on all behaviours, active or not.
    fn found(&self, restart: usize, state: &State, cost: &mut Cost) -> Result<Found> {
        let tokens = state.best.suffix.clone();
        let loss = self.losses(self.behaviours.len(), &tokens, std::slice::from_ref(&tokens), cost)?.remove(0);
        Ok(Found {
            restart,
            suffix: self.behaviours[0].text(&tokens).expect("a suffix survives its text"),
            tokens,
            loss: loss.mean,
            exact: loss.exact,
            steps: state.steps(),
            flops: state.cost.flops,
        })
    }

    /// The loss of one behaviour alone under a suffix.
    pub fn loss_of(&self, behaviour: &Behaviour, suffix: &[u32], cost: &mut Cost) -> Result<loss::Loss> {
        let candidates = [suffix.to_vec()];
        Ok(self.losses_on(std::slice::from_ref(behaviour), suffix, &candidates, cost)?.remove(0))
    }

    fn start(&self) -> Result<State> {
        let settings = self.settings;
        let suffix = behaviour::initial(self.behaviours, self.init)?;
        if self.allowed.is_empty() {
            return Err(Error::Usage("the tokenizer has no token that a suffix may hold: allow more of them".into()));
        }
        let context = self.model.config.max_position_embeddings;
        let longest = self.behaviours.iter().map(|b| b.prompt(&suffix).len() + b.target.len()).max().unwrap_or(0);
        if longest > context {
            return Err(Error::Usage(format!(
                "a prompt with suffix and target has {longest} tokens, more than the model's context of {context}: shorten it"
            )));
        }
        let active = if settings.progressive { 1 } else { self.behaviours.len() };
        let mut cost = Cost::default();
        let losses = self.losses(active, &suffix, std::slice::from_ref(&suffix), &mut cost)?;
        let point = Point { loss: losses[0].mean, exact: losses[0].exact, active, suffix: suffix.clone() };
        let entry = Entry { loss: point.loss, suffix: suffix.clone() };
        Ok(State {
            active,
            buffer: if settings.buffer > 0 { vec![entry] } else { Vec::new() },
            momentum: Vec::new(),
            curve: vec![point.clone()],
            finished: settings.early_stop && point.exact == self.behaviours.len(),
            best: point,
            suffix,
            cost,
            found: None,
        })
    }

    fn step(&self, state: &mut State, draws: &mut Philox) -> Result<()> {
        let _range = nvtx::range(c"gcg step");
        let settings = self.settings;
        let rows = self.rows(state)?;
        let gradient = gradient::of_tokens(self.model, &rows)?;
        let best = candidates::best_tokens(&gradient, self.model.config.vocab_size, self.allowed, settings.top_k);
        let candidates = self.draw(&state.suffix, &best, draws)?;
        let (candidates, losses) = match &self.draft {
            None => {
                let losses = self.losses(state.active, &state.suffix, &candidates, &mut state.cost)?;
                (candidates, losses)
            }
            Some(draft) => self.probed(draft, state, candidates, draws)?,
        };

        // Where reaching the targets is what counts, a candidate that does is better than any loss.
        let reached = |i: &usize| losses[*i].exact == state.active;
        let all = 0..candidates.len();
        let stops = settings.early_stop || state.active < self.behaviours.len();
        let among: Vec<usize> =
            if stops && all.clone().any(|i| reached(&i)) { all.filter(reached).collect() } else { all.collect() };
        let chosen = among.into_iter().min_by(|&a, &b| losses[a].mean.total_cmp(&losses[b].mean)).expect("drawn above");
        let (loss, suffix) = (&losses[chosen], candidates[chosen].clone());
        if !loss.mean.is_finite() {
            return Err(Error::Device("the model's loss on the target is not a number: are its weights whole".into()));
        }
        let point = Point { loss: loss.mean, exact: loss.exact, active: state.active, suffix: suffix.clone() };
        if point.better_than(&state.best) {
            state.best = point.clone();
        }
        let reached = loss.exact == state.active;
        state.suffix = if settings.buffer == 0 || (reached && stops) {
            suffix
        } else {
            keep(&mut state.buffer, settings.buffer, Entry { loss: loss.mean, suffix });
            state.buffer[0].suffix.clone()
        };
        if reached && state.active < self.behaviours.len() {
            state.active += 1;
            // Losses over more behaviours are no longer comparable.
            state.buffer.clear();
        } else if reached && settings.early_stop {
            state.finished = true;
        }
        state.curve.push(point);
        Ok(())
    }

    /// The gradient's rows, with momentum where it is on: `m <- mu m + (1 - mu) g` (Zhang and Wei 2024).
    fn rows(&self, state: &mut State) -> Result<Vec<f32>> {
        let active = &self.behaviours[..state.active];
        let rows = gradient::of_rows(self.model, active, &state.suffix)?;
        state.cost += gradient_cost(&self.model.config, active, state.suffix.len());
        let mu = self.settings.momentum;
        if mu == 0.0 {
            return Ok(rows);
        }
        // The rows decay in place of the one-hot gradient, which is linear in them.
        if state.momentum.is_empty() {
            state.momentum = rows;
        } else {
            state.momentum.iter_mut().zip(&rows).for_each(|(m, g)| *m = mu * *m + (1.0 - mu) * g);
        }
        Ok(state.momentum.clone())
    }

    /// Candidates that come back from their text in every prompt.
    fn draw(&self, suffix: &[u32], best: &[Vec<u32>], draws: &mut Philox) -> Result<Vec<Vec<u32>>> {
        for _ in 0..DRAWS {
            let drawn = candidates::swapped(suffix, best, self.settings.candidates, draws);
            let survives = |candidate: &Vec<u32>| self.behaviours.iter().all(|b| b.text(candidate).is_some());
            let survivors: Vec<Vec<u32>> = drawn.into_par_iter().filter(survives).collect();
            if !survivors.is_empty() {
                return Ok(survivors);
            }
        }
        Err(Error::Usage(
            "no candidate keeps its tokens when its text is put into the chat: start from another --init".into(),
        ))
    }

    /// Those of the candidates that probe sampling asks the attacked model for, and their losses on it.
    fn probed(
        &self,
        draft: &Draft<'_, D>,
        state: &mut State,
        candidates: Vec<Vec<u32>>,
        draws: &mut Philox,
    ) -> Result<(Vec<Vec<u32>>, Vec<loss::Loss>)> {
        let active = state.active;
        let behaviours = &draft.behaviours[..active];
        let text = |suffix: &[u32]| self.behaviours[0].text(suffix).expect("a suffix survives its text");
        let current = text(&state.suffix);
        let trunk = |behaviour: &Behaviour| {
            let parts = behaviour.frame.parts(&current)?;
            Ok([parts.before, parts.suffix].concat())
        };
        let trunks: Vec<Vec<u32>> = behaviours.iter().map(trunk).collect::<Result<_>>()?;
        let prompts = |candidate: &Vec<u32>| -> Result<Vec<Vec<u32>>> {
            let text = text(candidate);
            behaviours.iter().map(|behaviour| behaviour.frame.prompt(&text)).collect()
        };
        let all: Vec<Vec<Vec<u32>>> = candidates.par_iter().map(prompts).collect::<Result<_>>()?;
        let (scored, stats) = loss::of_prompts(draft.model, behaviours, &trunks, all.concat(), self.batching())?;
        state.cost += candidate_cost(&draft.model.config, stats);
        let guessed: Vec<f64> = scored.iter().map(|loss| loss.mean).collect();

        let pick = |indices: &[usize]| -> Vec<Vec<u32>> { indices.iter().map(|&i| candidates[i].clone()).collect() };
        let probed = draft.probe(candidates.len(), draws);
        let mut asked = pick(&probed);
        let mut losses = self.losses(active, &state.suffix, &asked, &mut state.cost)?;
        let [known, draft_known]: [Vec<f64>; 2] =
            [losses.iter().map(|loss| loss.mean).collect(), probed.iter().map(|&i| guessed[i]).collect()];
        let mut kept = draft.kept(&guessed, probe::agreement(&known, &draft_known));
        kept.retain(|i| !probed.contains(i));
        let kept = pick(&kept);
        if !kept.is_empty() {
            losses.extend(self.losses(active, &state.suffix, &kept, &mut state.cost)?);
            asked.extend(kept);
        }
        Ok((asked, losses))
    }

    fn losses(
        &self,
        active: usize,
        current: &[u32],
        candidates: &[Vec<u32>],
        cost: &mut Cost,
    ) -> Result<Vec<loss::Loss>> {
        self.losses_on(&self.behaviours[..active], current, candidates, cost)
    }

    fn losses_on(
        &self,
        behaviours: &[Behaviour],
        current: &[u32],
        candidates: &[Vec<u32>],
        cost: &mut Cost,
    ) -> Result<Vec<loss::Loss>> {
        let (losses, stats) = loss::of_candidates(self.model, behaviours, current, candidates, self.batching())?;
        *cost += candidate_cost(&self.model.config, stats);
        Ok(losses)
    }

    fn batching(&self) -> Batching {
        let Settings { batch_tokens, prefix_cache, .. } = *self.settings;
        Batching { tokens: batch_tokens, prefix_cache }
    }
}

/// Puts a suffix into a buffer of at most `size` if it is not worse than all there.
fn keep(buffer: &mut Vec<Entry>, size: usize, entry: Entry) {
    if buffer.len() < size {
        buffer.push(entry);
    } else if let Some(worst) = buffer.last_mut()
        && entry.loss < worst.loss
    {
        *worst = entry;
    }
    buffer.sort_by(|a, b| a.loss.total_cmp(&b.loss));
}

fn note(bar: &Bar, state: &State) {
    bar.set(state.steps());
    let Point { loss, exact, active, .. } = state.curve.last().expect("a curve has its start");
    bar.note(format!("loss {loss:.3}, best {:.3}, {exact} of {active} exact", state.best.loss));
}

fn candidate_cost(config: &Config, stats: BranchStats) -> Cost {
    Cost {
        forward_tokens: stats.tokens as u64,
        unshared_tokens: stats.unshared_tokens as u64,
        flops: flops::forward(config, stats.tokens, stats.labels),
        ..Cost::default()
    }
}

/// Forward and, of the backward pass, the gradients of inputs alone; the vocabulary's logits are made twice and
/// multiplied once; then a row of the vocabulary's size for each suffix token.
fn gradient_cost(config: &Config, behaviours: &[Behaviour], suffix: usize) -> Cost {
    let tokens: usize = behaviours.iter().map(|b| b.prompt_len(suffix) + b.target.len() - 1).sum();
    let labels: usize = behaviours.iter().map(|b| b.target.len()).sum();
    Cost {
        trained_tokens: tokens as u64,
        flops: 2.0 * flops::layers(config) * tokens as f64 + flops::vocabulary(config) * (3 * labels + suffix) as f64,
        ..Cost::default()
    }
}
