//! Joins the tensors of several calls along the first dimension, and splits them again.

use samovar_onnx::port::Port;

use super::BatchKey;
use crate::infer::backend::tensor::{Data, Tensor};

/// Checks that calls of a graph can be joined: the first dimension of each input and output must be variable.
///
/// # Errors
/// The first input or output whose first dimension is missing or fixed.
pub(crate) fn joinable(inputs: &[Port], outputs: &[Port]) -> Result<(), String> {
    for (side, ports) in [("input", inputs), ("output", outputs)] {
        for port in ports.iter().filter(|port| !port.optional) {
            let varies = port
                .dims
                .as_ref()
                .is_some_and(|dims| dims.first() == Some(&None));
            if !varies {
                return Err(format!(
                    "{side} `{}` is {port}: its first dimension does not vary",
                    port.name
                ));
            }
        }
    }
    match inputs.iter().any(|port| !port.optional) {
        false => Err("it has no inputs".into()),
        true => Ok(()),
    }
}

/// The key of a call and its rows; `None` if the call cannot be joined.
pub(crate) fn batch_key(inputs: &[Tensor]) -> Option<(BatchKey, usize)> {
    let rows = *inputs.first()?.dims.first()?;
    let rest = inputs.iter().map(|tensor| match tensor.dims.split_first() {
        Some((first, rest)) if *first == rows => Some(rest.to_vec()),
        _ => None,
    });
    let rest: Option<Vec<Vec<u32>>> = rest.collect();
    (rows > 0).then_some((BatchKey(rest?), rows as usize))
}

/// Joins the inputs of calls with equal keys.
///
/// # Errors
/// When a tensor cannot be copied to the host, or there are too many rows.
pub(crate) fn join(calls: &[&[Tensor]]) -> Result<Vec<Tensor>, String> {
    let Some(first) = calls.first() else {
        return Ok(Vec::new());
    };
    let joined = first.iter().enumerate().map(|(at, like)| {
        let parts = || calls.iter().filter_map(|call| call.get(at));
        let mut rows = 0u32;
        let mut bytes = Vec::with_capacity(parts().map(|part| part.data.bytes()).sum());
        for part in parts() {
            let more = part.dims.first().copied().unwrap_or(0);
            rows = rows.checked_add(more).ok_or("too many rows")?;
            bytes.extend_from_slice(&part.data.read()?);
        }
        let mut dims = like.dims.clone();
        if let Some(first) = dims.first_mut() {
            *first = rows;
        }
        Ok(Tensor {
            ty: like.ty,
            dims,
            data: Data::Bytes(bytes),
        })
    });
    joined.collect()
}

/// Splits the outputs of a joined run into those of each call.
///
/// # Errors
/// When an output has a different number of rows than the inputs.
pub(crate) fn split(outputs: &[Tensor], rows: &[usize]) -> Result<Vec<Vec<Tensor>>, String> {
    let all: usize = rows.iter().sum();
    let mut calls: Vec<Vec<Tensor>> = rows.iter().map(|_| Vec::new()).collect();
    for (at, output) in outputs.iter().enumerate() {
        let found = output.dims.first().map(|first| *first as usize);
        if found != Some(all) {
            return Err(format!(
                "output {at} is {:?} for {all} rows of input",
                output.dims
            ));
        }
        let bytes = output.data.read()?;
        let row = bytes.len() / all.max(1);
        let mut from = 0;
        for (call, rows) in calls.iter_mut().zip(rows) {
            let to = from + rows * row;
            let mut dims = output.dims.clone();
            dims[0] = u32::try_from(*rows).map_err(|_| "too many rows")?;
            call.push(Tensor {
                ty: output.ty,
                dims,
                data: Data::Bytes(bytes[from..to].to_vec()),
            });
            from = to;
        }
    }
    Ok(calls)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use samovar_onnx::port::PortType;

    use super::*;
    use crate::infer::backend::tensor::ElementType;

    fn port(name: &str, dims: Option<&[Option<u32>]>) -> Port {
        Port {
            name: name.into(),
            ty: PortType::U8,
            dims: dims.map(<[_]>::to_vec),
            optional: false,
            labels: None,
        }
    }

    fn tensor(dims: &[u32], fill: u8) -> Tensor {
        let bytes = dims.iter().product::<u32>() as usize;
        Tensor {
            ty: ElementType::U8,
            dims: dims.to_vec(),
            data: Data::Bytes((0..bytes).map(|at| fill.wrapping_add(at as u8)).collect()),
        }
    }

    #[test]
    fn calls_can_be_joined_only_if_every_first_dimension_is_variable() {
        let varies = port("x", Some(&[None, Some(2)]));
        let of = |input: &Port, output: &Port| {
            joinable(std::slice::from_ref(input), std::slice::from_ref(output))
        };
        assert!(of(&varies, &varies).is_ok());
        assert_eq!(
            of(&varies, &port("y", Some(&[Some(1), None]))).unwrap_err(),
            "output `y` is u8 [1, ?]: its first dimension does not vary"
        );
        for fixed in [port("s", Some(&[])), port("s", None)] {
            assert!(of(&fixed, &varies).unwrap_err().starts_with("input `s`"));
        }
        assert!(joinable(&[], &[varies]).is_err());
    }

    #[test]
    fn inputs_with_unequal_rows_cannot_be_joined() {
        assert!(batch_key(&[tensor(&[2, 3], 0), tensor(&[1, 3], 0)]).is_none());
        assert!(batch_key(&[tensor(&[], 0)]).is_none());
        assert!(batch_key(&[tensor(&[0, 3], 0)]).is_none());
        assert!(batch_key(&[]).is_none());
        let (found, rows) = batch_key(&[tensor(&[2, 3], 0), tensor(&[2], 0)]).unwrap();
        assert_eq!((found, rows), (BatchKey(vec![vec![3], vec![]]), 2));
    }

    #[test]
    fn outputs_with_a_wrong_number_of_rows_are_refused() {
        assert!(split(&[tensor(&[1, 3], 0)], &[1, 1]).is_err());
        assert!(split(&[tensor(&[], 0)], &[1, 1]).is_err());
    }

    proptest! {
        #[test]
        fn joined_calls_are_split_into_the_same_tensors(
            rows in prop::collection::vec(1usize..5, 1..6),
            width in 0u32..4,
            fill: u8,
        ) {
            let calls: Vec<Vec<Tensor>> = rows
                .iter()
                .map(|rows| {
                    let rows = *rows as u32;
                    vec![tensor(&[rows, width, 2], fill), tensor(&[rows], fill)]
                })
                .collect();
            let slices: Vec<&[Tensor]> = calls.iter().map(Vec::as_slice).collect();
            let joined = join(&slices).unwrap();
            prop_assert_eq!(joined[0].dims[0] as usize, rows.iter().sum::<usize>());
            let parts = split(&joined, &rows).unwrap();
            for (part, call) in parts.iter().flatten().zip(calls.iter().flatten()) {
                prop_assert_eq!(&part.dims, &call.dims);
                prop_assert_eq!(part.data.read().unwrap(), call.data.read().unwrap());
            }
        }
    }
}
