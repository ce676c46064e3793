//! The loop of one socket: batches in, answers and what others hand over out, counters published. What becomes of a datagram
//! is decided in [`pipeline`].

mod answering;
pub mod moves;
pub mod pipeline;
pub mod posts;
mod refusals;
pub mod replies;
pub mod trace;
pub mod vias;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::clock::Clock;
use crate::metrics::{Counters, DownlinkKind};
use crate::udp::{self, Receiver, Sender, Sent, Socket};
use crate::wire;
use pipeline::{Datagram, Pipeline};
pub use posts::Posts;
use posts::{Mailbox, Post};
use replies::Replies;
use vias::Namer;

/// How long the loop pauses after an error of the socket itself: long enough not to spin, short enough that a kernel out
/// of memory costs little once it has recovered.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(10);

/// Least time between two lines about such errors, and between two about messages that did not leave.
const LOG_ERRORS_EVERY: Duration = Duration::from_secs(1);

/// What the socket delivers whole is what the protocol allows.
const _: () = assert!(udp::MAX_DATAGRAM == wire::MAX_DATAGRAM);

/// The sender counts all kinds apart.
const _: () = assert!(DownlinkKind::ALL.len() <= udp::KINDS);

/// How often the kernel is asked what it dropped. Each question is a system call, and operators look every few seconds.
const ASK_FOR_DROPS: Duration = Duration::from_secs(1);

/// Takes in what arrives at `socket`, and sends what arrives in `mailbox`, until `stop` turns true or its sender is gone.
///
/// Work per wake-up is bounded: a batch is at most [`udp::RECEIVE_BATCH`], or as many to be sent; between two of them `stop` is
/// looked at, and the runtime gets its turn when the budget it gives each task is used up. Clocks are read a few times a
/// batch. Nothing here waits for anything but the socket and the mailbox.
pub async fn run(
    socket: Arc<Socket>,
    pipeline: Pipeline,
    mailbox: Mailbox,
    counters: Arc<Counters>,
    clock: Clock,
    mut stop: watch::Receiver<bool>,
) {
    let mut receiver = Receiver::new(socket.clone());
    let sender = Sender::new(socket.clone());
    let mut sending = Sending { sender, replies: Replies::default(), pipeline, loss_logged: None };
    let Mailbox { mut namer, mut posted, posts } = mailbox;
    let mut error_logged = None;
    let mut drops_asked = tokio::time::interval(ASK_FOR_DROPS);
    let mut stopped = std::pin::pin!(async { stop.wait_for(|stop| *stop).await.map(|_| ()) });
    loop {
        tokio::select! {
            received = receiver.receive() => match received {
                Ok(0) => {}
                Ok(_) => {
                    let begun = Instant::now();
                    sending.take_batch(&mut receiver, &mut namer, &posts, &clock);
                    if sending.flush().taken[DownlinkKind::Intent as usize] > 0 {
                        counters.releases.observe(begun.elapsed());
                    }
                    sending.pipeline.wake();
                    counters.batches.observe(begun.elapsed());
                    sending.pipeline.tally.receives += 1;
                }
                Err(error) => {
                    if may_log(&mut error_logged) {
                        tracing::error!(listen = %socket.address(), %error, "cannot receive; trying again");
                    }
                    tokio::time::sleep(PAUSE_AFTER_ERROR).await;
                }
            },
            Some(post) = posted.recv() => sending.send_posts(post, &mut posted),
            _ = drops_asked.tick() => count_drops(&mut receiver, &mut sending.pipeline),
            _ = &mut stopped => break,
        }
        counters.publish(&mut sending.pipeline.tally);
    }
    // What others were promised to be sent is sent.
    posted.close();
    while let Some(post) = posted.recv().await {
        sending.send_posts(post, &mut posted);
    }
    count_drops(&mut receiver, &mut sending.pipeline);
    counters.publish(&mut sending.pipeline.tally);
}

/// Judges and sends, for one socket.
struct Sending {
    pipeline: Pipeline,
    sender: Sender,
    replies: Replies,
    /// When it was last said that messages did not leave.
    loss_logged: Option<Instant>,
}

impl Sending {
    fn take_batch(&mut self, receiver: &mut Receiver, namer: &mut Namer, posts: &Posts, clock: &Clock) {
        let at = clock.now();
        self.pipeline.prefetch(receiver.datagrams().map(|arrived| &*arrived.bytes));
        for arrived in receiver.datagrams() {
            let (source, via) = (arrived.peer, namer.name(arrived.local));
            let datagram = Datagram { bytes: arrived.bytes, truncated: arrived.truncated, source, via, at };
            self.pipeline.take(datagram, &mut self.replies);
            self.queue_replies(namer, posts);
        }
    }

    /// Almost all leave by this socket. A few, to where another device is, may leave by that of another thread.
    fn queue_replies(&mut self, namer: &Namer, posts: &Posts) {
        for reply in self.replies.iter() {
            if let Some(local) = namer.local(reply.via) {
                self.sender.push(reply.to, local, reply.kind as usize, reply.bytes);
            } else if posts.post(reply.kind, reply.via, reply.to, reply.bytes.to_vec()).is_err() {
                self.pipeline.tally.send_failed[reply.kind as usize] += 1;
            }
        }
    }

    fn send_posts(&mut self, first: Post, posted: &mut mpsc::Receiver<Post>) {
        let more = std::iter::from_fn(|| posted.try_recv().ok()).take(udp::SEND_BATCH - 1);
        for Post { peer, local, kind, bytes } in std::iter::once(first).chain(more) {
            self.sender.push(peer, local, kind as usize, &bytes);
        }
        self.flush();
    }

    fn flush(&mut self) -> Sent {
        let sent = self.sender.flush();
        let tally = &mut self.pipeline.tally;
        tally.sent.iter_mut().zip(sent.taken).for_each(|(count, more)| *count += more as u64);
        tally.send_failed.iter_mut().zip(sent.failed).for_each(|(count, more)| *count += more as u64);
        let lost = sent.failed[DownlinkKind::Intent as usize];
        if lost > 0 && may_log(&mut self.loss_logged) {
            tracing::warn!(
                lost,
                "the kernel did not take messages that count as sent: it has no way to their devices, or no room"
            );
        }
        sent
    }
}

/// Whether it is time for another line; if so, it is written now.
fn may_log(logged: &mut Option<Instant>) -> bool {
    let is_time = logged.is_none_or(|logged| logged.elapsed() >= LOG_ERRORS_EVERY);
    if is_time {
        *logged = Some(Instant::now());
    }
    is_time
}

fn count_drops(receiver: &mut Receiver, pipeline: &mut Pipeline) {
    match receiver.take_kernel_drops() {
        Ok(dropped) => pipeline.tally.kernel_drops += u64::from(dropped),
        Err(error) => tracing::debug!(%error, "the kernel does not say what it dropped"),
    }
}
