//! Matrix products through cuBLASLt: one fixed algorithm a product, never split along k.

use super::failure::{at, device_error};
use super::{Buffer, Cuda};
use crate::device::DType;
use crate::{Error, Result};
use cudarc::cublaslt::{result, sys};
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Mutex;

/// Which of a product's operands is transposed. All matrices are row-major and dense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// `c[m, n] = a[m, k] b[n, k]^T`: a linear layer.
    Nt,
    /// `c[m, n] = a[m, k] b[k, n]`: the gradient of its input.
    Nn,
    /// `c[m, n] = a[k, m]^T b[k, n]`: the gradient of its weight.
    Tn,
}

/// A product of matrices: `c = a b`, or `c += a b`. `a` and `b` have one dtype, `c` that or f32; sums are f32.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    pub layout: Layout,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub accumulate: bool,
}

/// What an algorithm is chosen for: everything but the number of rows that the batch gives, so that a row's bits do not
/// depend on the batch.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    layout: Layout,
    dtypes: Dtypes,
    /// The two sizes that the weights give.
    fixed: [usize; 2],
    accumulate: bool,
}

/// Element types of a product.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Dtypes {
    factors: DType,
    result: DType,
}

/// The number of rows that algorithms are chosen for, whatever the batch.
const TYPICAL_ROWS: usize = 256;
/// Scratch memory that an algorithm may ask for: what NVIDIA advises for Hopper.
const WORKSPACE: usize = 32 << 20;

#[derive(Clone, Copy)]
struct Algorithm {
    algorithm: sys::cublasLtMatmulAlgo_t,
    workspace: usize,
}

/// cuBLASLt's handle and the algorithms chosen so far.
pub(super) struct Blas {
    handle: sys::cublasLtHandle_t,
    algorithms: Mutex<HashMap<Key, Algorithm>>,
}

// SAFETY: cuBLASLt's functions may be called with one handle from many threads.
unsafe impl Send for Blas {}
// SAFETY: as above.
unsafe impl Sync for Blas {}

fn failed(error: result::CublasError) -> Error {
    Error::Device(format!(
        "cuBLASLt failed ({:?}): this is a fault of the program or the driver; use --device cpu",
        error.0
    ))
}

impl Blas {
    /// The device's context is current.
    pub fn new() -> Result<Self> {
        // cudarc would panic.
        // SAFETY: asks the dynamic loader for a library by name, nothing else.
        if !unsafe { sys::is_culib_present() } {
            return Err(Error::Device(
                "cuBLASLt is missing (libcublasLt.so.13): install CUDA 13's libraries, or put pip's nvidia/cu13/lib in LD_LIBRARY_PATH"
                    .into(),
            ));
        }
        Ok(Self { handle: result::create_handle().map_err(failed)?, algorithms: Mutex::default() })
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and not used again. There is no one to tell of a failure.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

/// A matrix layout, destroyed on drop.
struct Matrix(sys::cublasLtMatrixLayout_t);

impl Matrix {
    /// cuBLAS is column-major: a row-major `[rows, cols]` matrix is its `[cols, rows]`.
    fn row_major(dtype: DType, rows: usize, cols: usize) -> Result<Self> {
        let kind = match dtype {
            DType::F32 => sys::cudaDataType::CUDA_R_32F,
            DType::BF16 => sys::cudaDataType::CUDA_R_16BF,
            DType::F16 => sys::cudaDataType::CUDA_R_16F,
        };
        result::create_matrix_layout(kind, cols as u64, rows as u64, cols as i64).map(Self).map_err(failed)
    }
}

impl Drop for Matrix {
    fn drop(&mut self) {
        // SAFETY: made by `row_major`, and not used again.
        let _ = unsafe { result::destroy_matrix_layout(self.0) };
    }
}

/// A product's description, destroyed on drop.
struct Description(sys::cublasLtMatmulDesc_t);

impl Description {
    /// Sums in full f32, and which of cuBLAS's first and second operand is transposed.
    fn new(transposed: [bool; 2]) -> Result<Self> {
        let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let description =
            result::create_matmul_desc(compute, sys::cudaDataType::CUDA_R_32F).map(Self).map_err(failed)?;
        let attributes = [
            sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA,
            sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSB,
        ];
        for (attribute, transposed) in attributes.into_iter().zip(transposed) {
            let value = i32::from(transposed);
            // SAFETY: the description lives; the value is a cublasOperation_t, 4 bytes.
            unsafe {
                result::set_matmul_desc_attribute(
                    description.0,
                    attribute,
                    std::ptr::from_ref(&value).cast(),
                    size_of::<i32>(),
                )
            }
            .map_err(failed)?;
        }
        Ok(description)
    }
}

impl Drop for Description {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and not used again.
        let _ = unsafe { result::destroy_matmul_desc(self.0) };
    }
}

/// What an algorithm may be, destroyed on drop.
struct Preference(sys::cublasLtMatmulPreference_t);

impl Preference {
    /// [`WORKSPACE`] bytes, and no reduction over parts of k.
    fn new() -> Result<Self> {
        let preference = result::create_matmul_pref().map(Self).map_err(failed)?;
        let (workspace, reduction) = (WORKSPACE as u64, 0_u32);
        let settings: [(_, *const c_void, usize); 2] = [
            (
                sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                std::ptr::from_ref(&workspace).cast(),
                size_of::<u64>(),
            ),
            (
                sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                std::ptr::from_ref(&reduction).cast(),
                size_of::<u32>(),
            ),
        ];
        for (attribute, value, size) in settings {
            // SAFETY: the preference lives; each value is of the size that its attribute has.
            unsafe { result::set_matmul_pref_attribute(preference.0, attribute, value, size) }.map_err(failed)?;
        }
        Ok(preference)
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and not used again.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}

impl Product {
    /// Shapes `[rows, cols]` of a, b and c as they are stored.
    fn shapes(&self) -> [[usize; 2]; 3] {
        let Self { m, n, k, .. } = *self;
        match self.layout {
            Layout::Nt => [[m, k], [n, k], [m, n]],
            Layout::Nn => [[m, k], [k, n], [m, n]],
            Layout::Tn => [[k, m], [k, n], [m, n]],
        }
    }

