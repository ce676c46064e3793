//! Three ways to receive what is sent: the least that the kernel allows, a plain loop of the runtime, and a gateway.

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, recvmmsg, setsockopt, sockopt};
use serde::Serialize;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::meter::{Goal, Mark, Meter, Run, Stop};
use super::sender::{Ended, LOOK_EACH, Load, Sending};
use super::{LOOPBACK, MeasureError, RECEIVE_BUFFER, fleet};
use crate::clock::Clock;
use crate::ingest::pipeline::{Datagram, Pipeline};
use crate::ingest::replies::Replies;
use crate::ingest::{self, Posts};
use crate::metrics::{Counters, Disposition, Tally};
use crate::table::sending::Via;
use crate::udp::{self, BoundSocket, MAX_DATAGRAM, RECEIVE_BATCH};

/// A way to receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Receiver {
    /// Batches without addresses, control messages or runtime: what the others are compared with.
    Bare,
    /// One call of the runtime for each datagram, as a first draft of a server does it.
    Tokio,
    /// A gateway's own loop with all rules on, every device known from an earlier packet.
    Gateway,
}

/// Time between two looks at whether a turn is over.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Looks in a row at which nothing has arrived since the sender ended before a turn is given up.
const QUIET_LOOKS: u32 = 10;

/// How a turn ended: with start and end of what was measured; `None`: it was told to stop.
type Marks = Option<(Mark, Mark)>;

/// Why it did not.
enum Fault {
    /// So many arrived of all that was sent.
    Quiet(u64),
    Other(MeasureError),
}

impl<E: Into<MeasureError>> From<E> for Fault {
    fn from(error: E) -> Self {
        Self::Other(error.into())
    }
}

impl Receiver {
    /// In the order of their turns.
    pub const ALL: [Self; 3] = [Self::Bare, Self::Tokio, Self::Gateway];

    /// As tables have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare loop (recvmmsg)",
            Self::Tokio => "tokio loop (recv_from)",
            Self::Gateway => "gateway, all rules on",
        }
    }

    /// Has its turn. `None`: it was told to stop.
    pub(super) fn run(self, load: &Load, stop: &Stop) -> Result<Option<Run>, MeasureError> {
        let Turn { ended, dropped, sending } = match self {
            Self::Bare => bare(load, stop),
            Self::Tokio => tokio_loop(load, stop),
            Self::Gateway => gateway(load, stop),
        }?;
        // If the sender failed, that is why nothing arrived.
        let sent = sending.stop()?;
        match ended {
            Ok(marks) => Ok(marks.map(|(start, end)| end.since(&start, sent, dropped))),
            Err(Fault::Quiet(received)) => {
                Err(MeasureError::Lost { receiver: self, received, sent, buffer: load.receive_buffer })
            }
            Err(Fault::Other(error)) => Err(error),
        }
    }
}

/// How a turn ended, what the kernel dropped in it, and whoever sends still.
struct Turn {
    ended: Result<Marks, Fault>,
    dropped: u64,
    sending: Sending,
}

fn bare(load: &Load, stop: &Stop) -> Result<Turn, MeasureError> {
    let (socket, mut meter) = (plain_socket()?, Meter::new(load.goal()));
    // So that it sees when nothing arrives any more.
    socket.set_read_timeout(Some(LOOK_EVERY))?;
    let sending = load.send(UdpSocket::bind(LOOPBACK)?, socket.local_addr()?, reader(meter.seen()))?;
    let ended = receive_batches(&socket, &mut meter, &sending.ended, stop);
    Ok(Turn { ended, dropped: udp::dropped(&socket)?.into(), sending })
}

fn receive_batches(socket: &UdpSocket, meter: &mut Meter, ended: &Ended, stop: &Stop) -> Result<Marks, Fault> {
    let mut headers = MultiHeaders::<()>::preallocate(RECEIVE_BATCH, None);
    let mut buffers = Box::new([[0; MAX_DATAGRAM]; RECEIVE_BATCH]);
    let mut nothing_more_comes = false;
    while !stop.is_set() {
        let mut slices = buffers.each_mut().map(|buffer| [IoSliceMut::new(buffer)]);
        match recvmmsg(socket.as_raw_fd(), &mut headers, &mut slices, MsgFlags::MSG_WAITFORONE, None) {
            Ok(received) => {
                if let Some(marks) = meter.received(received.count()) {
                    return Ok(Some(marks));
                }
            }
            Err(Errno::EAGAIN) if nothing_more_comes => return Err(Fault::Quiet(meter.datagrams())),
            // What was sent before it ended may have come since.
            Err(Errno::EAGAIN) => nothing_more_comes = ended.is_true(),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(io::Error::from(error).into()),
        }
    }
    Ok(None)
}

