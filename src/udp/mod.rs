//! UDP sockets: binding, socket options, and receiving and sending in batches ([`Receiver`], [`Sender`]).
//!
//! Knows addresses and bytes, nothing of what they mean. Linux only: packet information, forced receive buffers and
//! `recvmmsg` are used as that kernel has them.

mod receive;
mod send;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use socket2::{Domain, Protocol, Type};

pub use receive::{Datagram, MAX_DATAGRAM, RECEIVE_BATCH, Receiver};
pub use send::{KINDS, SEND_BATCH, Sender, Sent};

/// A UDP socket that holds its address but belongs to no runtime yet.
///
/// Everything the program listens on is bound before any task starts, so that a port in use ends the program instead of
/// half of it.
#[derive(Debug)]
pub struct BoundSocket {
    socket: std::net::UdpSocket,
    address: SocketAddr,
    receive_buffer: usize,
}

impl BoundSocket {
    /// Listens on `address`. An IPv6 address takes IPv6 only, so `0.0.0.0:p` and `[::]:p` can be listened on together
    /// and no peer is ever an IPv4 address in IPv6 form.
    ///
    /// `receive_buffer` is how many bytes of arrived datagrams the kernel should hold. It is tried beyond the system's
    /// limit first, which takes the right to administer the network, and then within it; what came of it is in
    /// [`Self::receive_buffer`].
    pub fn bind(address: SocketAddr, receive_buffer: usize) -> Result<Self, BindError> {
        Self::open(address, receive_buffer, false).map_err(|source| BindError { address, source })
    }

    /// As [`Self::bind`], so many sockets, at least one, among which the kernel divides what arrives: all datagrams from one
    /// address and port to one local address get to the same one. Each has a receive buffer of its own.
    ///
    /// # Errors
    /// As [`Self::bind`], also where the address is in use by others who would share it.
    pub fn bind_several(address: SocketAddr, receive_buffer: usize, count: usize) -> Result<Vec<Self>, BindError> {
        // Alone first: two gateways that were started by mistake must not share what arrives.
        let first = Self::bind(address, receive_buffer)?;
        let mut sockets = Vec::with_capacity(count);
        let with_error = |source| BindError { address, source };
        if count > 1 {
            setsockopt(&first.socket, sockopt::ReusePort, &true).map_err(|error| with_error(error.into()))?;
        }
        let address = first.address;
        sockets.push(first);
        for _ in 1..count {
            sockets.push(Self::open(address, receive_buffer, true).map_err(with_error)?);
        }
        Ok(sockets)
    }

    fn open(address: SocketAddr, receive_buffer: usize, is_shared: bool) -> io::Result<Self> {
        let socket = new_socket(address)?;
        setsockopt(&socket, sockopt::ReusePort, &is_shared)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        prepare(&socket, address)?;
        let receive_buffer = enlarge(&socket, receive_buffer)?;
        socket.bind(&address.into())?;
        let socket = std::net::UdpSocket::from(socket);
        let address = socket.local_addr()?;
        Ok(Self { socket, address, receive_buffer })
    }

    /// Takes over a socket that was bound elsewhere, with what has arrived at it. Its options become those of
    /// [`Self::bind`], but its receive buffer never becomes smaller. An IPv6 socket must take IPv6 only.
    ///
    /// # Errors
    /// The system refuses an option.
    pub fn adopt(socket: std::net::UdpSocket, receive_buffer: usize) -> io::Result<Self> {
        let address = socket.local_addr()?;
        let socket = socket2::Socket::from(socket);
        prepare(&socket, address)?;
        // Whoever bound it may have had the right to give more than this process: tried on another socket first.
        let given = getsockopt(&socket, sockopt::RcvBuf)? / 2;
        let receive_buffer = match enlarge(&new_socket(address)?, receive_buffer)? {
            more if more > given => enlarge(&socket, receive_buffer)?,
            _ => given,
        };
        Ok(Self { socket: socket.into(), address, receive_buffer })
    }

    /// The address listened on, with the port the system chose if 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The receive buffer the kernel gave, in the bytes that were asked for. The kernel reports and spends twice that:
    /// a waiting datagram is charged with its bookkeeping, so that one of 100 bytes takes several hundred.
    pub fn receive_buffer(&self) -> usize {
        self.receive_buffer
    }

