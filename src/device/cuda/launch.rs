//! Running a kernel: the one place where the driver is told to.

use super::Cuda;
use super::failure::{Task, device_error};
use super::memory::{Buffer, Indices};
use crate::Result;
use crate::device::Tensor;
use cudarc::driver::result;
use std::ffi::c_void;

/// How many threads run a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory a block.
    pub shared: usize,
}

impl Shape {
    /// `blocks` blocks of `threads` threads, without dynamic shared memory.
    pub fn new(blocks: usize, threads: usize) -> Self {
        Self::grid([blocks, 1, 1], threads)
    }

    /// A grid of `blocks` (x, y, z) blocks of `threads` threads, without dynamic shared memory.
    pub fn grid(blocks: [usize; 3], threads: usize) -> Self {
        Self { grid: blocks.map(narrow), block: [narrow(threads), 1, 1], shared: 0 }
    }

    /// A thread for each of `len` elements, `threads` a block.
    pub fn covering(len: usize, threads: usize) -> Self {
        Self::new(len.div_ceil(threads), threads)
    }

    /// Blocks of the grid.
    pub fn blocks(&self) -> usize {
        self.grid.iter().map(|&n| n as usize).product()
    }

    /// The same with `bytes` of dynamic shared memory a block.
    pub fn shared(self, bytes: usize) -> Self {
        Self { shared: bytes, ..self }
    }
}

/// A dimension as kernels take it.
pub fn narrow(count: usize) -> u32 {
    u32::try_from(count).expect("a kernel's dimensions fit 32 bits")
}

/// One argument of a kernel, as it is passed.
#[derive(Clone, Copy, Debug)]
pub enum Passed {
    /// A pointer, or a 64-bit integer.
    Long(u64),
    /// A 32-bit integer.
    Int(u32),
    Float(f32),
}

impl Passed {
    /// The letter that build.rs gives a parameter of this kind.
    fn letter(self) -> u8 {
        match self {
            Self::Long(_) => b'l',
            Self::Int(_) => b'i',
            Self::Float(_) => b'f',
        }
    }

    fn pointer(&mut self) -> *mut c_void {
        match self {
            Self::Long(value) => std::ptr::from_mut(value).cast(),
            Self::Int(value) => std::ptr::from_mut(value).cast(),
            Self::Float(value) => std::ptr::from_mut(value).cast(),
        }
    }
}

/// What a kernel can be given. A `usize` is a dimension: 32 bits in the kernel. `None` is a null pointer.
pub trait Argument {
    fn pass(&self) -> Passed;
}

macro_rules! arguments {
    ($($type:ty: $self:ident => $passed:expr;)+) => {
        $(impl Argument for $type {
            fn pass(&$self) -> Passed {
                $passed
            }
        })+
    };
}

arguments! {
    Buffer: self => Passed::Long(self.address());
    Indices: self => Passed::Long(self.address());
    Tensor<Cuda>: self => Passed::Long(self.buffer.address());
    u64: self => Passed::Long(*self);
    u32: self => Passed::Int(*self);
    usize: self => Passed::Int(narrow(*self));
    bool: self => Passed::Int(u32::from(*self));
    f32: self => Passed::Float(*self);
}

impl<T: Argument> Argument for &T {
    fn pass(&self) -> Passed {
        (**self).pass()
    }
}

impl<T: Argument> Argument for &mut T {
    fn pass(&self) -> Passed {
        (**self).pass()
    }
}

impl<T: Argument> Argument for Option<T> {
    fn pass(&self) -> Passed {
        self.as_ref().map_or(Passed::Long(0), Argument::pass)
    }
}

/// The arguments of [`Cuda::launch`]: `args![x, w, y, rows, eps]`.
#[macro_export]
macro_rules! args {
    ($($argument:expr),* $(,)?) => {
        &mut [$($crate::device::cuda::Argument::pass(&$argument)),*]
    };
}

impl Cuda {
    /// Runs a kernel after all that was started before. An empty grid runs nothing.
    ///
    /// # Panics
    /// If there is no such kernel, or its parameters are of other kinds than `arguments`.
    pub fn launch(&self, kernel: &str, shape: Shape, arguments: &mut [Passed]) -> Result<()> {
        if shape.grid.contains(&0) {
            return Ok(());
        }
        self.bind()?;
        let function = self.shared.modules.function(self, kernel)?;
        assert!(
            arguments.iter().map(|argument| argument.letter()).eq(function.signature.bytes()),
            "kernel {kernel} takes {}, not {arguments:?}",
            function.signature
        );
        let shared = narrow(shape.shared);
        let failed = |error| device_error(self, Task::Run(kernel.to_owned()), error);
        function.allow(shared).map_err(failed)?;
        let given = arguments.iter().filter_map(|argument| match argument {
            Passed::Long(value) => Some(*value),
            _ => None,
        });
        let _turn = self.turn_with(given);
        let mut pointers = [std::ptr::null_mut(); 32];
        for (pointer, argument) in pointers.iter_mut().zip(arguments.iter_mut()) {
            *pointer = argument.pointer();
        }
        let pointers = &mut pointers[..arguments.len()];
        let ([x, y, z], [bx, by, bz]) = (shape.grid, shape.block);
        // SAFETY: the kernel is loaded; the arguments are as many and of the kinds that its PTX declares. Their device
        // memory lives: what a buffer gives back is handed out again only to later work of this one stream.
        unsafe { result::launch_kernel(function.handle, (x, y, z), (bx, by, bz), shared, self.stream(), pointers) }
            .map_err(failed)
    }
}
