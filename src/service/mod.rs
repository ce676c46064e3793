//! What passes between the gateway and the manager it runs under as a service: sockets that the manager has bound
//! ([`Passed`]), and what it is told ([`Told`]). Without a manager there are no sockets and nobody is told.

mod notify;
mod sockets;

pub use notify::{Told, attend, load};
pub use sockets::{Passed, PassedError};
