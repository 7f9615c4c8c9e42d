"""Classifies an iris as one of three species, from four measurements."""

import json
import math
import traceback
from array import array

from componentize_py_types import Err, Ok
from wit_world.imports.graph import load_by_name
from wit_world.imports.streams import StreamError_Closed
from wit_world.imports.tensor import Tensor, TensorType
from wit_world.imports.types import (
    Fields,
    IncomingRequest,
    Method_Post,
    OutgoingBody,
    OutgoingResponse,
    ResponseOutparam,
)

SPECIES = ["setosa", "versicolor", "virginica"]
# The limit of wasi:io for one call.
MAX_WRITE_BYTES = 4096
# The parser recurses for nested lists and has a small stack.
MAX_BRACKETS = 64

# ANCHOR: model
context = None


class Lifecycle:
    def init(self) -> None:
        """Runs once in each replica, before its first request."""
        global context
        try:
            context = load_by_name("default").init_execution_context()
        except Err as error:
            raise Err(f"graph \"default\" did not load: {error.value.data()}")


class IncomingHandler:
    def handle(self, request: IncomingRequest, response_out: ResponseOutparam) -> None:
        """Runs for each request."""
        try:
            status, answer = route(request)
            text = json.dumps(answer, allow_nan=False)
        except Exception as error:
            # An exception that leaves this function would end the replica. Printed text goes to the log.
            traceback.print_exc()
            status, text = 500, json.dumps({"error": f"{type(error).__name__}: {error}"})
        send(response_out, status, text.encode())


def route(request: IncomingRequest) -> tuple[int, object]:
    path = (request.path_with_query() or "/").partition("?")[0]
    if path != "/predict":
        return 404, {"error": f"there is no {path}: this model answers POST /predict"}
    if not isinstance(request.method(), Method_Post):
        return 405, {"error": "send the input with POST"}
    try:
        measurements = parse(read(request))
    except (ArithmeticError, TypeError, ValueError) as error:
        return 400, {"error": f"the body is not a JSON list of numbers: {error}"}
    if len(measurements) != 4:
        return 400, {"error": f"found {len(measurements)} measurements, wanted 4"}
    try:
        return 200, predict(measurements)
    except ValueError as error:
        return 400, {"error": str(error)}
    except Err as error:
        return 500, {"error": f"the graph did not compute: {error.value.data()}"}


def parse(body: bytes) -> array:
    """Parses a list of numbers in the range of a 32-bit float."""
    text = body.decode()
    if text.count("[") + text.count("{") > MAX_BRACKETS:
        raise ValueError(f"more than {MAX_BRACKETS} lists and objects")
    numbers = array("f", json.loads(text))
    # Python accepts NaN, which is not JSON, and numbers that become infinite.
    if not all(map(math.isfinite, numbers)):
        raise ValueError("a number is not finite, or too large for a 32-bit float")
    return numbers


def predict(measurements: array) -> dict[str, object]:
    x = Tensor([1, 4], TensorType.FP32, measurements.tobytes())
    outputs = dict(context.compute([("X", x)]))
    probabilities = array("f", outputs["probabilities"].data())
    if not all(map(math.isfinite, probabilities)):
        raise ValueError("the measurements are too large to compute with")
    best = max(range(len(SPECIES)), key=lambda at: probabilities[at])
    return {"species": SPECIES[best], "probability": probabilities[best]}
# ANCHOR_END: model


def read(request: IncomingRequest) -> bytes:
    chunks = []
    with request.consume() as body, body.stream() as stream:
        while True:
            try:
                chunks.append(stream.blocking_read(64 << 10))
            except Err as error:
                if isinstance(error.value, StreamError_Closed):
                    return b"".join(chunks)
                raise


def send(response_out: ResponseOutparam, status: int, text: bytes) -> None:
    headers = [("content-type", b"application/json")]
    if status == 405:
        # HTTP requires a list of the supported methods.
        headers.append(("allow", b"POST"))
    response = OutgoingResponse(Fields.from_list(headers))
    response.set_status_code(status)
    body = response.body()
    ResponseOutparam.set(response_out, Ok(response))
    with body.write() as stream:
        for start in range(0, len(text), MAX_WRITE_BYTES):
            stream.blocking_write_and_flush(text[start : start + MAX_WRITE_BYTES])
    OutgoingBody.finish(body, None)
