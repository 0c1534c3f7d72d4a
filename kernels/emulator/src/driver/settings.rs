//! What environment variables set. They are named SAFEDEPTH_EMULATOR_*, and the README lists them.

use crate::vm::Settings;

/// What a fault does beside being printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Faults {
    /// The next call that waits for the device returns a CUDA error.
    Error,
    /// Nothing.
    Report,
    /// The program is aborted at once.
    Abort,
}

/// An error to produce for tests of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inject {
    /// CUDA_ERROR_OUT_OF_MEMORY where more than these bytes would be allocated.
    Memory { bytes: u64 },
    /// CUDA_ERROR_NO_BINARY_FOR_GPU from loading any module.
    Image,
    /// CUDA_ERROR_UNSUPPORTED_PTX_VERSION from loading any module, and an old version number.
    Driver,
    /// CUDA_ERROR_DEVICE_UNAVAILABLE from everything after this many launches.
    Lost { launches: u64 },
    /// No device at all: CUDA_ERROR_NO_DEVICE from cuInit.
    NoDevice,
}

#[derive(Clone, Debug)]
pub struct Options {
    /// 80 for sm_80.
    pub architecture: u32,
    pub memory: u64,
    pub settings: Settings,
    pub faults: Faults,
    pub inject: Option<Inject>,
    pub report: Option<String>,
    pub counts: Option<String>,
    pub calls: Option<String>,
}

fn variable(name: &str) -> Option<String> {
    std::env::var(format!("SAFEDEPTH_EMULATOR_{name}")).ok().filter(|value| !value.is_empty())
}

/// A variable's value; one that cannot be read is named and left at its default.
fn parsed<T>(name: &str, default: T, parse: impl Fn(&str) -> Option<T>) -> T {
    match variable(name) {
        None => default,
        Some(text) => parse(&text).unwrap_or_else(|| {
            eprintln!("safedepth-emulator: SAFEDEPTH_EMULATOR_{name}={text} is not understood; the default is used");
            default
        }),
    }
}

impl Options {
    pub fn from_environment() -> Self {
        let mut settings = Settings::default();
        settings.seed = parsed("SEED", settings.seed, |text| text.parse().ok());
        settings.threads = parsed("THREADS", settings.threads, |text| text.parse().ok().filter(|&n| n > 0));
        settings.noise = parsed("NOISE", None, |text| text.parse().ok().map(Some));
        settings.limit = parsed("LIMIT", settings.limit, |text| text.parse().ok());
        settings.detect = parsed("DETECT", true, |text| match text {
            "1" => Some(true),
            "0" => Some(false),
            _ => None,
        });
        Self {
            architecture: parsed("ARCH", 80, |text| text.trim_start_matches("sm_").parse().ok()),
            memory: parsed("MEMORY", 16 << 30, |text| text.parse().ok()),
            settings,
            faults: parsed("FAULTS", Faults::Error, |text| match text {
                "error" => Some(Faults::Error),
                "report" => Some(Faults::Report),
                "abort" => Some(Faults::Abort),
                _ => None,
            }),
            inject: parsed("INJECT", None, |text| Inject::parse(text).map(Some)),
            report: variable("REPORT"),
            counts: variable("COUNTS"),
            calls: variable("CALLS"),
        }
    }

    /// Shared memory a block may opt in to, from the CUDA programming guide's table of compute capabilities.
    pub fn shared_limit(&self) -> u32 {
        1024 * match self.architecture {
            80 | 87 => 163,
            90.. => 227,
            _ => 99,
        }
    }
}

impl Inject {
    fn parse(text: &str) -> Option<Self> {
        let (name, value) = text.split_once(':').unwrap_or((text, ""));
        Some(match (name, value.parse()) {
            ("memory", Ok(bytes)) => Inject::Memory { bytes },
            ("lost", Ok(launches)) => Inject::Lost { launches },
            ("image", _) => Inject::Image,
            ("driver", _) => Inject::Driver,
            ("no-device", _) => Inject::NoDevice,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn injected_errors_are_read_with_their_numbers() {
        assert_eq!(Inject::parse("memory:1000"), Some(Inject::Memory { bytes: 1000 }));
        assert_eq!(Inject::parse("lost:3"), Some(Inject::Lost { launches: 3 }));
        assert_eq!(Inject::parse("image"), Some(Inject::Image));
        assert_eq!(Inject::parse("memory"), None);
    }
}
