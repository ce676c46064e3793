//! A small fleet, an attacker and a gateway, for random histories: what devices send is honest, what comes is what the network
//! and the attacker make of it.
//!
//! The attacker hears everything, sends recordings from any address at any time, and what a device sends just now before it
//! arrives. The network loses, repeats and delays. The gateway asks as ingest does, and a cookie is right as there: for its
//! device and place, in its slot of 10 s or the next, of this process.

use std::net::SocketAddr;

use lastroute::clock::Timestamp;
use lastroute::table::contest::Place;
use lastroute::table::sending::Via;
use lastroute::wire::frame::{Level, PacketType};

use super::oracle_challenges::is_direct;
use super::pair::Pair;
use super::{Sent, Way};

/// GPS time at which a device without a clock starts.
const NO_TIME: u32 = 1_261_872_018;

/// One thing that happens. Numbers pick one of those there are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Pass {
        ms: u64,
    },
    Speak {
        device: usize,
        flags: u16,
        level: Level,
        by: By,
        fate: Fate,
    },
    /// What is under way arrives, and stays under way if it is repeated.
    Land {
        pick: usize,
        repeated: bool,
    },
    /// The attacker sends a recording from an address, or from where it came.
    Replay {
        pick: usize,
        from: Option<usize>,
    },
    Roam {
        device: usize,
        port: u16,
    },
    Reboot {
        device: usize,
        keeps_time: bool,
        by: By,
        flags: u16,
        fate: Fate,
    },
    /// The clock of a device is set to this many seconds from the right time.
    SetTime {
        device: usize,
        ahead: i64,
    },
    Skip {
        device: usize,
        sequences: u16,
    },
    /// A challenge arrives, and is answered if the device is there and listens.
    Answer {
        pick: usize,
        fate: Fate,
    },
    /// The attacker passes a challenge on to its device, and the answer back.
    Intercept {
        pick: usize,
    },
    Downlink {
        device: usize,
    },
    Expect {
        device: usize,
    },
    Report {
        device: usize,
        application: u32,
    },
    Register {
        device: usize,
    },
    Deregister {
        device: usize,
    },
    Checkpoint,
    Restart {
        clean: bool,
        registered_first: bool,
    },
    SetClock {
        ms: i64,
    },
}

/// By which way a device speaks.
#[derive(Clone, Copy, Debug)]
pub(super) enum By {
    Socket,
    Relay(u64),
    /// The relay decrypts it.
    WordOf(u64, Level),
}

/// What becomes of a packet on its way.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fate {
    Arrives,
    Waits,
    IsLost,
    /// A copy of it from this address of the attacker's arrives first; then it does.
    IsOvertaken(usize),
}

struct Device {
    id: u64,
    /// Seconds from the right time; `None`: it has no clock.
    ahead: Option<i64>,
    booted: Timestamp,
    port: u16,
    sequences: [u16; 2],
    is_keyed: bool,
}

/// A datagram under way, or on the attacker's tape.
#[derive(Clone, Copy)]
struct Flying {
    sent: Sent,
    cookie: Option<Cookie>,
}

#[derive(Clone, Copy)]
struct Cookie {
    device: u64,
    place: Place,
    slot: u64,
    process: u32,
}

pub(super) struct World {
    pub(super) pair: Pair,
    /// The right time.
    time: Timestamp,
    strict: bool,
    process: u32,
    devices: Vec<Device>,
    air: Vec<Flying>,
    asked: Vec<Cookie>,
    tape: Vec<Flying>,
    entropy: u16,
}

/// Packets of each device, a minute apart, until it is found: some for its clock to pass all it said before, and some that the
/// gateway has no budget for.
const ROUNDS: usize = 14;

pub(super) const DEVICES: usize = 4;
/// Addresses of the attacker's own, and of the attacker in a device's name.
pub(super) const ADDRESSES: usize = 6;

/// The addresses datagrams come from: two of the attacker's, then those devices have.
fn address(number: usize) -> SocketAddr {
    match number {
        0 => "203.0.113.9:1".parse().unwrap(),
        1 => "[2001:db8::9]:1".parse().unwrap(),
        _ => SocketAddr::from(([192, 0, 2, 1], 4000 + number as u16 - 2)),
    }
}

impl World {
    pub(super) fn new(start: Timestamp, deny: bool, strict: bool) -> Self {
        let mut pair = Pair::new(deny, 100, start);
        let aheads = [Some(0), Some(-250), Some(60), None];
        let device = |(number, ahead)| Device {
            id: number as u64 + 1,
            ahead,
            booted: start,
            port: 4000 + number as u16,
            sequences: [40 * number as u16, 65_530],
            is_keyed: number % 2 == 0,
        };
        for id in 1..=DEVICES as u64 {
            if deny || id != 2 {
                pair.register(id);
            }
        }
        Self {
            pair,
            time: start,
            strict,
            process: 0,
            devices: aheads.into_iter().enumerate().map(device).collect(),
            air: Vec::new(),
            asked: Vec::new(),
            tape: Vec::new(),
            entropy: 0,
        }
    }

