//! What rten 0.27 would compute wrongly, or not at all, said by operators that it computes rightly.

use samovar_onnx::known::{FLOAT, INT8, Known, UINT8};
use samovar_onnx::{Attribute, NodeProto};

use super::refusals::{quantized_type, reduces_bools, scale_is_alone};

/// From this opset on, Softmax and its kin work along one axis; before, they flatten to two dimensions.
const SOFTMAX_ALONG_AXIS: i64 = 13;
/// From this opset on, the mask of a Dropout is of bools.
const DROPOUT_MASKS_BOOLS: i64 = 10;
/// Numbers of `AttributeProto.AttributeType`.
const FLOAT_ATTRIBUTE: i32 = 1;
const INT_ATTRIBUTE: i32 = 2;
const FLOATS_ATTRIBUTE: i32 = 6;
const INTS_ATTRIBUTE: i32 = 7;

/// The nodes that stand for this one; `None` when rten is right by itself.
pub(super) fn of_node(node: &NodeProto, known: &Known, opset: i64) -> Option<Vec<NodeProto>> {
    let mut made = Made::of(node)?;
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
            let shape = made.op("Shape", &[x], &[]);
            let flat = made.op("Flatten", &[x], &[int("axis", axis)]);
            let soft = made.op(&node.op_type, &[&flat], &[int("axis", 1)]);
            made.last("Reshape", &[&soft, &shape], &[]);
        }
        "Sign" => {
            // rten takes the sign of 0 for 1.
            let zero = made.op("Sub", &[x, x], &[]);
            let is_zero = made.op("Equal", &[x, &zero], &[]);
            let sign = made.op("Sign", &[x], &[]);
            made.last("Where", &[&is_zero, x, &sign], &[]);
        }
        "ArgMax" | "ArgMin" => {
            // rten takes the last of equal values; its TopK takes the first.
            let chosen = |name: &str| node.attribute(name).map(|attribute| attribute.i);
            if chosen("select_last_index").unwrap_or(0) != 0 {
                return None;
            }
            let axis = chosen("axis").unwrap_or(0);
            let largest = i64::from(node.op_type == "ArgMax");
            let one = made.ints(&[1]);
            let attributes = [int("axis", axis), int("largest", largest), int("sorted", 1)];
            if chosen("keepdims").unwrap_or(1) != 0 {
                made.second("TopK", &[x, &one], &attributes, None);
            } else {
                let index = made.second("TopK", &[x, &one], &attributes, Some("index"));
                let axes = made.ints(&[axis]);
                made.last("Squeeze", &[&index, &axes], &[]);
            }
        }
        "MatMul" if rank(1) == Some(1) && rank(0).is_none_or(|rank| rank > 3) => {
            let last = made.ints(&[-1]);
            let column = made.op("Unsqueeze", &[input(1)?, &last], &[]);
            let product = made.op("MatMul", &[x, &column], &[]);
            made.last("Squeeze", &[&product, &last], &[]);
        }
        "Dropout" => {
            if let Some(mask) = node.output.get(1).filter(|name| !name.is_empty()) {
                let shape = made.op("Shape", &[x], &[]);
                let zeros = made.op("ConstantOfShape", &[&shape], &[]);
                let ones = made.op("Exp", &[&zeros], &[]);
                let ty = if opset >= DROPOUT_MASKS_BOOLS {
                    9
                } else {
                    FLOAT
                };
                made.named("Cast", &[&ones], &[int("to", ty.into())], mask);
            }
            made.last("Identity", &[x], &[]);
        }
        "ReduceMax" if reduces_bools(node, known) => {
            // The maximum of none is the least number, which is not 0 and so would be true.
            let max = made.output("max");
            let mut reduce = node.clone();
            reduce.name = node_name(node);
            reduce.output = vec![max.clone()];
            made.nodes.push(reduce);
            let zero = made.int(0);
            let zero = made.op("Cast", &[&zero], &[int("to", 9)]);
            made.last("Greater", &[&max, &zero], &[]);
        }
        "QuantizeLinear" => {
            let ty = quantized_type(node, known).filter(|ty| matches!(*ty, UINT8 | INT8))?;
            let blocks = node.attribute("block_size").is_some_and(|size| size.i != 0);
            let floats = known.ty(x).is_none_or(|ty| ty == FLOAT);
            if blocks || !floats {
                return None;
            }
            let alone = scale_is_alone(node, known, opset)?;
            let zero = input(2).map(|zero| made.op("Cast", &[zero], &[int("to", FLOAT.into())]));
            let (mut scale, mut zero) = (input(1)?.to_owned(), zero);
            if !alone {
                let rank = i64::try_from(rank(0)?).ok()?;
                let axis = node.attribute("axis").map_or(1, |attribute| attribute.i);
                let axis = if axis < 0 { axis + rank } else { axis };
                let dims: Vec<i64> = (0..rank)
                    .map(|at| if at == axis { -1 } else { 1 })
                    .collect();
                let dims = made.ints(&dims);
                scale = made.op("Reshape", &[&scale, &dims], &[]);
                zero = zero.map(|zero| made.op("Reshape", &[&zero, &dims], &[]));
            }
            let scales = if alone { Scale::Alone } else { Scale::Shaped };
            made.quantize(x, &scale, zero.as_deref(), ty, scales);
        }
        "DynamicQuantizeLinear" => {
            // In pairs, because rten multiplies by the inverse of what is alone, which differs in the last digit.
            let zero = made.floats(&[0.0; 2]);
            let most = made.floats(&[255.0; 2]);
            let bound = |made: &mut Made, op: &str| made.op(op, &[x], &[int("keepdims", 0)]);
            let low = bound(&mut made, "ReduceMin");
            let low = made.op("Min", &[&low, &zero], &[]);
            let high = bound(&mut made, "ReduceMax");
            let high = made.op("Max", &[&high, &zero], &[]);
            let range = made.op("Sub", &[&high, &low], &[]);
            let scale = made.op("Div", &[&range, &most], &[]);
            let scaled = made.op("Div", &[&low, &scale], &[]);
            let point = made.op("Sub", &[&zero, &scaled], &[]);
            let (least, greatest) = (made.float(0.0), made.float(255.0));
            let point = made.op("Clip", &[&point, &least, &greatest], &[]);
            let point = made.op("Round", &[&point], &[]);
            let first = made.int(0);
            let scale = made.op("Gather", &[&scale, &first], &[]);
            let point = made.op("Gather", &[&point, &first], &[]);
            if let Some(name) = node.output.get(1).filter(|name| !name.is_empty()) {
                made.named("Identity", &[&scale], &[], name);
            }
            if let Some(name) = node.output.get(2).filter(|name| !name.is_empty()) {
                made.named("Cast", &[&point], &[int("to", UINT8.into())], name);
            }
            made.quantize(x, &scale, Some(&point), UINT8, Scale::Alone);
        }
        "Conv" | "ConvInteger" | "ConvTranspose" | "AveragePool" | "MaxPool" => {
            made.nodes.push(with_defaults(node, known)?);
        }
        _ => return None,
    }
    Some(made.nodes)
}

