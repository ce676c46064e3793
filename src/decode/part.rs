//! The tree that an explanation is: parts of a datagram with their fields, and what is wrong with them. No wording of
//! output here; `text` and `json` write it.

use serde_json::Value;

use super::verdict::Verdict;
use crate::wire::Reader;

/// A stretch of a datagram and what it means. All offsets count from the first byte of the datagram, in what was
/// encrypted as well: the plaintext lies where the ciphertext lay.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Part {
    /// What it is, in a few words.
    pub title: String,
    /// Offset of its first byte.
    pub at: usize,
    /// Its fields, in the order of their bytes; no name twice.
    pub fields: Vec<Field>,
    /// Bytes to be shown as they are.
    pub dump: Vec<u8>,
    /// Sentences on the whole.
    pub notes: Vec<String>,
    /// What is wrong, and at which byte.
    pub faults: Vec<Fault>,
    /// What it is made of.
    pub parts: Vec<Part>,
    /// What a gateway would do with it, if that is asked of this part.
    pub verdict: Option<Verdict>,
}

/// One field.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// The name, lower-case with underscores. Stable.
    pub name: &'static str,
    /// Offset of its first byte.
    pub at: usize,
    /// Its bytes as they were sent.
    pub bytes: Vec<u8>,
    /// Its value: a number, or the text that the API has for it.
    pub value: Value,
    /// Value and meaning for a person.
    pub text: String,
}

/// Where something is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Offset of the byte.
    pub at: usize,
    /// What was expected there.
    pub text: String,
}

impl Part {
    /// An empty part that begins at `at`.
    pub fn new(title: impl Into<String>, at: usize) -> Self {
        Self { title: title.into(), at, ..Self::default() }
    }

    /// Adds a fault.
    pub fn fault(&mut self, at: usize, text: impl Into<String>) {
        self.faults.push(Fault { at, text: text.into() });
    }

    /// Whether this part, or one inside it, has a fault.
    pub fn is_faulty(&self) -> bool {
        !self.faults.is_empty() || self.parts.iter().any(Self::is_faulty)
    }
}

/// Takes fields off the front of some bytes into a [`Part`]. Where they end too early the part gets a fault, and the
/// caller `None`.
#[derive(Clone, Debug)]
pub(super) struct Walk<'a> {
    rest: Reader<'a>,
    at: usize,
}

