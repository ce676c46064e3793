//! Hex as people paste it: bytes with or without spaces, colons, commas, line ends and `0x`.

/// The bytes of a text, at least one.
///
/// # Errors
/// What is wrong and at which character, from 1.
pub(super) fn bytes(text: &str) -> Result<Vec<u8>, String> {
    let mut digits = String::with_capacity(text.len());
    let is_separator = |character: char| character.is_whitespace() || matches!(character, ':' | ',' | '-');
    let mut start = true;
    let mut characters = text.chars().enumerate().peekable();
    while let Some((at, character)) = characters.next() {
        if is_separator(character) {
            start = true;
        } else if start && character == '0' && characters.next_if(|(_, next)| matches!(next, 'x' | 'X')).is_some() {
            start = false;
        } else if character.is_ascii_hexdigit() {
            digits.push(character);
            start = false;
        } else {
            return Err(format!("character {} is {character:?}, and no hex digit", at + 1));
        }
    }
    match digits.len() {
        0 => Err("no hex digits".to_owned()),
        odd if odd % 2 == 1 => Err(format!("{odd} hex digits, an odd number: one is missing or too many")),
        _ => hex::decode(&digits).map_err(|error| error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_usual_form_of_hex_is_read() {
        for text in ["7f0017", "7F 00 17", "7f:00:17", "0x7f0017", "0x7f, 0x00, 0x17", " 7f00\n17\r\n", "7f-00-17"] {
            assert_eq!(bytes(text), Ok(vec![0x7f, 0, 0x17]), "{text}");
        }
        assert_eq!(bytes("0x0x"), Err("character 4 is 'x', and no hex digit".to_owned()));
    }

    #[test]
    fn what_is_no_hex_is_named_by_its_place() {
        assert_eq!(bytes("7f0g"), Err("character 4 is 'g', and no hex digit".to_owned()));
        assert_eq!(bytes("7f é"), Err("character 4 is 'é', and no hex digit".to_owned()));
        assert_eq!(bytes("7f0"), Err("3 hex digits, an odd number: one is missing or too many".to_owned()));
        assert_eq!(bytes(" : "), Err("no hex digits".to_owned()));
    }
}
