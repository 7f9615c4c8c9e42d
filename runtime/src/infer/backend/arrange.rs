//! Whether the tensors of a run fit the inputs of its graph.

use std::collections::HashMap;
use std::fmt;

use samovar_onnx::port::{Port, PortType, write_sizes};

use super::tensor::{ElementType, Tensor};
use crate::text::{Quoted, bounded_format};

/// Most dimensions that a tensor of a guest may have when it is computed with; numpy has the same limit.
pub const MAX_RANK: usize = 64;

/// The wasi-nn type that carries a graph's type; bool and i8 travel as u8.
pub fn carrier(ty: PortType) -> ElementType {
    match ty {
        PortType::F32 => ElementType::Fp32,
        PortType::U8 | PortType::I8 | PortType::Bool => ElementType::U8,
        PortType::I32 => ElementType::I32,
        PortType::I64 => ElementType::I64,
        PortType::F16 => ElementType::Fp16,
        PortType::F64 => ElementType::Fp64,
        PortType::Bf16 => ElementType::Bf16,
    }
}

/// Type and sizes of a tensor as errors show them. Nothing is formatted unless there is an error.
struct Shape<'a>(ElementType, &'a [u32]);

impl fmt::Display for Shape<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.0)?;
        write_sizes(f, self.1.len(), self.1.iter().copied().map(Some))
    }
}

/// Sorts the tensors of a run in the order of the graph's inputs, in which the optional ones come last. An omitted input before a
/// given one is [`Data::Absent`](super::tensor::Data::Absent); the result ends with the last given one.
///
/// # Errors
/// The first tensor that is missing, unknown, given twice, or of the wrong type or shape, with what was found and expected.
pub fn arrange(ports: &[Port], tensors: Vec<(String, Tensor)>) -> Result<Vec<Tensor>, String> {
    /// From this number of inputs on, a table is faster than a search.
    const MIN_TABLE_SIZE: usize = 32;
    let mut places: Vec<Option<Tensor>> = ports.iter().map(|_| None).collect();
    let numbered = ports.iter().enumerate();
    let table: Option<HashMap<&str, usize>> = (ports.len() >= MIN_TABLE_SIZE)
        .then(|| numbered.rev().map(|(at, port)| (&*port.name, at)).collect());
    let place = |name: &str| match &table {
        Some(table) => table.get(name).copied(),
        None => ports.iter().position(|port| port.name == name),
    };
    for (name, tensor) in tensors {
        let Some(at) = place(&name) else {
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
        places.map(|(place, port)| place.unwrap_or_else(|| Tensor::absent(carrier(port.ty))));
    Ok(tensors.collect())
}

/// Lists inputs in an error: all required ones, and the first optional ones.
struct List<'a>(&'a [Port]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Some graphs have a thousand weights as optional inputs.
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
    if tensor.ty != carrier(port.ty) {
        return Err(wrong());
    }
    let Some(wanted) = &port.dims else {
        return Ok(tensor);
    };
    // In wasi-nn, a scalar has the dimensions [1].
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
    use proptest::prelude::*;

    use super::*;
    use crate::infer::backend::tensor::Data;

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
