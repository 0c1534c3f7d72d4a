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
use std::ops::Range;
use std::rc::Rc;

/// Page tables are as wide as the longest sequence, rounded up to so many pages: steps that decode are alike for a while, so
/// that a device can replay them.
const TABLE: usize = 16;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Finish {
    /// It said a stop token.
    Stop,
    /// `max_new_tokens` are there.
    Length,
    /// The model's context is full.
    Context,
}

/// What was generated.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
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

/// What is there after a forward pass.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// Requests that have ended so far.
    pub finished: usize,
    /// Those of them that ended in this pass.
    pub ended: &'a [usize],
    completions: &'a [Option<Completion>],
}

impl Step<'_> {
    /// The completion of a request that has ended.
    pub fn completion(&self, request: usize) -> &Completion {
        self.completions[request].as_ref().expect("a request that has ended")
    }
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
        Self { seed: 0, max_rows: 128, max_prompt_tokens: 512 }
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
    /// Generates all requests; completions in the order of requests. `progress` is called after each step.
    ///
    /// A row's tokens do not depend on the other requests, on `max_rows` or on `max_prompt_tokens`.
    pub fn generate<D: Ops>(
        &self,
        model: &Transformer<D>,
        requests: &[Request],
        mut progress: impl FnMut(Step<'_>),
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
        let rows = self.max_rows.min(requests.len());
        let pages = rows
            * requests.iter().map(|r| (r.prompt.len() + r.max_new_tokens.min(256)).div_ceil(PAGE)).max().unwrap_or(1);
        let longest = requests.iter().map(|request| request.longest(context)).max().unwrap_or(0);
        let mut lists = Lists::new(&model.device, rows, longest.div_ceil(PAGE).next_multiple_of(TABLE))?;
        let mut run = Run {
            engine: self,
            model,
            requests,
            prompts,
            pool: PagePool::new(model.device.clone(), KvCache::new(model, pages)?),
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
            ended: Vec::with_capacity(rows),
            finished: 0,
        };
        while run.finished < requests.len() {
            run.admit()?;
            if run.finished < requests.len() {
                run.step(&mut lists)?;
            }
            progress(Step { finished: run.finished, ended: &run.ended, completions: &run.completions });
            run.ended.clear();
        }
        let completions = run.completions.into_iter().map(|c| c.expect("every request has finished")).collect();
        Ok((completions, run.stats))
    }
}

impl Request {
    /// Most tokens of its row, prompt and response.
    fn longest(&self, context: usize) -> usize {
        self.prompt.len().saturating_add(self.max_new_tokens).min(context).max(self.prompt.len())
    }

    /// Philox keyed by the seed, at (example, setting and sample, position in the response).
    fn sampling_row<'t>(&self, seed: u64, tokens: &'t [u32]) -> SamplingRow<'t> {
        let position = tokens.len() - (self.prompt.len() - self.prefill);
        let counter = [
            self.example as u32,
            (self.example >> 32) as u32,
            u32::from(self.setting) << 16 | u32::from(self.sample),
            position as u32,
        ];
        let bits = philox4x32_10(counter, [seed as u32, (seed >> 32) as u32])[0];
        SamplingRow { params: self.params, history: tokens, uniform: (bits >> 8) as f32 / (1 << 24) as f32 }
    }
}

/// What a step is made of, on the host and on the device; kept between steps, so that one that only decodes allocates
/// nothing.
struct Lists<D: Ops> {
    ids: Vec<u32>,
    positions: Vec<u32>,
    offsets: Vec<u32>,
    starts: Vec<u32>,
    /// `[tables, max_pages]`.
    pages: Vec<u32>,
    /// Prompt segments: node and number of tokens.
    segments: Vec<(usize, usize)>,
    /// Nodes that this step completes.
    complete: Vec<usize>,
    /// Rows whose logits are wanted: every decoding row, then the ends of prompts.
    wanted: Vec<u32>,
    /// The decoding rows' new tokens.
    chosen: Vec<u32>,
    /// `ids`, `positions` and `wanted` on the device.
    device_ids: D::Indices,
    device_positions: D::Indices,
    device_wanted: D::Indices,
    batch: Paged<D>,
    /// The pass over decoding rows, and their logits.
    decoding: D::Replay<Tensor<D>>,
}

