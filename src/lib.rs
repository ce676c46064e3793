//! The front door for fleets of ePacket devices: authenticates their datagrams, remembers the last route and state of each,
//! and lets a sender wait for a sleeping device.
//!
//! Decisions are pure code over bytes, addresses and `now`; sockets and HTTP sit at the edge. Imports point down:
//! [`id`], [`clock`], [`metrics`], [`quote`], [`text`], [`health`]; [`wire`], `devices`; [`auth`]; [`table`]: up to here without runtime, sockets or files, and
//! built alone without the feature `server`, then `udp`, `waiters`, `downlink`, `status`, `duration`, `service`; `records`, `ingest`,
//! `wait`, `client`, `decode`, `definitions`; `registry`, `simulate`, `transfer`, `store`, `explain`, `measure`; `dispatch`; `api`; `config`; `app`, `top`;
//! `demo`; `cli`. ARCHITECTURE.md has the map, docs/protocol.md the wire facts.
//!
//! To run a gateway inside another program, see `app::App`; to wait for packets without HTTP, `wait::PacketWaits`.

pub mod auth;
pub mod clock;
mod devices;
pub mod health;
pub mod id;
pub mod metrics;
pub mod quote;
pub mod table;
pub mod text;
pub mod wire;

#[cfg(feature = "server")]
pub mod api;
#[cfg(feature = "server")]
pub mod app;
#[cfg(feature = "server")]
pub mod cli;
#[cfg(feature = "server")]
pub mod client;
#[cfg(feature = "server")]
pub mod config;
#[cfg(feature = "server")]
pub mod decode;
#[cfg(feature = "server")]
pub mod definitions;
#[cfg(feature = "server")]
pub mod demo;
#[cfg(feature = "server")]
pub mod dispatch;
#[cfg(feature = "server")]
pub mod downlink;
#[cfg(feature = "server")]
pub mod duration;
#[cfg(feature = "server")]
pub mod explain;
#[cfg(feature = "server")]
pub mod ingest;
#[cfg(feature = "server")]
pub mod measure;
#[cfg(feature = "server")]
pub mod records;
#[cfg(feature = "server")]
pub mod registry;
#[cfg(feature = "server")]
pub mod service;
#[cfg(feature = "server")]
pub mod simulate;
#[cfg(feature = "server")]
pub mod status;
#[cfg(feature = "server")]
pub mod store;
#[cfg(feature = "server")]
pub mod top;
#[cfg(feature = "server")]
pub mod transfer;
#[cfg(feature = "server")]
pub mod udp;
#[cfg(feature = "server")]
pub mod wait;
#[cfg(feature = "server")]
pub mod waiters;
