//! What a graph wants and gives: its inputs and outputs, and whether a tensor fits one.

use std::fmt;

use super::tensor::{ElementType, Tensor};

/// Type of an input or output as the graph declares it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum PortType {
    F32,
    U8,
    I8,
    I32,
    I64,
    Bool,
    F16,
    F64,
    Bf16,
}

impl PortType {
    /// From the numbers of `TensorProto.DataType`; `None` for those that wasi-nn cannot carry.
    pub fn from_onnx(number: i32) -> Option<Self> {
        Some(match number {
            1 => Self::F32,
            2 => Self::U8,
            3 => Self::I8,
            6 => Self::I32,
            7 => Self::I64,
            9 => Self::Bool,
            10 => Self::F16,
            11 => Self::F64,
            16 => Self::Bf16,
            _ => return None,
        })
    }

    /// The name that the standard has for one of these numbers.
    pub(crate) fn onnx_name(number: i32) -> &'static str {
        const NAMES: [&str; 24] = [
            "undefined",
            "float",
            "uint8",
            "int8",
            "uint16",
            "int16",
            "int32",
            "int64",
            "string",
            "bool",
            "float16",
            "double",
            "uint32",
            "uint64",
            "complex64",
            "complex128",
            "bfloat16",
            "float8e4m3fn",
            "float8e4m3fnuz",
            "float8e5m2",
            "float8e5m2fnuz",
            "uint4",
            "int4",
            "float4e2m1",
        ];
        let named = usize::try_from(number).ok().and_then(|at| NAMES.get(at));
        named.copied().unwrap_or("unknown")
    }

    /// The wasi-nn type that carries it; bool and i8 travel as u8.
    pub fn carrier(self) -> ElementType {
        match self {
            Self::F32 => ElementType::Fp32,
            Self::U8 | Self::I8 | Self::Bool => ElementType::U8,
            Self::I32 => ElementType::I32,
            Self::I64 => ElementType::I64,
            Self::F16 => ElementType::Fp16,
            Self::F64 => ElementType::Fp64,
            Self::Bf16 => ElementType::Bf16,
        }
    }
}

impl fmt::Display for PortType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bool => "bool (as u8)",
            Self::I8 => "i8 (as u8)",
            other => other.carrier().name(),
        })
    }
}

/// An input or output of a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name in the graph.
    pub name: String,
    /// Type of its elements.
    pub ty: PortType,
    /// Its sizes, `None` where variable; `None` altogether when the graph does not say.
    pub dims: Option<Vec<Option<u32>>>,
    /// Whether a run may leave this input out, because the graph has a default for it.
    pub optional: bool,
    /// What each column of this output stands for, when it is a classifier's.
    pub labels: Option<Labels>,
}

/// The classes that a classifier tells apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Labels {
    /// By number.
    Numbers(Vec<i64>),
    /// By name.
    Names(Vec<String>),
}

impl Labels {
    /// How many there are.
    pub fn count(&self) -> usize {
        match self {
            Self::Numbers(numbers) => numbers.len(),
            Self::Names(names) => names.len(),
        }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.ty)?;
        match &self.dims {
            None => f.write_str("[…]"),
            Some(dims) => {
                let sizes: Vec<String> = dims
                    .iter()
                    .map(|dim| dim.map_or("?".into(), |size| size.to_string()))
                    .collect();
                write!(f, "[{}]", sizes.join(", "))
            }
        }
    }
}

/// Puts a run's tensors in the order of the graph's inputs, of which the optional ones come last. One that is left out before
/// one that is given is [`Data::Absent`]; those after the last are not there.
///
/// # Errors
/// Names the first tensor that is missing, unknown, given twice, or of another type or shape, with what came and
/// what is wanted.
pub fn arrange(ports: &[Port], tensors: Vec<(String, Tensor)>) -> Result<Vec<Tensor>, String> {
    let mut places: Vec<Option<Tensor>> = ports.iter().map(|_| None).collect();
    for (name, tensor) in tensors {
        let Some(at) = ports.iter().position(|port| port.name == name) else {
            return Err(format!(
                "the graph has no input `{name}`; it has {}",
                list(ports)
            ));
        };
        if places[at].is_some() {
            return Err(format!("input `{name}` is given twice"));
        }
        places[at] = Some(fit(&ports[at], tensor)?);
    }
    let given = places.iter().rposition(Option::is_some);
    let missing = places
        .iter()
        .zip(ports)
        .find(|(place, port)| place.is_none() && !port.optional);
    if let Some((_, port)) = missing {
        return Err(format!(
            "input `{}` is missing; the graph wants {}",
            port.name,
            list(ports)
        ));
    }
    let places = places
        .into_iter()
        .zip(ports)
        .take(given.map_or(0, |at| at + 1));
    let tensors =
        places.map(|(place, port)| place.unwrap_or_else(|| Tensor::absent(port.ty.carrier())));
    Ok(tensors.collect())
}

/// Inputs for people: all that a run must give, and the first that it may.
fn list(ports: &[Port]) -> String {
    /// Some graphs list each of a thousand weights.
    const MAX_OPTIONAL: usize = 8;
    let mut optional = 0;
    let shown = ports.iter().filter(|port| {
        optional += usize::from(port.optional);
        !port.optional || optional <= MAX_OPTIONAL
    });
    let shown: Vec<String> = shown
        .map(|port| match port.optional {
            false => format!("`{}` {port}", port.name),
            true => format!("`{}` {port} (optional)", port.name),
        })
        .collect();
    let rest = optional.saturating_sub(MAX_OPTIONAL);
    match rest {
        0 => shown.join(", "),
        _ => format!("{} and {rest} more that are optional", shown.join(", ")),
    }
}

