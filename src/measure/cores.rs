//! Which cores receive and send. The two sides get in each other's way least on two cores that share nothing.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use serde::Serialize;

/// The cores of the two sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cores {
    /// How many this process may use.
    pub available: usize,
    /// The number of the one that receives.
    pub receiver: usize,
    /// The number of the one that sends.
    pub sender: usize,
    /// What they have in common.
    pub shared: Shared,
}

/// What the cores of the two sides have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Shared {
    /// Nothing that matters here.
    Nothing,
    /// They are two threads of one core, which has one arithmetic unit for both.
    Core,
    /// They are the same.
    Everything,
}

impl Cores {
    /// The first core that this process may use receives, and the last one that is no other thread of the same core sends.
    pub(super) fn choose() -> Self {
        Self::of(&usable(), siblings)
    }

    /// `siblings` gives all threads of the core of a thread.
    fn of(usable: &[usize], siblings: impl Fn(usize) -> Vec<usize>) -> Self {
        let receiver = usable.first().copied().unwrap_or(0);
        let siblings = siblings(receiver);
        let others = || usable.iter().rev().copied().filter(|core| *core != receiver);
        let apart = others().find(|core| !siblings.contains(core)).map(|core| (core, Shared::Nothing));
        let beside = others().next().map(|core| (core, Shared::Core));
        let (sender, shared) = apart.or(beside).unwrap_or((receiver, Shared::Everything));
        Self { available: usable.len().max(1), receiver, sender, shared }
    }
}

/// Keeps the current thread on one core. Where that is not allowed, it wanders.
pub(super) fn stay_on(core: usize) {
    let mut cores = CpuSet::new();
    if cores.set(core).is_ok() {
        let _ = sched_setaffinity(Pid::from_raw(0), &cores);
    }
}

/// The numbers of the cores that this process may use. A machine that has more than the system call tells shows as one of one core.
fn usable() -> Vec<usize> {
    let Ok(cores) = sched_getaffinity(Pid::from_raw(0)) else { return vec![0] };
    (0..CpuSet::count()).filter(|core| cores.is_set(*core) == Ok(true)).collect()
}

/// All threads of the core of a thread, as far as the kernel tells.
fn siblings(core: usize) -> Vec<usize> {
    let path = format!("/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list");
    std::fs::read_to_string(path).map(|text| list(text.trim())).unwrap_or_default()
}

/// Reads a list of cores as the kernel writes it, such as `0,64` or `0-1`.
fn list(text: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        Some(from.parse().ok()?..=to.parse().ok()?)
    };
    text.split(',').filter_map(range).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sides_share_as_little_as_they_can() {
        let pairs = |core: usize| vec![core % 4, core % 4 + 4];
        let chosen = |usable: &[usize]| {
            let Cores { receiver, sender, shared, .. } = Cores::of(usable, pairs);
            (receiver, sender, shared)
        };
        assert_eq!(chosen(&[0, 1, 2, 3, 4, 5, 6, 7]), (0, 7, Shared::Nothing));
        assert_eq!(chosen(&[0, 3, 4]), (0, 3, Shared::Nothing), "core 4 is the other thread of core 0");
        assert_eq!(chosen(&[2, 6]), (2, 6, Shared::Core));
        assert_eq!(chosen(&[5]), (5, 5, Shared::Everything));
        assert_eq!(chosen(&[]), (0, 0, Shared::Everything));
        assert_eq!(Cores::of(&[0, 1], |_| Vec::new()).shared, Shared::Nothing, "the kernel tells nothing");
    }

    #[test]
    fn lists_of_cores_are_read_as_the_kernel_writes_them() {
        assert_eq!((list("0"), list("0,64"), list("2-3,8")), (vec![0], vec![0, 64], vec![2, 3, 8]));
        assert_eq!(list("none"), Vec::<usize>::new());
    }

    #[test]
    fn this_process_may_use_a_core() {
        let Cores { available, receiver, sender, .. } = Cores::choose();
        assert!(available >= 1 && usable().contains(&receiver) && usable().contains(&sender));
    }
}
