//! A request in JSON is refused as the caller's fault, or answered: with its numbers, in JSON and in bytes alike.

#![no_main]

use libfuzzer_sys::fuzz_target;
use open_inference::fuzzing::Same;
use samovar_fuzz::open_inference::{Elements, Tensor, ask, check_forms, numbers, values};
use serde_json::Value;

thread_local! {
    static SAME: Same = Same::default();
}

fuzz_target!(|body: &[u8]| {
    SAME.with(|same| {
        let Some(answer) = ask(same, body.to_vec(), None) else {
            return;
        };
        let (_, tensors) = check_forms(same, &answer);
        // A field that is passed over may hold what is no text.
        let Ok(asked) = serde_json::from_slice::<Value>(body) else {
            return;
        };
        let mut seen = Vec::new();
        for input in asked["inputs"].as_array().into_iter().flatten() {
            let name = input["name"].as_str().expect("it was read before");
            // Of two of one name, the first is used here; a real graph refuses them.
            let is_first = !seen.contains(&name);
            seen.push(name);
            if let Some(answered) = tensors.iter().find(|one| one.name == name)
                && is_first
            {
                check_numbers(&input["data"], answered);
            }
        }
    });
});

/// Each number is what was sent, as near as its type can say.
fn check_numbers(data: &Value, answered: &Tensor) {
    let Elements::Bytes(bytes) = &answered.elements else {
        panic!("bytes were asked for");
    };
    // Half of the last place, and the smallest number. An f64 has 53 bits, of which `serde_json` may miss the last.
    let (precision, least) = match answered.name.as_str() {
        "FP16" => (2f64.powi(-11), 2f64.powi(-24)),
        "BF16" => (2f64.powi(-8), f64::from(f32::MIN_POSITIVE)),
        "FP32" => (2f64.powi(-24), f64::from(f32::MIN_POSITIVE)),
        _ => (2f64.powi(-50), f64::MIN_POSITIVE),
    };
    let sent = numbers(data);
    let found = values(&answered.name, bytes);
    assert_eq!(sent.len(), found.len(), "{data}");
    for (text, found) in sent.iter().zip(found) {
        let sent: f64 = match text.as_str() {
            "false" => 0.0,
            "true" => 1.0,
            text => text.parse().expect("a number"),
        };
        let near = (sent - found).abs() <= sent.abs() * precision * 1.001 + least;
        let same = sent == found || sent.is_nan() && found.is_nan();
        assert!(near || same, "{}: {text} became {found}", answered.name);
    }
}
