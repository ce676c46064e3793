//! One TCP connection as hyper sees it, with the deadlines that hyper does not keep: first byte, head of a request, idle
//! time, a client that does not read its answer, and one that is gone without a word.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::Version;
use socket2::TcpKeepalive;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

/// How long the rest of a refused body is read and thrown away, so that the client sees the answer before the reset that
/// unread bytes cause.
const LINGER: Duration = Duration::from_secs(1);

/// How long the kernel waits for a client to acknowledge what was sent, or to make way for it. On Linux this also decides, in
/// place of the number of probes, when a silent client is given up: two are unanswered by then, so that a single one may
/// be lost.
const UNACKNOWLEDGED: Duration = Duration::from_secs(45);
/// A client of which nothing was heard for so long is asked by TCP whether it is there.
const PROBE_AFTER: Duration = Duration::from_secs(30);
const PROBE_INTERVAL: Duration = Duration::from_secs(10);
const PROBES: u32 = 3;

/// Time limits of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// From the connection to the first byte.
    pub first_byte: Duration,
    /// From the first byte of a request to the end of its headers.
    pub head: Duration,
    /// Without any request; over HTTP/2 a ping (20 s) more at most.
    pub idle: Duration,
    /// Without the client reading any of an answer that waits to be sent; over HTTP/2, of each such answer.
    pub write: Duration,
}

/// The connection, as its requests see it.
#[derive(Debug)]
pub(super) struct Peer {
    stream: TcpStream,
    begun: AtomicUsize,
    in_flight: AtomicUsize,
    http2: AtomicBool,
    lingers: AtomicBool,
    /// Answers over HTTP/2 that hyper keeps bytes of or that go on, which the client can hold up each without holding up the
    /// connection: the number of the request, and when hyper last took a part, or is to do so.
    unsent: Mutex<Vec<(usize, Instant)>>,
}

/// What the first bytes of a connection say about its version of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Preface {
    Http1,
    Http2,
    /// So far they fit both.
    Open,
}

/// A request that is being answered.
#[derive(Debug)]
pub(super) struct InFlight {
    peer: Arc<Peer>,
    /// Different for each request of a connection.
    number: usize,
}

impl Peer {
    pub(super) fn new(stream: TcpStream) -> Arc<Self> {
        // If the connection is broken already, whoever reads it finds out.
        let _ = set_options(&stream);
        Arc::new(Self {
            stream,
            begun: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            http2: AtomicBool::new(false),
            lingers: AtomicBool::new(false),
            unsent: Mutex::default(),
        })
    }

    /// Waits for the first bytes and leaves them in the socket.
    ///
    /// hyper can find out by itself, but it has read 24 bytes by then, and its buffer for the rest is twice as large.
    pub(super) async fn preface(&self) -> io::Result<Preface> {
        let mut bytes = [0; 3];
        let len = self.stream.peek(&mut bytes).await?;
        Ok(match &bytes[..len] {
            b"PRI" => Preface::Http2,
            b"P" | b"PR" => Preface::Open,
            _ => Preface::Http1,
        })
    }

    /// A request begins. While it lasts the idle time does not run.
    pub(super) fn begin(self: &Arc<Self>, version: Version) -> InFlight {
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        if version == Version::HTTP_2 {
            self.http2.store(true, Ordering::Relaxed);
        }
        InFlight { peer: Arc::clone(self), number }
    }

    /// Returns once the client has closed its side, with or without unread bytes before the end.
    ///
    /// hyper notices the end only while it reads, which over HTTP/1.1 it does not during a request. Linux reports the end
    /// of the stream with every interest of the reading side; of those, urgent data is the one that never comes.
    pub(super) async fn gone(&self) {
        while let Ok(ready) = self.stream.ready(Interest::PRIORITY).await {
            if ready.is_read_closed() {
                return;
            }
        }
    }

