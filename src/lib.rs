//! The front door for fleets of ePacket devices.
pub mod auth;
pub mod clock;
pub mod id;
pub mod metrics;
pub mod table;
pub mod wire;

#[cfg(feature = "server")]
pub mod api;
#[cfg(feature = "server")]
pub mod app;
#[cfg(feature = "server")]
pub mod cli;
#[cfg(feature = "server")]
pub mod config;
#[cfg(feature = "server")]
pub mod demo;
#[cfg(feature = "server")]
pub mod ingest;
#[cfg(feature = "server")]
pub mod simulate;
#[cfg(feature = "server")]
pub mod udp;
#[cfg(feature = "server")]
pub mod wait;
#[cfg(feature = "server")]
pub mod waiters;
