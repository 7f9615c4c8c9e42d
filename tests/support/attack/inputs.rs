//! Inputs of models that nobody would send who meant well: other shapes, other types, elements at the ends of their types.

use std::time::Instant;

use super::Target;
use super::answers::{Outcome, difference};
use super::corpus::Case;
use super::dice::Dice;
use super::http::Client;
use super::protocol::{Form, Request};
use super::push::{self, Push, Pushed};
use super::report::{Part, Report};
use super::values::{Fill, NUMBERS, TYPES, Tensor, fill, size_of};

/// Elements that a tensor is made of at most.
const MAX_ELEMENTS: u64 = 1 << 18;
/// Sizes of dimensions.
const SIZES: [i64; 12] = [0, 0, 0, 1, 1, 2, 3, 5, 17, 64, 255, 1000];
/// Sizes that no tensor has whose elements are sent, so that the rest of its shape or its elements do not fit.
const HUGE: [i64; 7] = [
    -1,
    -2_147_483_648,
    65_536,
    2_147_483_647,
    4_294_967_295,
    1 << 40,
    i64::MAX,
];

/// Pushes a case, attacks it and deletes it.
pub fn push_and_attack(
    report: &Report,
    target: &Target,
    model: &str,
    case: &Case,
    backend: &'static str,
    seed: u64,
    runs: u64,
) {
    let bytes = std::fs::read(&case.file).unwrap_or_default();
    let mut client = Client::new(target);
    match push::graph(target, model, &bytes, backend) {
        Err(error) => report.broken_model(case, backend, &bytes, &format!("{error:#}")),
        Ok(Push::Refused(reason)) => report.refused(case, backend, &bytes, &reason),
        Ok(Push::Served(pushed)) => {
            report.served();
            attack(report, &mut client, case, &pushed, seed, runs);
        }
    }
    // Also one that was refused, whose deployment is kept as failed: the node's memory after the attack is not to be that of its models.
    if let Err(lost) = push::delete(&mut client, model) {
        report.broken_model(case, backend, &bytes, &format!("deleting it: {lost}"));
    }
}

/// Runs hostile inputs against a case that was pushed, with one request as it should be before and after them. `seed` alone decides
/// what is sent.
fn attack(
    report: &Report,
    client: &mut Client,
    case: &Case,
    pushed: &Pushed,
    seed: u64,
    runs: u64,
) {
    let mut dice = Dice::of(seed);
    let as_it_should_be = Request::new(&pushed.model, &pushed.graph, &case.inputs, Form::Binary);
    let before = Outcome::of(as_it_should_be.send(client));
    report.run(
        Part::Inputs,
        case,
        pushed.backend,
        &as_it_should_be,
        &before,
    );
    for _ in 0..runs {
        let form = *dice.choose(&[Form::Json, Form::Binary]);
        let tensors = hostile(&mut dice, &case.inputs);
        let request = Request::new(&pushed.model, &pushed.graph, &tensors, form);
        let begun = Instant::now();
        let outcome = Outcome::of(request.send(client));
        report.run(Part::Inputs, case, pushed.backend, &request, &outcome);
        report.took(begun.elapsed());
        if outcome == Outcome::Quarantined {
            return;
        }
    }
    let after = Outcome::of(as_it_should_be.send(client));
    report.run(Part::Inputs, case, pushed.backend, &as_it_should_be, &after);
    let (Outcome::Ran(before), Outcome::Ran(after)) = (before, after) else {
        return;
    };
    if !case.is_random
        && let Some(what) = difference(&before, &after)
    {
        report.wrong(case, pushed.backend, &as_it_should_be, &what);
    }
}

