//! Log-probabilities of given continuations of many sequences that begin alike: what they share goes through the model
//! once, and no logits are kept.
//!
//! A trunk is a sequence that many branches leave, each at a position of its own: GCG's candidates differ from the
//! current suffix in one token, and everything before that token is the trunk's.

use super::pages::{PagePool, PageTable, pass};
use crate::Result;
use crate::device::{DType, Tensor};
use crate::model::Transformer;
use crate::model::passes::token_batches;
use crate::model::transformer::KvCache;
use crate::ops::Ops;
use crate::ops::attention::PAGE;
use crate::ops::linear_ce::CeOutput;

/// A sequence that leaves a trunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Branch {
    /// Index of its trunk.
    pub trunk: usize,
    /// Positions that are the trunk's, fewer than the branch has before its first label.
    pub shared: usize,
    /// All that follows, the labels last.
    pub tokens: Vec<u32>,
    /// How many of the last tokens are labels.
    pub labels: usize,
}

/// What the model says of a branch's labels.
#[derive(Clone, Debug, PartialEq)]
pub struct BranchScore {
    /// Natural log of each label's probability.
    pub logprob: Vec<f32>,
    /// Whether no token is more likely than the label, at every label: greedy decoding would say them.
    pub exact: bool,
}

/// What scoring cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BranchStats {
    /// Tokens that went through the model.
    pub tokens: usize,
    /// Tokens that whole sequences would have put through it.
    pub unshared_tokens: usize,
    /// Rows that the vocabulary was scored for.
    pub labels: usize,
}

/// Rows of a pass that lie in a cache, and which of them predict a label.
struct Segment<'a> {
    table: PageTable,
    tokens: &'a [u32],
    /// The first row that predicts a label, and the labels.
    first_label: usize,
    labels: &'a [u32],
}

/// Scores all branches, about `batch_tokens` tokens in a pass; the scores do not depend on that.
pub fn score<D: Ops>(
    model: &Transformer<D>,
    trunks: &[&[u32]],
    branches: &[Branch],
    batch_tokens: usize,
) -> Result<(Vec<BranchScore>, BranchStats)> {
    let pages = batch_tokens.div_ceil(PAGE) * 2 + trunks.iter().map(|trunk| trunk.len().div_ceil(PAGE)).sum::<usize>();
    let mut pool = PagePool::new(model.device.clone(), KvCache::new(model, pages)?);
    let mut stats = BranchStats::default();

    let mut tables = Vec::with_capacity(trunks.len());
    for range in token_batches(trunks.iter().map(|trunk| trunk.len()), batch_tokens) {
        let segments = trunks[range].iter().map(|trunk| {
            let mut table = PageTable::default();
            pool.extend(&mut table, trunk.len())?;
            Ok(Segment { table, tokens: trunk, first_label: trunk.len(), labels: &[] })
        });
        let segments: Vec<Segment> = segments.collect::<Result<_>>()?;
        let tokens = segments.iter().map(|segment| segment.tokens.len()).sum::<usize>();
        stats.tokens += tokens;
        if tokens > 0 {
            forward(model, &mut pool, &segments)?;
        }
        tables.extend(segments.into_iter().map(|mut segment| {
            segment.table.length = segment.tokens.len();
            segment.table
        }));
    }

    let mut scores = Vec::with_capacity(branches.len());
    for range in token_batches(branches.iter().map(|branch| branch.tokens.len() - 1), batch_tokens) {
        let segments = branches[range].iter().map(|branch| {
            // The last label is predicted and never read.
            let (tokens, first) = (&branch.tokens[..branch.tokens.len() - 1], branch.tokens.len() - branch.labels);
            assert!(branch.labels > 0 && first > 0, "a branch has a row of its own before its first label");
            let mut table = pool.fork_at(&tables[branch.trunk], branch.shared)?;
            pool.extend(&mut table, tokens.len())?;
            Ok(Segment { table, tokens, first_label: first - 1, labels: &branch.tokens[first..] })
        });
        let segments: Vec<Segment> = segments.collect::<Result<_>>()?;
        for segment in &segments {
            stats.tokens += segment.tokens.len();
            stats.unshared_tokens += segment.table.length + segment.tokens.len();
            stats.labels += segment.labels.len();
        }
        scores.append(&mut forward(model, &mut pool, &segments)?);
        segments.into_iter().for_each(|segment| pool.release(segment.table));
    }
    Ok((scores, stats))
}

/// One pass: stores the rows' keys and values, and scores the labels of the segments that have some.
fn forward<D: Ops>(
    model: &Transformer<D>,
    pool: &mut PagePool<D>,
    segments: &[Segment<'_>],
) -> Result<Vec<BranchScore>> {
    let device = &model.device;
    let (mut rows, mut labels, mut start) = (Vec::new(), Vec::new(), 0);
    for segment in segments {
        let row = start + segment.first_label;
        rows.extend((row..row + segment.labels.len()).map(|row| row as u32));
        labels.extend_from_slice(segment.labels);
        start += segment.tokens.len();
    }
    let count = rows.len();
    let hidden = pass(model, &mut pool.cache, segments.iter().map(|segment| (&segment.table, segment.tokens)))?;
    if count == 0 {
        return Ok(Vec::new());
    }
    let normed = model.final_norm(&hidden, &device.indices(&rows)?, count)?;
    let vector = || Tensor::empty(device, DType::F32, 1, count);
    let (mut lse, mut logprob, mut rank) = (vector()?, vector()?, vector()?);
    let output = CeOutput { lse: &mut lse, logprob: &mut logprob, entropy: None, rank: Some(&mut rank), kept: None };
    let softcap = model.config.final_logit_softcapping;
    device.linear_ce(&normed, model.parameters.unembedding(), softcap, &device.indices(&labels)?, output)?;
    let (logprob, rank) = (logprob.to_vec(device)?, rank.to_vec(device)?);
    let mut start = 0;
    let scores = segments.iter().map(|segment| {
        let range = start..start + segment.labels.len();
        start = range.end;
        BranchScore { logprob: logprob[range.clone()].to_vec(), exact: rank[range].iter().all(|&rank| rank == 0.0) }
    });
    Ok(scores.collect())
}
