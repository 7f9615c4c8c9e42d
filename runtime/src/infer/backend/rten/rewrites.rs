//! Rewrites nodes that rten 0.27 computes wrongly or not at all with operators that it computes correctly.

use samovar_onnx::known::{FLOAT, INT8, Known, UINT8};
use samovar_onnx::{Attribute, NodeProto};

use super::refusals::{quantized_type, reduces_bools, scale_is_alone};

/// From this opset on, Softmax and LogSoftmax work along one axis; before, they flatten to two dimensions.
const SOFTMAX_ALONG_AXIS: i64 = 13;
/// From this opset on, the mask of a Dropout has bools.
const DROPOUT_MASKS_BOOLS: i64 = 10;
/// Numbers of `AttributeProto.AttributeType`.
const FLOAT_ATTRIBUTE: i32 = 1;
const INT_ATTRIBUTE: i32 = 2;
const FLOATS_ATTRIBUTE: i32 = 6;
const INTS_ATTRIBUTE: i32 = 7;

/// The nodes that replace this one; `None` if rten computes it correctly.
pub(super) fn of_node(node: &NodeProto, known: &Known, opset: i64) -> Option<Vec<NodeProto>> {
    let mut builder = NodeBuilder::of(node)?;
    let input = |at: usize| {
        let name = node.input.get(at).map(String::as_str);
        name.filter(|name| !name.is_empty())
    };
    let x = input(0)?;
    let rank = |at: usize| input(at).and_then(|name| known.rank(name));
    match node.op_type.as_str() {
        "Softmax" | "LogSoftmax" if opset < SOFTMAX_ALONG_AXIS => {
            let axis = node.attribute("axis").map_or(1, |attribute| attribute.i);
            let last = match rank(0) {
                Some(rank) => axis == -1 || axis == rank as i64 - 1,
                None => axis == -1,
            };
            if last {
                return None;
            }
            let shape = builder.op("Shape", &[x], &[]);
            let flat = builder.op("Flatten", &[x], &[int("axis", axis)]);
            let soft = builder.op(&node.op_type, &[&flat], &[int("axis", 1)]);
            builder.last("Reshape", &[&soft, &shape], &[]);
        }
        "Sign" => {
            // rten returns 1 for the sign of 0.
            let zero = builder.op("Sub", &[x, x], &[]);
            let is_zero = builder.op("Equal", &[x, &zero], &[]);
            let sign = builder.op("Sign", &[x], &[]);
            builder.last("Where", &[&is_zero, x, &sign], &[]);
        }
        "ArgMax" | "ArgMin" => {
            // rten selects the last of equal values; its TopK selects the first.
            let chosen = |name: &str| node.attribute(name).map(|attribute| attribute.i);
            if chosen("select_last_index").unwrap_or(0) != 0 {
                return None;
            }
            let axis = chosen("axis").unwrap_or(0);
            let largest = i64::from(node.op_type == "ArgMax");
            let one = builder.ints(&[1]);
            let attributes = [int("axis", axis), int("largest", largest), int("sorted", 1)];
            if chosen("keepdims").unwrap_or(1) != 0 {
                builder.second("TopK", &[x, &one], &attributes, None);
            } else {
                let index = builder.second("TopK", &[x, &one], &attributes, Some("index"));
                let axes = builder.ints(&[axis]);
                builder.last("Squeeze", &[&index, &axes], &[]);
            }
        }
        "MatMul" if rank(1) == Some(1) && rank(0).is_none_or(|rank| rank > 3) => {
            let last = builder.ints(&[-1]);
            let column = builder.op("Unsqueeze", &[input(1)?, &last], &[]);
            let product = builder.op("MatMul", &[x, &column], &[]);
            builder.last("Squeeze", &[&product, &last], &[]);
        }
        "Dropout" => {
            if let Some(mask) = node.output.get(1).filter(|name| !name.is_empty()) {
                let shape = builder.op("Shape", &[x], &[]);
                let zeros = builder.op("ConstantOfShape", &[&shape], &[]);
                let ones = builder.op("Exp", &[&zeros], &[]);
                let ty = if opset >= DROPOUT_MASKS_BOOLS {
                    9
                } else {
                    FLOAT
                };
                builder.named("Cast", &[&ones], &[int("to", ty.into())], mask);
            }
            builder.last("Identity", &[x], &[]);
        }
        "ReduceMax" if reduces_bools(node, known) => {
            // The maximum of no elements is the lowest integer, which is not 0 and therefore true.
            let max = builder.output("max");
            let mut reduce = node.clone();
            reduce.name = node_name(node);
            reduce.output = vec![max.clone()];
            builder.nodes.push(reduce);
            let zero = builder.int(0);
            let zero = builder.op("Cast", &[&zero], &[int("to", 9)]);
            builder.last("Greater", &[&max, &zero], &[]);
        }
        "QuantizeLinear" => {
            let ty = quantized_type(node, known).filter(|ty| matches!(*ty, UINT8 | INT8))?;
            let blocks = node.attribute("block_size").is_some_and(|size| size.i != 0);
            let floats = known.ty(x).is_none_or(|ty| ty == FLOAT);
            if blocks || !floats {
                return None;
            }
            let alone = scale_is_alone(node, known, opset)?;
            let zero = input(2).map(|zero| builder.op("Cast", &[zero], &[int("to", FLOAT.into())]));
            let (mut scale, mut zero) = (input(1)?.to_owned(), zero);
            if !alone {
                let rank = i64::try_from(rank(0)?).ok()?;
                let axis = node.attribute("axis").map_or(1, |attribute| attribute.i);
                let axis = if axis < 0 { axis + rank } else { axis };
                let dims: Vec<i64> = (0..rank)
                    .map(|at| if at == axis { -1 } else { 1 })
                    .collect();
                let dims = builder.ints(&dims);
                scale = builder.op("Reshape", &[&scale, &dims], &[]);
                zero = zero.map(|zero| builder.op("Reshape", &[&zero, &dims], &[]));
            }
            let scales = if alone { Scale::Single } else { Scale::Shaped };
            builder.quantize(x, &scale, zero.as_deref(), ty, scales);
        }
        "DynamicQuantizeLinear" => {
            // In pairs, because rten divides by a scalar by multiplying with its inverse, which differs in the last digit.
            let zero = builder.floats(&[0.0; 2]);
            let most = builder.floats(&[255.0; 2]);
            let bound =
                |builder: &mut NodeBuilder, op: &str| builder.op(op, &[x], &[int("keepdims", 0)]);
            let low = bound(&mut builder, "ReduceMin");
            let low = builder.op("Min", &[&low, &zero], &[]);
            let high = bound(&mut builder, "ReduceMax");
            let high = builder.op("Max", &[&high, &zero], &[]);
            let range = builder.op("Sub", &[&high, &low], &[]);
            let scale = builder.op("Div", &[&range, &most], &[]);
            let scaled = builder.op("Div", &[&low, &scale], &[]);
            let point = builder.op("Sub", &[&zero, &scaled], &[]);
            let (least, greatest) = (builder.float(0.0), builder.float(255.0));
            let point = builder.op("Clip", &[&point, &least, &greatest], &[]);
            let point = builder.op("Round", &[&point], &[]);
            let first = builder.int(0);
            let scale = builder.op("Gather", &[&scale, &first], &[]);
            let point = builder.op("Gather", &[&point, &first], &[]);
            if let Some(name) = node.output.get(1).filter(|name| !name.is_empty()) {
                builder.named("Identity", &[&scale], &[], name);
            }
            if let Some(name) = node.output.get(2).filter(|name| !name.is_empty()) {
                builder.named("Cast", &[&point], &[int("to", UINT8.into())], name);
            }
            builder.quantize(x, &scale, Some(&point), UINT8, Scale::Single);
        }
        "Conv" | "ConvInteger" | "ConvTranspose" | "AveragePool" | "MaxPool" => {
            builder.nodes.push(with_defaults(node, known)?);
        }
        _ => return None,
    }
    Some(builder.nodes)
}

