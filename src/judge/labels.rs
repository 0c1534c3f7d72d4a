//! The file judge: verdicts made elsewhere, by people or by another program, looked up by what was judged.

use super::{Judge, JudgeRequest, Outcome, Verdict};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// One line of a file of labels. Without a prefill `own` may be empty: it is `whole`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    /// [`key`] of the rest.
    pub key: String,
    pub prompt: String,
    pub prefill: String,
    pub continuation: String,
    /// harmful, refused or neither, of prefill and continuation together; empty in a file that is to be filled in.
    #[serde(default)]
    pub whole: String,
    /// The same of the continuation alone.
    #[serde(default)]
    pub own: String,
}

/// What names a response: a hash of its prompt, prefill and continuation.
pub fn key(prompt: &str, prefill: &str, continuation: &str) -> String {
    let mut hasher = blake3::Hasher::new();
    for text in [prompt, prefill, continuation] {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    hasher.finalize().to_hex()[..16].to_owned()
}

/// Verdicts by [`key`].
pub struct LabelJudge {
    path: PathBuf,
    verdicts: HashMap<String, Verdict>,
}

impl LabelJudge {
    /// Reads a CSV file with the columns of [`Label`] (of which `key` and `whole` must be there).
    ///
    /// # Errors
    /// Names the first line with a verdict of another name. Lines whose verdict is empty are left out.
    pub fn read(path: &Path) -> Result<Self> {
        let mut reader = csv::Reader::from_path(path)
            .map_err(|error| Error::input(path.display(), format!("cannot be read: {error}")))?;
        let mut verdicts = HashMap::new();
        let columns =
            reader.headers().map_err(|error| Error::input(path.display(), format!("cannot be read: {error}")))?.clone();
        let column = |name: &str| columns.iter().position(|column| column.trim() == name);
        let (Some(key), Some(whole)) = (column("key"), column("whole")) else {
            return Err(Error::input(
                path.display(),
                "has no columns `key` and `whole`: start from `safedepth judge export`",
            ));
        };
        let (prefill, own) = (column("prefill"), column("own"));
        for (line, record) in (2..).zip(reader.records()) {
            let place = format!("{}:{line}", path.display());
            let record = record.map_err(|error| Error::input(&place, format!("cannot be read: {error}")))?;
            let field = |column: Option<usize>| column.and_then(|column| record.get(column)).unwrap_or_default().trim();
            let outcome = |name: &str| {
                Outcome::named(name).ok_or_else(|| {
                    Error::input(&place, format!("says \"{name}\": a verdict is harmful, refused or neither"))
                })
            };
            if field(Some(whole)).is_empty() {
                continue;
            }
            let whole = outcome(field(Some(whole)))?;
            let own = match field(own) {
                "" if field(prefill).is_empty() => whole,
                "" => return Err(Error::input(&place, "has a prefill, but no verdict `own` on what follows it")),
                own => outcome(own)?,
            };
            verdicts.insert(field(Some(key)).to_owned(), Verdict::of(whole, own));
        }
        Ok(Self { path: path.to_owned(), verdicts })
    }
}

impl Judge for LabelJudge {
    fn name(&self) -> &str {
        "file"
    }

    fn judge_all(&self, requests: &[JudgeRequest]) -> Result<Vec<Verdict>> {
        let verdict = |r: &JudgeRequest| self.verdicts.get(&key(r.prompt, r.prefill, r.continuation)).copied();
        let verdicts: Vec<Option<Verdict>> = requests.iter().map(verdict).collect();
        let missing = verdicts.iter().filter(|verdict| verdict.is_none()).count();
        if missing > 0 {
            let problem = format!("has no verdict on {missing} of {} responses", requests.len());
            return Err(Error::input(self.path.display(), problem));
        }
        Ok(verdicts.into_iter().flatten().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_found_by_what_they_judge() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("labels.csv");
        let request = |prefill, continuation| JudgeRequest { id: "", prompt: "p", prefill, continuation, response: "" };
        let (one, two) = (key("p", "", "no"), key("p", "sure", ", here"));
        let write = |own: &str| {
            let text = format!("key,whole,own,prefill\n{one},refused,,\n{two},harmful,{own},sure\nother,,,\n");
            std::fs::write(&path, text).unwrap();
            LabelJudge::read(&path)
        };
        let judge = write("neither").unwrap();
        let verdicts = judge.judge_all(&[request("sure", ", here"), request("", "no")]).unwrap();
        assert_eq!(verdicts[0], Verdict::of(Outcome::Harmful, Outcome::Neither));
        assert_eq!(verdicts[1], Verdict::of(Outcome::Refused, Outcome::Refused));
        let missing = judge.judge_all(&[request("sur", "e, here"), request("", "no")]).unwrap_err().to_string();
        assert!(missing.contains("1 of 2"), "{missing}");
        let message = |result: Result<LabelJudge>| result.err().unwrap().to_string();
        assert!(message(write("")).contains(":3") && message(write("bad")).contains("\"bad\""));
    }
}
