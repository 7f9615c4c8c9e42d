"""Drives a graph that is served without code by the clients of others: `tritonclient[http]` with its defaults, and
KServe's `InferenceRESTClient`, which the tests do not install: it comes with 450 MB. Takes the folder for the model
(`make FOLDER`), or a client, the address of a deployment and the model's name (`triton
http://HOST:PORT/models/M/production/sync NAME`, `kserve …`). Exits 1 at the first answer that is not right."""

import asyncio
import sys
from pathlib import Path

import numpy as np

try:
    from ml_dtypes import bfloat16
except ImportError:  # beside kserve's client, which knows no such type
    bfloat16 = None

# Name in the protocol, numpy's type, number in ONNX.
TYPES = [
    ("BOOL", np.bool_, 9),
    ("UINT8", np.uint8, 2),
    ("INT8", np.int8, 3),
    ("INT32", np.int32, 6),
    ("INT64", np.int64, 7),
    ("FP16", np.float16, 10),
    ("FP32", np.float32, 1),
    ("FP64", np.float64, 11),
    ("BF16", bfloat16, 16),
]
# What clients write as bytes alone.
BINARY_ONLY = ("FP16", "BF16")


def make(folder: Path):
    """A graph with one input and one output of each type that passes through, and a product of two matrices."""
    from onnx import TensorProto, checker, helper, save

    nodes, inputs, outputs = [], [], []
    for name, _, number in TYPES:
        inputs.append(helper.make_tensor_value_info(f"in_{name}", number, ["n", 2]))
        outputs.append(helper.make_tensor_value_info(f"out_{name}", number, ["n", 2]))
        nodes.append(helper.make_node("Identity", [f"in_{name}"], [f"out_{name}"]))
    inputs.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, ["n", 3]))
    outputs.append(helper.make_tensor_value_info("product", TensorProto.FLOAT, ["n", 4]))
    weights = np.arange(12, dtype=np.float32).reshape(3, 4)
    constant = helper.make_tensor("w", TensorProto.FLOAT, [3, 4], weights.tobytes(), raw=True)
    nodes.append(helper.make_node("MatMul", ["a", "w"], ["product"]))
    graph = helper.make_graph(nodes, "all-types", inputs, outputs, [constant])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    checker.check_model(model)
    save(model, str(folder / "model.onnx"))


def values(rows: int):
    rng = np.random.default_rng(rows)
    for name, kind, _ in TYPES:
        if kind is None:
            continue
        elif kind == np.bool_:
            yield name, rng.integers(0, 2, (rows, 2)).astype(kind)
        elif np.issubdtype(kind, np.integer):
            info = np.iinfo(kind)
            yield name, rng.integers(info.min, info.max, (rows, 2), dtype=kind, endpoint=True)
        else:
            yield name, rng.standard_normal((rows, 2)).astype(kind)


def expect(is_right: bool, what: str):
    if not is_right:
        sys.exit(f"wrong: {what}")


def refused(call, *words: str):
    try:
        call()
    except Exception as error:  # each client has exceptions of its own
        text = str(error)
        expect(all(word in text for word in words), f"{text!r} does not say {words}")
        return
    expect(False, f"not refused; wanted {words}")


