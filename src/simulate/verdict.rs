//! What an attack led to, and whether that is right. Pure: what was seen comes in, a report goes out.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use crate::id::DeviceId;
use crate::status::GatewayStatus;

/// Devices named in a line of a report; of more, only how many.
const NAMED: usize = 3;

/// How many times as many bytes as came from an address that is not proved may go there in challenges.
const AMPLIFICATION: u64 = 3;

/// A kind of attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Recorded uplinks again, at once, after newer ones, and out of order.
    Replay,
    /// The gateway's own downlinks back to it, from the device they were for and from elsewhere.
    Reflection,
    /// Uplinks with one bit turned over, in header, ciphertext or tag.
    BitFlips,
    /// Unknown devices, networks and keys, random bytes, and datagrams too short or too long.
    UnknownIds,
}

impl Kind {
    /// Every kind, in the order they are tried.
    pub const ALL: [Self; 4] = [Self::Replay, Self::Reflection, Self::BitFlips, Self::UnknownIds];

    /// The name on the command line and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Replay => "replay",
            Self::Reflection => "reflection",
            Self::BitFlips => "bit-flips",
            Self::UnknownIds => "unknown-ids",
        }
    }
}

/// Kinds of attack, each once: `all`, or names with commas between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kinds(pub Vec<Kind>);

impl FromStr for Kinds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(Self(Kind::ALL.to_vec()));
        }
        let kind = |name: &str| Kind::ALL.into_iter().find(|kind| kind.name() == name);
        let mut kinds: Vec<Kind> = text.split(',').map(kind).collect::<Option<_>>().ok_or_else(|| {
            let names = Kind::ALL.map(Kind::name).join(", ");
            format!("an attack is all, or some of {names}, with commas between them")
        })?;
        kinds.sort_unstable();
        kinds.dedup();
        Ok(Self(kinds))
    }
}

/// What a gateway knows of a device, as its API tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// Where it was heard over UDP, if its last route is of that kind.
    pub(super) address: Option<SocketAddr>,
    /// Packets counted.
    pub(super) counted: u64,
}

/// What the API told at one moment.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) status: GatewayStatus,
    /// Devices that were asked about; those the gateway never heard are absent.
    pub(super) devices: BTreeMap<DeviceId, Position>,
}

/// Datagrams that came to the attacker, or to a device that had said nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct Came {
    /// Answers, by the device that each names; what is no frame names none.
    pub(super) answers: BTreeMap<Option<DeviceId>, u64>,
    /// Genuine challenges, which ask whether a device is there (rule R6).
    pub(super) challenges: u64,
    /// Bytes of those that came to the attacker, whose address no device has proved.
    pub(super) challenge_bytes: u64,
}

impl Came {
    /// One more answer.
    pub(super) fn answer(&mut self, device: Option<DeviceId>) {
        *self.answers.entry(device).or_default() += 1;
    }

    /// One more challenge, with so many bytes for an address that no device has proved.
    pub(super) fn challenge(&mut self, unproved: usize) {
        self.challenges += 1;
        self.challenge_bytes += unproved as u64;
    }
}

/// What was seen of one kind of attack.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) kind: Kind,
    /// Datagrams that the kernel took, and those it did not.
    pub(super) sent: u64,
    pub(super) unsent: u64,
    /// Bytes of those that the kernel took.
    pub(super) sent_bytes: u64,
    /// What came back.
    pub(super) came: Came,
    /// By device, how many of what was sent may count (see [`super::forge::Forged::may_count`]).
    pub(super) may_count: BTreeMap<DeviceId, u64>,
    /// The device that spoke meanwhile, to see when the gateway had taken everything in.
    pub(super) witness: DeviceId,
    /// Before and after; absent if there is no API to ask.
    pub(super) views: Option<(View, View)>,
}

impl Seen {
    /// Whether what arrived of it, so many at most, is not even half of what was made.
    const fn is_too_little(&self, arrived: u64) -> bool {
        let made = self.sent + self.unsent;
        made == 0 || 2 * arrived < made
    }
}

