// Tells which of three irises a flower is, from four measures of it.
import { Fields, IncomingBody, OutgoingBody, OutgoingResponse, ResponseOutparam } from "wasi:http/types@0.2.10";
import { loadByName } from "wasi:nn/graph@0.2.0-rc-2024-10-28";
import { Tensor } from "wasi:nn/tensor@0.2.0-rc-2024-10-28";

const SPECIES = ["setosa", "versicolor", "virginica"];

// ANCHOR: model
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

// Not the `fetch` event: with that one, an instance serves a single request.
export const incomingHandler = {
  // Once for each request.
  handle(request, responseOut) {
    let status, text;
    try {
      const [path] = (request.pathWithQuery() ?? "/").split("?");
      const [code, answer] = route(request.method().tag, path, () => read(request));
      [status, text] = [code, JSON.stringify(answer)];
    } catch (error) {
      // An exception that leaves this function ends the replica. What is printed is in the log.
      console.error(`${error}\n${error?.stack}`);
      [status, text] = [500, JSON.stringify({ error: reason(error) })];
    }
    send(responseOut, status, text);
  },
};

function route(method, path, body) {
  if (path !== "/predict") {
    return [404, { error: `there is no ${path}: this model answers POST /predict` }];
  }
  if (method !== "post") {
    return [405, { error: "send the input with POST" }];
  }
  let measures;
  try {
    measures = JSON.parse(body());
  } catch (error) {
    return [400, { error: `the body is no JSON: ${error.message}` }];
  }
  if (!Array.isArray(measures) || measures.length !== 4 || !measures.every(isFloat)) {
    return [400, { error: "wanted a list of 4 numbers, each in the range of a 32-bit float" }];
  }
  try {
    return predict(measures);
  } catch (error) {
    if (!error?.payload?.data) {
      throw error;
    }
    return [500, { error: `the graph did not compute: ${reason(error)}` }];
  }
}

// As a graph takes it: 1e39 would become infinite.
function isFloat(value) {
  return Number.isFinite(value) && Number.isFinite(Math.fround(value));
}

function predict(measures) {
  const x = new Tensor([1, 4], "FP32", new Uint8Array(new Float32Array(measures).buffer));
  const outputs = new Map(context.compute([["X", x]]));
  // A copy: a tensor's bytes may lie where floats may not.
  const probabilities = new Float32Array(outputs.get("probabilities").data().slice().buffer);
  if (!probabilities.every(Number.isFinite)) {
    // JSON has no number for it.
    return [400, { error: "the measures are too large to compute with" }];
  }
  const best = probabilities.indexOf(Math.max(...probabilities));
  return [200, { species: SPECIES[best], probability: probabilities[best] }];
}
// ANCHOR_END: model

// What a function of the host's throws has its error as the payload.
function reason(error) {
  return error?.payload?.data?.() ?? String(error);
}

function read(request) {
  const body = request.consume();
  const stream = body.stream();
  const decoder = new TextDecoder();
  let text = "";
  try {
    for (;;) {
      text += decoder.decode(stream.blockingRead(65536n), { stream: true });
    }
  } catch (error) {
    if (error?.payload?.tag !== "closed") {
      throw error;
    }
  } finally {
    // The host does not let go of a body whose stream is open.
    stream[Symbol.dispose]();
  }
  IncomingBody.finish(body);
  return text + decoder.decode();
}

function send(responseOut, status, text) {
  const headers = [["content-type", new TextEncoder().encode("application/json")]];
  if (status === 405) {
    // HTTP wants the methods that would be taken.
    headers.push(["allow", new TextEncoder().encode("POST")]);
  }
  const response = new OutgoingResponse(Fields.fromList(headers));
  response.setStatusCode(status);
  const body = response.body();
  ResponseOutparam.set(responseOut, { tag: "ok", val: response });
  const stream = body.write();
  const bytes = new TextEncoder().encode(text);
  // wasi:io takes 4096 bytes in one call.
  for (let start = 0; start < bytes.length; start += 4096) {
    stream.blockingWriteAndFlush(bytes.subarray(start, start + 4096));
  }
  stream[Symbol.dispose]();
  OutgoingBody.finish(body, undefined);
}
