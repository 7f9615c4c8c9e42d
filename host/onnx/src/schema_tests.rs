//! The generated files are those of the schema that lies beside them.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use super::{Kind, tables};

const PROTO: &str = include_str!("schema/onnx-ml.proto3");

#[test]
fn generated_files_are_of_this_schema() {
    let digest = hex::encode(Sha256::digest(PROTO));
    let line = format!("// SHA-256 of onnx-ml.proto3: {digest}\n");
    for generated in [
        include_str!("schema/messages.rs"),
        include_str!("schema/tables.rs"),
    ] {
        assert!(
            generated.contains(&line),
            "the schema changed: run `cargo xtask onnx-schema`"
        );
    }
}

/// Fields of each message, by their numbers: name, whether repeated, and kind.
type Fields = BTreeMap<u64, (String, bool, String)>;

/// Reads the schema a second time, line by line.
fn read() -> BTreeMap<String, Fields> {
    let mut messages: BTreeMap<String, Fields> = BTreeMap::new();
    let mut open: Vec<Option<String>> = Vec::new();
    for line in PROTO.lines() {
        let line = line.split("//").next().unwrap_or_default();
        let line = line.split('[').next().unwrap_or_default().trim();
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["message", name, "{"] => {
                let around = open.iter().flatten().next_back();
                let name = around.map_or((*name).into(), |around| format!("{around}.{name}"));
                messages.entry(name.clone()).or_default();
                open.push(Some(name));
            }
            ["enum", ..] => open.push(None),
            // Its members are fields of the message around it.
            ["oneof", ..] => open.push(open.last().cloned().flatten()),
            [close, ..] if close.starts_with('}') => drop(open.pop()),
            ["reserved" | "option" | "syntax" | "package", ..] => {}
            [words @ .., ty, name, "=", number] if matches!(words, [] | ["repeated"]) => {
                let Some(Some(message)) = open.last() else {
                    continue;
                };
                let number = number.trim_end_matches(';').parse().unwrap();
                let field = ((*name).into(), !words.is_empty(), (*ty).into());
                messages.get_mut(message).unwrap().insert(number, field);
            }
            _ => {}
        }
    }
    messages
}

#[test]
fn tables_hold_every_field_of_the_schema() {
    let wanted = read();
    assert!(wanted.len() > 25 && wanted["TensorProto"].len() > 14);
    assert_eq!(wanted.len(), tables::COUNT);
    for (number, message) in tables::ALL.iter().enumerate() {
        assert_eq!(message.number, number);
        let wanted = &wanted[message.name];
        assert_eq!(message.fields.len(), wanted.len(), "{}", message.name);
        for field in message.fields {
            let (name, repeated, ty) = &wanted[&field.number];
            let label = format!("{}.{name}", message.name);
            assert_eq!(
                (field.name, field.repeated),
                (name.as_str(), *repeated),
                "{label}"
            );
            let fits = match (field.kind, ty.as_str()) {
                (Kind::Text, "string") | (Kind::Bytes, "bytes") => true,
                (Kind::Fixed32, "float") | (Kind::Fixed64, "double") => true,
                (Kind::Varint, "int32" | "int64" | "uint64") => true,
                (Kind::Varint, "AttributeType" | "DataLocation") => true,
                (Kind::Message(inner), ty) => {
                    inner.name == ty
                        || inner.name == format!("{}.{ty}", message.name)
                        || inner.name.rsplit('.').next() == Some(ty)
                }
                _ => false,
            };
            assert!(fits, "{label} is {ty}");
        }
    }
}