/// As [`of_node`], for an operator outside of the standard.
pub(super) fn of_contributed(node: &NodeProto) -> Option<Vec<NodeProto>> {
    if node.domain != "com.microsoft" || node.op_type != "DynamicQuantizeLSTM" {
        return None;
    }
    // rten infers the shape of the output from the weights as if they were in the order of LSTM, and replaces `Shape` with the wrong
    // result. It infers nothing if the shape of the input is unknown, as that of an element of a sequence is.
    let mut builder = NodeBuilder::of(node)?;
    let x = node.input.first()?;
    let sequence = builder.op("SequenceConstruct", &[x], &[]);
    let first = builder.int(0);
    let x = builder.op("SequenceAt", &[&sequence, &first], &[]);
    let mut lstm = node.clone();
    lstm.name = node_name(node);
    *lstm.input.first_mut()? = x;
    builder.nodes.push(lstm);
    Some(builder.nodes)
}

/// The name of the node in errors of rten. Values and nodes share a namespace there.
pub(super) fn node_name(node: &NodeProto) -> String {
    if node.name.is_empty() {
        format!("{} of {}", node.op_type, node.label())
    } else {
        node.name.clone()
    }
}

/// Builds the nodes that replace a node.
pub(super) struct NodeBuilder {
    label: String,
    output: String,
    pub(super) nodes: Vec<NodeProto>,
    values: usize,
}

impl NodeBuilder {
    pub(super) fn of(node: &NodeProto) -> Option<Self> {
        Some(Self {
            label: node_name(node),
            output: node.output.first()?.to_owned(),
            nodes: Vec::new(),
            values: 0,
        })
    }

    fn output(&mut self, what: &str) -> String {
        self.values += 1;
        format!("{}/samovar/{what}{}", self.output, self.values)
    }

