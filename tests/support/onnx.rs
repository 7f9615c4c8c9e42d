//! Writes the few ONNX models that tests and the bench need, field by field as `onnx.proto3` numbers them.

/// An operator with an optional integer attribute.
pub struct Node<'a> {
    /// As `Add`.
    pub op: &'a str,
    /// Names of its inputs.
    pub inputs: &'a [&'a str],
    /// Name of its output.
    pub output: &'a str,
    /// Name and value.
    pub attribute: Option<(&'a str, u64)>,
}

/// A tensor of the graph's surface; `None` is a variable size.
pub struct Value<'a> {
    pub name: &'a str,
    /// Number of its type in `TensorProto.DataType`.
    pub ty: u64,
    pub dims: &'a [Option<u64>],
}

/// A constant of the graph.
pub struct Weight<'a> {
    pub name: &'a str,
    /// Number of its type in `TensorProto.DataType`.
    pub ty: u64,
    pub dims: &'a [u64],
    /// Its elements, row-major, little-endian.
    pub data: &'a [u8],
}

/// A constant of type f32 whose elements lie in a file beside the model.
pub struct Outside<'a> {
    pub name: &'a str,
    pub dims: &'a [u64],
    pub location: &'a str,
    /// Where in it the elements begin.
    pub offset: u64,
}

