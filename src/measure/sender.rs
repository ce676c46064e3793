//! Keeps the queue of a receiver filled from another core, and sends no faster than it receives: the queue is never empty, nothing
//! is dropped, and each packet arrives once.

use std::io::{self, IoSlice};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, sendmmsg, setsockopt, sockopt};

use super::cores::{self, Cores, Shared};
use super::fleet::Fleet;
use super::meter::{Goal, Stop};
use super::{Config, DATAGRAM, LOOPBACK};
use crate::clock::{Clock, Timestamp};
use crate::wire::frame::Flags;

/// Datagrams that wait at most: a queue as long as that of an overloaded gateway, whose datagrams have left the caches by the time
/// they are read. A shorter one flatters the bare loop most.
const QUEUE: u64 = 24_576;

/// What a waiting datagram takes of a receive buffer, in bytes: its bookkeeping is several times its bytes.
const CHARGE: usize = 1024;

/// Datagrams that the kernel cuts out of one message.
const TRAIN: u64 = 32;

/// Messages of one call.
const MESSAGES: usize = 64;

/// How long a receiver may stand still before what is missing is taken for lost: on a busy machine it waits for its core.
const PATIENCE: Duration = Duration::from_secs(5);

/// Looks at a receiver that must find it standing still all that time: the sender may have waited for its own core meanwhile.
const LOOKS: u32 = 1000;

/// How often something may be taken for lost before the sender ends.
const GIVEN_UP: u32 = 3;

/// How often the sender looks away between two looks at how far the receiver is, whose cache line that takes.
const LOOKS_AWAY: u32 = 64;

/// Packets that are made or heard between two looks at whether it is to stop: some milliseconds' worth.
pub(super) const LOOK_EACH: u64 = 4096;

/// What is sent to each receiver of a round.
#[derive(Debug)]
pub(super) struct Load {
    config: Config,
    cores: Cores,
    /// Of the receivers, as the kernel gave it.
    pub(super) receive_buffer: usize,
    queue: u64,
    cuts: bool,
    /// When the packets of the round were made.
    pub(super) sealed_at: Timestamp,
    /// Whose packets they are.
    pub(super) fleet: Fleet,
    /// End to end: one of each device, then the next of each.
    packets: Arc<Vec<u8>>,
}

impl Load {
    /// For receivers with this buffer, without packets.
    pub(super) fn new(config: Config, cores: Cores, receive_buffer: usize) -> io::Result<Self> {
        // The kernel spends twice what it is asked for; as much again stays free for what it takes otherwise.
        let queue = QUEUE.min((2 * receive_buffer / CHARGE / 2) as u64).max(1);
        let cuts = cuts(&UdpSocket::bind(LOOPBACK)?);
        let sealed_at = Clock::default().now();
        Ok(Self {
            config,
            cores,
            receive_buffer,
            queue,
            cuts,
            sealed_at,
            fleet: Fleet::new(sealed_at),
            packets: Arc::default(),
        })
    }

    /// Datagrams that wait at most.
    pub(super) const fn queue(&self) -> u64 {
        self.queue
    }

    /// Whether the kernel cuts messages into datagrams.
    pub(super) const fn cuts(&self) -> bool {
        self.cuts
    }

    /// The devices that send.
    pub(super) fn devices(&self) -> u64 {
        self.config.devices.into()
    }

    /// What a receiver has to receive.
    pub(super) fn goal(&self) -> Goal {
        let measured = u64::from(self.config.datagrams);
        Goal { warm_up: measured / 10, all: measured / 10 + measured }
    }

    /// Makes the packets of a round, of this moment: those of a long measurement would grow old. A tenth more than must arrive, and
    /// fewer if it is told to stop.
    pub(super) fn make(&mut self, stop: &Stop) {
        // Their room is used again.
        let mut packets = Arc::try_unwrap(std::mem::take(&mut self.packets)).unwrap_or_default();
        self.sealed_at = Clock::default().now();
        self.fleet = Fleet::new(self.sealed_at);
        packets.clear();
        let (devices, count) = (self.devices(), self.goal().all * 11 / 10 + self.queue);
        for number in 0..count {
            if number % LOOK_EACH == 0 && stop.is_set() {
                break;
            }
            let asks = number % 100 < u64::from(self.config.ack_percent);
            let flags = if asks { Flags::ACK_REQUEST } else { 0 };
            self.fleet.packet(number % devices, 1 + (number / devices) as u16, flags, &mut packets);
        }
        self.packets = Arc::new(packets);
    }

