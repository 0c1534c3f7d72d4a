use super::Rope;
use crate::Result;
use crate::device::{Cpu, Tensor};
impl Rope for Cpu {
    fn rope_table(
        &self,
        positions: &Vec<u32>,
        inv_freq: &[f32],
        cos: &mut Tensor<Self>,
        sin: &mut Tensor<Self>,
    ) -> Result<()> {
        let h = inv_freq.len();
        let (c, s) = (cos.buffer.f32_mut(), sin.buffer.f32_mut());
        for (t, &p) in positions.iter().enumerate() {
            for i in 0..h {
                let a = p as f32 * inv_freq[i];
                c[t * h + i] = a.cos();
                s[t * h + i] = a.sin();
            }
        }
        Ok(())
    }
    fn rope(&self, x: &mut Tensor<Self>, cos: &Tensor<Self>, sin: &Tensor<Self>, inverse: bool) -> Result<()> {
        let h = cos.cols();
        let n = x.cols();
        let (c, s) = (cos.buffer.f32(), sin.buffer.f32());
        for (t, row) in x.buffer.f32_mut().chunks_mut(n).enumerate() {
            for head in row.chunks_mut(2 * h) {
                for i in 0..h {
                    let (a, b) = (head[i], head[i + h]);
                    let (c, s) = (c[t * h + i], if inverse { -s[t * h + i] } else { s[t * h + i] });
                    head[i] = a * c - b * s;
                    head[i + h] = b * c + a * s;
                }
            }
        }
        Ok(())
    }
}
