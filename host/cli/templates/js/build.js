// Builds app.wasm from app.js and the interfaces in wit/.
import { writeFile } from "node:fs/promises";
import { componentize } from "@bytecodealliance/componentize-js";

const { component } = await componentize({
  sourcePath: "app.js",
  witPath: "wit",
  worldName: "model",
  disableFeatures: ["fetch-event"],
});
await writeFile("app.wasm", component);
