//! Refuses models with 64-bit constants that do not fit into the 32 bits that rten computes with.
//!
//! rten clamps them, which is harmless only where a number means "to the end".

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use samovar_onnx::known::{DOUBLE, INT64};
use samovar_onnx::wire::{Wide, fields, of_bytes, wide_numbers};
use samovar_onnx::{GraphProto, ModelProto, NodeProto, TensorProto};

/// Operators that pass a constant on unchanged.
const PASSING: [&str; 6] = [
    "Identity",
    "Unsqueeze",
    "Squeeze",
    "Reshape",
    "Cast",
    "Gather",
];

/// The nodes that use each value, and with which of their inputs.
struct Uses<'a> {
    of: HashMap<&'a str, Vec<(&'a NodeProto, usize)>>,
    outputs: HashSet<&'a str>,
    /// Values without a harmful use, so that each is followed once.
    harmless: HashSet<&'a str>,
}

/// The reason to refuse a model because of its constants. `folder` has the files with external weights.
pub(super) fn refusal(model: &ModelProto, bytes: &[u8], folder: Option<&Path>) -> Option<String> {
    let mut uses = Uses {
        of: HashMap::new(),
        outputs: HashSet::new(),
        harmless: HashSet::new(),
    };
    let graph = model.graph.as_ref()?;
    uses.collect(graph);
    let raw = fields(bytes).find(|field| field.tag == 7)?;
    of_graph(graph, raw.payload, &mut uses, folder)
}

impl<'a> Uses<'a> {
    fn collect(&mut self, graph: &'a GraphProto) {
        self.outputs
            .extend(graph.output.iter().map(|info| info.name.as_str()));
        for node in &graph.node {
            for (at, input) in node.input.iter().enumerate() {
                self.of.entry(input).or_default().push((node, at));
            }
            for attribute in &node.attribute {
                attribute
                    .inner_graphs()
                    .for_each(|graph| self.collect(graph));
            }
        }
    }

    /// The first use for which the clamped value would be wrong.
    fn harmful_use(&mut self, name: &'a str) -> Option<String> {
        let mut open = vec![name];
        while let Some(name) = open.pop() {
            if self.outputs.contains(&name) {
                return Some("as an output of a graph".into());
            }
            if !self.harmless.insert(name) {
                continue;
            }
            for (node, at) in self.of.get(name).into_iter().flatten() {
                match (node.op_type.as_str(), at) {
                    // "To the end", "without bound", "for ever".
                    ("Slice" | "Clip", 1 | 2) | ("Loop", 0) => {}
                    ("Concat", _) => open.extend(node.output.iter().map(String::as_str)),
                    (op, 0) if PASSING.contains(&op) => {
                        open.extend(node.output.iter().map(String::as_str));
                    }
                    (op, _) => {
                        return Some(format!("by operator {op} of node `{}`", node.label()));
                    }
                }
            }
        }
        None
    }
}

fn of_graph<'a>(
    graph: &'a GraphProto,
    bytes: &[u8],
    uses: &mut Uses<'a>,
    folder: Option<&Path>,
) -> Option<String> {
    let raw_weights = fields(bytes).filter(|field| field.tag == 5);
    for (tensor, raw) in graph.initializer.iter().zip(raw_weights) {
        if let Some(why) = of_tensor(&tensor.name, tensor, raw.payload, uses, folder) {
            return Some(why);
        }
    }
    let raw_nodes = fields(bytes).filter(|field| field.tag == 1);
    for (node, raw) in graph.node.iter().zip(raw_nodes) {
        let raw_attributes = fields(raw.payload).filter(|field| field.tag == 5);
        for (attribute, raw) in node.attribute.iter().zip(raw_attributes) {
            let inner = |tag: u64| fields(raw.payload).filter(move |field| field.tag == tag);
            for (graph, raw) in attribute.g.as_deref().into_iter().zip(inner(6)) {
                if let Some(why) = of_graph(graph, raw.payload, uses, folder) {
                    return Some(why);
                }
            }
            let name = node.output.first().map_or("", String::as_str);
            if let (Some(tensor), Some(raw)) = (&attribute.t, inner(5).next())
                && let Some(why) = of_tensor(name, tensor, raw.payload, uses, folder)
            {
                return Some(why);
            }
            if node.op_type == "Constant"
                && attribute.name.starts_with("value_int")
                && let Some(value) = attribute
                    .ints
                    .iter()
                    .chain([&attribute.i])
                    .find(|value| i32::try_from(**value).is_err())
                && let Some(how) = uses.harmful_use(name)
            {
                return Some(refused(name, &value, &how));
            }
        }
    }
    None
}

fn of_tensor<'a>(
    name: &'a str,
    tensor: &TensorProto,
    bytes: &[u8],
    uses: &mut Uses<'a>,
    folder: Option<&Path>,
) -> Option<String> {
    let wide = match tensor.data_type {
        INT64 => Wide::I64,
        DOUBLE => Wide::F64,
        _ => return None,
    };
    let unfit = |value: &f64| match wide {
        Wide::I64 => *value < f64::from(i32::MIN) || *value > f64::from(i32::MAX),
        Wide::F64 => value.is_finite() && value.abs() > f64::from(f32::MAX),
    };
    let found = if tensor.external_data.is_empty() {
        wide_numbers(bytes, wide).find(unfit)
    } else {
        outside(tensor, folder?, wide, unfit)
    };
    let value = found?;
    match wide {
        Wide::I64 => Some(refused(name, &(value as i64), &uses.harmful_use(name)?)),
        Wide::F64 => Some(refused(name, &value, "as a constant")),
    }
}

/// The first number of a tensor with external data that matches.
fn outside(
    tensor: &TensorProto,
    folder: &Path,
    wide: Wide,
    matches: impl Fn(&f64) -> bool,
) -> Option<f64> {
    /// A multiple of the size of a number.
    const CHUNK_BYTES: u64 = 64 << 10;
    let entry = |key: &str| {
        let mut entries = tensor.external_data.iter();
        entries
            .find(|entry| entry.key == key)
            .map(|entry| entry.value.as_str())
    };
    let offset = entry("offset").map_or(Some(0), |text| text.parse().ok())?;
    let mut left = entry("length").map_or(Some(u64::MAX), |text| text.parse().ok())?;
    let mut file = File::open(folder.join(entry("location")?)).ok()?;
    file.seek(SeekFrom::Start(offset)).ok()?;
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        let part = left.min(CHUNK_BYTES);
        let count = (&mut file).take(part).read_to_end(&mut bytes).ok()?;
        if let Some(found) = of_bytes(&bytes, wide).find(&matches) {
            return Some(found);
        }
        left -= count as u64;
        if count == 0 || left == 0 {
            return None;
        }
    }
}

fn refused(name: &str, value: &dyn std::fmt::Display, how: &str) -> String {
    format!(
        "the constant `{name}` holds {value}, which does not fit into the 32 bits that rten computes with, and is used {how}"
    )
}
