"""Writes models to attack a node with into a folder, and prints one JSON document a line for each.

`attack_models.py FOLDER SEED COUNT` writes those of the ONNX standard's own tests, with dimensions of their inputs that callers choose,
and COUNT mutants of them, with fields changed that a checker would find and an attacker would not mind.

Each line: {"name", "operators", "random", "mutant", "file", "inputs"}; the tensors as the Open Inference Protocol has them, `data` in
hexadecimal.
"""

import json
import random
import sys
import warnings

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from onnx_cases import given, nodes

DATATYPES = {
    "float32": "FP32", "float64": "FP64", "float16": "FP16", "bfloat16": "BF16", "uint8": "UINT8",
    "int8": "INT8", "bool": "BOOL", "int32": "INT32", "int64": "INT64",
}
RANDOM = {"Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
# Sizes and numbers that a field may be changed to.
NUMBERS = [0, 1, -1, 2, 3, 7, 64, 255, 65536, 2**31 - 1, -(2**31), 2**32, 2**40, 2**62, 2**63 - 1, -(2**63)]
FLOATS = [0.0, -1.0, 1e38, -1e38, 1e-40, float("nan"), float("inf"), float("-inf")]
TYPES = [0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 14, 16, 17, 22, 99]


def tensors(model, values):
    ports = given(model.graph)
    if len(values) != len(ports):
        ports = list(model.graph.input)
    for info, value in zip(ports, values, strict=True):
        if isinstance(value, TensorProto):
            value = numpy_helper.to_array(value)
        if not info.type.HasField("tensor_type") or not isinstance(value, (np.ndarray, np.generic)):
            return
        value = np.asarray(value)
        if value.dtype.name not in DATATYPES:
            return
        yield {
            "name": info.name,
            "datatype": DATATYPES[value.dtype.name],
            "shape": list(value.shape),
            "data": np.ascontiguousarray(value).tobytes().hex(),
        }


def free(model):
    """Lets the caller choose each dimension of each input."""
    for at, info in enumerate(model.graph.input):
        for place, dim in enumerate(info.type.tensor_type.shape.dim):
            dim.dim_param = f"d{at}_{place}"
    for info in model.graph.output:
        for place, dim in enumerate(info.type.tensor_type.shape.dim):
            dim.dim_param = f"out_{info.name}_{place}"
    del model.graph.value_info[:]


def cases():
    for name, model, inputs, _ in nodes():
        sent = list(tensors(model, inputs))
        if len(sent) == len(inputs) and sent:
            kept = onnx.ModelProto()
            kept.CopyFrom(model)
            free(kept)
            yield name.removeprefix("node/"), kept, sent


def write(folder, name, model, inputs, is_mutant):
    file = f"{name}.onnx"
    with open(f"{folder}/{file}", "wb") as out:
        out.write(model.SerializeToString())
    operators = sorted({node.op_type for node in model.graph.node})
    case = {
        "name": name,
        "operators": ", ".join(operators),
        "random": any(operator in RANDOM for operator in operators),
        "mutant": is_mutant,
        "file": file,
        "inputs": inputs,
    }
    print(json.dumps(case, separators=(",", ":")))


def change_attribute(dice, model):
    node = dice.choice(model.graph.node)
    if not node.attribute:
        return change_node(dice, model)
    attribute = dice.choice(node.attribute)
    match dice.randrange(6):
        case 0:
            attribute.i = dice.choice(NUMBERS)
        case 1:
            attribute.f = dice.choice(FLOATS)
        case 2:
            attribute.ints.append(dice.choice(NUMBERS))
        case 3:
            if attribute.ints:
                attribute.ints[dice.randrange(len(attribute.ints))] = dice.choice(NUMBERS)
        case 4:
            attribute.s = bytes(dice.randrange(256) for _ in range(dice.randrange(16)))
        case _:
            attribute.type = dice.randrange(15)


def change_node(dice, model):
    node = dice.choice(model.graph.node)
    match dice.randrange(7):
        case 0:
            node.op_type = dice.choice(OPERATORS)
        case 1:
            node.input.append(dice.choice(list(node.input) + list(node.output) + [""]))
        case 2:
            if node.input:
                node.input[dice.randrange(len(node.input))] = dice.choice(list(node.output) + ["", "nothing"])
        case 3:
            node.output.append(dice.choice(list(node.input) + list(node.output)))
        case 4:
            model.graph.node.append(node)
        case 5:
            del node.input[dice.randrange(len(node.input) + 1):]
        case _:
            node.domain = dice.choice(["ai.onnx.ml", "com.microsoft", "nowhere"])


def change_port(dice, model):
    port = dice.choice(list(model.graph.input) + list(model.graph.output))
    dims = port.type.tensor_type.shape.dim
    match dice.randrange(4):
        case 0:
            port.type.tensor_type.elem_type = dice.choice(TYPES)
        case 1:
            dims.add().dim_value = dice.choice(NUMBERS)
        case 2:
            if dims:
                dims[dice.randrange(len(dims))].dim_value = dice.choice(NUMBERS)
        case _:
            port.type.ClearField("tensor_type")


def add_weight(dice, model):
    """A constant in place of an input, whose sizes and elements need not fit."""
    port = dice.choice(model.graph.input)
    weight = model.graph.initializer.add()
    weight.name = port.name
    weight.data_type = port.type.tensor_type.elem_type if dice.random() < 0.7 else dice.choice(TYPES)
    weight.dims.extend(dice.choice(NUMBERS) if dice.random() < 0.3 else dice.randrange(5) for _ in range(dice.randrange(5)))
    weight.raw_data = bytes(dice.randrange(256) for _ in range(dice.choice([0, 1, 4, 16, 64, 240])))


def change_version(dice, model):
    if dice.random() < 0.5 or not model.opset_import:
        model.ir_version = dice.choice(NUMBERS)
    else:
        dice.choice(model.opset_import).version = dice.choice(NUMBERS + list(range(1, 26)))


OPERATORS = []


def mutants(folder, all_cases, seed, count):
    dice = random.Random(seed)
    all_cases = [case for case in all_cases if case[1].graph.node]
    OPERATORS.extend(sorted({node.op_type for _, model, _ in all_cases for node in model.graph.node}))
    changes = [change_attribute, change_attribute, change_node, change_node, change_port, add_weight, change_version]
    for number in range(count):
        name, model, inputs = dice.choice(all_cases)
        mutant = onnx.ModelProto()
        mutant.CopyFrom(model)
        for _ in range(dice.choice([1, 1, 1, 2, 3])):
            try:
                dice.choice(changes)(dice, mutant)
            except (ValueError, TypeError):  # A field does not take it.
                pass
        write(folder, f"mutant-{number}-of-{name}", mutant, inputs, True)


def main():
    warnings.simplefilter("ignore")
    folder, seed, count = sys.argv[1:]
    all_cases = list(cases())
    for name, model, inputs in all_cases:
        write(folder, name, model, inputs, False)
    mutants(folder, all_cases, int(seed), int(count))


main()
