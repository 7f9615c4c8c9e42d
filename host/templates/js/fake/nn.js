// A wasi:nn with one graph, which answers what the test wants and keeps what it was asked.
export const graph = { probabilities: [1, 0, 0], inputs: undefined };

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
        const bytes = new Uint8Array(new Float32Array(graph.probabilities).buffer);
        return [["probabilities", new Tensor([1, 3], "FP32", bytes)]];
      },
    }),
  };
}
