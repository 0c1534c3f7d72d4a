//! The state of an unfinished training run, so that a killed one goes on and ends with the same bytes.
//!
//! `training/config.json` says what run it is. `training/state.bin` is a little-endian u64 (the length of a JSON header),
//! the header (step and log), then every parameter, first and second moment as f32, in the order of
//! [`Config::parameters`](crate::model::Config::parameters). `training_log.csv` outlives it.

use super::trainer::Trainer;
use crate::ops::Ops;
use crate::run::write_atomic;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

/// One step's (number from 1, loss, gradient norm before clipping, learning rate).
pub type LogLine = (usize, f64, f64, f32);

#[derive(Serialize, Deserialize)]
struct Header {
    step: u32,
    log: Vec<LogLine>,
}

/// Where a run's state is kept.
pub struct TrainingState {
    output: PathBuf,
}

impl TrainingState {
    /// The state in `output/training`, of the run that `config` describes.
    ///
    /// # Errors
    /// If an unfinished run of another config is there.
    pub fn new(output: &Path, config: &impl Serialize) -> Result<Self> {
        let this = Self { output: output.to_owned() };
        let dir = this.dir();
        std::fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
        let config = serde_json::to_string_pretty(config).expect("a config is plain data") + "\n";
        let path = dir.join("config.json");
        match std::fs::read_to_string(&path) {
            Ok(old) if old != config => Err(Error::input(
                output.display(),
                "holds an unfinished run of other options: give another --output, or remove the folder",
            )),
            Ok(_) => Ok(this),
            Err(_) => write_atomic(&path, config.as_bytes()).map(|()| this),
        }
    }

    fn dir(&self) -> PathBuf {
        self.output.join("training")
    }

    fn state_path(&self) -> PathBuf {
        self.dir().join("state.bin")
    }

    /// Saves everything the next step depends on.
    pub fn save<D: Ops>(&self, trainer: &Trainer<D>, log: &[LogLine]) -> Result<()> {
        let path = self.state_path();
        let partial = path.with_extension("partial");
        let write = || -> std::io::Result<()> {
            let mut file = BufWriter::new(File::create(&partial)?);
            let header = serde_json::to_vec(&Header { step: trainer.step, log: log.to_vec() })?;
            file.write_all(&(header.len() as u64).to_le_bytes())?;
            file.write_all(&header)?;
            let device = &trainer.model.device;
            let parameters = trainer.model.parameters.iter().zip(trainer.masters.iter());
            let parameters = parameters.map(|(parameter, master)| master.as_ref().unwrap_or(parameter));
            for tensor in parameters.chain(trainer.m.iter()).chain(trainer.v.iter()) {
                let values = tensor.to_vec(device).map_err(std::io::Error::other)?;
                file.write_all(bytemuck::cast_slice(&values))?;
            }
            file.into_inner()?.sync_all()
        };
        write().map_err(Error::io("write", &partial))?;
        std::fs::rename(&partial, &path).map_err(Error::io("write", &path))?;
        self.write_log(log)
    }

    /// Brings a fresh trainer to the saved step and returns the log so far; leaves it alone where nothing is saved.
    pub fn restore<D: Ops>(&self, trainer: &mut Trainer<D>) -> Result<Vec<LogLine>> {
        let path = self.state_path();
        let Ok(file) = File::open(&path) else { return Ok(Vec::new()) };
        let mut file = BufReader::new(file);
        let mut read = || -> std::io::Result<Header> {
            let mut length = [0; 8];
            file.read_exact(&mut length)?;
            let mut header = Vec::new();
            (&mut file).take(u64::from_le_bytes(length)).read_to_end(&mut header)?;
            let header: Header = serde_json::from_slice(&header)?;
            let device = trainer.model.device.clone();
            let mut fill = |tensor: &mut crate::device::Tensor<D>| -> std::io::Result<()> {
                let mut values = vec![0.0_f32; tensor.len()];
                file.read_exact(bytemuck::cast_slice_mut(&mut values))?;
                device.write(&mut tensor.buffer, &values).map_err(std::io::Error::other)
            };
            for (parameter, master) in trainer.model.parameters.iter_mut().zip(trainer.masters.iter_mut()) {
                match master {
                    Some(master) => {
                        fill(master)?;
                        device.copy(&master.buffer, &mut parameter.buffer).map_err(std::io::Error::other)?;
                    }
                    None => fill(parameter)?,
                }
            }
            trainer.m.iter_mut().chain(trainer.v.iter_mut()).try_for_each(&mut fill)?;
            Ok(header)
        };
        let header = read().map_err(|error| {
            Error::input(path.display(), format!("is not a whole training state ({error}): remove it to start again"))
        })?;
        trainer.step = header.step;
        Ok(header.log)
    }

    /// Writes `training_log.csv`: step, loss, grad_norm, lr.
    pub fn write_log(&self, log: &[LogLine]) -> Result<()> {
        let mut text = String::from("step,loss,grad_norm,lr\n");
        for (step, loss, grad_norm, lr) in log {
            text += &format!("{step},{loss},{grad_norm},{lr}\n");
        }
        write_atomic(&self.output.join("training_log.csv"), text.as_bytes())
    }

    /// Forgets the state of a run that has finished.
    pub fn remove(&self) -> Result<()> {
        std::fs::remove_dir_all(self.dir()).map_err(Error::io("remove", self.dir()))
    }
}