    /// The sizes that do not come from the batch: of a weight's gradient the batch gives k, else m.
    fn fixed(&self) -> [usize; 2] {
        match self.layout {
            Layout::Nt | Layout::Nn => [self.n, self.k],
            Layout::Tn => [self.m, self.n],
        }
    }

    fn with_typical_rows(self) -> Self {
        match self.layout {
            Layout::Nt | Layout::Nn => Self { m: TYPICAL_ROWS, ..self },
            Layout::Tn => Self { k: TYPICAL_ROWS, ..self },
        }
    }

    /// c^T = b^T a^T: row-major matrices are cuBLAS's transposed ones, so b comes first.
    fn description(&self) -> Result<Description> {
        Description::new(match self.layout {
            Layout::Nt => [true, false],
            Layout::Nn => [false, false],
            Layout::Tn => [false, true],
        })
    }

    fn matrices(&self, dtypes: Dtypes) -> Result<[Matrix; 3]> {
        let [a, b, c] = self.shapes();
        Ok([
            Matrix::row_major(dtypes.factors, a[0], a[1])?,
            Matrix::row_major(dtypes.factors, b[0], b[1])?,
            Matrix::row_major(dtypes.result, c[0], c[1])?,
        ])
    }
}

impl Cuda {
    /// Runs a product after all that was started before.
    ///
    /// # Panics
    /// If a buffer is not as long as its matrix, `a` and `b` differ in dtype, or `c` has neither theirs nor f32.
    pub fn multiply(&self, product: Product, a: &Buffer, b: &Buffer, c: &mut Buffer) -> Result<()> {
        let dtypes = Dtypes { factors: a.dtype(), result: c.dtype() };
        assert_eq!(b.dtype(), dtypes.factors, "a and b have one dtype");
        assert!([DType::F32, dtypes.factors].contains(&dtypes.result), "c has that dtype, or is f32");
        let lengths = [a.len(), b.len(), c.len()];
        assert_eq!(product.shapes().map(|[rows, cols]| rows * cols), lengths, "buffers hold {product:?}");
        if product.m == 0 || product.n == 0 {
            return Ok(());
        }
        if product.k == 0 {
            return if product.accumulate { Ok(()) } else { crate::device::Backend::fill(self, c, 0.0) };
        }
        self.bind()?;
        let Algorithm { algorithm, workspace } = self.algorithm(product, dtypes)?;
        let scratch = self.workspace(workspace)?;
        let (description, [ma, mb, mc]) = (product.description()?, product.matrices(dtypes)?);
        let (alpha, beta) = (1.0_f32, if product.accumulate { 1.0_f32 } else { 0.0 });
        let (a, b, c) = (a.address() as *const c_void, b.address() as *const c_void, c.address() as *mut c_void);
        let turn = self.turn_with([a as u64, b as u64, c as u64, scratch.address()]);
        // SAFETY: the descriptors live until the call returns; the buffers hold the matrices (asserted above) and are handed
        // out again only to later work of this stream; a driver's stream is the runtime's.
        let done = unsafe {
            result::matmul(
                self.shared.blas.handle,
                description.0,
                std::ptr::from_ref(&alpha).cast(),
                std::ptr::from_ref(&beta).cast(),
                b,
                mb.0,
                a,
                ma.0,
                c,
                mc.0,
                c,
                mc.0,
                &algorithm,
                scratch.address() as *mut c_void,
                workspace,
                self.stream().cast(),
            )
        };
        let recording = turn.is_some();
        drop(turn);
        done.map_err(|error| {
            if recording {
                return failed(error);
            }
            // A lost device fails here first; the driver knows what happened.
            match self.shared.context.synchronize() {
                Err(cause) => device_error(self, at("multiply matrices"), cause),
                Ok(()) => failed(error),
            }
        })
    }

    /// The algorithm for a product's kind, chosen the first time.
    fn algorithm(&self, product: Product, dtypes: Dtypes) -> Result<Algorithm> {
        let key = Key { layout: product.layout, dtypes, fixed: product.fixed(), accumulate: product.accumulate };
        let blas = &self.shared.blas;
        let mut algorithms = blas.algorithms.lock().expect("no thread panics with the algorithms in hand");
        if let Some(&known) = algorithms.get(&key) {
            return Ok(known);
        }
        let typical = product.with_typical_rows();
        let (description, [a, b, c]) = (typical.description()?, typical.matrices(dtypes)?);
        let preference = Preference::new()?;
        // SAFETY: all descriptors live until the call returns.
        let found =
            unsafe { result::get_matmul_algo_heuristic(blas.handle, description.0, b.0, a.0, c.0, c.0, preference.0) }
                .map_err(failed)?;
        let chosen = Algorithm { algorithm: found.algo, workspace: found.workspaceSize };
        algorithms.insert(key, chosen);
        Ok(chosen)
    }
}
