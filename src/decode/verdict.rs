//! What a gateway would do with a packet and why, in sentences. The decisions themselves are those of `wire`, `auth` and
//! `table`; nothing is decided here.

use std::net::SocketAddr;

use super::fields::class_text;
use super::part::count;
use crate::auth::Refusal;
use crate::clock::Timestamp;
use crate::metrics::Disposition;
use crate::table::accept::Accepted;
use crate::table::route::{Counted, Outcome, Path, Refused, Snapshot};
use crate::table::rules::{RouteChange, Step, TimeClass};
use crate::wire::frame::{FrameError, Header};

/// What a gateway would do with a packet.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// What the packet ends in; `None` if no gateway decides it.
    pub disposition: Option<Disposition>,
    /// The rule that decides, and the step of rule R4; empty if none does.
    pub rule: &'static str,
    /// What rule R3 says of its time; known of authentic packets.
    pub class: Option<TimeClass>,
    /// What it does to the route.
    pub route: Option<RouteChange>,
    /// Whether it is acknowledged.
    pub acknowledged: bool,
    /// Why, in sentences.
    pub why: Vec<String>,
}

/// How a packet came, and what was known of its device before.
pub(super) struct Arrived<'a> {
    pub(super) header: Header,
    pub(super) path: &'a Path,
    pub(super) at: Timestamp,
    pub(super) before: Option<Snapshot>,
}

impl Verdict {
    fn new(disposition: Option<Disposition>, rule: &'static str, why: impl Into<String>) -> Self {
        Self { disposition, rule, class: None, route: None, acknowledged: false, why: vec![why.into()] }
    }

    /// Of bytes that are no frame.
    pub(super) fn no_frame(error: FrameError) -> Self {
        let why = match error {
            FrameError::Short { len, min } => {
                let len = count(len, "byte");
                format!("It has {len}, fewer than the {min} of a header and a tag: nothing so short can authenticate.")
            }
            FrameError::Oversize { .. } => format!("It has {error}: no device sends so much."),
            FrameError::Version(_) => format!("It has {error}."),
        };
        Self::new(Some(error.into()), "R0", why)
    }

    /// Of a frame that does not open.
    pub(super) fn refused(refusal: Refusal) -> Self {
        let why = match refusal {
            Refusal::UnknownNetwork(id) => {
                let digits = format!("{:06x}", id.get());
                format!("No key of network {id} is given. To open it: --network-key {digits}=FILE, or --config FILE.")
            }
            Refusal::UnknownDevice(id) => format!(
                "No key of device {id} is given. To open it: --device-key {id}=FILE with its root key, or --config FILE \
                 that lists it."
            ),
            Refusal::UnknownKey { device_id, key_id } => format!(
                "Device {device_id} is known by another key than {key_id}: the normal sign of a new key pair. To open it: \
                 the root key of the new pair."
            ),
            Refusal::BadTag => "The key that the header names does not open it: it was changed on its way, or sealed \
                                with another key, for another day or another interface."
                .to_owned(),
            Refusal::DayLimited => {
                "Its key day is neither near today nor that of a device without time, and more than \
                                    1000 such frames came within this second. With --at near its time it is opened."
                    .to_owned()
            }
        };
        Self::new(Some(refusal.into()), "R0", why)
    }

    /// Of a packet of the factory network, where a configuration does not name it.
    pub(super) fn not_served() -> Self {
        let why =
            "The configuration does not name the factory network, so a gateway does not open it. Its key is public.";
        Self::new(Some(Disposition::UnknownNetwork), "R0", why)
    }

    /// Of a container's entry that was not heard over Bluetooth.
    pub(super) fn unknown_interface() -> Self {
        let why = "A relay hears others over Bluetooth only, so there is no key for it.";
        Self::new(Some(Disposition::UnknownInterface), "R0", why)
    }

    /// Of a datagram that the capture holds a part of.
    pub(super) fn cut(there: usize, sent: usize) -> Self {
        let why = format!(
            "The capture holds {there} of its {sent} bytes, so that nothing can be opened. Capture whole packets (tcpdump -s 0)."
        );
        Self::new(None, "", why)
    }

