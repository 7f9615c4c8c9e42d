use proptest::prelude::*;

use super::*;

const ALL: [Datatype; 9] = Datatype::ALL;

fn bytes(text: &str, datatype: Datatype, shape: &[u32]) -> Result<Vec<u8>, String> {
    to_bytes(serde_json::from_str(text).unwrap(), datatype, shape)
}

fn there_and_back(text: &str, datatype: Datatype, count: u32) -> String {
    let bytes = bytes(text, datatype, &[count]).unwrap();
    to_json(&bytes, datatype).unwrap().get().to_owned()
}

#[test]
fn nested_and_flat_numbers_are_the_same() {
    let flat = bytes("[1, 2.5, -3e2, 4]", Datatype::Fp32, &[2, 2]).unwrap();
    let nested = bytes("[[1, 2.5], [-3e2, 4]]", Datatype::Fp32, &[2, 2]).unwrap();
    assert_eq!(nested, flat);
    let json = to_json(&flat, Datatype::Fp32).unwrap();
    assert_eq!(json.get(), "[1.0,2.5,-300.0,4.0]");
    // Scalars, and tensors without elements.
    for (text, shape, size) in [
        ("5", &[][..], 4),
        ("[5]", &[], 4),
        ("[[5]]", &[1, 1], 4),
        ("[]", &[0, 4], 0),
        ("[]", &[2, 0], 0),
        ("[[],[]]", &[2, 0], 0),
    ] {
        let bytes = bytes(text, Datatype::Fp32, shape).unwrap();
        assert_eq!(bytes.len(), size, "{text} {shape:?}");
    }
}

#[test]
fn every_type_goes_both_ways() {
    for (datatype, text) in [
        (Datatype::Bool, "[true,false]"),
        (Datatype::Uint8, "[0,255]"),
        (Datatype::Int8, "[-128,127]"),
        (Datatype::Int32, "[-2147483648,2147483647]"),
        (
            Datatype::Int64,
            "[-9223372036854775808,9223372036854775807]",
        ),
        (Datatype::Fp16, "[0.5,-65504.0]"),
        (Datatype::Bf16, "[0.5,-2.0]"),
        (Datatype::Fp32, "[0.1,-2.0]"),
        (Datatype::Fp64, "[0.1,-2.0]"),
    ] {
        assert_eq!(there_and_back(text, datatype, 2), text);
    }
}

#[test]
fn what_is_not_finite_has_one_form_in_both_directions() {
    let text = r#"["NaN","Infinity","-Infinity"]"#;
    for datatype in ALL {
        if datatype.is_float() {
            assert_eq!(there_and_back(text, datatype, 3), text);
        } else {
            assert!(bytes(text, datatype, &[3]).is_err());
        }
    }
}

#[test]
fn integers_are_exact_in_every_notation_or_refused() {
    for (text, wanted) in [
        ("[1e18]", "[1000000000000000000]"),
        ("[9007199254740993e0]", "[9007199254740993]"),
        ("[9007199254740993.000]", "[9007199254740993]"),
        ("[-92233720368547758.08E+2]", "[-9223372036854775808]"),
        ("[1200e-2]", "[12]"),
        ("[0e999999999999999999999]", "[0]"),
        ("[-0.0]", "[0]"),
        ("[100000000000000000000000000000000000000000e-40]", "[10]"),
    ] {
        assert_eq!(there_and_back(text, Datatype::Int64, 1), wanted, "{text}");
    }
    for text in [
        "[0.5]",
        "[15e-1]",
        "[1e-1]",
        "[9007199254740993.5]",
        "[1e-99999999999999999999]",
    ] {
        let error = bytes(text, Datatype::Int64, &[1]).unwrap_err();
        assert!(error.contains("wanted a whole number of INT64"), "{error}");
    }
    for text in [
        "[9223372036854775808]",
        "[1e19]",
        "[1e99999999999999999999]",
    ] {
        let error = bytes(text, Datatype::Int64, &[1]).unwrap_err();
        assert!(error.contains("is outside the range of INT64"), "{error}");
    }
}

#[test]
fn numbers_are_rounded_once() {
    // The nearest f64 lies in the middle of two f32, and would be rounded to the even one.
    let text = "[1.00000017881393432617187499]";
    let found = bytes(text, Datatype::Fp32, &[1]).unwrap();
    assert_eq!(found, 1.000_000_1_f32.to_le_bytes());
}

