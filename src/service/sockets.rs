//! Sockets that the service manager has bound and holds while the gateway is restarted, so that what arrives meanwhile waits
//! in them.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use listenfd::ListenFd;
use socket2::SockRef;

/// Sockets that the service manager passed and nobody has taken yet. The default: none.
#[derive(Debug, Default)]
pub struct Passed {
    udp: Vec<UdpSocket>,
    tcp: Vec<TcpListener>,
}

/// A passed socket that is of no use. One line: which, why, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum PassedError {
    /// Neither UDP nor a TCP listener.
    #[error(
        "socket {number} of those that the service manager passed is neither a UDP socket nor a TCP listener; pass only \
         such as ListenDatagram= and ListenStream= with Accept=no make of an address and port"
    )]
    Kind {
        /// Which, counted from 1.
        number: usize,
    },
    /// Takes IPv4 too, whose addresses would look like others.
    #[error(
        "the service manager passed a udp socket on {address} that takes IPv4 too; set BindIPv6Only=ipv6-only in its unit, \
         and add 0.0.0.0 with the same port for IPv4"
    )]
    BothVersions {
        /// Where it listens.
        address: SocketAddr,
    },
    /// Listens where nobody is asked to.
    #[error(
        "the service manager passed a {protocol} socket on {address}, which no {flag} names; name it there, or remove it from the socket unit"
    )]
    Unknown {
        /// `udp` or `tcp`.
        protocol: &'static str,
        /// Where it listens.
        address: SocketAddr,
        /// The flags that name such addresses.
        flag: &'static str,
    },
    /// The system does not tell about one.
    #[error("cannot look at the sockets that the service manager passed: {0}; start without them")]
    System(#[from] io::Error),
}

impl Passed {
    /// Takes what was passed to this process. To be called before it has other threads: the variables of the environment that
    /// tell of the sockets are removed, so that no child takes itself to be meant.
    ///
    /// # Errors
    /// A socket is of a kind that the gateway cannot use.
    pub fn take() -> Result<Self, PassedError> {
        let (mut passed, mut from) = (Self::default(), ListenFd::from_env());
        for index in 0..from.len() {
            let kind = PassedError::Kind { number: index + 1 };
            if let Ok(Some(socket)) = from.take_udp_socket(index) {
                passed.udp.push(one_version(socket)?);
            } else {
                let listener = from.take_tcp_listener(index).ok().flatten();
                let listens = |listener: &TcpListener| SockRef::from(listener).is_listener().unwrap_or(false);
                passed.tcp.push(listener.filter(listens).ok_or(kind)?);
            }
        }
        Ok(passed)
    }

    /// The UDP socket on this address, if there is one. With port 0 the configuration asks for any port, and is given no
    /// certain one.
    pub fn udp(&mut self, address: SocketAddr) -> Option<UdpSocket> {
        let at = self.udp.iter().position(|socket| is_on(socket.local_addr(), address))?;
        Some(self.udp.swap_remove(at))
    }

    /// The TCP listener on this address, if there is one.
    pub fn tcp(&mut self, address: SocketAddr) -> Option<TcpListener> {
        let at = self.tcp.iter().position(|listener| is_on(listener.local_addr(), address))?;
        Some(self.tcp.swap_remove(at))
    }

    /// To be called once everybody has taken what is theirs: what is left would fill up unread.
    ///
    /// # Errors
    /// A socket is left.
    pub fn nothing_left(self) -> Result<(), PassedError> {
        if let Some(socket) = self.udp.first() {
            let address = socket.local_addr()?;
            return Err(PassedError::Unknown { protocol: "udp", address, flag: "--udp-listen" });
        }
        if let Some(listener) = self.tcp.first() {
            let address = listener.local_addr()?;
            return Err(PassedError::Unknown { protocol: "tcp", address, flag: "--http-listen or --metrics-listen" });
        }
        Ok(())
    }
}

fn is_on(bound: io::Result<SocketAddr>, wanted: SocketAddr) -> bool {
    bound.is_ok_and(|bound| bound == wanted)
}

/// No peer may be an IPv4 address in IPv6 form.
fn one_version(socket: UdpSocket) -> Result<UdpSocket, PassedError> {
    let address = socket.local_addr()?;
    if address.is_ipv6() && !SockRef::from(&socket).only_v6()? {
        return Err(PassedError::BothVersions { address });
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn udp(address: &str) -> (UdpSocket, SocketAddr) {
        let socket = UdpSocket::bind(address).unwrap();
        let address = socket.local_addr().unwrap();
        (socket, address)
    }

    #[test]
    fn a_socket_is_found_by_its_kind_and_its_address_once() {
        let (first, (second, wanted)) = (udp("127.0.0.1:0").0, udp("127.0.0.1:0"));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let http = listener.local_addr().unwrap();
        let mut passed = Passed { udp: vec![first, second], tcp: vec![listener] };
        assert!(passed.tcp(wanted).is_none() && passed.udp(http).is_none());
        assert_eq!(passed.udp(wanted).unwrap().local_addr().unwrap(), wanted);
        assert!(passed.udp(wanted).is_none());
        assert_eq!(passed.tcp(http).unwrap().local_addr().unwrap(), http);
        let left = passed.udp[0].local_addr().unwrap();
        assert_eq!(
            passed.nothing_left().unwrap_err().to_string(),
            format!(
                "the service manager passed a udp socket on {left}, which no --udp-listen names; name it there, or remove it \
                 from the socket unit"
            )
        );
        assert!(Passed::default().nothing_left().is_ok());
    }

    #[test]
    fn a_listener_that_is_left_is_named_with_its_flags() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let said = Passed { udp: Vec::new(), tcp: vec![listener] }.nothing_left().unwrap_err().to_string();
        assert!(
            said.contains("a tcp socket on 127.0.0.1:") && said.contains("no --http-listen or --metrics-listen"),
            "{said}"
        );
    }

    #[test]
    fn a_socket_of_both_versions_of_ip_is_refused_with_the_remedy() {
        let both = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::DGRAM, None).unwrap();
        both.set_only_v6(false).unwrap();
        both.bind(&"[::]:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        let said = one_version(both.into()).unwrap_err().to_string();
        assert!(said.contains("[::]:") && said.contains("BindIPv6Only=ipv6-only"), "{said}");
        assert!(one_version(udp("127.0.0.1:0").0).is_ok());
    }
}
