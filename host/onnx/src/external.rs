//! Weights in files beside the model: which files a model names, and what it reads of each.

use std::collections::BTreeMap;

use super::outside::Reference;

/// What a model wants of a file beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataNeed {
    /// The file, from the model's own folder.
    pub location: String,
    /// A weight that lies in it, the one that reaches furthest.
    pub weight: String,
    /// How many bytes of it the model reads.
    pub bytes: u64,
}

/// The files that a model wants, in the order of their names.
///
/// # Errors
/// When a location leads out of the model's folder or means none, or when the model wants something other than weights.
pub fn needs(references: &[Reference]) -> Result<Vec<DataNeed>, String> {
    let mut needs: BTreeMap<String, DataNeed> = BTreeMap::new();
    for reference in references {
        let need = match reference {
            Reference::Data { tensor, entries } => need(tensor, entries)?,
            Reference::Engine { .. } => {
                return Err(format!(
                    "{}: export the model without it",
                    reference.label()
                ));
            }
        };
        match needs.get_mut(&need.location) {
            Some(before) if before.bytes >= need.bytes => {}
            _ => drop(needs.insert(need.location.clone(), need)),
        }
    }
    Ok(needs.into_values().collect())
}

fn need(weight: &str, entries: &[(String, String)]) -> Result<DataNeed, String> {
    let entry = |key: &str| -> Result<Option<&str>, String> {
        let mut found = entries.iter().filter(|(name, _)| name == key);
        let first = found.next().map(|(_, value)| value.as_str());
        match found.next() {
            None => Ok(first),
            Some(_) => Err(format!("weight `{weight}` has two entries `{key}`")),
        }
    };
    let location = entry("location")?.ok_or_else(|| {
        format!("weight `{weight}` is stored in another file, but the model does not name the file")
    })?;
    let location = checked(location).ok_or_else(|| {
        format!(
            "weight `{weight}` is stored in {location:?}: wanted a file in the model's folder or below it, such as `model.onnx.data`"
        )
    })?;
    let number = |key: &str| -> Result<u64, String> {
        let Some(text) = entry(key)? else {
            return Ok(0);
        };
        text.parse()
            .map_err(|_| format!("weight `{weight}`: found {key} {text:?}, wanted a number"))
    };
    Ok(DataNeed {
        location,
        weight: weight.to_owned(),
        bytes: number("offset")?.saturating_add(number("length")?),
    })
}

/// A location in its plainest form; `None` when it could mean anything outside of the model's folder.
pub fn checked(location: &str) -> Option<String> {
    if location.starts_with('/') || location.contains(['\\', '\0', ':']) {
        return None;
    }
    let parts: Vec<&str> = location
        .split('/')
        .filter(|part| !matches!(*part, "" | "."))
        .collect();
    (!parts.is_empty() && !parts.contains(&"..")).then(|| parts.join("/"))
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::super::{Attribute, Entry, GraphProto, ModelProto, NodeProto, Onnx, TensorProto};
    use super::*;

    fn weight(name: &str, location: &str, offset: u64, length: u64) -> TensorProto {
        let entry = |key: &str, value: String| Entry {
            key: key.into(),
            value,
        };
        TensorProto {
            name: name.into(),
            data_location: 1,
            external_data: vec![
                entry("location", location.into()),
                entry("offset", offset.to_string()),
                entry("length", length.to_string()),
            ],
            ..Default::default()
        }
    }

    fn needs_of(model: &[u8]) -> Result<Vec<DataNeed>, String> {
        needs(&Onnx::read(model)?.references)
    }

    fn model(weights: Vec<TensorProto>) -> Vec<u8> {
        let inner = GraphProto {
            initializer: weights,
            ..Default::default()
        };
        let node = NodeProto {
            attribute: vec![Attribute {
                g: Some(Box::new(inner)),
                ..Default::default()
            }],
            ..Default::default()
        };
        ModelProto {
            graph: Some(GraphProto {
                node: vec![node],
                ..Default::default()
            }),
            ..Default::default()
        }
        .encode_to_vec()
    }

    #[test]
    fn a_file_is_wanted_once_up_to_its_last_byte() {
        let model = model(vec![
            weight("a", "m.data", 0, 8),
            weight("b", "./m.data", 8, 8),
            weight("c", "deep/n.data", 0, 4),
        ]);
        let needs = needs_of(&model).unwrap();
        assert_eq!(needs.len(), 2);
        assert_eq!(
            (needs[0].location.as_str(), needs[0].bytes),
            ("deep/n.data", 4)
        );
        assert_eq!((needs[1].weight.as_str(), needs[1].bytes), ("b", 16));
    }

    #[test]
    fn no_location_leads_out_of_the_folder() {
        for location in [
            "/etc/passwd",
            "../x",
            "a/../../x",
            "",
            ".",
            "C:\\x",
            "a\\b",
            "a\0b",
        ] {
            let error = needs_of(&model(vec![weight("w", location, 0, 1)])).unwrap_err();
            assert!(error.contains("weight `w`"), "{error}");
        }
    }
}
