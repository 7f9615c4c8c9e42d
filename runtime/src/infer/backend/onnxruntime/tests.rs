//! Tensors of ONNX Runtime stay where they are, and for as long as somebody holds them.

use ort::memory::AllocationDevice;
use samovar_onnx::Onnx;
use samovar_onnx::folding::Folding;

use super::run::SharedSession;
use super::*;
use crate::infer::backend::tensor::{Data, ElementType, Tensor};
use crate::infer::backend::testing::onnx::leaking;
use crate::infer::backend::testing::skip::{Need, skip};
use crate::infer::backend::testing::{backends, identity, row_by_row};
use crate::infer::backend::{GuestModel, Model};
use crate::infer::compute::Worker;

fn f32s(dims: [u32; 2], values: &[f32]) -> Tensor {
    Tensor {
        ty: ElementType::Fp32,
        dims: dims.to_vec(),
        data: Data::Bytes(bytemuck::cast_slice(values).to_vec()),
    }
}

fn address(tensor: &Tensor) -> *const u8 {
    tensor.data.read().unwrap().as_ptr()
}

fn read(tensor: &Tensor) -> Vec<f32> {
    tensor.data.elements::<f32>().unwrap().into_owned()
}

fn session(onnxruntime: &Onnxruntime, bytes: &[u8]) -> SharedSession {
    let model = GuestModel::read(bytes.to_vec(), u64::MAX).unwrap();
    let opened = session::open(
        &onnxruntime.environment,
        &Source::Bytes(&model),
        1,
        Folding::Off,
    )
    .unwrap();
    SharedSession::new(
        opened,
        model.onnx.model.inputs().unwrap(),
        model.onnx.model.outputs().unwrap(),
        Place::Host,
    )
    .unwrap()
}

#[test]
fn an_output_stays_where_it_was_made_and_outlives_its_session() {
    let backends = backends();
    let Ok(onnxruntime) = &backends.onnxruntime else {
        skip(Need::Onnxruntime, "no library was found");
        return;
    };
    let session = session(onnxruntime, &row_by_row());
    let x = f32s([1, 2], &[0.0, 0.0]);
    let y = f32s([1, 2], &[1.0, 2.0]);
    let mut first = session.run(vec![x, y], &Worker::CALLER).unwrap();
    let sum = first.remove(0);
    assert!(matches!(sum.data, Data::Kept(_)));
    assert_eq!(read(&sum), [1.5, 2.5]);
    let again = Tensor {
        data: sum.data.clone(),
        ..sum.clone()
    };
    assert_eq!(address(&sum), address(&again), "nothing was copied");
    let second = session.run(vec![sum, again], &Worker::CALLER).unwrap();
    drop(session);
    assert_eq!(read(&second[1]), [1.5, 2.5]);
    // Another shape than it was made in: the same memory under a new one.
    let scalar = Tensor {
        dims: vec![2, 1],
        ..second[1].clone()
    };
    let other = self::session(onnxruntime, &row_by_row());
    let inputs = vec![scalar, f32s([2, 1], &[0.0, 0.0])];
    let third = other.run(inputs, &Worker::CALLER).unwrap();
    assert_eq!(read(&third[1]), [1.5, 2.5]);
    assert_eq!(third[1].dims, [2, 1]);
}

#[test]
fn bound_outputs_are_those_of_a_plain_run() {
    let backends = backends();
    let Ok(onnxruntime) = &backends.onnxruntime else {
        skip(Need::Onnxruntime, "no library was found");
        return;
    };
    let plain = session(onnxruntime, &row_by_row());
    let bound = session(onnxruntime, &row_by_row()).bound_to(AllocationDevice::CPU, 0);
    let inputs = || {
        vec![
            f32s([2, 2], &[1.0, -2.0, 3.0, 4.0]),
            f32s([2, 2], &[0.5; 4]),
        ]
    };
    let wanted = plain.run(inputs(), &Worker::CALLER).unwrap();
    let mut found = bound.run(inputs(), &Worker::CALLER).unwrap();
    for (wanted, found) in wanted.iter().zip(&found) {
        assert_eq!(read(wanted), read(found));
        assert_eq!(wanted.dims, found.dims);
    }
    let state = found.remove(0);
    let next = bound.run(vec![state.clone(), state], &Worker::CALLER);
    assert_eq!(next.unwrap()[1].dims, [2, 2]);
    let wrong = bound.run(
        vec![f32s([1, 2], &[0.0; 2]), f32s([3, 3], &[0.0; 9])],
        &Worker::CALLER,
    );
    assert!(wrong.is_err());
}

