//! The whole gateway over real sockets.
#![cfg(feature = "server")]
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod attack;
mod clock;
mod explain;
mod fleet;
mod following;
mod gateway;
mod harness;
mod keys;
mod measuring;
mod messages;
mod process;
mod registering;
mod service;
mod simulate;
mod top;
mod transfer;
mod uplink;
mod waiting;