    /// Of what the gateway itself sent. `opened`: its header if it is authentic, or else what it would be refused for;
    /// `None` for one in the clear.
    pub(super) fn downlink(opened: Option<Result<&Header, Self>>) -> Self {
        let mut verdict = Self::new(None, "", "It travels to the device, so the rules do not decide it.");
        match opened {
            Some(Ok(header)) if header.packet_type.is_downlink_only() => {
                verdict
                    .why
                    .push("As an uplink it would be reflected, by rule R2: only gateways send this type.".to_owned());
            }
            Some(Err(refused)) => verdict.why.extend(refused.why),
            Some(Ok(_)) | None => {}
        }
        verdict
    }

    /// Of an authentic packet.
    pub(super) fn of(accepted: &Accepted, arrived: &Arrived<'_>) -> Self {
        let Arrived { header, at, .. } = arrived;
        let class = TimeClass::of(header.gps_time, at.gps());
        let (rule, why) = match accepted {
            Accepted::Reflected if header.packet_type.is_downlink_only() => {
                ("R2", "Only gateways send this type: it is one of their own downlinks come back.")
            }
            Accepted::Reflected => ("R2", "Its nonce is one that the gateway makes: its own downlink come back."),
            Accepted::Foreign => ("R8", "Its device belongs to another organisation than its relay or its network."),
            Accepted::Recorded { outcome: Outcome::NotRegistered, .. } => {
                ("R9", "It is authentic, but only registered devices are served.")
            }
            Accepted::Recorded { outcome: Outcome::Refused(Refused { step, .. }), .. }
            | Accepted::Recorded { outcome: Outcome::Counted(Counted { step, .. }), .. } => {
                (step.name(), of_step(*step))
            }
        };
        let mut verdict = Self::new(Some(accepted.disposition()), rule, why);
        verdict.class = Some(class);
        if class != TimeClass::Fresh {
            verdict.why.push(format!("Its time is {}.", class_text(class, header.gps_time, *at)));
        }
        if let Accepted::Recorded { outcome: Outcome::Counted(counted), malformed } = accepted {
            verdict.route = Some(counted.change);
            verdict.acknowledged = counted.ack_sequence.is_some();
            verdict.why.push(of_route(counted.change, arrived));
            if verdict.acknowledged {
                verdict.why.push("It asks for an ACK and gets one (R7).".to_owned());
            }
            if *malformed {
                verdict.why.push("Its readings end in a fault: what came before stands.".to_owned());
            }
        }
        verdict
    }
}

const fn of_step(step: Step) -> &'static str {
    match step {
        Step::ExactCopy => "The very same packet was counted before: same time, sequence and entropy.",
        Step::SameSession => "Its sequence continues the session and its time does not go back: it cannot be a replay.",
        Step::NewSession => "Its time is greater than all before: it begins a session, and cannot be a replay.",
        Step::BitSet => "Its sequence was seen in this session already.",
        Step::Late => {
            "It is behind the newest of its session and was not seen before: it counts, and takes no route over."
        }
        Step::Pending => "It follows a boot whose session is not proved yet: it counts once, and takes no route over.",
        Step::TooOld => "It is older than what can be told from a replay.",
        Step::Unproven => "Nothing proves that it is no replay: it counts once, and takes no route over.",
    }
}

fn of_route(change: RouteChange, arrived: &Arrived<'_>) -> String {
    let here = way(arrived.path);
    let before = arrived.before.and_then(|before| match arrived.path {
        Path::Direct(_) => before.direct.map(|route| place(route.address)),
        Path::Relayed(_) => before.relayed.map(|route| format!("relay {}", route.through.relay)),
    });
    let before = before.unwrap_or_default();
    match change {
        RouteChange::First => format!("There was no route: {here} becomes it (R5)."),
        RouteChange::Refreshed => format!("It comes over the route, {here}, and refreshes it (R5)."),
        RouteChange::Moved => format!("It moves the route from {before} to {here} (R5)."),
        RouteChange::Kept => format!("It comes from {here}, and the route stays {before} (R5)."),
    }
}

fn way(path: &Path) -> String {
    match path {
        Path::Direct(source) => place(*source),
        Path::Relayed(relaying) => format!("relay {}", relaying.relay),
    }
}

/// An address; hex alone has none.
fn place(address: SocketAddr) -> String {
    if address == super::NOWHERE { "the address it came from".to_owned() } else { address.to_string() }
}
