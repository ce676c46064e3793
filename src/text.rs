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

/// The numbers below 100 in two digits.
static PAIRS: [[u8; 2]; 100] = {
    let (mut pairs, mut number) = ([[0; 2]; 100], 0);
    while number < pairs.len() {
        pairs[number] = [b'0' + (number / 10) as u8, b'0' + (number % 10) as u8];
        number += 1;
    }
    pairs
};

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
        self.room(text.len()).copy_from_slice(text.as_bytes());
        self
    }

    /// Adds a number in decimal.
    pub fn decimal(&mut self, number: u64) -> &mut Self {
        let len = number.checked_ilog10().map_or(1, |log| log as usize + 1);
        self.digits(number, len)
    }

    /// Adds the last `len` decimal digits of a number, with zeros in front if it has fewer.
    pub fn digits(&mut self, mut number: u64, len: usize) -> &mut Self {
        let mut pairs = self.room(len).rchunks_exact_mut(2);
        for pair in pairs.by_ref() {
            pair.copy_from_slice(&PAIRS[(number % 100) as usize]);
            number /= 100;
        }
        if let [first] = pairs.into_remainder() {
            *first = b'0' + (number % 10) as u8;
        }
        self
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

    /// The next so many bytes.
    fn room(&mut self, len: usize) -> &mut [u8] {
        let from = self.len;
        self.len += len;
        &mut self.bytes[from..self.len]
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
                prop_assert_eq!(text(|text| _ = text.digits(number, 4)), format!("{:04}", number % 10_000));
                prop_assert_eq!(text(|text| _ = text.digits(number, 3)), format!("{:03}", number % 1000));
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
        let row = text(|text| _ = text.add("from ").address(address).add(" on day ").digits(5, 2));
        assert_eq!(row, "from 203.0.113.7:6200 on day 05");
    }
}
