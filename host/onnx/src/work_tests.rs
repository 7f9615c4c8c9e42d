//! Each pass over a model takes four times the work for a model four times as large: nothing is looked up by going through a list,
//! and no node copies what is known of others.

use std::collections::HashSet;

use prost::Message as _;

use crate::schema::messages::FunctionProto;
use crate::testing::tensor;
use crate::wire::{Edit, edited, fields};
use crate::work::count;
use crate::{
    Attribute, Entry, GraphProto, ModelProto, NodeProto, Onnx, OperatorSetId, Shape, TensorProto,
    ValueInfo, classes, defaults, external, fixed_cost, known, mixing,
};

fn node(op: &str, inputs: &[String], outputs: &[String]) -> NodeProto {
    NodeProto {
        op_type: op.into(),
        input: inputs.to_vec(),
        output: outputs.to_vec(),
        name: outputs.first().map_or("", String::as_str).to_owned(),
        ..Default::default()
    }
}

fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|at| format!("{prefix}{at}")).collect()
}

fn info(name: &str) -> ValueInfo {
    ValueInfo {
        name: name.into(),
        r#type: Some(tensor(1, Some(Shape::default()))),
        ..Default::default()
    }
}

fn ints(name: &str, ints: Vec<i64>) -> Attribute {
    Attribute {
        name: name.into(),
        r#type: 7,
        ints,
        ..Default::default()
    }
}

fn weight(name: &str, dims: Vec<i64>) -> TensorProto {
    TensorProto {
        name: name.into(),
        data_type: 1,
        dims,
        ..Default::default()
    }
}

