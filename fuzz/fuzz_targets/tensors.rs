//! A run gets exactly the tensors that fit its graph, with the bytes that the guest gave; they are joined with others and come
//! apart as they were.

#![no_main]

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use samovar_onnx::port::{Port, PortType};
use samovar_runtime::backend::arrange::{MAX_RANK, arrange, carrier};
use samovar_runtime::backend::tensor::{Data, ElementType, Tensor};
use samovar_runtime::fuzzing::{MAX_ERROR_BYTES, joined_and_split};
use samovar_sdk::TensorData as _;
use samovar_sdk::tensor::{ElementType as SdkType, RawTensor};

/// Tensors of more bytes are not made here.
const MAX_BYTES: u128 = 4096;
const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const TYPES: [ElementType; 7] = [
    ElementType::Fp16,
    ElementType::Fp32,
    ElementType::Fp64,
    ElementType::Bf16,
    ElementType::U8,
    ElementType::I32,
    ElementType::I64,
];

fuzz_target!(|bytes: &[u8]| {
    // What is left out reads as zeros, so this fails never.
    let _ = check(&mut Unstructured::new(bytes));
});

fn check(input: &mut Unstructured<'_>) -> Result<()> {
    let ports = ports(input)?;
    let count = input.int_in_range(0..=4)?;
    let given: Vec<(String, Tensor)> = (0..count)
        .map(|_| Ok(((*input.choose(&NAMES)?).to_owned(), tensor(input)?)))
        .collect::<Result<_>>()?;
    let fits = fits(&ports, &given);
    for (_, tensor) in &given {
        check_elements(tensor);
        check_sdk(tensor);
    }
    match arrange(&ports, given.clone()) {
        Ok(arranged) => {
            assert!(fits, "{given:?} does not fit {ports:?}");
            check_arranged(&ports, &given, &arranged);
        }
        Err(error) => {
            assert!(!fits, "{error}");
            assert!(!error.is_empty() && error.len() <= MAX_ERROR_BYTES);
        }
    }
    Ok(())
}

fn ports(input: &mut Unstructured<'_>) -> Result<Vec<Port>> {
    let count = input.int_in_range(1..=3)?;
    let port = |name: &str, input: &mut Unstructured<'_>| {
        let number = *input.choose(&[1, 2, 3, 6, 7, 9, 10, 11, 16])?;
        let rank = input.int_in_range(0..=3)?;
        let dim = |input: &mut Unstructured<'_>| {
            Ok(input.ratio(1, 2)?.then_some(input.int_in_range(0..=3)?))
        };
        let dims = (0..rank).map(|_| dim(input)).collect::<Result<_>>()?;
        Ok(Port {
            name: name.to_owned(),
            ty: PortType::from_onnx(number).expect("a type that there is"),
            dims: input.ratio(3, 4)?.then_some(dims),
            optional: input.ratio(1, 3)?,
            labels: None,
        })
    };
    let mut ports = NAMES[..count]
        .iter()
        .map(|name| port(name, input))
        .collect::<Result<Vec<Port>>>()?;
    // As in every graph.
    ports.sort_by_key(|port| port.optional);
    Ok(ports)
}

fn tensor(input: &mut Unstructured<'_>) -> Result<Tensor> {
    let ty = *input.choose(&TYPES)?;
    let rank = match input.ratio(1, 16)? {
        true => input.int_in_range(60..=70)?,
        false => input.int_in_range(0..=3)?,
    };
    let dim = |input: &mut Unstructured<'_>| match input.ratio(1, 16)? {
        true => input.arbitrary(),
        false => input.int_in_range(0..=3),
    };
    let dims: Vec<u32> = (0..rank).map(|_| dim(input)).collect::<Result<_>>()?;
    let wanted = wanted(ty, &dims).filter(|wanted| *wanted <= MAX_BYTES);
    let bytes = match wanted {
        Some(wanted) if input.ratio(7, 8)? => wanted as usize,
        _ => input.int_in_range(0..=64)?,
    };
    let seed: u8 = input.arbitrary()?;
    let bytes = (0..bytes).map(|at| seed.wrapping_add((at * 7) as u8));
    Ok(Tensor {
        ty,
        dims,
        data: Data::Bytes(bytes.collect()),
    })
}

/// The bytes of so many elements; nothing when there are sizes that no memory could hold, one of none or not.
fn wanted(ty: ElementType, dims: &[u32]) -> Option<u128> {
    let filled = dims.iter().filter(|dim| **dim > 0);
    let all = filled.into_iter().try_fold(ty.size() as u128, |all, dim| {
        all.checked_mul(u128::from(*dim))
    })?;
    let is_empty = dims.contains(&0);
    (all <= isize::MAX as u128).then_some(if is_empty { 0 } else { all })
}