/// The same for an operator that is not the standard's.
pub(super) fn of_contributed(node: &NodeProto) -> Option<Vec<NodeProto>> {
    if node.domain != "com.microsoft" || node.op_type != "DynamicQuantizeLSTM" {
        return None;
    }
    // rten infers the shape of what it gives from the weights, which it takes to be in the order of those of LSTM, and puts
    // the wrong result in place of `Shape`. It infers nothing when it does not know the input's shape, as that of an
    // element of a sequence.
    let mut made = Made::of(node)?;
    let x = node.input.first()?;
    let sequence = made.op("SequenceConstruct", &[x], &[]);
    let first = made.int(0);
    let x = made.op("SequenceAt", &[&sequence, &first], &[]);
    let mut lstm = node.clone();
    lstm.name = node_name(node);
    *lstm.input.first_mut()? = x;
    made.nodes.push(lstm);
    Some(made.nodes)
}

/// The name that rten's errors shall say. Values and nodes have their names in one room there.
pub(super) fn node_name(node: &NodeProto) -> String {
    if node.name.is_empty() {
        format!("{} of {}", node.op_type, node.label())
    } else {
        node.name.clone()
    }
}

/// Nodes that are made for one node.
pub(super) struct Made {
    label: String,
    output: String,
    pub(super) nodes: Vec<NodeProto>,
    values: usize,
}

impl Made {
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

    /// A node whose output has this name.
    pub(super) fn named(
        &mut self,
        op: &str,
        inputs: &[&str],
        attributes: &[Attribute],
        output: &str,
    ) {
        self.push(op, inputs, attributes, vec![output.to_owned()]);
    }

    /// A node in between.
    pub(super) fn op(&mut self, op: &str, inputs: &[&str], attributes: &[Attribute]) -> String {
        let output = self.output(op);
        self.named(op, inputs, attributes, &output);
        output
    }

    /// The node that gives what the old one gave first.
    fn last(&mut self, op: &str, inputs: &[&str], attributes: &[Attribute]) {
        let output = self.output.clone();
        self.named(op, inputs, attributes, &output);
    }

    /// A node of which the second output is wanted, under a new name or as the old node's.
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

    /// Divides where rten multiplies by the inverse, which differs where a value lies in the middle of two.
    fn quantize(&mut self, x: &str, scale: &str, zero_point: Option<&str>, ty: i32, scales: Scale) {
        let (low, high) = if ty == INT8 {
            (-128.0, 127.0)
        } else {
            (0.0, 255.0)
        };
        let (low, high) = (self.float(low), self.float(high));
        let scale = match scales {
            Scale::Shaped => scale.to_owned(),
            Scale::Alone => {
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

/// How a scale comes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scale {
    /// One for all.
    Alone,
    /// As many as there are, in a shape that fits the values.
    Shaped,
}

/// The node with strides and pads that it leaves to the standard; rten expects them for two dimensions.
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
