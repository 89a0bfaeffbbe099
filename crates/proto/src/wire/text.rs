//! Text from the other side, made fit for a terminal and a log.

/// Longest text that is taken from the other side, in bytes. What is longer is cut and ends in an ellipsis.
pub const MAX_TEXT: usize = 128;

/// What stands for a character that is not shown.
const REPLACEMENT: char = '\u{fffd}';

/// `foreign` with every character replaced that could move a cursor, start an escape sequence, end a line or turn the
/// direction of writing, and cut to [`MAX_TEXT`] bytes.
#[must_use]
pub fn text(foreign: &str) -> String {
    let shown = |c: char| if is_plain(c) { c } else { REPLACEMENT };
    let mut text = String::new();
    for c in foreign.chars().map(shown) {
        if text.len() + c.len_utf8() > MAX_TEXT {
            while text.len() + '…'.len_utf8() > MAX_TEXT {
                text.pop();
            }
            text.push('…');
            break;
        }
        text.push(c);
    }
    text
}

fn is_plain(c: char) -> bool {
    // Line and paragraph separators, marks of direction and other invisible ones are no control characters to Unicode.
    let invisible = matches!(c,
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    !c.is_control() && !invisible
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_steers_a_terminal_is_left() {
        assert_eq!(text("attention.scores [64, 64] äß€"), "attention.scores [64, 64] äß€");
        let hostile = [
            "\u{1b}[2J",
            "\u{9b}2J",
            "a\rb\nc\u{8}",
            "\u{7f}",
            "\u{202e}x",
            "\u{2028}",
            "\u{200b}",
        ];
        for foreign in hostile {
            let got = text(foreign);
            assert!(got.contains(REPLACEMENT) && got.chars().all(is_plain), "{got:?}");
        }
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        assert_eq!(text(&"x".repeat(MAX_TEXT)), "x".repeat(MAX_TEXT));
        for c in ["x", "ä", "€", "𝄞", "\u{1b}"] {
            let got = text(&c.repeat(1 << 20));
            assert!(got.len() <= MAX_TEXT && got.len() > MAX_TEXT - 8, "{}", got.len());
            assert!(got.ends_with('…'));
        }
    }
}
