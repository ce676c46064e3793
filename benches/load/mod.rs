//! Traffic that keeps a receiver saturated, and what measures the thread that receives: shared by the benchmarks of receiving.
//!
//! Only a receiver that always finds a full batch shows what a datagram costs at the limit; one that waits pays for
//! waking up instead. Senders therefore hand the kernel trains of equal datagrams (`UDP_SEGMENT`), which the kernel
//! cuts on the sender's core. They stay [`WINDOW`] datagrams ahead and no more, or less where the receive buffer is too small for that: the queue is never empty, nothing is
//! dropped, and each packet arrives once.

pub(crate) mod threads;

use std::io::IoSlice;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::socket::{ControlMessage, MsgFlags, MultiHeaders, SockaddrIn, getsockopt, sendmmsg, setsockopt, sockopt};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

/// Bytes of each datagram.
pub(crate) const DATAGRAM: usize = 100;

/// Datagrams the kernel cuts out of one message, and messages of one call.
const TRAIN: usize = 32;
const TRAINS: usize = 8;

/// Datagrams of one call of a sender.
pub(crate) const BLOCK: usize = TRAIN * TRAINS;

/// How far senders are ahead of the receiver: a queue as long as that of an overloaded gateway, whose datagrams have left
/// the caches by the time they are read. A shorter one flatters the bare sink most.
pub(crate) const WINDOW: u64 = 24_576;

/// Asked of the kernel by every contender, as by the gateway: [`WINDOW`] datagrams take about a sixth of it.
pub(crate) const RECEIVE_BUFFER: usize = 64 << 20;

/// What the kernel takes of a receive buffer for a datagram, at most.
const CHARGED: usize = 1024;

/// Mean datagrams of a receive call from which a run counts as saturated.
pub(crate) const FULL_ENOUGH: f64 = 30.0;

/// Where everybody binds: any free port.
pub(crate) const LISTEN: &str = "127.0.0.1:0";

/// How long the receiver may stand still before the sender gives up what is missing.
const PATIENCE: Duration = Duration::from_millis(200);

/// Turns of a sender between two looks at how far the receiver is: seldom enough not to keep its counters from its core.
const TURNS: usize = 300;

/// Datagrams of [`DATAGRAM`] bytes end to end, in order.
pub(crate) type Datagrams = Arc<Vec<u8>>;

/// So many datagrams, rounded up to whole calls, each as `write` writes it by its number.
pub(crate) fn datagrams(count: u64, mut write: impl FnMut(u64, &mut Vec<u8>)) -> Datagrams {
    let count = count.next_multiple_of(BLOCK as u64);
    let mut all = Vec::with_capacity(count as usize * DATAGRAM);
    let mut one = Vec::new();
    for number in 0..count {
        write(number, &mut one);
        assert_eq!(one.len(), DATAGRAM);
        all.extend_from_slice(&one);
    }
    Arc::new(all)
}

/// A socket that sends blocks.
pub(crate) struct Blocks {
    socket: UdpSocket,
    headers: MultiHeaders<SockaddrIn>,
}

impl Blocks {
    pub(crate) fn new(socket: UdpSocket) -> Self {
        Self { socket, headers: MultiHeaders::preallocate(TRAINS, Some(nix::cmsg_space!(u16))) }
    }

    /// Sends [`BLOCK`] datagrams to where the socket is connected. Whether somebody is there still is not asked.
    pub(crate) fn send(&mut self, block: &[u8]) {
        let segment = DATAGRAM as u16;
        let control = [ControlMessage::UdpGsoSegments(&segment)];
        let trains: [_; TRAINS] = std::array::from_fn(|train| {
            let start = train * TRAIN * DATAGRAM;
            [IoSlice::new(&block[start..start + TRAIN * DATAGRAM])]
        });
        let (fd, headers) = (self.socket.as_raw_fd(), &mut self.headers);
        if let Err(error) = sendmmsg(fd, headers, &trains, [None; TRAINS], control, MsgFlags::empty()) {
            assert_eq!(error, Errno::ECONNREFUSED);
        }
    }
}

