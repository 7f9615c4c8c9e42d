//! What a graph wants and gives: its inputs and outputs, and whether a tensor fits one.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::tensor::{ElementType, Tensor};
use crate::text::{Quoted, bounded_format};

/// Most dimensions that a tensor of a guest may have when it is computed with; numpy has the same limit.
pub const MAX_RANK: usize = 64;
/// Dimensions that errors show.
const SHOWN_DIMS: usize = 8;

/// Type of an input or output as the graph declares it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
            Some(dims) => sizes(f, dims.len(), dims.iter().copied()),
        }
    }
}

/// Writes sizes as `[2, ?]`, the first of them when there are many.
fn sizes(
    f: &mut fmt::Formatter<'_>,
    rank: usize,
    dims: impl Iterator<Item = Option<u32>>,
) -> fmt::Result {
    f.write_str("[")?;
    for (at, dim) in dims.take(SHOWN_DIMS).enumerate() {
        let comma = if at > 0 { ", " } else { "" };
        match dim {
            Some(size) => write!(f, "{comma}{size}")?,
            None => write!(f, "{comma}?")?,
        }
    }
    if rank > SHOWN_DIMS {
        write!(f, ", … {} more", rank - SHOWN_DIMS)?;
    }
    f.write_str("]")
}

/// Type and sizes of a tensor as errors show them. Nothing is formatted unless there is an error.
struct Shape<'a>(ElementType, &'a [u32]);

impl fmt::Display for Shape<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.0)?;
        sizes(f, self.1.len(), self.1.iter().copied().map(Some))
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
            return Err(bounded_format!(
                "the graph has no input {}; it has {}",
                Quoted(&name),
                List(ports)
            ));
        };
        if places[at].is_some() {
            return Err(bounded_format!("input `{name}` is given twice"));
        }
        places[at] = Some(fit(&ports[at], tensor)?);
    }
    let given = places.iter().rposition(Option::is_some);
    let missing = places
        .iter()
        .zip(ports)
        .find(|(place, port)| place.is_none() && !port.optional);
    if let Some((_, port)) = missing {
        return Err(bounded_format!(
            "input `{}` is missing; the graph wants {}",
            port.name,
            List(ports)
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
struct List<'a>(&'a [Port]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Some graphs list each of a thousand weights.
        const MAX_OPTIONAL: usize = 8;
        let (mut optional, mut comma) = (0, "");
        for port in self.0 {
            optional += usize::from(port.optional);
            if !port.optional {
                write!(f, "{comma}`{}` {port}", port.name)?;
            } else if optional <= MAX_OPTIONAL {
                write!(f, "{comma}`{}` {port} (optional)", port.name)?;
            }
            comma = ", ";
        }
        match optional.saturating_sub(MAX_OPTIONAL) {
            0 => Ok(()),
            rest => write!(f, " and {rest} more that are optional"),
        }
    }
}

fn fit(port: &Port, mut tensor: Tensor) -> Result<Tensor, String> {
    let came = Shape(tensor.ty, &tensor.dims);
    if tensor.dims.len() > MAX_RANK {
        return Err(bounded_format!(
            "input `{}`: found {} dimensions, at most {MAX_RANK} are allowed",
            port.name,
            tensor.dims.len(),
        ));
    }
    let found_bytes = tensor.data.bytes();
    match tensor.wanted_bytes() {
        Some(wanted) if wanted == found_bytes => {}
        Some(wanted) => {
            return Err(bounded_format!(
                "input `{}`: {came} has {found_bytes} bytes of data, wanted {wanted}",
                port.name,
            ));
        }
        None => {
            return Err(bounded_format!(
                "input `{}`: {came} has {found_bytes} bytes of data, wanted more than there is memory",
                port.name,
            ));
        }
    }
    let wrong = || bounded_format!("input `{}`: found {came}, wanted {port}", port.name);
    if tensor.ty != port.ty.carrier() {
        return Err(wrong());
    }
    let Some(wanted) = &port.dims else {
        return Ok(tensor);
    };
    // wasi-nn says [1] where a graph says that there are no dimensions.
    if wanted.is_empty() && tensor.dims == [1] {
        tensor.dims.clear();
        return Ok(tensor);
    }
    let fits = wanted.len() == tensor.dims.len()
        && wanted
            .iter()
            .zip(&tensor.dims)
            .all(|(wanted, found)| wanted.is_none_or(|wanted| wanted == *found));
    if !fits {
        return Err(wrong());
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
    fn errors_stay_short_whatever_a_guest_sends() {
        let ports = [port("x", &[None])];
        let short = |text: String| assert!(text.len() <= crate::text::MAX_TEXT_BYTES, "{text}");
        let mut deep = tensor(&[1]);
        deep.dims = vec![1; 100_000];
        let text = error(&ports, vec![("x", deep)]);
        assert_eq!(
            text,
            "input `x`: found 100000 dimensions, at most 64 are allowed"
        );
        let long = "y".repeat(100_000);
        short(error(&ports, vec![(&long, tensor(&[1]))]));
        let named = [port(&long, &[Some(1)])];
        short(error(&named, vec![]));
        short(error(&named, vec![(&long, tensor(&[2]))]));
        short(error(
            &named,
            vec![(&long, tensor(&[1])), (&long, tensor(&[1]))],
        ));
        assert_eq!(
            error(&ports, vec![("x", tensor(&[1; 12]))]),
            "input `x`: found f32 [1, 1, 1, 1, 1, 1, 1, 1, … 4 more], wanted f32 [?]"
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

        #[test]
        fn what_is_arranged_fits_and_what_is_refused_is_told_briefly(
            ty in prop::sample::select(vec![ElementType::Fp32, ElementType::Fp64, ElementType::U8]),
            dims in prop::collection::vec(0u32..3, 0..70),
            fitting: bool,
            wanted in prop::option::of(prop::collection::vec(prop::option::of(0u32..3), 0..4)),
        ) {
            let mut tensor = Tensor { ty, dims, data: Data::Bytes(Vec::new()) };
            let bytes = tensor.wanted_bytes().filter(|bytes| fitting && *bytes < 1 << 16);
            tensor.data = Data::Bytes(vec![0; bytes.unwrap_or(3)]);
            let ports = [Port { dims: wanted.clone(), ..port("x", &[]) }];
            match arrange(&ports, vec![("x".into(), tensor)]) {
                Ok(fitted) => {
                    let [tensor] = &fitted[..] else { panic!("one came") };
                    prop_assert_eq!(tensor.ty, ElementType::Fp32);
                    prop_assert_eq!(tensor.wanted_bytes(), Some(tensor.data.bytes()));
                    prop_assert!(tensor.dims.len() <= MAX_RANK);
                    if let Some(wanted) = wanted {
                        let same = |(wanted, found): (&Option<u32>, &u32)| wanted.is_none_or(|wanted| wanted == *found);
                        prop_assert!(wanted.len() == tensor.dims.len());
                        prop_assert!(wanted.iter().zip(&tensor.dims).all(same));
                    }
                }
                Err(text) => prop_assert!(text.len() <= crate::text::MAX_TEXT_BYTES),
            }
        }
    }
}
