//! Routes outlive the process: gateways as processes of their own, that stop, are killed, are started again, find their files
//! damaged or their disk full, and devices that speak to them over real sockets.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;
mod killed;
mod refused;
mod stopped;
