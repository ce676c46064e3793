//! What a gateway counted while a fleet ran, against what it should have counted.
//!
//! Gateways count all their devices together, so this assumes that none but the fleet speaks, and that the gateway had not
//! heard the fleet before: a device that boots again is judged by what is remembered of it.

use std::fmt;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::relay;
use super::stats::{Count, Summary};
use crate::client::{Client, ClientError};
use crate::metrics::Disposition;
use crate::status::GatewayStatus;

/// Time between two looks at the counters of the gateway, which it publishes after each batch.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long the counters may take to stand still: a full receive buffer is worked off in less.
const STANDSTILL: Duration = Duration::from_secs(10);

/// What becomes of what a fleet sends, at a gateway that knows it.
const REGULAR: [Disposition; 3] = [Disposition::Accepted, Disposition::Duplicate, Disposition::TooOld];

/// Entries that fit a container: each has 31 bytes in front of what it says.
const MOST_ENTRIES: u64 = (relay::MAX_UPLINK / 32) as u64;

/// A gateway whose counters were read before a fleet starts.
#[derive(Debug)]
pub struct Watched {
    client: Client,
    before: GatewayStatus,
    look_every: Duration,
    standstill: Duration,
}

/// Why nothing can be compared.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// The gateway does not say how it is.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Its counters began anew.
    #[error(
        "the gateway at {0} was started again while the fleet ran, and its counters began anew; run the fleet again"
    )]
    Restarted(String),
}

impl Watched {
    /// Reads the counters of a gateway.
    ///
    /// # Errors
    /// The gateway does not answer, within the time-out of the client.
    pub async fn start(client: Client) -> Result<Self, CompareError> {
        let before = client.status().await?;
        Ok(Self { client, before, look_every: LOOK_EVERY, standstill: STANDSTILL })
    }

    /// Reads them again, as soon as they stand still but after 10 s at the latest, and compares what was counted in between
    /// with what a fleet has sent.
    ///
    /// # Errors
    /// The gateway does not answer any more, or was started anew.
    pub async fn compare(&self, summary: &Summary) -> Result<Comparison, CompareError> {
        let (after, stands_still) = self.settled().await?;
        if after.started_at != self.before.started_at {
            return Err(CompareError::Restarted(self.client.address().to_owned()));
        }
        let address = self.client.address().to_owned();
        Ok(Comparison::new(address, &self.before, &after, stands_still, summary))
    }

    /// The latest status, and whether the counters stand still.
    async fn settled(&self) -> Result<(GatewayStatus, bool), ClientError> {
        let give_up_at = Instant::now() + self.standstill;
        let mut last = self.client.status().await?;
        loop {
            sleep(self.look_every).await;
            let next = self.client.status().await?;
            let still = (&last.datagrams, last.kernel_drops) == (&next.datagrams, next.kernel_drops);
            if still || Instant::now() >= give_up_at {
                return Ok((next, still));
            }
            last = next;
        }
    }
}

/// What was expected of a gateway, and what it counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison {
    address: String,
    rows: Vec<Row>,
    kernel_drops: u64,
    stands_still: bool,
    sent: u64,
    lost: u64,
    copies: u64,
    failed: u64,
    entries: Entries,
}

/// Packets that relays passed on, in containers that the gateway should read.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entries {
    sent: u64,
    /// Those that were read and are of the children: accepted, or seen before.
    counted: u64,
    /// What else the gateway made of some, in words.
    strange: Vec<String>,
}

impl Entries {
    fn new(sent: u64, before: &GatewayStatus, after: &GatewayStatus) -> Self {
        let mut entries = Self { sent, counted: 0, strange: Vec::new() };
        for (label, now) in &after.entries {
            let count = now.saturating_sub(before.entries.get(label).copied().unwrap_or_default());
            if REGULAR.iter().any(|regular| regular.label() == label) {
                entries.counted += count;
            } else if count > 0 {
                entries.strange.push(format!("{label} {count}"));
            }
        }
        entries
    }

    /// Whether no more is missing than so many dropped containers can have held.
    fn are_explained(&self, dropped: u64) -> bool {
        let missing = self.sent.checked_sub(self.counted);
        self.strange.is_empty() && missing.is_some_and(|missing| missing <= dropped.saturating_mul(MOST_ENTRIES))
    }
}

/// Datagrams of one disposition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Row {
    disposition: Disposition,
    expected: u64,
    counted: u64,
}

impl Row {
    const fn difference(&self) -> i64 {
        self.counted.cast_signed() - self.expected.cast_signed()
    }
}

