//! Calls whose results are read and written here: application_info and time_get (docs/protocol.md, RPC). Both take no
//! parameters.

use super::Reader;
use super::tdf::Version;

/// The command id of time_get.
pub const TIME_GET: u16 = 3;
/// The command id of application_info.
pub const APPLICATION_INFO: u16 = 9;
/// The return code of firmware for a command it does not have: an errno, `EOPNOTSUPP`.
pub const NOT_SUPPORTED: i16 = -95;

/// The result of application_info.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApplicationInfo {
    /// Which application the device runs.
    pub application_id: u32,
    /// The application's version.
    pub version: Version,
    /// The device's primary network.
    pub network: u32,
    /// Seconds since boot.
    pub uptime: u32,
    /// Reboots so far.
    pub reboots: u32,
    /// CRC of its key-value store.
    pub kv_crc: u32,
    /// Blocks logged on internal storage.
    pub internal_blocks: u32,
    /// Blocks logged on external storage.
    pub external_blocks: u32,
}

impl ApplicationInfo {
    /// `None` for fewer than 36 bytes; of more, the first.
    pub fn parse(body: &[u8]) -> Option<Self> {
        let mut from = Reader(body);
        Some(Self {
            application_id: from.u32()?,
            version: Version { major: from.u8()?, minor: from.u8()?, revision: from.u16()?, build: from.u32()? },
            network: from.u32()?,
            uptime: from.u32()?,
            reboots: from.u32()?,
            kv_crc: from.u32()?,
            internal_blocks: from.u32()?,
            external_blocks: from.u32()?,
        })
    }

    /// Appends the body of the response.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let Version { major, minor, revision, build } = self.version;
        out.extend_from_slice(&self.application_id.to_le_bytes());
        out.extend_from_slice(&[major, minor]);
        out.extend_from_slice(&revision.to_le_bytes());
        let words =
            [build, self.network, self.uptime, self.reboots, self.kv_crc, self.internal_blocks, self.external_blocks];
        out.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    }
}

/// Where a device has its time from, the first byte of the result of time_get. Any byte is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeSource(pub u8);

impl TimeSource {
    /// It has none and counts from 2020-01-01.
    pub const NONE: Self = Self(0);
    /// A call.
    pub const RPC: Self = Self(3);
    /// A downlink.
    pub const EPACKET: Self = Self(4);

    /// The same source, known from before a reboot.
    #[must_use]
    pub const fn recovered(self) -> Self {
        Self(self.0 | 0x80)
    }
}

/// The result of time_get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeInfo {
    /// Where the time is from.
    pub source: TimeSource,
    /// The device's time since 1980-01-06T00:00:00Z without leap seconds, in 1/65536 s.
    pub time: u64,
    /// Seconds since the time was set; `None` if it never was since boot.
    pub age: Option<u32>,
}

/// On the wire, an age of never.
const NEVER: u32 = u32::MAX;

impl TimeInfo {
    /// `None` for fewer than 13 bytes; of more, the first.
    pub fn parse(body: &[u8]) -> Option<Self> {
        let mut from = Reader(body);
        let (source, time, age) = (TimeSource(from.u8()?), from.u64()?, from.u32()?);
        Some(Self { source, time, age: (age != NEVER).then_some(age) })
    }

    /// Appends the body of the response.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.source.0);
        out.extend_from_slice(&self.time.to_le_bytes());
        out.extend_from_slice(&self.age.unwrap_or(NEVER).to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(encode: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        encode(&mut out);
        out
    }

    #[test]
    fn the_fields_of_application_info_lie_where_the_protocol_says_and_round_trip() {
        let info = ApplicationInfo {
            application_id: 0x0403_0201,
            version: Version { major: 5, minor: 6, revision: 0x0807, build: 0x0c0b_0a09 },
            network: 0xa17,
            uptime: 0x1413_1211,
            reboots: 2,
            kv_crc: 0x1c1b_1a19,
            internal_blocks: 3,
            external_blocks: u32::MAX,
        };
        let body = bytes(|out| info.encode(out));
        let expected = [
            &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0x17, 0x0a, 0, 0, 0x11, 0x12, 0x13, 0x14, 2, 0, 0, 0][..],
            &[0x19, 0x1a, 0x1b, 0x1c, 3, 0, 0, 0, 255, 255, 255, 255],
        ];
        assert_eq!(body, expected.concat());
        assert_eq!(ApplicationInfo::parse(&body), Some(info));
        assert!((0..36).all(|len| ApplicationInfo::parse(&body[..len]).is_none()));
    }

    #[test]
    fn a_time_round_trips_with_and_without_an_age() {
        for (age, on_wire) in [(Some(25), [25, 0, 0, 0]), (None, [255; 4])] {
            let info = TimeInfo { source: TimeSource::EPACKET.recovered(), time: 0x0807_0605_0403_0201, age };
            let body = bytes(|out| info.encode(out));
            assert_eq!(body, [&[0x84, 1, 2, 3, 4, 5, 6, 7, 8][..], &on_wire].concat());
            assert_eq!(TimeInfo::parse(&body), Some(info));
            assert!((0..13).all(|len| TimeInfo::parse(&body[..len]).is_none()));
        }
    }
}