    pub(super) fn apply(&mut self, step: &Step) -> Result<(), String> {
        match *step {
            Step::Pass { ms } => self.pass(ms),
            Step::Speak { device, flags, level, by, fate } => {
                let flying = self.speak(device, PacketType::TDF, flags, level, by);
                return self.send(flying, fate);
            }
            Step::Land { pick, repeated } => {
                let Some(index) = pick.checked_rem(self.air.len()) else { return Ok(()) };
                let flying = if repeated { self.air[index] } else { self.air.swap_remove(index) };
                return self.arrive(flying);
            }
            Step::Replay { pick, from } => {
                // What was said of late as often as all before.
                let (len, is_late) = (self.tape.len(), pick % 2 == 0);
                let back = (pick / 2).checked_rem(if is_late { len.min(12) } else { len });
                return back.map_or(Ok(()), |back| self.replay(back, from));
            }
            Step::Roam { device, port } => self.devices[device].port = port,
            Step::Reboot { device, keeps_time, by, flags, fate } => {
                return self.reboot(device, keeps_time, by, flags, fate);
            }
            Step::SetTime { device, ahead } => self.devices[device].ahead = Some(ahead),
            Step::Skip { device, sequences } => {
                let [direct, relayed] = &mut self.devices[device].sequences;
                *direct = direct.wrapping_add(sequences);
                *relayed = relayed.wrapping_add(sequences / 2);
            }
            Step::Answer { pick, fate } => return self.answer(pick, fate),
            Step::Intercept { pick } => return self.intercept(pick),
            Step::Downlink { device } => return self.pair.downlink(self.devices[device].id),
            Step::Expect { device } => self.pair.expect(self.devices[device].id),
            Step::Report { device, application } => return self.pair.report(self.devices[device].id, application),
            Step::Register { device } => self.pair.register(self.devices[device].id),
            Step::Deregister { device } => return self.pair.deregister(self.devices[device].id),
            Step::Checkpoint => return self.pair.checkpoint(),
            Step::Restart { clean, registered_first } => {
                self.process += 1;
                return self.pair.restart(clean, registered_first);
            }
            Step::SetClock { ms } => self.pair.step_clock(ms),
        }
        Ok(())
    }

    /// What the rules are for: once clocks are right every device is found where it is, though the attacker goes on.
    pub(super) fn settle(&mut self) -> Result<(), String> {
        self.air.clear();
        self.pair.step_clock(self.time.0.cast_signed() - self.pair.now.0.cast_signed());
        for round in 0..ROUNDS {
            self.pass(61_000);
            self.asked.clear();
            for device in 0..DEVICES {
                self.devices[device].ahead = Some(0);
                for back in [0, 3 * round + device] {
                    self.replay(back, Some(round % 2))?;
                }
                let flying = self.speak(device, PacketType::TDF, 0, Level::Network, By::Socket);
                self.arrive(flying)?;
                while !self.asked.is_empty() {
                    self.answer(0, Fate::Arrives)?;
                }
            }
        }
        for device in 0..DEVICES {
            let (id, is_at) = (self.devices[device].id, self.address_of(device));
            let route = self.pair.direct_route(id);
            if route.is_some_and(|route| route != is_at) {
                return Err(format!("device {id} speaks from {is_at}, and its route leads to {route:?}"));
            }
        }
        Ok(())
    }

    fn pass(&mut self, ms: u64) {
        self.time = Timestamp(self.time.0 + ms);
        self.pair.pass(ms);
    }

    /// The attacker sends what was said so many packets ago.
    fn replay(&mut self, back: usize, from: Option<usize>) -> Result<(), String> {
        let Some(flying) = self.tape.iter().nth_back(back).copied() else { return Ok(()) };
        self.arrive(from.map_or(flying, |from| elsewhere(flying, from)))
    }

    /// What a device says now. The attacker hears it.
    fn speak(&mut self, device: usize, packet_type: PacketType, flags: u16, level: Level, by: By) -> Flying {
        self.entropy = self.entropy.wrapping_mul(25_173).wrapping_add(13_849);
        let (time, entropy, strict) = (self.time, self.entropy, self.strict);
        let device = &mut self.devices[device];
        let sequence = &mut device.sequences[usize::from(!matches!(by, By::Socket))];
        let way = match by {
            By::Socket => Way::Direct(SocketAddr::from(([192, 0, 2, 1], device.port))),
            By::Relay(relay) => Way::Relayed(relay),
            By::WordOf(relay, level) => Way::OnWordOf(relay, level),
        };
        let gps_time = match device.ahead {
            Some(ahead) => time.gps().saturating_add_signed(ahead as i32),
            None => NO_TIME + ((time.0 - device.booted.0) / 1000) as u32,
        };
        let proved_level = if let By::WordOf(_, relay) = by { level.min(relay) } else { level };
        let sent = Sent {
            device: device.id,
            entropy,
            level,
            packet_type,
            flags,
            may_move: !strict || proved_level == Level::Device || !device.is_keyed,
            application: (entropy % 4 == 0).then_some(u32::from(entropy % 8)),
            network: entropy % 3,
            via: Via(entropy as u8 % 3),
            len: 38 + entropy % 200,
            ..Sent::new(gps_time, *sequence, way)
        };
        *sequence = sequence.wrapping_add(1);
        let flying = Flying { sent, cookie: None };
        self.tape.push(flying);
        flying
    }

