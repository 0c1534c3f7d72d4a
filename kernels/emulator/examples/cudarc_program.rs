//! An ordinary cudarc program: nothing in it knows of the emulator. `safedepth-emulator run` carries it on a machine
//! without a GPU; the integration test `program` runs it that way. The argument chooses what it does.

use cudarc::cublaslt::{CudaBlasLT, Matmul, MatmulConfig};
use cudarc::driver::sys::{
    CUdevice_attribute, CUevent_flags, CUfunction_attribute_enum, CUgraphInstantiate_flags, CUresult,
    CUstreamCaptureMode,
};
use cudarc::driver::{CudaContext, CudaModule, CudaStream, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;
use std::error::Error;
use std::sync::Arc;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

struct Gpu {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
}

impl Gpu {
    fn new() -> Result<Self> {
        let context = CudaContext::new(0)?;
        let stream = context.new_stream()?;
        Ok(Self { context, stream })
    }

    fn module(&self, text: &str) -> Result<Arc<CudaModule>> {
        Ok(self.context.load_module(Ptx::from_src(text))?)
    }
}

fn main() -> Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("saxpy") => saxpy(),
        Some("device") => device(),
        Some("attention") => attention(),
        Some("matmul") => matmul(),
        Some("fault") => fault(),
        Some("allocate") => allocate(),
        Some("graph") => graph(),
        _ => Err("saxpy, device, attention, matmul, fault, allocate or graph".into()),
    }
}

fn device() -> Result<()> {
    let gpu = Gpu::new()?;
    let (free, total) = gpu.context.mem_get_info()?;
    let shared = gpu.context.attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
    println!(
        "{}, compute capability {:?}, {free} of {total} bytes, {shared} shared",
        gpu.context.name()?,
        gpu.context.compute_capability()?
    );
    Ok(())
}

fn saxpy() -> Result<()> {
    let gpu = Gpu::new()?;
    let kernel = gpu.module(include_str!("../tests/cu/saxpy.ptx"))?.load_function("saxpy")?;
    let n = 1000;
    let x = gpu.stream.clone_htod(&(0..n).map(|i| i as f32).collect::<Vec<_>>())?;
    let mut y = gpu.stream.alloc_zeros::<f32>(n)?;
    let start = gpu.stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT))?;
    let (count, a) = (n as i32, 3.0f32);
    let mut launch = gpu.stream.launch_builder(&kernel);
    launch.arg(&count).arg(&a).arg(&x).arg(&mut y);
    // SAFETY: the arguments are those of the kernel, and it bounds its index by `count`.
    unsafe { launch.launch(LaunchConfig::for_num_elems(n as u32))? };
    let end = gpu.stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT))?;
    let copy = gpu.stream.clone_dtod(&y)?;
    let back = gpu.stream.clone_dtoh(&copy)?;
    gpu.stream.synchronize()?;
    assert!(back.iter().enumerate().all(|(i, y)| *y == 3.0 * i as f32));
    assert!(start.elapsed_ms(&end)? > 0.0);
    println!("saxpy is right");
    Ok(())
}

fn attention() -> Result<()> {
    let gpu = Gpu::new()?;
    let kernel = gpu.module(include_str!("../tests/cu/flash.ptx"))?.load_function("flash_128")?;
    let (length, depth) = (100usize, 128usize);
    let shared = 5 * 64 * (depth as u32 + 8) * 2;
    let config =
        LaunchConfig { grid_dim: (length.div_ceil(64) as u32, 1, 1), block_dim: (128, 1, 1), shared_mem_bytes: shared };
    // More than 48 KiB must be asked for.
    kernel.set_attribute(CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, shared as i32)?;
    // Values are all one in bf16, so every output is one.
    let ones = gpu.stream.clone_htod(&vec![0x3f80u16; length * depth])?;
    let mut o = gpu.stream.alloc_zeros::<u16>(length * depth)?;
    let mut sums = gpu.stream.alloc_zeros::<f32>(length)?;
    let (count, scale) = (length as i32, 0.088f32);
    for _ in 0..2 {
        let mut launch = gpu.stream.launch_builder(&kernel);
        launch.arg(&count).arg(&scale).arg(&ones).arg(&ones).arg(&ones).arg(&mut o).arg(&mut sums);
        // SAFETY: the arguments are those of the kernel, and it bounds its rows by `count`.
        unsafe { launch.launch(config)? };
    }
    assert!(gpu.stream.clone_dtoh(&o)?.iter().all(|bits| *bits == 0x3f80));
    println!("attention is right");
    Ok(())
}