#[test]
fn an_input_that_is_passed_on_is_not_lent_beyond_its_run() {
    let backends = backends();
    let Ok(onnxruntime) = &backends.onnxruntime else {
        skip(Need::Onnxruntime, "no library was found");
        return;
    };
    let session = session(onnxruntime, &identity());
    let x = f32s([1, 2], &[7.0, 8.0]);
    let lent = address(&x);
    let outputs = session.run(vec![x], &Worker::CALLER).unwrap();
    assert_ne!(address(&outputs[0]), lent);
    assert_eq!(read(&outputs[0]), [7.0, 8.0]);
}

#[test]
fn an_output_stays_on_its_device_once_one_went_into_another_run() {
    let backends = backends();
    let Ok(onnxruntime) = &backends.onnxruntime else {
        skip(Need::Onnxruntime, "no library was found");
        return;
    };
    // The host's memory stands for a card's.
    let session = session(onnxruntime, &row_by_row()).bound_to(AllocationDevice::CPU, 0);
    let x = f32s([1, 2], &[0.0, 0.0]);
    let y = f32s([1, 2], &[1.0, 2.0]);
    let outputs = session.run(vec![x.clone(), y], &Worker::CALLER).unwrap();
    assert!(session.is_placed_on_host(0) && session.is_placed_on_host(1));
    let outputs = session
        .run(vec![x, outputs[0].clone()], &Worker::CALLER)
        .unwrap();
    assert!(!session.is_placed_on_host(0) && session.is_placed_on_host(1));
    read(&outputs[0]);
    assert!(session.is_placed_on_host(0), "it was read after all");
}

#[test]
fn the_library_s_log_tells_which_nodes_are_on_the_cpu() {
    let backends = backends();
    let Ok(onnxruntime) = &backends.onnxruntime else {
        skip(Need::Onnxruntime, "no library was found");
        return;
    };
    let bytes = row_by_row();
    let builder = session::onnx_builder(&onnxruntime.environment, 1, Folding::On).unwrap();
    let (builder, placements) = gpu::session::log_placements(builder).unwrap();
    let mut builder = builder;
    builder.commit_from_memory(&bytes).unwrap();
    let why = placements.lock().refusal().unwrap();
    assert_eq!(why, "the GPU has kernels for none of its operators");
}

#[test]
fn what_was_checked_as_onnx_is_read_as_onnx() {
    let backends = backends();
    let Ok(onnxruntime) = &backends.onnxruntime else {
        skip(Need::Onnxruntime, "no library was found");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (onnx, ort) = (folder.path().join("m.onnx"), folder.path().join("m.ort"));
    std::fs::write(&onnx, row_by_row()).unwrap();
    let environment = &onnxruntime.environment;
    session::save_optimized(environment, &Source::File(&onnx), 1, Folding::On, &ort).unwrap();
    let bytes = std::fs::read(&ort).unwrap();
    // As if the check had been passed by bytes that the library takes for a model in its own format.
    let other = GuestModel {
        bytes: bytes.clone(),
        onnx: Onnx::read(&row_by_row()).unwrap(),
    };
    let opened = session::open(environment, &Source::Bytes(&other), 1, Folding::Off);
    assert!(opened.is_err(), "the library read its own format");
    let opened = session::open(environment, &Source::File(&ort), 1, Folding::On);
    assert!(opened.is_err(), "the library read its own format");
    let error = Onnx::read(&bytes).unwrap_err();
    assert!(error.contains("ONNX Runtime's own format"), "{error}");
}

#[test]
fn bytes_have_no_files_beside_them_though_the_check_before_missed_one() {
    let backends = backends();
    let Ok(onnxruntime) = &backends.onnxruntime else {
        skip(Need::Onnxruntime, "no library was found");
        return;
    };
    // A file in the folder in which tests run, as the server's keys may lie in that of a server.
    let bytes = leaking("Cargo.toml", 8);
    let Err(refused) = GuestModel::read(bytes.clone(), u64::MAX) else {
        panic!("the check before does not miss it");
    };
    assert!(refused.0.contains("stored in another file"), "{refused}");
    let missed = GuestModel {
        onnx: Onnx::read(&bytes).unwrap(),
        bytes,
    };
    let environment = &onnxruntime.environment;
    let opened = session::open(environment, &Source::Bytes(&missed), 1, Folding::Off);
    let error = opened.map(drop).unwrap_err().to_string();
    assert!(error.contains("no-weights"), "{error}");
    // Told of no folder, the library reads the file: without that, this test would show nothing.
    let mut builder = session::onnx_builder(environment, 1, Folding::Off).unwrap();
    builder.commit_from_memory(&missed.bytes).unwrap();
}