    fn send(&mut self, flying: Flying, fate: Fate) -> Result<(), String> {
        match fate {
            Fate::Arrives => self.arrive(flying),
            Fate::Waits => {
                self.air.push(flying);
                Ok(())
            }
            Fate::IsLost => Ok(()),
            Fate::IsOvertaken(from) => {
                self.arrive(elsewhere(flying, from))?;
                self.arrive(flying)
            }
        }
    }

    fn reboot(&mut self, device: usize, keeps_time: bool, by: By, flags: u16, fate: Fate) -> Result<(), String> {
        let time = self.time;
        let rebooted = &mut self.devices[device];
        rebooted.booted = time;
        rebooted.sequences = [0, 0];
        if !keeps_time {
            rebooted.ahead = None;
        }
        let flying = self.speak(device, PacketType::KEY_IDS, flags, Level::Network, by);
        self.send(flying, fate)
    }

    /// A datagram comes to the gateway, and the gateway asks whom it has to, unless its budget says no.
    fn arrive(&mut self, flying: Flying) -> Result<(), String> {
        let Flying { sent, cookie } = flying;
        let slot = self.pair.now.0 / 10_000;
        let place = sent.place();
        let answers = cookie.is_some_and(|cookie| {
            (cookie.device, cookie.place, cookie.process) == (sent.device, place, self.process)
                && (cookie.slot == slot || cookie.slot + 1 == slot)
        });
        let follows = self.pair.take(&sent, answers)?;
        let has_no_budget = sent.entropy.is_multiple_of(8);
        if has_no_budget {
            return Ok(());
        }
        if follows.challenges.source || follows.is_held && !sent.is_deaf() {
            self.ask(sent.device, place)?;
        }
        if follows.challenges.other {
            let other = self.pair.contested_with(sent.device, &place)?;
            other.map_or(Ok(()), |other| self.ask(sent.device, other))?;
        }
        self.pair.compare(sent.device)
    }

    fn ask(&mut self, device: u64, place: Place) -> Result<(), String> {
        if self.pair.ask(device, &place)? {
            let (slot, process) = (self.pair.now.0 / 10_000, self.process);
            self.asked.push(Cookie { device, place, slot, process });
        }
        Ok(())
    }

    fn answer(&mut self, pick: usize, fate: Fate) -> Result<(), String> {
        let Some(index) = pick.checked_rem(self.asked.len()) else { return Ok(()) };
        let cookie = self.asked.swap_remove(index);
        let Some(device) = self.devices.iter().position(|device| device.id == cookie.device) else { return Ok(()) };
        let by = match cookie.place {
            Place::Direct(address) if address == self.address_of(device) => By::Socket,
            Place::Direct(_) => return Ok(()),
            Place::Relayed { relay, .. } => By::Relay(relay.0),
        };
        let flying = self.echo(device, by, cookie);
        self.send(flying, fate)
    }

    /// The answer of a device that was asked: it has the time now.
    fn echo(&mut self, device: usize, by: By, cookie: Cookie) -> Flying {
        let (right, gateways) = (i64::from(self.time.gps()), i64::from(self.pair.now.gps()));
        self.devices[device].ahead.get_or_insert(gateways - right);
        let flying = Flying { cookie: Some(cookie), ..self.speak(device, PacketType::ECHO_RSP, 0, Level::Network, by) };
        // Heard with the cookie in it.
        self.tape.pop();
        self.tape.push(flying);
        flying
    }

    fn intercept(&mut self, pick: usize) -> Result<(), String> {
        let Some(index) = pick.checked_rem(self.asked.len()) else { return Ok(()) };
        let cookie = self.asked[index];
        let Place::Direct(place) = cookie.place else { return Ok(()) };
        let Some(device) = self.devices.iter().position(|device| device.id == cookie.device) else { return Ok(()) };
        if place == self.address_of(device) {
            return Ok(());
        }
        let Flying { sent, cookie } = self.echo(device, By::Socket, cookie);
        self.arrive(Flying { sent: Sent { way: Way::Direct(place), ..sent }, cookie })
    }

    fn address_of(&self, device: usize) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], self.devices[device].port))
    }
}

/// The same datagram from another address, or the same container entry by another relay.
fn elsewhere(flying: Flying, from: usize) -> Flying {
    let relay = 90 + (from % 2) as u64;
    let way = match flying.sent.way {
        Way::Direct(_) => Way::Direct(address(from)),
        Way::Relayed(_) => Way::Relayed(relay),
        Way::OnWordOf(_, level) => Way::OnWordOf(relay, level),
    };
    debug_assert_eq!(is_direct(&flying.sent.place()), flying.sent.is_direct());
    Flying { sent: Sent { way, ..flying.sent }, ..flying }
}
