//! The C functions of cublasLt. Descriptors are boxes given out as pointers.

use super::multiply::{Element, Layout, Matrix, Product};
use crate::driver::{Code, State, state};
use crate::memory::Table;
use crate::race::report::Kind;
use std::ffi::{c_int, c_void};

type Handle = *mut c_void;

/// cublasStatus_t.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Status(u32);

const SUCCESS: Status = Status(0);
const INVALID_VALUE: Status = Status(7);
const EXECUTION_FAILED: Status = Status(13);
const NOT_SUPPORTED: Status = Status(15);

#[derive(Clone, Copy, Default)]
struct Description {
    transpose: [bool; 3],
    epilogue: u32,
    bias: u64,
    bias_stride: i64,
    device_scalars: bool,
}

/// cublasLtMatmulHeuristicResult_t.
#[repr(C)]
pub struct Heuristic {
    algorithm: [u64; 8],
    workspace: usize,
    state: Status,
    waves: f32,
    reserved: [c_int; 4],
}

/// Gives a new descriptor to the program, which hands it back to `release`.
///
/// # Safety
/// `to` is valid for a write.
unsafe fn create<T>(to: *mut Handle, value: T) -> Status {
    // SAFETY: the caller's contract.
    unsafe { to.write(Box::into_raw(Box::new(value)).cast()) };
    SUCCESS
}

/// # Safety
/// `handle` came from `create` of the same type and is not used again.
unsafe fn release<T>(handle: Handle) -> Status {
    if !handle.is_null() {
        // SAFETY: the caller's contract.
        drop(unsafe { Box::from_raw(handle.cast::<T>()) });
    }
    SUCCESS
}

/// An attribute's value as a number of its size.
///
/// # Safety
/// `from` holds `bytes` bytes.
unsafe fn number(from: *const c_void, bytes: usize) -> u64 {
    let mut value = [0; 8];
    // SAFETY: at most the bytes the program says are there.
    unsafe { std::ptr::copy_nonoverlapping(from.cast::<u8>(), value.as_mut_ptr(), bytes.min(8)) };
    u64::from_le_bytes(value)
}

/// # Safety
/// As cublasLt.h's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtCreate(handle: *mut Handle) -> Status {
    // SAFETY: the program's pointer.
    unsafe { create(handle, 0u8) }
}

/// # Safety
/// As cublasLt.h's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtDestroy(handle: Handle) -> Status {
    // SAFETY: made by cublasLtCreate.
    unsafe { release::<u8>(handle) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cublasLtGetVersion() -> usize {
    130_000
}

/// # Safety
/// As cublasLt.h's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatrixLayoutCreate(
    layout: *mut Handle,
    kind: u32,
    rows: u64,
    columns: u64,
    leading: i64,
) -> Status {
    let Some(element) = Element::from_cuda(kind) else { return NOT_SUPPORTED };
    let value = Layout { element, rows, columns, leading, row_major: false, batch: 1, batch_stride: 0 };
    // SAFETY: the program's pointer.
    unsafe { create(layout, value) }
}

/// # Safety
/// As cublasLt.h's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatrixLayoutDestroy(layout: Handle) -> Status {
    // SAFETY: made by cublasLtMatrixLayoutCreate.
    unsafe { release::<Layout>(layout) }
}

/// # Safety
/// As cublasLt.h's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatrixLayoutSetAttribute(
    layout: Handle,
    attribute: u32,
    from: *const c_void,
    bytes: usize,
) -> Status {
    // SAFETY: made by cublasLtMatrixLayoutCreate; the buffer holds `bytes`.
    let (layout, value) = unsafe { (&mut *layout.cast::<Layout>(), number(from, bytes)) };
    match attribute {
        1 if value <= 1 => layout.row_major = value == 1,
        2 => layout.rows = value,
        3 => layout.columns = value,
        4 => layout.leading = value as i64,
        5 => layout.batch = value as i32,
        6 => layout.batch_stride = value as i64,
        _ => return NOT_SUPPORTED,
    }
    SUCCESS
}

