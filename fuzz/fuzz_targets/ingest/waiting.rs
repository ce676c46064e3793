//! What waits for devices and what was sent to them, and what becomes of it.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use lastroute::auth::keys::Interface;
use lastroute::clock::Timestamp;
use lastroute::downlink::event::{Listening, Way};
use lastroute::downlink::intent::{Call, DataPhase, Intent, Retry, Sealing};
use lastroute::id::DeviceId;
use lastroute::ingest::pipeline::Core;
use lastroute::ingest::replies::Replies;
use lastroute::metrics::DownlinkKind;
use lastroute::table::route::canonical;
use lastroute::wire::forward::AutoConnect;
use lastroute::wire::frame::{Header, Layout, Level, PacketType};
use lastroute::wire::rpc::Command;
use lastroute::wire::security::SECURITY_STATE;

use super::draft::{open, open_from};

/// Device 0 has a key, of device 4 none is known. Request ids are message numbers: `device * 16 + number`.
const REGISTERED: [u64; 2] = [0, 4];
/// Calls to each that wait; as many more were sent already.
const WAIT: u32 = 4;

/// Lets calls wait for the registered devices, and others be without an answer.
pub(super) fn fill(core: &Core, now: Timestamp) {
    for device in REGISTERED {
        let outbox = &core.downlinks.outbox;
        for number in 0..2 * WAIT {
            let intent = call(device as u32 * 16 + number, number, now);
            if number < WAIT {
                assert_eq!(outbox.add(DeviceId(device), intent), Ok(()));
                continue;
            }
            let level = if device == 0 && number % 2 == 0 { Level::Device } else { Level::Network };
            let way = Way { sequence: 1, level, address: ([192, 0, 2, 1], 6200).into(), relay: None };
            let listening = Listening { always_rx: true, single_tx: false, heard_at: now };
            outbox.sent(DeviceId(device), &intent, now, way, listening);
        }
        core.table.expect(DeviceId(device));
    }
}

/// One of each kind.
fn call(request_id: u32, number: u32, now: Timestamp) -> Intent {
    let data = match number % WAIT {
        2 => Some(DataPhase::Towards { data: vec![7; 500].into(), ack_period: 2 }),
        3 => Some(DataPhase::From { limit: 600 }),
        _ => None,
    };
    let mut payload = Vec::new();
    Command { request_id, command_id: 9, parameters: &[1; 5], data: None }.encode(&mut payload);
    Intent {
        message: request_id.into(),
        packet_type: PacketType::RPC_CMD,
        sealing: if number == 1 { Sealing::Network } else { Sealing::Best },
        payload: payload.into(),
        call: Some(Call { request_id, command_id: 9, data }),
        expires_at: Some(now.after(Duration::from_secs(86_400))),
        retry: Retry::Never,
        if_route: None,
    }
}

/// What has left so far.
#[derive(Default)]
pub(super) struct Left {
    calls: HashSet<u32>,
    nonces: HashSet<(DeviceId, Level, u32, u16, u16)>,
    /// Which devices were asked where, and what they are to echo.
    asked: HashSet<(DeviceId, SocketAddr, Vec<u8>)>,
    cookie: Vec<u8>,
    latest: Timestamp,
}

impl Left {
    /// What was to be echoed last.
    pub(super) fn cookie(&self) -> &[u8] {
        &self.cookie
    }

    /// Whether a device was asked to echo this at this address.
    pub(super) fn was_asked(&self, device: DeviceId, address: SocketAddr, cookie: &[u8]) -> bool {
        self.asked.contains(&(device, address, cookie.to_vec()))
    }

    /// Looks at all that a datagram led to; `counts` says whether it was taken in, or answers.
    pub(super) fn check(&mut self, replies: &Replies, counts: bool, at: Timestamp) {
        // While a clock that was set back catches up, times come again.
        let is_ahead = at >= self.latest;
        self.latest = self.latest.max(at);
        for reply in replies.iter() {
            let (header, payload) = open(reply.bytes).expect("its key is the gateway's");
            assert_eq!(header.gps_time, at.gps());
            assert!(
                counts || matches!(reply.kind, DownlinkKind::Echo | DownlinkKind::KeyQuestion),
                "for what does not count"
            );
            self.check_one(&header, &payload, counts, is_ahead);
            if header.packet_type == PacketType::ECHO_REQ {
                self.asked.insert((header.device_id, canonical(reply.to), payload.clone()));
            }
            if header.packet_type == PacketType::EPACKET_FORWARD_AUTO_CONN {
                let forward = AutoConnect::parse(&payload).expect("whole");
                let inner = open_from(forward.frame, Layout::Versioned, Interface::BtGatt).expect("its key is, too");
                self.check_one(&inner.0, &inner.1, counts, is_ahead);
            }
        }
    }

    fn check_one(&mut self, header: &Header, payload: &[u8], counts: bool, is_ahead: bool) {
        let Header { device_id, gps_time, sequence, entropy, .. } = *header;
        if header.packet_type == PacketType::ECHO_REQ {
            payload.clone_into(&mut self.cookie);
        }
        let nonce = (device_id, header.level(), gps_time, sequence, entropy);
        // Others are forgotten when there is no room for them.
        let is_new = self.nonces.insert(nonce) || !is_ahead || !REGISTERED.contains(&device_id.0);
        assert!(is_new, "a nonce is used again: {header:?}");
        let call = Command::parse(payload).filter(|_| header.packet_type == PacketType::RPC_CMD);
        let Some(Command { request_id, .. }) = call.filter(|call| call.command_id != SECURITY_STATE) else {
            return;
        };
        assert!(counts, "what does not count releases nothing");
        assert_eq!(device_id.0, u64::from(request_id / 16), "for whom it is");
        assert!(request_id % 16 < WAIT && self.calls.insert(request_id), "what was sent is not sent again");
    }
}