/// What one kind of attack led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Which one.
    pub kind: Kind,
    /// Datagrams sent.
    pub sent: u64,
    /// What must not be, each in words. Empty: the gateway held.
    pub findings: Vec<String>,
    /// Too little arrived to tell.
    pub inconclusive: bool,
    /// What is worth saying besides.
    notes: Vec<String>,
    /// Datagrams by disposition; `None` without an API to ask.
    counted: Option<BTreeMap<String, u64>>,
}

impl Outcome {
    /// Judges what was seen.
    pub(super) fn of(seen: &Seen) -> Self {
        let mut outcome = Self {
            kind: seen.kind,
            sent: seen.sent,
            findings: Vec::new(),
            inconclusive: seen.is_too_little(seen.sent),
            notes: Vec::new(),
            counted: None,
        };
        if seen.unsent > 0 {
            outcome.notes.push(format!("{} more could not be sent", seen.unsent));
        }
        outcome.challenges(seen);
        match &seen.views {
            Some((before, after)) if before.status.started_at != after.status.started_at => {
                outcome.findings.push("the gateway was started again meanwhile".to_owned());
            }
            Some((before, after)) => outcome.compare(seen, before, after),
            None => {
                outcome.notes.push("without --gateway-api only answers are seen".to_owned());
                outcome.answers(&seen.came, &seen.may_count);
            }
        }
        outcome
    }

    /// Whether enough was tried, and nothing got through.
    pub fn held(&self) -> bool {
        self.findings.is_empty() && !self.inconclusive
    }

    fn compare(&mut self, seen: &Seen, before: &View, after: &View) {
        self.moves(seen, before, after);
        let counted_again = self.advances(seen, before, after);
        self.answers(&seen.came, &counted_again);
        let allowed: u64 = counted_again.values().sum();
        let mut counted = difference(&before.status.datagrams, &after.status.datagrams);
        let said = position(after, seen.witness).saturating_sub(position(before, seen.witness));
        if let Some(accepted) = counted.get_mut("accepted") {
            *accepted = accepted.saturating_sub(said);
        }
        counted.retain(|_, count| *count > 0);
        let total: u64 = counted.values().sum();
        let accepted = counted.get("accepted").copied().unwrap_or(0);
        let drops = after.status.kernel_drops.saturating_sub(before.status.kernel_drops);
        if total > seen.sent {
            self.notes.push(format!("others spoke, too: {} datagrams more than were sent", total - seen.sent));
        } else if total < seen.sent {
            let lost = seen.sent - total;
            self.notes.push(format!("{lost} did not arrive, {drops} of them dropped by a full receive buffer"));
        }
        match accepted.saturating_sub(allowed) {
            0 => {}
            more if total == seen.sent => self.findings.push(format!("{more} datagrams were accepted")),
            // Where not all is accounted for, others may have taken the place of what was lost.
            more => self.notes.push(format!("{more} datagrams were accepted, which may be those of others")),
        }
        self.inconclusive |= seen.is_too_little(total);
        self.counted = Some(counted);
    }

    /// Nobody said anything, so no route may be another, and no device may be new.
    fn moves(&mut self, seen: &Seen, before: &View, after: &View) {
        let moved = |(id, now): (&DeviceId, &Position)| match before.devices.get(id) {
            _ if *id == seen.witness => None,
            None => Some(format!("forged device {id} has a route")),
            Some(then) if then.address == now.address => None,
            Some(then) => Some(format!("the route of {id} moved from {} to {}", shown(then), shown(now))),
        };
        let moved: Vec<String> = after.devices.iter().filter_map(moved).collect();
        self.findings.extend(some_of(moved, "routes"));
    }

