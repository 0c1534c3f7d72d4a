//! A loaded module: its variables placed in memory, its kernels decoded.

use crate::memory::Table;
use crate::ptx::parse::{Module, Space};
use crate::ptx::registers::{Program, compact};
use crate::ptx::{self, decode};
use std::collections::{BTreeMap, HashMap};

#[derive(Clone, Debug)]
pub struct Loaded {
    pub module: Module,
    pub programs: BTreeMap<String, Program>,
    /// Address and size of each variable in global memory.
    pub variables: HashMap<String, (u64, u64)>,
}

impl Loaded {
    /// Decodes every kernel of the text; what is not supported is named here.
    pub fn new(text: &str, memory: &mut Table) -> ptx::Result<Self> {
        let module = Module::parse(text)?;
        let mut variables = HashMap::new();
        for variable in module.variables.iter().filter(|variable| variable.space != Space::Shared) {
            let address = memory.allocate(variable.size.into());
            variables.insert(variable.name.clone(), (address, u64::from(variable.size)));
        }
        let addresses = variables.iter().map(|(name, &(address, _))| (name.clone(), address)).collect();
        for variable in module.variables.iter().filter(|variable| variable.space != Space::Shared) {
            let Some((buffer, _)) = variables.get(&variable.name).and_then(|&(address, _)| memory.find(address)) else {
                continue;
            };
            // What the initialiser leaves out is zero, and so is a variable without one.
            let mut bytes = variable.initial.clone();
            bytes.resize(variable.size as usize, 0);
            for (offset, name) in &variable.pointers {
                let target: u64 = *HashMap::<String, u64>::get(&addresses, name).unwrap_or(&0);
                bytes[*offset as usize..*offset as usize + 8].copy_from_slice(&target.to_le_bytes());
            }
            buffer.write(0, &bytes);
        }
        let mut programs = BTreeMap::new();
        for function in module.functions.iter().filter(|function| function.entry) {
            programs.insert(function.name.clone(), compact(decode::kernel(&module, function, &addresses)?));
        }
        Ok(Self { module, programs, variables })
    }
}
