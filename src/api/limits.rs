//! What one client, or all together, may take of the API.

use std::time::Duration;

use super::connection::Deadlines;

/// Bounds of the API.
#[derive(Clone, Debug)]
pub struct ApiConfig {
    /// Time limits of a connection.
    pub deadlines: Deadlines,
    /// From the end of the headers to the end of the body, and to the answer of a request that does not wait.
    pub request_timeout: Duration,
    /// Connections at once on one listener; more are answered 503 and closed.
    pub max_connections: usize,
    /// Bytes of path and headers; more are answered 431.
    pub max_head: usize,
    /// Bytes of a body; more are answered 413.
    pub max_body: usize,
    /// Bytes of a body that brings many devices; more are answered 413.
    pub max_batch_body: usize,
    /// Bytes of bodies until their requests are answered, and of answers above 4 KiB that wait to be sent, at once on one
    /// listener; more are answered 503, unless it is the answer of a change that was made.
    pub max_outstanding: usize,
    /// Devices one request may name: the elements of any list in a body.
    pub max_devices_per_request: usize,
    /// Waits at once with one API key, each device of a request counted; without keys, of everybody together.
    pub waits_per_credential: usize,
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            deadlines: Deadlines {
                // A client that connects has something to say: three tries of a lost segment fit.
                first_byte: Duration::from_secs(10),
                head: Duration::from_secs(10),
                // Above the 60 s for which most proxies and client pools keep an unused connection: they end it first, so
                // that no request meets a connection that is just being closed.
                idle: Duration::from_secs(75),
                // A client that takes nothing at all for so long is stuck.
                write: Duration::from_secs(30),
            },
            // A full body at 35 kB/s.
            request_timeout: Duration::from_secs(30),
            // Large bodies and answers apart, which have `max_outstanding`, each holds over HTTP/1.1 at worst an unread head of
            // 32 KiB, and a small answer (360 MiB in all) or events (`MAX_HEAD_READ` and a part of 17 KB: 800 MB in all). Over
            // HTTP/2 it is 250 streams of 3 KB, each with an unread answer of up to 4 KB, and a window of unread bodies: 2 MB,
            // or 20 GB if every client is out for it. They carry 2.5 million waits. A stream of events that is read no faster
            // than it must be holds `HTTP2_SEND_BUFFER` and two parts, 100 KB. Each has a place among the waiters: 20 GB for
            // all 200 000, or 25 MB for one connection.
            max_connections: 10_000,
            // What proxies in front allow by default.
            max_head: 16 * 1024,
            // Five times the longest list of devices.
            max_body: 1024 * 1024,
            // 1.6 KB for each of the most devices that one request may bring.
            max_batch_body: 16 * 1024 * 1024,
            // 60 of the longest answers.
            max_outstanding: 256 * 1024 * 1024,
            // An answer of about 4 MB.
            max_devices_per_request: 10_000,
            waits_per_credential: WAITS_PER_CREDENTIAL,
        }
    }
}

/// [`ApiConfig::waits_per_credential`] unless the configuration says otherwise: as many as may wait in all, so that a single
/// client of everything is not held up by it.
pub const WAITS_PER_CREDENTIAL: usize = 200_000;
