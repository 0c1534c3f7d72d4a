//! `safedepth bench kernels`: every operation at the shapes of real models, beside the machine's own peaks.

use super::median_seconds;
use crate::cli::Global;
use crate::device::{DType, Tensor};
use crate::model::init::fill_normal;
use crate::ops::Ops;
use crate::ops::adamw::AdamWStep;
use crate::ops::attention::{AttentionParams, PAGE, Paged, Ragged};
use crate::ops::glu::Activation;
use crate::ops::linear_ce::CeOutput;
use crate::ops::linear_kl::KlSide;
use crate::ops::sampling::{SamplingParams, SamplingRow};
use crate::run::write_atomic;
use crate::{Error, Result};
use clap::Args;
use std::path::PathBuf;

/// Time every operation at the shapes of Llama-2-7B, Gemma-7B and SmolLM2-135M.
///
/// CSV columns: op, model, shape, dtype, isa, threads, median_ms, gflop_per_s, gb_per_s, share_of_gemm_peak,
/// share_of_copy_peak. The peaks are measured in the same run: our own best matrix product and a large copy.
#[derive(Clone, Debug, Args)]
pub(crate) struct Arguments {
    /// Only operations whose name contains this.
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Only this model's shapes: llama-2-7b, gemma-7b or smollm2-135m.
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Rows (tokens) of a batch.
    #[arg(long, default_value_t = 256, value_name = "N")]
    tokens: usize,
    #[arg(long, default_value_t = 5, value_name = "N")]
    repeats: usize,
    /// CSV file; by default standard output.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// The sizes an op's cost depends on.
struct Shapes {
    name: &'static str,
    hidden: usize,
    intermediate: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    vocab: usize,
    activation: Activation,
}

const MODELS: [Shapes; 3] = [
    Shapes {
        name: "llama-2-7b",
        hidden: 4096,
        intermediate: 11008,
        heads: 32,
        kv_heads: 32,
        head_dim: 128,
        vocab: 32000,
        activation: Activation::Silu,
    },
    Shapes {
        name: "gemma-7b",
        hidden: 3072,
        intermediate: 24576,
        heads: 16,
        kv_heads: 16,
        head_dim: 256,
        vocab: 256_000,
        activation: Activation::GeluTanh,
    },
    Shapes {
        name: "smollm2-135m",
        hidden: 576,
        intermediate: 1536,
        heads: 9,
        kv_heads: 3,
        head_dim: 64,
        vocab: 49152,
        activation: Activation::Silu,
    },
];

/// What the machine can do, measured.
struct Peaks {
    gflop_per_s: f64,
    gb_per_s: f64,
}

/// One line of the table; `flop` and `bytes` are those of one run, by the op's formula.
struct Timer<'a, D> {
    device: &'a D,
    arguments: &'a Arguments,
    peaks: Peaks,
    dtype: DType,
    text: String,
}

impl<D: Ops> Timer<'_, D> {
    fn time(
        &mut self,
        op: &str,
        model: &str,
        shape: &str,
        flop: f64,
        bytes: f64,
        work: impl FnMut() -> Result<()>,
    ) -> Result<()> {
        if self.arguments.filter.as_ref().is_some_and(|filter| !op.contains(filter.as_str())) {
            return Ok(());
        }
        let seconds = median_seconds(self.device, 1, self.arguments.repeats, work)?;
        let (gflop, gb) = (flop / seconds / 1e9, bytes / seconds / 1e9);
        self.text += &format!(
            "{op},{model},{shape},{},{},{},{:.3},{gflop:.2},{gb:.2},{:.3},{:.3}\n",
            self.dtype.name().to_lowercase(),
            self.device.arithmetic(),
            rayon::current_num_threads(),
            1e3 * seconds,
            gflop / self.peaks.gflop_per_s,
            gb / self.peaks.gb_per_s,
        );
        Ok(())
    }
}

fn random<D: Ops>(device: &D, dtype: DType, rows: usize, cols: usize, seed: u64) -> Result<Tensor<D>> {
    let mut values = vec![0.0; rows * cols];
    fill_normal(&mut values, 0.05, "bench", seed);
    Tensor::from_slice(device, dtype, rows, cols, &values)
}

/// GFLOP/s of our own matrix product at its best, 1024 cubed: a tenth of a second's work.
pub(in crate::cli) fn gemm_peak<D: Ops>(device: &D) -> Result<f64> {
    let n = 1024;
    let (x, w) = (random(device, DType::F32, n, n, 1)?, random(device, DType::F32, n, n, 2)?);
    let mut y = Tensor::empty(device, DType::F32, n, n)?;
    let product = median_seconds(device, 2, 7, || device.linear(&x, &w, None, &mut y))?;
    Ok(2.0 * (n as f64).powi(3) / product / 1e9)
}