pub fn model(
    opset: u64,
    nodes: &[Node<'_>],
    inputs: &[Value<'_>],
    outputs: &[Value<'_>],
) -> Vec<u8> {
    model_with(opset, nodes, &[], inputs, outputs)
}

/// The bytes of a model with constants.
pub fn model_with(
    opset: u64,
    nodes: &[Node<'_>],
    weights: &[Weight<'_>],
    inputs: &[Value<'_>],
    outputs: &[Value<'_>],
) -> Vec<u8> {
    let weights: Vec<_> = weights.iter().map(inside).collect();
    assembled(opset, nodes, &weights, inputs, outputs)
}

/// The bytes of a model with constants in other files.
pub fn model_beside(
    opset: u64,
    nodes: &[Node<'_>],
    weights: &[Outside<'_>],
    inputs: &[Value<'_>],
    outputs: &[Value<'_>],
) -> Vec<u8> {
    let weights: Vec<_> = weights.iter().map(outside).collect();
    assembled(opset, nodes, &weights, inputs, outputs)
}

fn assembled(
    opset: u64,
    nodes: &[Node<'_>],
    weights: &[Vec<u8>],
    inputs: &[Value<'_>],
    outputs: &[Value<'_>],
) -> Vec<u8> {
    let mut graph = Vec::new();
    for (place, node) in nodes.iter().enumerate() {
        let mut bytes = Vec::new();
        for input in node.inputs {
            field(&mut bytes, 1, input.as_bytes());
        }
        field(&mut bytes, 2, node.output.as_bytes());
        let name = match place {
            0 => "the-node".to_owned(),
            _ => format!("the-node-{place}"),
        };
        field(&mut bytes, 3, name.as_bytes());
        field(&mut bytes, 4, node.op.as_bytes());
        if let Some((name, value)) = node.attribute {
            let mut attribute = Vec::new();
            field(&mut attribute, 1, name.as_bytes());
            number(&mut attribute, 3, value);
            number(&mut attribute, 20, 2);
            field(&mut bytes, 5, &attribute);
        }
        field(&mut graph, 1, &bytes);
    }
    field(&mut graph, 2, b"test");
    for weight in weights {
        field(&mut graph, 5, weight);
    }
    for input in inputs {
        field(&mut graph, 11, &value(input));
    }
    for output in outputs {
        field(&mut graph, 12, &value(output));
    }
    finished(opset, &graph)
}

fn finished(opset: u64, graph: &[u8]) -> Vec<u8> {
    let set = operators("", opset);
    let mut model = Vec::new();
    number(&mut model, 1, 8);
    field(&mut model, 7, graph);
    field(&mut model, 8, &set);
    model
}

/// `y`, the first `length` bytes of a file, by way of a function's default attribute whose elements lie there.
pub fn leaking(location: &str, length: u64) -> Vec<u8> {
    let stolen = outside_of(2, &[length], "stolen", location, 0, length);
    let tensor_type = |attribute: &mut Vec<u8>| number(attribute, 20, 4);
    let mut default = Vec::new();
    field(&mut default, 1, b"secret");
    field(&mut default, 5, &stolen);
    tensor_type(&mut default);
    let mut reference = Vec::new();
    field(&mut reference, 1, b"value");
    field(&mut reference, 21, b"secret");
    tensor_type(&mut reference);
    let mut constant = Vec::new();
    field(&mut constant, 2, b"y");
    field(&mut constant, 4, b"Constant");
    field(&mut constant, 5, &reference);
    let mut function = Vec::new();
    field(&mut function, 1, b"Leak");
    field(&mut function, 5, b"y");
    field(&mut function, 7, &constant);
    field(&mut function, 9, &operators("", 14));
    field(&mut function, 10, b"attack");
    field(&mut function, 11, &default);
    let mut call = Vec::new();
    field(&mut call, 2, b"y");
    field(&mut call, 4, b"Leak");
    field(&mut call, 7, b"attack");
    let mut graph = Vec::new();
    field(&mut graph, 1, &call);
    field(&mut graph, 2, b"test");
    let y = Value {
        name: "y",
        ty: 2,
        dims: &[Some(length)],
    };
    field(&mut graph, 12, &value(&y));
    let mut model = Vec::new();
    number(&mut model, 1, 9);
    field(&mut model, 7, &graph);
    field(&mut model, 8, &operators("", 14));
    field(&mut model, 8, &operators("attack", 1));
    field(&mut model, 25, &function);
    model
}

/// `y = x` (one f32) by way of functions of which each calls the one before it twice, so that a backend that puts functions in
/// the place of their calls gets two to the power of `functions` operators.
pub fn doubling(functions: usize) -> Vec<u8> {
    let call = |domain: &str, op: &str, input: &str, output: &str| {
        let mut bytes = Vec::new();
        field(&mut bytes, 1, input.as_bytes());
        field(&mut bytes, 2, output.as_bytes());
        field(&mut bytes, 3, output.as_bytes());
        field(&mut bytes, 4, op.as_bytes());
        field(&mut bytes, 7, domain.as_bytes());
        bytes
    };
    let function = |number: usize| {
        let (domain, inner) = match number {
            0 => ("", "Neg".to_owned()),
            _ => ("test", format!("F{}", number - 1)),
        };
        let mut bytes = Vec::new();
        field(&mut bytes, 1, format!("F{number}").as_bytes());
        field(&mut bytes, 4, b"a");
        field(&mut bytes, 5, b"c");
        field(&mut bytes, 7, &call(domain, &inner, "a", "b"));
        field(&mut bytes, 7, &call(domain, &inner, "b", "c"));
        field(&mut bytes, 9, &operators("", 14));
        field(&mut bytes, 9, &operators("test", 1));
        field(&mut bytes, 10, b"test");
        bytes
    };
    let port = |name| {
        value(&Value {
            name,
            ty: 1,
            dims: &[Some(1)],
        })
    };
    let mut graph = Vec::new();
    let last = format!("F{}", functions - 1);
    field(&mut graph, 1, &call("test", &last, "x", "y"));
    field(&mut graph, 2, b"test");
    field(&mut graph, 11, &port("x"));
    field(&mut graph, 12, &port("y"));
    let mut model = Vec::new();
    number(&mut model, 1, 9);
    field(&mut model, 7, &graph);
    field(&mut model, 8, &operators("", 14));
    field(&mut model, 8, &operators("test", 1));
    for number in 0..functions {
        field(&mut model, 25, &function(number));
    }
    model
}

fn operators(domain: &str, version: u64) -> Vec<u8> {
    let mut set = Vec::new();
    field(&mut set, 1, domain.as_bytes());
    number(&mut set, 2, version);
    set
}

/// An operator of any domain with any number of outputs and attributes.
pub struct Operator<'a> {
    /// `""` for the standard's.
    pub domain: &'a str,
    /// As `ZipMap`.
    pub op: &'a str,
    /// Names of its inputs; an empty one is left out.
    pub inputs: &'a [&'a str],
    /// Names of its outputs.
    pub outputs: &'a [&'a str],
    /// Each with its name.
    pub attributes: &'a [(&'a str, Attribute<'a>)],
}

/// An operator of the standard without attributes.
pub fn operator<'a>(op: &'a str, inputs: &'a [&'a str], outputs: &'a [&'a str]) -> Operator<'a> {
    Operator {
        domain: "",
        op,
        inputs,
        outputs,
        attributes: &[],
    }
}

/// The value of an attribute.
pub enum Attribute<'a> {
    Int(i64),
    Ints(&'a [i64]),
    Floats(&'a [f32]),
    Text(&'a str),
    Texts(&'a [&'a str]),
}

/// The bytes of a model of any operators. `sets` are the versions of the domains; inputs and outputs come from [`port`] and
/// [`maps`].
pub fn model_of(
    sets: &[(&str, u64)],
    operators: &[Operator<'_>],
    weights: &[Weight<'_>],
    inputs: &[Vec<u8>],
    outputs: &[Vec<u8>],
) -> Vec<u8> {
    let mut graph = Vec::new();
    for operator in operators {
        field(&mut graph, 1, &operator_bytes(operator));
    }
    field(&mut graph, 2, b"test");
    for weight in weights {
        field(&mut graph, 5, &inside(weight));
    }
    for input in inputs {
        field(&mut graph, 11, input);
    }
    for output in outputs {
        field(&mut graph, 12, output);
    }
    let mut model = Vec::new();
    number(&mut model, 1, 8);
    field(&mut model, 7, &graph);
    for (domain, version) in sets {
        let mut set = Vec::new();
        field(&mut set, 1, domain.as_bytes());
        number(&mut set, 2, *version);
        field(&mut model, 8, &set);
    }
    model
}

fn operator_bytes(operator: &Operator<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for input in operator.inputs {
        field(&mut bytes, 1, input.as_bytes());
    }
    for output in operator.outputs {
        field(&mut bytes, 2, output.as_bytes());
    }
    let name = format!("the-{}", operator.op);
    field(&mut bytes, 3, name.as_bytes());
    field(&mut bytes, 4, operator.op.as_bytes());
    for (name, value) in operator.attributes {
        let mut attribute = Vec::new();
        field(&mut attribute, 1, name.as_bytes());
        let kind = match value {
            Attribute::Int(value) => {
                number(&mut attribute, 3, value.cast_unsigned());
                2
            }
            Attribute::Text(text) => {
                field(&mut attribute, 4, text.as_bytes());
                3
            }
            Attribute::Floats(values) => {
                let bytes: Vec<u8> = values.iter().flat_map(|one| one.to_le_bytes()).collect();
                field(&mut attribute, 7, &bytes);
                6
            }
            Attribute::Ints(values) => {
                values
                    .iter()
                    .for_each(|one| number(&mut attribute, 8, one.cast_unsigned()));
                7
            }
            Attribute::Texts(texts) => {
                texts
                    .iter()
                    .for_each(|text| field(&mut attribute, 9, text.as_bytes()));
                8
            }
        };
        number(&mut attribute, 20, kind);
        field(&mut bytes, 5, &attribute);
    }
    field(&mut bytes, 7, operator.domain.as_bytes());
    bytes
}

/// A tensor of a graph's surface.
pub fn port(name: &str, ty: u64, dims: &[Option<u64>]) -> Vec<u8> {
    value(&Value { name, ty, dims })
}

/// An output that is a list of maps from keys of this type to f32, as ZipMap gives.
pub fn maps(name: &str, key: u64) -> Vec<u8> {
    let mut tensor = Vec::new();
    number(&mut tensor, 1, 1);
    let mut float = Vec::new();
    field(&mut float, 1, &tensor);
    let mut map = Vec::new();
    number(&mut map, 1, key);
    field(&mut map, 2, &float);
    let mut item = Vec::new();
    field(&mut item, 5, &map);
    let mut sequence = Vec::new();
    field(&mut sequence, 1, &item);
    let mut ty = Vec::new();
    field(&mut ty, 4, &sequence);
    let mut info = Vec::new();
    field(&mut info, 1, name.as_bytes());
    field(&mut info, 2, &ty);
    info
}

/// A model that computes for as long as its caller likes: `y` is `x` (one f32) after `n` (one i64) rounds of a loop.
pub fn looping() -> Vec<u8> {
    looping_over(Some(1))
}

/// The same for so many rows, or any number: as many rounds as the largest of `n` says.
pub fn looping_over(rows: Option<u64>) -> Vec<u8> {
    let rows = [rows];
    let value_of = |name, ty, dims| value(&Value { name, ty, dims });
    let node = |op: &str, inputs: &[&str], output: &str, body: Option<&[u8]>| {
        let mut bytes = Vec::new();
        for input in inputs {
            field(&mut bytes, 1, input.as_bytes());
        }
        field(&mut bytes, 2, output.as_bytes());
        field(&mut bytes, 3, output.as_bytes());
        field(&mut bytes, 4, op.as_bytes());
        if let Some(body) = body {
            let mut attribute = Vec::new();
            field(&mut attribute, 1, b"body");
            field(&mut attribute, 6, body);
            number(&mut attribute, 20, 5);
            field(&mut bytes, 5, &attribute);
        }
        bytes
    };
    let (float, long, boolean) = (1, 7, 9);
    let mut body = Vec::new();
    field(&mut body, 1, &node("Identity", &["go"], "goes", None));
    field(&mut body, 1, &node("Neg", &["v"], "w", None));
    field(&mut body, 2, b"round");
    field(&mut body, 11, &value_of("round", long, &[]));
    field(&mut body, 11, &value_of("go", boolean, &[]));
    field(&mut body, 11, &value_of("v", float, &rows));
    field(&mut body, 12, &value_of("goes", boolean, &[]));
    field(&mut body, 12, &value_of("w", float, &rows));

    let mut graph = Vec::new();
    field(&mut graph, 1, &node("ReduceMax", &["n"], "most", None));
    field(&mut graph, 1, &node("Squeeze", &["most"], "count", None));
    let inputs = ["count", "", "x"];
    field(&mut graph, 1, &node("Loop", &inputs, "y", Some(&body)));
    field(&mut graph, 2, b"test");
    field(&mut graph, 11, &value_of("n", long, &rows));
    field(&mut graph, 11, &value_of("x", float, &rows));
    field(&mut graph, 12, &value_of("y", float, &rows));
    finished(14, &graph)
}

fn inside(weight: &Weight<'_>) -> Vec<u8> {
    let mut tensor = Vec::with_capacity(weight.data.len() + 64);
    for dim in weight.dims {
        number(&mut tensor, 1, *dim);
    }
    number(&mut tensor, 2, weight.ty);
    field(&mut tensor, 8, weight.name.as_bytes());
    field(&mut tensor, 9, weight.data);
    tensor
}

fn outside(weight: &Outside<'_>) -> Vec<u8> {
    let length = 4 * weight.dims.iter().product::<u64>();
    let (name, location) = (weight.name, weight.location);
    outside_of(1, weight.dims, name, location, weight.offset, length)
}

fn outside_of(
    ty: u64,
    dims: &[u64],
    name: &str,
    location: &str,
    offset: u64,
    length: u64,
) -> Vec<u8> {
    let mut tensor = Vec::new();
    for dim in dims {
        number(&mut tensor, 1, *dim);
    }
    number(&mut tensor, 2, ty);
    field(&mut tensor, 8, name.as_bytes());
    for (key, value) in [
        ("location", location.to_owned()),
        ("offset", offset.to_string()),
        ("length", length.to_string()),
    ] {
        let mut entry = Vec::new();
        field(&mut entry, 1, key.as_bytes());
        field(&mut entry, 2, value.as_bytes());
        field(&mut tensor, 13, &entry);
    }
    number(&mut tensor, 14, 1);
    tensor
}

fn value(value: &Value<'_>) -> Vec<u8> {
    let mut shape = Vec::new();
    for dim in value.dims {
        let mut bytes = Vec::new();
        match dim {
            Some(size) => number(&mut bytes, 1, *size),
            None => field(&mut bytes, 2, b"N"),
        }
        field(&mut shape, 1, &bytes);
    }
    let mut tensor = Vec::new();
    number(&mut tensor, 1, value.ty);
    field(&mut tensor, 2, &shape);
    let mut ty = Vec::new();
    field(&mut ty, 1, &tensor);
    let mut info = Vec::new();
    field(&mut info, 1, value.name.as_bytes());
    field(&mut info, 2, &ty);
    info
}

/// Appends a field of a message that has a length.
pub fn field(out: &mut Vec<u8>, tag: u64, bytes: &[u8]) {
    varint(out, tag << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends a field of a message that is a number.
pub fn number(out: &mut Vec<u8>, tag: u64, value: u64) {
    varint(out, tag << 3);
    varint(out, value);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let low = u8::try_from(value & 0x7f).unwrap_or(0);
        value >>= 7;
        if value == 0 {
            return out.push(low);
        }
        out.push(low | 0x80);
    }
}

/// A graph that takes `x` and gives `y`, a row of numbers whose negative ones are zero.
pub fn relu() -> Vec<u8> {
    let port = |name| Value {
        name,
        ty: 1,
        dims: &[None],
    };
    let node = Node {
        op: "Relu",
        inputs: &["x"],
        output: "y",
        attribute: None,
    };
    model(14, &[node], &[port("x")], &[port("y")])
}