    /// Hands the socket to the current tokio runtime.
    ///
    /// # Errors
    /// Whatever the runtime's poller answers.
    ///
    /// # Panics
    /// Outside a tokio runtime, or in one without its input and output driver.
    pub fn register(self) -> io::Result<Socket> {
        Ok(Socket { socket: tokio::net::UdpSocket::from_std(self.socket)?, address: self.address })
    }
}

fn new_socket(address: SocketAddr) -> io::Result<socket2::Socket> {
    socket2::Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))
}

/// Sets what receiving needs: packet information, where a datagram may have been sent to one of several addresses.
fn prepare(socket: &socket2::Socket, address: SocketAddr) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    let is_wanted = LocalAddress::of_all(address).is_none();
    if address.is_ipv6() {
        setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &is_wanted)?;
    } else {
        setsockopt(socket, sockopt::Ipv4PacketInfo, &is_wanted)?;
    }
    Ok(())
}

/// Asks for a receive buffer; returns what the kernel gave.
fn enlarge(socket: &socket2::Socket, receive_buffer: usize) -> io::Result<usize> {
    // The kernel doubles what it is given, in a 32-bit number.
    let wanted = receive_buffer.min(i32::MAX as usize / 2);
    if setsockopt(socket, sockopt::RcvBufForce, &wanted).is_err() {
        setsockopt(socket, sockopt::RcvBuf, &wanted)?;
    }
    Ok(getsockopt(socket, sockopt::RcvBuf)? / 2)
}

/// A bound UDP socket within a runtime, to be shared by one [`Receiver`] and any number of [`Sender`]s.
#[derive(Debug)]
pub struct Socket {
    socket: tokio::net::UdpSocket,
    address: SocketAddr,
}

impl Socket {
    /// The address listened on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many datagrams the kernel has dropped at this socket since it was opened, modulo 2^32: mostly because the
    /// receive buffer was full, seldom because of a wrong checksum.
    ///
    /// Asked of the socket (`SO_MEMINFO`), so it is right even while nothing arrives. `SO_RXQ_OVFL`, which reports the
    /// same number beside each datagram, is left off: see `receive.rs`.
    fn dropped(&self) -> io::Result<u32> {
        dropped(&self.socket)
    }
}

/// How many datagrams the kernel has dropped at any UDP socket since it was opened, modulo 2^32.
///
/// # Errors
/// The socket is broken.
pub fn dropped(socket: &impl AsFd) -> io::Result<u32> {
    let memory = getsockopt(socket, memory::MemoryInfo)?;
    Ok(memory[libc::SK_MEMINFO_DROPS as usize])
}

/// Socket option `SO_MEMINFO`, which `nix` has no name for but has the means to add. In a module of its own because what
/// its macro defines is public.
mod memory {
    use nix::{getsockopt_impl, libc, sockopt_impl};

    /// Its words up to the count of drops.
    type Words = [u32; libc::SK_MEMINFO_DROPS as usize + 1];

    sockopt_impl!(
        /// What the socket holds and has dropped.
        MemoryInfo, GetOnly, libc::SOL_SOCKET, libc::SO_MEMINFO, Words
    );
}

/// The local address a datagram arrived on, and thereby the one its reply leaves from.
///
/// The default leaves the choice to the system's routes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LocalAddress {
    ip: Option<IpAddr>,
    /// Interface number. Kept only for link-local addresses, which mean nothing without it; elsewhere it would force the
    /// reply out of an interface against the system's routes.
    interface: u32,
}

impl LocalAddress {
    /// This address, on whatever interface the system chooses.
    pub const fn from_ip(ip: IpAddr) -> Self {
        Self { ip: Some(ip), interface: 0 }
    }

    /// The address, unless the system is to choose.
    pub fn ip(self) -> Option<IpAddr> {
        self.ip
    }

    /// The one that all datagrams of a socket bound to `address` arrive on, if there is only one. Replies leave from it unasked.
    fn of_all(address: SocketAddr) -> Option<Self> {
        let ip = address.ip();
        let interface = match address {
            SocketAddr::V6(address) if address.ip().is_unicast_link_local() => address.scope_id(),
            _ => 0,
        };
        (!ip.is_unspecified() && !ip.is_multicast()).then_some(Self { ip: Some(ip), interface })
    }