impl<D: Ops> Lists<D> {
    /// With room for `rows` rows of up to `max_pages` pages.
    fn new(device: &D, rows: usize, max_pages: usize) -> Result<Self> {
        let empty = || device.indices(&[]);
        let batch = Paged {
            offsets: empty()?,
            starts: empty()?,
            pages: device.indices(&vec![0; rows * max_pages])?,
            max_pages,
            count: 0,
        };
        Ok(Self {
            ids: Vec::new(),
            positions: Vec::new(),
            offsets: Vec::new(),
            starts: Vec::new(),
            pages: Vec::with_capacity(rows * max_pages),
            segments: Vec::new(),
            complete: Vec::new(),
            wanted: Vec::new(),
            chosen: Vec::new(),
            device_ids: empty()?,
            device_positions: empty()?,
            device_wanted: empty()?,
            batch,
            decoding: D::Replay::default(),
        })
    }

    fn clear(&mut self) {
        for list in [&mut self.ids, &mut self.positions, &mut self.offsets, &mut self.starts, &mut self.pages] {
            list.clear();
        }
        self.segments.clear();
        self.complete.clear();
        self.wanted.clear();
    }

    /// Copies to the device what the forward pass reads.
    fn upload(&mut self, device: &D, max_pages: usize) -> Result<()> {
        device.write_indices(&mut self.device_ids, &self.ids)?;
        device.write_indices(&mut self.device_positions, &self.positions)?;
        device.write_indices(&mut self.batch.offsets, &self.offsets)?;
        device.write_indices(&mut self.batch.starts, &self.starts)?;
        device.write_indices(&mut self.batch.pages, &self.pages)?;
        self.batch.max_pages = max_pages;
        self.batch.count = self.starts.len();
        Ok(())
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
    /// Requests that ended in this step.
    ended: Vec<usize>,
    finished: usize,
    stats: Stats,
}

impl<D: Ops> Run<'_, D> {
    /// Starts waiting requests while there are free rows: samples their first token.
    fn admit(&mut self) -> Result<()> {
        while self.rows.len() < self.engine.max_rows {
            let Some(Waiting { request, node, logits }) = self.waiting.pop() else { break };
            // Room for the whole row at once: growing it allocates nothing.
            let longest = self.requests[request].longest(self.model.config.max_position_embeddings);
            let mut tokens = Vec::with_capacity(longest + 1);
            tokens.extend_from_slice(&self.requests[request].prompt);
            let token = if self.requests[request].max_new_tokens == 0 {
                None
            } else {
                let mut row = Tensor::from_slice(&self.model.device, DType::F32, 1, logits.len(), &logits)?;
                let mut chosen = Vec::with_capacity(1);
                let request = &self.requests[request];
                self.model.device.sample(&mut row, |_| request.sampling_row(self.engine.seed, &tokens), &mut chosen)?;
                Some(chosen[0])
            };
            let mut table = self.fork(node)?;
            table.pages.reserve(longest.div_ceil(PAGE).saturating_sub(table.pages.len()));
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
    fn step(&mut self, lists: &mut Lists<D>) -> Result<()> {
        lists.clear();
        lists.offsets.push(0);
        for row in &mut self.rows {
            self.pool.extend(&mut row.table, 1)?;
            lists.ids.push(row.tokens[row.tokens.len() - 1]);
            lists.positions.push(row.table.length as u32);
            lists.offsets.push(lists.ids.len() as u32);
        }
        // Prompt segments: depth first, while there are rows for the requests they lead to.
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
            lists.ids.extend_from_slice(&self.prompts[self.tree.nodes[node].source][first..first + count]);
            lists.positions.extend((first..first + count).map(|position| position as u32));
            lists.offsets.push(lists.ids.len() as u32);
            budget -= count;
            expected += self.tree.nodes[node].ends.len();
            lists.segments.push((node, count));
        }

        let segment = |&(node, _): &(usize, usize)| self.nodes[node].table.as_ref().expect("started");
        let tables = self.rows.iter().map(|row| &row.table).chain(lists.segments.iter().map(segment));
        let max_pages = tables.clone().map(|table| table.pages.len()).max().unwrap_or(0).next_multiple_of(TABLE);
        for (i, table) in tables.enumerate() {
            lists.starts.push(table.length as u32);
            lists.pages.extend_from_slice(&table.pages);
            lists.pages.resize((i + 1) * max_pages, 0);
        }
        let device = &self.model.device;
        lists.upload(device, max_pages)?;
        if lists.segments.is_empty() && !self.rows.is_empty() {
            return self.decode(lists);
        }
        let tokens = lists.ids.len();
        let hidden = self.model.forward_cached(
            &lists.device_ids,
            &lists.device_positions,
            tokens,
            &lists.batch,
            &mut self.pool.cache,
        )?;
        let decoding = self.rows.len();
        self.stats.steps += 1;
        self.stats.decoded_tokens += decoding;
        self.stats.prompt_tokens += tokens - decoding;

        // Logits of every row, and of every node that is complete and ends a prompt.
        lists.wanted.extend(0..decoding as u32);
        for (i, &(node, count)) in lists.segments.iter().enumerate() {
            let progress = &mut self.nodes[node];
            progress.done += count;
            progress.table.as_mut().expect("started").length += count;
            if progress.done < self.tree.nodes[node].range.len() {
                self.stack.push(node);
            } else {
                lists.complete.push(node);
                if !self.tree.nodes[node].ends.is_empty() {
                    lists.wanted.push(lists.offsets[decoding + i + 1] - 1);
                }
            }
        }
        for row in &mut self.rows {
            row.table.length += 1;
        }
        let wanted = lists.wanted.len();
        if wanted > 0 {
            device.write_indices(&mut lists.device_wanted, &lists.wanted)?;
            let normed = self.model.final_norm(&hidden, &lists.device_wanted, wanted)?;
            if wanted > decoding {
                let ends = self.gather(&normed, decoding..wanted)?;
                self.start(&lists.complete, &ends)?;
            }
            if decoding > 0 {
                let mut logits = if wanted > decoding {
                    self.model.logits(&self.gather(&normed, 0..decoding)?)?
                } else {
                    self.model.logits(&normed)?
                };
                let (rows, requests, seed) = (&self.rows, self.requests, self.engine.seed);
                let row = |i: usize| requests[rows[i].request].sampling_row(seed, &rows[i].tokens);
                device.sample(&mut logits, row, &mut lists.chosen)?;
                for (row, &token) in lists.chosen.iter().enumerate() {
                    self.accept(row, Some(token));
                }
            }
        }
        for &node in &lists.complete {
            self.stack.extend(self.tree.nodes[node].children.iter().rev());
        }
        self.sweep();
        Ok(())
    }

    /// A forward pass of decoding rows alone: the same work as the last one, as long as they are as many.
    fn decode(&mut self, lists: &mut Lists<D>) -> Result<()> {
        let (model, requests, rows) = (self.model, self.requests, self.rows.len());
        lists.wanted.extend(0..rows as u32);
        model.device.write_indices(&mut lists.device_wanted, &lists.wanted)?;
        let Lists { device_ids, device_positions, device_wanted, batch, decoding, chosen, .. } = lists;
        let cache = &mut self.pool.cache;
        let logits = model.device.replay(decoding, [rows, batch.max_pages], || {
            let hidden = model.forward_cached(device_ids, device_positions, rows, batch, cache)?;
            model.logits(&model.final_norm(&hidden, device_wanted, rows)?)
        })?;
        self.stats.steps += 1;
        self.stats.decoded_tokens += rows;
        for row in &mut self.rows {
            row.table.length += 1;
        }
        let (rows, seed) = (&self.rows, self.engine.seed);
        let row = |i: usize| requests[rows[i].request].sampling_row(seed, &rows[i].tokens);
        model.device.sample(logits, row, chosen)?;
        for (row, &token) in lists.chosen.iter().enumerate() {
            self.accept(row, Some(token));
        }
        self.sweep();
        Ok(())
    }

    /// Some rows of a tensor.
    fn gather(&self, x: &Tensor<D>, rows: Range<usize>) -> Result<Tensor<D>> {
        let device = &self.model.device;
        let mut picked = Tensor::empty(device, DType::F32, rows.len(), x.cols())?;
        let rows: Vec<u32> = rows.map(|row| row as u32).collect();
        device.gather_rows(x, &device.indices(&rows)?, &mut picked)?;
        Ok(picked)
    }

    /// Lets the requests wait that end with a complete node; `ends` has the normed row of each such node.
    fn start(&mut self, complete: &[usize], ends: &Tensor<D>) -> Result<()> {
        let logits = self.model.logits(ends)?.to_vec(&self.model.device)?;
        let mut logits = logits.chunks_exact(self.model.config.vocab_size);
        let mut started = Vec::new();
        for &node in complete {
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
        Ok(())
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
        self.ended.push(*request);
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
