//! Texts from elsewhere as they may be shown to a person. What they are about is said where they are shown.

use std::io;

/// A text in one line that cannot steer a terminal: without its control characters.
pub fn one_line(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).collect()
}

/// What the system says of an error, without the error's number.
pub fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_text_is_left_out_but_what_steers_a_terminal() {
        assert_eq!(one_line("\x1b[2Ja\r\nb\tc\x07\x7f \u{9b}31mé\u{2028}"), "[2Jabc 31mé\u{2028}");
        assert_eq!(one_line(""), "");
    }

    #[test]
    fn the_reason_of_an_error_has_no_number() {
        assert_eq!(reason(&io::Error::from_raw_os_error(2)), "No such file or directory");
        assert_eq!(reason(&io::Error::other("no disk")), "no disk");
    }
}
