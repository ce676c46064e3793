//! What there is to say of a message that was sent, or is not sent any more: one sentence for a person.

use crate::clock::Timestamp;
use crate::downlink::event::{Dropped, Listening};

/// Whether the device may have heard what was sent to it `at`: at once, or in answer to a packet of it. `None` if there is
/// nothing that speaks against it.
pub(super) fn sent(listening: &Listening, at: Timestamp, at_once: bool) -> Option<String> {
    if !at_once {
        return listening.single_tx.then(|| {
            "the packet that released it said that nothing follows soon: the device may have stopped listening"
                .to_owned()
        });
    }
    let ago = ago(at.0.saturating_sub(listening.heard_at.0));
    Some(if listening.always_rx {
        format!("sent at once, to a device that says it listens all the time; it was last heard {ago} ago")
    } else if listening.single_tx {
        format!(
            "sent at once, to a device that was last heard {ago} ago and said that nothing follows soon: it probably does not listen"
        )
    } else {
        format!("sent at once, to a device that was last heard {ago} ago: it hears this only if it still listens")
    })
}

/// Why it is not sent any more.
pub(super) fn dropped(why: &Dropped) -> String {
    match why {
        Dropped::RouteMoved { cursor } => {
            format!("not sent: the route has moved since the position it was bound to; it is now at {cursor}")
        }
        Dropped::TooLong { len, limit } => {
            format!("not sent: it has {len} bytes, and {limit} fit by the way it would have to go")
        }
    }
}

/// A time as a person says it, in its greatest unit of which there is more than one.
fn ago(millis: u64) -> String {
    match millis / 1000 {
        0 => format!("{millis} ms"),
        seconds @ 1..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(always_rx: bool, single_tx: bool, at_once: bool) -> Option<String> {
        sent(&Listening { always_rx, single_tx, heard_at: Timestamp(1000) }, Timestamp(43_500), at_once)
    }

    #[test]
    fn what_leaves_at_once_says_how_probably_it_was_heard() {
        for (always_rx, single_tx, part) in [
            (true, false, "listens all the time; it was last heard 42 s ago"),
            (false, true, "42 s ago and said that nothing follows soon"),
            (false, false, "42 s ago: it hears this only if it still listens"),
        ] {
            let said = note(always_rx, single_tx, true).unwrap();
            assert!(said.contains(part), "{said}");
        }
    }

    #[test]
    fn what_was_released_says_so_only_where_the_device_may_be_deaf_already() {
        assert!(note(false, true, false).unwrap().contains("may have stopped listening"));
        assert_eq!((note(false, false, false), note(true, false, false)), (None, None));
    }

    #[test]
    fn times_are_short() {
        let said = [0, 999, 1000, 119_999, 120_000, 7_200_000, 172_800_000].map(ago);
        assert_eq!(said, ["0 ms", "999 ms", "1 s", "119 s", "2 min", "2 h", "2 days"]);
    }
}
