//! How many elements an operator gives at most, by the sizes of what it gets.

use super::Value;
use crate::NodeProto;
use crate::known::{INT32, INT64};

/// Elements of a list of integers that is followed.
const SHORT: usize = 64;

/// Dimensions that are followed; backends and arrays of numpy have no more. Each value has a list of its own, and operators make
/// new ones of those of their inputs, up to twice as long.
const MAX_RANK: usize = 64;

/// What is known of a value's size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Size {
    pub dims: Option<Vec<u64>>,
    /// Its elements, at most.
    pub count: Option<u64>,
    /// Whether a dimension of it varies from run to run.
    pub open: bool,
}

impl Size {
    pub fn known(dims: Vec<u64>) -> Self {
        let count = dims.iter().fold(1u64, |all, dim| all.saturating_mul(*dim));
        Self {
            dims: (dims.len() <= MAX_RANK).then_some(dims),
            count: Some(count),
            open: false,
        }
    }

    pub fn of_weight(dims: &[i64]) -> Self {
        let dims = dims.iter().map(|dim| u64::try_from(*dim).unwrap_or(0));
        Self::known(dims.collect())
    }

    /// That of an input with these dimensions, if the file tells them.
    pub fn of_input(dims: Option<impl Iterator<Item = Option<u32>>>) -> Self {
        let Some(dims) = dims else {
            return Self::default();
        };
        let dims: Vec<_> = dims.collect();
        match dims.iter().copied().collect::<Option<Vec<u32>>>() {
            Some(dims) => Self::known(dims.into_iter().map(u64::from).collect()),
            None if dims.len() > MAX_RANK => Self {
                open: true,
                ..Self::default()
            },
            None => Self {
                // An open one is 0, which no shape of a file is.
                dims: Some(dims.iter().map(|dim| dim.unwrap_or(0).into()).collect()),
                count: None,
                open: true,
            },
        }
    }

    fn at_most(count: Option<u64>) -> Self {
        Self {
            dims: None,
            count,
            open: false,
        }
    }
}

/// The elements of what a node gives, where it is a short list of integers that is made of others.
pub(super) fn element_values(node: &NodeProto, inputs: &[&Value]) -> Option<Vec<Option<i64>>> {
    let list = |at: usize| {
        let value = inputs.get(at)?;
        // Of a table it could not be told which elements an operator takes.
        let dims = value.size.dims.as_ref().filter(|dims| dims.len() < 2);
        dims.and(value.elements.as_ref())
    };
    let made: Vec<Option<i64>> = match node.op_type.as_str() {
        "Shape" => {
            let dims = inputs.first()?.size.dims.as_ref()?;
            let open = inputs.first()?.size.open;
            let end = |name: &str, default: i64| {
                let wanted = node.attribute(name).map_or(default, |one| one.i);
                let rank = i64::try_from(dims.len()).unwrap_or(i64::MAX);
                let from_start = if wanted < 0 { wanted + rank } else { wanted };
                usize::try_from(from_start.clamp(0, rank)).unwrap_or(0)
            };
            let (start, end) = (end("start", 0), end("end", i64::MAX));
            let all = dims.get(start..end.max(start))?.iter();
            let size = |dim: &u64| match dim {
                0 if open => None,
                dim => i64::try_from(*dim).ok(),
            };
            all.map(size).collect()
        }
        "Identity" | "Squeeze" => list(0)?.clone(),
        // One element stays one, whatever dimensions it gets.
        "Unsqueeze" | "Reshape" | "Flatten" => list(0).filter(|list| list.len() == 1)?.clone(),
        "Cast" => {
            let to = node.attribute("to").map(|to| to.i);
            let fits = |one: &Option<i64>| match one {
                Some(one) => to == Some(INT64.into()) || i32::try_from(*one).is_ok(),
                None => true,
            };
            let kept = matches!(to, Some(to) if to == i64::from(INT32) || to == i64::from(INT64));
            list(0)
                .filter(|list| kept && list.iter().all(fits))?
                .clone()
        }
        "Concat" => {
            let parts = (0..inputs.len()).map(list).collect::<Option<Vec<_>>>()?;
            parts.into_iter().flatten().copied().collect()
        }
        "Gather" => {
            let (from, indices) = (list(0)?, list(1)?);
            let length = i64::try_from(from.len()).ok()?;
            let pick = |index: &Option<i64>| {
                let index = (*index)?;
                let at = if index < 0 { index + length } else { index };
                from.get(usize::try_from(at).ok()?).copied()
            };
            indices.iter().map(pick).collect::<Option<Vec<_>>>()?
        }
        "Slice" => {
            let (from, starts, ends) = (list(0)?, list(1)?, list(2)?);
            let steps = match node.input.get(4).filter(|name| !name.is_empty()) {
                Some(_) => *list(4)?.first()?,
                None => Some(1),
            };
            let ([Some(start)], [Some(end)], Some(1)) = (&starts[..], &ends[..], steps) else {
                return None;
            };
            let length = i64::try_from(from.len()).ok()?;
            let bound = |at: i64| {
                let at = if at < 0 {
                    at.saturating_add(length)
                } else {
                    at
                };
                usize::try_from(at.clamp(0, length)).unwrap_or(0)
            };
            from.get(bound(*start)..bound(*end).max(bound(*start)))?
                .to_vec()
        }
        "Add" => paired(list(0)?, list(1)?, i64::checked_add)?,
        "Sub" => paired(list(0)?, list(1)?, i64::checked_sub)?,
        "Mul" => paired(list(0)?, list(1)?, i64::checked_mul)?,
        "Div" => paired(list(0)?, list(1)?, i64::checked_div)?,
        _ => return None,
    };
    (made.len() <= SHORT).then_some(made)
}

