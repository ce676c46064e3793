//! The waiters, the outbox and the records under every order of steps that the shuttle scheduler comes up with: a packet that
//! falls between the look and the sleep is never lost, a wait that is given up leaves nothing, nobody goes on waiting for a deleted
//! device, who listens to an organisation hears of every packet or sees it, what is put into the outbox leaves with a packet, and
//! where a challenge was answered from; a wait that is raced against an end has heard or is told; and what is written down in the end is
//! what there is.
//!
//! `cargo test --locked --features shuttle --test interleaving`. A waiter that nobody wakes is a deadlock, which the
//! scheduler reports. It runs all atomic operations as sequentially consistent ones: what the fences are for is argued in
//! `Waiters::wake`. The locks of the table are its own: nothing comes between the steps of one call of it, but for what a call tells
//! while it holds none.
#![allow(clippy::unwrap_used, reason = "scenarios are plain functions, and all of them are tests")]

mod awake;
mod organisation;
mod records;
mod waiters;

use lastroute::id::DeviceId;

const DEVICE: DeviceId = DeviceId(7);

/// Random schedules find what needs many steps apart, those of PCT what needs few steps at the wrong moment.
const SCHEDULES: usize = 5000;
const PCT_DEPTH: usize = 3;

fn explore(scenario: impl Fn() + Send + Sync + Clone + 'static) {
    shuttle::check_random(scenario.clone(), SCHEDULES);
    shuttle::check_pct(scenario, SCHEDULES, PCT_DEPTH);
}
