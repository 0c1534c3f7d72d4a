//! A model folder with everything the command line needs of it.

use super::Global;
use crate::model::{Prompter, Transformer};
use crate::ops::Ops;
use crate::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A model with its tokenizer and chat template.
pub(super) struct LoadedModel<D: Ops> {
    pub dir: PathBuf,
    pub model: Transformer<D>,
    pub prompter: Arc<Prompter>,
}

impl<D: Ops> LoadedModel<D> {
    /// Loads the folder `dir` with the chat template named `template` (auto: the folder's own).
    pub fn open(global: &Global, device: &D, dir: &Path, template: &str) -> Result<Self> {
        let model = Transformer::load(device.clone(), dir, global.dtype.dtype())?;
        let prompter = Arc::new(Prompter::load(dir, &model.config, template)?);
        Ok(Self { dir: dir.to_owned(), model, prompter })
    }

    /// Fails unless both models give the same numbers to the same words.
    pub fn check_same_tokenizer(&self, other: &Self) -> Result<()> {
        let (ours, theirs) = (self.model.config.vocab_size, other.model.config.vocab_size);
        if ours != theirs {
            return Err(Error::input(
                other.dir.display(),
                format!(
                    "has a vocabulary of {theirs}, but {} has {ours}: compare models that share a tokenizer",
                    self.dir.display()
                ),
            ));
        }
        let probe = "Sure, here is how: 1) wait, 2) listen. I cannot help with that; naïve 日本 🙂\n\tend";
        if self.prompter.response_ids(probe)? != other.prompter.response_ids(probe)? {
            return Err(Error::input(
                other.dir.display(),
                format!("has another tokenizer than {}: compare models that share one", self.dir.display()),
            ));
        }
        Ok(())
    }
}