/// Element by element, one of them perhaps for all of the other.
fn paired(
    one: &[Option<i64>],
    other: &[Option<i64>],
    with: fn(i64, i64) -> Option<i64>,
) -> Option<Vec<Option<i64>>> {
    let length = match (one.len(), other.len()) {
        (a, b) if a == b => a,
        (1, b) => b,
        (a, 1) => a,
        _ => return None,
    };
    let at = |list: &[Option<i64>], at: usize| list[if list.len() == 1 { 0 } else { at }];
    let pair = |index: usize| match (at(one, index), at(other, index)) {
        (Some(one), Some(other)) => with(one, other).map(Some),
        _ => Some(None),
    };
    (0..length).map(pair).collect()
}

/// How much a node of the standard gives that gets constants alone, in each of its outputs.
pub(super) fn size_of(node: &NodeProto, inputs: &[&Value]) -> Size {
    let size = |at: usize| inputs.get(at).map(|value| &value.size);
    let first = size(0).cloned().unwrap_or_default();
    let sizes = |at: usize| {
        let elements = inputs.get(at)?.elements.as_ref()?;
        let sizes = elements.iter().map(|one| u64::try_from((*one)?).ok());
        sizes.collect::<Option<Vec<u64>>>()
    };
    if node
        .attribute
        .iter()
        .any(|one| one.inner_graphs().next().is_some())
    {
        return Size::default();
    }
    match node.op_type.as_str() {
        "Shape" | "Size" => Size::at_most(Some(SHORT as u64)),
        "Abs" | "Acos" | "Asin" | "Atan" | "BitwiseNot" | "Cast" | "CastLike" | "Ceil" | "Clip"
        | "Cos" | "Cosh" | "CumSum" | "DequantizeLinear" | "Dropout" | "Elu" | "Erf" | "Exp"
        | "EyeLike" | "Floor" | "Gelu" | "HardSigmoid" | "HardSwish" | "Identity" | "IsInf"
        | "IsNaN" | "LeakyRelu" | "Log" | "LogSoftmax" | "Neg" | "Not" | "QuantizeLinear"
        | "Reciprocal" | "Relu" | "Round" | "ScatterElements" | "ScatterND" | "Sigmoid"
        | "Sign" | "Sin" | "Sinh" | "Softmax" | "Softplus" | "Sqrt" | "Tan" | "Tanh" | "Trilu" => {
            first
        }
        "Transpose" => transposed(node, first),
        "Reshape" => match sizes(1).filter(|sizes| !sizes.contains(&0)) {
            Some(dims) if Size::known(dims.clone()).count == first.count => Size::known(dims),
            _ => Size::at_most(first.count),
        },
        "Unsqueeze" => unsqueezed(node, first, sizes(1)),
        "Split" => {
            let each = match inputs.len() + usize::from(node.attribute("split").is_some()) {
                1 => node.output.len().max(1) as u64,
                _ => 1,
            };
            Size::at_most(first.count.map(|count| count.div_ceil(each)))
        }
        "Flatten" | "Squeeze" | "Slice" | "TopK" | "Unique" | "Compress" | "ArgMax" | "ArgMin"
        | "ReduceL1" | "ReduceL2" | "ReduceLogSum" | "ReduceLogSumExp" | "ReduceMax"
        | "ReduceMean" | "ReduceMin" | "ReduceProd" | "ReduceSum" | "ReduceSumSquare" => {
            Size::at_most(first.count)
        }
        "GatherElements" => size(1).cloned().unwrap_or_default(),
        "Gather" => gathered(node, &first, size(1)),
        "NonZero" => Size::at_most(first.dims.and_then(|dims| {
            let rank = dims.len().max(1) as u64;
            Some(first.count?.saturating_mul(rank))
        })),
        "Add" | "And" | "BitShift" | "BitwiseAnd" | "BitwiseOr" | "BitwiseXor" | "Div"
        | "Equal" | "Greater" | "GreaterOrEqual" | "Less" | "LessOrEqual" | "Max" | "Mean"
        | "Min" | "Mod" | "Mul" | "Or" | "PRelu" | "Pow" | "Sub" | "Sum" | "Where" | "Xor" => {
            broadcast(inputs.iter().map(|value| &value.size))
        }
        "Concat" => {
            let counts = inputs.iter().map(|value| value.size.count);
            Size::at_most(counts.sum::<Option<u64>>())
        }
        "ConstantOfShape" => sizes(0).map_or_else(Size::default, Size::known),
        "Expand" => match sizes(1) {
            Some(dims) => broadcast([&first, &Size::known(dims)].into_iter()),
            None => Size::default(),
        },
        "Tile" => Size::at_most(sizes(1).and_then(|repeats| {
            let all = repeats
                .iter()
                .fold(1u64, |all, one| all.saturating_mul(*one));
            Some(first.count?.saturating_mul(all))
        })),
        "Range" => ranged(inputs).unwrap_or_default(),
        "MatMul" | "MatMulInteger" => product(&first, size(1)),
        "Gemm" => general_product(node, &first, size(1)),
        _ => Size::default(),
    }
}

