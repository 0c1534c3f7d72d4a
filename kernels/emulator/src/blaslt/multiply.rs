//! The matrix product on device memory: D = act(alpha op(A) op(B) + beta C + bias), f32, bf16 or f16 elements.

use crate::memory::Buffer;
use crate::ptx::convert::{bf16_from_f32, f16_from_f32, f32_from_bf16, f32_from_f16};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    F32,
    F16,
    Bf16,
}

impl Element {
    /// library_types.h's cudaDataType.
    pub fn from_cuda(kind: u32) -> Option<Self> {
        match kind {
            0 => Some(Element::F32),
            2 => Some(Element::F16),
            14 => Some(Element::Bf16),
            _ => None,
        }
    }

    pub fn bytes(self) -> u64 {
        if self == Element::F32 { 4 } else { 2 }
    }
}

/// A matrix as its layout tells it.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    pub element: Element,
    pub rows: u64,
    pub columns: u64,
    pub leading: i64,
    pub row_major: bool,
    pub batch: i32,
    pub batch_stride: i64,
}

impl Layout {
    fn at(&self, row: u64, column: u64) -> u64 {
        let (minor, major) = if self.row_major { (column, row) } else { (row, column) };
        minor + major * self.leading as u64
    }

    /// Elements from the first to the last of one matrix, both included.
    fn span(&self) -> u64 {
        if self.rows == 0 || self.columns == 0 { 0 } else { self.at(self.rows - 1, self.columns - 1) + 1 }
    }

    /// Bytes of all matrices of the batch.
    pub fn bytes(&self) -> u64 {
        let last = (self.batch.max(1) - 1) as u64 * self.batch_stride.max(0) as u64;
        (last + self.span()) * self.element.bytes()
    }
}

/// A place in memory with its layout.
#[derive(Clone, Copy)]
pub struct Matrix<'m> {
    pub layout: Layout,
    pub buffer: &'m Buffer,
    pub offset: u64,
}

impl Matrix<'_> {
    fn offset_of(&self, batch: u64, element: u64) -> u64 {
        self.offset + (batch * self.layout.batch_stride as u64 + element) * self.layout.element.bytes()
    }

    fn read(&self, batch: u64, row: u64, column: u64) -> f32 {
        let offset = self.offset_of(batch, self.layout.at(row, column));
        let word = self.buffer.word(offset as usize / 4);
        let half = (word >> (offset % 4 * 8)) as u16;
        match self.layout.element {
            Element::F32 => f32::from_bits(word),
            Element::Bf16 => f32_from_bf16(half),
            Element::F16 => f32_from_f16(half),
        }
    }

    fn write(&self, batch: u64, row: u64, column: u64, value: f32) {
        let offset = self.offset_of(batch, self.layout.at(row, column));
        let half = |bits: u16| {
            self.buffer.merge_word(offset as usize / 4, u32::from(bits) << (offset % 4 * 8), 0xffff << (offset % 4 * 8))
        };
        match self.layout.element {
            Element::F32 => self.buffer.set_word(offset as usize / 4, value.to_bits()),
            Element::Bf16 => half(bf16_from_f32(value)),
            Element::F16 => half(f16_from_f32(value)),
        }
        self.buffer.mark_written(offset, self.layout.element.bytes() as u32);
    }

    /// The matrix (transposed if asked) as rows of f32.
    fn dense(&self, batch: u64, transposed: bool, rows: u64, columns: u64) -> Vec<f32> {
        let mut values = Vec::with_capacity((rows * columns) as usize);
        for row in 0..rows {
            for column in 0..columns {
                values.push(if transposed { self.read(batch, column, row) } else { self.read(batch, row, column) });
            }
        }
        values
    }
}

pub struct Product<'m> {
    pub alpha: f32,
    pub beta: f32,
    pub a: Matrix<'m>,
    pub b: Matrix<'m>,
    pub c: Option<Matrix<'m>>,
    pub d: Matrix<'m>,
    pub transpose: [bool; 2],
    pub bias: Option<Matrix<'m>>,
    pub relu: bool,
    pub gelu: bool,
}

impl Product<'_> {
    /// The depth of the product, if the shapes agree.
    pub fn depth(&self) -> Option<u64> {
        let shape = |layout: &Layout, transposed: bool| {
            if transposed { (layout.columns, layout.rows) } else { (layout.rows, layout.columns) }
        };
        let ((m, k), (depth, n)) = (shape(&self.a.layout, self.transpose[0]), shape(&self.b.layout, self.transpose[1]));
        let d = &self.d.layout;
        let c = self.c.is_none_or(|c| (c.layout.rows, c.layout.columns) == (d.rows, d.columns));
        (k == depth && (m, n) == (d.rows, d.columns) && c).then_some(k)
    }

    pub fn run(&self, depth: u64) {
        let (m, n) = (self.d.layout.rows, self.d.layout.columns);
        for batch in 0..self.d.layout.batch.max(1) as u64 {
            let a = self.a.dense(batch, self.transpose[0], m, depth);
            let b = self.b.dense(batch, self.transpose[1], depth, n);
            let mut sums = vec![0f32; n as usize];
            for row in 0..m {
                sums.fill(0.0);
                for (k, &factor) in a[(row * depth) as usize..((row + 1) * depth) as usize].iter().enumerate() {
                    // Row after row of B: the loop vectorises, and each sum runs in the order of k.
                    for (sum, value) in sums.iter_mut().zip(&b[k * n as usize..]) {
                        *sum += factor * value;
                    }
                }
                for (column, sum) in (0..n).zip(&sums) {
                    let old =
                        self.c.filter(|_| self.beta != 0.0).map_or(0.0, |c| self.beta * c.read(batch, row, column));
                    let bias = self.bias.map_or(0.0, |bias| bias.read(batch, row, 0));
                    self.d.write(batch, row, column, self.activate(self.alpha * sum + old + bias));
                }
            }
        }
    }

    fn activate(&self, x: f32) -> f32 {
        if self.relu {
            x.max(0.0)
        } else if self.gelu {
            // The tanh form, which cuBLASLt documents.
            0.5 * x * (1.0 + (0.797_884_6 * (x + 0.044_715 * x * x * x)).tanh())
        } else {
            x
        }
    }
}
