//! JSON without silent changes of numbers.
//!
//! serde_json silently reads 1e39 as an infinite `f32`, and silently writes NaN and infinity as `null`. Here reading is an error, and writing
//! gives the strings `"NaN"`, `"Infinity"` and `"-Infinity"`.

mod read;
mod write;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Error;

/// Reads a value. All floats in it are finite, except in an untagged enum or behind `#[serde(flatten)]`, whose numbers serde buffers as
/// `f64`.
pub(crate) fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = T::deserialize(read::Finite(&mut deserializer))?;
    deserializer.end()?;
    Ok(value)
}

/// Writes a value.
pub(crate) fn to_vec<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, Error> {
    // What serde_json itself begins with.
    let mut bytes = Vec::with_capacity(128);
    value.serialize(write::Finite(&mut serde_json::Serializer::new(&mut bytes)))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Kind {
        Plain,
        New(f32),
        Pair(f32, i8),
        Named { x: f32 },
    }

    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    struct All {
        float: f32,
        double: f64,
        list: Vec<f32>,
        array: [f32; 2],
        pair: (f32, String),
        maybe: Option<f32>,
        none: Option<f32>,
        map: BTreeMap<String, f32>,
        kinds: Vec<Kind>,
        unit: (),
        flag: bool,
        letter: char,
        large: u64,
    }

    const TEXT: &str = r#"{"float":0.5,"double":1e+300,"list":[1.0,-2.5],"array":[3.0,4.0],"pair":[5.0,"six"],"maybe":7.0,"none":null,"map":{"a":8.0},"kinds":["plain",{"new":9.0},{"pair":[1.5,-1]},{"named":{"x":2.5}}],"unit":null,"flag":true,"letter":"l","large":18446744073709551615}"#;

    #[test]
    fn everything_goes_both_ways_as_serde_json_has_it() {
        let all: All = from_slice(TEXT.as_bytes()).unwrap();
        assert_eq!(all, serde_json::from_str(TEXT).unwrap());
        assert_eq!(String::from_utf8(to_vec(&all).unwrap()).unwrap(), TEXT);
        let value: serde_json::Value = from_slice(TEXT.as_bytes()).unwrap();
        assert_eq!(to_vec(&value).unwrap(), serde_json::to_vec(&value).unwrap());
    }

    #[test]
    fn a_number_outside_of_f32_is_an_error_wherever_it_is() {
        for number in [
            "0.5", "1.0", "3.0", "5.0", "7.0", "8.0", "9.0", "1.5", "2.5",
        ] {
            // The first place with this number; the sign stays before it.
            let text = TEXT.replacen(number, "1e39", 1);
            let error = from_slice::<All>(text.as_bytes()).unwrap_err();
            assert!(error.to_string().contains("of f32"), "{text}: {error}");
            assert!(error.column() > 0, "{error}");
        }
        assert!(from_slice::<f32>(b"3.4028235e38").is_ok());
        assert!(from_slice::<f32>(b"1e400").is_err());
        assert!(from_slice::<f64>(b"1e400").is_err());
        assert!(from_slice::<f32>(b"NaN").is_err());
        assert!(from_slice::<f32>(b"1 2").is_err());
        assert!(from_slice::<Vec<f32>>("[".repeat(100_000).as_bytes()).is_err());
    }

    #[test]
    fn what_is_not_finite_is_written_as_a_word_wherever_it_is() {
        let nan = f32::NAN;
        let all = All {
            float: nan,
            double: f64::NEG_INFINITY,
            list: vec![nan],
            array: [f32::INFINITY, 1.0],
            pair: (nan, String::new()),
            maybe: Some(nan),
            none: None,
            map: BTreeMap::from([("a".into(), nan)]),
            kinds: vec![Kind::New(nan), Kind::Pair(nan, 1), Kind::Named { x: nan }],
            unit: (),
            flag: false,
            letter: 'x',
            large: 0,
        };
        let text = String::from_utf8(to_vec(&all).unwrap()).unwrap();
        assert_eq!(
            text,
            r#"{"float":"NaN","double":"-Infinity","list":["NaN"],"array":["Infinity",1.0],"pair":["NaN",""],"maybe":"NaN","none":null,"map":{"a":"NaN"},"kinds":[{"new":"NaN"},{"pair":["NaN",1]},{"named":{"x":"NaN"}}],"unit":null,"flag":false,"letter":"x","large":0}"#
        );
    }
}
