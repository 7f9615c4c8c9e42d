"""Draws pages with text, and prints what the package `rapidocr-onnxruntime` reads on them, as JSON.

Called as: ocr_oracle.py FOLDER
"""

import json
import pathlib
import sys

from PIL import Image, ImageDraw, ImageFont
from rapidocr_onnxruntime import RapidOCR

folder = pathlib.Path(sys.argv[1])

LINES = [
    ("The quick brown fox", 22),
    ("jumps over the lazy dog", 28),
    ("Invoice 2026-11-24", 36),
    ("Total: 1,234.56 EUR", 48),
    ("Samovar", 72),
]


def page(width, height, paper, ink):
    image = Image.new("RGB", (width, height), paper)
    draw = ImageDraw.Draw(image)
    top = height // 20
    for text, size in LINES:
        draw.text((width // 12, top), text, fill=ink, font=ImageFont.load_default(size))
        top += size * 2
    # A second column, level with the first line.
    draw.text((width * 2 // 3, height // 20), "Page 7 of 9", fill=ink, font=ImageFont.load_default(24))
    return image


def turned(image, degrees):
    return image.rotate(degrees, expand=True, fillcolor="white", resample=Image.Resampling.BICUBIC)


def one_line(text):
    image = Image.new("RGB", (900, 60), "white")
    ImageDraw.Draw(image).text((20, 10), text, fill="black", font=ImageFont.load_default(32))
    return image


pages = {
    "plain.png": page(900, 600, "white", "black"),
    "photo.jpg": page(1100, 800, (236, 228, 210), (40, 30, 90)),
    "dark.png": page(800, 620, (20, 20, 30), (250, 240, 200)),
    "large.png": page(2500, 1800, "white", "black"),
    "turned.png": turned(page(900, 600, "white", "black"), 7),
    "grey.png": page(900, 600, "white", "black").convert("L"),
    "line.png": one_line("One line, much wider than it is high"),
    "empty.png": Image.new("RGB", (640, 480), "white"),
}

# The example has no third network that turns lines which stand on their heads.
ocr = RapidOCR(use_cls=False)
answers = []
for name, image in pages.items():
    path = folder / name
    image.save(path, **({"quality": 92} if name.endswith("jpg") else {}))
    found, _ = ocr(path.read_bytes(), use_cls=False)
    lines = [{"box": box, "text": text, "score": float(score)} for box, text, score in found or []]
    answers.append({"path": str(path), "lines": lines})
print(json.dumps(answers))
