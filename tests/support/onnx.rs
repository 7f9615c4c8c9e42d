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
    /// Its name.
    pub name: &'a str,
    /// Number of its type in `TensorProto.DataType`.
    pub ty: u64,
    /// Its sizes.
    pub dims: &'a [Option<u64>],
}

/// A constant of the graph.
pub struct Weight<'a> {
    /// Its name.
    pub name: &'a str,
    /// Number of its type in `TensorProto.DataType`.
    pub ty: u64,
    /// Its sizes.
    pub dims: &'a [u64],
    /// Its elements, row-major, little-endian.
    pub data: &'a [u8],
}

/// A constant of type f32 whose elements lie in a file beside the model.
pub struct Outside<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its sizes.
    pub dims: &'a [u64],
    /// The file.
    pub location: &'a str,
    /// Where in it the elements begin.
    pub offset: u64,
}

/// A model's bytes.
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
    let set = operators("", opset);
    let mut model = Vec::new();
    number(&mut model, 1, 8);
    field(&mut model, 7, &graph);
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

fn operators(domain: &str, version: u64) -> Vec<u8> {
    let mut set = Vec::new();
    field(&mut set, 1, domain.as_bytes());
    number(&mut set, 2, version);
    set
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

fn field(out: &mut Vec<u8>, tag: u64, bytes: &[u8]) {
    varint(out, tag << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn number(out: &mut Vec<u8>, tag: u64, value: u64) {
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
