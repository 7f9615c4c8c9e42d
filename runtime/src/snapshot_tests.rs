//! Tests of snapshots with components written by hand: what is kept, and each reason why one is not.

use std::sync::Mutex;
use std::time::Duration;

use super::*;
use crate::engine::EngineOptions;
use crate::infer::backend::{BackendOptions, Backends};
use crate::log::LogLine;

#[derive(Default)]
struct Lines(Mutex<Vec<String>>);

impl LogSink for Lines {
    fn write(&self, line: LogLine) {
        self.0.lock().unwrap().push(line.message);
    }
}

struct Bench {
    engine: Arc<SharedEngine>,
    graphs: Arc<GraphStore>,
    limits: Limits,
    capabilities: Capabilities,
}

impl Bench {
    fn new() -> Self {
        let options = EngineOptions {
            max_replicas: 8,
            allocator: None,
        };
        Self {
            engine: Arc::new(SharedEngine::new(&options).unwrap()),
            graphs: GraphStore::new(Backends::discover(BackendOptions {
                // A process can open the library but once, and other tests do.
                onnxruntime: Some("/nowhere".into()),
                ..BackendOptions::default()
            })),
            limits: Limits {
                memory_bytes: 4 << 20,
                timeout: Duration::from_secs(10),
                body_bytes: 0,
            },
            capabilities: Capabilities::default(),
        }
    }

    fn context(&self) -> SnapshotContext {
        SnapshotContext {
            engine: self.engine.clone(),
            graphs: self.graphs.clone(),
            capabilities: self.capabilities.clone(),
            limits: self.limits.clone(),
            log: Arc::new(Lines::default()),
        }
    }

    async fn take(&self, component: &str) -> Result<Vec<u8>, String> {
        let component = wat::parse_str(component).unwrap();
        take(self.context(), component).await
    }

    /// What the export `get` of a component answers.
    async fn get(&self, component: &[u8]) -> u32 {
        let (mut store, instance) = instantiate(&self.context(), component).await.unwrap();
        let get = instance
            .get_typed_func::<(), (u32,)>(&mut store, "get")
            .unwrap();
        get.call_async(&mut store, ()).await.unwrap().0
    }
}

/// A component with these imports, whose program has these parts; `$init` runs in its `init` and answers 0 for "done", 1
/// for an error of one letter.
fn component(imports: &str, lowered: &str, given: &str, program: &str) -> String {
    format!(
        r#"(component
            {imports}
            {lowered}
            (core module $program
                {program}
                (memory (export "memory") 1)
                (data (i32.const 200) "E")
                (func (export "init") (result i32)
                    (i32.store8 (i32.const 100) (call $init))
                    (i32.store (i32.const 104) (i32.const 200))
                    (i32.store (i32.const 108) (i32.const 1))
                    i32.const 100)
                (func (export "get") (result i32) (i32.load (i32.const 16))))
            (core instance $program (instantiate $program {given}))
            (type $answer (result (error string)))
            (func $init (result $answer) (canon lift (core func $program "init") (memory (core memory $program "memory"))))
            (component $lifecycle
                (type $answer (result (error string)))
                (import "init" (func $init (result $answer)))
                (export "init" (func $init)))
            (instance $lifecycle (instantiate $lifecycle (with "init" (func $init))))
            (export "samovar:model/lifecycle@0.1.0" (instance $lifecycle))
            (func (export "get") (result u32) (canon lift (core func $program "get"))))"#
    )
}

fn alone(program: &str) -> String {
    component("", "", "", program)
}

#[tokio::test]
async fn a_component_that_does_not_come_up_holds_up_its_push_for_the_timeout_alone() {
    let mut bench = Bench::new();
    bench.limits.timeout = Duration::from_millis(200);
    let endless = alone(
        r"(func $endless (loop $again (br $again)))
        (start $endless)
        (func $init (result i32) i32.const 0)",
    );
    let why = bench.take(&endless).await.unwrap_err();
    assert!(
        why.contains("making an instance took longer than the request timeout of 200ms"),
        "{why}"
    );
}

