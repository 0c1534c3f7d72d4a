//! Registers that some path reads before it writes them, numbered, and what an operation does with them: resolved once,
//! so that the interpreter looks nothing up.

use super::op::{Double1, NONE, Op, Role, Slot, Word1};
use super::types::Class;
use std::collections::HashMap;

/// Where the value that an operation writes comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Origin {
    /// It is new.
    Computed,
    /// Another register, which may be unwritten itself; none where that one is not watched.
    Copy(Option<u16>),
    Select {
        p: Slot,
        a: Option<u16>,
        b: Option<u16>,
    },
}

/// An operation's watched registers.
#[derive(Clone, Debug, PartialEq)]
pub struct Watch {
    pub guard: Option<u16>,
    /// Registers whose value counts; a copy only passes it on.
    pub uses: Box<[u16]>,
    pub defines: Box<[u16]>,
    pub origin: Origin,
}

/// Operations that move a value without using it.
pub fn copies(op: &Op) -> bool {
    matches!(
        op,
        Op::Word1(Word1::Mov, ..)
            | Op::Double1(Double1::Mov, ..)
            | Op::Select { .. }
            | Op::SelectDouble { .. }
            | Op::PredicateMov { .. }
    )
}

impl Watch {
    /// `None` where the operation touches no watched register.
    pub fn new(op: &mut Op, guard: Slot, watched: &HashMap<(Class, Slot), u16>) -> Option<Self> {
        let find = |class: Class, slot: Slot| watched.get(&(class, slot)).copied();
        let (mut uses, mut defines) = (Vec::new(), Vec::new());
        op.slots(&mut |class, slot, role| match role {
            Role::Use => uses.extend(find(class, *slot)),
            Role::Define => defines.extend(find(class, *slot)),
        });
        let guard = if guard == NONE { None } else { find(Class::Predicate, guard) };
        if guard.is_none() && uses.is_empty() && defines.is_empty() {
            return None;
        }
        let origin = match *op {
            Op::Word1(Word1::Mov, _, [a]) => Origin::Copy(find(Class::Word, a)),
            Op::Double1(Double1::Mov, _, [a]) => Origin::Copy(find(Class::Double, a)),
            Op::PredicateMov { a, .. } => Origin::Copy(find(Class::Predicate, a)),
            Op::Select { a, b, p, .. } => Origin::Select { p, a: find(Class::Word, a), b: find(Class::Word, b) },
            Op::SelectDouble { a, b, p, .. } => {
                Origin::Select { p, a: find(Class::Double, a), b: find(Class::Double, b) }
            }
            _ => Origin::Computed,
        };
        if copies(op) {
            uses.clear();
        }
        Some(Self { guard, uses: uses.into(), defines: defines.into(), origin })
    }
}
