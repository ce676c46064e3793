//! How long the texts of records may be.

use std::ops::RangeInclusive;

use super::error::RegistryError;

/// Bytes of a name.
pub(super) const NAME: RangeInclusive<usize> = 1..=255;
/// Bytes of a description.
pub(super) const DESCRIPTION: RangeInclusive<usize> = 0..=4096;
/// Bytes of the name of a system on chip.
pub(super) const SOC: RangeInclusive<usize> = 1..=64;
/// Metadata fields of a board, and of a device.
pub(super) const FIELDS: usize = 64;

/// Checks a text that the request calls `what`.
///
/// # Errors
/// It has too few or too many bytes, or a NUL, which not every database keeps.
pub(super) fn check(what: &str, text: &str, bytes: RangeInclusive<usize>) -> Result<(), RegistryError> {
    if !bytes.contains(&text.len()) {
        let (least, most, len) = (bytes.start(), bytes.end(), text.len());
        return Err(RegistryError::Rule(format!("{what} has {len} bytes; it may have {least} to {most}")));
    }
    if text.contains('\0') {
        return Err(RegistryError::Rule(format!("{what} has a NUL in it; leave that out")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_has_so_many_bytes_and_no_nul() {
        for good in ["a", &"é".repeat(127)] {
            assert_eq!(check("name", good, NAME), Ok(()));
        }
        for (bad, said) in [
            ("", "name has 0 bytes; it may have 1 to 255"),
            (&"é".repeat(128), "name has 256 bytes; it may have 1 to 255"),
            ("a\0b", "name has a NUL in it; leave that out"),
        ] {
            assert_eq!(check("name", bad, NAME), Err(RegistryError::Rule(said.to_owned())));
        }
    }
}
