"""Writes resnet.onnx (ResNet-50) and transformer.onnx (six layers, 384 wide) in fp16 with random weights.

Random weights cost what learned ones do. Batch normalisation is folded into the convolutions, as exporters leave it. The
transformer reckons its shapes at run time, as exporters write it for variable rows and lengths.

    python3 gpu_models.py FOLDER
"""

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
random = np.random.default_rng(7)


class Builder:
    def __init__(self):
        self.nodes, self.weights, self.count = [], [], 0

    def op(self, op, inputs, **attributes):
        self.count += 1
        name = f"{op.lower()}_{self.count}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def weight(self, array, dtype=np.float16):
        self.count += 1
        name = f"weight_{self.count}"
        self.weights.append(numpy_helper.from_array(np.asarray(array, dtype), name))
        return name

    def normal(self, *shape, fan):
        return self.weight(random.standard_normal(shape, np.float32) * np.sqrt(1.0 / fan))

    def save(self, path, output, in_type, in_shape, out_shape):
        self.nodes.append(helper.make_node("Identity", [output], ["y"], name="output"))
        graph = helper.make_graph(
            self.nodes,
            path.stem,
            [helper.make_tensor_value_info("x", in_type, in_shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT16, out_shape)],
            self.weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
        onnx.checker.check_model(model)
        onnx.save(model, path)


def resnet(path):
    b = Builder()

    def conv(x, c_in, c_out, kernel, stride=1, relu=True, gain=1.0):
        fan = c_in * kernel * kernel
        w = b.normal(c_out, c_in, kernel, kernel, fan=fan / (2.0 * gain))
        bias = b.weight(np.zeros(c_out))
        pad = kernel // 2
        y = b.op("Conv", [x, w, bias], kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4)
        return b.op("Relu", [y]) if relu else y

    x = conv("x", 3, 64, 7, 2)
    x = b.op("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    c_in = 64
    for width, blocks, first in [(64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)]:
        for block in range(blocks):
            stride = first if block == 0 else 1
            y = conv(x, c_in, width, 1)
            y = conv(y, width, width, 3, stride)
            y = conv(y, width, width * 4, 1, relu=False, gain=0.1)
            if block == 0:
                x = conv(x, c_in, width * 4, 1, stride, relu=False, gain=0.5)
            x = b.op("Relu", [b.op("Add", [x, y])])
            c_in = width * 4
    x = b.op("GlobalAveragePool", [x])
    x = b.op("Flatten", [x], axis=1)
    y = b.op("Gemm", [x, b.normal(2048, 1000, fan=2048), b.weight(np.zeros(1000))])
    b.save(path, y, TensorProto.FLOAT16, ["N", 3, 224, 224], ["N", 1000])


def transformer(path, vocabulary=8192, layers=6, width=384, heads=12, positions=512):
    b = Builder()
    number = lambda *values: b.weight(values, np.int64)
    table = b.normal(vocabulary, width, fan=width)
    places = b.normal(positions, width, fan=width)
    shape = b.op("Shape", ["x"])
    rows = b.op("Gather", [shape, number(0)])
    length = b.op("Gather", [shape, number(1)])
    x = b.op("Gather", [table, "x"])
    x = b.op("Add", [x, b.op("Slice", [places, number(0), length, number(0)])])
    split = b.op("Concat", [rows, length, number(heads), number(width // heads)], axis=0)
    merged = b.op("Concat", [rows, length, number(width)], axis=0)

    def normal(x):
        return b.op("LayerNormalization", [x, b.weight(np.ones(width)), b.weight(np.zeros(width))], axis=-1, epsilon=1e-5)

    def dense(x, n_in, n_out):
        y = b.op("MatMul", [x, b.normal(n_in, n_out, fan=n_in)])
        return b.op("Add", [y, b.weight(np.zeros(n_out))])

    def headed(x, perm):
        return b.op("Transpose", [b.op("Reshape", [x, split])], perm=perm)

    for _ in range(layers):
        q = headed(dense(x, width, width), [0, 2, 1, 3])
        k = headed(dense(x, width, width), [0, 2, 3, 1])
        v = headed(dense(x, width, width), [0, 2, 1, 3])
        scores = b.op("Mul", [b.op("MatMul", [q, k]), b.weight((width // heads) ** -0.5)])
        mixed = b.op("MatMul", [b.op("Softmax", [scores], axis=-1), v])
        mixed = b.op("Reshape", [b.op("Transpose", [mixed], perm=[0, 2, 1, 3]), merged])
        x = normal(b.op("Add", [x, dense(mixed, width, width)]))
        h = dense(x, width, 4 * width)
        gate = b.op("Add", [b.op("Erf", [b.op("Mul", [h, b.weight(2**-0.5)])]), b.weight(1.0)])
        h = b.op("Mul", [b.op("Mul", [h, gate]), b.weight(0.5)])
        x = normal(b.op("Add", [x, dense(h, 4 * width, width)]))
    y = b.op("ReduceMean", [x], axes=[1], keepdims=0)
    b.save(path, y, TensorProto.INT64, ["N", "length"], ["N", width])


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    resnet(folder / "resnet.onnx")
    transformer(folder / "transformer.onnx")
