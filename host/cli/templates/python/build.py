"""Builds app.wasm in a virtual environment with the packages of requirements.txt."""

import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ENVIRONMENT = HERE / ".venv"
BIN = ENVIRONMENT / ("Scripts" if os.name == "nt" else "bin")
REQUIREMENTS = HERE / "requirements.txt"
INSTALLED = ENVIRONMENT / "installed.txt"
BINDINGS = HERE / "bindings"


def run(*command: object) -> None:
    # componentize-py searches for packages there.
    variables = {**os.environ, "VIRTUAL_ENV": str(ENVIRONMENT)}
    words = [str(part) for part in command]
    done = subprocess.run(words, cwd=HERE, env=variables, stderr=subprocess.PIPE, text=True)
    sys.stderr.write(done.stderr)
    if done.returncode == 0:
        return
    # Code at module level runs now, where no host answers.
    called = re.search(r"trapping stub: (\S+)#(\S+)", done.stderr)
    if called:
        interface, name = called.groups()
        sys.stderr.write(
            f"error: app.py calls {name} of {interface} at module level, which runs while app.wasm is built: "
            "call it in Lifecycle.init\n"
        )
    sys.exit(done.returncode)


def install() -> None:
    wanted = REQUIREMENTS.read_text()
    if not INSTALLED.exists() or INSTALLED.read_text() != wanted:
        venv.create(ENVIRONMENT, with_pip=True)
        run(BIN / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", REQUIREMENTS)
        INSTALLED.write_text(wanted)


# ANCHOR: componentize
def componentize(*arguments: object) -> None:
    install()
    run(BIN / "componentize-py", "--quiet", "-d", "wit", "-w", "model", *arguments)


def bindings() -> None:
    """Generates the modules that app.py imports, for editors and tests. The component gets its own."""
    shutil.rmtree(BINDINGS, ignore_errors=True)
    componentize("bindings", BINDINGS)


if __name__ == "__main__":
    bindings()
    componentize("componentize", "app", "-o", "app.wasm")
# ANCHOR_END: componentize
