//! Receiving: one system call brings up to [`RECEIVE_BATCH`] datagrams into buffers made once.
//!
//! What comes beside a datagram is always the same: nothing where the socket is bound to one address, which saves the kernel and
//! us a good part of what a datagram costs beyond its bytes, and elsewhere exactly one control message, the packet information,
//! whose size is exactly the room for it. That is why the drop counter beside each datagram (`SO_RXQ_OVFL`) is not used: the headers are made
//! once and the `nix` crate never restores the room the kernel used up in them, so a message that comes only
//! sometimes (this one only after the first drop) would push the packet information out.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, MultiHeaders, RecvMsg, SockaddrIn, SockaddrIn6, SockaddrLike, recvmmsg,
};
use tokio::io::Interest;

use super::{LocalAddress, Socket};

/// Most datagrams of one call: past 64 the cost of the call itself no longer shows, and the work until the next look at
/// anything else stays bounded.
pub const RECEIVE_BATCH: usize = 64;

/// Most bytes of a datagram that is delivered whole.
pub const MAX_DATAGRAM: usize = 2048;

/// Nothing can be sent here.
const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

type Buffers = [[u8; MAX_DATAGRAM]; RECEIVE_BATCH];

/// One arrived datagram, in a buffer that the next receive overwrites.
#[derive(Debug)]
pub struct Datagram<'a> {
    /// What arrived, at most [`MAX_DATAGRAM`] bytes; may be empty. Writable, so that it can be decrypted in place.
    pub bytes: &'a mut [u8],
    /// Who sent it, with the scope of a link-local address.
    pub peer: SocketAddr,
    /// Where it arrived.
    pub local: LocalAddress,
    /// It was longer than [`MAX_DATAGRAM`], and the rest is lost.
    pub truncated: bool,
}

/// The receiving side of a [`Socket`]: use one per socket. It stays in the thread that made it (it is not `Send`).
#[derive(Debug)]
pub struct Receiver {
    socket: Arc<Socket>,
    batch: Batch,
    dropped: u32,
}

impl Receiver {
    /// Makes the buffers, about 140 KiB. Nothing is allocated afterwards.
    pub fn new(socket: Arc<Socket>) -> Self {
        Self { batch: Batch::new(socket.address), socket, dropped: 0 }
    }

    /// Waits for datagrams and receives those that are there, at most [`RECEIVE_BATCH`]. Returns how many
    /// [`Self::datagrams`] holds; the former ones are gone. Cancel-safe.
    ///
    /// 0 means that something else was waiting: the kernel's report of a destination that an earlier send did not
    /// reach, or an interruption. It is cleared; receive again.
    ///
    /// # Errors
    /// The socket cannot be received from now: the kernel is out of memory, or the socket is broken. Receiving again at
    /// once would spin.
    pub async fn receive(&mut self) -> io::Result<usize> {
        let Self { socket, batch, .. } = self;
        let fd = socket.socket.as_raw_fd();
        socket.socket.async_io(Interest::READABLE, || batch.receive(fd)).await
    }

    /// The datagrams of the last [`Self::receive`], in the order of their arrival.
    pub fn datagrams(&mut self) -> impl ExactSizeIterator<Item = Datagram<'_>> {
        let Batch { buffers, locals, arrivals, .. } = &mut self.batch;
        buffers.iter_mut().zip(arrivals).zip(locals).map(|((buffer, arrival), local)| Datagram {
            bytes: &mut buffer[..arrival.length],
            peer: arrival.peer,
            local: *local,
            truncated: arrival.truncated,
        })
    }

    /// How many datagrams the kernel dropped since the last call, or since the socket was opened: mostly because the
    /// receive buffer was full, seldom because of a wrong checksum. One cheap system call; right even while nothing
    /// arrives, as long as fewer than 2^32 were dropped in between.
    ///
    /// # Errors
    /// The socket is broken.
    pub fn take_kernel_drops(&mut self) -> io::Result<u32> {
        let dropped = self.socket.dropped()?;
        let more = dropped.wrapping_sub(self.dropped);
        self.dropped = dropped;
        Ok(more)
    }
}

/// What one call brings, and the room for it.
#[derive(Debug)]
struct Batch {
    headers: Headers,
    buffers: Box<Buffers>,
    arrivals: Vec<Arrival>,
    /// Where they arrived. Written only where each says so itself: elsewhere it is always the same.
    locals: Vec<LocalAddress>,
    says_local: bool,
}

/// What is known of a datagram beside its bytes.
#[derive(Clone, Copy, Debug)]
struct Arrival {
    length: usize,
    peer: SocketAddr,
    truncated: bool,
}

