"""Tests app.py natively, with a fake graph and a fake request."""

import contextlib
import io
import json
import sys
import unittest
from array import array
from unittest import mock

import build

build.bindings()
sys.path.insert(0, str(build.BINDINGS))

import app
from wit_world.imports.types import Method_Get, Method_Post


class FakeTensor:
    def __init__(self, dimensions, ty, data):
        self.dimensions, self.ty, self.bytes = dimensions, ty, data

    def data(self):
        return self.bytes


class FakeContext:
    """A graph that always returns these probabilities."""

    def __init__(self, probabilities):
        self.output = FakeTensor([1, 3], app.TensorType.FP32, array("f", probabilities).tobytes())
        self.inputs = None

    def compute(self, inputs):
        self.inputs = dict(inputs)
        return [("probabilities", self.output)]


class FakeRequest:
    def __init__(self, method, path):
        self.made = (method, path)

    def method(self):
        return self.made[0]

    def path_with_query(self):
        return self.made[1]


# ANCHOR: test
def ask(context, body, method=Method_Post(), path="/predict"):
    with (
        mock.patch.object(app, "context", context),
        mock.patch.object(app, "Tensor", FakeTensor),
        mock.patch.object(app, "read", lambda _: body),
    ):
        return app.route(FakeRequest(method, path))


class TheModel(unittest.TestCase):
    def test_the_most_likely_species_is_returned(self):
        context = FakeContext([0.125, 0.75, 0.125])
        status, answer = ask(context, b"[6.5, 3.25, 4.5, 1.5]")
        self.assertEqual((status, answer), (200, {"species": "versicolor", "probability": 0.75}))
        self.assertEqual(context.inputs["X"].dimensions, [1, 4])
        self.assertEqual(list(array("f", context.inputs["X"].data())), [6.5, 3.25, 4.5, 1.5])
        json.dumps(answer)
# ANCHOR_END: test

    def test_other_bodies_than_four_numbers_are_refused(self):
        for body in [
            b"[1, 2, 3]",
            b'["a"]',
            b"{",
            b"\xff",
            b"7",
            b"[NaN, 1, 2, 3]",
            b"[1e39, 1, 2, 3]",
            b"[1e400, 1, 2, 3]",
            b"[1" + b"0" * 400 + b", 1, 2, 3]",
            b"\xef\xbb\xbf[1, 2, 3, 4]",
            b"[" * 100_000,
        ]:
            status, _ = ask(FakeContext([1, 0, 0]), body)
            self.assertEqual(status, 400, body[:20])

    def test_probabilities_that_are_not_finite_are_refused(self):
        status, answer = ask(FakeContext([float("nan"), 0, 0]), b"[3e38, 3e38, 3e38, 3e38]")
        self.assertEqual(status, 400, answer)

    def test_an_exception_becomes_a_response_and_its_traceback_is_printed(self):
        context = mock.Mock()
        context.compute.side_effect = RuntimeError("no petals")
        log = io.StringIO()
        with (
            mock.patch.object(app, "context", context),
            mock.patch.object(app, "Tensor", FakeTensor),
            mock.patch.object(app, "read", lambda _: b"[1, 2, 3, 4]"),
            mock.patch.object(app, "send") as send,
            contextlib.redirect_stderr(log),
        ):
            app.IncomingHandler().handle(FakeRequest(Method_Post(), "/predict"), None)
        send.assert_called_once_with(None, 500, b'{"error": "RuntimeError: no petals"}')
        self.assertIn("in predict", log.getvalue())

    def test_other_addresses_are_refused(self):
        self.assertEqual(ask(None, b"", path="/")[0], 404)
        self.assertEqual(ask(None, b"", method=Method_Get())[0], 405)


if __name__ == "__main__":
    unittest.main()