fn fit(port: &Port, mut tensor: Tensor) -> Result<Tensor, String> {
    let came = format!("{} {:?}", tensor.ty, tensor.dims);
    let found_bytes = tensor.data.bytes();
    if tensor.wanted_bytes() != Some(found_bytes) {
        return Err(format!(
            "input `{}`: {came} has {found_bytes} bytes of data, wanted {}",
            port.name,
            tensor
                .wanted_bytes()
                .map_or("more than there is memory".into(), |bytes| bytes
                    .to_string()),
        ));
    }
    if tensor.ty != port.ty.carrier() {
        return Err(format!(
            "input `{}`: found {came}, wanted {port}",
            port.name
        ));
    }
    let Some(wanted) = &port.dims else {
        return Ok(tensor);
    };
    // wasi-nn says [1] where a graph says that there are no dimensions.
    if wanted.is_empty() && tensor.dims == [1] {
        tensor.dims.clear();
    }
    let fits = wanted.len() == tensor.dims.len()
        && wanted
            .iter()
            .zip(&tensor.dims)
            .all(|(wanted, found)| wanted.is_none_or(|wanted| wanted == *found));
    if !fits {
        return Err(format!(
            "input `{}`: found {came}, wanted {port}",
            port.name
        ));
    }
    Ok(tensor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::backend::tensor::Data;
    use proptest::prelude::*;

    fn port(name: &str, dims: &[Option<u32>]) -> Port {
        Port {
            name: name.into(),
            ty: PortType::F32,
            dims: Some(dims.to_vec()),
            optional: false,
            labels: None,
        }
    }

    fn optional(name: &str) -> Port {
        Port {
            optional: true,
            ..port(name, &[Some(1)])
        }
    }

    fn tensor(dims: &[u32]) -> Tensor {
        Tensor {
            ty: ElementType::Fp32,
            dims: dims.to_vec(),
            data: Data::Bytes(vec![0; dims.iter().product::<u32>() as usize * 4]),
        }
    }

    fn error(ports: &[Port], tensors: Vec<(&str, Tensor)>) -> String {
        let named = tensors
            .into_iter()
            .map(|(name, tensor)| (name.to_owned(), tensor));
        arrange(ports, named.collect()).unwrap_err()
    }

    #[test]
    fn errors_say_the_name_what_came_and_what_is_wanted() {
        let ports = [port("x", &[None, Some(4)])];
        assert_eq!(
            error(&ports, vec![("x", tensor(&[2, 3]))]),
            "input `x`: found f32 [2, 3], wanted f32 [?, 4]"
        );
        assert_eq!(
            error(&ports, vec![("y", tensor(&[2, 4]))]),
            "the graph has no input `y`; it has `x` f32 [?, 4]"
        );
        assert_eq!(
            error(&ports, vec![]),
            "input `x` is missing; the graph wants `x` f32 [?, 4]"
        );
        assert_eq!(
            error(&ports, vec![("x", tensor(&[1, 4])), ("x", tensor(&[1, 4]))]),
            "input `x` is given twice"
        );
        let mut wrong = tensor(&[1, 4]);
        wrong.ty = ElementType::I32;
        assert_eq!(
            error(&ports, vec![("x", wrong)]),
            "input `x`: found i32 [1, 4], wanted f32 [?, 4]"
        );
        let mut short = tensor(&[1, 4]);
        short.data = Data::Bytes(vec![0; 3]);
        assert_eq!(
            error(&ports, vec![("x", short)]),
            "input `x`: f32 [1, 4] has 3 bytes of data, wanted 16"
        );
    }

    #[test]
    fn optional_inputs_may_be_left_out() {
        let ports = [port("x", &[None]), optional("a"), optional("b")];
        let arranged = |names: &[&str]| {
            let named = names.iter().map(|name| ((*name).to_owned(), tensor(&[1])));
            let tensors = arrange(&ports, named.collect()).unwrap();
            let given = tensors.iter().map(|tensor| !tensor.is_absent());
            given.collect::<Vec<_>>()
        };
        assert_eq!(arranged(&["x"]), [true]);
        assert_eq!(arranged(&["a", "x"]), [true, true]);
        assert_eq!(arranged(&["b", "x"]), [true, false, true]);
        assert_eq!(
            error(&ports, vec![("a", tensor(&[1]))]),
            "input `x` is missing; the graph wants `x` f32 [?], `a` f32 [1] (optional), `b` f32 [1] (optional)"
        );
        assert!(error(&ports, vec![("x", tensor(&[1])), ("a", tensor(&[2]))]).contains("`a`"));
        let many: Vec<Port> = (0..20)
            .map(|number| optional(&number.to_string()))
            .collect();
        let error = error(&many, vec![("x", tensor(&[1]))]);
        assert!(
            error.ends_with("`7` f32 [1] (optional) and 12 more that are optional"),
            "{error}"
        );
    }

    #[test]
    fn one_element_stands_for_a_scalar() {
        let fitted = arrange(&[port("x", &[])], vec![("x".into(), tensor(&[1]))]).unwrap();
        assert!(fitted[0].dims.is_empty());
    }

    proptest! {
        #[test]
        fn nothing_a_guest_sends_panics(dims: Vec<u32>, bytes in 0usize..64, named in "[xy]") {
            let tensor = Tensor { ty: ElementType::Fp64, dims, data: Data::Bytes(vec![0; bytes]) };
            let _ = arrange(&[port("x", &[None])], vec![(named, tensor)]);
        }
    }
}
