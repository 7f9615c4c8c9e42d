"""Packs the installed onnxruntime's library as a wheel into a folder, for a pip that has no network; prints its version."""

import glob
import importlib.metadata
import importlib.util
import os
import sys
import zipfile

version = importlib.metadata.version("onnxruntime")
package = importlib.util.find_spec("onnxruntime").submodule_search_locations[0]
info = f"onnxruntime-{version}.dist-info"
files = {
    "onnxruntime/__init__.py": b"",
    f"{info}/METADATA": f"Metadata-Version: 2.1\nName: onnxruntime\nVersion: {version}\n".encode(),
    f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
}
libraries = {
    f"onnxruntime/capi/{os.path.basename(path)}": path
    for path in glob.glob(f"{package}/capi/libonnxruntime*")
}
with zipfile.ZipFile(f"{sys.argv[1]}/onnxruntime-{version}-py3-none-any.whl", "w") as wheel:
    for name, data in files.items():
        wheel.writestr(name, data)
    for name, path in libraries.items():
        wheel.write(path, name)
    names = [*files, *libraries, f"{info}/RECORD"]
    wheel.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in names))
print(version)
