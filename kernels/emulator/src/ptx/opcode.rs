//! One statement to one operation: arithmetic, moves, comparisons, control. Memory and collectives are in
//! [`super::opcode_memory`].

use super::Result;
use super::convert::Conversion;
use super::decode::Decoder;
use super::op::*;
use super::parse::{Operand, Statement};
use super::types::{Class, Type};

/// The parts of an opcode after its first; each is taken once, and one left over makes the opcode unknown.
pub(super) struct Modifiers<'a> {
    left: Vec<&'a str>,
    taken_rounding: Rounding,
}

impl<'a> Modifiers<'a> {
    pub(super) fn take(&mut self, name: &str) -> bool {
        match self.left.iter().position(|part| *part == name) {
            Some(at) => {
                self.left.remove(at);
                true
            }
            None => false,
        }
    }

    /// The first type left.
    pub(super) fn kind(&mut self) -> Option<Type> {
        let at = self.left.iter().position(|part| Type::parse(part).is_some())?;
        Type::parse(self.left.remove(at))
    }

    pub(super) fn one_of<T: Copy>(&mut self, choices: &[(&str, T)]) -> Option<T> {
        choices.iter().find(|(name, _)| self.take(name)).map(|(_, value)| *value)
    }

    /// A rounding: (direction, integral).
    fn rounding(&mut self) -> Option<(Rounding, bool)> {
        use Rounding::*;
        let integral = [("rni", Nearest), ("rzi", Zero), ("rmi", Down), ("rpi", Up)];
        if let Some(found) = self.one_of(&integral) {
            return Some((found, true));
        }
        let found = self.one_of(&[("rn", Nearest), ("rna", Nearest), ("rz", Zero), ("rm", Down), ("rp", Up)])?;
        self.taken_rounding = found;
        Some((found, false))
    }
}

/// A kind of operation chosen by the type it works on.
fn by_type<T: Copy>(kind: Type, signed: T, unsigned: T, float: Option<T>) -> Option<T> {
    if kind.float() { float } else { Some(if kind.signed() { signed } else { unsigned }) }
}