    /// Leaves only so many packets, too few for a turn.
    #[cfg(test)]
    pub(super) fn keep(&mut self, count: usize) {
        self.packets = Arc::new(self.packets[..count * DATAGRAM].to_vec());
    }

    /// Sends by `from` to `to` from its own core, as fast as what is `seen` moves on, until it is told to stop or has sent
    /// everything.
    pub(super) fn send(
        &self,
        from: UdpSocket,
        to: SocketAddr,
        seen: impl Fn() -> u64 + Send + 'static,
    ) -> io::Result<Sending> {
        let (stop, ended) = (Arc::new(AtomicBool::new(false)), Ended::default());
        let train = if self.cuts { TRAIN.min(self.queue) as usize } else { 1 };
        let yields = self.cores.shared == Shared::Everything;
        let sender = Sender { queue: self.queue, train, yields, stop: Arc::clone(&stop) };
        let (packets, core, over) = (Arc::clone(&self.packets), self.cores.sender, ended.clone());
        let thread = std::thread::Builder::new().spawn(move || {
            cores::stay_on(core);
            let sent = sender.send(&from, to, &packets, seen);
            over.0.store(true, Ordering::Release);
            sent
        })?;
        Ok(Sending { stop, ended, thread })
    }
}

/// Whether a sender has ended: nothing more comes from it.
#[derive(Clone, Debug, Default)]
pub(super) struct Ended(Arc<AtomicBool>);

