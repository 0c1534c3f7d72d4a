//! A micro-kernel an instruction: one warp loads fixed inputs, executes the instruction and stores what it gave. The same
//! PTX runs on the emulator and, through the real driver ([`gpu`]), on a GPU; both are held against the golden vectors in
//! `tests/isa/golden.csv`, which an independent reference in `tests/isa.rs` computed. No hardware has seen them yet.

pub mod cases;
pub mod gpu;
mod hopper;
mod matrices;

use crate::device::{Device, Shape};
use crate::vm::Settings;
use std::collections::HashMap;

/// What the 32-bit outputs are, which says how they are compared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Output {
    /// Every bit counts.
    Bits,
    /// f32, every bit but which NaN.
    Exact,
    /// f32 within so many units in the last place, or the absolute error that PTX documents where that is larger.
    Near { ulp: f64, absolute: f64 },
    /// f64 in two words, low first: every bit but which NaN.
    Double,
}

/// One instruction with its modifiers.
#[derive(Clone, Debug)]
pub struct Case {
    pub name: String,
    /// Statements that read %a0 to %a7 and write %d0 to %d3.
    pub body: String,
    /// A row of 32 lanes for each of %a0 ...
    pub inputs: Vec<[u32; 32]>,
    pub outputs: usize,
    pub output: Output,
    /// Of compute capability 9.0 alone. Four warps execute the body, with `%thread` beside `%lane`; `%first` is warp 0.
    pub hopper: bool,
}

/// A row of lanes for each output.
pub type Answer = Vec<[u32; 32]>;

impl Case {
    /// Without a name yet.
    fn new(body: String, inputs: Vec<[u32; 32]>, outputs: usize, output: Output) -> Self {
        Self { name: String::new(), body, inputs, outputs, output, hopper: false }
    }

    /// Threads of its one block.
    pub fn threads(&self) -> u32 {
        if self.hopper { 128 } else { 32 }
    }

    /// The kernel of this case, a whole module. `tile` is 4 KiB of shared memory, `%in` and `%out` the lane's places.
    pub fn ptx(&self) -> String {
        let loads: String =
            (0..self.inputs.len()).map(|row| format!("    ld.global.u32 %a{row}, [%in+{}];\n", 128 * row)).collect();
        let stores: String = (0..self.outputs)
            .map(|row| format!("    @%first st.global.u32 [%out+{}], %d{row};\n", 128 * row))
            .collect();
        let target = if self.hopper { "sm_90a" } else { "sm_80" };
        format!(
            ".version 8.0\n.target {target}\n.address_size 64\n\n\
             .visible .entry isa(.param .u64 source, .param .u64 target)\n.maxntid {}\n{{\n    \
             .reg .b32 %a<8>, %d<4>, %t<8>;\n    .reg .b64 %in, %out, %w<8>;\n    .reg .f32 %f<8>;\n    \
             .reg .f64 %x<4>;\n    .reg .b16 %h<8>;\n    .reg .pred %p<4>, %first;\n    .reg .u32 %lane, %thread, %tile;\n    \
             .shared .align 1024 .b8 tile[4096];\n    \
             ld.param.u64 %in, [source];\n    ld.param.u64 %out, [target];\n    mov.u32 %thread, %tid.x;\n    \
             and.b32 %lane, %thread, 31;\n    setp.lt.u32 %first, %thread, 32;\n    \
             mov.u32 %tile, tile;\n    mul.wide.u32 %w0, %lane, 4;\n    add.s64 %in, %in, %w0;\n    \
             add.s64 %out, %out, %w0;\n{loads}    {}\n{stores}    ret;\n}}\n",
            self.threads(),
            self.body.trim()
        )
    }

    /// The input buffer of the kernel, which it may write: words, row after row.
    pub fn input_bytes(&self) -> Vec<u8> {
        self.inputs.iter().flatten().flat_map(|word| word.to_le_bytes()).collect()
    }

    pub fn answer(&self, bytes: &[u8]) -> Answer {
        let words: Vec<u32> = bytes.as_chunks::<4>().0.iter().map(|chunk| u32::from_le_bytes(*chunk)).collect();
        words.as_chunks::<32>().0[..self.outputs].to_vec()
    }

