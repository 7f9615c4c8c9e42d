"""Writes the ONNX standard's own tests, one JSON document a line, for a guest to run through wasi-nn.

Each line: {"name", "operators", "request": {"bytes", "inputs"}, "expected"}; tensors as the guest `tensors` takes them.
Cases with a type that wasi-nn cannot carry are counted on standard error and left out.
"""

import json
import os
import sys
import warnings

import numpy as np
import onnx
from onnx import numpy_helper

CARRIERS = {
    "float32": "f32", "float64": "f64", "float16": "f16", "bfloat16": "bf16",
    "uint8": "u8", "int8": "u8", "bool": "u8", "int32": "i32", "int64": "i64",
}


class CannotCarry(Exception):
    pass


def tensor(info, value):
    if isinstance(value, onnx.TensorProto):
        value = numpy_helper.to_array(value)
    if not info.type.HasField("tensor_type") or not isinstance(value, (np.ndarray, np.generic)):
        raise CannotCarry(info.name)
    value = np.asarray(value)
    if value.dtype.name not in CARRIERS:
        raise CannotCarry(value.dtype.name)
    data = np.ascontiguousarray(value).tobytes()
    return {
        "name": info.name,
        "ty": CARRIERS[value.dtype.name],
        "dims": list(value.shape),
        "data": list(data),
        "kind": value.dtype.name,
    }


def given(graph):
    weights = {weight.name for weight in graph.initializer}
    return [info for info in graph.input if info.name not in weights]


def write(name, model, inputs, outputs):
    ports = given(model.graph)
    if len(inputs) != len(ports) and len(inputs) == len(model.graph.input):
        ports = list(model.graph.input)
    case = {
        "name": name,
        "operators": sorted({node.op_type for node in model.graph.node}),
        "request": {
            "bytes": list(model.SerializeToString()),
            "inputs": [tensor(*one) for one in zip(ports, inputs, strict=True)],
        },
        "expected": [tensor(*one) for one in zip(model.graph.output, outputs, strict=True)],
    }
    print(json.dumps(case, separators=(",", ":")))


def nodes():
    from onnx.backend.test.case.node import collect_testcases

    for case in collect_testcases(None):
        for inputs, outputs in case.data_sets:
            yield "node/" + case.name.removeprefix("test_"), case.model, inputs, outputs


def stored(kind, folder):
    def read(data_set, prefix):
        count = sum(name.startswith(prefix) for name in os.listdir(data_set))
        for at in range(count):
            with open(f"{data_set}/{prefix}_{at}.pb", "rb") as file:
                yield onnx.load_tensor_from_string(file.read())

    for name in sorted(os.listdir(folder)):
        model = onnx.load(f"{folder}/{name}/model.onnx")
        data_set = f"{folder}/{name}/test_data_set_0"
        try:
            inputs, outputs = list(read(data_set, "input")), list(read(data_set, "output"))
        except Exception:  # sequences and optional values, which are no tensors
            inputs = outputs = [None]
            raise_later = CannotCarry(name)
            yield f"{kind}/{name}", None, raise_later, None
            continue
        yield f"{kind}/{name.removeprefix('test_')}", model, inputs, outputs


def light(folder):
    """Whole networks with made-up weights; the input is the one that the package's own runner makes."""
    for name in sorted(os.listdir(folder)):
        if not name.endswith(".onnx"):
            continue
        model = onnx.load(f"{folder}/{name}")
        inputs = []
        for info in given(model.graph):
            shape = tuple(dim.dim_value for dim in info.type.tensor_type.shape.dim)
            count = int(np.prod(shape))
            inputs.append(((np.arange(count).reshape(shape) / count).astype(np.float32)))
        with open(f"{folder}/{name[:-5]}_output_0.pb", "rb") as file:
            outputs = [onnx.load_tensor_from_string(file.read())]
        yield "light/" + name[:-5].removeprefix("light_"), model, inputs, outputs


def main():
    warnings.simplefilter("ignore")
    data = os.path.join(os.path.dirname(onnx.__file__), "backend/test/data")
    left_out = 0
    sources = [nodes(), light(f"{data}/light")]
    sources += [stored(kind, f"{data}/{kind}") for kind in ("simple", "pytorch-converted", "pytorch-operator")]
    for source in sources:
        for name, model, inputs, outputs in source:
            try:
                if model is None:
                    raise inputs
                write(name, model, inputs, outputs)
            except CannotCarry:
                left_out += 1
    print(json.dumps({"left_out": left_out}), file=sys.stderr)


if __name__ == "__main__":
    main()
