//! The Bluetooth connections of a simulated relay: it connects to a child when a gateway has something for that, passes it on,
//! and ends the connection as it was told to (docs/protocol.md, forwarding).

use std::time::Duration;

use crate::wire::container::{BtAddress, RouteInterface};
use crate::wire::forward::{AutoConnect, Terminated};

/// The code of the Bluetooth link for a connection that this side ended.
pub const ENDED_HERE: i16 = 0x16;
/// The errno value for a connection that was never made: nobody answered.
pub const NOBODY_THERE: i16 = -116;

/// Connections at once: more than a Bluetooth controller holds. What is for one more is lost.
const MOST: usize = 64;

/// The connections that are open, or being made: one to each address at most.
#[derive(Debug, Default)]
pub(super) struct Connections(Vec<Connection>);

#[derive(Debug)]
struct Connection {
    address: BtAddress,
    flags: u8,
    /// When it ends if nothing more comes.
    ends_at: Option<Duration>,
    /// When it ends in any case.
    must_end_at: Option<Duration>,
    reason: i16,
    /// It was made for one answer, which has come: what is to go over it now is lost.
    is_closing: bool,
}

impl Connections {
    /// Connects as `request` says, or goes on with the connection there is. Whether somebody is `there`, the caller knows. Says
    /// whether the frame gets through.
    pub(super) fn connect(&mut self, now: Duration, request: &AutoConnect<'_>, there: bool) -> bool {
        let after = |seconds: u8| (seconds > 0).then(|| now + Duration::from_secs(seconds.into()));
        let (address, flags) = (request.address, request.flags);
        let idle = after(request.idle_timeout);
        if let Some(connection) = self.0.iter_mut().find(|connection| connection.address == address) {
            if connection.is_closing {
                return false;
            }
            (connection.flags, connection.ends_at) = (flags, idle);
        } else if self.0.len() < MOST {
            let given_up_at = Some(now + Duration::from_secs(request.connect_timeout.into()));
            let (ends_at, reason) = if there { (idle, ENDED_HERE) } else { (given_up_at, NOBODY_THERE) };
            let must_end_at = after(request.absolute_timeout);
            self.0.push(Connection { address, flags, ends_at, must_end_at, reason, is_closing: false });
        }
        there
    }

    /// The device at `address` has answered a call: the connection ends if it was made for that alone.
    pub(super) fn answered(&mut self, now: Duration, address: BtAddress) {
        for connection in self.0.iter_mut().filter(|connection| connection.address == address) {
            if connection.flags & AutoConnect::UNTIL_ANSWER != 0 {
                (connection.ends_at, connection.is_closing) = (Some(now), true);
            }
        }
    }

    /// When [`Self::on_time`] is to be called next, if it is.
    pub(super) fn due_at(&self) -> Option<Duration> {
        self.0.iter().filter_map(Connection::end).min()
    }

    /// Ends what is to end by `now`; what is to be told of, one after the other.
    pub(super) fn on_time(&mut self, now: Duration) -> Option<Terminated> {
        let is_over = |connection: &Connection| connection.end().is_some_and(|end| end <= now);
        self.0.retain(|connection| !is_over(connection) || connection.flags & AutoConnect::TELL_END != 0);
        let at = self.0.iter().position(is_over)?;
        let Connection { address, reason, .. } = self.0.remove(at);
        Some(Terminated { interface: RouteInterface::BtCentral, reason, address })
    }
}

impl Connection {
    fn end(&self) -> Option<Duration> {
        self.ends_at.into_iter().chain(self.must_end_at).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn address(last: u8) -> BtAddress {
        BtAddress { kind: 1, bytes: [last; 6] }
    }

    fn request(last: u8, flags: u8) -> AutoConnect<'static> {
        let (interface, address) = (RouteInterface::BtCentral, address(last));
        let (connect_timeout, idle_timeout, absolute_timeout) = (3, 5, 8);
        AutoConnect { interface, flags, connect_timeout, idle_timeout, absolute_timeout, address, frame: b"" }
    }

    fn end(last: u8, reason: i16) -> Terminated {
        Terminated { interface: RouteInterface::BtCentral, reason, address: address(last) }
    }

    #[test]
    fn a_connection_ends_after_the_answer_when_idle_or_when_its_time_is_up() {
        let mut connections = Connections::default();
        connections.connect(Duration::ZERO, &request(1, AutoConnect::TELL_END | AutoConnect::UNTIL_ANSWER), true);
        connections.connect(Duration::ZERO, &request(2, AutoConnect::TELL_END), true);
        connections.answered(SECOND, address(1));
        connections.answered(SECOND, address(2));
        assert_eq!((connections.on_time(SECOND), connections.on_time(SECOND)), (Some(end(1, ENDED_HERE)), None));
        connections.connect(4 * SECOND, &request(2, AutoConnect::TELL_END), true);
        assert_eq!(connections.due_at(), Some(8 * SECOND), "not when it was idle for 5 s, but when it is 8 s old");
        assert_eq!(connections.on_time(8 * SECOND), Some(end(2, ENDED_HERE)));
        assert_eq!(connections.due_at(), None);
    }

    #[test]
    fn nothing_gets_through_between_the_answer_that_a_connection_was_made_for_and_its_end() {
        let mut connections = Connections::default();
        let alone = request(1, AutoConnect::UNTIL_ANSWER);
        assert!(connections.connect(Duration::ZERO, &request(1, 0), true));
        connections.answered(Duration::ZERO, address(1));
        assert!(connections.connect(Duration::ZERO, &alone, true), "it goes on");
        connections.answered(Duration::ZERO, address(1));
        assert!(!connections.connect(Duration::ZERO, &alone, true), "it ends");
        assert_eq!(connections.on_time(Duration::ZERO), None);
        assert!(connections.connect(Duration::ZERO, &alone, true), "it is made anew");
        assert!(!connections.connect(Duration::ZERO, &request(2, 0), false));
    }

    #[test]
    fn nobody_there_is_told_once_the_relay_gives_up_and_only_if_asked() {
        let mut connections = Connections::default();
        connections.connect(Duration::ZERO, &request(1, 0), false);
        connections.connect(Duration::ZERO, &request(2, AutoConnect::TELL_END), false);
        assert_eq!((connections.due_at(), connections.on_time(2 * SECOND)), (Some(3 * SECOND), None));
        assert_eq!(connections.on_time(3 * SECOND), Some(end(2, NOBODY_THERE)));
        assert_eq!((connections.on_time(9 * SECOND), connections.due_at()), (None, None));
    }
}