impl Comparison {
    fn new(
        address: String,
        before: &GatewayStatus,
        after: &GatewayStatus,
        stands_still: bool,
        summary: &Summary,
    ) -> Self {
        let of = |status: &GatewayStatus, label: &str| status.datagrams.get(label).copied().unwrap_or_default();
        let row = |disposition: Disposition| Row {
            disposition,
            expected: expected(disposition, summary),
            counted: of(after, disposition.label()).saturating_sub(of(before, disposition.label())),
        };
        let rows = Disposition::ALL[..Disposition::DATAGRAM].iter().map(|disposition| row(*disposition));
        Self {
            address,
            rows: rows.filter(|row| REGULAR.contains(&row.disposition) || row.counted > 0).collect(),
            kernel_drops: after.kernel_drops.saturating_sub(before.kernel_drops),
            stands_still,
            sent: summary.sent,
            lost: summary.get(Count::Lost),
            copies: summary.get(Count::Copies),
            failed: summary.get(Count::SendFailures),
            entries: Entries::new(summary.get(Count::Entries), before, after),
        }
    }

    /// What the gateway should have counted and has not, or the other way round; `None` if all is as expected, or what is
    /// missing is what the kernel of the gateway says it dropped.
    pub fn unexplained(&self) -> Option<String> {
        let differences: Vec<_> = self.rows.iter().filter(|row| row.difference() != 0).collect();
        if differences.is_empty() || self.dropped_all_that_is_missing() {
            return self.unexplained_entries();
        }
        let text = |row: &&Row| format!("{} {:+}", row.disposition.label(), row.difference());
        let list = differences.iter().map(text).collect::<Vec<_>>().join(", ");
        Some(format!(
            "the gateway did not count what was sent: {list}, kernel drops {}; {}",
            self.kernel_drops,
            self.hint()
        ))
    }

    /// Likewise of what was in the containers.
    fn unexplained_entries(&self) -> Option<String> {
        let Entries { sent, counted, strange } = &self.entries;
        if self.entries.are_explained(self.kernel_drops) {
            return None;
        }
        let others = if strange.is_empty() { String::new() } else { format!(", and others as {}", strange.join(", ")) };
        let hint = if strange.is_empty() {
            self.hint()
        } else {
            "it does not know the children: give it the file of --write-config"
        };
        Some(format!("the gateway counted {counted} container entries of {sent}{others}; {hint}"))
    }

    /// A dropped datagram is missing in one of the three; that its copy counts in its place changes the others. No drop makes
    /// more be accepted.
    fn dropped_all_that_is_missing(&self) -> bool {
        let missing: i64 = -self.rows.iter().map(Row::difference).sum::<i64>();
        let strange = self.rows.iter().any(|row| row.expected == 0 && row.counted > 0);
        let more_accepted =
            self.rows.iter().any(|row| row.disposition == Disposition::Accepted && row.difference() > 0);
        self.kernel_drops > 0 && missing == self.kernel_drops.cast_signed() && !strange && !more_accepted
    }

    fn hint(&self) -> &'static str {
        let counted = |disposition| self.rows.iter().any(|row| row.disposition == disposition && row.counted > 0);
        let missing: i64 = -self.rows.iter().map(Row::difference).sum::<i64>();
        if counted(Disposition::UnknownNetwork) {
            "it does not know the network of the fleet: name it in its configuration"
        } else if counted(Disposition::UnknownDevice) || counted(Disposition::UnknownKey) {
            "it does not know the devices: give it the file of --write-config"
        } else if missing > 0 {
            "datagrams were lost on the real way, or other fleets of this seed were there before"
        } else {
            "see that it serves no other devices and had not heard these before"
        }
    }
}