#[tokio::test]
async fn what_init_wrote_is_in_the_component_and_constructors_run_no_more() {
    let bench = Bench::new();
    let program = r#"
        (global $count (mut i32) (i32.const 0))
        ;; As wasi-libc's: a second run is a mistake.
        (func (export "_initialize")
            (if (global.get $count) (then unreachable))
            (global.set $count (i32.const 1)))
        (func $init (result i32)
            (global.set $count (i32.add (global.get $count) (i32.const 40)))
            (i32.store (i32.const 16) (global.get $count))
            i32.const 0)"#;
    let with_start = alone(program).replace(
        "(type $answer (result (error string)))\n            (func $init",
        r#"(core module $start (import "" "_initialize" (func $run)) (start $run))
            (core instance (instantiate $start (with "" (instance $program))))
            (type $answer (result (error string)))
            (func $init"#,
    );
    let snapshot = bench.take(&with_start).await.unwrap();
    assert_eq!(bench.get(&snapshot).await, 41);
    // Each instance has it for itself, and the component is not changed by being used.
    assert_eq!(bench.get(&snapshot).await, 41);
}

#[tokio::test]
async fn an_import_whose_answer_may_change_is_named() {
    let bench = Bench::new();
    let cases = [
        ("wasi:clocks/monotonic-clock@0.2.0", "now", "u64", "i64"),
        ("wasi:random/random@0.2.3", "get-random-u64", "u64", "i64"),
        (
            "wasi:clocks/monotonic-clock@0.2.6",
            "resolution",
            "u64",
            "i64",
        ),
    ];
    for (import, function, ty, core) in cases {
        let reason = bench
            .take(&component(
                &format!(r#"(import "{import}" (instance $i (export "{function}" (func (result {ty})))))"#),
                &format!(r#"(core func $f (canon lower (func $i "{function}")))"#),
                r#"(with "" (instance (export "f" (func $f))))"#,
                &format!(
                    r#"(import "" "f" (func $f (result {core})))
                    (func $init (result i32) (drop (call $f)) i32.const 0)"#
                ),
            ))
            .await
            .unwrap_err();
        let interface = import.split('@').next().unwrap();
        assert!(
            reason.contains(&format!("`init` calls {interface}")),
            "{reason}"
        );
    }
}

#[tokio::test]
async fn the_seed_of_a_hash_table_may_be_kept() {
    let bench = Bench::new();
    let snapshot = bench
        .take(&component(
            r#"(import "wasi:random/insecure@0.2.0" (instance $i (export "get-insecure-random-u64" (func (result u64)))))"#,
            r#"(core func $f (canon lower (func $i "get-insecure-random-u64")))"#,
            r#"(with "" (instance (export "f" (func $f))))"#,
            r#"(import "" "f" (func $f (result i64)))
            (func $init (result i32)
                (i64.store (i32.const 16) (i64.or (call $f) (i64.const 1)))
                i32.const 0)"#,
        ))
        .await
        .unwrap();
    assert_eq!(bench.get(&snapshot).await & 1, 1);
}

#[tokio::test]
async fn an_open_handle_is_a_reason() {
    let bench = Bench::new();
    let program = |keep: &str| {
        component(
            r#"(import "wasi:io/streams@0.2.0" (instance $streams (export "output-stream" (type (sub resource)))))
            (alias export $streams "output-stream" (type $stream))
            (import "wasi:cli/stdout@0.2.0" (instance $stdout
                (alias outer 1 $stream (type $s))
                (export "output-stream" (type $stream (eq $s)))
                (export "get-stdout" (func (result (own $stream))))))"#,
            r#"(core func $f (canon lower (func $stdout "get-stdout")))
            (core func $drop (canon resource.drop $stream))"#,
            r#"(with "" (instance (export "f" (func $f)) (export "drop" (func $drop))))"#,
            &format!(
                r#"(import "" "f" (func $f (result i32)))
                (import "" "drop" (func $drop (param i32)))
                (func $init (result i32) (call ${keep} (call $f)) i32.const 0)
                (func $keep (param i32) (i32.store (i32.const 16) (local.get 0)))"#
            ),
        )
    };
    let reason = bench.take(&program("keep")).await.unwrap_err();
    assert!(reason.contains("leaves 1 handle"), "{reason}");
    bench.take(&program("drop")).await.unwrap();
}

#[tokio::test]
async fn an_init_that_fails_traps_or_never_ends_is_not_kept() {
    let mut bench = Bench::new();
    bench.limits.timeout = Duration::from_millis(200);
    for (program, why) in [
        ("(func $init (result i32) i32.const 1)", "`init` failed: E"),
        ("(func $init (result i32) unreachable)", "unreachable"),
        (
            "(func $init (result i32) (loop $l (br $l)) unreachable)",
            "longer than the request timeout of 200ms",
        ),
        (
            "(func $init (result i32)
                (if (i32.eq (memory.grow (i32.const 100)) (i32.const -1)) (then unreachable))
                i32.const 0)",
            "ran out of memory",
        ),
    ] {
        let reason = bench.take(&alone(program)).await.unwrap_err();
        assert!(reason.contains(why), "{reason}");
    }
}

#[tokio::test]
async fn a_program_that_changes_its_tables_is_refused() {
    let bench = Bench::new();
    let reason = bench
        .take(&alone(
            "(table 1 funcref)
            (func $init (result i32) (table.set (i32.const 0) (ref.null func)) i32.const 0)",
        ))
        .await
        .unwrap_err();
    assert!(
        reason.contains("a component of this form cannot have a snapshot"),
        "{reason}"
    );
    assert!(reason.contains("table.set"), "{reason}");
}