/// The best of our own matrix product and of a copy of 256 MiB.
fn peaks<D: Ops>(device: &D) -> Result<Peaks> {
    let elements = 64 << 20;
    let mut source = Tensor::empty(device, DType::F32, 1, elements)?;
    // Pages that nobody wrote can all be one page, which a cache holds.
    device.fill(&mut source.buffer, 1.0)?;
    let mut target = Tensor::zeros(device, DType::F32, 1, elements)?;
    let copy = median_seconds(device, 1, 5, || device.copy(&source.buffer, &mut target.buffer))?;
    Ok(Peaks { gflop_per_s: gemm_peak(device)?, gb_per_s: 2.0 * 4.0 * elements as f64 / copy / 1e9 })
}

pub(super) fn run<D: Ops>(global: &Global, device: &D, arguments: &Arguments) -> Result<()> {
    if arguments.repeats == 0 || arguments.tokens == 0 {
        return Err(Error::Usage("--repeats and --tokens must be at least 1".into()));
    }
    if let Some(name) = &arguments.model
        && !MODELS.iter().any(|shapes| shapes.name == name)
    {
        return Err(Error::Usage(format!("unknown model \"{name}\": use llama-2-7b, gemma-7b or smollm2-135m")));
    }
    let peaks = peaks(device)?;
    global.note(format_args!("peaks: {:.1} GFLOP/s, {:.1} GB/s", peaks.gflop_per_s, peaks.gb_per_s));
    let header =
        "op,model,shape,dtype,isa,threads,median_ms,gflop_per_s,gb_per_s,share_of_gemm_peak,share_of_copy_peak\n";
    let dtype = global.dtype.dtype().unwrap_or(DType::F32);
    let mut timer = Timer { device, arguments, peaks, dtype, text: header.into() };
    for shapes in MODELS.iter().filter(|shapes| arguments.model.as_deref().is_none_or(|name| shapes.name == name)) {
        global.note(format_args!("{} ...", shapes.name));
        linears(&mut timer, shapes)?;
        attention(&mut timer, shapes)?;
        small_ops(&mut timer, shapes)?;
        vocabulary(&mut timer, shapes)?;
    }
    match &arguments.output {
        Some(path) => write_atomic(path, timer.text.as_bytes()),
        None => {
            print!("{}", timer.text);
            Ok(())
        }
    }
}

fn linears<D: Ops>(timer: &mut Timer<'_, D>, shapes: &Shapes) -> Result<()> {
    let device = timer.device;
    let q = shapes.heads * shapes.head_dim;
    for (what, n, k) in [
        ("q_proj", q, shapes.hidden),
        ("gate_proj", shapes.intermediate, shapes.hidden),
        ("down_proj", shapes.hidden, shapes.intermediate),
    ] {
        let w = random(device, timer.dtype, n, k, 1)?;
        for t in [1, 16, timer.arguments.tokens] {
            let x = random(device, DType::F32, t, k, 2)?;
            let mut y = Tensor::empty(device, DType::F32, t, n)?;
            let flop = 2.0 * (t * n * k) as f64;
            let bytes = (w.len() * timer.dtype.size() + 4 * (x.len() + y.len())) as f64;
            let shape = format!("{what} {t}x{n}x{k}");
            timer.time("linear", shapes.name, &shape, flop, bytes, || device.linear(&x, &w, None, &mut y))?;
            if t > 16 {
                let mut dx = x.empty_like(device)?;
                timer.time("linear_backward_input", shapes.name, &shape, flop, bytes, || {
                    device.linear_backward_input(&y, &w, &mut dx, false)
                })?;
                let mut dw = Tensor::zeros(device, DType::F32, n, k)?;
                timer.time("linear_backward_weight", shapes.name, &shape, flop, bytes, || {
                    device.linear_backward_weight(&y, &x, &mut dw, None)
                })?;
            }
        }
    }
    Ok(())
}

