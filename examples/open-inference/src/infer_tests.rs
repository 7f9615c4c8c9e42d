use proptest::prelude::*;
use samovar_sdk::Tensor;
use samovar_sdk::testing::{self, Outputs};

use super::*;

/// A graph that gives back the f32 that it takes.
fn same() -> Served {
    let graph = testing::graph("same", |inputs| {
        let x = inputs.get::<f32>("x")?;
        let y = Tensor::from_slice(x.dimensions().to_vec(), x.as_slice())?;
        Ok(Outputs::new().with("y", &y))
    });
    let port = |name| Port::new(name, Datatype::Fp32, Some(vec![-1, 2]));
    Served::new(graph, vec![port("x")], vec![port("y")])
}

fn ask(body: Vec<u8>, header_length: Option<&str>) -> Result<Vec<u8>, Error> {
    let mut request = Request::new("POST", "/v2/models/same/infer", body);
    if let Some(length) = header_length {
        request = request.with_header(HEADER_LENGTH, length);
    }
    infer(&same(), request)?.into_bytes()
}

/// Whatever was asked, it is the caller's fault or it is answered.
fn is_refused_or_answered(answer: Result<Vec<u8>, Error>) -> Result<(), TestCaseError> {
    if let Err(error) = answer {
        prop_assert!((400..500).contains(&error.status()), "{error:?}");
    }
    Ok(())
}

const HEAD: &str = r#"{"id":"1","inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"data":[[1,-2.5e1]]}],"outputs":[{"name":"y","parameters":{"binary_data":true}}],"parameters":{"binary_data_output":false}}"#;

proptest! {
    #[test]
    fn no_body_panics(body: Vec<u8>, length in proptest::option::of(0usize..64)) {
        let length = length.map(|length| length.to_string());
        is_refused_or_answered(ask(body, length.as_deref()))?;
    }

    #[test]
    fn no_changed_request_panics(
        at in 0..HEAD.len(),
        removed in 0usize..12,
        inserted in r#"([\[\]{},:"0-9eE.\-]|NaN|null|true|1e39|binary_data_size|\\u00){0,4}"#,
        tail in proptest::collection::vec(any::<u8>(), 0..20),
        short in 0usize..3,
    ) {
        let end = (at + removed).min(HEAD.len());
        let head = format!("{}{inserted}{}", &HEAD[..at], &HEAD[end..]);
        let length = head.len().saturating_sub(short).to_string();
        let body = [head.as_bytes(), &tail].concat();
        is_refused_or_answered(ask(body, Some(&length)))?;
        is_refused_or_answered(ask(head.into_bytes(), None))?;
    }

    #[test]
    fn bits_survive_as_bytes_and_numbers_as_json(rows in proptest::collection::vec(any::<[u32; 2]>(), 0..8)) {
        let bytes: Vec<u8> = rows.iter().flatten().flat_map(|bits| bits.to_le_bytes()).collect();
        let shape = format!("[{},2]", rows.len());
        let head = format!(
            r#"{{"inputs":[{{"name":"x","datatype":"FP32","shape":{shape},"parameters":{{"binary_data_size":{}}}}}],"parameters":{{"binary_data_output":true}}}}"#,
            bytes.len()
        );
        let body = [head.as_bytes(), &bytes].concat();
        let answer = ask(body.clone(), Some(&head.len().to_string())).unwrap();
        prop_assert!(answer.ends_with(&bytes));

        // What is answered in JSON can be asked again, and is answered the same.
        let plain = head.replace(r#","parameters":{"binary_data_output":true}"#, "");
        let body = [plain.as_bytes(), &bytes].concat();
        let first = ask(body, Some(&plain.len().to_string())).unwrap();
        let told: serde_json::Value = serde_json::from_slice(&first).unwrap();
        let data = &told["outputs"][0]["data"];
        let again = format!(
            r#"{{"inputs":[{{"name":"x","datatype":"FP32","shape":{shape},"data":{data}}}]}}"#
        );
        prop_assert_eq!(ask(again.into_bytes(), None).unwrap(), first);
    }
}
