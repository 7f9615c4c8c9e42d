"""Writes the model.onnx that every project of `samovar init` begins with: softmax(X * W + B), which tells three irises apart.

X is N rows of four measures in centimeters (sepal length, sepal width, petal length, petal width); `probabilities` is N
rows of three. The weights are those of a logistic regression on Fisher's 150 flowers, rounded to two digits.

Run it with `onnx` installed: python host/cli/templates/make_model.py
"""

from pathlib import Path

import onnx
from onnx import TensorProto, helper

W = [[-0.42, 0.53, -0.11], [0.97, -0.32, -0.65], [-2.52, -0.21, 2.72], [-1.08, -0.94, 2.02]]
B = [9.85, 2.24, -12.09]

FLOAT = TensorProto.FLOAT
graph = helper.make_graph(
    [
        helper.make_node("MatMul", ["X", "W"], ["XW"]),
        helper.make_node("Add", ["XW", "B"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ],
    "iris",
    [helper.make_tensor_value_info("X", FLOAT, ["N", 4])],
    [helper.make_tensor_value_info("probabilities", FLOAT, ["N", 3])],
    [
        helper.make_tensor("W", FLOAT, [4, 3], [weight for row in W for weight in row]),
        helper.make_tensor("B", FLOAT, [3], B),
    ],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
onnx.checker.check_model(model)

onnx.save(model, Path(__file__).parent / "shared" / "model.onnx")
