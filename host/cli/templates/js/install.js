// Installs the versions of package-lock.json if they are missing or outdated, so that builds are reproducible and repeated builds fast.
import { spawnSync } from "node:child_process";
import { statSync } from "node:fs";

const changed = (file) => statSync(file, { throwIfNoEntry: false })?.mtimeMs ?? 0;

// npm writes this file when it has installed everything.
const installed = changed("node_modules/.package-lock.json");
if (installed <= Math.max(changed("package.json"), changed("package-lock.json"))) {
  const install = "npm ci --no-audit --no-fund --loglevel=error";
  const { status } = spawnSync(install, { stdio: "inherit", shell: true });
  process.exitCode = status ?? 1;
}
