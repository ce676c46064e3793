//! What is wrong with the gateway while it goes on serving: shown by `GET /readyz`, the metrics and the service manager.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A part of the gateway that can be in trouble by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// The system's clock differs from the gateway's (rule R11).
    Clock,
    /// What the table knows cannot be written down (rule R10).
    Records,
}

impl Part {
    /// Every part.
    pub const ALL: [Self; 2] = [Self::Clock, Self::Records];

    /// The name in every text.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Clock => "clock",
            Self::Records => "records",
        }
    }
}

/// The troubles of the present moment, at most one of each part.
#[derive(Debug, Default)]
pub struct Health(Mutex<BTreeMap<Part, String>>);

impl Health {
    /// A part is in trouble: what is wrong and what follows, in one sentence. Replaces what was said of it before.
    pub fn degrade(&self, part: Part, why: impl Into<String>) {
        self.lock().insert(part, why.into());
    }

    /// A part is well again. True if it was not.
    pub fn recover(&self, part: Part) -> bool {
        self.lock().remove(&part).is_some()
    }

    /// What is wrong now.
    pub fn troubles(&self) -> BTreeMap<Part, String> {
        self.lock().clone()
    }

    /// The same, by [`Part::name`].
    pub fn by_name(&self) -> BTreeMap<String, String> {
        self.troubles().into_iter().map(|(part, why)| (part.name().to_owned(), why)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Part, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_has_one_trouble_until_it_recovers() {
        let health = Health::default();
        health.degrade(Part::Records, "no space");
        health.degrade(Part::Clock, "an hour ahead");
        health.degrade(Part::Records, "no disk");
        assert_eq!(health.troubles().into_values().collect::<Vec<_>>(), ["an hour ahead", "no disk"]);
        assert_eq!([true, false], [health.recover(Part::Records), health.recover(Part::Records)]);
        assert_eq!(health.troubles().len(), 1);
    }
}
