//! Tests of inputs with a default.

use std::path::Path;

use samovar_onnx::Onnx;

use crate::infer::backend::model_cache::CacheAccess;
use crate::infer::backend::rten::Rten;
use crate::infer::backend::tensor::{Data, ElementType, Tensor};
use crate::infer::backend::testing::onnx::{
    Attribute, Node, Operator, Outside, Value, Weight, model_beside, model_of, model_with,
    operator, port,
};
use crate::infer::backend::{LoadRequest, Loaded, RunError};
use crate::infer::compute::Worker;

const F32: u64 = 1;
const I64: u64 = 7;
const BOOL: u64 = 9;

/// The first `end` of `x`, each times `s`, or what was there before unless `scaled`. Defaults: all of them, 2, yes.
fn scaled() -> Vec<u8> {
    let weight = |name, ty, dims, data| Weight {
        name,
        ty,
        dims,
        data,
    };
    let (two, end) = (2f32.to_le_bytes(), i64::MAX.to_le_bytes());
    model_of(
        &[("", 14)],
        &[
            operator("Slice", &["x", "start", "end"], &["some"]),
            operator("Mul", &["some", "s"], &["product"]),
            operator("Where", &["scaled", "product", "some"], &["y"]),
        ],
        &[
            weight("start", I64, &[1], &[0; 8]),
            weight("s", F32, &[], &two),
            weight("end", I64, &[1], &end),
            weight("scaled", BOOL, &[], &[1]),
        ],
        &[
            port("s", F32, &[]),
            port("x", F32, &[None]),
            port("end", I64, &[Some(1)]),
            port("scaled", BOOL, &[]),
        ],
        &[port("y", F32, &[None])],
    )
}

fn load(rten: &Rten, bytes: &[u8], folder: Option<&Path>, digest: Option<&str>) -> Loaded {
    let wanted = LoadRequest {
        digest,
        ..LoadRequest::default()
    };
    let onnx = Onnx::read(bytes).unwrap();
    rten.load(&onnx.model, bytes, folder, wanted).unwrap()
}

fn f32s(dims: &[u32], elements: &[f32]) -> Tensor {
    Tensor {
        ty: ElementType::Fp32,
        dims: dims.to_vec(),
        data: Data::F32(elements.to_vec()),
    }
}

fn i64s(elements: &[i64]) -> Tensor {
    Tensor {
        ty: ElementType::I64,
        dims: vec![u32::try_from(elements.len()).unwrap()],
        data: Data::I64(elements.to_vec()),
    }
}

fn no() -> Tensor {
    Tensor {
        ty: ElementType::U8,
        dims: Vec::new(),
        data: Data::Bytes(vec![0]),
    }
}

fn run(loaded: &Loaded, inputs: Vec<Tensor>) -> Result<Vec<f32>, RunError> {
    let outputs = loaded.model.run(inputs, &Worker::CALLER)?;
    Ok(outputs[0].data.elements::<f32>().unwrap().into_owned())
}

fn assert_each_may_be_given(loaded: &Loaded) {
    let names: Vec<&str> = loaded.inputs.iter().map(|port| &*port.name).collect();
    assert_eq!(names, ["x", "s", "end", "scaled"]);
    let x = || f32s(&[3], &[1.0, 2.0, 3.0]);
    let absent = || Tensor::absent(ElementType::Fp32);
    let cases: [(Vec<Tensor>, &[f32]); 6] = [
        (vec![x()], &[2.0, 4.0, 6.0]),
        (vec![x(), f32s(&[], &[5.0])], &[5.0, 10.0, 15.0]),
        (vec![x(), absent(), i64s(&[1])], &[2.0]),
        (vec![x(), f32s(&[], &[5.0]), i64s(&[2])], &[5.0, 10.0]),
        (vec![x(), absent(), absent(), no()], &[1.0, 2.0, 3.0]),
        // What one call gave is not there for the next.
        (vec![x()], &[2.0, 4.0, 6.0]),
    ];
    for (inputs, wanted) in cases {
        assert_eq!(run(loaded, inputs).unwrap(), wanted);
    }
}

