// Builds app.wasm from app.js and the interfaces in wit/.
import { writeFile } from "node:fs/promises";
import { componentize } from "@bytecodealliance/componentize-js";

try {
  const { component } = await componentize({
    sourcePath: "app.js",
    witPath: "wit",
    worldName: "model",
    disableFeatures: ["fetch-event"],
  });
  await writeFile("app.wasm", component);
} catch (error) {
  // Code at module level runs now, where no host answers.
  const [, from, name] = /unknown imported function: '(.+)' '(.+)'/.exec(error.message) ?? [];
  if (!name) throw error;
  console.error(`error: app.js calls ${name} of ${from} at module level, which runs while app.wasm is built: call it in lifecycle.init`);
  process.exitCode = 1;
}
