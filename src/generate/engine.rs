//! The scheduler: one forward pass a step, made of every active row's next token and as many prompt tokens as fit.

use super::pages::{PagePool, PageTable};
use super::tree::PrefixTree;
use crate::device::{DType, Tensor};
use crate::model::Transformer;
use crate::model::transformer::KvCache;
use crate::ops::Ops;
use crate::ops::attention::{PAGE, Paged};
use crate::ops::sampling::{SamplingParams, SamplingRow};
use crate::rng::philox4x32_10;
use crate::{Error, Result};
use std::rc::Rc;

/// One continuation to generate.
#[derive(Clone, Debug)]
pub struct Request {
    /// Hash of the example's id: with `setting` and `sample` it names this row's random numbers.
    pub example: u64,
    pub setting: u16,
    pub sample: u16,
    /// Prompt and prefill, as tokens; at least one.
    pub prompt: Vec<u32>,
    /// How many of `prompt`'s last tokens are a prefill of the response (positions count from the response's start).
    pub prefill: usize,
    pub params: SamplingParams,
    pub max_new_tokens: usize,
    /// Tokens that end the response; kept as its last token.
    pub stop: Vec<u32>,
}

/// Why a row ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// It said a stop token.
    Stop,
    /// `max_new_tokens` are there.
    Length,
    /// The model's context is full.
    Context,
}

/// What was generated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// New tokens, a stop token included.
    pub tokens: Vec<u32>,
    pub finish: Finish,
}

/// What a run cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Distinct positions of distinct prompt prefixes: the least a run can compute.
    pub prefix_positions: usize,
    /// Prompt tokens that went through the model; equal to `prefix_positions`.
    pub prompt_tokens: usize,
    /// Tokens fed back while decoding.
    pub decoded_tokens: usize,
    /// Forward passes.
    pub steps: usize,
}

/// Generation settings that do not change what is generated, and the seed that does.
#[derive(Clone, Copy, Debug)]
pub struct Engine {
    pub seed: u64,
    /// Rows decoded together.
    pub max_rows: usize,
    /// Prompt tokens in one forward pass, about.
    pub max_prompt_tokens: usize,
}

impl Default for Engine {
    fn default() -> Self {
        Self { seed: 0, max_rows: 64, max_prompt_tokens: 512 }
    }
}

/// A row that is being decoded.
struct Row {
    request: usize,
    table: PageTable,
    /// Prompt and output; the last token is not in the cache yet.
    tokens: Vec<u32>,
}

/// A request whose prompt is computed and whose first token is to be sampled.
struct Waiting {
    request: usize,
    node: usize,
    logits: Rc<Vec<f32>>,
}

/// A tree node on its way through the model.
#[derive(Default)]
struct Progress {
    /// `None` before the node is started and after the last user of its pages.
    table: Option<PageTable>,
    /// Tokens of the node already computed.
    done: usize,
    /// Children and requests that have yet to fork from this node.
    users: usize,
}

impl Engine {
    /// Generates all requests; completions in the order of requests. `progress(finished)` is called after each step.
    ///
    /// A row's tokens do not depend on the other requests, on `max_rows` or on `max_prompt_tokens`.
    pub fn generate<D: Ops>(
        &self,
        model: &Transformer<D>,
        requests: &[Request],
        mut progress: impl FnMut(usize),
    ) -> Result<(Vec<Completion>, Stats)> {
        assert!(self.max_rows > 0, "at least one row is decoded at a time");
        let context = model.config.max_position_embeddings;
        for request in requests {
            if request.prompt.is_empty() {
                return Err(Error::Usage("a prompt has no tokens: give it some text".into()));
            }
            if request.prompt.len() > context {
                return Err(Error::Usage(format!(
                    "a prompt has {} tokens, more than the model's context of {context}: shorten it",
                    request.prompt.len()
                )));
            }
            if let Some(id) = request.prompt.iter().find(|&&id| id as usize >= model.config.vocab_size) {
                return Err(Error::Usage(format!(
                    "token {id} is outside of the model's vocabulary of {}: does the tokenizer match the model?",
                    model.config.vocab_size
                )));
            }
        }
        let prompts: Vec<&[u32]> = requests.iter().map(|request| request.prompt.as_slice()).collect();
        let tree = PrefixTree::new(&prompts);
        let pages = self.max_rows.min(requests.len())
            * requests.iter().map(|r| (r.prompt.len() + r.max_new_tokens.min(256)).div_ceil(PAGE)).max().unwrap_or(1);
        let mut run = Run {
            engine: self,
            model,
            requests,
            prompts,
            pool: PagePool::new(model.device.clone(), KvCache::new(&model.device, &model.config, pages)?),
            nodes: tree
                .nodes
                .iter()
                .map(|node| Progress { users: node.children.len() + node.ends.len(), ..Progress::default() })
                .collect(),
            stack: tree.roots.iter().rev().copied().collect(),
            stats: Stats { prefix_positions: tree.positions(), ..Stats::default() },
            tree,
            waiting: Vec::new(),
            rows: Vec::new(),
            completions: vec![None; requests.len()],
            finished: 0,
        };
        while run.finished < requests.len() {
            run.admit()?;
            if run.finished < requests.len() {
                run.step()?;
            }
            progress(run.finished);
        }
        let completions = run.completions.into_iter().map(|c| c.expect("every request has finished")).collect();
        Ok((completions, run.stats))
    }
}