/// Inputs for a graph that takes such as these.
fn hostile(dice: &mut Dice, sound: &[Tensor]) -> Vec<Tensor> {
    let mut tensors = sound.to_vec();
    if tensors.is_empty() {
        return tensors;
    }
    // Several things at once are refused for the first of them.
    match dice.below(12) {
        // The same size in the same place everywhere: what belongs together often still fits.
        0 | 1 => {
            let size = *dice.choose(&SIZES);
            let at = dice.below(4) as usize;
            for tensor in &mut tensors {
                if at < tensor.shape.len() {
                    tensor.shape[at] = size;
                    refill(dice, tensor, Fill::Again);
                }
            }
        }
        2 => tensors.iter_mut().for_each(|tensor| {
            tensor.shape.iter_mut().for_each(|size| *size = 0);
            tensor.data.clear();
        }),
        3..7 => {
            let at = dice.below(tensors.len() as u64) as usize;
            reshape(dice, &mut tensors[at]);
        }
        7 => {
            let at = dice.below(tensors.len() as u64) as usize;
            let tensor = &mut tensors[at];
            tensor.datatype = dice.choose(&TYPES).0.to_owned();
            refill(dice, tensor, Fill::Mixed);
        }
        8 => {
            let at = dice.below(tensors.len() as u64) as usize;
            match dice.below(3) {
                0 => drop(tensors.remove(at)),
                1 => tensors.push(tensors[at].clone()),
                _ => "no such input".clone_into(&mut tensors[at].name),
            }
        }
        _ => {
            let at = dice.below(tensors.len() as u64) as usize;
            let fill = choose_fill(dice);
            refill(dice, &mut tensors[at], fill);
        }
    }
    tensors
}

fn choose_fill(dice: &mut Dice) -> Fill {
    match dice.below(4) {
        0 | 1 => Fill::Same(*dice.choose(&NUMBERS)),
        2 => Fill::Mixed,
        _ => Fill::Bytes,
    }
}

/// Another shape, mostly with the elements for it.
fn reshape(dice: &mut Dice, tensor: &mut Tensor) {
    let at = dice.below(tensor.shape.len().max(1) as u64) as usize;
    match dice.below(8) {
        0 if !tensor.shape.is_empty() => drop(tensor.shape.remove(at)),
        1 => tensor
            .shape
            .insert(at.min(tensor.shape.len()), *dice.choose(&SIZES)),
        2 => tensor.shape = (0..dice.below(9)).map(|_| *dice.choose(&SIZES)).collect(),
        3 if !tensor.shape.is_empty() => {
            tensor.shape[at] = *dice.choose(&HUGE);
            // As if there were none, which a size of zero beside it makes true.
            if dice.below(2) == 0 {
                tensor.shape.push(0);
                tensor.data.clear();
            }
            return;
        }
        4 => {
            let cut = tensor.data.len() as u64;
            tensor.data.truncate(dice.below(cut) as usize);
            return;
        }
        _ if tensor.shape.is_empty() => tensor.shape.push(*dice.choose(&SIZES)),
        _ => tensor.shape[at] = *dice.choose(&SIZES),
    }
    let fill = match dice.below(3) {
        0 => choose_fill(dice),
        _ => Fill::Again,
    };
    refill(dice, tensor, fill);
}

/// Elements for the shape that it has, unless there would be too many of them.
fn refill(dice: &mut Dice, tensor: &mut Tensor, with: Fill) {
    let mut sizes = tensor.shape.iter().map(|size| u64::try_from(*size).ok());
    let count = sizes.try_fold(1u64, |all, one| all.checked_mul(one?));
    let Some(count) = count.filter(|count| *count <= MAX_ELEMENTS) else {
        tensor.data.truncate(size_of(&tensor.datatype));
        return;
    };
    let before = std::mem::take(&mut tensor.data);
    tensor.data = fill(dice, &tensor.datatype, count as usize, with, &before);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_gives_the_same_inputs_and_many_give_every_kind() {
        let sound = [Tensor {
            name: "x".to_owned(),
            datatype: "FP32".to_owned(),
            shape: vec![2, 3],
            data: vec![1; 24],
        }];
        let (mut empty, mut huge, mut unfit, mut other_type) = (0, 0, 0, 0);
        for seed in 0..2_000 {
            let found = hostile(&mut Dice::of(seed), &sound);
            assert_eq!(found, hostile(&mut Dice::of(seed), &sound));
            for tensor in found {
                let count = tensor
                    .shape
                    .iter()
                    .try_fold(1i64, |all, one| all.checked_mul(*one));
                let bytes =
                    count.map(|count| count.saturating_mul(size_of(&tensor.datatype) as i64));
                empty += u32::from(count == Some(0));
                huge += u32::from(tensor.shape.iter().any(|size| HUGE.contains(size)));
                unfit += u32::from(bytes != Some(tensor.data.len() as i64));
                other_type += u32::from(tensor.datatype != "FP32");
            }
        }
        for (kind, times) in [
            ("empty", empty),
            ("huge", huge),
            ("unfit", unfit),
            ("type", other_type),
        ] {
            assert!(times > 20, "{kind}: {times} of 2000");
        }
    }
}