/// How many datagrams of a fleet should end so.
const fn expected(disposition: Disposition, summary: &Summary) -> u64 {
    match disposition {
        Disposition::Accepted => summary.get(Count::ToAccept),
        Disposition::Duplicate => summary.get(Count::ToDuplicate),
        Disposition::TooOld => summary.get(Count::TooLate),
        _ => 0,
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, sent, lost, copies, failed, .. } = self;
        writeln!(f, "compared with the gateway at {address}, as if it served no other devices:")?;
        writeln!(
            f,
            "  {sent} sent - {lost} lost on the way - {failed} failed + {copies} copies = {} to the gateway",
            sent + copies - lost - failed
        )?;
        write!(f, "  {:<16}{:>12}{:>12}{:>12}", "", "expected", "counted", "difference")?;
        for row in &self.rows {
            let Row { expected, counted, .. } = row;
            let difference = if row.difference() == 0 { "0".to_owned() } else { format!("{:+}", row.difference()) };
            write!(f, "\n  {:<16}{expected:>12}{counted:>12}{difference:>12}", row.disposition.label())?;
        }
        write!(f, "\n  {:<16}{:>12}{:>12}", "kernel drops", "", self.kernel_drops)?;
        let Entries { sent, counted, strange } = &self.entries;
        if *sent > 0 || *counted > 0 || !strange.is_empty() {
            write!(f, "\n  {:<16}{sent:>12}{counted:>12}", "in containers")?;
        }
        if !self.stands_still {
            f.write_str("\n  the gateway was still counting at last")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::super::Stats;
    use super::*;
    use crate::clock::Timestamp;
    use crate::status::{Devices, Heard, Time, Waiting};

    /// A gateway that has counted so many accepted, duplicate and other datagrams.
    fn status(started: u64, counts: &[(&str, u64)], kernel_drops: u64) -> GatewayStatus {
        let time = Time(Timestamp(started));
        let heard = Heard { counted_at: time, within_5m: 0, within_1h: 0, within_24h: 0 };
        GatewayStatus {
            version: "1".to_owned(),
            started_at: time,
            now: time,
            datagrams: counts.iter().map(|(label, count)| ((*label).to_owned(), *count)).collect(),
            entries: Default::default(),
            kernel_drops,
            route_moves: 0,
            acks_sent: 0,
            acks_failed: 0,
            degraded: Default::default(),
            devices: Devices { total: 0, unregistered: 0, heard },
            waiters: Waiting { now: 0, woken: 0 },
            connections: 0,
            latest_moves: Vec::new(),
        }
    }

    /// 10 sent, of which 1 was lost and 2 were copied.
    fn summary() -> Summary {
        let stats = Stats::default();
        for (count, times) in [
            (Count::Telemetry, 10),
            (Count::Lost, 1),
            (Count::Copies, 2),
            (Count::ToAccept, 9),
            (Count::ToDuplicate, 2),
        ] {
            (0..times).for_each(|_| stats.add(count));
        }
        stats.summary(Duration::from_secs(1))
    }

    fn compared(counts: &[(&str, u64)], kernel_drops: u64) -> Comparison {
        let before = status(1, &[("accepted", 100), ("duplicate", 7)], 5);
        let after = status(1, counts, 5 + kernel_drops);
        Comparison::new("http://gateway".to_owned(), &before, &after, true, &summary())
    }

    #[test]
    fn what_is_as_expected_is_shown_and_explained() {
        let comparison = compared(&[("accepted", 109), ("duplicate", 9)], 0);
        assert_eq!(comparison.unexplained(), None);
        assert_eq!(
            comparison.to_string(),
            "compared with the gateway at http://gateway, as if it served no other devices:\n  \
             10 sent - 1 lost on the way - 0 failed + 2 copies = 11 to the gateway\n  \
             \x20                   expected     counted  difference\n  \
             accepted                   9           9           0\n  \
             duplicate                  2           2           0\n  \
             too_old                    0           0           0\n  \
             kernel drops                           0"
        );
    }

    #[test]
    fn what_the_kernel_dropped_explains_just_as_much() {
        // One of a pair is gone, so its copy counted.
        assert_eq!(compared(&[("accepted", 109), ("duplicate", 8)], 1).unexplained(), None);
        assert_eq!(compared(&[("accepted", 107), ("duplicate", 9)], 2).unexplained(), None);
        let text = compared(&[("accepted", 107), ("duplicate", 9)], 1).unexplained().unwrap();
        assert!(text.contains(": accepted -2, kernel drops 1; datagrams were lost"), "{text}");
        // What was dropped is never accepted.
        let text = compared(&[("accepted", 110), ("duplicate", 7)], 1).unexplained().unwrap();
        assert!(text.contains(": accepted +1, duplicate -2, kernel drops 1"), "{text}");
    }

    #[test]
    fn what_is_not_expected_is_named_with_what_to_do() {
        for (counts, words) in [
            (&[("accepted", 109), ("duplicate", 10)][..], "duplicate +1, kernel drops 0; see that it serves no other"),
            (&[("accepted", 100), ("duplicate", 7), ("unknown_network", 11)], "does not know the network"),
            (&[("accepted", 105), ("duplicate", 9), ("unknown_device", 4)], "--write-config"),
            (&[("accepted", 108), ("duplicate", 10)], "accepted -1, duplicate +1"),
        ] {
            let comparison = compared(counts, 0);
            let text = comparison.unexplained().unwrap();
            assert!(text.contains(words), "{text}");
            assert!(counts.iter().all(|(label, _)| comparison.to_string().contains(label)), "{comparison}");
        }
    }

    #[test]
    fn what_relays_passed_on_is_compared_where_every_container_arrived() {
        let dropped = |counted: &[(&str, u64)], containers, drops| {
            let stats = Stats::default();
            (0..containers).for_each(|_| stats.add(Count::ToAccept));
            stats.add_many(Count::Entries, 30);
            let before = status(1, &[], 0);
            let mut after = status(1, &[("accepted", 2)], drops);
            after.entries = counted.iter().map(|(label, count)| ((*label).to_owned(), *count)).collect();
            let summary = stats.summary(Duration::from_secs(1));
            Comparison::new("http://gateway".to_owned(), &before, &after, true, &summary)
        };
        let compared = |counted: &[(&str, u64)], containers| dropped(counted, containers, 0);
        let all = compared(&[("accepted", 22), ("duplicate", 5), ("too_old", 3)], 2);
        assert_eq!(all.unexplained(), None);
        assert!(all.to_string().ends_with("\n  in containers             30          30"), "{all}");
        let text = compared(&[("accepted", 25)], 2).unexplained().unwrap();
        assert!(text.starts_with("the gateway counted 25 container entries of 30; see that"), "{text}");
        let text = compared(&[("accepted", 25), ("unknown_device", 5)], 2).unexplained().unwrap();
        assert!(
            text.contains("25 container entries of 30, and others as unknown_device 5; it does not know the"),
            "{text}"
        );
        // Of a container that is missing, so are the entries.
        let text = compared(&[("accepted", 25)], 3).unexplained().unwrap();
        assert!(text.starts_with("the gateway did not count what was sent: accepted -1"), "{text}");
        assert_eq!(dropped(&[("accepted", 1)], 3, 1).unexplained(), None);
        for (counted, drops) in [(31, 1), (25, 0)] {
            let text = dropped(&[("accepted", counted)], 2 + drops, drops).unexplained().unwrap();
            assert!(text.starts_with(&format!("the gateway counted {counted} container entries of 30")), "{text}");
        }
        let too_many = Entries { sent: 1 + MOST_ENTRIES, counted: 0, strange: Vec::new() };
        assert!(!too_many.are_explained(1) && too_many.are_explained(2));
    }

    /// A gateway that answers with one status after the other, and then with the last for ever; watched from the first on.
    async fn watched(mut statuses: impl Iterator<Item = GatewayStatus> + Send + 'static) -> Watched {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = Client::new(&format!("http://{}", listener.local_addr().unwrap()), None).unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut body = String::new();
            loop {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else { return };
                    head.push(byte);
                }
                body = statuses.next().map_or(body, |status| serde_json::to_string(&status).unwrap());
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        let watched = Watched::start(client).await.unwrap();
        Watched { look_every: Duration::from_millis(1), standstill: Duration::from_secs(5), ..watched }
    }

    #[tokio::test]
    async fn counters_are_read_before_and_when_they_stand_still() {
        let counted = |accepted| status(1, &[("accepted", accepted), ("duplicate", 2)], 0);
        let counting = [status(1, &[], 0), counted(3), counted(8), counted(9), counted(9)];
        let comparison = watched(counting.into_iter()).await.compare(&summary()).await.unwrap();
        assert!(comparison.stands_still && comparison.unexplained().is_none(), "{comparison}");
    }

    #[tokio::test]
    async fn a_gateway_that_never_rests_is_compared_all_the_same_and_said_to_count_on() {
        let watched = watched((0..).map(|accepted| status(1, &[("accepted", accepted)], 0))).await;
        let impatient = Watched { standstill: Duration::from_millis(20), ..watched };
        let text = impatient.compare(&summary()).await.unwrap().to_string();
        assert!(text.ends_with("\n  the gateway was still counting at last"), "{text}");
    }

    #[tokio::test]
    async fn a_gateway_that_was_started_again_or_is_gone_is_an_error() {
        let again = [status(1, &[], 0), status(2, &[], 0)];
        let error = watched(again.into_iter()).await.compare(&summary()).await.unwrap_err().to_string();
        assert!(error.contains("was started again while the fleet ran"), "{error}");
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let client = Client::new(&format!("http://{nobody}"), None).unwrap();
        let error = Watched::start(client).await.unwrap_err().to_string();
        assert!(error.starts_with("cannot reach http://127.0.0.1:") && error.contains("--gateway-api"), "{error}");
    }
}