/// # Safety
/// As cublasLt.h's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulDescCreate(description: *mut Handle, compute: u32, scale: u32) -> Status {
    // CUBLAS_COMPUTE_32F, its pedantic form, and the fast forms, which are computed in full f32 here; scalars are f32.
    if !matches!(compute, 68 | 69 | 74 | 75 | 77) || scale != 0 {
        return NOT_SUPPORTED;
    }
    // SAFETY: the program's pointer.
    unsafe { create(description, Description { epilogue: 1, ..Description::default() }) }
}

/// # Safety
/// As cublasLt.h's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulDescDestroy(description: Handle) -> Status {
    // SAFETY: made by cublasLtMatmulDescCreate.
    unsafe { release::<Description>(description) }
}

/// # Safety
/// As cublasLt.h's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulDescSetAttribute(
    description: Handle,
    attribute: u32,
    from: *const c_void,
    bytes: usize,
) -> Status {
    // SAFETY: made by cublasLtMatmulDescCreate; the buffer holds `bytes`.
    let (description, value) = unsafe { (&mut *description.cast::<Description>(), number(from, bytes)) };
    match attribute {
        2 if value <= 1 => description.device_scalars = value == 1,
        // N, T and C of cublasOperation_t; C is T for real numbers.
        3..=5 if value <= 2 => description.transpose[attribute as usize - 3] = value != 0,
        7 => description.epilogue = value as u32,
        8 => description.bias = value,
        10 => description.bias_stride = value as i64,
        // Hints: the number of multiprocessors, fast accumulation of fp8.
        15 | 25 => {}
        _ => return NOT_SUPPORTED,
    }
    SUCCESS
}

/// # Safety
/// As cublasLt.h's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulPreferenceCreate(preference: *mut Handle) -> Status {
    // SAFETY: the program's pointer.
    unsafe { create(preference, 0u8) }
}

