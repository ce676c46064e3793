//! Sending: what is queued for many peers leaves by few system calls, each datagram from the address it should come from.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{ControlMessage, MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg};

use super::{LocalAddress, Socket};

/// Most datagrams that wait for one [`Sender::flush`]: as many as a receive brings.
pub const SEND_BATCH: usize = 64;

/// Bytes of datagrams that wait before they are sent: enough for a batch of the longest a device takes.
const SEND_BYTES: usize = SEND_BATCH * 1024;

/// Datagrams are counted apart by the number that whoever queues them gives them, below this.
pub const KINDS: usize = 8;

/// What became of queued datagrams of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Handed to the kernel.
    pub taken: [usize; KINDS],
    /// Not taken by the kernel and gone: the destination cannot be reached or the send buffer is full.
    pub failed: [usize; KINDS],
}

/// A sending side of a [`Socket`]. It never waits, and stays in the thread that made it (it is not `Send`).
#[derive(Debug)]
pub struct Sender {
    socket: Arc<Socket>,
    /// Where datagrams leave from that name no source, or this one.
    bound: Option<LocalAddress>,
    /// For those that name another source, and for all others.
    sourced: MultiHeaders<SockaddrStorage>,
    plain: MultiHeaders<SockaddrStorage>,
    peers: Vec<Option<SockaddrStorage>>,
    queue: Vec<Queued>,
    bytes: Vec<u8>,
    sent: Sent,
}

#[derive(Debug)]
struct Queued {
    local: LocalAddress,
    kind: usize,
    bytes: Range<usize>,
}

impl Sender {
    /// Makes the buffers, about 100 KiB. Nothing is allocated afterwards.
    pub fn new(socket: Arc<Socket>) -> Self {
        // Exactly the room of the one control message: the kernel refuses a rest without a header.
        let control = if socket.address.is_ipv4() {
            nix::cmsg_space!(libc::in_pktinfo)
        } else {
            nix::cmsg_space!(libc::in6_pktinfo)
        };
        Self {
            bound: LocalAddress::of_all(socket.address),
            socket,
            sourced: MultiHeaders::preallocate(SEND_BATCH, Some(control)),
            plain: MultiHeaders::preallocate(SEND_BATCH, None),
            peers: Vec::with_capacity(SEND_BATCH),
            queue: Vec::with_capacity(SEND_BATCH),
            bytes: Vec::with_capacity(SEND_BYTES),
            sent: Sent::default(),
        }
    }

