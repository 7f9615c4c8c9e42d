// Lets node find a fake where app.js imports wasi:nn, which only a host has.
import { register } from "node:module";

register("./hooks.js", import.meta.url);
