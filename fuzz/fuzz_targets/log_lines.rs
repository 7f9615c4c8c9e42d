//! What a guest prints becomes the same lines however its bytes come, and they are those that a terminal would show.
//!
//! An input is how often it is repeated, how many bytes come at a time, and what is printed.

#![no_main]

use libfuzzer_sys::fuzz_target;
use samovar_runtime::fuzzing::log_lines;
use samovar_runtime::log::MAX_LINE_BYTES;

fuzz_target!(|bytes: &[u8]| {
    let [times, step, printed @ ..] = bytes else {
        return;
    };
    let printed = printed.repeat(1 + usize::from(*times));
    if printed.len() > 64 << 10 {
        return;
    }
    let lines = log_lines([&printed[..]]);
    let parts = printed.chunks(1 + usize::from(*step));
    assert_eq!(log_lines(parts), lines);

    let wanted = split(&printed);
    assert_eq!(lines.len(), wanted.len());
    for (line, wanted) in lines.iter().zip(wanted) {
        let text = String::from_utf8_lossy(wanted);
        assert!(line.len() <= MAX_LINE_BYTES);
        if wanted.len() <= MAX_LINE_BYTES && text.len() <= MAX_LINE_BYTES {
            assert_eq!(*line, text);
        } else {
            let (start, mark) = line.rsplit_once("… [cut").expect("a mark");
            assert!(mark.ends_with(']'));
            assert!(text.starts_with(start));
            assert!(start.len() > MAX_LINE_BYTES - 64, "cut too early");
        }
    }
});

/// The lines, each as it stands at its end: what comes after a return is written over what came before.
fn split(printed: &[u8]) -> Vec<&[u8]> {
    let mut lines: Vec<&[u8]> = printed.split(|byte| *byte == b'\n').map(shown).collect();
    // Nothing follows the last line's end, or a line that was not ended.
    if lines.last().is_some_and(|last| last.is_empty()) {
        lines.pop();
    }
    lines
}

fn shown(line: &[u8]) -> &[u8] {
    let end = line.iter().rposition(|byte| *byte != b'\r');
    let line = &line[..end.map_or(0, |at| at + 1)];
    let over = line.iter().rposition(|byte| *byte == b'\r');
    &line[over.map_or(0, |at| at + 1)..]
}