fn model(graph: GraphProto) -> ModelProto {
    ModelProto {
        ir_version: 8,
        graph: Some(graph),
        opset_import: vec![OperatorSetId {
            version: 14,
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// Nodes one after the other, each with a weight of its own, of which all are optional inputs and described.
fn long(n: usize) -> ModelProto {
    let (values, weights) = (names("v", n + 1), names("w", n));
    let nodes = values.windows(2).zip(&weights).map(|(pair, weight)| {
        let [from, to] = pair else { unreachable!() };
        node(
            "Add",
            &[from.clone(), weight.clone()],
            std::slice::from_ref(to),
        )
    });
    let inputs = weights.iter().chain(values.first());
    model(GraphProto {
        node: nodes.collect(),
        input: inputs.map(|name| info(name)).collect(),
        output: values.last().map(|name| info(name)).into_iter().collect(),
        value_info: values.iter().map(|name| info(name)).collect(),
        initializer: weights.iter().map(|name| weight(name, vec![1])).collect(),
        ..Default::default()
    })
}

/// One node that has many of everything.
fn wide(op: &str, n: usize) -> ModelProto {
    let weights = names("w", n);
    let attributes = names("a", n).into_iter().map(|name| ints(&name, vec![1]));
    let mut one = node(op, &weights, &names("y", n));
    one.attribute = attributes.collect();
    one.attribute.push(ints("axes", vec![0; n]));
    model(GraphProto {
        node: vec![one],
        input: vec![info("x")],
        output: names("y", n).iter().map(|name| info(name)).collect(),
        initializer: weights.iter().map(|name| weight(name, vec![1])).collect(),
        ..Default::default()
    })
}

/// A constant of many dimensions that many nodes hand on.
fn deep(op: &str, n: usize) -> ModelProto {
    let values = names("v", n + 1);
    let nodes = values.windows(2).map(|pair| {
        let [from, to] = pair else { unreachable!() };
        node(op, &[from.clone(), from.clone()], std::slice::from_ref(to))
    });
    model(GraphProto {
        node: nodes.collect(),
        initializer: vec![weight("v0", vec![1; n])],
        output: vec![info(&values[n])],
        ..Default::default()
    })
}

/// A constant that holds a list of numbers, in many outputs.
fn shared(n: usize) -> ModelProto {
    let mut one = node("Constant", &[], &names("y", n));
    one.attribute = vec![Attribute {
        name: "value".into(),
        r#type: 4,
        t: Some(Box::new(weight("", vec![1; n]))),
        ..Default::default()
    }];
    model(GraphProto {
        node: vec![one],
        ..Default::default()
    })
}

/// Functions, each called once.
fn called(n: usize) -> ModelProto {
    let functions = names("f", n);
    let call = |name: &String| NodeProto {
        domain: "own".into(),
        ..node(name, &["x".into()], &[format!("{name}-out")])
    };
    let function = |name: &String| FunctionProto {
        name: name.clone(),
        domain: "own".into(),
        node: vec![node("Relu", &["x".into()], &["y".into()])],
        ..Default::default()
    };
    ModelProto {
        functions: functions.iter().map(function).collect(),
        ..model(GraphProto {
            node: functions.iter().map(call).collect(),
            input: vec![info("x")],
            ..Default::default()
        })
    }
}

/// Weights, each in a file of its own.
fn outside(n: usize) -> ModelProto {
    let weights = names("w", n).into_iter().map(|name| TensorProto {
        data_location: 1,
        external_data: vec![Entry {
            key: "location".into(),
            value: format!("{name}.data"),
        }],
        ..weight(&name, vec![1])
    });
    model(GraphProto {
        initializer: weights.collect(),
        ..Default::default()
    })
}

/// Branches, each with a graph in it that reads what lies around it.
fn branched(n: usize) -> ModelProto {
    let nodes = names("b", n).into_iter().map(|name| {
        let inner = GraphProto {
            node: vec![node("Relu", &["x".into()], &[format!("{name}-in")])],
            ..Default::default()
        };
        let mut branch = node("If", &["x".into()], &[name]);
        branch.attribute.push(Attribute {
            name: "then_branch".into(),
            r#type: 5,
            g: Some(Box::new(inner)),
            ..Default::default()
        });
        branch
    });
    model(GraphProto {
        node: nodes.collect(),
        input: vec![info("x")],
        ..Default::default()
    })
}

/// Classifiers beside each other.
fn zipped(n: usize) -> ModelProto {
    let outputs = names("z", n);
    let maps = outputs.iter().map(|name| NodeProto {
        domain: "ai.onnx.ml".into(),
        attribute: vec![ints("classlabels_int64s", vec![0, 1])],
        ..node("ZipMap", &["x".into()], std::slice::from_ref(name))
    });
    model(GraphProto {
        node: maps.collect(),
        input: vec![info("x")],
        output: outputs.iter().map(|name| info(name)).collect(),
        ..Default::default()
    })
}

struct Nothing;
impl Edit for Nothing {}

/// All that is done with a model before a backend gets it.
fn passes(bytes: &[u8]) {
    let onnx = Onnx::read(bytes).unwrap();
    let model = &onnx.model;
    let _ = external::needs(&onnx.references);
    let inputs = model.inputs().unwrap_or_default();
    let _ = model.outputs();
    let _ = classes::without_maps(model, bytes);
    fixed_cost::has_fixed_cost(model);
    mixing::operator(model);
    let graph = fields(bytes).find(|field| field.tag == 7).unwrap();
    known::Known::inside(None, graph.payload);
    let names: HashSet<&str> = inputs.iter().map(|port| port.name.as_str()).collect();
    defaults::without(bytes, &names).unwrap();
    defaults::alone(bytes, &names).unwrap();
    edited(bytes, &mut Nothing).unwrap();
    model.explain(&"no words ".repeat(bytes.len() / 10));
}

type Make = fn(usize) -> ModelProto;

const SHAPES: [(&str, Make); 16] = [
    ("long", long),
    ("wide Cast", |n| wide("Cast", n)),
    ("wide Sum", |n| wide("Sum", n)),
    ("wide Concat", |n| wide("Concat", n)),
    ("wide Split", |n| wide("Split", n)),
    ("wide Unsqueeze", |n| wide("Unsqueeze", n)),
    ("wide Reshape", |n| wide("Reshape", n)),
    ("wide BatchNormalization", |n| wide("BatchNormalization", n)),
    ("deep Relu", |n| deep("Relu", n)),
    ("deep Add", |n| deep("Add", n)),
    ("deep Gather", |n| deep("Gather", n)),
    ("shared", shared),
    ("called", called),
    ("outside", outside),
    ("branched", branched),
    ("zipped", zipped),
];

#[test]
fn a_model_four_times_as_large_takes_four_times_the_work() {
    const N: usize = 250;
    for (name, make) in SHAPES {
        let work = |n: usize| {
            let bytes = make(n).encode_to_vec();
            count(|| passes(&bytes))
        };
        let (small, large) = (work(N), work(4 * N));
        println!("{name}: {small:?}, four times as large: {large:?}");
        assert!(small.0 > N as u64, "{name}: nothing was counted");
        assert!(large.0 < 6 * small.0, "{name}: steps {small:?} {large:?}");
        assert!(large.1 < 6 * small.1, "{name}: bytes {small:?} {large:?}");
    }
}

/// A chain of nodes that take the value before as both of their inputs, which begins with a weight of these dimensions.
fn chain(op: &str, dims: Vec<i64>, length: usize) -> Vec<u8> {
    let values = names("v", length + 1);
    let nodes = values.windows(2).map(|pair| {
        let [from, to] = pair else { unreachable!() };
        node(op, &[from.clone(), from.clone()], std::slice::from_ref(to))
    });
    model(GraphProto {
        node: nodes.collect(),
        initializer: vec![weight("v0", dims)],
        ..Default::default()
    })
    .encode_to_vec()
}

#[test]
fn dimensions_do_not_double_with_each_node() {
    let bytes = chain("Gather", vec![1, 1], 24);
    let (_, allocated) = count(|| drop(Onnx::read(&bytes).unwrap()));
    assert!(allocated < 1 << 20, "{allocated} bytes for {}", bytes.len());
}

#[test]
fn ranks_beyond_all_numbers_are_unknown() {
    passes(&chain("Gather", vec![1, 1], 200));
    // A vector times a number, which no backend takes.
    let scalar = GraphProto {
        node: vec![node("MatMul", &["v".into(), "s".into()], &["y".into()])],
        initializer: vec![weight("v", vec![1]), weight("s", Vec::new())],
        ..Default::default()
    };
    passes(&model(scalar).encode_to_vec());
}