/// # Safety
/// As cublasLt.h's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulPreferenceDestroy(preference: Handle) -> Status {
    // SAFETY: made by cublasLtMatmulPreferenceCreate.
    unsafe { release::<u8>(preference) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cublasLtMatmulPreferenceSetAttribute(
    _preference: Handle,
    _attribute: u32,
    _from: *const c_void,
    _bytes: usize,
) -> Status {
    SUCCESS
}

/// # Safety
/// As cublasLt.h's function.
#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments)] // cublasLt.h's signature.
pub unsafe extern "C" fn cublasLtMatmulAlgoGetHeuristic(
    _handle: Handle,
    description: Handle,
    _a: Handle,
    _b: Handle,
    _c: Handle,
    _d: Handle,
    _preference: Handle,
    requested: c_int,
    results: *mut Heuristic,
    count: *mut c_int,
) -> Status {
    // SAFETY: made by cublasLtMatmulDescCreate.
    let description = unsafe { &*description.cast::<Description>() };
    if requested < 1 || description.transpose[2] || description.device_scalars {
        return NOT_SUPPORTED;
    }
    // SAFETY: the program's pointers, with room for at least one result.
    unsafe {
        results.write(Heuristic { algorithm: [0; 8], workspace: 0, state: SUCCESS, waves: 1.0, reserved: [0; 4] });
        count.write(1);
    }
    SUCCESS
}

/// # Safety
/// As cublasLt.h's function.
#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments)] // cublasLt.h's signature.
pub unsafe extern "C" fn cublasLtMatmul(
    _handle: Handle,
    description: Handle,
    alpha: *const f32,
    a: u64,
    a_layout: Handle,
    b: u64,
    b_layout: Handle,
    beta: *const f32,
    c: u64,
    c_layout: Handle,
    d: u64,
    d_layout: Handle,
    _algorithm: *const c_void,
    _workspace: u64,
    _workspace_bytes: usize,
    stream: Handle,
) -> Status {
    // SAFETY: the program's descriptors and host scalars, alive during the call.
    let (description, alpha, beta, layouts) = unsafe {
        let layout = |handle: Handle| *handle.cast::<Layout>();
        let layouts = [layout(a_layout), layout(b_layout), layout(c_layout), layout(d_layout)];
        (*description.cast::<Description>(), alpha.read(), beta.read(), layouts)
    };
    let [a_layout, b_layout, c_layout, d_layout] = layouts;
    let matrices = [(a, a_layout), (b, b_layout), (c, c_layout), (d, d_layout)];
    let mut state = state();
    if !state.records(stream) {
        return product(&mut state, &description, (alpha, beta), matrices);
    }
    let recorded = state.submit(stream, move |state| match product(state, &description, (alpha, beta), matrices) {
        SUCCESS => Ok(()),
        _ => Err(Code::LAUNCH_FAILED),
    });
    if recorded.is_ok() { SUCCESS } else { EXECUTION_FAILED }
}

/// Makes a product and accounts for it.
fn product(state: &mut State, description: &Description, scalars: (f32, f32), matrices: [(u64, Layout); 4]) -> Status {
    if state.healthy().is_err() {
        return EXECUTION_FAILED;
    }
    let memory = state.device.memory.clone();
    match multiply(&memory, description, scalars, matrices) {
        Ok(()) => {
            let [(_, a), .., (_, d)] = matrices;
            let depth = if description.transpose[0] { a.rows } else { a.columns };
            state.multiplied(2 * depth * d.rows * d.columns * d.batch.max(1) as u64);
            SUCCESS
        }
        Err((status, None)) => status,
        Err((status, Some((kind, text)))) => {
            state.report(kind, &text);
            status
        }
    }
}

type Failure = (Status, Option<(Kind, String)>);

fn place<'m>(memory: &'m Table, what: &str, address: u64, layout: Layout, read: bool) -> Result<Matrix<'m>, Failure> {
    let bytes = layout.bytes();
    let Some((buffer, offset)) = memory.range(address, bytes) else {
        let text = format!(
            "out of bounds: cublasLtMatmul's {what} spans {bytes} bytes ({layout:?}), which no allocation holds, address {address:#x}"
        );
        return Err((EXECUTION_FAILED, Some((Kind::OutOfBounds, text))));
    };
    if !address.is_multiple_of(layout.element.bytes()) {
        let text = format!("misaligned: cublasLtMatmul's {what}, address {address:#x}");
        return Err((EXECUTION_FAILED, Some((Kind::Misaligned, text))));
    }
    // Padding between rows need not be written, so only dense matrices are checked.
    let minor = if layout.row_major { layout.columns } else { layout.rows };
    if read
        && layout.batch <= 1
        && minor as i64 == layout.leading
        && let Some(at) = buffer.first_unwritten(offset, bytes)
    {
        let text = format!(
            "uninitialised: cublasLtMatmul's {what} has bytes never written, the first at offset {at}, address {address:#x}"
        );
        return Err((EXECUTION_FAILED, Some((Kind::Uninitialised, text))));
    }
    Ok(Matrix { layout, buffer, offset })
}

fn multiply(
    memory: &Table,
    description: &Description,
    (alpha, beta): (f32, f32),
    matrices: [(u64, Layout); 4],
) -> Result<(), Failure> {
    let (relu, gelu, biased) = match description.epilogue {
        1 => (false, false, false),
        2 => (true, false, false),
        4 => (false, false, true),
        6 => (true, false, true),
        32 => (false, true, false),
        36 => (false, true, true),
        _ => return Err((NOT_SUPPORTED, None)),
    };
    let [(a, a_layout), (b, b_layout), (c, c_layout), (d, d_layout)] = matrices;
    let bias = if biased {
        let batch_stride = description.bias_stride;
        let layout = Layout {
            element: d_layout.element,
            rows: d_layout.rows,
            columns: 1,
            leading: d_layout.rows as i64,
            row_major: false,
            batch: if batch_stride == 0 { 1 } else { d_layout.batch },
            batch_stride,
        };
        Some(place(memory, "bias", description.bias, layout, true)?)
    } else {
        None
    };
    let product = Product {
        alpha,
        beta,
        a: place(memory, "A", a, a_layout, true)?,
        b: place(memory, "B", b, b_layout, true)?,
        c: if beta == 0.0 { None } else { Some(place(memory, "C", c, c_layout, true)?) },
        d: place(memory, "D", d, d_layout, false)?,
        transpose: [description.transpose[0], description.transpose[1]],
        bias,
        relu,
        gelu,
    };
    match product.depth() {
        Some(depth) => {
            product.run(depth);
            Ok(())
        }
        None => Err((INVALID_VALUE, None)),
    }
}
