//! The sockets of a link, each of which the gateway sees as one port, and what waits to leave through them in batches.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::task::Poll;

use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg};
use tokio::io::{Interest, ReadBuf};
use tokio::net::UdpSocket;

/// Most datagrams of one system call.
const BATCH: usize = 64;

thread_local! {
    /// What the call wants to be laid out, once for each thread: it cannot move to another.
    static HEADERS: RefCell<MultiHeaders<SockaddrStorage>> = RefCell::new(MultiHeaders::preallocate(BATCH, None));
}

/// A socket towards the gateway. `T` is what is to be remembered of a datagram until it has left.
#[derive(Debug)]
pub(super) struct Port<T> {
    socket: UdpSocket,
    bytes: Vec<u8>,
    /// Where in `bytes` each ends, and what it is.
    waiting: Vec<(usize, T)>,
    /// Which device hears a datagram that names none: the last to have sent, as a NAT would have it.
    pub(super) last_sender: usize,
}

impl<T> Port<T> {
    /// Opens a socket towards `gateway`, on a port that the system chooses.
    pub(super) fn open(gateway: SocketAddr) -> io::Result<Self> {
        Ok(Self { socket: connected(gateway)?, bytes: Vec::new(), waiting: Vec::new(), last_sender: 0 })
    }

    /// Goes on from another port. What waits leaves from there, too.
    pub(super) fn reopen(&mut self, gateway: SocketAddr) -> io::Result<()> {
        // The old socket stays open until there is a new one, so the port is another.
        self.socket = connected(gateway)?;
        Ok(())
    }

    /// Queues a datagram for [`Self::flush`].
    pub(super) fn push(&mut self, bytes: &[u8], what: T) {
        self.bytes.extend_from_slice(bytes);
        self.waiting.push((self.bytes.len(), what));
    }

    /// Sends what waits, in order, and waits for room in the send buffer. `left` hears of each whether the kernel took it.
    pub(super) async fn flush(&mut self, mut left: impl FnMut(&T, bool)) {
        let mut next = 0;
        while next < self.waiting.len() {
            match self.send_from(next) {
                Ok(taken) => {
                    self.waiting[next..next + taken].iter().for_each(|(_, what)| left(what, true));
                    next += taken;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Whatever is wrong with the socket, the next attempt says it.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => _ = self.socket.writable().await,
                Err(_) => {
                    left(&self.waiting[next].1, false);
                    next += 1;
                }
            }
        }
        self.waiting.clear();
        self.bytes.clear();
    }

    /// Sends some, from the one at `start` on. Returns how many were taken, at least one; an error is that of the first.
    fn send_from(&self, start: usize) -> io::Result<usize> {
        let batch = &self.waiting[start..self.waiting.len().min(start + BATCH)];
        let begin = |at: usize| if at == 0 { 0 } else { self.waiting[at - 1].0 };
        let bytes = |at: usize| &self.bytes[begin(at)..self.waiting[at].0];
        if batch.len() == 1 {
            return self.socket.try_send(bytes(start)).map(|_| 1);
        }
        let slices: [[IoSlice<'_>; 1]; BATCH] =
            std::array::from_fn(|at| [IoSlice::new(if at < batch.len() { bytes(start + at) } else { &[] })]);
        self.socket.try_io(Interest::WRITABLE, || {
            HEADERS.with_borrow_mut(|headers| {
                let (fd, slices) = (self.socket.as_raw_fd(), &slices[..batch.len()]);
                let sent = sendmmsg(fd, headers, slices, CONNECTED, [], MsgFlags::MSG_DONTWAIT)?;
                Ok(sent.count())
            })
        })
    }
}

/// The peers of a connected socket need not be named.
const CONNECTED: &[Option<SockaddrStorage>] = &[None; BATCH];

/// Waits for a datagram at any of the ports. Returns at which, and its length or the error of the socket.
pub(super) async fn arrival<T>(ports: &[Port<T>], buffer: &mut [u8]) -> (usize, io::Result<usize>) {
    poll_fn(|context| {
        for (at, port) in ports.iter().enumerate() {
            let mut read = ReadBuf::new(buffer);
            if let Poll::Ready(received) = port.socket.poll_recv(context, &mut read) {
                return Poll::Ready((at, received.map(|()| read.filled().len())));
            }
        }
        Poll::Pending
    })
    .await
}

fn connected(gateway: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = match gateway {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = std::net::UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.connect(gateway)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_waits_leaves_in_order_however_much_it_is() {
        let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut port = Port::open(peer.local_addr().unwrap()).unwrap();
        for count in [1_usize, 2, BATCH, BATCH + 1, 150] {
            (0..count).for_each(|number| port.push(&vec![number as u8; number], number));
            let mut left = Vec::new();
            port.flush(|number, taken| left.push((*number, taken))).await;
            assert_eq!(left, (0..count).map(|number| (number, true)).collect::<Vec<_>>());
            for number in 0..count {
                let mut buffer = [0; 256];
                let (len, _) = peer.recv_from(&mut buffer).await.unwrap();
                assert_eq!(buffer[..len], vec![number as u8; number]);
            }
        }
    }

    #[tokio::test]
    async fn what_the_kernel_does_not_take_is_told_and_holds_up_nothing() {
        let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut port = Port::open(peer.local_addr().unwrap()).unwrap();
        port.push(b"first", 0);
        port.push(&vec![0; 70_000], 1);
        port.push(b"last", 2);
        let mut left = Vec::new();
        port.flush(|number, taken| left.push((*number, taken))).await;
        assert_eq!(left, [(0, true), (1, false), (2, true)]);
    }

    #[tokio::test]
    async fn a_reopened_port_is_another_and_every_port_is_heard() {
        let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let gateway = peer.local_addr().unwrap();
        let mut ports = [Port::<()>::open(gateway).unwrap(), Port::open(gateway).unwrap()];
        let before = ports[0].socket.local_addr().unwrap();
        ports[0].reopen(gateway).unwrap();
        let addresses = ports.each_ref().map(|port| port.socket.local_addr().unwrap());
        assert!(before != addresses[0] && addresses[0] != addresses[1]);
        for (at, address) in addresses.into_iter().enumerate().rev() {
            peer.send_to(&[7; 3], SocketAddr::new(gateway.ip(), address.port())).await.unwrap();
            let (found, len) = arrival(&ports, &mut [0; 9]).await;
            assert_eq!((found, len.unwrap()), (at, 3));
        }
    }
}