fn transposed(node: &NodeProto, from: Size) -> Size {
    let Some(dims) = &from.dims else {
        return from;
    };
    let order = match node.attribute("perm") {
        None => Some((0..dims.len()).rev().collect::<Vec<_>>()),
        Some(perm) => {
            let places = perm.ints.iter().map(|at| usize::try_from(*at).ok());
            places.collect()
        }
    };
    let dims = order.and_then(|order| order.into_iter().map(|at| dims.get(at).copied()).collect());
    Size { dims, ..from }
}

fn unsqueezed(node: &NodeProto, from: Size, axes: Option<Vec<u64>>) -> Size {
    let own = node.attribute("axes").map(|axes| {
        let axes = axes.ints.iter().map(|axis| u64::try_from(*axis).ok());
        axes.collect::<Option<Vec<u64>>>()
    });
    let axes = own.unwrap_or(axes);
    let (Some(dims), Some(mut axes)) = (&from.dims, axes) else {
        return Size::at_most(from.count);
    };
    if dims.len() + axes.len() > MAX_RANK {
        return Size::at_most(from.count);
    }
    let mut dims = dims.clone();
    axes.sort_unstable();
    for axis in axes {
        match usize::try_from(axis) {
            Ok(axis) if axis <= dims.len() => dims.insert(axis, 1),
            _ => return Size::at_most(from.count),
        }
    }
    Size::known(dims)
}

