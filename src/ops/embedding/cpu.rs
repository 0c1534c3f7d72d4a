use super::Embedding;
use crate::Result;
use crate::device::{Cpu, Tensor};
impl Embedding for Cpu {
    fn embedding(&self, ids: &Vec<u32>, table: &Tensor<Self>, scale: f32, y: &mut Tensor<Self>) -> Result<()> {
        let n = table.cols();
        for (row, &id) in y.buffer.f32_mut().chunks_mut(n).zip(ids) {
            table.buffer.view().slice(id as usize * n..(id as usize + 1) * n).widen(row);
            for v in row {
                *v *= scale;
            }
        }
        Ok(())
    }
    fn embedding_backward(
        &self,
        ids: &Vec<u32>,
        dy: &Tensor<Self>,
        scale: f32,
        dtable: &mut Tensor<Self>,
    ) -> Result<()> {
        let n = dy.cols();
        let d = dtable.buffer.f32_mut();
        for (row, &id) in dy.buffer.f32().chunks(n).zip(ids) {
            for (a, b) in d[id as usize * n..].iter_mut().zip(row) {
                *a += scale * b;
            }
        }
        Ok(())
    }
}
