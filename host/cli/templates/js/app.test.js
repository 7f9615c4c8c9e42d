// Tests app.js natively, with a fake graph.
import assert from "node:assert/strict";
import { test } from "node:test";
import { incomingHandler, lifecycle } from "./app.js";
import { ask, graph } from "./fake/host.js";

// ANCHOR: test
lifecycle.init();

test("the most likely species is returned", () => {
  graph.probabilities = [0.125, 0.75, 0.125];
  const answer = ask(incomingHandler, "post", "/predict", "[6.5, 3.25, 4.5, 1.5]");
  assert.deepEqual(answer, [200, { species: "versicolor", probability: 0.75 }]);
  const x = graph.inputs.get("X");
  assert.deepEqual(x.dimensions, [1, 4]);
  assert.deepEqual([...new Float32Array(x.bytes.buffer)], [6.5, 3.25, 4.5, 1.5]);
});
// ANCHOR_END: test

test("other bodies than four numbers are refused", () => {
  const deep = "[".repeat(100_000);
  for (const body of ["[1, 2, 3]", '["a", "b", "c", "d"]', "{", "7", "[1e39, 1, 2, 3]", "[NaN, 1, 2, 3]", deep]) {
    const [status] = ask(incomingHandler, "post", "/predict", body);
    assert.equal(status, 400, body.slice(0, 20));
  }
});

test("probabilities that are not finite are refused", () => {
  graph.probabilities = [NaN, 0, 0];
  const [status] = ask(incomingHandler, "post", "/predict", "[3e38, 3e38, 3e38, 3e38]");
  assert.equal(status, 400);
});

test("an exception becomes a response and its stack is printed", (t) => {
  const log = t.mock.method(console, "error", () => {});
  graph.error = new RangeError("no petals");
  const answer = ask(incomingHandler, "post", "/predict", "[1, 2, 3, 4]");
  graph.error = undefined;
  assert.deepEqual(answer, [500, { error: "RangeError: no petals" }]);
  assert.match(log.mock.calls[0].arguments[0], /RangeError: no petals\n/);
});

test("an error of the graph is in the response", () => {
  graph.error = Object.assign(new Error("as the host throws it"), { payload: { data: () => "too large" } });
  const answer = ask(incomingHandler, "post", "/predict", "[1, 2, 3, 4]");
  graph.error = undefined;
  assert.deepEqual(answer, [500, { error: "the graph did not compute: too large" }]);
});

test("other addresses are refused", () => {
  assert.equal(ask(incomingHandler, "post", "/", "")[0], 404);
  assert.equal(ask(incomingHandler, "get", "/predict?x", "")[0], 405);
});
