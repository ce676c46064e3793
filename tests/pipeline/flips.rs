//! Row 7 of docs/faults.md: packets of every length that a device sends unasked, each with one bit turned over.

use super::*;

/// What a frame with this bit turned over is refused as: key id and device id select the key, bit 15 of the flags the kind of key.
fn refused_as(bit: usize, level: Level) -> Disposition {
    match (bit / 8, level) {
        (2, Level::Network) if bit % 8 == 7 => Disposition::UnknownKey,
        (2, Level::Device) if bit % 8 == 7 => Disposition::UnknownNetwork,
        (3..=5, Level::Network) => Disposition::UnknownNetwork,
        (3..=5, Level::Device) => Disposition::UnknownKey,
        (6..=13, Level::Device) => Disposition::UnknownDevice,
        _ => Disposition::BadTag,
    }
}

/// Takes `good` in with each of `bits` turned over, then as it is.
fn flip(gateway: &mut Gateway, level: Level, good: &[u8], bits: impl Iterator<Item = usize>) {
    for bit in bits {
        // The times that a flipped bit makes are of all days, of which so many are looked at each second.
        gateway.now.0 += 10;
        let mut bytes = good.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let (disposition, reply) = gateway.take(&bytes, home());
        assert_eq!(disposition, refused_as(bit, level), "{level:?}, {} bytes, bit {bit}", good.len());
        assert!(reply.is_empty());
    }
    assert_eq!(gateway.disposition(good, home()), Disposition::Accepted, "the packet itself is good");
}

fn of_length(level: Level, sequence: u16, len: usize, at: Timestamp) -> Vec<u8> {
    let header = Header { gps_time: at.gps(), ..header(PacketType::TDF, level, DEVICE, sequence) };
    uplink(&header, &vec![0x11; len - 38])
}

#[test]
fn row_7_every_bit_of_packets_of_typical_lengths_is_refused_by_name() {
    for level in [Level::Network, Level::Device] {
        let mut gateway = Gateway::default();
        // The smallest, blocks of cipher and tag to the byte and one beyond, and the longest.
        for (sequence, len) in (1..).zip([39, 40, 54, 55, 86, 87, 102, 103, 150, 548]) {
            let good = of_length(level, sequence, len, gateway.now);
            flip(&mut gateway, level, &good, 0..len * 8);
        }
    }
}

#[test]
fn row_7_one_bit_of_every_byte_of_packets_of_all_lengths_is_refused_by_name() {
    let mut gateway = Gateway::default();
    for (sequence, len) in (1..).zip(39..=548) {
        let good = of_length(Level::Network, sequence, len, gateway.now);
        // Another one of its eight for each length.
        flip(&mut gateway, Level::Network, &good, (0..len).map(|byte| byte * 8 + (byte + len) % 8));
    }
}
