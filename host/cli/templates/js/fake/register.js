// Makes node load the fake host where app.js imports WASI.
import { register } from "node:module";

register("./hooks.js", import.meta.url);
