// A fake host with one graph and the parts of HTTP that app.js uses. A test sets what the graph returns or throws, and reads its inputs.
export const graph = { probabilities: [1, 0, 0], inputs: undefined, error: undefined };

// Sends a request to the component and returns its response.
export function ask(incomingHandler, method, path, body) {
  const answer = { status: 200, text: "" };
  incomingHandler.handle(new Request(method, path, new TextEncoder().encode(body)), answer);
  return [answer.status, JSON.parse(answer.text)];
}

export class Tensor {
  constructor(dimensions, type, bytes) {
    Object.assign(this, { dimensions, type, bytes });
  }

  data() {
    return this.bytes;
  }
}

export function loadByName(name) {
  if (name !== "default") {
    throw new Error(`there is no graph ${name}`);
  }
  return {
    initExecutionContext: () => ({
      compute(inputs) {
        graph.inputs = new Map(inputs);
        if (graph.error) {
          throw graph.error;
        }
        const bytes = new Uint8Array(new Float32Array(graph.probabilities).buffer);
        return [["probabilities", new Tensor([1, 3], "FP32", bytes)]];
      },
    }),
  };
}

class Request {
  constructor(method, path, bytes) {
    Object.assign(this, { tag: method, path, chunks: [bytes.subarray(0, 3), bytes.subarray(3)] });
  }

  method() {
    return { tag: this.tag };
  }

  pathWithQuery() {
    return this.path;
  }

  consume() {
    const blockingRead = () => {
      if (this.chunks.length === 0) {
        throw Object.assign(new Error("closed"), { payload: { tag: "closed" } });
      }
      return this.chunks.shift();
    };
    return { stream: () => ({ blockingRead, [Symbol.dispose]() {} }) };
  }
}

export class Fields {
  static fromList(entries) {
    return entries;
  }
}

export class OutgoingResponse {
  chunks = [];

  setStatusCode(status) {
    this.status = status;
  }

  body() {
    const blockingWriteAndFlush = (bytes) => this.chunks.push(...bytes);
    return { response: this, write: () => ({ blockingWriteAndFlush, [Symbol.dispose]() {} }) };
  }
}

export class ResponseOutparam {
  static set(answer, result) {
    answer.status = result.val.status;
    result.val.answer = answer;
  }
}

export class OutgoingBody {
  static finish({ response }) {
    response.answer.text = new TextDecoder().decode(new Uint8Array(response.chunks));
  }
}

export class IncomingBody {
  static finish() {}
}
