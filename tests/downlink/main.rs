//! Downlinks from end to end: whole gateways, simulated devices that sleep behind NATs, and a network between that loses,
//! copies and overtakes, and sees everything.
#![cfg(feature = "server")]
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod commands;
mod data;
mod forged;
mod hand;
mod harness;
mod killed;
mod network;
mod process;
mod rekeyed;
mod relayed;
mod repeated;
mod restarted;
mod sleeping;
mod wire;
