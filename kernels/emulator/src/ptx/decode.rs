//! Statements to operations: names become registers, opcodes become typed operations, and whatever is unknown is
//! rejected here, by name and line, before anything runs.

use super::op::*;
use super::parse::{Function, Location, Module, Name, Operand, Space, Statement};
use super::types::{Class, Type};
use super::{Result, error};
use std::collections::HashMap;

/// A value that a register holds from the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Constant {
    Bits(u64),
    Thread(u8),
    BlockSize(u8),
    Block(u8),
    GridSize(u8),
    Lane,
    Warp,
    Warps,
    Multiprocessor,
    LaneMask(MaskKind),
    DynamicShared,
    TotalShared,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MaskKind {
    Eq,
    Lt,
    Le,
    Gt,
    Ge,
}

#[derive(Clone, Debug)]
pub struct Instruction {
    pub op: Op,
    /// Predicate slot or NONE, and whether it must be false.
    pub guard: Slot,
    pub negated: bool,
    pub line: u32,
    pub location: Location,
}

/// A kernel with its registers still as many as the text names.
#[derive(Clone, Debug, Default)]
pub struct Kernel {
    pub name: String,
    pub instructions: Vec<Instruction>,
    pub constants: Vec<(Class, Slot, Constant)>,
    /// Offset and size of each parameter, and their total.
    pub parameters: Vec<(u32, u32)>,
    pub parameter_bytes: u32,
    pub shared_bytes: u32,
    pub local_bytes: u32,
    pub max_threads: u32,
    pub registers: u32,
}

/// Address spaces are told apart by the buffer number in an address's high bits (see `memory`).
pub const WINDOW_SHIFT: u32 = 36;
pub const SHARED_BASE: u64 = (1 << 27) << WINDOW_SHIFT;
pub const LOCAL_BASE: u64 = ((1 << 27) + 1) << WINDOW_SHIFT;

pub(super) struct Decoder<'a> {
    pub(super) function: &'a Function,
    /// Where the module's global variables stand.
    addresses: &'a HashMap<String, u64>,
    /// Offsets of the shared, local and parameter variables in their spaces.
    offsets: HashMap<String, (Space, u32)>,
    constants: HashMap<(Class, Constant), Slot>,
    pub(super) kernel: Kernel,
    /// Registers that carry the parameters of calls: (name, offset).
    passed: HashMap<(String, i64), (Class, Slot)>,
    pub(super) line: u32,
    pub(super) scope: usize,
    /// Instruction index of each statement, for branch targets.
    starts: Vec<u32>,
}

fn align(offset: u32, to: u32) -> u32 {
    offset.div_ceil(to.max(1)) * to.max(1)
}

/// Decodes one entry function.
pub fn kernel(module: &Module, function: &Function, addresses: &HashMap<String, u64>) -> Result<Kernel> {
    let mut kernel = Kernel { name: function.name.clone(), max_threads: function.max_threads, ..Kernel::default() };
    let mut offsets = HashMap::new();
    for parameter in &function.parameters {
        let offset = align(kernel.parameter_bytes, parameter.align);
        offsets.insert(parameter.name.clone(), (Space::Param, offset));
        kernel.parameters.push((offset, parameter.size));
        kernel.parameter_bytes = offset + parameter.size;
    }
    let shared = module.variables.iter().filter(|v| v.space == Space::Shared).chain(&function.variables);
    let (sized, dynamic): (Vec<_>, Vec<_>) = shared.partition(|variable| variable.size > 0);
    for variable in sized {
        let end = match variable.space {
            Space::Shared => &mut kernel.shared_bytes,
            Space::Local => &mut kernel.local_bytes,
            _ => continue,
        };
        let offset = align(*end, variable.align);
        *end = offset + variable.size;
        offsets.insert(variable.name.clone(), (variable.space, offset));
    }
    // Dynamic shared memory begins 16-byte aligned after the static, as the driver lays it out.
    kernel.shared_bytes = align(kernel.shared_bytes, if dynamic.is_empty() { 1 } else { 16 });
    offsets.extend(dynamic.iter().map(|variable| (variable.name.clone(), (Space::Shared, kernel.shared_bytes))));
    kernel.registers = function.registers;
    let mut decoder = Decoder {
        function,
        addresses,
        offsets,
        constants: HashMap::new(),
        kernel,
        passed: HashMap::new(),
        line: 0,
        scope: 0,
        starts: Vec::new(),
    };
    for statement in &function.statements {
        decoder.starts.push(decoder.kernel.instructions.len() as u32);
        decoder.statement(statement)?;
    }
    let end = decoder.kernel.instructions.len() as u32;
    decoder.starts.push(end);
    decoder.finish()
}