fn matmul() -> Result<()> {
    let gpu = Gpu::new()?;
    let blas = CudaBlasLT::new(gpu.stream.clone())?;
    let (m, n, k, batch) = (5usize, 3usize, 4usize, 2usize);
    let a: Vec<f32> = (0..batch * m * k).map(|i| (i % 7) as f32 - 3.0).collect();
    let b: Vec<f32> = (0..batch * k * n).map(|i| (i % 5) as f32 - 2.0).collect();
    let (device_a, device_b) = (gpu.stream.clone_htod(&a)?, gpu.stream.clone_htod(&b)?);
    for (transa, transb) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut c = gpu.stream.clone_htod(&vec![1.0f32; batch * m * n])?;
        let config = MatmulConfig {
            transa,
            transb,
            transc: false,
            m: m as u64,
            n: n as u64,
            k: k as u64,
            alpha: 2.0,
            lda: if transa { k } else { m } as i64,
            ldb: if transb { n } else { k } as i64,
            beta: 0.5,
            ldc: m as i64,
            stride_a: Some((m * k) as i64),
            stride_b: Some((k * n) as i64),
            stride_c: Some((m * n) as i64),
            stride_bias: None,
            batch_size: Some(batch as i32),
        };
        // SAFETY: the strides and leading dimensions are those of the buffers.
        unsafe { blas.matmul(config, &device_a, &device_b, &mut c, None, None)? };
        let c = gpu.stream.clone_dtoh(&c)?;
        for (at, value) in c.iter().enumerate() {
            let (t, column, row) = (at / (m * n), at / m % n, at % m);
            let a = |d: usize| a[t * m * k + if transa { row * k + d } else { d * m + row }];
            let b = |d: usize| b[t * k * n + if transb { d * n + column } else { column * k + d }];
            let expected = 2.0 * (0..k).map(|d| a(d) * b(d)).sum::<f32>() + 0.5;
            assert_eq!(*value, expected, "transposes {transa} {transb}, batch {t}, ({row}, {column})");
        }
    }
    println!("matmul is right");
    Ok(())
}

/// Writes past the end of a buffer, then waits.
fn fault() -> Result<()> {
    let gpu = Gpu::new()?;
    let kernel = gpu.module(include_str!("../tests/cu/faults.ptx"))?.load_function("global_past_the_end")?;
    let mut out = gpu.stream.alloc_zeros::<f32>(100)?;
    let mut launch = gpu.stream.launch_builder(&kernel);
    launch.arg(&mut out);
    // SAFETY: not safe at all; that is what this is for.
    unsafe { launch.launch(LaunchConfig { grid_dim: (1, 1, 1), block_dim: (128, 1, 1), shared_mem_bytes: 0 })? };
    let waited = gpu.stream.synchronize();
    println!("synchronize: {waited:?}");
    Ok(())
}

/// Allocates 1 MiB after another until there is no more.
fn allocate() -> Result<()> {
    let gpu = Gpu::new()?;
    let mut held = Vec::new();
    while held.len() < 64 {
        held.push(
            gpu.stream.alloc_zeros::<u8>(1 << 20).inspect_err(|_| println!("{} MiB were allocated", held.len()))?,
        );
    }
    Ok(())
}

/// A launch and a memset recorded once and replayed, and what may not be done meanwhile.
fn graph() -> Result<()> {
    let gpu = Gpu::new()?;
    // SAFETY: one stream does all the work.
    unsafe { gpu.context.disable_event_tracking() };
    let kernel = gpu.module(include_str!("../tests/cu/saxpy.ptx"))?.load_function("saxpy")?;
    let n = 1000;
    let mut x = gpu.stream.clone_htod(&(0..n).map(|i| i as f32).collect::<Vec<_>>())?;
    let mut y = gpu.stream.alloc_zeros::<f32>(n)?;
    let thread = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    gpu.stream.begin_capture(thread)?;
    let (count, a) = (n as i32, 3.0f32);
    let mut launch = gpu.stream.launch_builder(&kernel);
    launch.arg(&count).arg(&a).arg(&x).arg(&mut y);
    // SAFETY: the arguments are those of the kernel, and it bounds its index by `count`.
    unsafe { launch.launch(LaunchConfig::for_num_elems(n as u32))? };
    let graph = gpu.stream.end_capture(CUgraphInstantiate_flags(0))?.ok_or("no graph")?;
    assert!(gpu.stream.clone_dtoh(&y)?.iter().all(|y| *y == 0.0), "what is recorded is not done");
    graph.launch()?;
    graph.launch()?;
    // The graph finds what lies in its buffers now.
    gpu.stream.memcpy_htod(&vec![1.0f32; n], &mut x)?;
    graph.launch()?;
    assert!(gpu.stream.clone_dtoh(&y)?.iter().enumerate().all(|(i, y)| *y == 6.0 * i as f32 + 3.0));

    let refused = |result: std::result::Result<(), cudarc::driver::DriverError>| result.err().map(|error| error.0);
    let unsupported = Some(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    let spoiled = || refused(gpu.stream.end_capture(CUgraphInstantiate_flags(0)).map(drop));
    let invalidated = Some(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    for (mode, expected) in [
        (CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL, unsupported),
        (thread, unsupported),
        (CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED, None),
    ] {
        gpu.stream.begin_capture(mode)?;
        // SAFETY: freed by no one: the program ends.
        let allocated = refused(unsafe { cudarc::driver::result::malloc_sync(16) }.map(drop));
        assert_eq!(allocated, expected, "allocating while a stream records, {mode:?}");
        assert_eq!(spoiled(), expected.and(invalidated), "{mode:?}");
    }
    gpu.stream.begin_capture(thread)?;
    assert_eq!(refused(gpu.stream.synchronize()), unsupported, "waiting for a stream that records");
    assert_eq!(refused(gpu.stream.memcpy_htod(&[1.0f32], &mut x)), invalidated, "work after that");
    assert_eq!(spoiled(), invalidated);
    println!("graph is right");
    Ok(())
}
