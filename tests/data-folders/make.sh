#!/usr/bin/env bash
# Makes the data folder of a release, for the tests that open it with later ones: see README.md.
#
#     tests/data-folders/make.sh target/release/samovar tests/data-folders/0.1.0
#
# Needs curl and jq, and what `cargo xtask guests` builds.
set -euo pipefail

samovar=$(realpath "$1")
mkdir "$2"
out=$(realpath "$2")
repository=$(realpath "$(dirname "$0")/../..")
work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$work"' EXIT
export SAMOVAR_CONFIG=$work/config.toml

mkfifo "$work/ready"
"$samovar" --json serve --addr 127.0.0.1:0 --data "$work/data" --webhook-allow loopback >"$work/ready" 2>"$work/log" &
node=$!
exec 3<"$work/ready"
read -r ready <&3
url=$(jq -r .url <<<"$ready")
key=$(sed -n 's/^ *api_key *= *"\(.*\)"$/\1/p' "$work/config.toml")
call() { curl -fsS -H "Authorization: Bearer $key" "$@"; }
# Waits until an async request has a status.
reaches() {
    until [ "$("$samovar" --json async-request show digits "$1" | jq -r .status)" = "$2" ]; do sleep 0.1; done
}

printf 'the-value-of-TOKEN' | "$samovar" secret set TOKEN
call -X POST "$url/v1/webhook_secrets" >/dev/null

mkdir "$work/digits"
cp "$repository/target/guests/components/routes.wasm" "$work/digits/guest.wasm"
cp "$repository/host/cli/templates/shared/model.onnx" "$work/digits/"
printf 'one\n' >"$work/digits/labels.txt"
cat >"$work/digits/samovar.toml" <<'TOML'
name = "digits"
component = "guest.wasm"
files = ["labels.txt"]
secrets = ["TOKEN"]
example = "[1, 2]"

[graphs.default]
file = "model.onnx"
backend = "rten"

[limits]
timeout = "30s"

[autoscaling]
min_replica = 0
max_replica = 1
TOML

# Two deployments, one of them labelled; an environment of its own; a canary of production that is halted.
"$samovar" push "$work/digits" --name first --promote --wait
"$samovar" environment create digits staging --max-replica 2
"$samovar" promote digits first --to staging --wait
"$samovar" environment update digits production --ramp-up --ramp-up-duration 1h --max-error-rate 0.05 --cleanup keep
"$samovar" push "$work/digits" --name second --label commit=abc123
"$samovar" deployment scale digits second --max 3
"$samovar" promote digits second
until [ "$("$samovar" --json promotion show digits | jq -r .in_progress_promotion.status)" = RAMPING_UP ]; do sleep 0.1; done
"$samovar" promotion pause digits
"$samovar" push "$work/digits" --development

# A model that is gone, and is told of by the audit log and by usage.
"$samovar" push "$work/digits" --model gone --promote --wait
"$samovar" predict gone -d '[1]'
"$samovar" model delete gone --yes

"$samovar" --json key create --type invoke --name caller --model digits | jq -r .api_key >"$work/caller"

"$samovar" predict digits -d '[1, 2]'
# Async requests in each state that can be kept: answered, refused by the model, waiting, and taken back.
asynchronous() { call "$url/models/digits/environments/staging/async_predict" -d "$1" | jq -r .request_id; }
answered=$(asynchronous '{"model_input": [1, 2]}')
refused=$(asynchronous '{"model_input": "no list"}')
reaches "$answered" SUCCEEDED
reaches "$refused" FAILED
"$samovar" environment update digits staging --max-replica 1
staging=$("$samovar" --json environment show digits staging | jq -r .current_deployment.id)
# A request whose body does not end keeps the one replica busy.
mkfifo "$work/body"
call -T "$work/body" -X POST "$url/models/digits/environments/staging/sync/count" >/dev/null 2>&1 &
exec 4>"$work/body"
printf x >&4
until [ "$("$samovar" --json deployment replicas digits "$staging" | jq '[.replicas[] | select(.state == "BUSY")] | length')" = 1 ]; do sleep 0.1; done
waiting=$(asynchronous '{"model_input": [3], "webhook_endpoint": "http://localhost:9/hook", "priority": 2, "max_time_in_queue_seconds": 259200}')
taken_back=$(asynchronous '{"model_input": [4]}')
"$samovar" async-request cancel digits "$taken_back"

# Counts of the last second get into the store.
call "$url/v1/billing/usage_summary?start_date=$(date -u +%F)&end_date=$(date -u +%F)" >/dev/null
kill -TERM $node
sleep 0.5
exec 4>&-
wait $node

cp -r "$work/data/state.db" "$work/data/secrets.key" "$work/data/blobs" "$out/"
jq -n --arg date "$(date -u +%F)" --arg admin "$key" --arg caller "$(cat "$work/caller")" \
    --arg answered "$answered" --arg refused "$refused" --arg waiting "$waiting" --arg taken_back "$taken_back" \
    '{$date, keys: {$admin, $caller}, async_requests: {$answered, $refused, $waiting, $taken_back}}' >"$out/about.json"