def triton(address: str, model: str):
    import tritonclient.http as client

    server = client.InferenceServerClient(address.removeprefix("http://"))
    expect(server.is_server_live() and server.is_server_ready(), "live, ready")
    expect(server.is_model_ready(model) and server.is_model_ready(model, "1"), "model ready")
    expect(not server.is_model_ready("nobody"), "a model that is not there is not ready")
    expect("binary_tensor_data" in server.get_server_metadata()["extensions"], "extensions")
    metadata = server.get_model_metadata(model)
    expect(metadata["name"] == model, f"{metadata}")
    shapes = {one["name"]: (one["datatype"], one["shape"]) for one in metadata["inputs"]}
    expect(shapes["a"] == ("FP32", [-1, 3]), f"{shapes}")

    def tensor(name, value, binary=True, kind="FP32"):
        tensor = client.InferInput(name, list(value.shape), kind)
        tensor.set_data_from_numpy(value, binary_data=binary)
        return tensor

    for rows in (1, 3, 1000):
        given = dict(values(rows))
        a = np.random.default_rng(7).standard_normal((rows, 3)).astype(np.float32)
        product = a @ np.arange(12, dtype=np.float32).reshape(3, 4)
        for binary in (True, False):
            inputs = [
                tensor(f"in_{name}", value, binary or name in BINARY_ONLY, name)
                for name, value in given.items()
            ]
            inputs.append(tensor("a", a, binary))
            for outputs in (
                None,
                [
                    client.InferRequestedOutput(f"out_{name}", binary_data=name in BINARY_ONLY)
                    for name in given
                ]
                + [client.InferRequestedOutput("product")],
            ):
                answer = server.infer(model, inputs, outputs=outputs, request_id="r-1")
                expect(answer.get_response()["id"] == "r-1", "the id comes back")
                for name, value in given.items():
                    seen = answer.as_numpy(f"out_{name}")
                    expect(
                        seen.dtype == value.dtype and np.array_equal(seen, value),
                        f"{name}, binary {binary}: {seen} for {value}",
                    )
                seen = answer.as_numpy("product")
                expect(np.allclose(seen, product, rtol=1e-5, atol=1e-5), "product")

    inputs = [tensor(f"in_{name}", value, kind=name) for name, value in values(2)]
    two = np.ones((2, 3), np.float32)
    refused(lambda: server.infer(model, inputs), "`a`")
    refused(lambda: server.infer(model, [*inputs, tensor("b", two)]), "no input", '"b"', "in_FP32")
    refused(lambda: server.infer(model, [*inputs, tensor("a", two.astype(np.int64), kind="INT64")]), "INT64", "FP32")
    refused(lambda: server.infer(model, [*inputs, tensor("a", np.ones((2, 4), np.float32))]), "`a`", "4")
    refused(lambda: server.infer("nobody", inputs), "nobody", model)
    refused(
        lambda: server.infer(
            model, [*inputs, tensor("a", two)], outputs=[client.InferRequestedOutput("c")]
        ),
        "no output",
        "product",
    )


async def kserve(address: str, model: str):
    from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
    from kserve.protocol.infer_type import RequestedOutput

    client = InferenceRESTClient(RESTConfig(protocol="v2", timeout=30))
    # It puts its own `/v2` behind the address.
    expect(await client.is_server_live(address), "live")
    expect(await client.is_server_ready(address), "ready")
    expect(await client.is_model_ready(address, model), "model ready")
    # This client cannot read BF16.
    given = {name: value for name, value in values(2) if name != "BF16"}
    a = np.ones((2, 3), np.float32)
    for binary in (True, False):
        inputs = [InferInput("in_BF16", [2, 2], "BF16", [[1.0, 2.0], [3.0, 4.0]])]
        tensors = [(f"in_{name}", value, name) for name, value in given.items()]
        for name, value, kind in [*tensors, ("a", a, "FP32")]:
            tensor = InferInput(name=name, shape=list(value.shape), datatype=kind)
            tensor.set_data_from_numpy(value, binary_data=binary or kind == "FP16")
            inputs.append(tensor)
        request = InferRequest(
            model_name=model,
            infer_inputs=inputs,
            request_outputs=[
                RequestedOutput(name, {"binary_data": binary or name == "out_FP16"})
                for name in [*(f"out_{name}" for name in given), "product"]
            ],
        )
        answer = await client.infer(address, request, model_name=model)
        outputs = {one.name: one for one in answer.outputs}
        for name, value in given.items():
            seen = outputs[f"out_{name}"].as_numpy()
            expect(np.array_equal(seen, value), f"{name}, binary {binary}: {seen} for {value}")
        expect(outputs["product"].as_numpy().shape == (2, 4), "product")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["make", folder]:
            make(Path(folder))
        case ["triton", address, model]:
            triton(address, model)
        case ["kserve", address, model]:
            asyncio.run(kserve(address, model))
        case _:
            sys.exit(__doc__)
    print("right")
