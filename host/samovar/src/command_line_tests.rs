//! Which command lines are taken, and which are refused.

use clap::CommandFactory as _;

use super::*;

#[test]
fn the_command_line_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_is_parsed() {
    for line in [
        "serve --addr 127.0.0.1:0 --data d --no-auth --max-replicas 4",
        "init iris",
        "init iris --template onnx --json",
        "init iris --template rust --sdk ../sdk",
        "push",
        "push p --model m --name n --environment e --label a=b --label c=d --no-build --wait",
        "predict m -d {} -H a:b -X PUT --path /x",
        "predict m --deployment abcd1234 -f -",
        "predict m --async -d {} --webhook https://h/x --priority 2",
        "async-request show m 0a",
        "async-request result m 0a --json",
        "async-request cancel m 0a",
        "push --development --model m --label a=b",
        "push --environment staging --promote --wait",
        "push --promote",
        "watch",
        "watch p --model m --also ../shared --also ../other --no-build --json",
        "predict m --development -d {}",
        "environment list m",
        "environment show m production",
        "environment create m staging --min-replica 1 --ramp-up --ramp-up-duration 20s",
        "environment update m staging --no-ramp-up --cleanup scale-to-zero --sticky-header x-client",
        "environment delete m staging --yes",
        "promote m deployment-2",
        "promote m v1.2_b --to staging --keep-previous --wait",
        "promotion show m",
        "promotion cancel m staging",
        "promotion pause m",
        "promotion resume m",
        "promotion force-cancel m",
        "promotion force-roll-forward m staging --json",
        "rollback m",
        "rollback m staging",
        "model rename m n",
        "--json model list",
        "model show m --json",
        "model delete m --yes",
        "deployment list m",
        "deployment show m d",
        "deployment activate m d",
        "deployment deactivate m production",
        "deployment retry m d --json",
        "deployment wake m development",
        "deployment rename m d n.1",
        "deployment scale m d --min 0 --max 4 --window 60 --scale-down-delay 0 --concurrency-target 2",
        "deployment scale m d --target-utilization 70 --max-scale-down-rate 50",
        "deployment replicas m d",
        "deployment replicas m d --kill ab12z",
        "deployment logs m d -f",
        "deployment delete m d --yes",
        "logs m -f",
        "secret list",
        "secret set HF_TOKEN",
        "secret set HF_TOKEN --from-file f",
        "secret delete HF_TOKEN --yes",
        "key list",
        "key create --type invoke --name ci --model m --model n",
        "key create --type WORKSPACE_MANAGE_ALL",
        "key delete abcd1234 --yes",
        "backends",
        "status",
        "usage --start 2026-01-01 --end 2026-01-31 --model m --by hour --csv",
        "audit --model m --since 24h --actor system --type A --type B --limit 7",
        "events --model m --limit 3 --json",
        "login http://h",
        "completions bash",
    ] {
        let words = std::iter::once("samovar").chain(line.split(' '));
        if let Err(error) = Cli::try_parse_from(words) {
            panic!("{line}: {error}");
        }
    }
}

#[test]
fn wrong_usage_is_refused_with_exit_code_2() {
    for line in [
        "model show ..",
        "model show a/b",
        "predict m --environment e --deployment d",
        "predict m -d x -f y",
        "predict m -d x --priority 1",
        "predict m -d x --async --priority 3",
        "predict m -d x --async --path /x",
        "predict m -d x --webhook https://h",
        "init",
        "init My_Model",
        "init a/b",
        "init iris --template go",
        "push --label novalue",
        "push --development --name n",
        "push --development --environment e",
        "push --development --promote",
        "watch --promote",
        "watch --model a/b",
        "predict m --development --deployment d",
        "environment create m",
        "environment update m e --ramp-up-duration 20",
        "environment update m e --cleanup never",
        "promote m",
        "promote m a/b",
        "model rename m a/b",
        "deployment scale m d --min -1",
        "deployment replicas m d --kill a/b",
        "secret set HF_TOKEN value",
        "secret set a-b",
        "key create",
        "key create --type root",
        "serve --max-replicas 0",
        "serve --addr nowhere",
        "usage --by year",
        "audit --since yesterday",
        "audit --limit 0",
    ] {
        let words = std::iter::once("samovar").chain(line.split(' '));
        let Err(error) = Cli::try_parse_from(words) else {
            panic!("{line} was taken")
        };
        assert_eq!(error.exit_code(), 2, "{line}");
    }
}
