//! Text from untrusted sources, escaped for terminals.

/// Escapes control characters, so that a text cannot control the terminal: log lines come from models, whose authors may not be trusted.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() && character != '\t' {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_cannot_be_steered() {
        assert_eq!(
            printable("a\tb \u{1b}[2J\u{9b}é"),
            "a\tb \\u{1b}[2J\\u{9b}é"
        );
    }
}
