//! A model of more than 2 GB, whose weights lie in a file that is all holes: it is mapped, not read.

use prost::Message;
use samovar_onnx::testing::{sized, tensor};
use samovar_onnx::{
    Dimension, Entry, GraphProto, ModelProto, NodeProto, OperatorSetId, Shape, TensorProto,
    ValueInfo,
};

use super::tensor::{Data, ElementType, Tensor};
use super::testing::skip::{Need, skip};
use super::*;

const ROWS: i64 = 600_000;
const COLUMNS: i64 = 1024;
const BYTES: u64 = (ROWS * COLUMNS) as u64 * 4;

/// Takes rows out of a large table, which begins one page into its file.
fn model() -> Vec<u8> {
    let port = |name: &str, elem_type: i32, dims: &[i64]| ValueInfo {
        name: name.into(),
        r#type: Some(tensor(
            elem_type,
            Some(Shape {
                dim: dims.iter().map(|size| sized(*size)).collect(),
            }),
        )),
        ..Default::default()
    };
    let entry = |key: &str, value: String| Entry {
        key: key.into(),
        value,
    };
    let table = TensorProto {
        dims: vec![ROWS, COLUMNS],
        data_type: 1,
        name: "table".into(),
        external_data: vec![
            entry("location", "m.onnx.data".into()),
            entry("offset", "4096".into()),
            entry("length", BYTES.to_string()),
        ],
        data_location: 1,
        ..Default::default()
    };
    let gather = NodeProto {
        input: vec!["table".into(), "rows".into()],
        output: vec!["out".into()],
        op_type: "Gather".into(),
        ..Default::default()
    };
    let graph = GraphProto {
        node: vec![gather],
        initializer: vec![table],
        input: vec![port("rows", 7, &[1])],
        output: vec![port("out", 1, &[1, COLUMNS])],
        ..Default::default()
    };
    let model = ModelProto {
        ir_version: 8,
        graph: Some(graph),
        opset_import: vec![OperatorSetId {
            domain: String::new(),
            version: 14,
        }],
        ..Default::default()
    };
    model.encode_to_vec()
}

/// Memory of this process that is its own, not a file's.
fn anonymous_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("RssAnon"))
        .unwrap();
    let kilobytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kilobytes * 1024
}

/// `out` of 1 GiB, made of a constant of 16 bytes: as it is, or as the shape of what an input is given, which a backend alone
/// can tell.
fn swelling(by_shape: bool) -> Vec<u8> {
    let side: i64 = 16 << 10;
    let shape = TensorProto {
        dims: vec![2],
        data_type: 7,
        name: "shape".into(),
        raw_data: [side, side].map(i64::to_le_bytes).concat(),
        ..Default::default()
    };
    let node = |op: &str, inputs: &[&str], output: &str| NodeProto {
        input: inputs.iter().map(ToString::to_string).collect(),
        output: vec![output.into()],
        op_type: op.into(),
        ..Default::default()
    };
    let nodes = match by_shape {
        false => vec![node("ConstantOfShape", &["shape"], "out")],
        true => vec![
            node("Reshape", &["x", "shape"], "square"),
            node("Shape", &["square"], "found"),
            node("ConstantOfShape", &["found"], "out"),
        ],
    };
    let x = ValueInfo {
        name: "x".into(),
        r#type: Some(tensor(
            1,
            Some(Shape {
                dim: vec![Dimension::default()],
            }),
        )),
        ..Default::default()
    };
    let out = ValueInfo {
        name: "out".into(),
        r#type: Some(tensor(
            1,
            Some(Shape {
                dim: vec![sized(side); 2],
            }),
        )),
        ..Default::default()
    };
    let graph = GraphProto {
        node: nodes,
        initializer: vec![shape],
        input: by_shape.then_some(x).into_iter().collect(),
        output: vec![out],
        ..Default::default()
    };
    let model = ModelProto {
        ir_version: 8,
        graph: Some(graph),
        opset_import: vec![OperatorSetId {
            domain: String::new(),
            version: 14,
        }],
        ..Default::default()
    };
    model.encode_to_vec()
}

#[test]
fn a_guest_s_constants_are_not_folded_when_they_load() {
    for choice in testing::choices() {
        let model = GuestModel::read(swelling(false), u64::MAX).unwrap();
        assert!(model.loaded_bytes() < 1 << 20);
        let before = anonymous_bytes();
        let wanted = LoadRequest {
            choice,
            target: Target::Cpu,
            threads: 1,
            ..LoadRequest::default()
        };
        let backends = testing::backends();
        let loaded = backends.load(&Source::Bytes(&model), wanted).unwrap();
        let grown = anonymous_bytes().saturating_sub(before);
        assert_eq!(loaded.outputs[0].name, "out");
        assert!(grown < 512 << 20, "{choice:?}: {grown} bytes");
    }
}

#[test]
fn a_pushed_model_s_constants_are_not_folded_beyond_a_bound() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.onnx");
    for (by_shape, digest) in [(false, "swelling"), (true, "swelling by shape")] {
        std::fs::write(&path, swelling(by_shape)).unwrap();
        for choice in testing::choices() {
            let before = anonymous_bytes();
            let wanted = LoadRequest {
                choice,
                target: Target::Cpu,
                threads: 1,
                digest: Some(digest),
                ..LoadRequest::default()
            };
            let backends = testing::backends();
            let loaded = backends.load(&Source::File(&path), wanted).unwrap();
            let grown = anonymous_bytes().saturating_sub(before);
            assert_eq!(loaded.outputs[0].name, "out");
            assert!(grown < 512 << 20, "{choice:?} {digest}: {grown} bytes");
        }
    }
}

fn last_row_is_found(backend: BackendChoice) {
    let folder = tempfile::tempdir().unwrap();
    let (path, data) = (folder.path().join("model"), folder.path().join("weights"));
    std::fs::write(&path, model()).unwrap();
    let file = std::fs::File::create(&data).unwrap();
    file.set_len(4096 + BYTES).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &7f32.to_le_bytes(), 4096 + BYTES - 4).unwrap();
    let backends = testing::backends();
    if backend == BackendChoice::Onnxruntime && backends.onnxruntime.is_err() {
        skip(Need::Onnxruntime, "no library was found");
        return;
    }
    let data = [DataFile {
        location: "m.onnx.data".into(),
        path: data,
    }];
    let before = anonymous_bytes();
    let wanted = LoadRequest {
        choice: backend,
        target: Target::Cpu,
        threads: 1,
        data: &data,
        ..LoadRequest::default()
    };
    let loaded = backends.load(&Source::File(&path), wanted).unwrap();
    let rows = Tensor {
        ty: ElementType::I64,
        dims: vec![1],
        data: Data::I64(vec![ROWS - 1]),
    };
    let outputs = loaded.model.run(vec![rows], &Worker::CALLER).unwrap();
    let row = outputs[0].data.elements::<f32>().unwrap();
    assert_eq!(row.len(), COLUMNS as usize);
    assert_eq!((row[0], row[COLUMNS as usize - 1]), (0.0, 7.0));
    let grown = anonymous_bytes().saturating_sub(before);
    assert!(
        grown < 1 << 30,
        "{grown} bytes of its own: the weights were read"
    );
}

#[test]
fn rten_maps_it() {
    const { assert!(BYTES > 2 << 30) };
    last_row_is_found(BackendChoice::Rten);
}

#[test]
fn onnxruntime_maps_it() {
    last_row_is_found(BackendChoice::Onnxruntime);
}
