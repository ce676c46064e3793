//! When downlinks may be sealed: within the time that was reserved for it, so that no nonce is used again after a restart
//! (rule R2).

use std::sync::atomic::{AtomicU32, Ordering};

/// The GPS seconds in which downlinks may be sealed. Begins with none: see [`Self::start`] and [`Self::extend`].
#[derive(Debug, Default)]
pub struct Allowance {
    from: AtomicU32,
    until: AtomicU32,
    /// The last that was asked for and allowed.
    used: AtomicU32,
}

impl Allowance {
    /// Every second, for tools and tests that keep nothing.
    pub const fn always() -> Self {
        Self { from: AtomicU32::new(0), until: AtomicU32::new(u32::MAX), used: AtomicU32::new(0) }
    }

    /// Nothing is sealed before the GPS second `from`: those before it may have been used by a process that ended without
    /// saying so.
    pub fn start(&self, from: u32) {
        self.from.store(from, Ordering::Relaxed);
    }

    /// The seconds before `until` are reserved from now on, those that were reserved before included.
    pub fn extend(&self, until: u32) {
        self.until.fetch_max(until, Ordering::Relaxed);
    }

    /// Whether a downlink may be sealed in the GPS second `gps`.
    pub fn allows(&self, gps: u32) -> bool {
        let allows = (self.from()..self.until()).contains(&gps);
        if allows && self.used() < gps {
            self.used.fetch_max(gps, Ordering::Relaxed);
        }
        allows
    }

    /// The first GPS second in which downlinks may be sealed.
    pub fn from(&self) -> u32 {
        self.from.load(Ordering::Relaxed)
    }

    /// The GPS second before which they may.
    pub fn until(&self) -> u32 {
        self.until.load(Ordering::Relaxed)
    }

    /// The greatest GPS second in which one was allowed; 0 before the first.
    pub fn used(&self) -> u32 {
        self.used.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_allowed_before_it_is_reserved_nor_in_what_another_process_reserved() {
        let allowance = Allowance::default();
        let allowed = |allowance: &Allowance| (0..20).filter(|gps| allowance.allows(*gps)).collect::<Vec<_>>();
        assert!(allowed(&allowance).is_empty());
        allowance.start(10);
        assert!(allowed(&allowance).is_empty());
        allowance.extend(13);
        assert_eq!(allowed(&allowance), [10, 11, 12]);
        allowance.extend(12);
        allowance.extend(14);
        assert_eq!(allowed(&allowance), [10, 11, 12, 13]);
        assert_eq!((allowance.from(), allowance.until(), allowance.used()), (10, 14, 13));
        assert!(Allowance::always().allows(u32::MAX - 1));
    }
}
