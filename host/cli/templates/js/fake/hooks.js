// Replaces every interface of WASI with host.js.
export function resolve(specifier, context, next) {
  if (specifier.startsWith("wasi:")) {
    return { url: new URL("host.js", import.meta.url).href, shortCircuit: true };
  }
  return next(specifier, context);
}
