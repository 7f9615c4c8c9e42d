// Every interface of wasi:nn is nn.js.
export function resolve(specifier, context, next) {
  if (specifier.startsWith("wasi:nn/")) {
    return { url: new URL("nn.js", import.meta.url).href, shortCircuit: true };
  }
  return next(specifier, context);
}
