//! What a simulated device reports: the TDF payload of its telemetry.

use crate::id::KeyId;
use crate::wire::calls::ApplicationInfo;
use crate::wire::tdf::{self, Announce, Version};

/// The application that simulated devices announce: "simu" in ASCII.
const APPLICATION_ID: u32 = 0x7369_6d75;
/// The version that simulated devices announce.
const VERSION: Version = Version { major: 1, minor: 0, revision: 0, build: 1 };
/// The reading id of the one measured value. None of the announce readings, and of no meaning to a gateway.
const MEASUREMENT: u16 = 1024;

/// Appends an announce: application, version, and for how many seconds and after how many reboots it runs.
pub(super) fn announce(uptime: u32, reboots: u16, out: &mut Vec<u8>) {
    let announce = Announce {
        application_id: APPLICATION_ID,
        version: VERSION,
        // No board name, no key-value store, no logger.
        board_crc: None,
        kv_crc: 0,
        blocks: u32::MAX,
        uptime,
        reboots,
        flags: 0,
    };
    announce.append(out);
}

/// The same in answer to a call, from a device of `network`.
pub(super) const fn application(network: KeyId, uptime: u32, reboots: u32) -> ApplicationInfo {
    ApplicationInfo {
        application_id: APPLICATION_ID,
        version: VERSION,
        network: network.get(),
        uptime,
        reboots,
        // No key-value store, no logger.
        kv_crc: 0,
        internal_blocks: 0,
        external_blocks: 0,
    }
}

/// Appends one measured value, taken at `gps_time`.
pub(super) fn measurement(gps_time: u32, value: u32, out: &mut Vec<u8>) {
    #[allow(clippy::expect_used, reason = "the id is a constant within the range, and so is the length")]
    tdf::append(MEASUREMENT, Some(gps_time), &value.to_le_bytes(), out).expect("a reading of 4 bytes");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn telemetry_is_well_formed_and_has_the_announce_in_the_layout_of_captured_firmware() {
        let mut payload = Vec::new();
        announce(20, 1, &mut payload);
        // Run "sync" of the captured firmware, at 20 s: as long, and the same uptime, reboots and flags.
        let captured = hex::decode("07001d000000000000000000000000b1020af091f20000000014000000010000").unwrap();
        assert_eq!((payload.len(), &payload[..3], &payload[25..]), (captured.len(), &captured[..3], &captured[25..]));
        measurement(1_479_435_219, 5, &mut payload);
        let scan = tdf::scan(&payload);
        assert_eq!((scan.fault, scan.announce.map(|announce| announce.application_id)), (None, Some(APPLICATION_ID)));
    }
}
