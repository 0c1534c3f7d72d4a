//! Registers that some path reads before it writes them, numbered, and what an operation does with them: resolved once,
//! so that the interpreter looks nothing up.

use super::hopper::{Left, asynchronous};
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
    /// Registers lent to wgmma that this operation reads or writes itself, and how many of them it reads.
    pub touches: Box<[u16]>,
    pub reads: usize,
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
    pub fn new(op: &mut Op, guard: Slot, watched: &HashMap<(Class, Slot), u16>, lent: u16) -> Option<Self> {
        let find = |class: Class, slot: Slot| watched.get(&(class, slot)).copied();
        if let Some(m) = asynchronous(op) {
            // Accumulators are no uses: whether they are added to is known when it runs.
            let word = |slot: &Slot| find(Class::Word, *slot);
            let uses = match &m.a {
                Left::Shared(_) => Box::default(),
                Left::Registers(slots) => slots.iter().filter_map(word).collect(),
            };
            let defines = m.d.iter().filter_map(word).collect();
            let (origin, touches) = (Origin::Computed, Box::default());
            return Some(Self { guard: None, uses, defines, origin, touches, reads: 0 });
        }
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
        let mut touches: Vec<u16> = uses.iter().copied().filter(|&register| register < lent).collect();
        let reads = touches.len();
        touches.extend(defines.iter().filter(|&&register| register < lent));
        if copies(op) {
            uses.clear();
        }
        Some(Self { guard, uses: uses.into(), defines: defines.into(), origin, touches: touches.into(), reads })
    }
}
