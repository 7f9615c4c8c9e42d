//! What a model references outside itself, as the scan sees it, is what a decoder sees that shares no code with it.

#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use prost_reflect::{DynamicMessage, MessageDescriptor, ReflectMessage as _, Value};
use samovar_onnx::Onnx;
use samovar_onnx::outside::Reference;
use samovar_onnx::wire::{Edit, edited};

static MODEL: LazyLock<MessageDescriptor> = LazyLock::new(|| {
    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("../host/onnx/src/schema");
    let files = protox::compile(["onnx-ml.proto3"], [schema]).expect("the schema compiles");
    let pool = prost_reflect::DescriptorPool::from_file_descriptor_set(files)
        .expect("the schema is whole");
    pool.get_message_by_name("onnx.ModelProto")
        .expect("a model is part of it")
});

/// Gives every file of weights the same name.
struct Renamed;

impl Edit for Renamed {
    fn location(&mut self, _location: &str) -> String {
        "elsewhere".into()
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(read) = Onnx::read(bytes) else {
        return;
    };
    // What is not decoded, such as weights and documentation, may be wrong; a backend refuses that by itself.
    let Ok(model) = DynamicMessage::decode(MODEL.clone(), bytes) else {
        return;
    };
    let names = read
        .references
        .into_iter()
        .map(|reference| match reference {
            Reference::Data { tensor, .. } => tensor,
            Reference::Engine { node } => node,
        });
    let mut found: Vec<String> = names.collect();
    let mut wanted = Vec::new();
    collect(&model, &mut wanted);
    found.sort();
    wanted.sort();
    assert_eq!(found, wanted);
    let copy = edited(bytes, &mut Renamed).unwrap_or_default();
    let model = DynamicMessage::decode(MODEL.clone(), copy.as_slice()).expect("so is its copy");
    assert!(all_elsewhere(&model), "a location was not renamed");
});

fn text(message: &DynamicMessage, field: &str) -> String {
    let value = message.get_field_by_name(field);
    let text = value.as_ref().and_then(|value| value.as_str());
    text.unwrap_or_default().to_owned()
}

fn entries(tensor: &DynamicMessage) -> Vec<DynamicMessage> {
    let value = tensor.get_field_by_name("external_data");
    let list = value.as_ref().and_then(|value| value.as_list());
    let list = list.unwrap_or_default().iter();
    list.filter_map(|entry| entry.as_message().cloned())
        .collect()
}

/// The names of tensors that lie elsewhere, and of nodes that run what does.
fn collect(message: &DynamicMessage, found: &mut Vec<String>) {
    match message.descriptor().name() {
        "TensorProto" => {
            let location = message.get_field_by_name("data_location");
            let location = location.as_ref().and_then(|value| value.as_enum_number());
            if location.unwrap_or(0) != 0 || !entries(message).is_empty() {
                found.push(text(message, "name"));
            }
        }
        "NodeProto" if text(message, "op_type") == "EPContext" => {
            found.push(text(message, "name"));
        }
        _ => {}
    }
    each_inner(message, &mut |inner| collect(inner, found));
}

/// Whether every tensor's location was renamed.
fn all_elsewhere(message: &DynamicMessage) -> bool {
    let mut all = true;
    if message.descriptor().name() == "TensorProto" {
        all = entries(message)
            .iter()
            .all(|entry| text(entry, "key") != "location" || text(entry, "value") == "elsewhere");
    }
    each_inner(message, &mut |inner| all &= all_elsewhere(inner));
    all
}

fn each_inner(message: &DynamicMessage, with: &mut dyn FnMut(&DynamicMessage)) {
    for (_, value) in message.fields() {
        match value {
            Value::Message(inner) => with(inner),
            Value::List(list) => list
                .iter()
                .filter_map(Value::as_message)
                .for_each(&mut *with),
            _ => {}
        }
    }
}
