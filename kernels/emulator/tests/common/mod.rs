//! A device with typed copies, for tests that run kernels without a driver.
#![allow(dead_code)] // Each test binary uses its own part.

use safedepth_emulator::device::{Device, Shape};
use safedepth_emulator::module::Loaded;
use safedepth_emulator::vm::{Outcome, Settings};

pub struct Bench {
    pub device: Device,
    pub loaded: Loaded,
}

/// One argument of a kernel, as its bytes.
pub enum Arg {
    Int(i32),
    Float(f32),
    Pointer(u64),
}

impl Arg {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Arg::Int(value) => value.to_le_bytes().to_vec(),
            Arg::Float(value) => value.to_le_bytes().to_vec(),
            Arg::Pointer(value) => value.to_le_bytes().to_vec(),
        }
    }
}

impl Bench {
    /// The committed PTX of `tests/cu/NAME.cu`.
    pub fn new(name: &str, seed: u64) -> Self {
        let path = format!("{}/tests/cu/{name}.ptx", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        Self::from_text(&text, seed)
    }

    pub fn from_text(text: &str, seed: u64) -> Self {
        let mut device = Device::new(Settings { seed, threads: 2, limit: 100_000_000, ..Settings::default() });
        let loaded = device.load(text).unwrap_or_else(|error| panic!("{error}"));
        Self { device, loaded }
    }

    pub fn empty(&mut self, bytes: usize) -> u64 {
        self.device.memory.allocate(bytes as u64)
    }

    pub fn upload(&mut self, bytes: &[u8]) -> u64 {
        let address = self.empty(bytes.len());
        self.device.memory.find(address).expect("just allocated").0.write(0, bytes);
        address
    }

    pub fn floats(&mut self, values: &[f32]) -> u64 {
        self.upload(&values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>())
    }

    pub fn words(&mut self, values: &[u32]) -> u64 {
        self.upload(&values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>())
    }

    pub fn halves(&mut self, values: &[u16]) -> u64 {
        self.upload(&values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>())
    }

    pub fn download(&self, address: u64, bytes: usize) -> Vec<u8> {
        let mut data = vec![0; bytes];
        self.device.memory.find(address).expect("allocated").0.read(0, &mut data);
        data
    }

    pub fn read_words(&self, address: u64, count: usize) -> Vec<u32> {
        self.download(address, 4 * count).as_chunks::<4>().0.iter().map(|chunk| u32::from_le_bytes(*chunk)).collect()
    }

    pub fn read_floats(&self, address: u64, count: usize) -> Vec<f32> {
        self.read_words(address, count).into_iter().map(f32::from_bits).collect()
    }

    pub fn read_halves(&self, address: u64, count: usize) -> Vec<u16> {
        self.download(address, 2 * count).as_chunks::<2>().0.iter().map(|chunk| u16::from_le_bytes(*chunk)).collect()
    }

    pub fn run(
        &mut self,
        kernel: &str,
        grid: [u32; 3],
        threads: u32,
        dynamic_shared: u32,
        arguments: &[Arg],
    ) -> Outcome {
        let bytes: Vec<Vec<u8>> = arguments.iter().map(Arg::bytes).collect();
        let slices: Vec<&[u8]> = bytes.iter().map(Vec::as_slice).collect();
        let shape = Shape { grid, block: [threads, 1, 1], dynamic_shared };
        self.device.launch(&self.loaded, kernel, shape, &slices).unwrap_or_else(|refusal| panic!("{kernel}: {refusal}"))
    }

    /// Runs a kernel that must give no report.
    pub fn clean(
        &mut self,
        kernel: &str,
        grid: [u32; 3],
        threads: u32,
        dynamic_shared: u32,
        arguments: &[Arg],
    ) -> Outcome {
        let outcome = self.run(kernel, grid, threads, dynamic_shared, arguments);
        let reports: Vec<String> = outcome.reports.iter().map(|report| report.to_string()).collect();
        assert!(reports.is_empty(), "{kernel} grid {grid:?}: {reports:#?}");
        outcome
    }
}

/// splitmix64: enough for test data.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// Near normal: the sum of four uniforms, scaled to variance 1.
    pub fn normal(&mut self) -> f32 {
        let sum: f64 = (0..4).map(|_| (self.next() >> 11) as f64 / (1u64 << 53) as f64 - 0.5).sum();
        (sum * 3f64.sqrt()) as f32
    }

    pub fn normals(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.normal()).collect()
    }
}

pub fn to_bf16(values: &[f32]) -> Vec<u16> {
    values.iter().map(|&value| safedepth_emulator::ptx::convert::bf16_from_f32(value)).collect()
}

pub fn from_bf16(bits: &[u16]) -> Vec<f64> {
    bits.iter().map(|&bits| f64::from(f32::from_bits(u32::from(bits) << 16))).collect()
}

/// |a - b| / |b| over whole vectors.
pub fn relative_error(a: impl IntoIterator<Item = f64>, b: &[f64]) -> f64 {
    let (mut difference, mut size) = (0.0, 0.0);
    for (a, b) in a.into_iter().zip(b) {
        difference += (a - b) * (a - b);
        size += b * b;
    }
    (difference / f64::max(size, 1e-300)).sqrt()
}
