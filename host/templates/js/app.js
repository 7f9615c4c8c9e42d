// Tells which of three irises a flower is, from four measures of it.
import { loadByName } from "wasi:nn/graph@0.2.0-rc-2024-10-28";
import { Tensor } from "wasi:nn/tensor@0.2.0-rc-2024-10-28";

const SPECIES = ["setosa", "versicolor", "virginica"];

let context;

export const lifecycle = {
  // Once in each replica, before its first request; what it throws keeps the replica from serving.
  init() {
    try {
      context = loadByName("default").initExecutionContext();
    } catch (error) {
      throw `graph "default" did not load: ${reason(error)}`;
    }
  },
};

// Once for each request.
addEventListener("fetch", (event) => event.respondWith(answer(event.request)));

async function answer(request) {
  const { pathname } = new URL(request.url);
  if (pathname !== "/predict") {
    return refusal(404, `there is no ${pathname}: this model answers POST /predict`);
  }
  if (request.method !== "POST") {
    return refusal(405, "send the input with POST");
  }
  let measures;
  try {
    measures = JSON.parse(await request.text());
  } catch (error) {
    return refusal(400, `the body is no JSON: ${error.message}`);
  }
  if (!Array.isArray(measures) || measures.length !== 4 || !measures.every(Number.isFinite)) {
    return refusal(400, "wanted a list of 4 numbers");
  }
  try {
    return Response.json(predict(measures));
  } catch (error) {
    return refusal(500, `the graph did not compute: ${reason(error)}`);
  }
}

function predict(measures) {
  const x = new Tensor([1, 4], "FP32", new Uint8Array(new Float32Array(measures).buffer));
  const outputs = new Map(context.compute([["X", x]]));
  // A copy: a tensor's bytes may lie where floats may not.
  const probabilities = new Float32Array(outputs.get("probabilities").data().slice().buffer);
  const best = probabilities.indexOf(Math.max(...probabilities));
  return { species: SPECIES[best], probability: probabilities[best] };
}

// What a function of wasi:nn throws has the error as its payload.
function reason(error) {
  return error?.payload?.data?.() ?? String(error);
}

function refusal(status, error) {
  return Response.json({ error }, { status });
}
