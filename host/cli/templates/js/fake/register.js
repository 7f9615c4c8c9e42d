// Lets node find a fake where app.js imports what only a host has.
import { register } from "node:module";

register("./hooks.js", import.meta.url);