fn attention<D: Ops>(timer: &mut Timer<'_, D>, shapes: &Shapes) -> Result<()> {
    let (device, t) = (timer.device, timer.arguments.tokens);
    let params = AttentionParams {
        num_heads: shapes.heads,
        num_key_value_heads: shapes.kv_heads,
        head_dim: shapes.head_dim,
        scale: (shapes.head_dim as f32).powf(-0.5),
        softcap: None,
        window: None,
    };
    let (q_cols, kv_cols) = (shapes.heads * shapes.head_dim, shapes.kv_heads * shapes.head_dim);
    let q = random(device, DType::F32, t, q_cols, 1)?;
    let (k, v) = (random(device, DType::F32, t, kv_cols, 2)?, random(device, DType::F32, t, kv_cols, 3)?);
    let ragged = Ragged { offsets: device.indices(&[0, t as u32])?, count: 1, max_length: t };
    let (mut out, mut lse) = (q.empty_like(device)?, Tensor::empty(device, DType::F32, t, shapes.heads)?);
    // Causal: half of the t x t scores, two products of head_dim each.
    let flop = 2.0 * 2.0 * (t * (t + 1) / 2 * q_cols) as f64;
    let bytes = 4.0 * (2 * q.len() + 2 * k.len()) as f64;
    let shape = format!("1x{t} {}q {}kv d{}", shapes.heads, shapes.kv_heads, shapes.head_dim);
    timer.time("attention", shapes.name, &shape, flop, bytes, || {
        device.attention(&params, &ragged, &q, &k, &v, &mut out, &mut lse)
    })?;
    let dout = random(device, DType::F32, t, q_cols, 4)?;
    let (mut dq, mut dk, mut dv) = (q.empty_like(device)?, k.empty_like(device)?, v.empty_like(device)?);
    timer.time("attention_backward", shapes.name, &shape, 2.5 * flop, 2.0 * bytes, || {
        device.attention_backward(&params, &ragged, &q, &k, &v, &out, &lse, &dout, &mut dq, &mut dk, &mut dv)
    })?;

    // Decoding: 16 rows, each at the end of t cached positions.
    let (rows, pages) = (16, t.div_ceil(PAGE));
    let cache_cols = shapes.kv_heads * PAGE * shapes.head_dim;
    let (cache_k, cache_v) = (
        random(device, DType::F32, rows * pages, cache_cols, 5)?,
        random(device, DType::F32, rows * pages, cache_cols, 6)?,
    );
    let paged = Paged {
        offsets: device.indices(&(0..=rows as u32).collect::<Vec<_>>())?,
        starts: device.indices(&vec![t as u32 - 1; rows])?,
        pages: device.indices(&(0..(rows * pages) as u32).collect::<Vec<_>>())?,
        max_pages: pages,
        count: rows,
    };
    let q = random(device, DType::F32, rows, q_cols, 7)?;
    let mut out = q.empty_like(device)?;
    let shape = format!("{rows} rows at {t} keys");
    let (flop, bytes) = (4.0 * (rows * t * q_cols) as f64, 8.0 * (rows * t * kv_cols) as f64);
    timer.time("attention_paged", shapes.name, &shape, flop, bytes, || {
        device.attention_paged(&params, &paged, &q, &cache_k, &cache_v, &mut out)
    })
}

fn small_ops<D: Ops>(timer: &mut Timer<'_, D>, shapes: &Shapes) -> Result<()> {
    let (device, t, hidden) = (timer.device, timer.arguments.tokens, shapes.hidden);
    let name = shapes.name;
    let x = random(device, DType::F32, t, hidden, 1)?;
    let weight = random(device, DType::F32, 1, hidden, 2)?;
    let mut y = x.empty_like(device)?;
    let shape = format!("{t}x{hidden}");
    let moved = |count: usize| 4.0 * (count * t * hidden) as f64;
    timer.time("rms_norm", name, &shape, 0.0, moved(2), || device.rms_norm(&x, &weight, 0.0, 1e-5, &mut y))?;
    let (mut dx, mut dweight) = (x.empty_like(device)?, Tensor::zeros(device, DType::F32, 1, hidden)?);
    timer.time("rms_norm_backward", name, &shape, 0.0, moved(3), || {
        device.rms_norm_backward(&x, &weight, 0.0, 1e-5, &y, &mut dx, false, Some(&mut dweight))
    })?;
    timer.time("add", name, &shape, 0.0, moved(3), || device.add(&x, &mut y))?;
    let rows = device.indices(&(0..t as u32).rev().collect::<Vec<_>>())?;
    timer.time("gather_rows", name, &shape, 0.0, moved(2), || device.gather_rows(&x, &rows, &mut y))?;

    let half = shapes.head_dim / 2;
    let (mut cos, mut sin) = (Tensor::empty(device, DType::F32, t, half)?, Tensor::empty(device, DType::F32, t, half)?);
    device.rope_table(&rows, &vec![0.01; half], &mut cos, &mut sin)?;
    let mut q = random(device, DType::F32, t, shapes.heads * shapes.head_dim, 3)?;
    let bytes = 8.0 * q.len() as f64;
    timer.time("rope", name, &format!("{t}x{}", q.cols()), 0.0, bytes, || device.rope(&mut q, &cos, &sin, false))?;

    let gate = random(device, DType::F32, t, shapes.intermediate, 4)?;
    let up = random(device, DType::F32, t, shapes.intermediate, 5)?;
    let mut y = gate.empty_like(device)?;
    let shape = format!("{t}x{}", shapes.intermediate);
    let bytes = |count: usize| 4.0 * (count * gate.len()) as f64;
    timer.time("glu", name, &shape, 0.0, bytes(3), || device.glu(shapes.activation, &gate, &up, &mut y))?;
    let (mut dgate, mut dup) = (gate.empty_like(device)?, gate.empty_like(device)?);
    timer.time("glu_backward", name, &shape, 0.0, bytes(5), || {
        device.glu_backward(shapes.activation, &gate, &up, &y, &mut dgate, &mut dup)
    })?;

    let mut parameter = random(device, DType::F32, shapes.intermediate, hidden, 6)?;
    let gradient = random(device, DType::F32, shapes.intermediate, hidden, 7)?;
    let (mut m, mut v) = (
        Tensor::zeros(device, DType::F32, shapes.intermediate, hidden)?,
        Tensor::zeros(device, DType::F32, shapes.intermediate, hidden)?,
    );
    let step = AdamWStep {
        lr: 1e-5,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.0,
        step: 1,
        grad_scale: 1.0,
        stream: 0,
    };
    let shape = format!("{}x{hidden}", shapes.intermediate);
    timer.time("adamw", name, &shape, 0.0, 7.0 * 4.0 * parameter.len() as f64, || {
        device.adamw(&step, &gradient, &mut parameter, &mut m, &mut v)
    })?;
    timer.time("sum_squares", name, &shape, 0.0, 4.0 * gradient.len() as f64, || {
        std::hint::black_box(device.sum_squares(&gradient)?);
        Ok(())
    })
}