impl Batch {
    /// For a socket that is bound to this address.
    fn new(address: SocketAddr) -> Self {
        let local = LocalAddress::of_all(address);
        Self {
            headers: Headers::new(address, local.is_none()),
            buffers: Box::new([[0; MAX_DATAGRAM]; RECEIVE_BATCH]),
            arrivals: Vec::with_capacity(RECEIVE_BATCH),
            locals: vec![local.unwrap_or_default(); RECEIVE_BATCH],
            says_local: local.is_none(),
        }
    }

    /// Receives what is there without waiting. Returns how many datagrams that is.
    fn receive(&mut self, fd: RawFd) -> io::Result<usize> {
        self.arrivals.clear();
        let Self { headers, buffers, arrivals, locals, says_local } = self;
        let locals = if *says_local { &mut locals[..] } else { &mut [] };
        let received = match headers {
            Headers::V4(headers) => receive_into(headers, fd, buffers, arrivals, locals),
            Headers::V6(headers) => receive_into(headers, fd, buffers, arrivals, locals),
        };
        match received {
            Err(error) if !is_passing(error) => Err(error.into()),
            _ => Ok(self.arrivals.len()),
        }
    }
}

/// Message headers with room for addresses of one version of IP, and for packet information where it comes. All have a fixed
/// size, so the sizes that the kernel writes back are the ones the next call needs.
#[derive(Debug)]
enum Headers {
    V4(MultiHeaders<SockaddrIn>),
    V6(MultiHeaders<SockaddrIn6>),
}

impl Headers {
    fn new(address: SocketAddr, with_packet_information: bool) -> Self {
        if address.is_ipv4() {
            let control = with_packet_information.then(|| nix::cmsg_space!(libc::in_pktinfo));
            Self::V4(MultiHeaders::preallocate(RECEIVE_BATCH, control))
        } else {
            let control = with_packet_information.then(|| nix::cmsg_space!(libc::in6_pktinfo));
            Self::V6(MultiHeaders::preallocate(RECEIVE_BATCH, control))
        }
    }
}

fn receive_into<S>(
    headers: &mut MultiHeaders<S>,
    fd: RawFd,
    buffers: &mut Buffers,
    arrivals: &mut Vec<Arrival>,
    locals: &mut [LocalAddress],
) -> nix::Result<()>
where
    S: SockaddrLike + Copy + Into<SocketAddr>,
{
    let mut slices = buffers.each_mut().map(|buffer| [io::IoSliceMut::new(buffer)]);
    let messages = recvmmsg(fd, headers, &mut slices, MsgFlags::MSG_DONTWAIT, None)?;
    let mut locals = locals.iter_mut();
    arrivals.extend(messages.map(|message| {
        if let Some(local) = locals.next() {
            *local = local_address(&message);
        }
        Arrival {
            length: message.bytes,
            // Always there for UDP. Without one it would be nobody's datagram, but it keeps its place beside its buffer.
            peer: message.address.map_or(NOBODY, Into::into),
            truncated: message.flags.contains(MsgFlags::MSG_TRUNC),
        }
    }));
    Ok(())
}

fn local_address<S>(message: &RecvMsg<'_, '_, S>) -> LocalAddress {
    let found = message.cmsgs().ok().and_then(|mut control| {
        control.find_map(|control| match control {
            ControlMessageOwned::Ipv4PacketInfo(info) => Some(LocalAddress::from_v4(info)),
            ControlMessageOwned::Ipv6PacketInfo(info) => Some(LocalAddress::from_v6(info)),
            _ => None,
        })
    });
    found.unwrap_or_default()
}

