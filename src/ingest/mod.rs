//! The receive loop of one socket: batches in, acknowledgements out, counters published. What becomes of a datagram is
//! decided in [`pipeline`].

pub mod moves;
pub mod pipeline;
mod refusals;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::metrics::Counters;
use crate::udp::{self, Receiver, Sender, Socket};
use crate::wire;
use pipeline::{Datagram, Pipeline};

/// How long the loop pauses after an error of the socket itself: long enough not to spin, short enough that a kernel out
/// of memory costs little once it has recovered.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(10);

/// Least time between two lines about such errors.
const LOG_ERRORS_EVERY: Duration = Duration::from_secs(1);

/// What the socket delivers whole is what the protocol allows.
const _: () = assert!(udp::MAX_DATAGRAM == wire::MAX_DATAGRAM);

/// How often the kernel is asked what it dropped. Each question is a system call, and operators look every few seconds.
const ASK_FOR_DROPS: Duration = Duration::from_secs(1);

/// Takes in what arrives at `socket` until `stop` turns true or its sender is gone.
///
/// Work per wake-up is bounded: a batch is at most [`udp::RECEIVE_BATCH`], between two of them `stop` is looked at, and the
/// runtime gets its turn when the budget it gives each task is used up. Clocks are read a few times a batch. Nothing here waits
/// for anything but the socket.
pub async fn run(
    socket: Arc<Socket>,
    mut pipeline: Pipeline,
    counters: Arc<Counters>,
    clock: Clock,
    mut stop: watch::Receiver<bool>,
) {
    let mut receiver = Receiver::new(socket.clone());
    let mut sender = Sender::new(socket.clone());
    let mut reply = Vec::new();
    let mut error_logged = None;
    let mut drops_asked = tokio::time::interval(ASK_FOR_DROPS);
    let mut stopped = std::pin::pin!(async { stop.wait_for(|stop| *stop).await.map(|_| ()) });
    loop {
        tokio::select! {
            received = receiver.receive() => match received {
                Ok(0) => {}
                Ok(_) => {
                    let begun = Instant::now();
                    take_batch(&mut receiver, &mut sender, &mut pipeline, &mut reply, clock);
                    counters.batches.observe(begun.elapsed());
                    pipeline.tally.receives += 1;
                }
                Err(error) => {
                    if error_logged.is_none_or(|logged: Instant| logged.elapsed() >= LOG_ERRORS_EVERY) {
                        tracing::error!(listen = %socket.address(), %error, "cannot receive; trying again");
                        error_logged = Some(Instant::now());
                    }
                    tokio::time::sleep(PAUSE_AFTER_ERROR).await;
                }
            },
            _ = drops_asked.tick() => count_drops(&mut receiver, &mut pipeline),
            _ = &mut stopped => break,
        }
        counters.publish(&mut pipeline.tally);
    }
    count_drops(&mut receiver, &mut pipeline);
    counters.publish(&mut pipeline.tally);
}

fn take_batch(
    receiver: &mut Receiver,
    sender: &mut Sender,
    pipeline: &mut Pipeline,
    reply: &mut Vec<u8>,
    clock: Clock,
) {
    let at = clock.now();
    pipeline.prefetch(receiver.datagrams().map(|arrived| &*arrived.bytes));
    for arrived in receiver.datagrams() {
        let (source, local) = (arrived.peer, arrived.local);
        reply.clear();
        pipeline.take(Datagram { bytes: arrived.bytes, truncated: arrived.truncated, source, at }, reply);
        if !reply.is_empty() {
            sender.push(source, local, reply);
        }
    }
    let sent = sender.flush();
    pipeline.tally.acks_sent += sent.taken as u64;
    pipeline.tally.acks_failed += sent.failed as u64;
}

fn count_drops(receiver: &mut Receiver, pipeline: &mut Pipeline) {
    match receiver.take_kernel_drops() {
        Ok(dropped) => pipeline.tally.kernel_drops += u64::from(dropped),
        Err(error) => tracing::debug!(%error, "the kernel does not say what it dropped"),
    }
}