    /// Queues a datagram to `peer`, to leave from `local` and to be counted under `kind`, or the last of [`KINDS`] for one
    /// beyond it. If it finds the queue full, what waits is sent first.
    pub fn push(&mut self, peer: SocketAddr, local: LocalAddress, kind: usize, bytes: &[u8]) {
        if self.queue.len() == SEND_BATCH || self.bytes.len() + bytes.len() > SEND_BYTES {
            self.send_queue();
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        self.queue.push(Queued { local, kind: kind.min(KINDS - 1), bytes: start..self.bytes.len() });
        self.peers.push(Some(peer.into()));
    }

    /// Sends what is queued, in order. Returns what became of everything queued since the last flush.
    pub fn flush(&mut self) -> Sent {
        self.send_queue();
        std::mem::take(&mut self.sent)
    }

    /// One bad destination costs nobody behind it; a full send buffer ends the whole queue, since it would refuse them
    /// all.
    fn send_queue(&mut self) {
        let mut next = 0;
        while next < self.queue.len() {
            match self.send_run(next) {
                Ok(count) => {
                    self.queue[next..next + count].iter().for_each(|queued| self.sent.taken[queued.kind] += 1);
                    next += count;
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM) => {
                    self.queue[next..].iter().for_each(|queued| self.sent.failed[queued.kind] += 1);
                    break;
                }
                Err(_) => {
                    self.sent.failed[self.queue[next].kind] += 1;
                    next += 1;
                }
            }
        }
        self.queue.clear();
        self.peers.clear();
        self.bytes.clear();
    }

    /// Sends from `start` on those in a row that leave from the same address, since one call carries one. Returns how
    /// many were taken, at least one; an error is that of the first.
    fn send_run(&mut self, start: usize) -> nix::Result<usize> {
        let local = self.queue[start].local;
        let run = self.queue[start..].iter().take_while(|queued| queued.local == local).count();
        let end = start + run;
        let slices: [[io::IoSlice<'_>; 1]; SEND_BATCH] = std::array::from_fn(|index| {
            let queued = self.queue.get(start + index);
            [io::IoSlice::new(queued.map_or(&[], |queued| &self.bytes[queued.bytes.clone()]))]
        });
        let (fd, flags) = (self.socket.socket.as_raw_fd(), MsgFlags::MSG_DONTWAIT);
        let (slices, peers) = (&slices[..run], &self.peers[start..end]);
        if local == LocalAddress::default() || Some(local) == self.bound {
            return Ok(sendmmsg(fd, &mut self.plain, slices, peers, [], flags)?.count());
        }
        let (v4, v6) = (local.to_v4(), local.to_v6());
        let source = if self.socket.address.is_ipv4() {
            ControlMessage::Ipv4PacketInfo(&v4)
        } else {
            ControlMessage::Ipv6PacketInfo(&v6)
        };
        Ok(sendmmsg(fd, &mut self.sourced, slices, peers, [source], flags)?.count())
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, UdpSocket};
    use std::time::Duration;

    use super::super::{BoundSocket, Receiver};
    use super::*;

    fn socket(address: &str) -> Arc<Socket> {
        let bound = BoundSocket::bind(address.parse().unwrap(), 1 << 20).unwrap();
        Arc::new(bound.register().unwrap())
    }

    /// A peer whose reads give up instead of hanging a failed test.
    fn peer(address: &str) -> UdpSocket {
        let socket = UdpSocket::bind(address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        socket
    }

    fn next(peer: &UdpSocket) -> (Vec<u8>, SocketAddr) {
        let mut bytes = [0; 4096];
        let (length, from) = peer.recv_from(&mut bytes).unwrap();
        (bytes[..length].to_vec(), from)
    }

    /// So many of each kind were taken, and failed.
    fn sent(taken: &[(usize, usize)], failed: &[(usize, usize)]) -> Sent {
        let mut sent = Sent::default();
        taken.iter().for_each(|(kind, count)| sent.taken[*kind] = *count);
        failed.iter().for_each(|(kind, count)| sent.failed[*kind] = *count);
        sent
    }

    /// Sends from `from` to every address of `to`, answers, and returns where the answers came from.
    async fn answered_from(listen: &str, from: &str, to: &[&str]) -> Vec<IpAddr> {
        let socket = socket(listen);
        let (mut receiver, mut sender) = (Receiver::new(Arc::clone(&socket)), Sender::new(Arc::clone(&socket)));
        let peer = peer(from);
        for (number, ip) in to.iter().enumerate() {
            let ip: IpAddr = ip.parse().unwrap();
            peer.send_to(&[number as u8], SocketAddr::new(ip, socket.address().port())).unwrap();
        }
        let mut received = 0;
        while received < to.len() {
            received += receiver.receive().await.unwrap();
            for datagram in receiver.datagrams() {
                sender.push(datagram.peer, datagram.local, 0, datagram.bytes);
            }
        }
        assert_eq!(sender.flush(), sent(&[(0, to.len())], &[]));
        let answers = to.iter().enumerate().map(|(number, _)| {
            let (bytes, from) = next(&peer);
            assert_eq!((bytes, from.port()), (vec![number as u8], socket.address().port()));
            from.ip()
        });
        answers.collect()
    }

    #[tokio::test]
    async fn an_answer_leaves_from_the_address_the_datagram_arrived_on() {
        let to = ["127.0.0.2", "127.0.0.2", "127.0.0.1", "127.9.9.9", "127.0.0.2"];
        let expected: Vec<IpAddr> = to.iter().map(|ip| ip.parse().unwrap()).collect();
        assert_eq!(answered_from("0.0.0.0:0", "0.0.0.0:0", &to).await, expected);
        assert_eq!(
            answered_from("[::]:0", "[::1]:0", &["::1", "::1"]).await,
            ["::1", "::1"].map(|ip| ip.parse::<IpAddr>().unwrap())
        );
    }

    #[tokio::test]
    async fn without_a_local_address_the_system_chooses() {
        let socket = socket("0.0.0.0:0");
        let mut sender = Sender::new(Arc::clone(&socket));
        let peer = peer("127.0.0.1:0");
        sender.push(peer.local_addr().unwrap(), LocalAddress::default(), 0, b"hello");
        assert_eq!(sender.flush(), sent(&[(0, 1)], &[]));
        assert_eq!(next(&peer), (b"hello".to_vec(), SocketAddr::new([127, 0, 0, 1].into(), socket.address().port())));
    }

    #[tokio::test]
    async fn bad_destinations_cost_nobody_else() {
        let mut sender = Sender::new(socket("127.0.0.1:0"));
        let peer = peer("127.0.0.1:0");
        let good = peer.local_addr().unwrap();
        // Broadcast without the right to it, no port, the other version of IP.
        let bad = ["255.255.255.255:9", "127.0.0.1:0", "[::1]:9"].map(|text| text.parse::<SocketAddr>().unwrap());
        let order = [bad[0], good, good, bad[1], bad[2], good, bad[0]];
        for (number, to) in order.into_iter().enumerate() {
            sender.push(to, LocalAddress::default(), number % 2, &[number as u8]);
        }
        assert_eq!(sender.flush(), sent(&[(0, 1), (1, 2)], &[(0, 3), (1, 1)]));
        assert_eq!([next(&peer).0, next(&peer).0, next(&peer).0], [[1], [2], [5]]);
        // A local address that is not ours fails alone, too.
        let foreign = LocalAddress { ip: Some([192, 0, 2, 1].into()), interface: 0 };
        sender.push(good, foreign, 3, b"lost");
        sender.push(good, LocalAddress::default(), KINDS + 1, b"kept");
        assert_eq!(sender.flush(), sent(&[(KINDS - 1, 1)], &[(3, 1)]));
        assert_eq!(next(&peer).0, b"kept");
    }

    #[tokio::test]
    async fn a_full_queue_is_sent_before_more_is_queued() {
        let mut sender = Sender::new(socket("127.0.0.1:0"));
        let peer = peer("127.0.0.1:0");
        let to = peer.local_addr().unwrap();
        // Too many, then too long; together within the receive buffer that a plain socket gets.
        let datagrams: Vec<_> = (0..115u8).map(|number| vec![number; if number < 70 { 0 } else { 1500 }]).collect();
        let capacity = sender.bytes.capacity();
        for bytes in &datagrams {
            sender.push(to, LocalAddress::default(), 0, bytes);
        }
        assert_eq!(sender.flush(), sent(&[(0, 115)], &[]));
        assert_eq!(sender.flush(), Sent::default());
        assert_eq!(sender.bytes.capacity(), capacity);
        for bytes in datagrams {
            assert_eq!(next(&peer).0, bytes);
        }
    }
}