    fn from_v4(info: libc::in_pktinfo) -> Self {
        let ip = Ipv4Addr::from(info.ipi_spec_dst.s_addr.to_ne_bytes());
        Self { ip: Some(ip.into()).filter(|_| !ip.is_unspecified()), interface: 0 }
    }

    fn from_v6(info: libc::in6_pktinfo) -> Self {
        let ip = Ipv6Addr::from(info.ipi6_addr.s6_addr);
        // Nothing can be sent from a multicast address: the system chooses one of the same interface.
        let interface = if ip.is_unicast_link_local() || ip.is_multicast() { info.ipi6_ifindex } else { 0 };
        Self { ip: Some(ip.into()).filter(|_| !ip.is_multicast()), interface }
    }

    fn to_v4(self) -> libc::in_pktinfo {
        let ip = match self.ip {
            Some(IpAddr::V4(ip)) => ip,
            _ => Ipv4Addr::UNSPECIFIED,
        };
        libc::in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(ip.octets()) },
            ipi_addr: libc::in_addr { s_addr: 0 },
        }
    }

    fn to_v6(self) -> libc::in6_pktinfo {
        let ip = match self.ip {
            Some(IpAddr::V6(ip)) => ip,
            _ => Ipv6Addr::UNSPECIFIED,
        };
        libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: ip.octets() }, ipi6_ifindex: self.interface }
    }
}

/// A UDP address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on udp {address}: {}", explain_bind(source, "--udp-listen"))]
pub struct BindError {
    /// The address asked for.
    pub address: SocketAddr,
    /// What the system answered.
    pub source: io::Error,
}

