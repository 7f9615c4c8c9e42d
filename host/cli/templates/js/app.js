// Classifies an iris as one of three species, from four measurements.
import { Fields, IncomingBody, OutgoingBody, OutgoingResponse, ResponseOutparam } from "wasi:http/types@0.2.10";
import { loadByName } from "wasi:nn/graph@0.2.0-rc-2024-10-28";
import { Tensor } from "wasi:nn/tensor@0.2.0-rc-2024-10-28";

const SPECIES = ["setosa", "versicolor", "virginica"];

// ANCHOR: model
let context;

export const lifecycle = {
  // Runs once in each replica, before its first request. If it throws, the replica does not serve.
  init() {
    try {
      context = loadByName("default").initExecutionContext();
    } catch (error) {
      throw `graph "default" did not load: ${reason(error)}`;
    }
  },
};

// Not the `fetch` event, with which an instance can serve only one request.
export const incomingHandler = {
  // Runs for each request.
  handle(request, responseOut) {
    let status, text;
    try {
      const [path] = (request.pathWithQuery() ?? "/").split("?");
      const [code, answer] = route(request.method().tag, path, () => read(request));
      [status, text] = [code, JSON.stringify(answer)];
    } catch (error) {
      // An exception that leaves this function would end the replica. Printed text goes to the log.
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
  let measurements;
  try {
    measurements = JSON.parse(body());
  } catch (error) {
    return [400, { error: `the body is not JSON: ${error.message}` }];
  }
  if (!Array.isArray(measurements) || measurements.length !== 4 || !measurements.every(isFloat)) {
    return [400, { error: "wanted a list of 4 numbers, each in the range of a 32-bit float" }];
  }
  try {
    return predict(measurements);
  } catch (error) {
    if (!error?.payload?.data) {
      throw error;
    }
    return [500, { error: `the graph did not compute: ${reason(error)}` }];
  }
}

// The graph computes with 32-bit floats: 1e39 would become infinite.
function isFloat(value) {
  return Number.isFinite(value) && Number.isFinite(Math.fround(value));
}

function predict(measurements) {
  const x = new Tensor([1, 4], "FP32", new Uint8Array(new Float32Array(measurements).buffer));
  const outputs = new Map(context.compute([["X", x]]));
  // Copied, because the tensor's bytes may not be aligned for floats.
  const probabilities = new Float32Array(outputs.get("probabilities").data().slice().buffer);
  if (!probabilities.every(Number.isFinite)) {
    // JSON has no such numbers.
    return [400, { error: "the measurements are too large to compute with" }];
  }
  const best = probabilities.indexOf(Math.max(...probabilities));
  return [200, { species: SPECIES[best], probability: probabilities[best] }];
}
// ANCHOR_END: model

// The error of a host function is the payload of the exception.
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
    // The host requires that the stream is closed before its body.
    stream[Symbol.dispose]();
  }
  IncomingBody.finish(body);
  return text + decoder.decode();
}

function send(responseOut, status, text) {
  const headers = [["content-type", new TextEncoder().encode("application/json")]];
  if (status === 405) {
    // HTTP requires a list of the supported methods.
    headers.push(["allow", new TextEncoder().encode("POST")]);
  }
  const response = new OutgoingResponse(Fields.fromList(headers));
  response.setStatusCode(status);
  const body = response.body();
  ResponseOutparam.set(responseOut, { tag: "ok", val: response });
  const stream = body.write();
  const bytes = new TextEncoder().encode(text);
  // wasi:io accepts 4096 bytes in one call.
  for (let start = 0; start < bytes.length; start += 4096) {
    stream.blockingWriteAndFlush(bytes.subarray(start, start + 4096));
  }
  stream[Symbol.dispose]();
  OutgoingBody.finish(body, undefined);
}