    /// Runs the kernel on the emulator.
    pub fn emulate(&self, settings: Settings) -> Result<Answer, String> {
        let mut device = Device::new(settings);
        let loaded = device.load(&self.ptx()).map_err(|error| format!("{}: {error}", self.name))?;
        let input = self.input_bytes();
        let [source, target] = [input.len(), 128 * self.outputs].map(|bytes| device.memory.allocate(bytes as u64));
        if let Some((buffer, _)) = device.memory.find(source) {
            buffer.write(0, &input);
        }
        let shape = Shape { grid: [1; 3], block: [self.threads(), 1, 1], dynamic_shared: 0 };
        let outcome = device
            .launch(&loaded, "isa", shape, &[&source.to_le_bytes(), &target.to_le_bytes()])
            .map_err(|refusal| format!("{}: {refusal}", self.name))?;
        if let Some(report) = outcome.reports.first() {
            return Err(format!("{}: {report}", self.name));
        }
        let mut bytes = vec![0; 128 * self.outputs];
        if let Some((buffer, _)) = device.memory.find(target) {
            buffer.read(0, &mut bytes);
        }
        Ok(self.answer(&bytes))
    }

    /// Where two answers differ beyond what the instruction promises: row, lane, and both words.
    pub fn differences(&self, answer: &Answer, golden: &Answer) -> Vec<(usize, usize, u32, u32)> {
        let mut found = Vec::new();
        for row in 0..self.outputs {
            for lane in 0..32 {
                let (a, b) = (answer[row][lane], golden[row][lane]);
                let double = |rows: &Answer| {
                    f64::from_bits(u64::from(rows[row & !1][lane]) | u64::from(rows[row | 1][lane]) << 32)
                };
                let nan = |word: u32| f32::from_bits(word).is_nan();
                let same = a == b
                    || match self.output {
                        Output::Bits => false,
                        Output::Exact => nan(a) && nan(b),
                        Output::Near { ulp, absolute } => nan(a) && nan(b) || near(a, b, ulp, absolute),
                        Output::Double => double(answer).is_nan() && double(golden).is_nan(),
                    };
                if !same {
                    found.push((row, lane, a, b));
                }
            }
        }
        found
    }
}

fn near(a: u32, b: u32, ulp: f64, absolute: f64) -> bool {
    let (a, b) = (f32::from_bits(a), f32::from_bits(b));
    let unit = f64::from(b.abs().next_up()) - f64::from(b.abs());
    a.is_finite() && b.is_finite() && (f64::from(a) - f64::from(b)).abs() <= f64::max(ulp * unit, absolute)
}

/// The golden vectors by name.
pub fn golden() -> HashMap<String, Answer> {
    parse(include_str!("../../tests/isa/golden.csv"))
}

/// Lines of `name,row,word,word,...`; those that begin with # are remarks.
pub fn parse(text: &str) -> HashMap<String, Answer> {
    let mut all: HashMap<String, Answer> = HashMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let mut fields = line.split(',');
        let Some(name) = fields.next() else { continue };
        let words: Vec<u32> = fields.skip(1).filter_map(|word| u32::from_str_radix(word, 16).ok()).collect();
        if let Ok(row) = <[u32; 32]>::try_from(words) {
            all.entry(name.to_owned()).or_default().push(row);
        }
    }
    all
}

/// Runs every case that the device has (`hopper`: those of compute capability 9.0 too) with `run` and prints which answers
/// differ from the golden ones; gives their number.
pub fn compare(hopper: bool, mut run: impl FnMut(&Case) -> Result<Answer, String>) -> usize {
    let golden = golden();
    let (mut wrong, mut all) = (0, 0);
    println!("instruction,verdict,row,lane,answer,golden");
    for case in cases::all().into_iter().filter(|case| hopper || !case.hopper) {
        all += 1;
        let verdict = match (run(&case), golden.get(&case.name)) {
            (Ok(answer), Some(golden)) => {
                let found = case.differences(&answer, golden);
                for (row, lane, a, b) in &found {
                    println!("{},differs,{row},{lane},{a:08x},{b:08x}", case.name);
                }
                found.is_empty()
            }
            (Err(error), _) => {
                println!("{},failed: {error},,,,", case.name);
                false
            }
            (_, None) => {
                println!("{},no golden vector,,,,", case.name);
                false
            }
        };
        wrong += usize::from(!verdict);
    }
    println!("{} of {all} instructions agree,,,,,", all - wrong);
    wrong
}
