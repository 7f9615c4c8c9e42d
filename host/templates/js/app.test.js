// Tests app.js natively, with a graph that is made up.
import assert from "node:assert/strict";
import { test } from "node:test";
import { graph } from "./fake/nn.js";

let listener;
globalThis.addEventListener = (_, given) => (listener = given);
const { lifecycle } = await import("./app.js");
lifecycle.init();

async function ask(body, { method = "POST", path = "/predict" } = {}) {
  const request = new Request(`http://model${path}`, { method, body });
  let answer;
  listener({ request, respondWith: (given) => (answer = given) });
  const response = await answer;
  return [response.status, await response.json()];
}

test("the likeliest species is the answer", async () => {
  graph.probabilities = [0.125, 0.75, 0.125];
  const answer = await ask("[6.5, 3.25, 4.5, 1.5]");
  assert.deepEqual(answer, [200, { species: "versicolor", probability: 0.75 }]);
  const x = graph.inputs.get("X");
  assert.deepEqual(x.dimensions, [1, 4]);
  assert.deepEqual([...new Float32Array(x.bytes.buffer)], [6.5, 3.25, 4.5, 1.5]);
});

test("what is no four numbers is refused", async () => {
  for (const body of ["[1, 2, 3]", '["a", "b", "c", "d"]', "{", "7"]) {
    const [status] = await ask(body);
    assert.equal(status, 400, body);
  }
});

test("other addresses are refused", async () => {
  assert.equal((await ask("", { path: "/" }))[0], 404);
  assert.equal((await ask(undefined, { method: "GET" }))[0], 405);
});
