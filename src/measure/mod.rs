//! What receiving a datagram costs the processor of this machine: a gateway with all rules on, next to the least that any program
//! pays for receiving, and to a plain loop of the runtime.
//!
//! Packets of a fleet are made ([`fleet`]) and sent over loopback by a `sender` that keeps the queue of the socket filled: only a
//! receiver that always finds a full batch shows what a datagram costs at the limit. The `receivers` take turns, so that a noisy
//! minute hits them all; a `meter` reads the processor time of their thread. [`cores`] says which cores the two sides have,
//! [`limits`] what keeps the figures from being those of the gateway, [`report`] how all that is told. Nothing is read or written
//! but sockets that are bound here.

pub mod cores;
pub mod fleet;
pub mod limits;
mod meter;
mod receivers;
pub mod report;
mod sender;

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::udp::{BindError, BoundSocket};
use cores::Cores;
pub use meter::Run;
use meter::Stop;
pub use receivers::Receiver;
use sender::Load;

/// Bytes of each datagram: a header, 62 bytes of readings, a tag.
pub const DATAGRAM: usize = 100;

/// The receive buffer that every receiver asks of the kernel: what a gateway asks for by default.
pub const RECEIVE_BUFFER: usize = 64 << 20;

/// Where all sockets are bound.
const LOOPBACK: std::net::SocketAddr =
    std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Devices that send in turn, 100 to 1 000 000. With fewer than 100 each would send more than a sequence number counts.
    pub devices: u32,
    /// How often each receiver has its turn, at least 1.
    pub rounds: u32,
    /// Datagrams of a turn that are measured, at least 1 000; a tenth as many come before.
    pub datagrams: u32,
    /// How many of a hundred packets ask for an acknowledgement.
    pub ack_percent: u32,
}

/// What was measured.
#[derive(Clone, Debug)]
pub struct Measurement {
    /// What was to be measured.
    pub config: Config,
    /// Whether this program is compiled for speed.
    pub optimised: bool,
    /// Which cores were used.
    pub cores: Cores,
    /// The receive buffer that the kernel gave, in bytes as they were asked for.
    pub receive_buffer: usize,
    /// Datagrams that wait at most.
    pub queue: u64,
    /// Whether the kernel cuts what is sent, which makes sending cheap.
    pub cuts: bool,
    /// The turns of each of [`Receiver::ALL`], in rounds that were finished.
    pub runs: [Vec<Run>; Receiver::ALL.len()],
}

/// Why nothing could be measured.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// There is no socket to receive with.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A socket, thread or runtime failed.
    #[error("cannot measure on loopback: {0}; see that the system lets this user open UDP sockets and start threads")]
    System(#[from] io::Error),
    /// What was sent did not arrive.
    #[error(
        "{receiver} received {received} of {sent} datagrams and then no more: the receive buffer of {buffer} bytes is too small for \
         this machine, or others keep it busy; raise the system's limit with sysctl -w net.core.rmem_max={RECEIVE_BUFFER}, or try \
         again when it is idle",
        receiver = receiver.name()
    )]
    Lost {
        /// Who waited for it.
        receiver: Receiver,
        /// Datagrams that came.
        received: u64,
        /// Datagrams that were sent.
        sent: u64,
        /// The receive buffer that the kernel gave.
        buffer: usize,
    },
    /// A gateway did not count genuine packets.
    #[error("the gateway counted {accepted} of {received} genuine packets; this is a defect, please report it")]
    Refused {
        /// Packets that counted.
        accepted: u64,
        /// Packets that came.
        received: u64,
    },
}

/// How far the measurement is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The round, from 1 on.
    pub round: u32,
    /// Whose turn it is; `None`: packets are made for the round.
    pub turn: Option<Receiver>,
}

/// Measures, on two threads of its own, and tells before each step how far it is. When `stop` turns true it ends within a second,
/// with the rounds that are finished.
///
/// # Errors
/// The system does not let it, or the datagrams do not arrive; what to do is said.
pub fn measure(
    config: Config,
    stop: &Arc<AtomicBool>,
    tell: impl FnMut(Progress) + Send,
) -> Result<Measurement, MeasureError> {
    // A thread of its own, as it is to stay on one core.
    let measured = std::thread::scope(|scope| {
        std::thread::Builder::new()
            .spawn_scoped(scope, || rounds(config, Stop(Arc::clone(stop)), tell))
            .map(|thread| thread.join())
    })?;
    measured.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn rounds(config: Config, stop: Stop, mut tell: impl FnMut(Progress)) -> Result<Measurement, MeasureError> {
    let cores = Cores::choose();
    let receive_buffer = BoundSocket::bind(LOOPBACK, RECEIVE_BUFFER)?.receive_buffer();
    let mut load = Load::new(config, cores, receive_buffer)?;
    let (queue, cuts) = (load.queue(), load.cuts());
    let optimised = !cfg!(debug_assertions);
    let mut measurement =
        Measurement { config, optimised, cores, receive_buffer, queue, cuts, runs: Default::default() };
    cores::stay_on(cores.receiver);
    for round in 1..=config.rounds {
        tell(Progress { round, turn: None });
        load.make(&stop);
        let mut finished = Vec::with_capacity(Receiver::ALL.len());
        for receiver in Receiver::ALL {
            tell(Progress { round, turn: Some(receiver) });
            match receiver.run(&load, &stop)? {
                Some(run) => finished.push(run),
                None => return Ok(measurement),
            }
        }
        measurement.runs.iter_mut().zip(finished).for_each(|(runs, run)| runs.push(run));
    }
    Ok(measurement)
}

impl Measurement {
    /// Rounds that were finished.
    pub fn rounds(&self) -> usize {
        self.runs[0].len()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn the_receivers_take_turns_until_it_is_to_stop() {
        let config = Config { devices: 100, rounds: 1000, datagrams: 1000, ack_percent: 0 };
        let (stop, mut told) = (Arc::default(), Vec::new());
        let measurement = measure(config, &stop, |progress| {
            told.push(progress);
            stop.store(progress.round == 3, Ordering::Relaxed);
        })
        .unwrap();
        assert_eq!((measurement.rounds(), measurement.runs.each_ref().map(Vec::len)), (2, [2; 3]));
        let of_round = |round| {
            [None, Some(Receiver::Bare), Some(Receiver::Tokio), Some(Receiver::Gateway)]
                .map(|turn| Progress { round, turn })
        };
        assert_eq!(told[..8], [of_round(1), of_round(2)].concat());
        assert!(measurement.queue > 0 && measurement.receive_buffer > 0);
    }
}
