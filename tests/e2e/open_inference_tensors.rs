//! Tensors of every type go through the Open Inference Protocol as JSON and as bytes, and what does not fit is refused by the
//! tensor's name.

use anyhow::{Context, Result};
use samovar_tests::Server;
use samovar_tests::onnx::{Value as Port, model};
use serde_json::{Value, json};

use crate::open_inference::{
    F32, HEADER_LENGTH, I64, at, f32s, identity, infer, infer_binary, node, parts, push,
    push_folder, sum,
};

/// Name in the protocol, number in ONNX, a value as JSON and as bytes: those that rten computes.
const TYPES: [(&str, u64, &str, &[u8]); 6] = [
    ("BOOL", 9, "true", &[1]),
    ("UINT8", 2, "200", &[200]),
    ("INT8", 3, "-3", &[253]),
    ("INT32", 6, "-2", &(-2i32).to_le_bytes()),
    ("INT64", I64, "-7", &(-7i64).to_le_bytes()),
    ("FP32", F32, "0.5", &0.5f32.to_le_bytes()),
];

#[tokio::test]
async fn every_type_goes_both_ways_as_json_and_as_bytes() -> Result<()> {
    let server = Server::start()?;
    let graphs: Vec<(String, Vec<u8>)> = TYPES
        .iter()
        .map(|(name, ty, ..)| (name.to_lowercase(), identity(*ty)))
        .collect();
    let graphs: Vec<_> = graphs
        .iter()
        .map(|(name, bytes)| (name.as_str(), bytes.clone()))
        .collect();
    push_folder(&server, "types", &graphs, "")?;
    for (name, _, value, bytes) in TYPES {
        let url = at(
            &server,
            "types",
            &format!("/v2/models/{}/infer", name.to_lowercase()),
        );
        let input =
            |more: &str| format!(r#"{{"name":"x","datatype":"{name}","shape":[1,2],{more}}}"#);
        let json = input(&format!(r#""data":[{value},{value}]"#));
        let data = [bytes, bytes].concat();
        let binary = input(&format!(
            r#""parameters":{{"binary_data_size":{}}}"#,
            data.len()
        ));
        for (input, tail) in [(json, &[][..]), (binary, &data[..])] {
            let wanted = [
                (r#","parameters":{"binary_data_output":true}"#, true),
                ("", false),
            ];
            for (parameters, is_binary) in wanted {
                let head = format!(r#"{{"inputs":[{input}]{parameters}}}"#);
                let body = [head.as_bytes(), tail].concat();
                let request = server.client().post(&url).header(HEADER_LENGTH, head.len());
                let answer = request.body(body).send().await?;
                if is_binary {
                    let (told, found) = parts(answer).await?;
                    assert_eq!(found, data, "{name}: {told}");
                    assert_eq!(told["outputs"][0]["datatype"], name);
                } else {
                    let told = answer.text().await?;
                    let wanted = format!(r#""data":[{value},{value}]"#);
                    assert!(told.contains(&wanted), "{name}: {told}");
                }
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_tensor_that_does_not_fit_is_refused_by_its_name() -> Result<()> {
    let server = Server::start()?;
    push(&server, "sum", &sum())?;
    let good =
        |name: &str| json!({ "name": name, "datatype": "FP32", "shape": [1, 2], "data": [1, 2] });
    let with = |key: &str, value: Value| {
        let mut tensor = good("b");
        tensor[key] = value;
        json!({ "inputs": [good("a"), tensor] })
    };
    let without_data = json!({ "name": "b", "datatype": "FP32", "shape": [1, 2] });
    for (asked, wanted) in [
        (with("name", json!("c")), "has no input \"c\"; it has a, b"),
        (with("name", json!("a")), "input `a` is given twice"),
        (json!({ "inputs": [good("a")] }), "input `b` is missing"),
        (json!({ "inputs": [] }), "input `a` is missing"),
        (
            with("datatype", json!("INT64")),
            "input \"b\": its datatype is \"INT64\", the model expects FP32",
        ),
        (
            with("datatype", json!("BYTES")),
            "input \"b\": its datatype is \"BYTES\"",
        ),
        (
            with("shape", json!([1, 3])),
            "input \"b\": there are 2 numbers, its shape [1, 3] needs 3",
        ),
        (with("shape", json!([1])), "input \"b\": "),
        (
            with("shape", json!([2])),
            "input `b`: found f32 [2], wanted f32 [?, 2]",
        ),
        (
            with("shape", json!([-1, 2])),
            "input \"b\": its shape is [-1, 2], wanted sizes from 0",
        ),
        (
            with("shape", json!([4_294_967_295u32, 4_294_967_295u32])),
            "input \"b\": its shape [4294967295, 4294967295] is larger than memory",
        ),
        (
            with("shape", json!([100_000_000, 2])),
            "input \"b\": there are 2 numbers, its shape [100000000, 2] needs 200000000",
        ),
        (
            with("shape", json!(vec![1; 65])),
            "input \"b\": more than 64 dimensions",
        ),
        (
            with("data", json!([1, "2"])),
            "input \"b\": data[1]: found \"2\", wanted a number of FP32",
        ),
        (
            with("data", json!([1, 2, 3])),
            "input \"b\": there are more numbers than the 2",
        ),
        (
            with("data", json!([[1], [2]])),
            "input \"b\": data[0]: this list has 1 items, the shape [1, 2] needs 2",
        ),
        (
            with("data", json!([1e39, 2])),
            "input \"b\": data[0]: 1e+39 is outside the range of FP32",
        ),
        (
            with("data", json!([[1, null]])),
            "input \"b\": data[0][1]: found null, wanted a number of FP32, \"NaN\"",
        ),
        (
            with("data", json!(null)),
            "input \"b\": it has neither `data` nor",
        ),
        (
            json!({ "inputs": [good("a"), without_data] }),
            "input \"b\": it has neither",
        ),
        (
            with("parameters", json!({ "binary_data_size": 8 })),
            "input \"b\": it has both `data` and `binary_data_size`",
        ),
        (
            json!({ "inputs": "all" }),
            "the body is not an inference request",
        ),
        (json!([]), "the body is not an inference request"),
        (
            json!({ "inputs": [good("a"), good("b")], "outputs": [{ "name": "z" }] }),
            "has no output \"z\"; it has y",
        ),
        (
            json!({ "inputs": [good("a"), good("b")], "outputs": [{ "name": "y" }, { "name": "y" }] }),
            "output \"y\" is asked for twice",
        ),
    ] {
        let (status, told) = infer(&server, "sum", &asked).await?;
        let error = told["error"].as_str().context("an error")?;
        assert_eq!(status, 400, "{asked}: {error}");
        assert!(
            error.contains(wanted),
            "{asked}\nfound  {error}\nwanted {wanted}"
        );
    }
    // Arrays in arrays, and zeros without end.
    for data in ["[".repeat(100_000), "0,".repeat(1 << 20)] {
        let body = format!(
            r#"{{"inputs":[{{"name":"a","datatype":"FP32","shape":[1,2],"data":[{data}0]}}]}}"#
        );
        let url = at(&server, "sum", "/v2/models/sum/infer");
        let answer = server.client().post(url).body(body).send().await?;
        assert_eq!(answer.status(), 400, "{}", answer.text().await?);
    }
    let asked = json!({ "inputs": [good("a"), good("b")] });
    assert_eq!(infer(&server, "sum", &asked).await?.0, 200);
    Ok(())
}

#[tokio::test]
async fn what_is_not_finite_goes_both_ways_as_a_word() -> Result<()> {
    let server = Server::start()?;
    let port = |name| Port {
        name,
        ty: F32,
        dims: &[None],
    };
    let log = model(14, &[node("Log", &["x"], "y")], &[port("x")], &[port("y")]);
    push_folder(
        &server,
        "floats",
        &[
            ("log", log),
            ("same", identity(F32)),
            ("whole", identity(I64)),
        ],
        "",
    )?;
    let asked = |graph: &'static str, datatype: &str, shape: &str, data: &str| {
        let url = at(&server, "floats", &format!("/v2/models/{graph}/infer"));
        let body = format!(
            r#"{{"inputs":[{{"name":"x","datatype":"{datatype}","shape":{shape},"data":{data}}}]}}"#
        );
        let request = server.client().post(url).body(body);
        async move {
            let answer = request.send().await?;
            let status = answer.status().as_u16();
            anyhow::Ok((status, answer.text().await?))
        }
    };
    let (status, told) = asked("log", "FP32", "[4]", "[-1, 0, 1, 3e38]").await?;
    assert_eq!(status, 200, "{told}");
    assert!(told.contains(r#""data":["NaN","-Infinity",0.0,"#), "{told}");
    // What an answer says can be asked again.
    let words = r#"["NaN","Infinity","-Infinity",0.5]"#;
    let (status, told) = asked("same", "FP32", "[2,2]", words).await?;
    assert_eq!(status, 200, "{told}");
    assert!(told.contains(&format!(r#""data":{words}"#)), "{told}");

    let (status, told) = asked("whole", "INT64", "[1,2]", "[1e9, -20.0e-1]").await?;
    assert_eq!(status, 200, "{told}");
    assert!(told.contains(r#""data":[1000000000,-2]"#), "{told}");
    for (graph, datatype, data, wanted) in [
        (
            "whole",
            "INT64",
            "[1e19, 1]",
            "1e19 is outside the range of INT64",
        ),
        (
            "whole",
            "INT64",
            "[0.5, 1]",
            "found 0.5, wanted a whole number",
        ),
        (
            "whole",
            "INT64",
            r#"["NaN", 1]"#,
            r#"found \"NaN\", wanted a whole"#,
        ),
        (
            "same",
            "FP32",
            "[NaN, 1]",
            r#"write \"NaN\", \"Infinity\" or"#,
        ),
        (
            "same",
            "FP32",
            "[-Infinity, 1]",
            r#"write \"NaN\", \"Infinity\" or"#,
        ),
        (
            "same",
            "FP32",
            "[1e400, 1]",
            "1e400 is outside the range of FP32",
        ),
    ] {
        let (status, told) = asked(graph, datatype, "[1,2]", data).await?;
        assert_eq!(status, 400, "{data}: {told}");
        assert!(told.contains(wanted), "{data}: {told}");
    }
    Ok(())
}

#[tokio::test]
async fn a_wrong_method_is_told_the_right_ones() -> Result<()> {
    let server = Server::start()?;
    push(&server, "sum", &sum())?;
    for (method, path, allowed) in [
        ("GET", "/v2/models/sum/infer", "POST"),
        ("POST", "/v2/models/sum", "GET, HEAD"),
        ("DELETE", "/v2/models/sum/versions/1/ready", "GET, HEAD"),
        ("PUT", "/v2/health/live", "GET, HEAD"),
        ("POST", "/v2", "GET, HEAD"),
    ] {
        let url = at(&server, "sum", path);
        let request = server.client().request(method.parse()?, url);
        let answer = request.send().await?;
        assert_eq!(answer.status(), 405, "{method} {path}");
        assert_eq!(answer.headers()["allow"], allowed, "{method} {path}");
        let told: Value = answer.json().await?;
        assert_eq!(told["error_code"], "method_not_allowed", "{told}");
    }
    Ok(())
}

#[tokio::test]
async fn bytes_that_are_not_what_their_head_says_are_refused() -> Result<()> {
    let server = Server::start()?;
    push(&server, "same", &identity(F32))?;
    let head = |size: &str, shape: &str| {
        format!(
            r#"{{"inputs":[{{"name":"x","datatype":"FP32","shape":{shape},"parameters":{{"binary_data_size":{size}}}}}]}}"#
        )
    };
    let fitting = head("16", "[2,2]");
    let length = fitting.len().to_string();
    let longer = (fitting.len() + 17).to_string();
    for (head, header_length, tail, wanted) in [
        (
            &fitting,
            length.as_str(),
            15,
            "input \"x\": the request announces 16 bytes, but 15 follow",
        ),
        (
            &fitting,
            length.as_str(),
            0,
            "input \"x\": the request announces 16 bytes, but 0 follow",
        ),
        (
            &fitting,
            length.as_str(),
            17,
            "1 bytes follow the last tensor",
        ),
        (&fitting, longer.as_str(), 16, "but the body has"),
        (
            &fitting,
            "18446744073709551616",
            16,
            "wanted a number of bytes",
        ),
        (&fitting, "9999999999999", 16, "but the body has"),
        (&fitting, "-1", 16, "wanted a number of bytes"),
        (&fitting, "many", 16, "wanted a number of bytes"),
        (&fitting, "10", 16, "the body is not an inference request"),
        (
            &head("8", "[2,2]"),
            "",
            8,
            "input \"x\": `binary_data_size` is 8, its shape [2, 2] of FP32 needs 16",
        ),
        (
            &head("18446744073709551615", "[2,2]"),
            "",
            16,
            "input \"x\": `binary_data_size` is 18446744073709551615, its shape",
        ),
        (
            &head("1600000000", "[200000000,2]"),
            "",
            16,
            "input \"x\": the request announces 1600000000 bytes, but 16 follow",
        ),
    ] {
        let own = head.len().to_string();
        let header_length = if header_length.is_empty() {
            &own
        } else {
            header_length
        };
        let body = [head.as_bytes(), &vec![0; tail]].concat();
        let answer = infer_binary(&server, "same", header_length, body).await?;
        let status = answer.status();
        let told = answer.text().await?;
        let error: Value = serde_json::from_str(&told).context(told)?;
        let error = error["error"].as_str().context("an error")?;
        assert_eq!(status, 400, "{head} {header_length}: {error}");
        assert!(
            error.contains(wanted),
            "{head}\nfound  {error}\nwanted {wanted}"
        );
    }
    // Packed, a body would have to be taken apart first.
    let request = server
        .client()
        .post(at(&server, "same", "/v2/models/same/infer"));
    let answer = request
        .header("content-encoding", "gzip")
        .body("x")
        .send()
        .await?;
    assert_eq!(answer.status(), 415);

    // The same replica goes on.
    let body = [fitting.as_bytes(), &f32s(&[1., 2., 3., 4.])].concat();
    let answer = infer_binary(&server, "same", &length, body).await?;
    let told: Value = answer.json().await?;
    assert_eq!(told["outputs"][0]["data"], json!([1., 2., 3., 4.]));
    Ok(())
}

#[tokio::test]
async fn a_large_tensor_of_bytes_is_in_the_component_once() -> Result<()> {
    const BYTES: usize = 40 << 20;
    let server = Server::start()?;
    let x = Port {
        name: "x",
        ty: F32,
        dims: &[None, Some(2)],
    };
    let y = Port {
        name: "y",
        ty: I64,
        dims: &[Some(2)],
    };
    let shape = model(14, &[node("Shape", &["x"], "y")], &[x], &[y]);
    // The request is in the component and the tensor on the host: another copy would not fit.
    push_folder(
        &server,
        "shape",
        &[("shape", shape)],
        "[limits]\nmemory = \"104MiB\"\n",
    )?;
    let rows = BYTES / 8;
    let head = json!({ "inputs": [{
        "name": "x", "datatype": "FP32", "shape": [rows, 2], "parameters": { "binary_data_size": BYTES },
    }]})
    .to_string();
    let body = [head.as_bytes(), &vec![0; BYTES]].concat();
    let answer = infer_binary(&server, "shape", &head.len().to_string(), body).await?;
    let told = answer.text().await?;
    assert!(told.contains(&format!("[{rows},2]")), "{told}");
    Ok(())
}

#[tokio::test]
async fn large_outputs_come_as_bytes_one_after_the_other() -> Result<()> {
    const ROWS: usize = 100_000;
    let server = Server::start()?;
    let port = |name| Port {
        name,
        ty: F32,
        dims: &[None, Some(2)],
    };
    let nodes = [node("Identity", &["x"], "y"), node("Neg", &["x"], "z")];
    let both = model(14, &nodes, &[port("x")], &[port("y"), port("z")]);
    push(&server, "both", &both)?;
    let values: Vec<f32> = (0..2 * ROWS).map(|value| value as f32).collect();
    let negative: Vec<f32> = values.iter().map(|value| -value).collect();
    let (x, minus) = (f32s(&values), f32s(&negative));
    let head = json!({
        "inputs": [{
            "name": "x", "datatype": "FP32", "shape": [ROWS, 2], "parameters": { "binary_data_size": x.len() },
        }],
        "outputs": [
            { "name": "z", "parameters": { "binary_data": true } },
            { "name": "y", "parameters": { "binary_data": true } },
        ],
    })
    .to_string();
    let body = [head.as_bytes(), &x].concat();
    let answer = infer_binary(&server, "both", &head.len().to_string(), body).await?;
    // So that a client knows whether it has all.
    assert!(
        answer
            .content_length()
            .is_some_and(|length| length > 2 * x.len() as u64)
    );
    let (told, found) = parts(answer).await?;
    assert_eq!(told["outputs"][0]["name"], "z");
    assert_eq!(
        told["outputs"][0]["parameters"]["binary_data_size"],
        x.len()
    );
    assert!(found == [minus, x].concat());
    Ok(())
}