/// Why an address cannot be listened on, and what to do; `flag` sets the address. TCP fails in the same ways.
pub fn explain_bind(error: &io::Error, flag: &str) -> String {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EADDRINUSE) => format!("address in use; stop the other process or choose another {flag}"),
        Some(Errno::EADDRNOTAVAIL) => format!("this machine does not have that address; choose another {flag}"),
        Some(Errno::EACCES | Errno::EPERM) => {
            format!("permission denied; choose a port above 1023 for {flag} or grant CAP_NET_BIND_SERVICE")
        }
        Some(Errno::EAFNOSUPPORT) => {
            format!("this machine does not speak that version of IP; choose another {flag}")
        }
        Some(Errno::EMFILE | Errno::ENFILE) => "too many open files; raise ulimit -n".to_owned(),
        _ => format!("{error}; choose another {flag}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUFFER: usize = 1 << 20;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_port_in_use_is_an_error_with_address_and_remedy() {
        let first = BoundSocket::bind(address("127.0.0.1:0"), BUFFER).unwrap();
        let taken = first.address();
        let error = BoundSocket::bind(taken, BUFFER).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "cannot listen on udp {taken}: address in use; stop the other process or choose another --udp-listen"
            )
        );
        assert_eq!(error.address, taken);
    }

    #[test]
    fn a_foreign_address_is_an_error_with_address_and_remedy() {
        let error = BoundSocket::bind(address("192.0.2.1:3001"), BUFFER).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot listen on udp 192.0.2.1:3001: this machine does not have that address; choose another --udp-listen"
        );
    }

    #[test]
    fn several_sockets_divide_what_arrives_by_its_sender_and_let_nobody_else_in() {
        for listen in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0"] {
            let sockets = BoundSocket::bind_several(address(listen), BUFFER, 3).unwrap();
            let all = sockets[0].address();
            assert!(sockets.iter().all(|socket| socket.address() == all && socket.receive_buffer() > 0));
            let taken = BoundSocket::bind_several(all, BUFFER, 3).unwrap_err();
            assert_eq!(taken.source.kind(), io::ErrorKind::AddrInUse);

            let loopback = if all.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
            let to = SocketAddr::new(address(loopback).ip(), all.port());
            // Of so many senders, a socket is left out once in 10^16.
            let senders: Vec<_> = (0..100).map(|_| std::net::UdpSocket::bind(loopback).unwrap()).collect();
            for _ in 0..2 {
                senders.iter().for_each(|sender| assert_eq!(sender.send_to(b"x", to).unwrap(), 1));
            }
            let mut at = std::collections::HashMap::<_, Vec<_>>::new();
            for (number, socket) in sockets.iter().enumerate() {
                while let Ok((_, from)) = socket.socket.recv_from(&mut [0; 8]) {
                    at.entry(from).or_default().push(number);
                }
            }
            assert!(at.len() == 100 && at.values().all(|at| at.len() == 2 && at[0] == at[1]), "{at:?}");
            assert!((0..3).all(|number| at.values().any(|at| at[0] == number)), "{at:?}");
        }
    }

    #[test]
    fn both_versions_of_ip_share_a_port() {
        let v4 = BoundSocket::bind(address("0.0.0.0:0"), BUFFER).unwrap();
        let v6 = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), v4.address().port());
        assert_eq!(BoundSocket::bind(v6, BUFFER).unwrap().address(), v6);
    }

    #[test]
    fn the_receive_buffer_is_reported_in_the_bytes_asked_for() {
        // Below every system's limit, so it is given in full.
        let small = BoundSocket::bind(address("127.0.0.1:0"), 65_536).unwrap();
        assert_eq!(small.receive_buffer(), 65_536);
        // More than a kernel can count is not an error, and what is given is not invented.
        let vast = BoundSocket::bind(address("[::1]:0"), usize::MAX).unwrap();
        assert!((65_536..1 << 30).contains(&vast.receive_buffer()), "{}", vast.receive_buffer());
    }

    #[test]
    fn a_socket_that_is_taken_over_keeps_what_arrived_and_gets_no_smaller_buffer() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = socket.local_addr().unwrap();
        std::net::UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"early", to).unwrap();
        let before = getsockopt(&socket, sockopt::RcvBuf).unwrap() / 2;
        let small = BoundSocket::adopt(socket.try_clone().unwrap(), 4096).unwrap();
        assert_eq!((small.address(), small.receive_buffer()), (to, before));
        let large = BoundSocket::adopt(socket, before + 65_536).unwrap();
        assert!(large.receive_buffer() >= before, "{} of {before}", large.receive_buffer());
        assert!(!getsockopt(&large.socket, sockopt::Ipv4PacketInfo).unwrap(), "it has one address");
        let of_all = BoundSocket::adopt(std::net::UdpSocket::bind("0.0.0.0:0").unwrap(), 4096).unwrap();
        assert!(getsockopt(&of_all.socket, sockopt::Ipv4PacketInfo).unwrap());
        let mut bytes = [0; 16];
        assert_eq!(large.socket.recv(&mut bytes).unwrap(), 5);
        assert_eq!(large.socket.recv(&mut bytes).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn only_a_socket_of_one_address_knows_where_all_datagrams_arrive() {
        let of_all =
            |text| LocalAddress::of_all(address(text)).map(|local| (local.ip.unwrap().to_string(), local.interface));
        for several in ["0.0.0.0:1", "224.0.0.1:1", "[::]:1", "[ff02::1%3]:1"] {
            assert_eq!(of_all(several), None, "{several}");
        }
        assert_eq!(of_all("192.0.2.1:1"), Some(("192.0.2.1".to_owned(), 0)));
        assert_eq!(of_all("[2001:db8::1]:1"), Some(("2001:db8::1".to_owned(), 0)));
        assert_eq!(of_all("[fe80::1%3]:1"), Some(("fe80::1".to_owned(), 3)));
    }

    #[test]
    fn only_link_local_addresses_keep_their_interface() {
        let arrived = |text: &str| {
            let ip: Ipv6Addr = text.parse().unwrap();
            let info = libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: ip.octets() }, ipi6_ifindex: 7 };
            let back = LocalAddress::from_v6(info).to_v6();
            (Ipv6Addr::from(back.ipi6_addr.s6_addr).to_string(), back.ipi6_ifindex)
        };
        assert_eq!(arrived("fe80::1"), ("fe80::1".to_owned(), 7));
        assert_eq!(arrived("2001:db8::1"), ("2001:db8::1".to_owned(), 0));
        assert_eq!(arrived("ff02::1"), ("::".to_owned(), 7));
    }
}
