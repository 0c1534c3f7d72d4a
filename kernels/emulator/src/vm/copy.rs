//! Asynchronous copies under way: what cp.async fetched stays here and reaches shared memory at the wait, as late as the
//! hardware may bring it.

use std::collections::VecDeque;

/// One cp.async of a warp.
pub struct Batch {
    pub pc: u32,
    pub mask: u32,
    pub bytes: u8,
    pub to: [u32; 32],
    pub data: Box<[[u32; 4]; 32]>,
    /// The group of each lane's copy: how many it had committed before.
    group: [u32; 32],
}

#[derive(Default)]
pub struct Copies {
    batches: VecDeque<Batch>,
    commits: [u32; 32],
    spare: Vec<Batch>,
}

impl Copies {
    pub fn clear(&mut self) {
        self.batches.clear();
        self.commits = [0; 32];
    }

    pub fn start(&mut self, pc: u32, mask: u32, bytes: u8, fill: impl FnOnce(&mut [u32; 32], &mut [[u32; 4]; 32])) {
        let mut batch = self.spare.pop().unwrap_or_else(|| Batch {
            pc,
            mask,
            bytes,
            to: [0; 32],
            data: Box::new([[0; 4]; 32]),
            group: [0; 32],
        });
        (batch.pc, batch.mask, batch.bytes, batch.group) = (pc, mask, bytes, self.commits);
        fill(&mut batch.to, &mut batch.data);
        self.batches.push_back(batch);
    }

    pub fn commit(&mut self, mask: u32) {
        super::each(mask, |lane| self.commits[lane] += 1);
    }

    /// Hands out what arrives when the lanes of `mask` wait until at most `pending` of their groups are under way.
    pub fn arrive(&mut self, mask: u32, pending: u32, mut land: impl FnMut(&Batch, u32)) {
        let commits = self.commits;
        for batch in &mut self.batches {
            let mut landed = 0;
            super::each(batch.mask & mask, |lane| {
                // Copies not yet committed belong to no group and are not waited for.
                landed |= u32::from(batch.group[lane] + pending < commits[lane]) << lane;
            });
            if landed != 0 {
                land(batch, landed);
                batch.mask &= !landed;
            }
        }
        while self.batches.front().is_some_and(|batch| batch.mask == 0) {
            self.spare.extend(self.batches.pop_front());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_land_in_order_and_only_when_waited_for() {
        let mut copies = Copies::default();
        let landed = |copies: &mut Copies, pending| {
            let mut all = Vec::new();
            copies.arrive(3, pending, |batch, mask| all.push((batch.pc, mask)));
            all
        };
        copies.start(10, 3, 16, |_, _| {});
        assert_eq!(landed(&mut copies, 0), [], "nothing is committed");
        copies.commit(3);
        copies.start(11, 1, 16, |_, _| {});
        copies.commit(3);
        assert_eq!(landed(&mut copies, 2), []);
        assert_eq!(landed(&mut copies, 1), [(10, 3)]);
        assert_eq!(landed(&mut copies, 0), [(11, 1)]);
    }
}
