//! Asynchronous copies under way: what cp.async fetched stays here and reaches shared memory at the wait, as late as the
//! hardware may bring it.

use std::collections::VecDeque;

/// One cp.async of a warp.
pub struct Batch {
    pub pc: u32,
    pub mask: u32,
    pub bytes: u8,
    pub lanes: Box<Places>,
}

/// What each lane copies.
pub struct Places {
    pub to: [u32; 32],
    pub data: [[u32; 4]; 32],
    /// The group of each lane's copy: how many it had committed before.
    group: [u32; 32],
}

#[derive(Default)]
pub struct Copies {
    batches: VecDeque<Batch>,
    commits: [u32; 32],
    /// Boxes, because they move between here and the batches.
    #[allow(clippy::vec_box)]
    spare: Vec<Box<Places>>,
}

impl Copies {
    pub fn clear(&mut self) {
        self.batches.clear();
        self.commits = [0; 32];
    }

    /// Room for a copy, to be filled and started.
    pub fn room(&mut self) -> Box<Places> {
        self.spare.pop().unwrap_or_else(|| Box::new(Places { to: [0; 32], data: [[0; 4]; 32], group: [0; 32] }))
    }

    pub fn start(&mut self, pc: u32, mask: u32, bytes: u8, mut lanes: Box<Places>) {
        lanes.group = self.commits;
        self.batches.push_back(Batch { pc, mask, bytes, lanes });
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
                landed |= u32::from(batch.lanes.group[lane] + pending < commits[lane]) << lane;
            });
            if landed != 0 {
                land(batch, landed);
                batch.mask &= !landed;
            }
        }
        while self.batches.front().is_some_and(|batch| batch.mask == 0) {
            self.spare.extend(self.batches.pop_front().map(|batch| batch.lanes));
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
        let room = copies.room();
        copies.start(10, 3, 16, room);
        assert_eq!(landed(&mut copies, 0), [], "nothing is committed");
        copies.commit(3);
        let room = copies.room();
        copies.start(11, 1, 16, room);
        copies.commit(3);
        assert_eq!(landed(&mut copies, 2), []);
        assert_eq!(landed(&mut copies, 1), [(10, 3)]);
        assert_eq!(landed(&mut copies, 0), [(11, 1)]);
    }
}
