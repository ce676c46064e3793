//! The front door for fleets of ePacket devices.
pub mod id;
pub mod clock;
pub mod metrics;
pub mod wire;
pub mod auth;
pub mod table;