fn tokio_loop(load: &Load, stop: &Stop) -> Result<Turn, MeasureError> {
    let (runtime, socket, mut meter) = (runtime()?, plain_socket()?, Meter::new(load.goal()));
    socket.set_nonblocking(true)?;
    let (to, seen) = (socket.local_addr()?, meter.seen());
    let sending = load.send(UdpSocket::bind(LOOPBACK)?, to, reader(Arc::clone(&seen)))?;
    let looking = quiet_or_stopped(reader(seen), sending.ended.clone(), stop.clone());
    let (ended, dropped) = runtime.block_on(async {
        let socket = tokio::net::UdpSocket::from_std(socket)?;
        let receiving = async {
            let mut buffer = [0; MAX_DATAGRAM];
            loop {
                socket.recv_from(&mut buffer).await?;
                if let Some(marks) = meter.received(1) {
                    return Ok(Some(marks));
                }
            }
        };
        let looking = tokio::spawn(looking);
        let ended = tokio::select! {
            biased;
            ended = receiving => ended,
            quiet = looking => ended_early(quiet?),
        };
        Ok::<_, io::Error>((ended, udp::dropped(&socket)?))
    })?;
    Ok(Turn { ended, dropped: dropped.into(), sending })
}

fn gateway(load: &Load, stop: &Stop) -> Result<Turn, MeasureError> {
    // Every device is known from where it is sent.
    let from = UdpSocket::bind(LOOPBACK)?;
    let (runtime, pipeline) = (runtime()?, heard(load, from.local_addr()?, stop));
    let bound = BoundSocket::bind(LOOPBACK, RECEIVE_BUFFER)?;
    let (counters, (end, ended)) = (Arc::new(Counters::default()), watch::channel(false));
    let arrived = {
        let counters = Arc::clone(&counters);
        move || counters.read().datagrams.iter().sum()
    };
    let sending = load.send(from, bound.address(), arrived.clone())?;
    let looking = quiet_or_stopped(arrived, sending.ended.clone(), stop.clone());
    let marks = marks(Arc::clone(&counters), load.goal(), Mark::now(0, 0));
    let ended = runtime.block_on(async {
        let socket = Arc::new(bound.register()?);
        let mailbox = Posts::to_threads(1).1.remove(0);
        // On the same thread, whose time it reads.
        let looking = tokio::spawn(async move {
            let ended = tokio::select! {
                marks = marks => Ok(Some(marks)),
                quiet = looking => ended_early(quiet),
            };
            end.send_replace(true);
            ended
        });
        ingest::run(socket, pipeline, mailbox, Arc::clone(&counters), Clock::default(), ended).await;
        Ok::<_, io::Error>(looking.await?)
    })?;
    let tally = counters.read();
    Ok(Turn {
        ended: ended.and_then(|marks| all_counted(&tally).map(|()| marks)),
        dropped: tally.kernel_drops,
        sending,
    })
}

/// A pipeline that has heard every device once, from `source`; fewer if it is told to stop.
fn heard(load: &Load, source: SocketAddr, stop: &Stop) -> Pipeline {
    let mut pipeline = Pipeline::new(fleet::core(load.sealed_at));
    let (mut bytes, mut replies) = (Vec::new(), Replies::default());
    for index in 0..load.devices() {
        if index % LOOK_EACH == 0 && stop.is_set() {
            break;
        }
        bytes.clear();
        load.fleet.packet(index, 0, 0, &mut bytes);
        let at = load.sealed_at;
        pipeline.take(Datagram { bytes: &mut bytes, truncated: false, source, via: Via::UNKNOWN, at }, &mut replies);
    }
    pipeline.wake();
    pipeline.tally = Tally::default();
    pipeline
}