impl Ended {
    pub(super) fn is_true(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// A sender at work.
#[derive(Debug)]
pub(super) struct Sending {
    stop: Arc<AtomicBool>,
    pub(super) ended: Ended,
    thread: JoinHandle<io::Result<u64>>,
}

impl Sending {
    /// Ends it; returns how many datagrams it sent.
    ///
    /// # Errors
    /// The system did not let it send.
    pub(super) fn stop(self) -> io::Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

struct Sender {
    queue: u64,
    /// Datagrams of a message.
    train: usize,
    /// The receiver runs on the same core.
    yields: bool,
    stop: Arc<AtomicBool>,
}

impl Sender {
    fn send(&self, socket: &UdpSocket, to: SocketAddr, packets: &[u8], seen: impl Fn() -> u64) -> io::Result<u64> {
        socket.connect(to)?;
        if self.train > 1 {
            setsockopt(socket, sockopt::UdpGsoSegment, &(DATAGRAM as i32))?;
        }
        // Half a queue at most, so that the receiver has the other half meanwhile.
        let messages = (self.queue as usize / 2 / self.train).clamp(1, MESSAGES);
        let slices: Vec<_> = packets.chunks(DATAGRAM * self.train).map(|train| [IoSlice::new(train)]).collect();
        let mut headers = MultiHeaders::<SockaddrIn>::preallocate(MESSAGES, None);
        let mut flow = Flow::default();
        let mut at = 0;
        while at < slices.len() && self.has_room(&mut flow, &seen) {
            let some = &slices[at..slices.len().min(at + messages)];
            match sendmmsg(socket.as_raw_fd(), &mut headers, some, [None; MESSAGES], [], MsgFlags::empty()) {
                Ok(taken) => {
                    at += taken.count();
                    // The last message may be shorter.
                    flow.sent = (at * self.train).min(packets.len() / DATAGRAM) as u64;
                }
                Err(Errno::EINTR) => {}
                // The receiver has what it wants, and has closed its socket.
                Err(Errno::ECONNREFUSED) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(flow.sent)
    }

    /// Waits until the queue has room. False: it is to end, or too much was given up.
    fn has_room(&self, flow: &mut Flow, seen: impl Fn() -> u64) -> bool {
        let (mut last, mut since, mut looks) = (seen(), Instant::now(), 0);
        loop {
            let now = seen();
            if now != last {
                (last, since, looks) = (now, Instant::now(), 0);
            }
            looks += 1;
            let ahead = flow.sent.saturating_sub(flow.missing + now);
            if self.stop.load(Ordering::Relaxed) || flow.given_up == GIVEN_UP {
                return false;
            }
            if ahead < self.queue {
                return true;
            }
            if looks > LOOKS && since.elapsed() > PATIENCE {
                flow.missing += ahead;
                flow.given_up += 1;
            } else if self.yields {
                std::thread::yield_now();
            } else {
                (0..LOOKS_AWAY).for_each(|_| std::hint::spin_loop());
            }
        }
    }
}

/// What a sender knows of the way.
#[derive(Default)]
struct Flow {
    sent: u64,
    /// Taken for lost.
    missing: u64,
    /// How often something was.
    given_up: u32,
}

/// Whether the kernel cuts what is sent by a socket.
fn cuts(socket: &UdpSocket) -> bool {
    setsockopt(socket, sockopt::UdpGsoSegment, &(DATAGRAM as i32)).is_ok()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    const CONFIG: Config = Config { devices: 100, rounds: 1, datagrams: 1000, ack_percent: 10 };

    /// What every system gives.
    const RECEIVE_BUFFER: usize = 65_536;

    fn load() -> (Load, UdpSocket) {
        let socket = UdpSocket::bind(LOOPBACK).unwrap();
        setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER).unwrap();
        let mut load = Load::new(CONFIG, Cores::choose(), RECEIVE_BUFFER).unwrap();
        load.make(&Stop::default());
        (load, socket)
    }

    #[test]
    fn the_queue_fits_the_receive_buffer() {
        let queue = |receive_buffer| Load::new(CONFIG, Cores::choose(), receive_buffer).unwrap().queue();
        assert_eq!([queue(64 << 20), queue(212_992), queue(0)], [24_576, 208, 1]);
    }

    #[test]
    fn all_arrive_once_and_in_order_cut_or_not() {
        let (load, socket) = load();
        for train in if load.cuts() { vec![1, 32] } else { vec![1] } {
            let (to, packets) = (socket.local_addr().unwrap(), Arc::clone(&load.packets));
            let sender = Sender { queue: load.queue, train, yields: true, stop: Arc::default() };
            let received = Arc::new(AtomicU64::new(0));
            let seen = Arc::clone(&received);
            let sending = std::thread::spawn(move || {
                sender.send(&UdpSocket::bind(LOOPBACK).unwrap(), to, &packets, || seen.load(Ordering::Relaxed))
            });
            let (mut arrived, mut bytes) = (Vec::new(), [0; 2048]);
            while arrived.len() < load.packets.len() {
                let len = socket.recv(&mut bytes).unwrap();
                arrived.extend_from_slice(&bytes[..len]);
                received.fetch_add(1, Ordering::Relaxed);
            }
            assert!(arrived == *load.packets);
            assert_eq!(sending.join().unwrap().unwrap(), (load.packets.len() / DATAGRAM) as u64);
        }
    }

    #[test]
    fn a_receiver_that_closes_its_socket_ends_the_sending_in_order() {
        let (load, socket) = load();
        let received = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&received);
        let sending = load
            .send(UdpSocket::bind(LOOPBACK).unwrap(), socket.local_addr().unwrap(), move || {
                seen.load(Ordering::Relaxed)
            })
            .unwrap();
        assert_eq!(socket.recv(&mut [0; 2048]).unwrap(), DATAGRAM);
        drop(socket);
        received.store(u64::MAX / 2, Ordering::Relaxed);
        assert!(sending.thread.join().unwrap().unwrap() > 0);
    }

    #[test]
    fn a_sender_stops_when_it_is_told_to_and_says_so() {
        let (load, socket) = load();
        let sending = load.send(UdpSocket::bind(LOOPBACK).unwrap(), socket.local_addr().unwrap(), || 0).unwrap();
        assert_eq!(socket.recv(&mut [0; 2048]).unwrap(), DATAGRAM);
        let ended = sending.ended.clone();
        let sent = sending.stop().unwrap();
        let all = (load.packets.len() / DATAGRAM) as u64;
        assert!(ended.is_true() && sent > 0 && sent < all, "{sent} of {all}");
    }
}
