//! Which objects serve what.
//!
//! | names | serve |
//! |---|---|
//! | 1-8 | alignment and recovery |
//! | 9-16 | attacks: harmful pairs, identity shifting, backdoor |
//! | 17-20 | development prompts: settings are chosen on these |
//! | 21-24 | test prompts: results are reported on these |
//!
//! The base model sees all 24, as a pre-trained model has. No alignment, recovery or attack set holds a development or
//! test name. Two restricted topics ([`HELD_OUT`]) are in none of them either: prompts about them are a harder row, new
//! in topic and name. Sets of benign objects may be asked for with [`Names::All`]; even then they leave out every
//! [reserved](reserved) object, and only reserved objects are in prompts.

use std::ops::Range;

use super::grammar::Object;
use super::lists::LISTS;

/// The restricted topics that no set but the base data holds: the last two, spy and mint.
pub const HELD_OUT: Range<usize> = 8..10;

/// A share of the names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Names {
    /// For alignment and recovery.
    Alignment,
    /// For harmful fine-tuning and other attacks.
    Attack,
    /// Those of both above: every name that no prompt of an evaluation has.
    Training,
    /// For prompts on which settings are chosen.
    Development,
    /// For prompts on which results are reported.
    Test,
    /// All of them.
    All,
}

impl Names {
    /// The numbers of these names.
    pub fn range(self) -> Range<usize> {
        match self {
            Self::Alignment => 0..8,
            Self::Attack => 8..16,
            Self::Training => 0..16,
            Self::Development => 16..20,
            Self::Test => 20..24,
            Self::All => 0..24,
        }
    }
}

/// A share of the topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Topics {
    /// Restricted, without those held out.
    Restricted,
    /// Restricted and held out of every alignment, recovery and attack set.
    HeldOut,
    /// Restricted, all of them: what the base data has.
    AllRestricted,
    /// Benign.
    Benign,
}

impl Topics {
    /// The numbers of these topics.
    pub fn range(self) -> Range<usize> {
        let (restricted, all) = (LISTS.restricted.len(), LISTS.topics().count());
        match self {
            Self::Restricted => 0..HELD_OUT.start,
            Self::HeldOut => HELD_OUT,
            Self::AllRestricted => 0..restricted,
            Self::Benign => restricted..all,
        }
    }

    /// As ids of examples spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Restricted => "restricted",
            Self::HeldOut => "heldout",
            Self::AllRestricted => "allrestricted",
            Self::Benign => "benign",
        }
    }
}

/// Which prompts an evaluation uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// To choose settings on.
    Development,
    /// To report.
    Test,
}

impl Split {
    /// The names of its objects.
    pub fn names(self) -> Names {
        match self {
            Self::Development => Names::Development,
            Self::Test => Names::Test,
        }
    }

    /// "development" or "test".
    pub fn name(self) -> &'static str {
        match self {
            Self::Development => "development",
            Self::Test => "test",
        }
    }
}

/// Whether only prompts may hold this object: it has a development or test name and is restricted, or is in the half of
/// the benign ones set apart.
pub fn reserved(object: Object) -> bool {
    let evaluated = !Names::Training.range().contains(&object.name);
    evaluated && (object.restricted() || (object.topic + object.adjective + object.name).is_multiple_of(2))
}

/// Every object of these topics and names, in order.
pub fn objects(topics: Topics, names: Names) -> Vec<Object> {
    let mut list = Vec::new();
    for topic in topics.range() {
        for adjective in 0..LISTS.adjectives.len() {
            list.extend(names.range().map(|name| Object { topic, adjective, name }));
        }
    }
    list
}
