//! cublasLtMatmul and what it needs: handles, descriptors, layouts, preferences, a heuristic that always has one
//! algorithm. Products are summed in f32 in the order of k.

mod api;
mod multiply;
