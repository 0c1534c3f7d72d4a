//! The typed operations that the interpreter runs. Registers are slots of three files (predicates, 32-bit, 64-bit);
//! immediates and special registers are slots too, filled when a warp starts, so an operand is always a slot.

use super::convert::Conversion;
use super::hopper::Hopper;
use super::types::{Class, Type};

pub type Slot = u16;
/// No register: an absent optional operand.
pub const NONE: Slot = u16::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    Nearest,
    Zero,
    Down,
    Up,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word1 {
    Mov,
    Not,
    Neg,
    AbsS,
    NegF,
    AbsF,
    NegH2,
    AbsH2,
    Popc,
    Clz,
    Reverse,
    Find { signed: bool, shift: bool },
    SignExtend8,
    SignExtend16,
    Low8,
    Low16,
    Exp2,
    Log2,
    Recip,
    RecipApprox,
    RecipSqrt,
    Sqrt,
    SqrtApprox,
    Sin,
    Cos,
    Tanh,
    Exp2H2,
    TanhH2 { bf16: bool },
    F32FromS32,
    F32FromBf16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word2 {
    Add,
    Sub,
    Mul,
    MulHighS,
    MulHighU,
    DivS,
    DivU,
    RemS,
    RemU,
    MinS,
    MinU,
    MaxS,
    MaxU,
    And,
    Or,
    Xor,
    Shl,
    ShrU,
    ShrS,
    Add16,
    Sub16,
    Mul16,
    MulWide16S,
    MulWide16U,
    Shl16,
    AddF,
    SubF,
    MulF,
    DivF,
    DivApprox,
    AddRounded(Rounding),
    MulRounded(Rounding),
    MinF {
        nan: bool,
    },
    MaxF {
        nan: bool,
    },
    CopySign,
    /// Packed or single 16-bit floats; `low` keeps the low half only.
    Half(HalfOp, Half),
    Bf16x2FromF32,
    F16x2FromF32,
    Pack16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HalfOp {
    Add,
    Sub,
    Mul,
    Min,
    Max,
    Fma,
}

/// A 16-bit float format and whether both halves of the word count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Half {
    pub bf16: bool,
    pub pair: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word3 {
    Mad,
    MadHighS,
    MadHighU,
    Mad16,
    Fma,
    FmaRounded(Rounding),
    HalfFma(Half),
    Permute,
    FunnelLeft { clamp: bool },
    FunnelRight { clamp: bool },
    ExtractS,
    ExtractU,
    Sad { signed: bool },
    Dot4 { a_signed: bool, b_signed: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word4 {
    Insert,
    Lop3,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Double1 {
    Mov,
    Not,
    Neg,
    AbsS,
    NegF,
    AbsF,
    Sqrt,
    Recip,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Double2 {
    Add,
    Sub,
    Mul,
    MulHighS,
    MulHighU,
    DivS,
    DivU,
    RemS,
    RemU,
    MinS,
    MinU,
    MaxS,
    MaxU,
    And,
    Or,
    Xor,
    AddF,
    SubF,
    MulF,
    DivF,
    MinF,
    MaxF,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Double3 {
    Mad,
    Fma,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shift {
    Left,
    RightU,
    RightS,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Predicate2 {
    And,
    Or,
    Xor,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Equ,
    Neu,
    Ltu,
    Leu,
    Gtu,
    Geu,
    Number,
    Nan,
}

/// setp: `d = (a relation b) combine c`, `not_d = !(a relation b) combine c`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Compare {
    pub relation: Relation,
    pub kind: Type,
    pub combine: Option<(Predicate2, Slot, bool)>,
    pub d: Slot,
    pub not_d: Slot,
    pub a: Slot,
    pub b: Slot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    Absolute,
    Word(Slot),
    Double(Slot),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    pub base: Base,
    pub offset: i64,
}

/// Where an access goes; constants live in global memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    Generic,
    Shared,
    Local,
    Param,
}

/// A load's or store's shape: `count` elements of `kind`, each in a register of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    pub window: Window,
    pub kind: Type,
    pub count: u8,
    pub double: bool,
    /// Volatile or ordered: no race with its like.
    pub strong: bool,
    pub registers: [Slot; 4],
    pub address: Address,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtomicOp {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Inc,
    Dec,
    Exchange,
    CompareSwap,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Atomic {
    pub op: AtomicOp,
    pub kind: Type,
    pub window: Window,
    /// `.release` or `.acq_rel`: publishes earlier writes without a fence before it.
    pub release: bool,
    pub d: Slot,
    pub b: Slot,
    pub c: Slot,
    pub address: Address,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShuffleMode {
    Up,
    Down,
    Butterfly,
    Index,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shuffle {
    pub mode: ShuffleMode,
    pub d: Slot,
    pub in_range: Slot,
    pub a: Slot,
    pub b: Slot,
    pub c: Slot,
    pub mask: Slot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VoteMode {
    All,
    Any,
    Uniform,
    Ballot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarrierKind {
    Sync,
    Arrive,
    Popc,
    And,
    Or,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Barrier {
    pub kind: BarrierKind,
    pub id: Slot,
    /// Threads that take part; NONE for all of the block.
    pub count: Slot,
    pub d: Slot,
    pub source: Slot,
    pub negated: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elements {
    Bf16,
    F16,
    Tf32,
}

/// `mma.sync` of m16n8 tiles: d = a b + c with f32 accumulators; `depth` is k.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mma {
    pub elements: Elements,
    pub depth: u8,
    pub d: [Slot; 4],
    pub a: [Slot; 4],
    pub b: [Slot; 2],
    pub c: [Slot; 4],
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MatrixLoad {
    pub count: u8,
    pub transposed: bool,
    pub store: bool,
    pub registers: [Slot; 4],
    pub address: Address,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CopyAsync {
    pub bytes: u8,
    pub to: Address,
    pub from: Address,
    /// Bytes read, the rest is zero; NONE for all.
    pub size: Slot,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    Nop,
    Word1(Word1, Slot, [Slot; 1]),
    Word2(Word2, Slot, [Slot; 2]),
    Word3(Word3, Slot, [Slot; 3]),
    Word4(Word4, Slot, [Slot; 4]),
    Double1(Double1, Slot, [Slot; 1]),
    Double2(Double2, Slot, [Slot; 2]),
    Double3(Double3, Slot, [Slot; 3]),
    DoubleShift(Shift, Slot, Slot, Slot),
    /// 32 to 64 bits, sign- or zero-extended.
    Widen {
        signed: bool,
        d: Slot,
        a: Slot,
    },
    /// The low 32 bits.
    Narrow {
        d: Slot,
        a: Slot,
    },
    MulWide {
        signed: bool,
        d: Slot,
        a: Slot,
        b: Slot,
    },
    MadWide {
        signed: bool,
        d: Slot,
        a: Slot,
        b: Slot,
        c: Slot,
    },
    Pack {
        d: Slot,
        low: Slot,
        high: Slot,
    },
    Unpack {
        low: Slot,
        high: Slot,
        a: Slot,
    },
    Unpack16 {
        low: Slot,
        high: Slot,
        a: Slot,
    },
    Count64 {
        leading: bool,
        d: Slot,
        a: Slot,
    },
    Insert64 {
        d: Slot,
        a: Slot,
        b: Slot,
        position: Slot,
        length: Slot,
    },
    Convert(Box<Conversion>),
    Select {
        d: Slot,
        a: Slot,
        b: Slot,
        p: Slot,
    },
    SelectDouble {
        d: Slot,
        a: Slot,
        b: Slot,
        p: Slot,
    },
    Compare(Box<Compare>),
    PredicateMov {
        d: Slot,
        a: Slot,
        negated: bool,
    },
    Predicate2(Predicate2, Slot, Slot, Slot),
    Load(Box<Access>),
    Store(Box<Access>),
    Atomic(Box<Atomic>),
    Branch(u32),
    BranchTable(Slot, Box<[u32]>),
    Exit,
    Shuffle(Box<Shuffle>),
    Vote {
        mode: VoteMode,
        d: Slot,
        source: Slot,
        negated: bool,
        mask: Slot,
    },
    Match {
        d: Slot,
        a: Slot,
        mask: Slot,
    },
    Reduce {
        op: AtomicOp,
        signed: bool,
        d: Slot,
        a: Slot,
        mask: Slot,
    },
    ActiveMask(Slot),
    SyncWarp(Slot),
    Barrier(Box<Barrier>),
    Fence,
    Hopper(Box<Hopper>),
    Mma(Box<Mma>),
    Matrix(Box<MatrixLoad>),
    CopyAsync(Box<CopyAsync>),
    CopyCommit,
    CopyWait(u32),
    CopyWaitAll,
    Clock(Slot),
    Clock64(Slot),
    Print {
        d: Slot,
        format: Slot,
        arguments: Box<[(Class, Slot)]>,
    },
    Assert {
        message: Slot,
        file: Slot,
        line: Slot,
    },
    Trap,
}

impl Op {
    /// Floating-point operations of a lane, mma left out: an FMA is two, a special function one, a pair of halves twice
    /// those of one.
    pub fn flop(&self) -> u8 {
        let halves = |half: &Half| 1 + u8::from(half.pair);
        match self {
            Op::Word1(
                Word1::Exp2
                | Word1::Log2
                | Word1::Recip
                | Word1::RecipApprox
                | Word1::RecipSqrt
                | Word1::Sqrt
                | Word1::SqrtApprox
                | Word1::Sin
                | Word1::Cos
                | Word1::Tanh,
                ..,
            )
            | Op::Word2(
                Word2::AddF
                | Word2::SubF
                | Word2::MulF
                | Word2::DivF
                | Word2::DivApprox
                | Word2::AddRounded(_)
                | Word2::MulRounded(_),
                ..,
            )
            | Op::Double1(Double1::Sqrt | Double1::Recip, ..)
            | Op::Double2(Double2::AddF | Double2::SubF | Double2::MulF | Double2::DivF, ..) => 1,
            Op::Word1(Word1::Exp2H2 | Word1::TanhH2 { .. }, ..)
            | Op::Word3(Word3::Fma | Word3::FmaRounded(_), ..)
            | Op::Double3(Double3::Fma, ..) => 2,
            Op::Word2(Word2::Half(HalfOp::Add | HalfOp::Sub | HalfOp::Mul, half), ..) => halves(half),
            Op::Word3(Word3::HalfFma(half), ..) => 2 * halves(half),
            _ => 0,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Use,
    Define,
}

pub(super) fn address_slots(address: &mut Address, f: &mut dyn FnMut(Class, &mut Slot, Role)) {
    match &mut address.base {
        Base::Absolute => {}
        Base::Word(slot) => f(Class::Word, slot, Role::Use),
        Base::Double(slot) => f(Class::Double, slot, Role::Use),
    }
}

impl Op {
    /// Visits every register, sources before destinations.
    pub fn slots(&mut self, visit: &mut dyn FnMut(Class, &mut Slot, Role)) {
        use Class::{Double as D, Predicate as P, Word as W};
        use Role::{Define, Use};
        let f = &mut |class: Class, slot: &mut Slot, role: Role| {
            if *slot != NONE {
                visit(class, slot, role);
            }
        };
        fn all<'a>(
            f: &mut dyn FnMut(Class, &mut Slot, Role),
            class: Class,
            role: Role,
            slots: impl IntoIterator<Item = &'a mut Slot>,
        ) {
            slots.into_iter().for_each(|slot| f(class, slot, role));
        }
        match self {
            Op::Nop
            | Op::Branch(_)
            | Op::Exit
            | Op::Fence
            | Op::CopyCommit
            | Op::CopyWait(_)
            | Op::CopyWaitAll
            | Op::Trap => {}
            Op::Word1(_, d, s) => (all(f, W, Use, s), f(W, d, Define)).1,
            Op::Word2(_, d, s) => (all(f, W, Use, s), f(W, d, Define)).1,
            Op::Word3(_, d, s) => (all(f, W, Use, s), f(W, d, Define)).1,
            Op::Word4(_, d, s) => (all(f, W, Use, s), f(W, d, Define)).1,
            Op::Double1(_, d, s) => (all(f, D, Use, s), f(D, d, Define)).1,
            Op::Double2(_, d, s) => (all(f, D, Use, s), f(D, d, Define)).1,
            Op::Double3(_, d, s) => (all(f, D, Use, s), f(D, d, Define)).1,
            Op::DoubleShift(_, d, a, b) => (f(D, a, Use), f(W, b, Use), f(D, d, Define)).2,
            Op::Widen { d, a, .. } => (f(W, a, Use), f(D, d, Define)).1,
            Op::Narrow { d, a } | Op::Count64 { d, a, .. } => (f(D, a, Use), f(W, d, Define)).1,
            Op::MulWide { d, a, b, .. } => (all(f, W, Use, [a, b]), f(D, d, Define)).1,
            Op::MadWide { d, a, b, c, .. } => (all(f, W, Use, [a, b]), f(D, c, Use), f(D, d, Define)).2,
            Op::Pack { d, low, high } => (all(f, W, Use, [low, high]), f(D, d, Define)).1,
            Op::Unpack { low, high, a } => (f(D, a, Use), all(f, W, Define, [low, high])).1,
            Op::Unpack16 { low, high, a } => (f(W, a, Use), all(f, W, Define, [low, high])).1,
            Op::Insert64 { d, a, b, position, length } => {
                all(f, D, Use, [a, b]);
                all(f, W, Use, [position, length]);
                f(D, d, Define);
            }
            Op::Convert(c) => (f(c.from.class(), &mut c.a, Use), f(c.to.class(), &mut c.d, Define)).1,
            Op::Select { d, a, b, p } => (all(f, W, Use, [a, b]), f(P, p, Use), f(W, d, Define)).2,
            Op::SelectDouble { d, a, b, p } => (all(f, D, Use, [a, b]), f(P, p, Use), f(D, d, Define)).2,
            Op::Compare(c) => {
                all(f, c.kind.class(), Use, [&mut c.a, &mut c.b]);
                if let Some((_, p, _)) = &mut c.combine {
                    f(P, p, Use);
                }
                all(f, P, Define, [&mut c.d, &mut c.not_d]);
            }
            Op::PredicateMov { d, a, .. } => (f(P, a, Use), f(P, d, Define)).1,
            Op::Predicate2(_, d, a, b) => (all(f, P, Use, [a, b]), f(P, d, Define)).1,
            Op::Load(m) => {
                address_slots(&mut m.address, f);
                all(f, if m.double { D } else { W }, Define, &mut m.registers);
            }
            Op::Store(m) => {
                address_slots(&mut m.address, f);
                all(f, if m.double { D } else { W }, Use, &mut m.registers);
            }
            Op::Atomic(a) => {
                address_slots(&mut a.address, f);
                let class = a.kind.class();
                all(f, class, Use, [&mut a.b, &mut a.c]);
                f(class, &mut a.d, Define);
            }
            Op::Hopper(hopper) => hopper.slots(f),
            Op::BranchTable(index, _) => f(W, index, Use),
            Op::Shuffle(s) => {
                all(f, W, Use, [&mut s.a, &mut s.b, &mut s.c, &mut s.mask]);
                f(W, &mut s.d, Define);
                f(P, &mut s.in_range, Define);
            }
            Op::Vote { mode, d, source, mask, .. } => {
                f(P, source, Use);
                f(W, mask, Use);
                f(if *mode == VoteMode::Ballot { W } else { P }, d, Define);
            }
            Op::Match { d, a, mask } | Op::Reduce { d, a, mask, .. } => (all(f, W, Use, [a, mask]), f(W, d, Define)).1,
            Op::ActiveMask(d) | Op::Clock(d) => f(W, d, Define),
            Op::Clock64(d) => f(D, d, Define),
            Op::SyncWarp(mask) => f(W, mask, Use),
            Op::Barrier(b) => {
                all(f, W, Use, [&mut b.id, &mut b.count]);
                f(P, &mut b.source, Use);
                f(if b.kind == BarrierKind::Popc { W } else { P }, &mut b.d, Define);
            }
            Op::Mma(m) => {
                all(f, W, Use, m.a.iter_mut().chain(&mut m.b).chain(&mut m.c));
                all(f, W, Define, &mut m.d);
            }
            Op::Matrix(m) => {
                address_slots(&mut m.address, f);
                all(f, W, if m.store { Use } else { Define }, &mut m.registers);
            }
            Op::CopyAsync(c) => {
                address_slots(&mut c.to, f);
                address_slots(&mut c.from, f);
                f(W, &mut c.size, Use);
            }
            Op::Print { d, format, arguments } => {
                f(D, format, Use);
                arguments.iter_mut().for_each(|(class, slot)| f(*class, slot, Use));
                f(W, d, Define);
            }
            Op::Assert { message, file, line } => (all(f, D, Use, [message, file]), f(W, line, Use)).1,
        }
    }
}