    fn push(&mut self, op: &str, inputs: &[&str], attributes: &[Attribute], outputs: Vec<String>) {
        self.nodes.push(NodeProto {
            input: inputs.iter().map(ToString::to_string).collect(),
            output: outputs,
            name: self.label.clone(),
            op_type: op.to_owned(),
            attribute: attributes.to_vec(),
            ..Default::default()
        });
    }

    /// Adds a node whose output has this name.
    pub(super) fn named(
        &mut self,
        op: &str,
        inputs: &[&str],
        attributes: &[Attribute],
        output: &str,
    ) {
        self.push(op, inputs, attributes, vec![output.to_owned()]);
    }

    /// Adds an intermediate node. Returns the name of its output.
    pub(super) fn op(&mut self, op: &str, inputs: &[&str], attributes: &[Attribute]) -> String {
        let output = self.output(op);
        self.named(op, inputs, attributes, &output);
        output
    }

    /// Adds the node that computes the first output of the replaced node.
    fn last(&mut self, op: &str, inputs: &[&str], attributes: &[Attribute]) {
        let output = self.output.clone();
        self.named(op, inputs, attributes, &output);
    }

    /// Adds a node and returns its second output, under a new name or that of the first output of the replaced node.
    fn second(
        &mut self,
        op: &str,
        inputs: &[&str],
        attributes: &[Attribute],
        what: Option<&str>,
    ) -> String {
        let first = self.output("unused");
        let second = match what {
            Some(what) => self.output(what),
            None => self.output.clone(),
        };
        self.push(op, inputs, attributes, vec![first, second.clone()]);
        second
    }

    fn constant(&mut self, attribute: Attribute) -> String {
        self.op("Constant", &[], &[attribute])
    }

    pub(super) fn float(&mut self, f: f32) -> String {
        self.constant(Attribute {
            name: "value_float".into(),
            f,
            r#type: FLOAT_ATTRIBUTE,
            ..Default::default()
        })
    }

    fn floats(&mut self, values: &[f32]) -> String {
        self.constant(Attribute {
            name: "value_floats".into(),
            floats: values.to_vec(),
            r#type: FLOATS_ATTRIBUTE,
            ..Default::default()
        })
    }

    pub(super) fn int(&mut self, i: i64) -> String {
        self.constant(int("value_int", i))
    }

    fn ints(&mut self, values: &[i64]) -> String {
        self.constant(ints("value_ints", values.to_vec()))
    }

    /// Divides, where rten multiplies with the inverse, which rounds differently for values halfway between two integers.
    fn quantize(&mut self, x: &str, scale: &str, zero_point: Option<&str>, ty: i32, scales: Scale) {
        let (low, high) = if ty == INT8 {
            (-128.0, 127.0)
        } else {
            (0.0, 255.0)
        };
        let (low, high) = (self.float(low), self.float(high));
        let scale = match scales {
            Scale::Shaped => scale.to_owned(),
            Scale::Single => {
                let shape = self.op("Shape", &[x], &[]);
                self.op("Expand", &[scale, &shape], &[])
            }
        };
        let divided = self.op("Div", &[x, &scale], &[]);
        let mut value = self.op("Round", &[&divided], &[]);
        if let Some(zero_point) = zero_point {
            value = self.op("Add", &[&value, zero_point], &[]);
        }
        let clipped = self.op("Clip", &[&value, &low, &high], &[]);
        self.last("Cast", &[&clipped], &[int("to", ty.into())]);
    }
}

/// The shape of a scale.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scale {
    /// A single value.
    Single,
    /// Several values, in a shape that broadcasts to the input.
    Shaped,
}

/// The node with explicit strides and pads; rten assumes two dimensions for the defaults.
fn with_defaults(node: &NodeProto, known: &Known) -> Option<NodeProto> {
    let rank = |at: usize| node.input.get(at).and_then(|name| known.rank(name));
    let kernel = node
        .attribute("kernel_shape")
        .map(|kernel| kernel.ints.len());
    let spatial = kernel.or_else(|| rank(1).or_else(|| rank(0))?.checked_sub(2))?;
    let padded = node.text("auto_pad").is_some_and(|auto| auto != "NOTSET");
    let mut full = node.clone();
    let mut add = |name: &str, values: Vec<i64>| {
        if node.attribute(name).is_none() {
            full.attribute.push(ints(name, values));
        }
    };
    add("strides", vec![1; spatial]);
    if !padded {
        add("pads", vec![0; 2 * spatial]);
    }
    if node.op_type.starts_with("Conv") {
        add("dilations", vec![1; spatial]);
    }
    full.name = node_name(node);
    (full.attribute.len() > node.attribute.len()).then_some(full)
}

fn ints(name: &str, values: Vec<i64>) -> Attribute {
    Attribute {
        name: name.into(),
        ints: values,
        r#type: INTS_ATTRIBUTE,
        ..Default::default()
    }
}

pub(super) fn int(name: &str, i: i64) -> Attribute {
    Attribute {
        name: name.into(),
        i,
        r#type: INT_ATTRIBUTE,
        ..Default::default()
    }
}