impl Decoder<'_> {
    fn finish(mut self) -> Result<Kernel> {
        for instruction in &mut self.kernel.instructions {
            match &mut instruction.op {
                Op::Branch(target) => *target = self.starts[*target as usize],
                Op::BranchTable(_, targets) => {
                    targets.iter_mut().for_each(|target| *target = self.starts[*target as usize])
                }
                _ => {}
            }
        }
        // Text may end without `ret`.
        self.kernel.instructions.push(Instruction {
            op: Op::Exit,
            guard: NONE,
            negated: false,
            line: self.line,
            location: None,
        });
        self.kernel.constants =
            self.constants.iter().map(|(&(class, constant), &slot)| (class, slot, constant)).collect();
        self.kernel.constants.sort_by_key(|&(_, slot, _)| slot);
        if self.kernel.registers >= u32::from(NONE) {
            return error(self.line, format!("{} registers are more than the {NONE} supported", self.kernel.registers));
        }
        Ok(self.kernel)
    }

    fn statement(&mut self, statement: &Statement) -> Result<()> {
        (self.line, self.scope) = (statement.line, statement.scope);
        if statement.opcode == ".branchtargets" {
            return Ok(());
        }
        let (guard, negated) = match &statement.guard {
            Some((name, negated)) => (self.register(&Operand::Name(name.clone()), Class::Predicate)?, *negated),
            None => (NONE, false),
        };
        let first = self.kernel.instructions.len();
        let op = self.operation(statement)?;
        self.push(op, statement.location);
        for instruction in &mut self.kernel.instructions[first..] {
            (instruction.guard, instruction.negated) = (guard, negated);
        }
        Ok(())
    }

    pub(super) fn push(&mut self, op: Op, location: Location) {
        self.kernel.instructions.push(Instruction { op, guard: NONE, negated: false, line: self.line, location });
    }

    pub(super) fn fresh(&mut self) -> Slot {
        self.kernel.registers += 1;
        (self.kernel.registers - 1).min(u32::from(NONE) - 1) as Slot
    }

    pub(super) fn constant(&mut self, class: Class, constant: Constant) -> Slot {
        if let Some(&slot) = self.constants.get(&(class, constant)) {
            return slot;
        }
        let slot = self.fresh();
        self.constants.insert((class, constant), slot);
        slot
    }

    pub(super) fn fail<T>(&self, what: impl Into<String>) -> Result<T> {
        error(self.line, what)
    }

    pub(super) fn resolve(&self, name: &str) -> Option<&Name> {
        self.function.resolve(self.scope, name)
    }

    /// A register to write; `_` is none.
    pub(super) fn register(&self, operand: &Operand, class: Class) -> Result<Slot> {
        match operand {
            Operand::Name(name) if name == "_" => Ok(NONE),
            Operand::Name(name) => match self.resolve(name) {
                Some(Name::Register(kind, slot)) if kind.class() == class => {
                    Ok((*slot).min(u32::from(NONE) - 1) as Slot)
                }
                Some(Name::Register(kind, _)) => {
                    self.fail(format!("`{name}` is a {kind:?} register, {class:?} wanted"))
                }
                _ => self.fail(format!("`{name}` is not a register")),
            },
            other => self.fail(format!("expected a register, found {other:?}")),
        }
    }

    /// A value: a register, an immediate, a special register or the address of a variable.
    pub(super) fn value(&mut self, operand: &Operand, kind: Type) -> Result<Slot> {
        let class = kind.class();
        let bits = match operand {
            Operand::Number(value) if kind == Type::F32 => u64::from((*value as i64 as f32).to_bits()),
            Operand::Number(value) => match class {
                Class::Double => *value,
                _ if kind.bytes() == 2 => *value & 0xffff,
                _ => *value & 0xffff_ffff,
            },
            Operand::Float32(bits) => u64::from(*bits),
            Operand::Float64(bits) if kind == Type::F32 => u64::from((f64::from_bits(*bits) as f32).to_bits()),
            Operand::Float64(bits) => *bits,
            Operand::Name(name) if name.starts_with('%') && self.resolve(name).is_none() => {
                let special = self.special(name)?;
                return Ok(self.constant(class, special));
            }
            Operand::Name(name) => match self.variable_address(name, false) {
                Some(address) => address,
                None => return self.register(operand, class),
            },
            Operand::Address(base, offset) => match &**base {
                Operand::Name(name) => match self.variable_address(name, false) {
                    Some(address) => address.wrapping_add(*offset as u64),
                    None => return self.fail(format!("`{name}` has no address")),
                },
                other => return self.fail(format!("no address of {other:?}")),
            },
            other => return self.fail(format!("expected a value, found {other:?}")),
        };
        Ok(self.constant(class, Constant::Bits(bits)))
    }

    /// Offset in its own space, or the generic address of a global variable.
    fn variable_address(&self, name: &str, generic: bool) -> Option<u64> {
        match self.offsets.get(name) {
            Some((Space::Shared, offset)) => Some(u64::from(*offset) + if generic { SHARED_BASE } else { 0 }),
            Some((Space::Local, offset)) => Some(u64::from(*offset) + if generic { LOCAL_BASE } else { 0 }),
            Some((_, offset)) => Some(u64::from(*offset)),
            None => self.addresses.get(name).copied(),
        }
    }

    pub(super) fn address(&mut self, operand: &Operand) -> Result<Address> {
        let Operand::Address(base, offset) = operand else {
            return self.fail(format!("expected an address, found {operand:?}"));
        };
        match &**base {
            Operand::Number(value) => {
                Ok(Address { base: Base::Absolute, offset: (*value as i64).wrapping_add(*offset) })
            }
            Operand::Name(name) => match self.resolve(name) {
                Some(Name::Register(kind, slot)) if kind.class() == Class::Double => {
                    Ok(Address { base: Base::Double(*slot as Slot), offset: *offset })
                }
                Some(Name::Register(_, slot)) => Ok(Address { base: Base::Word(*slot as Slot), offset: *offset }),
                _ => match self.variable_address(name, false) {
                    Some(address) => {
                        Ok(Address { base: Base::Absolute, offset: (address as i64).wrapping_add(*offset) })
                    }
                    None => self.fail(format!("unknown variable `{name}`")),
                },
            },
            other => self.fail(format!("expected an address, found {other:?}")),
        }
    }

    pub(super) fn label(&self, operand: &Operand) -> Result<u32> {
        let Operand::Name(name) = operand else { return self.fail(format!("expected a label, found {operand:?}")) };
        match self.resolve(name) {
            Some(Name::Label(index)) => Ok(*index as u32),
            _ => self.fail(format!("unknown label `{name}`")),
        }
    }

    /// The register that carries a parameter of a call, made when first named.
    pub(super) fn passed(&mut self, operand: &Operand, class: Class) -> Option<Slot> {
        let Operand::Address(base, offset) = operand else { return None };
        let Operand::Name(name) = &**base else { return None };
        let Some(Name::Variable(index)) = self.resolve(name) else { return None };
        if self.function.variables[*index].space != Space::Param {
            return None;
        }
        let key = (name.clone(), *offset);
        if let Some(&(_, slot)) = self.passed.get(&key).filter(|(found, _)| *found == class) {
            return Some(slot);
        }
        let slot = self.fresh();
        self.passed.insert(key, (class, slot));
        Some(slot)
    }

    /// The register of a call's parameter by its bare name.
    pub(super) fn argument(&mut self, operand: &Operand, class: Class) -> Result<Slot> {
        match self.passed(&Operand::Address(Box::new(operand.clone()), 0), class) {
            Some(slot) => Ok(slot),
            None => self.fail(format!("{operand:?} is not a parameter of a call")),
        }
    }

    fn special(&self, name: &str) -> Result<Constant> {
        let axis = match name.rsplit_once('.') {
            Some((_, "x")) => 0,
            Some((_, "y")) => 1,
            Some((_, "z")) => 2,
            _ => 3,
        };
        Ok(match name.split('.').next().unwrap_or(name) {
            "%tid" if axis < 3 => Constant::Thread(axis),
            "%ntid" if axis < 3 => Constant::BlockSize(axis),
            "%ctaid" if axis < 3 => Constant::Block(axis),
            "%nctaid" if axis < 3 => Constant::GridSize(axis),
            "%laneid" => Constant::Lane,
            "%warpid" => Constant::Warp,
            "%nwarpid" => Constant::Warps,
            "%smid" => Constant::Multiprocessor,
            "%nsmid" => Constant::Bits(1),
            "%gridid" => Constant::Bits(0),
            "%lanemask_eq" => Constant::LaneMask(MaskKind::Eq),
            "%lanemask_lt" => Constant::LaneMask(MaskKind::Lt),
            "%lanemask_le" => Constant::LaneMask(MaskKind::Le),
            "%lanemask_gt" => Constant::LaneMask(MaskKind::Gt),
            "%lanemask_ge" => Constant::LaneMask(MaskKind::Ge),
            "%dynamic_smem_size" => Constant::DynamicShared,
            "%total_smem_size" => Constant::TotalShared,
            _ => return self.fail(format!("unknown special register `{name}`")),
        })
    }
}
