//! A short form of `cargo xtask attack`: hostile inputs, changed models and killed engines cost neighbours and the node nothing.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result, bail, ensure};
use samovar_tests::attack::answers::Outcome;
use samovar_tests::attack::corpus::{self, Case};
use samovar_tests::attack::http::Client;
use samovar_tests::attack::neighbours::Neighbours;
use samovar_tests::attack::processes::Limiter;
use samovar_tests::attack::protocol::{Form, Request};
use samovar_tests::attack::push::{self, Push};
use samovar_tests::attack::report::{Part, Report};
use samovar_tests::attack::{Target, inputs, kills, models};
use samovar_tests::dice::Dice;
use samovar_tests::python::{Python, onnxruntime};
use samovar_tests::{Server, binary};

/// The same in each run: another would find other things than those that are known to be right.
const SEED: u64 = 14;
/// Models that are attacked, and runs against each.
const CASES: u64 = 24;
const RUNS: u64 = 8;
/// Models that are changed.
const CHANGED: u64 = 24;
const MUTANTS: &str = "60";
const KILLS: u64 = 10;
/// What the node may take beyond what it has reserved, and what an engine may take.
const MEMORY: u64 = 4 << 30;

/// A node with both backends, and where it is.
fn attacked() -> Result<Option<(Server, Target)>> {
    let Some(library) = onnxruntime()? else {
        return Ok(None);
    };
    let server = Server::start_with(&["--onnxruntime", &library])?;
    server.limit_memory(MEMORY)?;
    let target = Target {
        url: server.url.clone(),
        key: server.key(),
        pid: server.pid(),
        program: binary(),
        folder: server.folder().join("attack"),
        backends: vec!["rten", "onnxruntime"],
    };
    Ok(Some((server, target)))
}

/// The models that the script writes: those of the standard's tests, and mutants of them.
fn models_of(target: &Target) -> Result<(Vec<Case>, Vec<Case>)> {
    let python = Python::with("the package onnx").context("there was one before")?;
    let folder = target.folder.join("models");
    std::fs::create_dir_all(&folder)?;
    let arguments = [
        folder.to_str().context("a path")?,
        &SEED.to_string(),
        MUTANTS,
    ];
    let all = corpus::read(&folder, &python.run("attack_models.py", &arguments)?)?;
    Ok(all.into_iter().partition(|case| !case.is_mutant))
}

/// Does so many jobs, a few at a time.
fn in_threads(jobs: u64, job: impl Fn(u64, &mut Dice) + Sync) {
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= jobs {
                        return;
                    }
                    job(number, &mut Dice::of(SEED + (number << 8)));
                }
            });
        }
    });
}

/// Sends one input that is known to end the engine of a backend, so that neighbours beside it are asked for certain.
fn end_an_engine(
    report: &Report,
    target: &Target,
    case: &Case,
    backend: &'static str,
    (name, shape, numbers): (&str, &[i64], &[i64]),
) -> Result<()> {
    let model = format!("ends-{backend}");
    let push = push::graph(target, &model, &std::fs::read(&case.file)?, backend)?;
    let Push::Served(pushed) = push else {
        bail!("{} is refused", case.name);
    };
    let mut inputs = case.inputs.clone();
    let input = inputs.iter_mut().find(|input| input.name == name);
    let input = input.context("an input")?;
    let bytes = numbers.iter().flat_map(|number| number.to_le_bytes());
    (input.shape, input.data) = (shape.to_vec(), bytes.collect());
    let mut client = Client::new(target);
    let request = Request::new(&pushed.model, &pushed.graph, &inputs, Form::Binary);
    let outcome = Outcome::of(request.send(&mut client));
    report.run(Part::Inputs, case, backend, &request, &outcome);
    let ended = matches!(outcome, Outcome::EndedEngine(_));
    ensure!(ended, "{} on {backend}: {outcome:?}", case.name);
    push::delete(&mut client, &model)?;
    Ok(())
}

#[test]
fn hostile_inputs_and_models_cost_neighbours_and_the_node_nothing() -> Result<()> {
    let Some((mut server, target)) = attacked()? else {
        return Ok(());
    };
    let (cases, mutants) = models_of(&target)?;
    let guest = std::fs::read(samovar_tests::guest("tensors"))?;
    models::push_loader(&target, &guest)?;
    let _limiter = Limiter::start(&target, MEMORY);
    let report = Report::new(target.folder.clone(), &target.url)?;
    let neighbours = Neighbours::start(&target)?;
    let named = |name: &str| {
        cases
            .iter()
            .find(|case| case.name == name)
            .context("a case")
    };
    // It divides by the length of a frame.
    let case = named("stft")?;
    let input = ("frame_length", &[][..], &[0][..]);
    end_an_engine(&report, &target, case, "onnxruntime", input)?;
    // More than there are addresses.
    let case = named("constantofshape_int_zeros")?;
    let input = ("x", &[2][..], &[1 << 30, 1 << 17][..]);
    end_an_engine(&report, &target, case, "rten", input)?;
    in_threads(CASES, |number, dice| {
        let case = dice.choose(&cases);
        let backend = *dice.choose(&target.backends);
        let (model, seed) = (format!("attacked-{number}"), dice.below(1 << 40));
        inputs::push_and_attack(&report, &target, &model, case, backend, seed, RUNS);
    });
    in_threads(CHANGED, |number, dice| {
        let mut client = Client::new(&target);
        let case = dice.choose(if number % 2 == 0 { &mutants } else { &cases });
        let other = dice.choose(&cases);
        let bytes = models::changed(dice, case, other).unwrap();
        let backend = *dice.choose(&target.backends);
        let model = format!("changed-{number}");
        models::load(&report, &mut client, case, &bytes);
        models::push(&report, &target, &mut client, &model, case, &bytes, backend);
    });
    let calls = neighbours.end();
    let counts = report.counts();
    println!("{counts:?}");
    assert!(server.is_running()?, "the node has ended");
    assert!(counts.broken.is_empty(), "{:?}", counts.broken);
    assert_eq!(
        (calls.failed, calls.wrong, calls.hung),
        (0, 0, 0),
        "{:?}",
        calls.told
    );
    assert!(calls.right > 0);
    assert!(counts.ran > 0 && counts.refused_runs > 0, "{counts:?}");
    Ok(())
}

#[test]
fn killed_engines_give_no_wrong_answers_and_hang_no_request() -> Result<()> {
    let Some((mut server, target)) = attacked()? else {
        return Ok(());
    };
    let found = kills::kills(&target, &mut Dice::of(SEED), |kills| kills >= KILLS)?;
    println!("{found:?}");
    assert!(server.is_running()?, "the node has ended");
    assert_eq!(found.kills, KILLS);
    assert!(found.wrong.is_empty(), "{:?}", found.wrong);
    assert!(found.hung.is_empty(), "{:?}", found.hung);
    Ok(())
}
