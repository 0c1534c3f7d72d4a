//! `--device`: where to compute.

use super::Global;
use crate::device::cpu::Isa;
use crate::device::{Backend, Cpu, Cuda};
use crate::{Error, Result};

/// What `--device` and `--isa` ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The first GPU, or the CPU where there is none.
    Auto,
    Cpu(Isa),
    /// The GPU of this number.
    Cuda(usize),
}

/// An open device.
pub(super) enum Device {
    Cpu(Cpu),
    Cuda(Cuda),
}

impl Device {
    /// The hardware in one line.
    pub fn describe(&self) -> String {
        match self {
            Self::Cpu(cpu) => cpu.describe(),
            Self::Cuda(cuda) => cuda.describe(),
        }
    }
}

impl Place {
    pub fn of(global: &Global) -> Result<Self> {
        let isa = match global.isa.as_str() {
            "auto" => None,
            name => Some(name.parse::<Isa>().map_err(Error::Usage)?),
        };
        let detected = Isa::detect();
        if let Some(isa) = isa
            && !isa.is_available()
        {
            return Err(Error::Usage(format!("this CPU does not have {isa}: use --isa {detected} or slower")));
        }
        match (global.device.as_str(), isa) {
            ("auto", None) => Ok(Self::Auto),
            // An instruction set is the CPU's.
            ("auto", Some(isa)) => Ok(Self::Cpu(isa)),
            ("cpu", isa) => Ok(Self::Cpu(isa.unwrap_or(detected))),
            (name, _) => {
                let number = name.strip_prefix("cuda").map(|rest| rest.strip_prefix(':').unwrap_or(rest));
                match number {
                    Some("") if !name.ends_with(':') => Ok(Self::Cuda(0)),
                    Some(number) if name.contains(':') => {
                        number.parse().map(Self::Cuda).map_err(|_| Self::unknown(name))
                    }
                    _ => Err(Self::unknown(name)),
                }
            }
        }
    }

    fn unknown(name: &str) -> Error {
        Error::Usage(format!("unknown device \"{name}\": use auto, cpu, cuda or cuda:N"))
    }

    /// Opens the device. `auto` takes the CPU without a word where there is no GPU, and with one where a GPU is there but
    /// cannot be used.
    pub fn open(self, global: &Global) -> Result<Device> {
        match self {
            Self::Cpu(isa) => Ok(Device::Cpu(Cpu::with_isa(isa))),
            Self::Cuda(ordinal) => Cuda::new(ordinal).map(Device::Cuda),
            Self::Auto if Cuda::is_available() => Ok(Cuda::new(0).map_or_else(
                |error| {
                    global.note(format_args!("computing on the CPU: {error}"));
                    Device::Cpu(Cpu::new())
                },
                Device::Cuda,
            )),
            Self::Auto => Ok(Device::Cpu(Cpu::new())),
        }
    }
}