/// A socket with the receive buffer of the gateway's.
pub(crate) fn plain_socket() -> UdpSocket {
    let socket = UdpSocket::bind(LISTEN).unwrap();
    if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
        setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER).unwrap();
    }
    socket
}

/// [`WINDOW`], or what so many senders may be ahead where the kernel gives a smaller buffer, as it does without the right to
/// administer the network.
pub(crate) fn window(senders: usize) -> u64 {
    let room = getsockopt(&plain_socket(), sockopt::RcvBuf).unwrap() / CHARGED;
    let window = room.saturating_sub(senders * BLOCK).clamp(1, WINDOW as usize) as u64;
    if window < WINDOW {
        println!("the receive buffer holds {room} datagrams only, which flatters the sink: raise net.core.rmem_max to");
        println!("{RECEIVE_BUFFER}, or grant CAP_NET_ADMIN");
    }
    window
}

/// One sender with a core of its own, whose datagrams all come from one address.
pub(crate) struct Sender {
    socket: UdpSocket,
    core: usize,
    window: u64,
}

impl Sender {
    pub(crate) fn new(core: usize) -> Self {
        Self { socket: UdpSocket::bind(LISTEN).unwrap(), core, window: window(1) }
    }

    /// Where its datagrams come from.
    pub(crate) fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    /// Sends `datagrams` to `to`, again and again, as fast as what is `seen` moves on, until stopped.
    pub(crate) fn start(
        &self,
        to: SocketAddr,
        datagrams: &Datagrams,
        seen: impl Fn() -> u64 + Send + 'static,
    ) -> Running {
        let stop = Arc::new(AtomicBool::new(false));
        self.socket.connect(to).unwrap();
        // That the receiver before has ended is no fault of this one.
        let _ = self.socket.take_error();
        let (socket, core, window) = (self.socket.try_clone().unwrap(), self.core, self.window);
        let (datagrams, stopped) = (Arc::clone(datagrams), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            pin(core);
            send(socket, &datagrams, window, seen, &stopped)
        });
        Running { stop, thread }
    }
}

/// A sender at work.
pub(crate) struct Running {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Running {
    pub(crate) fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        let given_up = self.thread.join().unwrap();
        if given_up > 0 {
            eprintln!(
                "the receiver stood still {given_up} datagrams behind: they were dropped, or the machine is busy; the"
            );
            eprintln!("run is doubtful");
        }
    }
}

/// Returns how many datagrams it gave up.
fn send(socket: UdpSocket, datagrams: &[u8], window: u64, seen: impl Fn() -> u64, stop: &AtomicBool) -> u64 {
    let mut blocks = Blocks::new(socket);
    let (mut sent, mut given_up) = (0u64, 0);
    for block in datagrams.chunks_exact(BLOCK * DATAGRAM).cycle() {
        let since = Instant::now();
        loop {
            let ahead = sent.saturating_sub(given_up + seen());
            if stop.load(Ordering::Relaxed) {
                return given_up;
            }
            if ahead < window {
                break;
            }
            if since.elapsed() > PATIENCE {
                given_up += ahead;
            }
            pause();
        }
        blocks.send(block);
        sent += BLOCK as u64;
    }
    given_up
}

/// Until it is worth looking again.
pub(crate) fn pause() {
    (0..TURNS).for_each(|_| std::hint::spin_loop());
}

/// Time the processor spent on the current thread so far.
pub(crate) fn thread_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

/// Numbers of the cores that this process may use.
pub(crate) fn cores() -> Vec<usize> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap();
    (0..CpuSet::count()).filter(|core| allowed.is_set(*core).unwrap()).collect()
}

/// Keeps the current thread on one core. Where that is not allowed, it wanders.
pub(crate) fn pin(core: usize) {
    let mut cores = CpuSet::new();
    cores.set(core).unwrap();
    if let Err(error) = sched_setaffinity(Pid::from_raw(0), &cores) {
        eprintln!("cannot keep a thread on core {core}: {error}");
    }
}

/// Least, middle and greatest of what was measured in several rounds.
pub(crate) fn spread(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    (values[0], values[values.len() / 2], values[values.len() - 1])
}