fn fits(ports: &[Port], given: &[(String, Tensor)]) -> bool {
    let count = |name: &str| given.iter().filter(|(found, _)| found == name).count();
    let complete = ports.iter().all(|port| match port.optional {
        true => count(&port.name) <= 1,
        false => count(&port.name) == 1,
    });
    complete
        && given.iter().all(|(name, tensor)| {
            let Some(port) = ports.iter().find(|port| port.name == *name) else {
                return false;
            };
            let is_scalar = port.dims.as_ref().is_some_and(Vec::is_empty) && tensor.dims == [1];
            let same_dims = port.dims.as_ref().is_none_or(|dims| {
                dims.len() == tensor.dims.len()
                    && dims
                        .iter()
                        .zip(&tensor.dims)
                        .all(|(wanted, found)| wanted.is_none_or(|wanted| wanted == *found))
            });
            tensor.ty == carrier(port.ty)
                && tensor.dims.len() <= MAX_RANK
                && wanted(tensor.ty, &tensor.dims) == Some(tensor.data.bytes() as u128)
                && (is_scalar || same_dims)
        })
}

fn bytes(tensor: &Tensor) -> Vec<u8> {
    tensor.data.read().expect("it is here").into_owned()
}

fn check_arranged(ports: &[Port], given: &[(String, Tensor)], arranged: &[Tensor]) {
    let last = ports
        .iter()
        .rposition(|port| given.iter().any(|(name, _)| *name == port.name));
    assert_eq!(arranged.len(), last.map_or(0, |at| at + 1));
    for (port, found) in ports.iter().zip(arranged) {
        let Some((_, sent)) = given.iter().find(|(name, _)| *name == port.name) else {
            assert!(found.is_absent());
            continue;
        };
        assert!(!found.is_absent());
        assert_eq!(found.ty, sent.ty);
        assert_eq!(bytes(found), bytes(sent));
        let rank = port.dims.as_ref().map_or(sent.dims.len(), Vec::len);
        assert_eq!(found.dims.len(), rank);
    }
    if arranged.iter().any(Tensor::is_absent) {
        return;
    }
    let Some(parts) = joined_and_split(arranged, 3) else {
        return;
    };
    // Tensors without elements may have as many rows as there are numbers.
    if arranged[0].dims[0] > u32::MAX / 3 {
        return assert!(parts.is_err());
    }
    let parts = parts.expect("few rows can be joined");
    assert_eq!(parts.len(), 3);
    for part in &parts {
        assert_eq!(part.len(), arranged.len());
        for (part, whole) in part.iter().zip(arranged) {
            assert_eq!((part.ty, &part.dims), (whole.ty, &whole.dims));
            assert_eq!(bytes(part), bytes(whole));
        }
    }
}

/// Elements are those of the bytes; what is no whole element is left out.
fn check_elements(tensor: &Tensor) {
    let bytes = bytes(tensor);
    let (eights, _) = bytes.as_chunks::<8>();
    let wanted: Vec<i64> = eights
        .iter()
        .map(|eight| i64::from_le_bytes(*eight))
        .collect();
    assert_eq!(*tensor.data.elements::<i64>().expect("it is here"), wanted);
    let (twos, _) = bytes.as_chunks::<2>();
    let wanted: Vec<u16> = twos.iter().map(|two| u16::from_le_bytes(*two)).collect();
    assert_eq!(*tensor.data.elements::<u16>().expect("it is here"), wanted);
}

/// The SDK takes the tensors that fill their dimensions, and gives them back as they were.
fn check_sdk(tensor: &Tensor) {
    let sent = bytes(tensor);
    let ty = match tensor.ty {
        ElementType::Fp16 => SdkType::F16,
        ElementType::Fp32 => SdkType::F32,
        ElementType::Fp64 => SdkType::F64,
        ElementType::Bf16 => SdkType::Bf16,
        ElementType::U8 => SdkType::U8,
        ElementType::I32 => SdkType::I32,
        ElementType::I64 => SdkType::I64,
    };
    assert_eq!(ty.size(), tensor.ty.size());
    let wanted = wanted(tensor.ty, &tensor.dims);
    let is_full = wanted == Some(sent.len() as u128);
    let raw = match RawTensor::new(tensor.dims.clone(), ty, sent.clone()) {
        Ok(raw) => raw,
        Err(error) => return assert!(!is_full, "{error}"),
    };
    // Sizes that no memory could hold beside one of none: a host refuses what the SDK passes on.
    assert!(is_full || wanted.is_none(), "{tensor:?}");
    assert_eq!((raw.dimensions(), raw.bytes()), (&*tensor.dims, &*sent));
    if let Ok(longs) = raw.clone().into_typed::<i64>() {
        assert_eq!(longs.bytes(), sent);
        let count = u32::try_from(longs.as_slice().len()).expect("few elements");
        let flat = longs.reshape([count]).expect("the same number");
        assert_eq!((flat.dimensions(), flat.bytes()), (&[count][..], &*sent));
        assert_eq!(flat.into_vec().len(), count as usize);
    } else {
        assert_ne!(ty, SdkType::I64);
    }
    assert_eq!(raw.into_bytes(), sent);
}