/// Start and end of what is measured, to the nearest millisecond; since `begun` if all came within the first one.
async fn marks(counters: Arc<Counters>, goal: Goal, begun: Mark) -> (Mark, Mark) {
    let reached = async |count| {
        loop {
            let tally = counters.read();
            let datagrams = tally.datagrams.iter().sum();
            if datagrams >= count {
                return Mark::now(datagrams, tally.receives);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let (start, end) = (reached(goal.warm_up).await, reached(goal.all).await);
    (if start.datagrams() < end.datagrams() { start } else { begun }, end)
}

/// Genuine packets that arrive once and in order all count, and move no route: each device is where it was.
fn all_counted(tally: &Tally) -> Result<(), Fault> {
    let (accepted, received) = (tally.datagrams[Disposition::Accepted as usize], tally.datagrams.iter().sum());
    if accepted == received && tally.route_moves == 0 {
        Ok(())
    } else {
        Err(MeasureError::Refused { accepted, received }.into())
    }
}

/// Completes with how many have arrived once the sender has ended and no more do, and with nothing when it is told to stop.
async fn quiet_or_stopped(arrived: impl Fn() -> u64, ended: Ended, stop: Stop) -> Option<u64> {
    let (mut last, mut looks) = (arrived(), 0);
    while looks < QUIET_LOOKS {
        tokio::time::sleep(LOOK_EVERY).await;
        if stop.is_set() {
            return None;
        }
        let now = arrived();
        looks = if now == last && ended.is_true() { looks + 1 } else { 0 };
        last = now;
    }
    Some(last)
}

fn ended_early(quiet: Option<u64>) -> Result<Marks, Fault> {
    quiet.map_or(Ok(None), |received| Err(Fault::Quiet(received)))
}

fn reader(count: Arc<AtomicU64>) -> impl Fn() -> u64 + Clone + Send + 'static {
    move || count.load(Ordering::Relaxed)
}

fn runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// A socket with the receive buffer of the gateway's.
fn plain_socket() -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(LOOPBACK)?;
    if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
        setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::super::cores::Cores;
    use super::*;

    fn load() -> Load {
        let config = Config { devices: 100, rounds: 1, datagrams: 2000, ack_percent: 10 };
        let receive_buffer = BoundSocket::bind(LOOPBACK, RECEIVE_BUFFER).unwrap().receive_buffer();
        let mut load = Load::new(config, Cores::choose(), receive_buffer).unwrap();
        load.make(&Stop::default());
        load
    }

    #[test]
    fn each_receiver_receives_what_is_sent() {
        let load = load();
        for receiver in Receiver::ALL {
            let run = receiver.run(&load, &Stop::default()).unwrap().unwrap();
            assert!(run.nanoseconds > 0.0 && run.running > 0.0 && run.running <= 1.0, "{receiver:?}: {run:?}");
            let per_call = run.datagrams_per_call;
            assert!(
                if receiver == Receiver::Tokio { per_call == 1.0 } else { per_call >= 1.0 },
                "{receiver:?}: {run:?}"
            );
            assert!(run.sent >= load.goal().all, "{receiver:?}: {run:?}");
        }
    }

    #[test]
    fn what_does_not_arrive_ends_a_turn_with_how_much_did() {
        let mut load = load();
        load.keep(1000);
        for receiver in Receiver::ALL {
            let error = receiver.run(&load, &Stop::default()).unwrap_err();
            let MeasureError::Lost { receiver: waiting, received, sent, .. } = error else { panic!("{error}") };
            assert_eq!((waiting, sent), (receiver, 1000));
            // One that tells after each batch may have had part of another.
            assert!((1000 - RECEIVE_BATCH as u64..=1000).contains(&received), "{receiver:?}: {received}");
        }
    }

    #[test]
    fn who_is_told_to_stop_waits_for_nothing_more() {
        let (mut load, stop) = (load(), Stop::default());
        load.keep(1000);
        stop.0.store(true, Ordering::Relaxed);
        for receiver in Receiver::ALL {
            assert_eq!(receiver.run(&load, &stop).unwrap(), None);
        }
    }
}
