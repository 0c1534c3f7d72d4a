//! The operations of compute capability 9.0 (PTX for sm_90a): products by a warpgroup, barriers in shared memory, bulk
//! copies. Clusters and tensor maps are not supported.

use super::Result;
use super::decode::Decoder;
use super::op::{Address, NONE, Op, Role, Slot, address_slots};
use super::opcode::Modifiers;
use super::parse::Operand;
use super::types::{Class, Type};

/// Where a warp's 16 rows of A come from: a descriptor of shared memory, or the fragment of m16n8k16.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Left {
    Shared(Slot),
    Registers([Slot; 4]),
}

/// `wgmma.mma_async.m64nNk16`: d = a b, or d += a b where `add` holds; bf16 operands, both along k, f32 accumulators.
#[derive(Clone, Debug, PartialEq)]
pub struct Wgmma {
    /// Accumulators, four for each eight columns: the same registers before and after.
    pub c: Box<[Slot]>,
    pub d: Box<[Slot]>,
    pub a: Left,
    pub b: Slot,
    pub add: (Slot, bool),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Hopper {
    Wgmma(Wgmma),
    WgmmaFence,
    WgmmaCommit,
    WgmmaWait(u32),
    /// An mbarrier of `count` arrivals a phase.
    Init {
        barrier: Address,
        count: Slot,
    },
    Invalidate {
        barrier: Address,
    },
    /// `count` arrivals a lane, after the phase was told to wait for `bytes` more of copies; NONE for 1 and for 0.
    Arrive {
        barrier: Address,
        count: Slot,
        bytes: Slot,
    },
    /// Whether the phase of this parity is complete; `wait` lets the lanes wait for it.
    Test {
        d: Slot,
        barrier: Address,
        parity: Slot,
        wait: bool,
    },
    /// A copy from global to shared memory whose bytes the mbarrier counts.
    BulkCopy {
        to: Address,
        from: Address,
        bytes: Slot,
        barrier: Address,
    },
    /// `d` is the elected lane, `p` whether it is this one.
    Elect {
        d: Slot,
        p: Slot,
        mask: Slot,
    },
    /// Orders accesses by threads before those by copies in bulk and by wgmma.
    FenceProxy,
    /// Makes initialised mbarriers known to copies in bulk.
    FenceInit,
}

impl Hopper {
    /// Visits every register, sources before destinations.
    pub fn slots(&mut self, f: &mut dyn FnMut(Class, &mut Slot, Role)) {
        use Class::{Double as D, Predicate as P, Word as W};
        use Role::{Define, Use};
        match self {
            Self::Wgmma(m) => {
                match &mut m.a {
                    Left::Shared(descriptor) => f(D, descriptor, Use),
                    Left::Registers(slots) => slots.iter_mut().for_each(|slot| f(W, slot, Use)),
                }
                f(D, &mut m.b, Use);
                f(P, &mut m.add.0, Use);
                m.c.iter_mut().for_each(|slot| f(W, slot, Use));
                m.d.iter_mut().for_each(|slot| f(W, slot, Define));
            }
            Self::WgmmaFence | Self::WgmmaCommit | Self::WgmmaWait(_) | Self::FenceProxy | Self::FenceInit => {}
            Self::Init { barrier, count } => (address_slots(barrier, f), f(W, count, Use)).1,
            Self::Invalidate { barrier } => address_slots(barrier, f),
            Self::Arrive { barrier, count, bytes } => {
                address_slots(barrier, f);
                f(W, count, Use);
                f(W, bytes, Use);
            }
            Self::Test { d, barrier, parity, .. } => {
                address_slots(barrier, f);
                f(W, parity, Use);
                f(P, d, Define);
            }
            Self::BulkCopy { to, from, bytes, barrier } => {
                [to, from, barrier].into_iter().for_each(|address| address_slots(address, f));
                f(W, bytes, Use);
            }
            Self::Elect { d, p, mask } => {
                f(W, mask, Use);
                f(W, d, Define);
                f(P, p, Define);
            }
        }
    }
}

/// Registers of an operation that the tensor cores go on using after it: accumulators, and A's fragment.
pub fn asynchronous(op: &Op) -> Option<&Wgmma> {
    match op {
        Op::Hopper(hopper) => match &**hopper {
            Hopper::Wgmma(m) => Some(m),
            _ => None,
        },
        _ => None,
    }
}

fn op(hopper: Hopper) -> Result<Option<Op>> {
    Ok(Some(Op::Hopper(Box::new(hopper))))
}

/// How far an access reaches and how it is ordered: one block and its own order are all there is here.
fn scope(m: &mut Modifiers) {
    for name in ["release", "acquire", "relaxed", "cta", "cluster", "shared", "shared::cta"] {
        m.take(name);
    }
}

impl Decoder<'_> {
    pub(super) fn hopper(&mut self, base: &str, m: &mut Modifiers, o: &[Operand]) -> Result<Option<Op>> {
        match base {
            "wgmma" => self.wgmma(m, o),
            "mbarrier" => self.mbarrier(m, o),
            "setmaxnreg" if (m.take("inc") | m.take("dec")) & m.take("sync") & m.take("aligned") & m.take("u32") => {
                match self.operand(o, 0)? {
                    Operand::Number(count @ 24..=256) if count.is_multiple_of(8) => Ok(Some(Op::Nop)),
                    other => self.fail(format!("setmaxnreg to {other:?} registers")),
                }
            }
            "elect" if m.take("sync") => {
                let Operand::Pair(d, p) = self.operand(o, 0)?.clone() else { return Ok(None) };
                op(Hopper::Elect {
                    d: self.register(&d, Class::Word)?,
                    p: self.register(&p, Class::Predicate)?,
                    mask: self.source(o, 1, Type::B32)?,
                })
            }
            _ => Ok(None),
        }
    }

