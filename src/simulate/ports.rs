//! The sockets of a link, each of which the gateway sees as one port, and what waits to leave through them.
//!
//! Datagrams leave in the order in which they came, also over several ports, and those in a row from one port in one call.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::task::Poll;

use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg};
use tokio::io::{Interest, ReadBuf};
use tokio::net::UdpSocket;

use super::SimulateError;

/// Most datagrams of one system call.
const BATCH: usize = 64;

/// The peers of a connected socket need not be named.
const CONNECTED: &[Option<SockaddrStorage>] = &[None; BATCH];

thread_local! {
    /// What the call wants to be laid out, once for each thread: it cannot move to another.
    static HEADERS: RefCell<MultiHeaders<SockaddrStorage>> = RefCell::new(MultiHeaders::preallocate(BATCH, None));
}

/// Opens a socket towards `gateway`, on a port that the system chooses.
fn open(gateway: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = match gateway {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = std::net::UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.connect(gateway)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

/// The same, as socket `number` of the `total` that are needed.
pub(super) fn open_one(gateway: SocketAddr, number: usize, total: usize) -> Result<UdpSocket, SimulateError> {
    open(gateway).map_err(|source| SimulateError::Socket { number, total, gateway, source })
}

/// The ports of a link. `T` is what is to be remembered of a datagram until it has left.
#[derive(Debug)]
pub(super) struct Ports<T> {
    sockets: Vec<UdpSocket>,
    /// Which of them is looked at next.
    turn: usize,
    bytes: Vec<u8>,
    waiting: Vec<Waiting<T>>,
}

#[derive(Debug)]
struct Waiting<T> {
    port: usize,
    /// Where in the bytes it ends.
    end: usize,
    what: T,
}

impl<T> Ports<T> {
    /// From open sockets, at least one.
    pub(super) const fn new(sockets: Vec<UdpSocket>) -> Self {
        Self { sockets, turn: 0, bytes: Vec::new(), waiting: Vec::new() }
    }

    /// How many.
    pub(super) const fn len(&self) -> usize {
        self.sockets.len()
    }

    /// Gives `port` another number. What still waits leaves from there, too.
    pub(super) fn reopen(&mut self, port: usize, gateway: SocketAddr) -> io::Result<()> {
        // The old socket stays open until there is a new one, so the port is another.
        self.sockets[port] = open(gateway)?;
        Ok(())
    }

    /// Queues a datagram, to leave from `port`.
    pub(super) fn push(&mut self, port: usize, bytes: &[u8], what: T) {
        self.bytes.extend_from_slice(bytes);
        self.waiting.push(Waiting { port, end: self.bytes.len(), what });
    }

    /// Sends what waits, and waits for room in the send buffers. `left` hears of each whether the kernel took it.
    pub(super) async fn flush(&mut self, mut left: impl FnMut(&T, bool)) {
        let mut next = 0;
        while next < self.waiting.len() {
            match self.send_from(next) {
                Ok(taken) => {
                    self.waiting[next..next + taken].iter().for_each(|waiting| left(&waiting.what, true));
                    next += taken;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // Whatever else is wrong with the socket, the next attempt says it.
                    let _ = self.sockets[self.waiting[next].port].writable().await;
                }
                Err(_) => {
                    left(&self.waiting[next].what, false);
                    next += 1;
                }
            }
        }
        self.waiting.clear();
        self.bytes.clear();
    }

    /// Sends those in a row that leave from one port, from the one at `start` on. Returns how many were taken, at least
    /// one; an error is that of the first.
    fn send_from(&self, start: usize) -> io::Result<usize> {
        let port = self.waiting[start].port;
        let row = self.waiting[start..].iter().take(BATCH).take_while(|waiting| waiting.port == port).count();
        let socket = &self.sockets[port];
        if row == 1 {
            return socket.try_send(self.datagram(start)).map(|_| 1);
        }
        let slices: [[IoSlice<'_>; 1]; BATCH] =
            std::array::from_fn(|at| [IoSlice::new(if at < row { self.datagram(start + at) } else { &[] })]);
        socket.try_io(Interest::WRITABLE, || {
            HEADERS.with_borrow_mut(|headers| {
                let sent =
                    sendmmsg(socket.as_raw_fd(), headers, &slices[..row], CONNECTED, [], MsgFlags::MSG_DONTWAIT)?;
                Ok(sent.count())
            })
        })
    }

    fn datagram(&self, at: usize) -> &[u8] {
        let begin = if at == 0 { 0 } else { self.waiting[at - 1].end };
        &self.bytes[begin..self.waiting[at].end]
    }

    /// Takes a datagram that has arrived, if there is one, as [`Self::arrival`] does. Ports are looked at in turn, so that a
    /// busy one does not make the others wait.
    pub(super) fn arrived(&mut self, buffer: &mut [u8]) -> Option<(usize, io::Result<usize>)> {
        for _ in 0..self.sockets.len() {
            let port = self.turn;
            self.turn = (port + 1) % self.sockets.len();
            match self.sockets[port].try_recv(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                received => return Some((port, received)),
            }
        }
        None
    }

    /// Waits for a datagram. Returns the port, and its length or the error of the socket.
    pub(super) async fn arrival(&self, buffer: &mut [u8]) -> (usize, io::Result<usize>) {
        poll_fn(|context| {
            for (port, socket) in self.sockets.iter().enumerate() {
                let mut read = ReadBuf::new(buffer);
                if let Poll::Ready(received) = socket.poll_recv(context, &mut read) {
                    return Poll::Ready((port, received.map(|()| read.filled().len())));
                }
            }
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn peer_and_ports(count: usize) -> (UdpSocket, Ports<usize>) {
        let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let gateway = peer.local_addr().unwrap();
        (peer, Ports::new((0..count).map(|_| open(gateway).unwrap()).collect()))
    }

    #[tokio::test]
    async fn what_waits_leaves_in_order_however_much_it_is_and_over_whichever_ports() {
        let (peer, mut ports) = peer_and_ports(3).await;
        let source = |port: usize, ports: &Ports<usize>| ports.sockets[port].local_addr().unwrap().port();
        for (count, row) in [(1_usize, 1), (2, 2), (BATCH, BATCH), (BATCH + 1, 1000), (150, 1), (150, 7), (150, 70)] {
            (0..count).for_each(|number| ports.push(number / row % 3, &vec![number as u8; number], number));
            let mut left = Vec::new();
            ports.flush(|number, taken| left.push((*number, taken))).await;
            assert_eq!(left, (0..count).map(|number| (number, true)).collect::<Vec<_>>());
            for number in 0..count {
                let mut buffer = [0; 256];
                let (len, from) = peer.recv_from(&mut buffer).await.unwrap();
                assert_eq!(buffer[..len], vec![number as u8; number]);
                assert_eq!(from.port(), source(number / row % 3, &ports));
            }
        }
    }

    #[tokio::test]
    async fn what_the_kernel_does_not_take_is_told_and_holds_up_nothing() {
        let (_peer, mut ports) = peer_and_ports(1).await;
        for (number, len) in [5, 70_000, 6].into_iter().enumerate() {
            ports.push(0, &vec![0; len], number);
        }
        let mut left = Vec::new();
        ports.flush(|number, taken| left.push((*number, taken))).await;
        assert_eq!(left, [(0, true), (1, false), (2, true)]);
    }

    #[tokio::test]
    async fn a_reopened_port_is_another_and_every_port_is_heard() {
        let (peer, mut ports) = peer_and_ports(2).await;
        let gateway = peer.local_addr().unwrap();
        let numbers = |ports: &Ports<usize>| [0, 1].map(|port| ports.sockets[port].local_addr().unwrap().port());
        let before = numbers(&ports);
        ports.reopen(0, gateway).unwrap();
        let after = numbers(&ports);
        assert!(before[0] != after[0] && before[1] == after[1]);
        for port in [1, 0] {
            peer.send_to(&[7; 3], SocketAddr::from(([127, 0, 0, 1], after[port]))).await.unwrap();
            let (found, len) = ports.arrival(&mut [0; 9]).await;
            assert_eq!((found, len.unwrap()), (port, 3));
        }
    }

    #[tokio::test]
    async fn what_has_arrived_is_taken_from_each_port_in_turn() {
        let (peer, mut ports) = peer_and_ports(2).await;
        for port in [0, 0, 1, 1] {
            peer.send_to(&[7], ports.sockets[port].local_addr().unwrap()).await.unwrap();
        }
        for socket in &ports.sockets {
            socket.readable().await.unwrap();
        }
        let mut taken = || ports.arrived(&mut [0; 9]).map(|(port, len)| (port, len.unwrap()));
        assert_eq!([taken(), taken(), taken(), taken()], [0, 1, 0, 1].map(|port| Some((port, 1))));
        assert_eq!(taken(), None);
    }
}