#[test]
fn what_does_not_fit_is_refused_with_its_place() {
    for (text, datatype, shape, wanted) in [
        (
            "[256]",
            Datatype::Uint8,
            &[1][..],
            "data[0]: 256 is outside the range of UINT8",
        ),
        (
            "[1,1e39]",
            Datatype::Fp32,
            &[2],
            "data[1]: 1e39 is outside the range of FP32",
        ),
        (
            "[[1],[-1e39]]",
            Datatype::Fp32,
            &[2, 1],
            "data[1][0]: -1e39 is outside",
        ),
        (
            "[70000]",
            Datatype::Fp16,
            &[1],
            "70000 is outside the range of FP16",
        ),
        (
            "[3.4e38]",
            Datatype::Bf16,
            &[1],
            "3.4e38 is outside the range of BF16",
        ),
        (
            "[1e309]",
            Datatype::Fp64,
            &[1],
            "1e309 is outside the range of FP64",
        ),
        (
            "[1.5]",
            Datatype::Int64,
            &[1],
            "data[0]: found 1.5, wanted a whole number of INT64",
        ),
        (
            "[\"a\"]",
            Datatype::Fp32,
            &[1],
            "data[0]: found \"a\", wanted a number of FP32",
        ),
        (
            "[null]",
            Datatype::Fp32,
            &[1],
            "data[0]: found null, wanted a number of FP32, \"NaN\"",
        ),
        (
            "[{\"a\":[1]}]",
            Datatype::Fp32,
            &[1],
            "data[0]: found an object",
        ),
        (
            "[2]",
            Datatype::Bool,
            &[1],
            "data[0]: found 2, wanted true, false, 0 or 1",
        ),
        (
            "[true]",
            Datatype::Fp32,
            &[1],
            "data[0]: found true, wanted a number of FP32",
        ),
        ("[1,2,3]", Datatype::Fp32, &[2], "more numbers than the 2"),
        (
            "[1,2]",
            Datatype::Fp32,
            &[3],
            "there are 2 numbers, its shape [3] needs 3",
        ),
        ("7", Datatype::Fp32, &[2], "there are 1 numbers"),
        (
            "[[1,2],[3]]",
            Datatype::Fp32,
            &[2, 2],
            "data[1]: this list has 1 items",
        ),
        (
            "[[1,2],[3]]",
            Datatype::Fp32,
            &[3],
            "data[0]: found lists in 1 lists",
        ),
        (
            "[[1,2,3],[4]]",
            Datatype::Fp32,
            &[2, 2],
            "data[0][2]: there are more items than the 2",
        ),
        (
            "[[1],2]",
            Datatype::Fp32,
            &[2, 1],
            "data[1]: found a number in 1 lists",
        ),
        (
            "[1,[2]]",
            Datatype::Fp32,
            &[2],
            "data[1]: found a list among numbers",
        ),
        (
            "[[1,2]]",
            Datatype::Fp32,
            &[2],
            "data[0]: found lists in 1 lists",
        ),
    ] {
        let error = bytes(text, datatype, shape).unwrap_err();
        assert!(
            error.contains(wanted),
            "{text}\nfound  {error}\nwanted {wanted}"
        );
    }
}

proptest! {
    #[test]
    fn valid_json_never_panics(
        text in r#"(\[|\]|,|-|[0-9]|e|E|\.|"|NaN|null|true|\{|\}|:| |\\){0,24}"#,
        at in 0..ALL.len(),
        shape in proptest::collection::vec(0u32..4, 0..4),
    ) {
        if let Ok(raw) = serde_json::from_str::<&RawValue>(&text)
            && let Ok(bytes) = to_bytes(raw, ALL[at], &shape)
        {
            let elements: u32 = shape.iter().product();
            prop_assert_eq!(bytes.len(), elements as usize * ALL[at].size());
        }
    }

    #[test]
    fn any_bits_survive_the_way_through_json(
        bytes in proptest::collection::vec(any::<u8>(), 0..64),
        at in 0..ALL.len(),
    ) {
        let datatype = ALL[at];
        let count = bytes.len() / datatype.size();
        let whole = &bytes[..count * datatype.size()];
        let json = to_json(whole, datatype).unwrap();
        let shape = [u32::try_from(count).unwrap()];
        let back = to_bytes(&json, datatype, &shape).unwrap();
        // NaN has many bits, and one word.
        let again = to_json(&back, datatype).unwrap();
        prop_assert_eq!(json.get(), again.get());
    }

    #[test]
    fn integers_mean_what_they_say(value: i64, shift in 0usize..20) {
        // The same number with its point moved and the exponent to match.
        let digits = format!("{:020}", value.unsigned_abs());
        let (whole, fraction) = digits.split_at(20 - shift);
        let whole = whole.trim_start_matches('0');
        let whole = if whole.is_empty() { "0" } else { whole };
        let sign = if value < 0 { "-" } else { "" };
        let point = if fraction.is_empty() { "" } else { "." };
        let text = format!("[{sign}{whole}{point}{fraction}e{shift}]");
        prop_assert_eq!(bytes(&text, Datatype::Int64, &[1]).unwrap(), value.to_le_bytes());
    }
}
