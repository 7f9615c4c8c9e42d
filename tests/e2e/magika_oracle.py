"""Makes and finds files of many kinds, and prints what the package `magika` says of each, as JSON.

Called as: magika_oracle.py FOLDER REPOSITORY
"""

import bz2
import gzip
import io
import json
import lzma
import pathlib
import random
import sqlite3
import struct
import sys
import sysconfig
import tarfile
import wave
import zipfile
import zlib

from magika import Magika

folder = pathlib.Path(sys.argv[1])
repository = pathlib.Path(sys.argv[2])
rng = random.Random(7)
paths = []


def make(name, data):
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    paths.append(path)


def png(size):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + rng.randbytes(size * 3) for _ in range(size))
    header = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def bmp(size):
    pixels = rng.randbytes(size * size * 3)
    return struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 54 + len(pixels), 0, 0, 54, 40, size, size, 1, 24, 0, len(pixels), 2835, 2835, 0, 0) + pixels


def wav(seconds):
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(rng.randbytes(16000 * seconds))
    return out.getvalue()


def zipped(files):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in files.items():
            file.writestr(name, data)
    return out.getvalue()


def tarred(files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as file:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return out.getvalue()


def docx(text):
    return zipped({
        "[Content_Types].xml": '<?xml version="1.0"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"/>',
        "_rels/.rels": '<?xml version="1.0"?><Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"/>',
        "word/document.xml": f'<?xml version="1.0"?><w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:body><w:p><w:r><w:t>{text}</w:t></w:r></w:p></w:body></w:document>',
    })


def pdf(text):
    stream = f"BT /F1 24 Tf 72 720 Td ({text}) Tj ET"
    return f"""%PDF-1.4
1 0 obj << /Type /Catalog /Pages 2 0 R >> endobj
2 0 obj << /Type /Pages /Kids [3 0 R] /Count 1 >> endobj
3 0 obj << /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R >> endobj
4 0 obj << /Length {len(stream)} >> stream
{stream}
endstream endobj
trailer << /Root 1 0 R /Size 5 >>
%%EOF
"""


def words(count):
    stock = "tea water kettle cup warm steam leaf pour evening table window".split()
    return " ".join(rng.choice(stock) for _ in range(count))


for n in range(6):
    rows = range(5 + 10 * n)
    make(f"{n}.json", json.dumps([{"id": i, "text": words(4), "score": rng.random()} for i in rows], indent=n % 3))
    make(f"{n}.csv", "id,name,score\n" + "".join(f"{i},{words(1)},{rng.random():.3f}\n" for i in rows))
    make(f"{n}.xml", '<?xml version="1.0"?>\n<items>\n' + "".join(f"  <item id=\"{i}\">{words(3)}</item>\n" for i in rows) + "</items>\n")
    make(f"{n}.html", "<!DOCTYPE html>\n<html><head><title>" + words(3) + "</title></head><body>" + "".join(f"<p>{words(12)}</p>\n" for _ in rows) + "</body></html>\n")
    make(f"{n}.css", "".join(f".{words(1)}-{i} {{ color: #{i:06x}; margin: {i}px; }}\n" for i in rows))
    make(f"{n}.js", "".join(f"export function f{i}(x) {{\n  const y = x + {i};\n  return y * 2;\n}}\n" for i in rows))
    make(f"{n}.sh", "#!/bin/sh\nset -eu\n" + "".join(f'echo "{words(4)}"\n' for _ in rows))
    make(f"{n}.yaml", "".join(f"key{i}:\n  name: {words(2)}\n  list:\n    - {i}\n" for i in rows))
    make(f"{n}.txt", (words(30) + ".\n") * (n + 1))
    make(f"{n}.png", png(16 + n))
    make(f"{n}.bmp", bmp(16 + n))
    make(f"{n}.wav", wav(1 + n))
    make(f"{n}.zip", zipped({f"{i}.txt": words(40) for i in rows}))
    make(f"{n}.tar", tarred({f"{i}.txt": words(40).encode() for i in rows}))
    make(f"{n}.gz", gzip.compress(words(200 * (n + 1)).encode()))
    make(f"{n}.bz2", bz2.compress(words(200 * (n + 1)).encode()))
    make(f"{n}.xz", lzma.compress(words(200 * (n + 1)).encode()))
    make(f"{n}.docx", docx(words(50)))
    make(f"{n}.pdf", pdf(words(6)))
    make(f"{n}.bin", rng.randbytes(1000 * (n + 1)))
    database = sqlite3.connect(folder / f"{n}.sqlite")
    database.execute("create table t (a, b)")
    database.executemany("insert into t values (?, ?)", [(i, words(3)) for i in rows])
    database.commit()
    database.close()
    paths.append(folder / f"{n}.sqlite")

make("empty", b"")
make("one", b"x")
make("one-binary", b"\xff")
make("spaces", b" \n\t " * 500)
make("padded.py", b"\n" * 3000 + b"import os\n\n\ndef main():\n    print(os.getcwd())\n" + b" " * 3000)
make("huge.txt", (words(1000) + "\n").encode() * 17000)
make("huge.zeros", bytes(100 << 20))

for kind in ("rs", "toml", "md", "py", "wit"):
    found = [p for p in repository.rglob(f"*.{kind}") if "target" not in p.parts and ".git" not in p.parts]
    paths += sorted(found)[:15]
paths += sorted(pathlib.Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[:30]
paths += [p for p in sorted(pathlib.Path("/bin").glob("*")) if p.is_file() and p.stat().st_size < 1 << 22][:15]

magika = Magika()
answers = []
for path in paths:
    result = magika.identify_bytes(path.read_bytes())
    answers.append({
        "path": str(path),
        "label": str(result.output.label),
        "mime_type": result.output.mime_type,
        "score": result.score,
    })
print(json.dumps(answers))
