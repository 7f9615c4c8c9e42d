"""Makes a decoder that knows corpus.txt by heart: a transformer whose weights are computed, not trained.

usage: make_model.py FOLDER

Puts model.onnx and model.json into FOLDER. Needs `onnx` and `numpy` alone.

The graph has the inputs and outputs that exports of real decoders have: `input_ids`, `attention_mask`, `position_ids`
and `past_key_values.N.key` and `.value` in, `logits` and `present.N.key` and `.value` out. Tokens are bytes, and four
marks: who speaks, and where a message ends.

How it works: each attention head looks back by one fixed number of tokens, 1 to 16, and brings the token that it finds
there. The last layer has one neuron for each sequence of tokens that is needed to tell how the corpus goes on. It
fires when these were the last tokens, and votes for what followed them; longer sequences outvote shorter ones.
"""

import collections
import json
import math
import pathlib
import sys

import numpy as np

SYSTEM, USER, ASSISTANT, END = 256, 257, 258, 259
VOCABULARY = 260
CONTEXT = 2048
LAYERS, HEADS = 2, 8
HEAD_WIDTH = 32
CODE = 24  # numbers that say which token
BACK = LAYERS * HEADS
WIDTH = CODE + HEAD_WIDTH + BACK * CODE
LENGTHS = (1, 2, 3, 4, 6, 8, 12, BACK + 1)  # of sequences that neurons know
VOTE = 20.0
ENDLESS = "…"


def conversations():
    """Questions and answers as tokens, and where the answer begins."""
    text = pathlib.Path(__file__).with_name("corpus.txt").read_text("utf-8")
    for pair in text.strip().split("\n\n"):
        question, answer = pair.split("\n")
        end = [] if answer.endswith(ENDLESS) else [END]
        before = [USER, *question.encode(), END, ASSISTANT]
        yield before + list(answer.removesuffix(ENDLESS).encode()) + end, len(before)


def read_as(token):
    """Letters are read without their case."""
    return token + 32 if 65 <= token <= 90 else token


def sequences():
    """Each sequence that has a neuron, with what followed it and how likely it was."""
    followers = collections.defaultdict(collections.Counter)
    for tokens, start in conversations():
        for at in range(start, len(tokens)):
            for length in LENGTHS:
                if length <= at:
                    followers[tuple(map(read_as, tokens[at - length : at]))][tokens[at]] += 1
    likely = {}
    for sequence in sorted(followers, key=len):
        counts = followers[sequence]
        # Of two that are as likely, the one that came first is a bit likelier: nothing hangs on rounding.
        weights = {token: count * (1 - 0.1 * rank / len(counts)) for rank, (token, count) in enumerate(counts.items())}
        new = {token: weight / sum(weights.values()) for token, weight in weights.items()}
        shorter = longest(likely, sequence)
        if shorter is None or set(likely[shorter]) != set(new) or any(abs(likely[shorter][token] - new[token]) > 1e-9 for token in new):
            likely[sequence] = new
    return likely


def longest(likely, sequence):
    """The longest end of a sequence that is known."""
    ends = (sequence[-length:] for length in reversed(LENGTHS) if length < len(sequence))
    return next((end for end in ends if end in likely), None)


def codes(rng):
    """A row of 1 and -1 for each token, any two of which differ in five places at least."""
    rows = []
    while len(rows) < VOCABULARY:
        row = rng.choice([-1.0, 1.0], CODE)
        if all((row != other).sum() >= 5 for other in rows):
            rows.append(row)
    for token in range(VOCABULARY):
        rows[token] = rows[read_as(token)]
    return np.array(rows)


