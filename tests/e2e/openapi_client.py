"""Walks every route of `/openapi.json` with schemathesis: no 500, and no answer that the document does not tell of.

usage: openapi_client.py URL KEY COMPONENT MODEL_ID MODEL [DEPLOYMENT…]

Drawn values alone find nothing that exists, so most of them are exchanged for the names of what is there. Prints how often
each route answered with which status.
"""

import collections
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import urllib.request
import zlib

import schemathesis

# What would end the walk: without the key or the model, every later request would find nothing.
DESTRUCTIVE = {
    ("DELETE", "/v1/api_keys/{prefix}"),
    ("DELETE", "/v1/models/{model}"),
    ("PATCH", "/v1/models/{model}"),
    ("DELETE", "/v1/models/{model}/environments/{environment}"),
    ("DELETE", "/v1/models/{model}/deployments/{deployment}"),
    ("POST", "/v1/models/{model}/deployments/{deployment}/deactivate"),
    ("POST", "/v1/models/{model}/environments/{environment}/deactivate"),
}


def known():
    key, _, model_id, model, *deployments = json.loads(os.environ["SAMOVAR_KNOWN"])
    return {
        "prefix": [key.partition(".")[0]],
        "model": [model, model_id],
        "deployment": [*deployments, "production"],
        "environment": ["production", "staging"],
    }


@schemathesis.hook
def before_call(context, case, kwargs):
    there = known()
    destructive = (case.operation.method.upper(), case.operation.path) in DESTRUCTIVE
    for name, value in list((case.path_parameters or {}).items()):
        # The same value is exchanged for the same name in every run.
        chance = zlib.crc32(str(value).encode())
        if destructive and value in there.get(name, []):
            case.path_parameters[name] = "notthere"
        elif not destructive and name in there and chance % 8:
            case.path_parameters[name] = there[name][chance % len(there[name])]


    push(case.body)


def push(body):
    """Puts the component that is on the server into most bundles: no other digest is one of a blob that is there."""
    bundle = body.get("bundle") if isinstance(body, dict) else None
    chance = zlib.crc32(repr(body).encode())
    if not isinstance(bundle, dict) or chance % 4 == 0:
        return
    path = json.loads(os.environ["SAMOVAR_KNOWN"])[1]
    with open(path, "rb") as file:
        component = file.read()
    bundle["component"] = {"digest": hashlib.sha256(component).hexdigest(), "size": len(component)}
    if chance % 4 == 1:
        body["name"] = bundle["name"] = f"pushed-{chance % 3}"
        bundle["files"] = bundle["graphs"] = {}


@schemathesis.hook
def after_call(context, case, response):
    with open(os.environ["SAMOVAR_SEEN"], "a") as seen:
        operation = f"{case.operation.method.upper()} {case.operation.path}"
        seen.write(f"{json.dumps([operation, response.status_code])}\n")


def main(url, key, *names):
    with urllib.request.urlopen(f"{url}/openapi.json") as answer:
        document = json.load(answer)
    # Here, so that schemathesis, which runs this file too, need not load it.
    from openapi_spec_validator import OpenAPIV31SpecValidator

    OpenAPIV31SpecValidator(document).validate()
    checks = [
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_schema_conformance",
        "response_headers_conformance",
        "unsupported_method",
    ]
    arguments = [
        *[sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json"],
        *["--header", f"Authorization: Bearer {key}"],
        *["--checks", ",".join(checks)],
        *["--phases", "coverage,fuzzing", "--max-examples", "12", "--generation-deterministic"],
        # One at a time, so that what is there when a request comes is the same in every run.
        *["--workers", "1", "--max-failures", "30", "--request-timeout", "20"],
        # A stream of events without an end; and whole blobs, which are bytes and no JSON.
        *["--exclude-path", "/v1/events", "--exclude-path", "/v1/blobs/{digest}"],
        # What a component answers is its own, now or later.
        *["--exclude-path-regex", r"/(predict|sync/\{path\}|result)$"],
        *["--warnings", "off", "--no-color"],
    ]
    # In a folder of its own: what an earlier run remembers of its failures would be tried first.
    with tempfile.NamedTemporaryFile("r") as seen, tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ,
            "SCHEMATHESIS_HOOKS": os.path.abspath(__file__),
            "SAMOVAR_KNOWN": json.dumps([key, *names]),
            "SAMOVAR_SEEN": seen.name,
        }
        walked = subprocess.run(arguments, env=environment, cwd=folder, text=True, capture_output=True)
        counts = collections.defaultdict(collections.Counter)
        for line in seen:
            operation, status = json.loads(line)
            counts[operation][str(status)] += 1
    print(walked.stdout[-20000:], walked.stderr[-5000:], file=sys.stderr)
    print(json.dumps(counts))
    return walked.returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