fn gathered(node: &NodeProto, from: &Size, indices: Option<&Size>) -> Size {
    let Some(indices) = indices else {
        return Size::default();
    };
    let axis = node.attribute("axis").map_or(0, |axis| axis.i);
    if let (Some(dims), Some(places)) = (&from.dims, &indices.dims) {
        let rank = i64::try_from(dims.len()).unwrap_or(i64::MAX);
        let axis = if axis < 0 { axis + rank } else { axis };
        if let Ok(axis) = usize::try_from(axis)
            && axis < dims.len()
        {
            let made = [&dims[..axis], &places[..], &dims[axis + 1..]].concat();
            return Size::known(made);
        }
    }
    let both = from.count.zip(indices.count);
    Size::at_most(both.map(|(from, indices)| from.saturating_mul(indices)))
}

fn broadcast<'a>(sizes: impl Iterator<Item = &'a Size>) -> Size {
    let sizes: Vec<&Size> = sizes.collect();
    let dims: Option<Vec<&Vec<u64>>> = sizes.iter().map(|size| size.dims.as_ref()).collect();
    let Some(dims) = dims else {
        let counts = sizes.iter().map(|size| size.count);
        let all = counts.collect::<Option<Vec<u64>>>();
        return Size::at_most(all.map(|counts| {
            counts
                .iter()
                .fold(1u64, |all, count| all.saturating_mul(*count))
        }));
    };
    let rank = dims.iter().map(|dims| dims.len()).max().unwrap_or(0);
    let at = |from_end: usize| {
        let sizes = dims
            .iter()
            .filter_map(|dims| dims.iter().rev().nth(from_end));
        sizes.copied().max().unwrap_or(1)
    };
    Size::known((0..rank).rev().map(at).collect())
}

fn ranged(inputs: &[&Value]) -> Option<Size> {
    let number = |at: usize| match &inputs.get(at)?.elements.as_ref()?[..] {
        [Some(number)] => Some(*number),
        _ => None,
    };
    let (start, limit, step) = (number(0)?, number(1)?, number(2)?);
    let way = limit.checked_sub(start)?;
    let steps = way.checked_div(step)?.max(0).saturating_add(1);
    Some(Size::at_most(u64::try_from(steps).ok()))
}

fn product(one: &Size, other: Option<&Size>) -> Size {
    let (Some(one), Some(other)) = (&one.dims, other.and_then(|other| other.dims.as_ref())) else {
        return Size::default();
    };
    let (Some(rows), Some(columns)) = (
        one.len().checked_sub(2).map(|at| one[at]),
        other.last().copied().filter(|_| other.len() > 1),
    ) else {
        // A vector takes one dimension away.
        let count = |dims: &[u64]| dims.iter().fold(1u64, |all, dim| all.saturating_mul(*dim));
        return Size::at_most(Some(count(one).max(count(other))));
    };
    let batch = |dims: &[u64]| Size::known(dims[..dims.len() - 2].to_vec());
    let batch = broadcast([&batch(one), &batch(other)].into_iter());
    let mut dims = batch.dims.unwrap_or_default();
    dims.extend([rows, columns]);
    Size::known(dims)
}

fn general_product(node: &NodeProto, one: &Size, other: Option<&Size>) -> Size {
    let (Some(one), Some(other)) = (&one.dims, other.and_then(|other| other.dims.as_ref())) else {
        return Size::default();
    };
    let turned = |name: &str| node.attribute(name).is_some_and(|flag| flag.i != 0);
    let rows = one.get(usize::from(turned("transA")));
    let columns = other.get(usize::from(!turned("transB")));
    match rows.zip(columns) {
        Some((rows, columns)) => Size::known(vec![*rows, *columns]),
        None => Size::default(),
    }
}
