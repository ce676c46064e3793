//! The HTTP API on real sockets: answers, limits, waiting, drain.

#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail where a test would")]

mod access;
mod bodies;
mod bombs;
mod contract;
mod crowds;
mod device_keys;
mod devices;
mod events;
mod explain;
mod floods;
mod gateway;
mod harness;
mod limits;
mod many;
mod messages;
mod metrics;
mod organisation_waits;
mod outcomes;
mod records;
mod routes;
mod scopes;
mod smuggling;
mod states;
mod unregistered;
mod waiting;