fn rten(optimized: Option<&Path>) -> Rten {
    Rten::new(optimized, CacheAccess::ReadWrite, std::env::temp_dir())
}

#[test]
fn each_input_with_a_default_may_be_given_or_left_out() {
    assert_each_may_be_given(&load(&rten(None), &scaled(), None, None));
}

#[test]
fn loading_again_gives_the_same() {
    let folder = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let backend = rten(Some(folder.path()));
        assert_each_may_be_given(&load(&backend, &scaled(), None, Some("digest")));
    }
}

#[test]
fn a_default_may_lie_in_another_file() {
    let folder = tempfile::tempdir().unwrap();
    let data: Vec<u8> = [7.0f32, 3.0]
        .into_iter()
        .flat_map(f32::to_le_bytes)
        .collect();
    std::fs::write(folder.path().join("0.data"), data).unwrap();
    let node = Node {
        op: "Mul",
        inputs: &["x", "s"],
        output: "y",
        attribute: None,
    };
    let default = Outside {
        name: "s",
        dims: &[1],
        location: "0.data",
        offset: 4,
    };
    let port = |name| Value {
        name,
        ty: F32,
        dims: &[Some(1)],
    };
    let bytes = model_beside(
        14,
        &[node],
        &[default],
        &[port("x"), port("s")],
        &[port("y")],
    );
    let loaded = load(&rten(None), &bytes, Some(folder.path()), None);
    drop(folder);
    let one = |value| f32s(&[1], &[value]);
    assert_eq!(run(&loaded, vec![one(2.0)]).unwrap(), [6.0]);
    assert_eq!(run(&loaded, vec![one(2.0), one(4.0)]).unwrap(), [8.0]);
}

#[test]
fn what_rten_must_know_before_the_run_cannot_be_given() {
    let mode = [(
        "coordinate_transformation_mode",
        Attribute::Text("align_corners"),
    )];
    let resize = Operator {
        attributes: &mode,
        ..operator("Resize", &["x", "", "scales"], &["y"])
    };
    let scales: Vec<u8> = [1.0f32, 1.0, 2.0, 2.0]
        .into_iter()
        .flat_map(f32::to_le_bytes)
        .collect();
    let default = Weight {
        name: "scales",
        ty: F32,
        dims: &[4],
        data: &scales,
    };
    let bytes = model_of(
        &[("", 13)],
        &[resize],
        &[default],
        &[
            port("x", F32, &[Some(1), Some(1), Some(1), Some(1)]),
            port("scales", F32, &[Some(4)]),
        ],
        &[port("y", F32, &[None, None, None, None])],
    );
    let folder = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let backend = rten(Some(folder.path()));
        let loaded = load(&backend, &bytes, None, Some("digest"));
        let x = || f32s(&[1, 1, 1, 1], &[3.0]);
        assert_eq!(run(&loaded, vec![x()]).unwrap(), [3.0; 4]);
        let given = run(&loaded, vec![x(), f32s(&[4], &[1.0; 4])]);
        let Err(RunError::Inputs(why)) = given else {
            panic!("it ran with {given:?}");
        };
        assert!(why.contains("input `scales` has a default"), "{why}");
    }
}

#[test]
fn a_default_that_does_not_fit_its_input_stays_a_constant() {
    let node = Node {
        op: "Mul",
        inputs: &["x", "s"],
        output: "y",
        attribute: None,
    };
    let two = 2f32.to_le_bytes();
    let default = Weight {
        name: "s",
        ty: F32,
        dims: &[1],
        data: &two,
    };
    let port = |name, dims| Value {
        name,
        ty: F32,
        dims,
    };
    let bytes = model_with(
        14,
        &[node],
        &[default],
        &[port("x", &[Some(1)]), port("s", &[Some(3)])],
        &[port("y", &[None])],
    );
    let loaded = load(&rten(None), &bytes, None, None);
    assert_eq!(run(&loaded, vec![f32s(&[1], &[4.0])]).unwrap(), [8.0]);
}