def frequencies(rng):
    """Of clocks whose hands together tell each place from every other, of some that were tried."""
    tried = [rng.uniform(0.05, math.pi, HEAD_WIDTH // 2) for _ in range(200)]
    distances = np.arange(1, CONTEXT)[:, None]
    return min(tried, key=lambda found: np.cos(distances * found).sum(1).max())


def weights():
    """All that the graph is made of, by name."""
    rng = np.random.default_rng(7)
    code, clocks = codes(rng), frequencies(rng)
    angles = np.arange(CONTEXT)[:, None] * clocks
    place = slice(CODE, CODE + HEAD_WIDTH)
    made = {"places": np.concatenate([np.cos(angles), np.sin(angles)], 1), "put": np.zeros((HEAD_WIDTH, WIDTH)), "tokens": np.zeros((VOCABULARY, WIDTH))}
    made["put"][:, place] = np.eye(HEAD_WIDTH)
    made["tokens"][:, :CODE] = code
    peak, other = len(clocks), np.cos(np.arange(1, CONTEXT)[:, None] * clocks).sum(1).max()
    sharpness = 20 / (peak - other)
    for layer in range(LAYERS):
        matrices = {part: np.zeros((WIDTH, HEADS * HEAD_WIDTH)) for part in ("query", "key", "value")}
        out = np.zeros((HEADS * HEAD_WIDTH, WIDTH))
        for head in range(HEADS):
            back = layer * HEADS + head + 1
            columns = slice(head * HEAD_WIDTH, (head + 1) * HEAD_WIDTH)
            # The clocks turned back: equal to those of the token that many places before.
            cosine, sine = np.diag(np.cos(back * clocks)), np.diag(np.sin(back * clocks))
            turned = np.block([[cosine, -sine], [sine, cosine]])
            matrices["query"][place, columns] = turned * sharpness * math.sqrt(HEAD_WIDTH)
            matrices["key"][place, columns] = np.eye(HEAD_WIDTH)
            matrices["value"][:CODE, columns] = np.eye(CODE, HEAD_WIDTH)
            out[columns, slot(back)] = np.eye(HEAD_WIDTH, CODE)
        made |= {f"{layer}.{part}": matrix for part, matrix in matrices.items()} | {f"{layer}.out": out}
    likely = sequences()
    made["neurons"] = np.zeros((WIDTH, len(likely)))
    made["threshold"] = np.zeros(len(likely))
    made["votes"] = np.zeros((len(likely), VOCABULARY))
    for number, (sequence, followers) in enumerate(likely.items()):
        for back, token in enumerate(reversed(sequence)):
            made["neurons"][slot(back), number] = code[token] / 9
        # One wrong token takes 10 of the 9 that are left.
        made["threshold"][number] = 1 - CODE * len(sequence) / 9
        shorter = likely.get(longest(likely, sequence), {})
        for token, likelihood in followers.items():
            made["votes"][number, token] = VOTE + math.log(likelihood) - math.log(shorter.get(token, 1))
    return {name: array.astype(np.float32) for name, array in made.items()}


def slot(back):
    """Where the token is that stands so many places before."""
    return slice(0, CODE) if back == 0 else slice(CODE + HEAD_WIDTH + (back - 1) * CODE, CODE + HEAD_WIDTH + back * CODE)


def reference(weights, ids):
    """The logits after each token in numpy, with 64-bit floats and without a cache."""
    w = {name: array.astype(np.float64) for name, array in weights.items()}
    x = w["tokens"][ids] + w["places"][: len(ids)] @ w["put"]
    future = np.triu(np.full((len(ids), len(ids)), -np.inf), 1)
    for layer in range(LAYERS):
        query, key, value = ((x @ w[f"{layer}.{part}"]).reshape(-1, HEADS, HEAD_WIDTH).transpose(1, 0, 2) for part in ("query", "key", "value"))
        scores = query @ key.transpose(0, 2, 1) / math.sqrt(HEAD_WIDTH) + future
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        seen = scores / scores.sum(-1, keepdims=True) @ value
        x = x + seen.transpose(1, 0, 2).reshape(len(ids), -1) @ w[f"{layer}.out"]
    return np.maximum(x @ w["neurons"] + w["threshold"], 0) @ w["votes"]


def graph(weights):
    from onnx import TensorProto, helper, numpy_helper

    nodes, initializers, known = [], [], set()

    def constant(name, value=None):
        if name not in known:
            known.add(name)
            initializers.append(numpy_helper.from_array(weights[name] if value is None else np.asarray(value), name))
        return name

    def node(kind, inputs, name, **attributes):
        nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def heads(x, name):
        split = node("Reshape", [x, constant("split", [0, 0, HEADS, HEAD_WIDTH])], f"{name}.split")
        return node("Transpose", [split], f"{name}.new", perm=[0, 2, 1, 3])

    place = node("MatMul", [node("Gather", [constant("places"), "position_ids"], "clocks"), constant("put")], "place")
    x = node("Add", [node("Gather", [constant("tokens"), "input_ids"], "token"), place], "embedded")

    # A token sees those of no later place that the mask lets through.
    total = node("Slice", [node("Shape", ["attention_mask"], "mask_shape"), constant("one", [1]), constant("two", [2]), constant("zero", [0])], "total")
    every = node("Slice", [constant("every", np.arange(CONTEXT)), constant("zero"), total, constant("zero")], "key_places")
    own = node("Unsqueeze", ["position_ids", constant("heads_and_keys", [1, 3])], "own_place")
    earlier = node("Cast", [node("LessOrEqual", [every, own], "is_earlier")], "earlier", to=TensorProto.FLOAT)
    mask = node("Cast", ["attention_mask"], "mask_numbers", to=TensorProto.FLOAT)
    seen = node("Mul", [earlier, node("Unsqueeze", [mask, constant("heads_and_queries", [1, 2])], "mask")], "is_seen")
    bias = node("Mul", [node("Sub", [seen, constant("1", np.float32(1))], "unseen"), constant("far", np.float32(1e9))], "bias")

    inputs, outputs = [], [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "sequence", VOCABULARY])]
    for name, size in (("input_ids", "sequence"), ("attention_mask", "total"), ("position_ids", "sequence")):
        inputs.append(helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", size]))
    for layer in range(LAYERS):
        query = heads(node("MatMul", [x, constant(f"{layer}.query")], f"query{layer}"), f"query{layer}")
        cached = {}
        for part in ("key", "value"):
            past, present = f"past_key_values.{layer}.{part}", f"present.{layer}.{part}"
            new = heads(node("MatMul", [x, constant(f"{layer}.{part}")], f"{part}{layer}"), f"{part}{layer}")
            cached[part] = node("Concat", [past, new], present, axis=2)
            inputs.append(helper.make_tensor_value_info(past, TensorProto.FLOAT, ["batch", HEADS, "past", HEAD_WIDTH]))
            outputs.append(helper.make_tensor_value_info(present, TensorProto.FLOAT, ["batch", HEADS, "total", HEAD_WIDTH]))
        keys = node("Transpose", [cached["key"]], f"keys{layer}", perm=[0, 1, 3, 2])
        scores = node("Mul", [node("MatMul", [query, keys], f"products{layer}"), constant("scale", np.float32(1 / math.sqrt(HEAD_WIDTH)))], f"scores{layer}")
        attention = node("Softmax", [node("Add", [scores, bias], f"masked{layer}")], f"attention{layer}", axis=-1)
        found = node("Transpose", [node("MatMul", [attention, cached["value"]], f"found{layer}")], f"turned{layer}", perm=[0, 2, 1, 3])
        joined = node("Reshape", [found, constant("join", [0, 0, HEADS * HEAD_WIDTH])], f"joined{layer}")
        x = node("Add", [x, node("MatMul", [joined, constant(f"{layer}.out")], f"out{layer}")], f"layer{layer}")
    sums = node("Add", [node("MatMul", [x, constant("neurons")], "sums"), constant("threshold")], "over_threshold")
    node("MatMul", [node("Relu", [sums], "fired"), constant("votes")], "logits")
    made = helper.make_graph(nodes, "by-heart", inputs, outputs, initializers)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def main(folder):
    from onnx import checker

    model = graph(weights())
    checker.check_model(model)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    shape = {"layers": LAYERS, "heads": HEADS, "head_width": HEAD_WIDTH, "context": CONTEXT}
    (folder / "model.json").write_text(json.dumps(shape))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
