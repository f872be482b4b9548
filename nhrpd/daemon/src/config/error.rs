//! What is wrong with a configuration, and where.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Its content is not good.
    #[error("{}", lines(path, problems))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// All that was found, in the order of the file; at least one.
        problems: Vec<Problem>,
    },
}

impl ConfigError {
    pub(super) fn invalid(path: &Path, mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| problem.location);
        Self::Invalid { path: path.into(), problems }
    }
}

fn lines(path: &Path, problems: &[Problem]) -> String {
    let line = |problem: &Problem| {
        let place = match problem.location {
            Some((line, column)) => format!("{}:{line}:{column}", path.display()),
            None => path.display().to_string(),
        };
        format!("{place}: {problem}")
    };
    problems.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Line and column, from 1.
    pub location: Option<(usize, usize)>,
    /// The key, as `nhs[0].address`; empty where no key is at fault.
    pub key: String,
    /// What is wrong with it and what was expected.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.is_empty() {
            f.write_str(&self.text)
        } else {
            write!(f, "{}: {}", self.key, self.text)
        }
    }
}

impl Problem {
    /// Finds the place of the key in `text`, or of the innermost section around it that is there.
    pub(super) fn locate(mut self, text: &str) -> Self {
        let steps: Vec<&str> = self.key.split(['.', '[']).collect();
        // The search always ends in an error: yaml_serde tells places only with errors.
        if let Err(found) = Search(&steps).deserialize(serde_yaml::Deserializer::from_str(text)) {
            self.location = found.location().map(|place| (place.line(), place.column()));
        }
        self
    }
}

/// Walks down the keys (`tunnel`, `0]`, …) and fails where they end.
struct Search<'a>(&'a [&'a str]);

impl<'de> DeserializeSeed<'de> for Search<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Search<'_> {
    type Value = ();

    // For scalars serde's own "invalid type" is the error that tells the place.
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the key")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        if let Some((step, rest)) = self.0.split_first() {
            while let Some(key) = map.next_key::<String>()? {
                if key == *step {
                    return map.next_value_seed(Search(rest));
                }
                map.next_value::<IgnoredAny>()?;
            }
        }
        Err(A::Error::custom("found"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        if let Some((step, rest)) = self.0.split_first() {
            let index: usize = step.trim_end_matches(']').parse().map_err(A::Error::custom)?;
            for _ in 0..index {
                seq.next_element::<IgnoredAny>()?;
            }
            seq.next_element_seed(Search(rest))?;
        }
        Err(A::Error::custom("found"))
    }
}

/// The known word that was probably meant.
pub(super) fn suggestion<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let distance = |candidate: &&str| strsim::damerau_levenshtein(word, candidate);
    let near = known.iter().copied().min_by_key(distance)?;
    (distance(&near) <= 1.max(near.len() / 3)).then_some(near)
}
