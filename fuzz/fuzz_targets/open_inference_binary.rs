//! Tensors behind the JSON of a request come back bit for bit, or the request is refused as the caller's fault.
//!
//! An input is a digit, the JSON, a zero byte and the tensors. The digit is added to the length of the JSON that is announced.

#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use open_inference::fuzzing::Same;
use samovar_fuzz::open_inference::{Elements, ask, check_forms, tensors, values};
use serde_json::Value;

thread_local! {
    static SAME: Same = Same::default();
}

fuzz_target!(|bytes: &[u8]| {
    let Some((digit, rest)) = bytes.split_first() else {
        return;
    };
    let wrong_by = i64::from(*digit) - i64::from(b'0');
    let end = rest.iter().position(|byte| *byte == 0);
    let (json, mut binary) = match end {
        Some(end) => (&rest[..end], &rest[end + 1..]),
        None => (rest, &[][..]),
    };
    let length = (json.len() as i64 + wrong_by).to_string();
    SAME.with(|same| {
        let Some(answer) = ask(same, [json, binary].concat(), Some(&length)) else {
            return;
        };
        let (_, answered) = check_forms(same, &answer);
        // A field that is passed over may hold what is no text.
        let (0, Ok(asked)) = (wrong_by, serde_json::from_slice::<Value>(json)) else {
            return;
        };
        let mut sent: BTreeMap<&str, Option<&[u8]>> = BTreeMap::new();
        for input in asked["inputs"].as_array().into_iter().flatten() {
            let size = input["parameters"]["binary_data_size"].as_u64();
            let own = size.map(|size| {
                let (own, after) = binary.split_at(size as usize);
                binary = after;
                own
            });
            let name = input["name"].as_str().expect("it was read before");
            // Of two of one name, the first is used here; a real graph refuses them.
            sent.entry(name).or_insert(own);
        }
        for first in tensors(&answer) {
            let Some(Some(own)) = sent.get(&*first.name) else {
                continue;
            };
            let tensor = answered.iter().find(|one| one.name == first.name);
            let Some(Elements::Bytes(found)) = tensor.map(|tensor| &tensor.elements) else {
                panic!("bytes of {} were asked for", first.name);
            };
            match &first.elements {
                Elements::Bytes(bytes) => assert_eq!((&**bytes, &**found), (*own, *own)),
                // By way of JSON, a bool is 0 or 1, and NaN one of many.
                Elements::Json(_) => {
                    let values = |bytes| values(&first.name, bytes);
                    let same = values(own).into_iter().zip(values(found));
                    assert_eq!(own.len(), found.len());
                    for (own, found) in same {
                        assert!(own == found || own.is_nan() && found.is_nan());
                    }
                }
            }
        }
    });
});
