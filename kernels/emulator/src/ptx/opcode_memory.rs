//! Statements to operations: memory, atomics, and what the threads of a warp or a block do together.

use super::Result;
use super::decode::{Constant, Decoder};
use super::op::*;
use super::opcode::Modifiers;
use super::parse::Operand;
use super::types::{Class, Type};

const ATOMICS: [(&str, AtomicOp); 10] = [
    ("add", AtomicOp::Add),
    ("min", AtomicOp::Min),
    ("max", AtomicOp::Max),
    ("and", AtomicOp::And),
    ("or", AtomicOp::Or),
    ("xor", AtomicOp::Xor),
    ("inc", AtomicOp::Inc),
    ("dec", AtomicOp::Dec),
    ("exch", AtomicOp::Exchange),
    ("cas", AtomicOp::CompareSwap),
];

fn window(m: &mut Modifiers) -> Window {
    let known = [
        ("global", Window::Generic),
        ("const", Window::Generic),
        ("shared", Window::Shared),
        ("shared::cta", Window::Shared),
        ("local", Window::Local),
        ("param", Window::Param),
    ];
    m.one_of(&known).unwrap_or(Window::Generic)
}

/// How an access is ordered: (strong, releases). How far it reaches and how caches treat it makes no difference here.
fn strength(m: &mut Modifiers) -> (bool, bool) {
    for name in ["weak", "cta", "gpu", "sys", "cluster", "nc", "ca", "cg", "cs", "lu", "cv", "wb", "wt"] {
        m.take(name);
    }
    for name in ["L1::no_allocate", "L1::evict_first", "L1::evict_last", "L2::128B", "L2::256B", "L2::64B", "noftz"] {
        m.take(name);
    }
    let strong = m.take("volatile") | m.take("relaxed") | m.take("acquire");
    let release = m.take("release") | m.take("acq_rel");
    (strong | release, release)
}

