//! The Open Inference Protocol against a graph that gives back what it takes: JSON and bytes say the same.

use open_inference::fuzzing::{Answer, Same};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

/// A tensor of an answer, in the form that it came in.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Its name, which is that of its datatype.
    pub name: String,
    /// Its sizes.
    pub shape: Vec<u32>,
    /// Its elements.
    pub elements: Elements,
}

/// Elements of a tensor.
#[derive(Clone, Debug)]
pub enum Elements {
    /// As JSON.
    Json(Box<RawValue>),
    /// As bytes behind the JSON.
    Bytes(Vec<u8>),
}

/// In which form outputs are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As JSON.
    Json,
    /// As bytes behind the JSON.
    Bytes,
}

#[derive(Deserialize)]
struct Body {
    outputs: Vec<Output>,
}

#[derive(Deserialize)]
struct Output {
    name: String,
    datatype: String,
    shape: Vec<u32>,
    parameters: Option<Size>,
    data: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
struct Size {
    binary_data_size: usize,
}

/// The answer to a request. What is refused is the caller's fault, and he is told why.
pub fn ask(same: &Same, body: Vec<u8>, header_length: Option<&str>) -> Option<Answer> {
    match same.infer(body, header_length) {
        Ok(answer) => Some(answer),
        Err(error) => {
            let status = error.status();
            assert!((400..500).contains(&status), "{status}: {error}");
            assert!(!error.message().is_empty());
            None
        }
    }
}

/// The tensors of an answer, whose parts fill its body.
pub fn tensors(answer: &Answer) -> Vec<Tensor> {
    let length = match &answer.header_length {
        Some(text) => text.parse().expect("a number of bytes"),
        None => answer.body.len(),
    };
    let (json, mut rest) = answer.body.split_at(length);
    let body: Body = serde_json::from_slice(json).expect("an answer of the protocol");
    let tensors = body.outputs.into_iter().map(|output| {
        assert_eq!(output.name, output.datatype);
        let elements = match (output.parameters, output.data) {
            (None, Some(data)) => Elements::Json(data),
            (Some(size), None) => {
                let (own, after) = rest.split_at(size.binary_data_size);
                rest = after;
                Elements::Bytes(own.to_vec())
            }
            other => panic!(
                "{} has data twice or never: {}",
                output.name,
                other.1.is_some()
            ),
        };
        Tensor {
            name: output.name,
            shape: output.shape,
            elements,
        }
    });
    let tensors = tensors.collect();
    assert!(rest.is_empty(), "{} bytes follow the tensors", rest.len());
    tensors
}

/// Asks with tensors that were answered, which are taken again.
pub fn ask_with(same: &Same, tensors: &[Tensor], form: Form) -> Answer {
    let mut bytes = Vec::new();
    let inputs = tensors.iter().map(|tensor| {
        let mut input =
            json!({ "name": tensor.name, "datatype": tensor.name, "shape": tensor.shape });
        match &tensor.elements {
            Elements::Json(_) => input["data"] = Value::Null,
            Elements::Bytes(own) => {
                bytes.extend_from_slice(own);
                input["parameters"] = json!({ "binary_data_size": own.len() });
            }
        }
        let text = input.to_string();
        match &tensor.elements {
            // As it came, not by way of another type of numbers.
            Elements::Json(data) => text.replace(r#""data":null"#, &format!(r#""data":{data}"#)),
            Elements::Bytes(_) => text,
        }
    });
    let inputs: Vec<String> = inputs.collect();
    let head = format!(
        r#"{{"inputs":[{}],"parameters":{{"binary_data_output":{}}}}}"#,
        inputs.join(","),
        form == Form::Bytes
    );
    let header_length = head.len().to_string();
    let body = [head.as_bytes(), &bytes].concat();
    match same.infer(body, Some(&header_length)) {
        Ok(answer) => answer,
        Err(error) => panic!("what was answered is refused: {error}\n{head}"),
    }
}

/// Follows an answer through both forms, and gives the tensors as JSON and as bytes.
pub fn check_forms(same: &Same, answer: &Answer) -> (Vec<Tensor>, Vec<Tensor>) {
    let first = tensors(answer);
    let json = ask_with(same, &first, Form::Json);
    let bytes = ask_with(same, &first, Form::Bytes);
    let (as_json, as_bytes) = (tensors(&json), tensors(&bytes));
    assert_eq!(ask_with(same, &as_json, Form::Json), json, "JSON as JSON");
    assert_eq!(ask_with(same, &as_bytes, Form::Json), json, "bytes as JSON");
    assert_eq!(
        ask_with(same, &as_bytes, Form::Bytes),
        bytes,
        "bytes as bytes"
    );
    for (json, bytes) in as_json.iter().zip(&as_bytes) {
        assert_eq!((&json.name, &json.shape), (&bytes.name, &bytes.shape));
        let (Elements::Json(data), Elements::Bytes(elements)) = (&json.elements, &bytes.elements)
        else {
            panic!("{} is in another form than was asked for", json.name);
        };
        let told = flat(data.get());
        let is_single = matches!(json.name.as_str(), "FP16" | "BF16" | "FP32");
        let told = told.iter().map(|text| match *text {
            "false" => 0.0,
            "true" => 1.0,
            text if is_single => f64::from(text.parse::<f32>().expect("a number")),
            text => text.parse().expect("a number"),
        });
        let told: Vec<f64> = told.collect();
        let meant = values(&json.name, elements);
        let count: u64 = json.shape.iter().map(|size| u64::from(*size)).product();
        assert_eq!(meant.len() as u64, count, "{} {:?}", json.name, json.shape);
        let equal = |(one, other): (&f64, &f64)| one == other || one.is_nan() && other.is_nan();
        assert!(
            told.len() == meant.len() && told.iter().zip(&meant).all(equal),
            "{}: {told:?} for {meant:?}",
            json.name
        );
    }
    (as_json, as_bytes)
}

/// The numbers of a flat list as they are written; `serde_json` would round them.
fn flat(list: &str) -> Vec<&str> {
    let inner = list
        .strip_prefix('[')
        .and_then(|list| list.strip_suffix(']'));
    let inner = inner.expect("a flat list");
    let items = inner.split(',').filter(|item| !item.is_empty());
    items.map(|item| item.trim_matches('"')).collect()
}

/// The numbers in lists, in their order, as texts.
pub fn numbers(value: &Value) -> Vec<String> {
    match value {
        Value::Array(items) => items.iter().flat_map(numbers).collect(),
        Value::String(word) => vec![word.clone()],
        other => vec![other.to_string()],
    }
}

/// Little-endian elements of a datatype as numbers, by its definition.
pub fn values(datatype: &str, bytes: &[u8]) -> Vec<f64> {
    fn all<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f64) -> Vec<f64> {
        let (chunks, rest) = bytes.as_chunks::<N>();
        assert!(rest.is_empty(), "{} bytes are left", rest.len());
        chunks.iter().map(|chunk| value(*chunk)).collect()
    }
    match datatype {
        "BOOL" => all(bytes, |[byte]| f64::from(u8::from(byte != 0))),
        "UINT8" => all(bytes, |[byte]| f64::from(byte)),
        "INT8" => all(bytes, |one| f64::from(i8::from_le_bytes(one))),
        "INT32" => all(bytes, |four| f64::from(i32::from_le_bytes(four))),
        "INT64" => all(bytes, |eight| i64::from_le_bytes(eight) as f64),
        "FP16" => all(bytes, |two| half(u16::from_le_bytes(two))),
        // The upper half of an f32.
        "BF16" => all(bytes, |[low, high]| {
            f64::from(f32::from_le_bytes([0, 0, low, high]))
        }),
        "FP32" => all(bytes, |four| f64::from(f32::from_le_bytes(four))),
        "FP64" => all(bytes, f64::from_le_bytes),
        other => panic!("no datatype {other}"),
    }
}

/// A binary16 of IEEE 754.
fn half(bits: u16) -> f64 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let fraction = f64::from(bits & 0x3ff) / 1024.0;
    sign * match (bits >> 10) & 0x1f {
        0 => fraction * 2f64.powi(-14),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        exponent => (1.0 + fraction) * 2f64.powi(i32::from(exponent) - 15),
    }
}