    /// `fence` where it orders more than one thread's accesses to global memory.
    pub(super) fn fence(&mut self, m: &mut Modifiers) -> Option<Hopper> {
        if m.take("mbarrier_init") {
            return (m.take("release") & m.take("cluster")).then_some(Hopper::FenceInit);
        }
        if m.take("proxy") & m.take("async") {
            m.take("shared::cta");
            return Some(Hopper::FenceProxy);
        }
        None
    }

    fn wgmma(&mut self, m: &mut Modifiers, o: &[Operand]) -> Result<Option<Op>> {
        let kind = m.one_of(&[("fence", 0), ("commit_group", 1), ("wait_group", 2), ("mma_async", 3)]);
        if !(m.take("sync") & m.take("aligned")) {
            return Ok(None);
        }
        match kind {
            Some(0) => op(Hopper::WgmmaFence),
            Some(1) => op(Hopper::WgmmaCommit),
            Some(2) => match self.operand(o, 0)? {
                Operand::Number(pending @ 0..=7) => op(Hopper::WgmmaWait(*pending as u32)),
                other => self.fail(format!("wgmma.wait_group of {other:?}")),
            },
            Some(_) => self.mma_async(m, o),
            None => Ok(None),
        }
    }

    fn mma_async(&mut self, m: &mut Modifiers, o: &[Operand]) -> Result<Option<Op>> {
        let columns = (8..=256).step_by(8).find(|n| m.take(&format!("m64n{n}k16")));
        let (Some(columns), [Some(Type::F32), Some(Type::Bf16), Some(Type::Bf16)]) =
            (columns, [m.kind(), m.kind(), m.kind()])
        else {
            return Ok(None);
        };
        let Operand::Vector(d) = self.operand(o, 0)? else { return Ok(None) };
        if d.len() != columns / 2 {
            return self.fail(format!("{} accumulators for {columns} columns", d.len()));
        }
        let d = d.iter().map(|part| self.register(part, Class::Word)).collect::<Result<Box<[Slot]>>>()?;
        let a = match self.operand(o, 1)?.clone() {
            Operand::Vector(parts) if parts.len() == 4 => {
                let mut slots = [NONE; 4];
                for (slot, part) in slots.iter_mut().zip(&parts) {
                    *slot = self.register(part, Class::Word)?;
                }
                Left::Registers(slots)
            }
            descriptor => Left::Shared(self.value(&descriptor, Type::B64)?),
        };
        let b = self.source(o, 2, Type::B64)?;
        let add = self.predicate(&self.operand(o, 3)?.clone())?;
        // Both factors 1, and operands along k: what comes after is 1, 1, and 0 for each operand in shared memory.
        let plain = match a {
            Left::Shared(_) => [1, 1, 0, 0].as_slice(),
            Left::Registers(_) => &[1, 1, 0],
        };
        let rest: Vec<u64> =
            o[4..].iter().map(|part| if let Operand::Number(n) = part { *n } else { u64::MAX }).collect();
        if rest != plain {
            return self.fail("wgmma.mma_async is supported with factors of 1 and operands along k alone");
        }
        op(Hopper::Wgmma(Wgmma { c: d.clone(), d, a, b, add }))
    }

    fn mbarrier(&mut self, m: &mut Modifiers, o: &[Operand]) -> Result<Option<Op>> {
        let kinds = [("init", 0), ("inval", 1), ("arrive", 2), ("expect_tx", 3), ("try_wait", 4), ("test_wait", 5)];
        let kind = m.one_of(&kinds);
        scope(m);
        let expect = m.take("expect_tx");
        let parity = m.take("parity");
        if !m.take("b64") {
            return Ok(None);
        }
        match kind {
            Some(0) => {
                op(Hopper::Init { barrier: self.address(self.operand(o, 0)?)?, count: self.source(o, 1, Type::U32)? })
            }
            Some(1) => op(Hopper::Invalidate { barrier: self.address(self.operand(o, 0)?)? }),
            // A state is for waits that name it instead of a parity, which are not supported.
            Some(2) if matches!(self.operand(o, 0)?, Operand::Name(name) if name == "_") => {
                let barrier = self.address(self.operand(o, 1)?)?;
                let third = if o.len() > 2 { self.source(o, 2, Type::U32)? } else { NONE };
                let (count, bytes) = if expect { (NONE, third) } else { (third, NONE) };
                op(Hopper::Arrive { barrier, count, bytes })
            }
            // A last operand of try_wait is how long hardware may wait.
            Some(4 | 5) if parity => op(Hopper::Test {
                d: self.target(o, 0, Class::Predicate)?,
                barrier: self.address(self.operand(o, 1)?)?,
                parity: self.source(o, 2, Type::U32)?,
                wait: kind == Some(4),
            }),
            _ => Ok(None),
        }
    }

    /// `cp.async.bulk`, whose first two parts are taken.
    pub(super) fn bulk_copy(&mut self, m: &mut Modifiers, o: &[Operand]) -> Result<Option<Op>> {
        // Without clusters, a block's part of its cluster's shared memory is its own.
        let shared = m.take("shared::cluster") | m.take("shared::cta");
        if !(shared & m.take("global") & m.take("mbarrier::complete_tx::bytes")) {
            return Ok(None);
        }
        op(Hopper::BulkCopy {
            to: self.address(self.operand(o, 0)?)?,
            from: self.address(self.operand(o, 1)?)?,
            bytes: self.source(o, 2, Type::U32)?,
            barrier: self.address(self.operand(o, 3)?)?,
        })
    }
}