fn vocabulary<D: Ops>(timer: &mut Timer<'_, D>, shapes: &Shapes) -> Result<()> {
    let (device, t) = (timer.device, timer.arguments.tokens);
    let (hidden_size, vocab, name) = (shapes.hidden, shapes.vocab, shapes.name);
    let w = random(device, timer.dtype, vocab, hidden_size, 1)?;
    let hidden = random(device, DType::F32, t, hidden_size, 2)?;
    let ids: Vec<u32> = (0..t as u32).map(|i| i * 7919 % vocab as u32).collect();
    let labels = device.indices(&ids)?;
    let mut y = hidden.empty_like(device)?;
    let shape = format!("{t}x{vocab}x{hidden_size}");
    let row_bytes = (timer.dtype.size() + 4) as f64 * hidden.len() as f64;
    timer.time("embedding", name, &shape, 0.0, row_bytes, || device.embedding(&labels, &w, 1.0, &mut y))?;

    let vector = || Tensor::empty(device, DType::F32, 1, t);
    let (mut lse, mut logprob) = (vector()?, vector()?);
    let flop = 2.0 * (t * vocab * hidden_size) as f64;
    let bytes = (w.len() * timer.dtype.size() + 4 * hidden.len()) as f64;
    timer.time("linear_ce", name, &shape, flop, bytes, || {
        let output = CeOutput { lse: &mut lse, logprob: &mut logprob, entropy: None, rank: None };
        device.linear_ce(&hidden, &w, None, &labels, output)
    })?;
    timer.time("linear_kl", name, &shape, 2.0 * flop, 2.0 * bytes, || {
        device.linear_kl(
            KlSide { hidden: &hidden, w: &w, softcap: None },
            KlSide { hidden: &hidden, w: &w, softcap: None },
        )?;
        Ok(())
    })?;
    let coefficient = Tensor::from_slice(device, DType::F32, 1, t, &vec![1.0 / t as f32; t])?;
    let mut dw = Tensor::zeros(device, DType::F32, vocab, hidden_size)?;
    timer.time("linear_ce_backward", name, &shape, 3.0 * flop, bytes + 8.0 * dw.len() as f64, || {
        device.linear_ce_backward(&hidden, &w, None, &labels, &lse, &coefficient, &mut y, Some(&mut dw))
    })?;
    drop(dw);

    let rows = 16;
    let mut logits = random(device, DType::F32, rows, vocab, 3)?;
    let original = logits.to_vec(device)?;
    let params = SamplingParams { temperature: 0.9, top_k: 50, top_p: 0.6, repetition_penalty: 1.0 };
    let mut tokens = Vec::new();
    timer.time("sample", name, &format!("{rows}x{vocab}"), 0.0, 4.0 * (rows * vocab) as f64, || {
        device.write(&mut logits.buffer, &original)?;
        device.sample(&mut logits, |_| SamplingRow { params, history: &[], uniform: 0.5 }, &mut tokens)
    })
}
