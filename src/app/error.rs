//! Why the gateway cannot start, and whether it may another time.

use std::io;
use std::net::SocketAddr;

use crate::registry::{OpenError, RegistryError};
use crate::service::PassedError;
use crate::store;
use crate::udp::{BindError, explain_bind};

/// Why the gateway cannot start. One line: what, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A UDP address cannot be listened on.
    #[error(transparent)]
    Udp(#[from] BindError),
    /// A TCP address cannot be listened on.
    #[error("cannot listen on tcp {address}: {}", explain_bind(source, flag))]
    Tcp {
        /// The address asked for.
        address: SocketAddr,
        /// The flag that sets it.
        flag: &'static str,
        /// What the system answered.
        source: io::Error,
    },
    /// A socket that was bound before is of no use.
    #[error(transparent)]
    Passed(#[from] PassedError),
    /// The registry cannot be opened.
    #[error(transparent)]
    Registry(#[from] OpenError),
    /// The records that are kept cannot be read.
    #[error(transparent)]
    Records(#[from] store::OpenError),
    /// The messages that wait cannot be read.
    #[error("cannot take up the messages that wait for devices: {0}")]
    Messages(#[from] RegistryError),
    /// The system gives no more threads or file descriptors.
    #[error("cannot start a thread: {0}; raise the limits of the process")]
    Thread(#[from] io::Error),
}

impl StartError {
    /// Whether the disk or the system is the cause, and no setting: the same start may succeed later.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Records(store::OpenError::File { source, .. }) | Self::Registry(OpenError::File { source, .. }) => {
                is_of_disk(source)
            }
            Self::Registry(OpenError::Database { .. }) | Self::Messages(_) | Self::Thread(_) => true,
            _ => false,
        }
    }
}

/// Whether a disk is full, write-protected or broken.
fn is_of_disk(error: &io::Error) -> bool {
    // EIO, by which a broken one is known, has no kind.
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::ReadOnlyFilesystem
    ) || error.raw_os_error() == Some(5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_that_fails_by_the_disk_may_succeed_later_and_one_by_a_setting_may_not() {
        let on_disk = |code| {
            let source = io::Error::from_raw_os_error(code);
            StartError::from(store::OpenError::File { path: "routes".into(), source }).may_pass()
        };
        // EIO, ENOSPC, EROFS, EDQUOT; EACCES and ENOENT.
        assert_eq!([5, 28, 30, 122].map(on_disk), [true; 4]);
        assert_eq!([13, 2].map(on_disk), [false; 2]);
        let address = SocketAddr::from(([127, 0, 0, 1], 80));
        assert!(!StartError::from(BindError { address, source: io::Error::from_raw_os_error(98) }).may_pass());
    }
}