    /// A device of which a recording comes from elsewhere is asked whether it is there, in as few bytes as an address gets that is
    /// not proved. Nothing else that an attacker has is the device's word.
    fn challenges(&mut self, seen: &Seen) {
        let Came { challenges, challenge_bytes, .. } = seen.came;
        if challenges == 0 {
            return;
        }
        if seen.kind != Kind::Replay {
            self.findings.push(format!("{challenges} challenges came for what no device has sent"));
        } else if challenge_bytes > AMPLIFICATION * seen.sent_bytes {
            let sent = seen.sent_bytes;
            self.findings.push(format!("challenges of {challenge_bytes} bytes came for the {sent} that were sent"));
        } else {
            self.notes.push(format!("{challenges} challenges, which only the devices could answer"));
        }
    }

    /// Nobody is answered, except for a packet that counted and may: it is acknowledged as every packet that counts.
    fn answers(&mut self, Came { answers, .. }: &Came, may_be: &BTreeMap<DeviceId, u64>) {
        let allowed = |device: &Option<DeviceId>| device.and_then(|id| may_be.get(&id)).copied().unwrap_or(0);
        let too_many: u64 = answers.iter().map(|(device, count)| count.saturating_sub(allowed(device))).sum();
        let allowed = answers.values().sum::<u64>() - too_many;
        if too_many > 0 {
            self.findings.push(format!("{too_many} answers came back"));
        }
        if allowed > 0 {
            self.notes.push(format!("{allowed} answers to recordings of packets without time, which may count again"));
        }
    }

    /// Likewise for cursors, except for what may count. Returns how much of that did.
    fn advances(&mut self, seen: &Seen, before: &View, after: &View) -> BTreeMap<DeviceId, u64> {
        let mut allowed = BTreeMap::new();
        let mut too_many = Vec::new();
        for (id, then) in before.devices.iter().filter(|(id, _)| **id != seen.witness) {
            let now = position(after, *id);
            if now < then.counted {
                too_many.push(format!("{id} was forgotten"));
                continue;
            }
            let (advance, may) = (now - then.counted, seen.may_count.get(id).copied().unwrap_or(0));
            allowed.insert(*id, advance.min(may));
            if advance > may {
                too_many.push(format!("{id} counted {} packets though it said nothing", advance - may));
            }
        }
        self.findings.extend(some_of(too_many, "devices"));
        let again: u64 = allowed.values().sum();
        if again > 0 {
            self.notes.push(format!("{again} recordings of packets without time counted again, which moves nothing"));
        }
        allowed
    }
}

/// The first few; of more, how many.
fn some_of(mut lines: Vec<String>, what: &str) -> Vec<String> {
    let more = lines.len().saturating_sub(NAMED);
    lines.truncate(NAMED);
    if more > 0 {
        lines.push(format!("so for {more} more {what}"));
    }
    lines
}

fn shown(position: &Position) -> String {
    position.address.map_or_else(|| "a relay".to_owned(), |address| address.to_string())
}

fn position(view: &View, id: DeviceId) -> u64 {
    view.devices.get(&id).map_or(0, |position| position.counted)
}

/// What was counted between two moments.
fn difference(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let since =
        |(name, now): (&String, &u64)| (name.clone(), now.saturating_sub(before.get(name).copied().unwrap_or(0)));
    after.iter().map(since).collect()
}

impl fmt::Display for Outcome {
    /// Two or more lines, the last of them the verdict.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {} sent", self.kind.name(), self.sent)?;
        if let Some(counted) = &self.counted {
            let counted: Vec<String> = counted.iter().map(|(name, count)| format!("{name} {count}")).collect();
            writeln!(f, "  counted as {}", if counted.is_empty() { "nothing".to_owned() } else { counted.join(", ") })?;
        }
        for note in &self.notes {
            writeln!(f, "  {note}")?;
        }
        if !self.findings.is_empty() {
            write!(f, "  GOT THROUGH: {}", self.findings.join("; "))
        } else if self.inconclusive {
            write!(f, "  INCONCLUSIVE: fewer than half of what was to be sent arrived")
        } else {
            write!(f, "  held")
        }
    }
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