impl Decoder<'_> {
    pub(super) fn memory(&mut self, base: &str, m: &mut Modifiers, o: &[Operand]) -> Result<Option<Op>> {
        Ok(Some(match base {
            "ld" | "ldu" | "st" => return self.access(base == "st", m, o),
            "atom" | "red" => return self.atomic(base == "red", m, o),
            "ldmatrix" | "stmatrix" => return self.matrix(base == "stmatrix", m, o),
            "cp" if m.take("async") => {
                return if m.take("bulk") { self.bulk_copy(m, o) } else { self.copy_async(m, o) };
            }
            "mma" if m.take("sync") & m.take("aligned") => return self.mma(m, o),
            "shfl" if m.take("sync") => return self.shuffle(m, o),
            "vote" if m.take("sync") => {
                let modes = [
                    ("all", VoteMode::All),
                    ("any", VoteMode::Any),
                    ("uni", VoteMode::Uniform),
                    ("ballot", VoteMode::Ballot),
                ];
                let Some(mode) = m.one_of(&modes) else { return Ok(None) };
                if m.kind().is_none() {
                    return Ok(None);
                }
                let d = self.target(o, 0, if mode == VoteMode::Ballot { Class::Word } else { Class::Predicate })?;
                let (source, negated) = self.predicate(&self.operand(o, 1)?.clone())?;
                Op::Vote { mode, d, source, negated, mask: self.source(o, 2, Type::B32)? }
            }
            "match" if m.take("any") & m.take("sync") & m.take("b32") => Op::Match {
                d: self.target(o, 0, Class::Word)?,
                a: self.source(o, 1, Type::B32)?,
                mask: self.source(o, 2, Type::B32)?,
            },
            "redux" if m.take("sync") => {
                let (Some(op), Some(kind)) = (m.one_of(&ATOMICS), m.kind()) else { return Ok(None) };
                let (d, a) = (self.target(o, 0, Class::Word)?, self.source(o, 1, kind)?);
                Op::Reduce { op, signed: kind.signed(), d, a, mask: self.source(o, 2, Type::B32)? }
            }
            "bar" | "barrier" => return self.barrier(m, o),
            "wgmma" | "mbarrier" | "setmaxnreg" | "elect" => return self.hopper(base, m, o),
            _ => return Ok(None),
        }))
    }

    fn elements<'o>(&self, operand: &'o Operand) -> Vec<&'o Operand> {
        match operand {
            Operand::Vector(parts) => parts.iter().collect(),
            one => vec![one],
        }
    }

    /// At most `N` registers, each found by `slot`.
    fn slots<const N: usize>(
        &mut self,
        operand: &Operand,
        slot: impl Fn(&mut Self, &Operand) -> Result<Slot>,
    ) -> Result<[Slot; N]> {
        let mut slots = [NONE; N];
        let parts = self.elements(operand);
        if parts.len() > N {
            return self.fail(format!("{} registers where at most {N} can stand", parts.len()));
        }
        for (target, part) in slots.iter_mut().zip(parts) {
            *target = slot(self, part)?;
        }
        Ok(slots)
    }

    fn targets<const N: usize>(&mut self, operand: &Operand, class: Class) -> Result<[Slot; N]> {
        self.slots(operand, |decoder, part| decoder.register(part, class))
    }

    fn registers<const N: usize>(&mut self, operand: &Operand, kind: Type, write: bool) -> Result<[Slot; N]> {
        if write {
            self.targets(operand, kind.class())
        } else {
            self.slots(operand, |decoder, part| decoder.value(part, kind))
        }
    }

    fn access(&mut self, store: bool, m: &mut Modifiers, o: &[Operand]) -> Result<Option<Op>> {
        let (strong, _) = strength(m);
        let space = window(m);
        let count = m.one_of(&[("v2", 2), ("v4", 4)]).unwrap_or(1);
        let Some(mut kind) = m.kind() else { return Ok(None) };
        let (value, at) =
            if store { (self.operand(o, 1)?, self.operand(o, 0)?) } else { (self.operand(o, 0)?, self.operand(o, 1)?) };
        // A load may widen into any larger register, and a store may take the low part of one; all of a vector's are of
        // one class.
        let class = match self.elements(value).iter().any(|part| self.is_double(part)) {
            true => Class::Double,
            false => kind.class(),
        };
        if space == Window::Param {
            // Parameters of calls are registers.
            if let Some(slot) = self.passed(at, kind.class()) {
                let value = value.clone();
                return Ok(Some(match (store, kind.class()) {
                    (true, Class::Double) => Op::Double1(Double1::Mov, slot, [self.value(&value, kind)?]),
                    (true, _) => Op::Word1(Word1::Mov, slot, [self.value(&value, kind)?]),
                    (false, Class::Double) => Op::Double1(Double1::Mov, self.register(&value, Class::Double)?, [slot]),
                    (false, _) => Op::Word1(Word1::Mov, self.register(&value, Class::Word)?, [slot]),
                }));
            }
        }
        if kind == Type::Pred {
            kind = Type::B8;
        }
        let low_part = class == Class::Double && kind.class() != Class::Double;
        let registers =
            if store && !low_part { self.registers(value, kind, false)? } else { self.targets(value, class)? };
        let access = Box::new(Access {
            window: space,
            kind,
            count,
            double: class == Class::Double,
            strong,
            registers,
            address: self.address(at)?,
        });
        Ok(Some(if store { Op::Store(access) } else { Op::Load(access) }))
    }

    fn is_double(&self, operand: &Operand) -> bool {
        let Operand::Name(name) = operand else { return false };
        matches!(self.resolve(name), Some(super::parse::Name::Register(kind, _)) if kind.class() == Class::Double)
    }

    fn atomic(&mut self, reduce: bool, m: &mut Modifiers, o: &[Operand]) -> Result<Option<Op>> {
        let (_, release) = strength(m);
        let space = window(m);
        let (Some(op), Some(kind)) = (m.one_of(&ATOMICS), m.kind()) else { return Ok(None) };
        m.take("noftz");
        if matches!(kind, Type::B8 | Type::B16 | Type::U16 | Type::S16) {
            return Ok(None);
        }
        let d = if reduce { NONE } else { self.target(o, 0, kind.class())? };
        let first = usize::from(!reduce);
        let address = self.address(self.operand(o, first)?)?;
        let b = self.source(o, first + 1, kind)?;
        let c = if op == AtomicOp::CompareSwap { self.source(o, first + 2, kind)? } else { NONE };
        Ok(Some(Op::Atomic(Box::new(Atomic { op, kind, window: space, release, d, b, c, address }))))
    }

    fn matrix(&mut self, store: bool, m: &mut Modifiers, o: &[Operand]) -> Result<Option<Op>> {
        if !(m.take("sync") & m.take("aligned") & m.take("m8n8")) {
            return Ok(None);
        }
        let Some(count) = m.one_of(&[("x1", 1), ("x2", 2), ("x4", 4)]) else { return Ok(None) };
        let transposed = m.take("trans");
        if window(m) != Window::Shared || !m.take("b16") {
            return Ok(None);
        }
        let (registers, at) =
            if store { (self.operand(o, 1)?, self.operand(o, 0)?) } else { (self.operand(o, 0)?, self.operand(o, 1)?) };
        let registers = self.registers(registers, Type::B32, !store)?;
        Ok(Some(Op::Matrix(Box::new(MatrixLoad { count, transposed, store, registers, address: self.address(at)? }))))
    }

    fn copy_async(&mut self, m: &mut Modifiers, o: &[Operand]) -> Result<Option<Op>> {
        if m.take("commit_group") {
            return Ok(Some(Op::CopyCommit));
        }
        if m.take("wait_all") {
            return Ok(Some(Op::CopyWaitAll));
        }
        if m.take("wait_group") {
            return match self.operand(o, 0)? {
                Operand::Number(pending) => Ok(Some(Op::CopyWait(*pending as u32))),
                other => self.fail(format!("cp.async.wait_group of {other:?}")),
            };
        }
        strength(m);
        if !((m.take("shared") || m.take("shared::cta")) && m.take("global")) {
            return Ok(None);
        }
        let bytes = match self.operand(o, 2)? {
            Operand::Number(bytes @ (4 | 8 | 16)) => *bytes as u8,
            other => return self.fail(format!("cp.async of {other:?} bytes")),
        };
        let size = if o.len() > 3 { self.source(o, 3, Type::U32)? } else { NONE };
        let (to, from) = (self.address(self.operand(o, 0)?)?, self.address(self.operand(o, 1)?)?);
        Ok(Some(Op::CopyAsync(Box::new(CopyAsync { bytes, to, from, size }))))
    }

    fn mma(&mut self, m: &mut Modifiers, o: &[Operand]) -> Result<Option<Op>> {
        let shapes = [("m16n8k4", 4), ("m16n8k8", 8), ("m16n8k16", 16)];
        let Some(depth) = m.one_of(&shapes) else { return Ok(None) };
        if !(m.take("row") & m.take("col")) {
            return Ok(None);
        }
        let kinds = [m.kind(), m.kind(), m.kind(), m.kind()];
        let elements = match kinds {
            [Some(Type::F32), Some(a), Some(b), Some(Type::F32)] if a == b => match (a, depth) {
                (Type::Bf16, 8 | 16) => Elements::Bf16,
                (Type::F16, 8 | 16) => Elements::F16,
                (Type::Tf32, 4 | 8) => Elements::Tf32,
                _ => return Ok(None),
            },
            _ => return Ok(None),
        };
        let [d, a, b, c] = [self.operand(o, 0)?, self.operand(o, 1)?, self.operand(o, 2)?, self.operand(o, 3)?];
        Ok(Some(Op::Mma(Box::new(Mma {
            elements,
            depth,
            d: self.registers(d, Type::F32, true)?,
            a: self.registers(a, Type::B32, false)?,
            b: self.registers(b, Type::B32, false)?,
            c: self.registers(c, Type::F32, false)?,
        }))))
    }

    fn shuffle(&mut self, m: &mut Modifiers, o: &[Operand]) -> Result<Option<Op>> {
        let modes = [
            ("up", ShuffleMode::Up),
            ("down", ShuffleMode::Down),
            ("bfly", ShuffleMode::Butterfly),
            ("idx", ShuffleMode::Index),
        ];
        let (Some(mode), true) = (m.one_of(&modes), m.take("b32")) else { return Ok(None) };
        let (d, in_range) = match self.operand(o, 0)? {
            Operand::Pair(d, p) => (self.register(d, Class::Word)?, self.register(p, Class::Predicate)?),
            d => (self.register(d, Class::Word)?, NONE),
        };
        let [a, b, c, mask] = [1, 2, 3, 4].map(|index| self.source(o, index, Type::B32));
        Ok(Some(Op::Shuffle(Box::new(Shuffle { mode, d, in_range, a: a?, b: b?, c: c?, mask: mask? }))))
    }

    fn barrier(&mut self, m: &mut Modifiers, o: &[Operand]) -> Result<Option<Op>> {
        if m.take("warp") {
            return if m.take("sync") { Ok(Some(Op::SyncWarp(self.source(o, 0, Type::B32)?))) } else { Ok(None) };
        }
        m.take("cta");
        m.take("aligned");
        let mut barrier =
            Barrier { kind: BarrierKind::Sync, id: NONE, count: NONE, d: NONE, source: NONE, negated: false };
        if m.take("red") {
            let kinds = [("popc", BarrierKind::Popc), ("and", BarrierKind::And), ("or", BarrierKind::Or)];
            let (Some(kind), Some(_)) = (m.one_of(&kinds), m.kind()) else { return Ok(None) };
            barrier.kind = kind;
            barrier.d = self.target(o, 0, if kind == BarrierKind::Popc { Class::Word } else { Class::Predicate })?;
            barrier.id = self.source(o, 1, Type::U32)?;
            (barrier.source, barrier.negated) = self.predicate(&self.operand(o, o.len() - 1)?.clone())?;
            if o.len() > 3 {
                barrier.count = self.source(o, 2, Type::U32)?;
            }
        } else {
            let Some(kind) = m.one_of(&[("sync", BarrierKind::Sync), ("arrive", BarrierKind::Arrive)]) else {
                return Ok(None);
            };
            barrier.kind = kind;
            barrier.id = if o.is_empty() {
                self.constant(Class::Word, Constant::Bits(0))
            } else {
                self.source(o, 0, Type::U32)?
            };
            if o.len() > 1 {
                barrier.count = self.source(o, 1, Type::U32)?;
            }
        }
        Ok(Some(Op::Barrier(Box::new(barrier))))
    }
}
