//! Text of what is told by the hundred thousand, put together on the stack and without the formatter of the standard library,
//! which takes several times as long: numbers and addresses.

use std::fmt::{self, Write};
use std::net::SocketAddr;

/// Text of at most `N` bytes. It panics if more is added: `N` is what the longest of its kind takes.
#[derive(Clone, Debug)]
pub struct Text<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

/// Decimal digits of the greatest number.
const DIGITS: usize = 20;

impl<const N: usize> Text<N> {
    /// Nothing yet.
    pub const fn new() -> Self {
        Self { bytes: [0; N], len: 0 }
    }

    /// What there is.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Adds what is text already.
    pub fn add(&mut self, text: &str) -> &mut Self {
        self.put(text.as_bytes())
    }

    /// Adds a number in decimal.
    pub fn decimal(&mut self, mut number: u64) -> &mut Self {
        let (mut digits, mut first) = ([0; DIGITS], DIGITS);
        loop {
            first -= 1;
            digits[first] = digit(number);
            number /= 10;
            if number == 0 {
                return self.put(&digits[first..]);
            }
        }
    }

    /// Adds the last `W` decimal digits of a number, with zeros in front if it has fewer.
    pub fn padded<const W: usize>(&mut self, mut number: u64) -> &mut Self {
        let mut digits = [0; W];
        for place in digits.iter_mut().rev() {
            *place = digit(number);
            number /= 10;
        }
        self.put(&digits)
    }

    /// Adds an address with its port.
    pub fn address(&mut self, address: SocketAddr) -> &mut Self {
        match address {
            SocketAddr::V4(address) => {
                let [first, rest @ ..] = address.ip().octets();
                self.decimal(first.into());
                for octet in rest {
                    self.add(".").decimal(octet.into());
                }
                self.add(":").decimal(address.port().into());
            }
            // It has rules of its own, and is rarer. Nothing fails here.
            SocketAddr::V6(address) => _ = write!(self, "{address}"),
        }
        self
    }

    fn put(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes[self.len..][..bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
        self
    }
}

impl<const N: usize> Write for Text<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.add(text);
        Ok(())
    }
}

impl<const N: usize> Default for Text<N> {
    fn default() -> Self {
        Self::new()
    }
}

/// The last decimal digit of a number.
const fn digit(number: u64) -> u8 {
    b'0' + (number % 10) as u8
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    fn text(write: impl FnOnce(&mut Text<64>)) -> String {
        let mut text = Text::new();
        write(&mut text);
        String::from_utf8(text.as_bytes().to_vec()).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn it_is_what_the_formatter_would_write(number: u64, small: u16, ip: IpAddr, port: u16) {
            for number in [number, small.into()] {
                prop_assert_eq!(text(|text| _ = text.decimal(number)), number.to_string());
                prop_assert_eq!(text(|text| _ = text.padded::<4>(number)), format!("{:04}", number % 10_000));
            }
            let address = SocketAddr::new(ip, port);
            prop_assert_eq!(text(|text| _ = text.address(address)), address.to_string());
        }
    }

    #[test]
    fn the_least_and_the_greatest_numbers_are_written_in_full() {
        for number in [0, 9, 10, 99, 100, u64::MAX] {
            assert_eq!(text(|text| _ = text.decimal(number)), number.to_string());
        }
        let all = SocketAddr::new(IpAddr::V6(Ipv6Addr::from_bits(u128::MAX)), u16::MAX);
        assert_eq!(text(|text| _ = text.address(all)), all.to_string());
    }

    #[test]
    fn what_is_added_stands_in_a_row() {
        let address = "203.0.113.7:6200".parse().unwrap();
        let row = text(|text| _ = text.add("from ").address(address).add(" on day ").padded::<2>(5));
        assert_eq!(row, "from 203.0.113.7:6200 on day 05");
    }
}
