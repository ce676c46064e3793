//! Texts from elsewhere as they may be shown to a person. What they are about is said where they are shown.

/// A text in one line that cannot steer a terminal: without its control characters.
pub fn one_line(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_text_is_left_out_but_what_steers_a_terminal() {
        assert_eq!(one_line("\x1b[2Ja\r\nb\tc\x07\x7f \u{9b}31mé\u{2028}"), "[2Jabc 31mé\u{2028}");
        assert_eq!(one_line(""), "");
    }
}