/// The state of one call of [`Engine::generate`].
struct Run<'a, D: Ops> {
    engine: &'a Engine,
    model: &'a Transformer<D>,
    requests: &'a [Request],
    prompts: Vec<&'a [u32]>,
    pool: PagePool<D>,
    tree: PrefixTree,
    nodes: Vec<Progress>,
    /// Nodes whose parent is computed, the next on top: depth first, so that pages are freed early.
    stack: Vec<usize>,
    /// In the order they should start, the next last.
    waiting: Vec<Waiting>,
    rows: Vec<Row>,
    completions: Vec<Option<Completion>>,
    finished: usize,
    stats: Stats,
}

impl<D: Ops> Run<'_, D> {
    /// Starts waiting requests while there are free rows: samples their first token.
    fn admit(&mut self) -> Result<()> {
        while self.rows.len() < self.engine.max_rows {
            let Some(Waiting { request, node, logits }) = self.waiting.pop() else { break };
            let tokens = self.requests[request].prompt.clone();
            let token = if self.requests[request].max_new_tokens == 0 {
                None
            } else {
                let mut row = Tensor::from_slice(&self.model.device, DType::F32, 1, logits.len(), &logits)?;
                let mut chosen = Vec::with_capacity(1);
                let sampling = self.sampling_row(request, &tokens);
                self.model.device.sample(&mut row, &[sampling], &mut chosen)?;
                Some(chosen[0])
            };
            let table = self.fork(node)?;
            self.rows.push(Row { request, table, tokens });
            self.accept(self.rows.len() - 1, token);
            self.sweep();
        }
        Ok(())
    }

    /// Shares a node's pages with a child or a row; the last user takes them over.
    fn fork(&mut self, node: usize) -> Result<PageTable> {
        let progress = &mut self.nodes[node];
        let table = progress.table.take().expect("a computed node holds its pages");
        progress.users -= 1;
        if progress.users == 0 {
            return Ok(table);
        }
        let fork = self.pool.fork(&table)?;
        progress.table = Some(table);
        Ok(fork)
    }

    /// One forward pass.
    fn step(&mut self) -> Result<()> {
        let (mut ids, mut positions, mut offsets) = (Vec::new(), Vec::new(), vec![0]);
        for row in &mut self.rows {
            self.pool.extend(&mut row.table, 1)?;
            ids.push(row.tokens[row.tokens.len() - 1]);
            positions.push(row.table.length as u32);
            offsets.push(ids.len() as u32);
        }
        // Prompt segments: depth first, while there are rows for the requests they lead to.
        let mut segments = Vec::new();
        let mut budget = self.engine.max_prompt_tokens.max(1);
        let mut expected = self.rows.len() + self.waiting.len();
        while budget > 0 && expected < self.engine.max_rows {
            let Some(node) = self.stack.pop() else { break };
            if self.nodes[node].table.is_none() {
                let table = match self.tree.nodes[node].parent {
                    Some(parent) => self.fork(parent)?,
                    None => PageTable::default(),
                };
                self.nodes[node].table = Some(table);
            }
            let range = self.tree.nodes[node].range.clone();
            let first = range.start + self.nodes[node].done;
            let count = (range.end - first).min(budget);
            let table = self.nodes[node].table.as_mut().expect("set above");
            self.pool.extend(table, count)?;
            ids.extend_from_slice(&self.prompts[self.tree.nodes[node].source][first..first + count]);
            positions.extend((first..first + count).map(|position| position as u32));
            offsets.push(ids.len() as u32);
            budget -= count;
            expected += self.tree.nodes[node].ends.len();
            segments.push((node, count));
        }

        let tables: Vec<&PageTable> = self
            .rows
            .iter()
            .map(|row| &row.table)
            .chain(segments.iter().map(|&(node, _)| self.nodes[node].table.as_ref().expect("started")))
            .collect();
        let max_pages = tables.iter().map(|table| table.pages.len()).max().unwrap_or(0);
        let mut pages = vec![0; tables.len() * max_pages];
        for (row, table) in pages.chunks_mut(max_pages.max(1)).zip(&tables) {
            row[..table.pages.len()].copy_from_slice(&table.pages);
        }
        let device = &self.model.device;
        let batch = Paged {
            offsets: device.indices(&offsets)?,
            starts: device.indices(&tables.iter().map(|table| table.length as u32).collect::<Vec<_>>())?,
            pages: device.indices(&pages)?,
            max_pages,
            count: tables.len(),
        };
        let hidden = self.model.forward_cached(
            &device.indices(&ids)?,
            &device.indices(&positions)?,
            ids.len(),
            &batch,
            &mut self.pool.cache,
        )?;
        self.stats.steps += 1;
        self.stats.decoded_tokens += self.rows.len();
        self.stats.prompt_tokens += ids.len() - self.rows.len();

        // Logits of every row, and of every node that is complete and ends a prompt.
        let decoding = self.rows.len();
        let mut wanted: Vec<u32> = (0..decoding as u32).collect();
        let mut complete = Vec::new();
        for (i, &(node, count)) in segments.iter().enumerate() {
            let progress = &mut self.nodes[node];
            progress.done += count;
            progress.table.as_mut().expect("started").length += count;
            if progress.done < self.tree.nodes[node].range.len() {
                self.stack.push(node);
            } else {
                complete.push(node);
                if !self.tree.nodes[node].ends.is_empty() {
                    wanted.push(offsets[decoding + i + 1] - 1);
                }
            }
        }
        for row in &mut self.rows {
            row.table.length += 1;
        }
        if !wanted.is_empty() {
            let normed = self.model.final_norm(&hidden, &device.indices(&wanted)?, wanted.len())?;
            if wanted.len() > decoding {
                let rows: Vec<u32> = (decoding as u32..wanted.len() as u32).collect();
                let mut ends = Tensor::empty(device, DType::F32, rows.len(), self.model.config.hidden_size)?;
                device.gather_rows(&normed, &device.indices(&rows)?, &mut ends)?;
                let logits = self.model.logits(&ends)?.to_vec(device)?;
                let mut logits = logits.chunks_exact(self.model.config.vocab_size);
                let mut started = Vec::new();
                for &node in &complete {
                    if self.tree.nodes[node].ends.is_empty() {
                        continue;
                    }
                    let logits = Rc::new(logits.next().expect("a row a prompt's end").to_vec());
                    for &request in &self.tree.nodes[node].ends {
                        started.push(Waiting { request, node, logits: Rc::clone(&logits) });
                    }
                }
                started.reverse();
                started.append(&mut self.waiting);
                self.waiting = started;
            }
            if decoding > 0 {
                let rows: Vec<u32> = (0..decoding as u32).collect();
                let mut current = Tensor::empty(device, DType::F32, decoding, self.model.config.hidden_size)?;
                device.gather_rows(&normed, &device.indices(&rows)?, &mut current)?;
                let mut logits = self.model.logits(&current)?;
                let sampling: Vec<SamplingRow<'_>> =
                    self.rows.iter().map(|row| self.sampling_row(row.request, &row.tokens)).collect();
                let mut chosen = Vec::with_capacity(decoding);
                device.sample(&mut logits, &sampling, &mut chosen)?;
                for (row, token) in chosen.into_iter().enumerate() {
                    self.accept(row, Some(token));
                }
            }
        }
        for node in complete {
            let children = self.tree.nodes[node].children.iter().rev();
            self.stack.extend(children);
        }
        self.sweep();
        Ok(())
    }

    /// Philox keyed by the seed, at (example, setting and sample, position in the response).
    fn sampling_row<'t>(&self, request: usize, tokens: &'t [u32]) -> SamplingRow<'t> {
        let request = &self.requests[request];
        let position = tokens.len() - (request.prompt.len() - request.prefill);
        let counter = [
            request.example as u32,
            (request.example >> 32) as u32,
            u32::from(request.setting) << 16 | u32::from(request.sample),
            position as u32,
        ];
        let key = [self.engine.seed as u32, (self.engine.seed >> 32) as u32];
        let bits = philox4x32_10(counter, key)[0];
        SamplingRow { params: request.params, history: tokens, uniform: (bits >> 8) as f32 / (1 << 24) as f32 }
    }

    /// Appends a token to a row and notes whether that ends it.
    fn accept(&mut self, row: usize, token: Option<u32>) {
        let Row { request, tokens, .. } = &mut self.rows[row];
        let spec = &self.requests[*request];
        tokens.extend(token);
        let new = tokens.len() - spec.prompt.len();
        let finish = if token.is_some_and(|token| spec.stop.contains(&token)) {
            Finish::Stop
        } else if new >= spec.max_new_tokens {
            Finish::Length
        } else if tokens.len() >= self.model.config.max_position_embeddings {
            Finish::Context
        } else {
            return;
        };
        self.completions[*request] = Some(Completion { tokens: tokens[spec.prompt.len()..].to_vec(), finish });
        self.finished += 1;
    }

    /// Frees the rows that have ended.
    fn sweep(&mut self) {
        let mut row = 0;
        while row < self.rows.len() {
            if self.completions[self.rows[row].request].is_some() {
                let ended = self.rows.remove(row);
                self.pool.release(ended.table);
            } else {
                row += 1;
            }
        }
    }
}