    /// Takes what has arrived, as far as `buffer` has room. One that is not filled has emptied the socket: nobody asks the kernel
    /// again until more has arrived.
    fn read(&self, buffer: &mut ReadBuf<'_>) -> io::Result<usize> {
        let mut read = Err(io::ErrorKind::WouldBlock.into());
        // What is noted as ready is what was so before this: what arrives meanwhile is noted anew.
        let _ = self.stream.try_io(Interest::READABLE, || {
            read = self.stream.try_read_buf(buffer);
            match &read {
                Ok(len) if *len == 0 || buffer.remaining() == 0 => Ok(()),
                _ => Err(io::ErrorKind::WouldBlock.into()),
            }
        });
        read
    }

    /// Have [`Self::linger`] wait for the client.
    pub(super) fn refuse_body(&self) {
        self.lingers.store(true, Ordering::Relaxed);
    }

    /// To be called when the last answer is written.
    pub(super) async fn linger(&self) {
        if !self.lingers.load(Ordering::Relaxed) || self.shutdown().is_err() {
            return;
        }
        let discard = async {
            // No array, which every connection would have room for.
            let mut buffer = vec![0; 4096];
            while self.stream.readable().await.is_ok() {
                match self.stream.try_read(&mut buffer) {
                    Ok(0) => return,
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return,
                }
            }
        };
        let _ = timeout(LINGER, discard).await;
    }

    fn unsent(&self) -> MutexGuard<'_, Vec<(usize, Instant)>> {
        self.unsent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shutdown(&self) -> io::Result<()> {
        match socket2::SockRef::from(&self.stream).shutdown(Shutdown::Write) {
            Err(error) if error.kind() != io::ErrorKind::NotConnected => Err(error),
            _ => Ok(()),
        }
    }
}

impl InFlight {
    /// The connection.
    pub(super) fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    /// The answer waits to be sent, or some of it left just now, and it may rest for `rest`.
    pub(super) fn moved(&self, rest: Duration) {
        let (at, mut unsent) = (Instant::now() + rest, self.peer.unsent());
        match unsent.iter_mut().find(|(number, _)| *number == self.number) {
            Some((_, moved)) => *moved = at,
            None => unsent.push((self.number, at)),
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut unsent = self.peer.unsent();
        if let Some(place) = unsent.iter().position(|(number, _)| *number == self.number) {
            unsent.swap_remove(place);
        }
        drop(unsent);
        self.peer.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The stream of a [`Peer`] after its first bytes, for hyper to read and write.
#[derive(Debug)]
pub(super) struct Guarded {
    peer: Arc<Peer>,
    deadlines: Deadlines,
    /// The value of `Peer::begun` that the deadline for reading belongs to.
    begun: usize,
    in_head: bool,
    /// `None`: it is to be reckoned when there is nothing to read, which after all of a head is no more.
    read_by: Option<Instant>,
    read_timer: Option<Pin<Box<Sleep>>>,
    write_timer: Option<Pin<Box<Sleep>>>,
}

impl Guarded {
    pub(super) fn new(peer: Arc<Peer>, deadlines: Deadlines) -> Self {
        let read_by = Some(Instant::now() + deadlines.head);
        Self { peer, deadlines, begun: 0, in_head: true, read_by, read_timer: None, write_timer: None }
    }

    /// Bytes arrived: the first ones after a request begin the next one. HTTP/2 has bytes between requests, too.
    fn heard(&mut self) {
        if self.peer.http2.load(Ordering::Relaxed) || self.peer.in_flight.load(Ordering::Relaxed) > 0 {
            return;
        }
        let begun = self.peer.begun.load(Ordering::Relaxed);
        if !self.in_head || begun != self.begun {
            (self.in_head, self.begun, self.read_by) = (true, begun, None);
        }
    }

    /// Nothing to read: fails once that, or an answer that does not move, has lasted too long.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.peer.in_flight.load(Ordering::Relaxed) > 0 {
            let oldest = self.peer.unsent().iter().map(|(_, moved)| *moved).min();
            // The last bytes may leave without this being looked at again. The next ping does it.
            let Some(oldest) = oldest else { return Poll::Pending };
            return poll_deadline(&mut self.read_timer, oldest + self.deadlines.write, cx);
        }
        let begun = self.peer.begun.load(Ordering::Relaxed);
        if begun != self.begun {
            (self.in_head, self.begun, self.read_by) = (false, begun, None);
        }
        let most = if self.in_head { self.deadlines.head } else { self.deadlines.idle };
        let read_by = *self.read_by.get_or_insert_with(|| Instant::now() + most);
        poll_deadline(&mut self.read_timer, read_by, cx)
    }

    fn poll_write_with(
        &mut self,
        cx: &mut Context<'_>,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        while let Poll::Ready(ready) = self.peer.stream.poll_write_ready(cx) {
            ready?;
            match write(&self.peer.stream) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => {
                    self.write_timer = None;
                    return Poll::Ready(result);
                }
            }
        }
        let write = self.deadlines.write;
        let timer = self.write_timer.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + write)));
        timer.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

