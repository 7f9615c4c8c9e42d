"""Builds app.wasm, with the componentize-py of requirements.txt in a virtual environment beside this file."""

import os
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


def run(*command: object) -> None:
    done = subprocess.run([str(part) for part in command], cwd=HERE)
    if done.returncode != 0:
        sys.exit(done.returncode)


wanted = REQUIREMENTS.read_text()
if not INSTALLED.exists() or INSTALLED.read_text() != wanted:
    venv.create(ENVIRONMENT, with_pip=True)
    run(BIN / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", REQUIREMENTS)
    INSTALLED.write_text(wanted)

componentize = [BIN / "componentize-py", "--quiet", "-d", "wit", "-w", "model"]
# For editors and tests; what is in the component is made anew from wit/.
shutil.rmtree(HERE / "bindings", ignore_errors=True)
run(*componentize, "bindings", "bindings")
run(*componentize, "componentize", "app", "-o", "app.wasm")