impl Decoder<'_> {
    pub(super) fn operation(&mut self, statement: &Statement) -> Result<Op> {
        let mut parts = statement.opcode.split('.');
        let base = parts.next().unwrap_or_default();
        let mut m = Modifiers { left: parts.collect(), taken_rounding: Rounding::Nearest };
        let operands = &statement.operands;
        let op = match self.control(base, &mut m, operands)? {
            Some(op) => Some(op),
            None => match self.memory(base, &mut m, operands)? {
                Some(op) => Some(op),
                None => self.arithmetic(base, &mut m, operands)?,
            },
        };
        match op {
            Some(op) if m.left.is_empty() => Ok(op),
            _ => self.fail(format!("unknown opcode `{}`", statement.opcode)),
        }
    }

    pub(super) fn operand<'o>(&self, operands: &'o [Operand], index: usize) -> Result<&'o Operand> {
        match operands.get(index) {
            Some(operand) => Ok(operand),
            None => self.fail("too few operands"),
        }
    }

    pub(super) fn source(&mut self, operands: &[Operand], index: usize, kind: Type) -> Result<Slot> {
        let operand = self.operand(operands, index)?.clone();
        self.value(&operand, kind)
    }

    pub(super) fn target(&mut self, operands: &[Operand], index: usize, class: Class) -> Result<Slot> {
        self.register(self.operand(operands, index)?, class)
    }

    /// A predicate to read, perhaps negated.
    pub(super) fn predicate(&mut self, operand: &Operand) -> Result<(Slot, bool)> {
        match operand {
            Operand::Not(inner) => Ok((self.value(inner, Type::Pred)?, true)),
            other => Ok((self.value(other, Type::Pred)?, false)),
        }
    }

    fn control(&mut self, base: &str, m: &mut Modifiers, o: &[Operand]) -> Result<Option<Op>> {
        Ok(Some(match base {
            "bra" => {
                m.take("uni");
                Op::Branch(self.label(self.operand(o, 0)?)?)
            }
            "brx" if m.take("idx") => {
                m.take("uni");
                let index = self.source(o, 0, Type::U32)?;
                let table = self.label(self.operand(o, 1)?)?;
                let labels =
                    self.function.statements.get(table as usize).filter(|found| found.opcode == ".branchtargets");
                let Some(labels) = labels else { return self.fail("brx.idx without its .branchtargets") };
                let targets = labels.operands.iter().map(|label| self.label(label)).collect::<Result<Box<[u32]>>>()?;
                Op::BranchTable(index, targets)
            }
            "ret" | "exit" => {
                m.take("uni");
                Op::Exit
            }
            "trap" | "brkpt" => Op::Trap,
            "nanosleep" | "prefetch" | "prefetchu" | "discard" | "applypriority" | "pmevent" => {
                m.left.clear();
                Op::Nop
            }
            "membar" | "fence" => match self.fence(m) {
                Some(fence) => Op::Hopper(Box::new(fence)),
                None => {
                    m.left.clear();
                    Op::Fence
                }
            },
            "activemask" if m.take("b32") => Op::ActiveMask(self.target(o, 0, Class::Word)?),
            "call" => {
                m.take("uni");
                self.call(o)?
            }
            _ => return Ok(None),
        }))
    }

    fn call(&mut self, o: &[Operand]) -> Result<Op> {
        let (result, name, arguments) = match o {
            [Operand::List(result), Operand::Name(name), Operand::List(arguments)] => {
                (result.first(), name, arguments.as_slice())
            }
            [Operand::Name(name), Operand::List(arguments)] => (None, name, arguments.as_slice()),
            [Operand::Name(name)] => (None, name, &[][..]),
            _ => return self.fail("unsupported form of call"),
        };
        match (name.as_str(), result, arguments) {
            ("vprintf", Some(result), [format, list]) => Ok(Op::Print {
                d: self.argument(result, Class::Word)?,
                format: self.argument(format, Class::Double)?,
                arguments: Box::new([(Class::Double, self.argument(list, Class::Double)?)]),
            }),
            ("__assertfail", None, [message, file, line, ..]) => Ok(Op::Assert {
                message: self.argument(message, Class::Double)?,
                file: self.argument(file, Class::Double)?,
                line: self.argument(line, Class::Word)?,
            }),
            _ => self.fail(format!(
                "call of `{name}`: only vprintf and __assertfail are provided, compile device functions inline"
            )),
        }
    }

    fn word1(&mut self, op: Word1, o: &[Operand], kind: Type) -> Result<Op> {
        Ok(Op::Word1(op, self.target(o, 0, Class::Word)?, [self.source(o, 1, kind)?]))
    }

    fn word2(&mut self, op: Word2, o: &[Operand], kind: Type) -> Result<Op> {
        Ok(Op::Word2(op, self.target(o, 0, Class::Word)?, [self.source(o, 1, kind)?, self.source(o, 2, kind)?]))
    }

    fn double2(&mut self, op: Double2, o: &[Operand], kind: Type) -> Result<Op> {
        Ok(Op::Double2(op, self.target(o, 0, Class::Double)?, [self.source(o, 1, kind)?, self.source(o, 2, kind)?]))
    }

    fn arithmetic(&mut self, base: &str, m: &mut Modifiers, o: &[Operand]) -> Result<Option<Op>> {
        if base == "mov" {
            return self.mov(m, o).map(Some);
        }
        if base == "cvt" || base == "cvta" {
            return self.convert(base, m, o);
        }
        if base == "setp" {
            return self.setp(m, o);
        }
        let rounding = m.rounding().map_or(Rounding::Nearest, |(rounding, _)| rounding);
        // Denormals are kept whatever `.ftz` says (stated in the README).
        m.take("ftz");
        let approx = m.take("approx") | m.take("full");
        if (base == "mul" || base == "mad") && m.take("wide") {
            let Some(kind) = m.kind() else { return Ok(None) };
            return self.wide(base, kind, o).map(Some);
        }
        let high = m.take("hi");
        m.take("lo");
        let (wrap, clamp, left, right) = (m.take("wrap"), m.take("clamp"), m.take("l"), m.take("r"));
        let (nan, shift) = (m.take("NaN"), m.take("shiftamt"));
        let saturate = m.take("sat");
        let Some(kind) = m.kind() else { return Ok(None) };
        let second = m.kind();
        if saturate && !(kind == Type::F32 && matches!(base, "add" | "mul" | "fma")) {
            return Ok(None);
        }
        let op = match kind.class() {
            Class::Predicate => self.predicates(base, o)?,
            Class::Double => self.double(base, kind, high, o)?,
            Class::Word if kind.float() && kind.bytes() == 2 || matches!(kind, Type::F16x2 | Type::Bf16x2) => {
                self.half(base, kind, o)?
            }
            Class::Word => match base {
                "shf" if wrap || clamp => {
                    let op = match (left, right) {
                        (true, _) => Word3::FunnelLeft { clamp },
                        _ => Word3::FunnelRight { clamp },
                    };
                    Some(self.word3(op, o, Type::B32)?)
                }
                "bfind" => Some(self.word1(Word1::Find { signed: kind.signed(), shift }, o, kind)?),
                "dp4a" => {
                    let (a_signed, b_signed) = (kind.signed(), second.is_some_and(Type::signed));
                    Some(self.word3(Word3::Dot4 { a_signed, b_signed }, o, kind)?)
                }
                _ => self.word(base, kind, rounding, (high, nan, approx), o)?,
            },
        };
        if let (true, Some(op)) = (saturate, &op) {
            let (Op::Word2(_, d, _) | Op::Word3(_, d, _)) = op else { return Ok(None) };
            let d = *d;
            self.push(op.clone(), None);
            return Ok(Some(self.saturate(d)));
        }
        Ok(op)
    }

    /// Clamps an f32 register to [0, 1].
    fn saturate(&mut self, d: Slot) -> Op {
        let rounding = Rounding::Nearest;
        let (from, to) = (Type::F32, Type::F32);
        Op::Convert(Box::new(Conversion { from, to, rounding, integral: false, saturate: true, relu: false, d, a: d }))
    }

    fn word3(&mut self, op: Word3, o: &[Operand], kind: Type) -> Result<Op> {
        let sources = [self.source(o, 1, kind)?, self.source(o, 2, kind)?, self.source(o, 3, kind)?];
        Ok(Op::Word3(op, self.target(o, 0, Class::Word)?, sources))
    }

    fn word4(&mut self, op: Word4, o: &[Operand], kind: Type) -> Result<Op> {
        let sources =
            [self.source(o, 1, kind)?, self.source(o, 2, kind)?, self.source(o, 3, kind)?, self.source(o, 4, kind)?];
        Ok(Op::Word4(op, self.target(o, 0, Class::Word)?, sources))
    }

    fn word(
        &mut self,
        base: &str,
        kind: Type,
        r: Rounding,
        (high, nan, approx): (bool, bool, bool),
        o: &[Operand],
    ) -> Result<Option<Op>> {
        use Word2::*;
        let float = kind == Type::F32;
        let narrow = kind.bytes() == 2;
        let nearest = r == Rounding::Nearest;
        if narrow && kind.signed() && matches!(base, "min" | "max" | "shr" | "div" | "rem" | "neg" | "abs") {
            return Ok(None);
        }
        let two = match base {
            "add" if float => Some(if nearest { AddF } else { AddRounded(r) }),
            "sub" if float => Some(SubF).filter(|_| nearest),
            "mul" if float => Some(if nearest { MulF } else { MulRounded(r) }),
            "div" if float => Some(if approx { DivApprox } else { DivF }).filter(|_| nearest),
            "add" => Some(if narrow { Add16 } else { Add }),
            "sub" => Some(if narrow { Sub16 } else { Sub }),
            "mul" if high => by_type(kind, MulHighS, MulHighU, None).filter(|_| !narrow),
            "mul" => Some(if narrow { Mul16 } else { Mul }),
            "div" => by_type(kind, DivS, DivU, None),
            "rem" => by_type(kind, RemS, RemU, None),
            "min" => by_type(kind, MinS, MinU, Some(MinF { nan })),
            "max" => by_type(kind, MaxS, MaxU, Some(MaxF { nan })),
            "and" => Some(And),
            "or" => Some(Or),
            "xor" => Some(Xor),
            "shl" => Some(if narrow { Shl16 } else { Shl }),
            "shr" => by_type(kind, ShrS, ShrU, None),
            "copysign" if float => Some(CopySign),
            _ => None,
        };
        if let Some(op) = two {
            if matches!(op, Shl | Shl16 | ShrS | ShrU) {
                let sources = [self.source(o, 1, kind)?, self.source(o, 2, Type::U32)?];
                return Ok(Some(Op::Word2(op, self.target(o, 0, Class::Word)?, sources)));
            }
            // PTX: copysign d, a, b takes the sign of a and the magnitude of b.
            return self.word2(op, o, kind).map(Some);
        }
        let one = match base {
            "neg" => Some(if float { Word1::NegF } else { Word1::Neg }),
            "abs" => Some(if float { Word1::AbsF } else { Word1::AbsS }),
            "not" if !narrow => Some(Word1::Not),
            "popc" => Some(Word1::Popc),
            "clz" => Some(Word1::Clz),
            "brev" => Some(Word1::Reverse),
            "ex2" if approx => Some(Word1::Exp2),
            "lg2" if approx => Some(Word1::Log2),
            "rcp" if nearest => Some(if approx { Word1::RecipApprox } else { Word1::Recip }),
            "rsqrt" if approx => Some(Word1::RecipSqrt),
            "sqrt" if nearest => Some(if approx { Word1::SqrtApprox } else { Word1::Sqrt }),
            "sin" if approx => Some(Word1::Sin),
            "cos" if approx => Some(Word1::Cos),
            "tanh" if approx => Some(Word1::Tanh),
            _ => None,
        };
        if let Some(op) = one {
            return self.word1(op, o, kind).map(Some);
        }
        Ok(Some(match base {
            "not" => {
                let ones = self.constant(Class::Word, super::decode::Constant::Bits(0xffff));
                Op::Word2(Xor, self.target(o, 0, Class::Word)?, [self.source(o, 1, kind)?, ones])
            }
            "fma" if float => self.word3(if nearest { Word3::Fma } else { Word3::FmaRounded(r) }, o, kind)?,
            "mad" if float => self.word3(Word3::Fma, o, kind)?,
            "mad" if high => self.word3(if kind.signed() { Word3::MadHighS } else { Word3::MadHighU }, o, kind)?,
            "mad" => self.word3(if narrow { Word3::Mad16 } else { Word3::Mad }, o, kind)?,
            "prmt" => self.word3(Word3::Permute, o, kind)?,
            "bfe" => self.word3(if kind.signed() { Word3::ExtractS } else { Word3::ExtractU }, o, kind)?,
            "sad" => self.word3(Word3::Sad { signed: kind.signed() }, o, kind)?,
            "bfi" => self.word4(Word4::Insert, o, kind)?,
            "lop3" => self.word4(Word4::Lop3, o, kind)?,
            "selp" => {
                let (a, b) = (self.source(o, 1, kind)?, self.source(o, 2, kind)?);
                let (p, negated) = self.predicate(&self.operand(o, 3)?.clone())?;
                let (a, b) = if negated { (b, a) } else { (a, b) };
                Op::Select { d: self.target(o, 0, Class::Word)?, a, b, p }
            }
            _ => return Ok(None),
        }))
    }

    fn double(&mut self, base: &str, kind: Type, high: bool, o: &[Operand]) -> Result<Option<Op>> {
        use Double2::*;
        let float = kind == Type::F64;
        let two = match base {
            "add" => Some(if float { AddF } else { Add }),
            "sub" => Some(if float { SubF } else { Sub }),
            "mul" if high => by_type(kind, MulHighS, MulHighU, None),
            "mul" => Some(if float { MulF } else { Mul }),
            "div" => by_type(kind, DivS, DivU, Some(DivF)),
            "rem" => by_type(kind, RemS, RemU, None),
            "min" => by_type(kind, MinS, MinU, Some(MinF)),
            "max" => by_type(kind, MaxS, MaxU, Some(MaxF)),
            "and" => Some(And),
            "or" => Some(Or),
            "xor" => Some(Xor),
            _ => None,
        };
        if let Some(op) = two {
            return self.double2(op, o, kind).map(Some);
        }
        let one = match base {
            "neg" => Some(if float { Double1::NegF } else { Double1::Neg }),
            "abs" => Some(if float { Double1::AbsF } else { Double1::AbsS }),
            "not" => Some(Double1::Not),
            "sqrt" => Some(Double1::Sqrt),
            "rcp" => Some(Double1::Recip),
            _ => None,
        };
        if let Some(op) = one {
            return Ok(Some(Op::Double1(op, self.target(o, 0, Class::Double)?, [self.source(o, 1, kind)?])));
        }
        Ok(Some(match base {
            "shl" | "shr" => {
                let shift = match base {
                    "shl" => Shift::Left,
                    _ if kind.signed() => Shift::RightS,
                    _ => Shift::RightU,
                };
                Op::DoubleShift(
                    shift,
                    self.target(o, 0, Class::Double)?,
                    self.source(o, 1, kind)?,
                    self.source(o, 2, Type::U32)?,
                )
            }
            "fma" | "mad" => {
                let op = if float { Double3::Fma } else { Double3::Mad };
                let sources = [self.source(o, 1, kind)?, self.source(o, 2, kind)?, self.source(o, 3, kind)?];
                Op::Double3(op, self.target(o, 0, Class::Double)?, sources)
            }
            "popc" | "clz" => {
                Op::Count64 { leading: base == "clz", d: self.target(o, 0, Class::Word)?, a: self.source(o, 1, kind)? }
            }
            "bfi" => Op::Insert64 {
                d: self.target(o, 0, Class::Double)?,
                a: self.source(o, 1, kind)?,
                b: self.source(o, 2, kind)?,
                position: self.source(o, 3, Type::U32)?,
                length: self.source(o, 4, Type::U32)?,
            },
            "selp" => {
                let (a, b) = (self.source(o, 1, kind)?, self.source(o, 2, kind)?);
                let (p, negated) = self.predicate(&self.operand(o, 3)?.clone())?;
                let (a, b) = if negated { (b, a) } else { (a, b) };
                Op::SelectDouble { d: self.target(o, 0, Class::Double)?, a, b, p }
            }
            _ => return Ok(None),
        }))
    }

    fn half(&mut self, base: &str, kind: Type, o: &[Operand]) -> Result<Option<Op>> {
        let half = Half { bf16: matches!(kind, Type::Bf16 | Type::Bf16x2), pair: kind.bytes() == 4 };
        let two = match base {
            "add" => HalfOp::Add,
            "sub" => HalfOp::Sub,
            "mul" => HalfOp::Mul,
            "min" => HalfOp::Min,
            "max" => HalfOp::Max,
            "fma" => return self.word3(Word3::HalfFma(half), o, kind).map(Some),
            "neg" => return self.word1(Word1::NegH2, o, kind).map(Some),
            "abs" => return self.word1(Word1::AbsH2, o, kind).map(Some),
            "ex2" if !half.bf16 => return self.word1(Word1::Exp2H2, o, kind).map(Some),
            "tanh" => return self.word1(Word1::TanhH2 { bf16: half.bf16 }, o, kind).map(Some),
            "selp" => return self.word("selp", Type::B32, Rounding::Nearest, (false, false, false), o),
            _ => return Ok(None),
        };
        self.word2(Word2::Half(two, half), o, kind).map(Some)
    }

    fn predicates(&mut self, base: &str, o: &[Operand]) -> Result<Option<Op>> {
        let d = self.target(o, 0, Class::Predicate)?;
        let op = match base {
            "and" => Predicate2::And,
            "or" => Predicate2::Or,
            "xor" => Predicate2::Xor,
            "not" => return Ok(Some(Op::PredicateMov { d, a: self.source(o, 1, Type::Pred)?, negated: true })),
            _ => return Ok(None),
        };
        Ok(Some(Op::Predicate2(op, d, self.source(o, 1, Type::Pred)?, self.source(o, 2, Type::Pred)?)))
    }

    /// `mul.wide` and `mad.wide`: the result is twice as wide as the factors.
    fn wide(&mut self, base: &str, kind: Type, o: &[Operand]) -> Result<Op> {
        let signed = kind.signed();
        if kind.bytes() == 2 {
            if base == "mad" {
                return self.fail("unknown opcode `mad.wide` of 16 bits");
            }
            return self.word2(if signed { Word2::MulWide16S } else { Word2::MulWide16U }, o, kind);
        }
        let d = self.target(o, 0, Class::Double)?;
        let (a, b) = (self.source(o, 1, kind)?, self.source(o, 2, kind)?);
        if base == "mul" {
            return Ok(Op::MulWide { signed, d, a, b });
        }
        Ok(Op::MadWide { signed, d, a, b, c: self.source(o, 3, Type::B64)? })
    }

    fn mov(&mut self, m: &mut Modifiers, o: &[Operand]) -> Result<Op> {
        let Some(kind) = m.kind() else { return self.fail("mov without a type") };
        match (&o[0], o.get(1)) {
            (Operand::Vector(parts), Some(_)) if parts.len() == 2 => {
                let a = self.source(o, 1, kind)?;
                let (low, high) = (self.register(&parts[0], Class::Word)?, self.register(&parts[1], Class::Word)?);
                return Ok(if kind.bytes() == 8 { Op::Unpack { low, high, a } } else { Op::Unpack16 { low, high, a } });
            }
            (_, Some(Operand::Vector(parts))) if parts.len() == 2 => {
                let part = if kind.bytes() == 8 { Type::B32 } else { Type::B16 };
                let (low, high) = (self.value(&parts[0], part)?, self.value(&parts[1], part)?);
                return Ok(match kind.bytes() {
                    8 => Op::Pack { d: self.target(o, 0, Class::Double)?, low, high },
                    _ => Op::Word2(Word2::Pack16, self.target(o, 0, Class::Word)?, [low, high]),
                });
            }
            (_, Some(Operand::Name(name))) if name == "%clock" => {
                return Ok(Op::Clock(self.target(o, 0, Class::Word)?));
            }
            (_, Some(Operand::Name(name))) if matches!(name.as_str(), "%clock64" | "%globaltimer") => {
                return Ok(Op::Clock64(self.target(o, 0, Class::Double)?));
            }
            _ => {}
        }
        match kind.class() {
            Class::Predicate => Ok(Op::PredicateMov {
                d: self.target(o, 0, Class::Predicate)?,
                a: self.source(o, 1, kind)?,
                negated: false,
            }),
            Class::Double => {
                Ok(Op::Double1(Double1::Mov, self.target(o, 0, Class::Double)?, [self.source(o, 1, kind)?]))
            }
            Class::Word => self.word1(Word1::Mov, o, kind),
        }
    }

    fn convert(&mut self, base: &str, m: &mut Modifiers, o: &[Operand]) -> Result<Option<Op>> {
        if base == "cvta" {
            let to = m.take("to");
            let window = m.one_of(&[
                ("global", 0),
                ("const", 0),
                ("shared", super::decode::SHARED_BASE),
                ("shared::cta", super::decode::SHARED_BASE),
                ("local", super::decode::LOCAL_BASE),
            ]);
            let (Some(window), Some(Type::U64)) = (window, m.kind()) else { return Ok(None) };
            let (d, a) = (self.target(o, 0, Class::Double)?, self.source(o, 1, Type::U64)?);
            if window == 0 {
                return Ok(Some(Op::Double1(Double1::Mov, d, [a])));
            }
            let window = self.constant(Class::Double, super::decode::Constant::Bits(window));
            return Ok(Some(Op::Double2(if to { Double2::Sub } else { Double2::Add }, d, [a, window])));
        }
        let (rounding, integral) = m.rounding().unwrap_or((Rounding::Nearest, false));
        m.take("ftz");
        m.take("satfinite");
        let (saturate, relu) = (m.take("sat"), m.take("relu"));
        let (Some(to), Some(from)) = (m.kind(), m.kind()) else { return Ok(None) };
        if matches!(to, Type::Bf16x2 | Type::F16x2) && from == Type::F32 && !relu && rounding == Rounding::Nearest {
            let op = if to == Type::Bf16x2 { Word2::Bf16x2FromF32 } else { Word2::F16x2FromF32 };
            return self.word2(op, o, Type::F32).map(Some);
        }
        if matches!(to, Type::Bf16x2 | Type::F16x2) {
            return Ok(None);
        }
        let (d, a) = (self.target(o, 0, to.class())?, self.source(o, 1, from)?);
        if !saturate && !to.float() && !from.float() {
            let whole = |kind: Type| kind.bytes() >= 4;
            match (to.bytes(), from.bytes()) {
                (8, 4) => return Ok(Some(Op::Widen { signed: from.signed(), d, a })),
                (4, 8) => return Ok(Some(Op::Narrow { d, a })),
                (4, 4) => return Ok(Some(Op::Word1(Word1::Mov, d, [a]))),
                (4, 2) => {
                    return Ok(Some(Op::Word1(if from.signed() { Word1::SignExtend16 } else { Word1::Low16 }, d, [a])));
                }
                (2, 4) if !to.signed() => return Ok(Some(Op::Word1(Word1::Low16, d, [a]))),
                (4, 1) | (2, 1) if !from.signed() => return Ok(Some(Op::Word1(Word1::Low8, d, [a]))),
                (4, 1) => return Ok(Some(Op::Word1(Word1::SignExtend8, d, [a]))),
                (8, 8) if whole(to) => return Ok(Some(Op::Double1(Double1::Mov, d, [a]))),
                _ => {}
            }
        }
        if !saturate && rounding == Rounding::Nearest && !integral && to == Type::F32 {
            match from {
                Type::S32 => return Ok(Some(Op::Word1(Word1::F32FromS32, d, [a]))),
                Type::Bf16 => return Ok(Some(Op::Word1(Word1::F32FromBf16, d, [a]))),
                _ => {}
            }
        }
        Ok(Some(Op::Convert(Box::new(Conversion { from, to, rounding, integral, saturate, relu, d, a }))))
    }

    fn setp(&mut self, m: &mut Modifiers, o: &[Operand]) -> Result<Option<Op>> {
        use Relation::*;
        m.take("ftz");
        let relations = [
            ("eq", Eq),
            ("ne", Ne),
            ("lt", Lt),
            ("le", Le),
            ("gt", Gt),
            ("ge", Ge),
            ("lo", Lt),
            ("ls", Le),
            ("hi", Gt),
            ("hs", Ge),
            ("equ", Equ),
            ("neu", Neu),
            ("ltu", Ltu),
            ("leu", Leu),
            ("gtu", Gtu),
            ("geu", Geu),
            ("num", Number),
            ("nan", Nan),
        ];
        let Some(relation) = m.one_of(&relations) else { return Ok(None) };
        let combine = m.one_of(&[("and", Predicate2::And), ("or", Predicate2::Or), ("xor", Predicate2::Xor)]);
        let Some(kind) = m.kind() else { return Ok(None) };
        if matches!(kind, Type::F16x2 | Type::Bf16x2) {
            return Ok(None);
        }
        let (d, not_d) = match self.operand(o, 0)? {
            Operand::Pair(d, not_d) => (self.register(d, Class::Predicate)?, self.register(not_d, Class::Predicate)?),
            d => (self.register(d, Class::Predicate)?, NONE),
        };
        let (a, b) = (self.source(o, 1, kind)?, self.source(o, 2, kind)?);
        let combine = match combine {
            Some(op) => {
                let (p, negated) = self.predicate(&self.operand(o, 3)?.clone())?;
                Some((op, p, negated))
            }
            None => None,
        };
        Ok(Some(Op::Compare(Box::new(Compare { relation, kind, combine, d, not_d, a, b }))))
    }
}