/// A client that vanished, with whatever waits for it, is noticed within a minute, also by a stream on which nothing happens
/// and by a wait, during which nothing is sent at all.
fn set_options(stream: &TcpStream) -> io::Result<()> {
    // An answer is one write, and a wake-up is worth a packet of its own.
    stream.set_nodelay(true)?;
    let socket = socket2::SockRef::from(stream);
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    let keepalive = TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_INTERVAL).with_retries(PROBES);
    socket.set_tcp_keepalive(&keepalive)
}

/// Fails at `deadline`. It mostly becomes later again and again, so a timer that is set to an earlier time stays as it is, and is
/// set anew when that has come.
fn poll_deadline<T>(
    timer: &mut Option<Pin<Box<Sleep>>>,
    deadline: Instant,
    cx: &mut Context<'_>,
) -> Poll<io::Result<T>> {
    let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
    if timer.deadline() > deadline {
        timer.as_mut().reset(deadline);
    }
    while timer.as_mut().poll(cx).is_ready() {
        if timer.deadline() == deadline {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        timer.as_mut().reset(deadline);
    }
    Poll::Pending
}

impl AsyncRead for Guarded {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while let Poll::Ready(ready) = this.peer.stream.poll_read_ready(cx) {
            ready?;
            match this.peer.read(buffer) {
                Ok(len) => {
                    if len > 0 {
                        this.heard();
                    }
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        this.poll_silence(cx)
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll_write_with(cx, |stream| stream.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_write_with(cx, |stream| stream.try_write_vectored(slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.peer.shutdown())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn connected() -> (TcpStream, Guarded) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let peer = Peer::new(listener.accept().await.unwrap().0);
        (client, Guarded::new(peer, super::super::ApiConfig::default().deadlines))
    }

    #[tokio::test]
    async fn what_arrives_after_the_socket_was_emptied_is_read_and_so_is_the_end() {
        let (mut client, mut server) = connected().await;
        for text in ["one", "three", "two"] {
            client.write_all(text.as_bytes()).await.unwrap();
            let mut bytes = vec![0; text.len()];
            server.read_exact(&mut bytes).await.unwrap();
            assert_eq!(bytes, text.as_bytes());
            let mut more = [0; 8];
            assert!(futures_util::FutureExt::now_or_never(server.read(&mut more)).is_none());
        }
        client.write_all(b"end").await.unwrap();
        drop(client);
        let mut rest = Vec::new();
        server.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"end");
    }

    #[tokio::test]
    async fn a_client_that_vanished_is_noticed_within_a_minute() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let peer = Peer::new(listener.accept().await.unwrap().0);
        let socket = socket2::SockRef::from(&peer.stream);
        assert!(socket.keepalive().unwrap() && socket.tcp_nodelay().unwrap());
        let (after, interval) = (socket.tcp_keepalive_time().unwrap(), socket.tcp_keepalive_interval().unwrap());
        assert_eq!((after, interval), (PROBE_AFTER, PROBE_INTERVAL));
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), PROBES);
        let unacknowledged = socket.tcp_user_timeout().unwrap().unwrap();
        assert!(after + interval < unacknowledged, "one lost probe is not the end");
        let minute = Duration::from_secs(60);
        assert!(after + interval * PROBES <= minute, "a wait");
        assert!(super::super::events::COMMENT_INTERVAL + unacknowledged <= minute, "a stream");
    }
}
