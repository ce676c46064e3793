//! How fields lie in bytes: one after the other without gaps, numbers little-endian.

use std::sync::Arc;

/// Bytes that the fields of a call may take at most when every list is as short as it may be, and that are packed at most:
/// far more than a datagram holds, and a bound on what a file of definitions or a request can make of little text.
pub(super) const MAX_LEN: usize = 1 << 16;

/// Structures inside of one another at most; those of the SDK have two.
pub(super) const MAX_DEPTH: usize = 16;

/// The fields of a structure, of parameters or of a result.
#[derive(Clone, Debug, Default)]
pub(super) struct Layout {
    fields: Vec<Field>,
    min_len: usize,
    is_open: bool,
    /// Structures inside of one another.
    depth: usize,
}

/// A field.
#[derive(Clone, Debug)]
pub(super) struct Field {
    pub(super) name: Box<str>,
    pub(super) kind: Kind,
    pub(super) count: Count,
}

/// What each element of a field is.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    Integer(Integer),
    Float,
    Double,
    Character,
    Enumeration(Arc<Enumeration>),
    Structure(Arc<Layout>),
}

/// How many elements a field has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Count {
    /// One, which is not a list.
    One,
    /// So many.
    Fixed(usize),
    /// As many as the field at this place says, an integer before it; none if that is negative.
    By(usize),
    /// All that follow.
    Rest,
}

/// An integer of 1, 2, 4 or 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Integer {
    pub(super) bytes: usize,
    pub(super) signed: bool,
}

/// An integer whose values have names.
#[derive(Clone, Debug)]
pub(super) struct Enumeration {
    pub(super) integer: Integer,
    pub(super) values: Vec<(Box<str>, i128)>,
}

impl Layout {
    /// The fields in their order.
    ///
    /// # Errors
    /// Says what cannot be packed or read so.
    pub(super) fn new(fields: Vec<Field>) -> Result<Self, String> {
        let mut layout = Self::default();
        for field in fields {
            layout.push(field)?;
        }
        Ok(layout)
    }

    fn push(&mut self, field: Field) -> Result<(), String> {
        let name = &field.name;
        if self.fields.iter().any(|before| before.name == *name) {
            return Err(format!("two fields are called {name:?}; give one another name"));
        }
        if self.is_open {
            return Err(format!(
                "the field before {name:?} takes all bytes that follow; say with num or counted_by how many elements it has"
            ));
        }
        let elements = match field.count {
            Count::One => 1,
            Count::Fixed(elements) => elements,
            Count::By(_) | Count::Rest => 0,
        };
        self.min_len = self.min_len.saturating_add(elements.saturating_mul(field.kind.min_len()));
        if self.min_len > MAX_LEN {
            return Err(format!("with {name:?} the fields have more than {MAX_LEN} bytes; see that its num is right"));
        }
        if let Kind::Structure(layout) = &field.kind {
            self.depth = self.depth.max(layout.depth + 1);
        }
        if self.depth > MAX_DEPTH {
            return Err(format!(
                "with {name:?} structs lie more than {MAX_DEPTH} deep in one another; make it flatter"
            ));
        }
        self.is_open = field.count == Count::Rest || field.kind.is_open();
        self.fields.push(field);
        Ok(())
    }

    /// In their order.
    pub(super) fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// Whether it takes all bytes that follow.
    pub(super) const fn is_open(&self) -> bool {
        self.is_open
    }
}

impl Kind {
    /// Bytes of an element at least. Never 0, so that a list of elements ends.
    fn min_len(&self) -> usize {
        match self {
            Self::Integer(integer) => integer.bytes,
            Self::Float => 4,
            Self::Double => 8,
            Self::Character => 1,
            Self::Enumeration(enumeration) => enumeration.integer.bytes,
            Self::Structure(layout) => layout.min_len.max(1),
        }
    }

    fn is_open(&self) -> bool {
        matches!(self, Self::Structure(layout) if layout.is_open)
    }
}

impl Integer {
    pub(super) const U8: Self = Self { bytes: 1, signed: false };

    /// The least and the greatest value.
    pub(super) const fn range(self) -> (i128, i128) {
        let bits = self.bytes * 8;
        if self.signed { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) }
    }

    /// The value in these bytes, as many as it has.
    pub(super) fn read(self, bytes: &[u8]) -> i128 {
        let value = bytes.iter().rev().fold(0_i128, |value, byte| value << 8 | i128::from(*byte));
        if self.signed && value > self.range().1 { value - (1 << (self.bytes * 8)) } else { value }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(name: &str, kind: Kind, count: Count) -> Field {
        Field { name: name.into(), kind, count }
    }

    #[test]
    fn an_integer_of_every_width_is_read_as_it_is_written() {
        for bytes in [1, 2, 4, 8] {
            for signed in [false, true] {
                let integer = Integer { bytes, signed };
                let (least, greatest) = integer.range();
                for value in [least, least + 1, 0, 1, greatest - 1, greatest] {
                    assert_eq!(integer.read(&value.to_le_bytes()[..bytes]), value, "{integer:?}");
                }
            }
        }
        assert_eq!(Integer { bytes: 8, signed: true }.range(), (i64::MIN.into(), i64::MAX.into()));
        assert_eq!(Integer { bytes: 8, signed: false }.range().1, u64::MAX.into());
    }

    #[test]
    fn only_the_last_field_takes_what_follows_also_inside_of_another() {
        let byte = || Kind::Integer(Integer::U8);
        let open = Layout::new(vec![field("a", byte(), Count::Rest)]).unwrap();
        assert!(open.is_open());
        let error = Layout::new(vec![field("a", byte(), Count::Rest), field("b", byte(), Count::One)]).unwrap_err();
        assert!(error.starts_with("the field before \"b\" takes all"), "{error}");
        let inner = || Kind::Structure(Arc::new(open.clone()));
        assert!(Layout::new(vec![field("a", inner(), Count::One), field("b", byte(), Count::One)]).is_err());
        assert!(Layout::new(vec![field("b", byte(), Count::One), field("a", inner(), Count::One)]).unwrap().is_open());
    }

    #[test]
    fn what_is_far_too_large_or_named_twice_is_refused() {
        let mut layout = Layout::new(vec![field("a", Kind::Double, Count::Fixed(MAX_LEN / 8))]).unwrap();
        assert_eq!(layout.min_len, MAX_LEN);
        for doubling in ["b", "c"] {
            layout = Layout { min_len: MAX_LEN / 2, ..layout };
            let kind = Kind::Structure(Arc::new(layout.clone()));
            assert!(Layout::new(vec![field(doubling, kind, Count::Fixed(usize::MAX))]).is_err());
        }
        let one = || field("a", Kind::Float, Count::One);
        assert!(Layout::new(vec![one(), one()]).unwrap_err().contains("two fields are called \"a\""));
    }
}