/// Errors of a receive that say nothing about the next one: interruptions, and what the network answered to an earlier
/// send. Not among them are those that a security policy answers every time.
fn is_passing(error: Errno) -> bool {
    matches!(
        error,
        Errno::EINTR
            | Errno::ECONNREFUSED
            | Errno::ECONNRESET
            | Errno::EHOSTUNREACH
            | Errno::EHOSTDOWN
            | Errno::ENETUNREACH
            | Errno::ENETDOWN
            | Errno::EMSGSIZE
            | Errno::EPROTO
    )
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::{Duration, Instant};

    use super::super::BoundSocket;
    use super::*;

    fn receiver(address: &str, receive_buffer: usize) -> Receiver {
        let bound = BoundSocket::bind(address.parse().unwrap(), receive_buffer).unwrap();
        Receiver::new(Arc::new(bound.register().unwrap()))
    }

    fn client(address: &str) -> UdpSocket {
        UdpSocket::bind(address).unwrap()
    }

    #[tokio::test]
    async fn datagrams_arrive_in_order_across_calls() {
        let mut receiver = receiver("127.0.0.1:0", 1 << 20);
        let to = receiver.socket.address();
        let client = client("127.0.0.1:0");
        let sent: Vec<_> = (0..200u32).map(|number| number.to_be_bytes().repeat(1 + number as usize % 5)).collect();
        for bytes in &sent {
            client.send_to(bytes, to).unwrap();
        }
        let mut arrived = Vec::new();
        while arrived.len() < sent.len() {
            let count = receiver.receive().await.unwrap();
            assert!(count <= RECEIVE_BATCH);
            assert_eq!(receiver.datagrams().len(), count);
            for datagram in receiver.datagrams() {
                assert_eq!(datagram.peer, client.local_addr().unwrap());
                assert_eq!(datagram.local.ip(), Some(to.ip()));
                assert!(!datagram.truncated);
                arrived.push(datagram.bytes.to_vec());
            }
        }
        assert_eq!(arrived, sent);
    }

    #[tokio::test]
    async fn lengths_are_exact_and_what_is_cut_says_so() {
        let mut receiver = receiver("[::1]:0", 1 << 20);
        let to = receiver.socket.address();
        let client = client("[::1]:0");
        let lengths = [0, 1, MAX_DATAGRAM, MAX_DATAGRAM + 1, 60_000, 0, 7];
        for length in lengths {
            client.send_to(&vec![0xa5; length], to).unwrap();
        }
        let mut arrived = Vec::new();
        while arrived.len() < lengths.len() {
            receiver.receive().await.unwrap();
            arrived.extend(receiver.datagrams().map(|datagram| {
                assert!(datagram.bytes.iter().all(|byte| *byte == 0xa5));
                (datagram.bytes.len(), datagram.truncated)
            }));
        }
        let expected = lengths.map(|length| (length.min(MAX_DATAGRAM), length > MAX_DATAGRAM));
        assert_eq!(arrived, expected);
    }

    #[tokio::test]
    async fn sockets_receive_only_their_own() {
        let mut receivers =
            [receiver("127.0.0.1:0", 65_536), receiver("127.0.0.1:0", 65_536), receiver("[::1]:0", 65_536)];
        for (number, receiver) in receivers.iter().enumerate() {
            let to = receiver.socket.address();
            let from = if to.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
            client(from).send_to(&[number as u8], to).unwrap();
        }
        for (number, receiver) in receivers.iter_mut().enumerate() {
            assert_eq!(receiver.receive().await.unwrap(), 1);
            assert_eq!(receiver.datagrams().next().unwrap().bytes, [number as u8]);
        }
    }

    #[tokio::test]
    async fn the_local_address_is_known_on_every_reuse_of_a_buffer_and_after_drops() {
        let mut receiver = receiver("0.0.0.0:0", 1);
        let port = receiver.socket.address().port();
        let client = client("127.0.0.1:0");
        for round in 0..20u8 {
            let last = 1 + round % 3;
            // Enough to overflow the buffer in every round.
            for _ in 0..100 {
                client.send_to(&[round; 500], SocketAddr::from(([127, 0, 0, last], port))).unwrap();
            }
            receiver.receive().await.unwrap();
            while receiver.datagrams().len() > 0 {
                for datagram in receiver.datagrams() {
                    assert_eq!(datagram.local.ip(), Some([127, 0, 0, 1 + datagram.bytes[0] % 3].into()));
                }
                receive_now(&mut receiver);
            }
        }
        assert!(receiver.take_kernel_drops().unwrap() > 0);
    }

    #[tokio::test]
    async fn what_the_kernel_drops_is_counted_once() {
        let mut receiver = receiver("127.0.0.1:0", 1);
        let to = receiver.socket.address();
        let client = client("127.0.0.1:0");
        assert_eq!(receiver.take_kernel_drops().unwrap(), 0);
        for _ in 0..300 {
            client.send_to(&[1; 700], to).unwrap();
        }
        let (mut received, mut dropped) = (0, 0);
        let give_up = Instant::now() + Duration::from_secs(20);
        while received + dropped < 300 && Instant::now() < give_up {
            received += receive_now(&mut receiver) as u32;
            dropped += receiver.take_kernel_drops().unwrap();
        }
        assert!(received > 0 && dropped > 0, "received {received}, dropped {dropped}");
        assert_eq!(received + dropped, 300);
        assert_eq!(receiver.take_kernel_drops().unwrap(), 0);
    }

    #[tokio::test]
    async fn the_drop_counter_may_wrap() {
        let mut receiver = receiver("127.0.0.1:0", 1);
        receiver.dropped = u32::MAX - 4;
        assert_eq!(receiver.take_kernel_drops().unwrap(), 5);
    }

    #[test]
    fn errors_of_earlier_sends_do_not_end_the_loop() {
        assert!(is_passing(Errno::ECONNREFUSED) && is_passing(Errno::EINTR) && is_passing(Errno::EHOSTUNREACH));
        assert!(!is_passing(Errno::EAGAIN) && !is_passing(Errno::EBADF) && !is_passing(Errno::ENOMEM));
    }

    /// Receives without waiting; leaves no datagrams if none is there.
    fn receive_now(receiver: &mut Receiver) -> usize {
        let Receiver { socket, batch, .. } = receiver;
        match batch.receive(socket.socket.as_raw_fd()) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => panic!("{error}"),
        }
    }
}