impl<'a> Walk<'a> {
    /// Walks over `bytes`, the first of which is at `at`.
    pub(super) const fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { rest: Reader(bytes), at }
    }

    /// Offset of the next byte.
    pub(super) const fn at(&self) -> usize {
        self.at
    }

    /// The bytes not taken yet.
    pub(super) const fn rest(&self) -> &'a [u8] {
        self.rest.0
    }

    /// Takes `len` bytes as a field; `meaning` gives its value and text.
    pub(super) fn bytes(
        &mut self,
        part: &mut Part,
        name: &'static str,
        len: usize,
        meaning: impl FnOnce(&'a [u8]) -> (Value, String),
    ) -> Option<&'a [u8]> {
        let left = self.rest.remaining();
        let Some(bytes) = self.rest.bytes(len) else {
            let spoken = name.replace('_', " ");
            let found = if left == 0 { "and nothing is left".to_owned() } else { format!("of which {left} are there") };
            part.fault(self.at, format!("expected the {} of {spoken}, {found}", count(len, "byte")));
            return None;
        };
        let (value, text) = meaning(bytes);
        part.fields.push(Field { name, at: self.at, bytes: bytes.to_vec(), value, text });
        self.at += len;
        Some(bytes)
    }

    /// Takes `N` bytes.
    pub(super) fn array<const N: usize>(
        &mut self,
        part: &mut Part,
        name: &'static str,
        meaning: impl FnOnce([u8; N]) -> (Value, String),
    ) -> Option<[u8; N]> {
        let array = |bytes: &[u8]| bytes.first_chunk().copied().unwrap_or([0; N]);
        self.bytes(part, name, N, |bytes| meaning(array(bytes))).map(array)
    }

    /// Takes `N` bytes whose value is a text.
    pub(super) fn text<const N: usize>(
        &mut self,
        part: &mut Part,
        name: &'static str,
        text: impl FnOnce([u8; N]) -> String,
    ) -> Option<[u8; N]> {
        self.array(part, name, |bytes| {
            let text = text(bytes);
            (Value::from(text.clone()), text)
        })
    }

    /// Takes a byte.
    pub(super) fn u8(&mut self, part: &mut Part, name: &'static str, text: impl FnOnce(u8) -> String) -> Option<u8> {
        self.array(part, name, |[byte]| (byte.into(), text(byte))).map(|[byte]| byte)
    }

    /// Takes a 16-bit number.
    pub(super) fn u16(&mut self, part: &mut Part, name: &'static str, text: impl FnOnce(u16) -> String) -> Option<u16> {
        let number = u16::from_le_bytes;
        self.array(part, name, |bytes| (number(bytes).into(), text(number(bytes)))).map(number)
    }

    /// Takes a signed 16-bit number.
    pub(super) fn i16(&mut self, part: &mut Part, name: &'static str, text: impl FnOnce(i16) -> String) -> Option<i16> {
        let number = i16::from_le_bytes;
        self.array(part, name, |bytes| (number(bytes).into(), text(number(bytes)))).map(number)
    }

    /// Takes a 32-bit number.
    pub(super) fn u32(&mut self, part: &mut Part, name: &'static str, text: impl FnOnce(u32) -> String) -> Option<u32> {
        let number = u32::from_le_bytes;
        self.array(part, name, |bytes| (number(bytes).into(), text(number(bytes)))).map(number)
    }

    /// Takes a 64-bit number.
    pub(super) fn u64(&mut self, part: &mut Part, name: &'static str, text: impl FnOnce(u64) -> String) -> Option<u64> {
        let number = u64::from_le_bytes;
        self.array(part, name, |bytes| (number(bytes).into(), text(number(bytes)))).map(number)
    }

    /// Takes all that is left, if anything is, as a field.
    pub(super) fn remainder(&mut self, part: &mut Part, name: &'static str) {
        let len = self.rest.remaining();
        if len > 0 {
            self.bytes(part, name, len, |bytes| (hex::encode(bytes).into(), count(len, "byte")));
        }
    }
}

/// `1 byte`, `2 bytes`.
pub(super) fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// The number itself, as text.
pub(super) fn plain(number: impl ToString) -> String {
    number.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_lie_one_after_the_other_and_the_first_that_does_not_fit_is_a_fault() {
        let mut part = Part::new("numbers", 10);
        let mut walk = Walk::new(&[1, 2, 0, 3, 0, 0, 0, 0xff, 0xff, 9], 10);
        assert_eq!(walk.u8(&mut part, "one", plain), Some(1));
        assert_eq!(walk.u16(&mut part, "two", plain), Some(2));
        assert_eq!(walk.u32(&mut part, "four", plain), Some(3));
        assert_eq!(walk.i16(&mut part, "signed", plain), Some(-1));
        assert_eq!(walk.u64(&mut part, "too_long", plain), None);
        let offsets: Vec<_> = part.fields.iter().map(|field| (field.at, field.text.as_str())).collect();
        assert_eq!(offsets, [(10, "1"), (11, "2"), (13, "3"), (17, "-1")]);
        let text = "expected the 8 bytes of too long, of which 1 are there".to_owned();
        assert_eq!(part.faults, [Fault { at: 19, text }]);
        assert!(part.is_faulty());
        walk.remainder(&mut part, "rest");
        assert_eq!((walk.at(), walk.rest(), part.fields.len()), (20, &[][..], 5));
    }
}
