"""Drives examples/embeddings with the unmodified package `openai`, and compares what it gives with the model in numpy.

usage: embeddings_client.py URL KEY REPOSITORY

URL is of the model's target, as http://127.0.0.1:8080/models/embeddings/production. The tokens come from the package
`tokenizers`, the arithmetic from examples/embeddings/make_model.py. Prints what was found as JSON.
"""

import base64
import json
import os
import pathlib
import random
import sys
import threading

# Its matrices are small: on busy cores two threads take ten times as long as one.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
import openai
from tokenizers import Tokenizer

url, key, repository = sys.argv[1:]
sys.path.insert(0, str(pathlib.Path(repository) / "examples/embeddings"))
import make_model

NAME, MAX_TOKENS = "all-MiniLM-L6-v2", 256
client = openai.OpenAI(base_url=f"{url}/sync/v1", api_key=key, max_retries=0)
tokenizer = Tokenizer.from_file(str(make_model.folder_of_weights() / "tokenizer.json"))
tokenizer.no_padding()
tokenizer.enable_truncation(MAX_TOKENS)
weights = make_model.weights()

rng = random.Random(7)
words = "tea water kettle cup warm steam leaf pour evening table window samovar brass ember guest story".split()
sentences = [
    "A samovar keeps water hot for tea.",
    "The kettle is on the table.",
    "Stocks fell sharply on Monday.",
    "",
    " ",
    "\n\t\r\n",
    "a",
    "?!...",
    "ALL CAPITALS and MiXeD",
    "Ünïcödé ÅÉÎÕÜ straße naïve café",
    "e\u0301 combining, \u1e9b\u0323 twice",
    "Самовар стоит на столе.",
    "茶を飲みましょう。",
    "我喜欢喝茶",
    "한국어 차",
    "चाय गरम है",
    "الشاي جاهز",
    "התה מוכן",
    "🫖🍵 tea time 👩‍👩‍👧",
    "tab\tand\x00null\ufffd and \u200b zero width \u00a0 space",
    "control \x01\x02\x7f characters \u0085",
    "can't won't it's o'clock",
    "email@example.com http://example.com/a?b=c#d",
    "1234567890 3.14159 -42 1e10 ½ ² Ⅷ",
    "$100 €200 £300 ¥400 + = < > ^ ` | ~",
    "[CLS] is no word [SEP] [MASK] [PAD] [UNK]",
    "pneumonoultramicroscopicsilicovolcanoconiosis",
    "x" * 99,
    "x" * 100,
    "x" * 101,
    "y" * 1000,
    "snake_case and kebab-case and camelCase",
    "“curly” ‘quotes’ — dashes – and … dots",
    "ﬁne ligatures ﬂow, ＦＵＬＬＷＩＤＴＨ",
    "İstanbul ǅ ß ſ K",
    "𝕋𝕖𝕒 𝒯ℯ𝒶",
    "mixed 中文 and English words",
    "ไทย ชา ร้อน",
    "Việt Nam trà",
    "tea " * 300,
    "ü" * 600,
    "。" * 600,
    " ".join(rng.choice(words) for _ in range(5000)),
] + [" ".join(rng.choice(words) for _ in range(rng.randint(1, 60))) for _ in range(40)]


def tokens(text):
    return tokenizer.encode(text).ids


wanted = [make_model.reference(weights, tokens(text)) for text in sentences]


def far(found, wanted):
    """How far the cosine is from 1; both are of length 1."""
    found = np.asarray(found, np.float64)
    assert found.shape == (384,) and abs(np.linalg.norm(found) - 1) < 1e-5, (found.shape, np.linalg.norm(found))
    return 1 - float(found @ wanted)


# All at once, as the official client asks: base64.
answer = client.embeddings.create(model=NAME, input=sentences)
assert [one.index for one in answer.data] == list(range(len(sentences)))
assert answer.model == NAME and answer.object == "list" and answer.data[0].object == "embedding"
worst = max(far(one.embedding, vector) for one, vector in zip(answer.data, wanted))
assert worst < 1e-4, [(text[:40], far(one.embedding, vector)) for text, one, vector in zip(sentences, answer.data, wanted)]
count = sum(len(tokens(text)) for text in sentences)
assert answer.usage.prompt_tokens == answer.usage.total_tokens == count, (answer.usage, count)

# One by one, as numbers: the same, whatever else is in a batch.
for text, vector in list(zip(sentences, wanted))[:60]:
    one = client.embeddings.create(model=NAME, input=text, encoding_format="float")
    assert far(one.data[0].embedding, vector) < 1e-4, text
    assert one.usage.prompt_tokens == len(tokens(text)), text
raw = client.embeddings.with_raw_response.create(model=NAME, input="tea", encoding_format="base64")
text = json.loads(raw.text)["data"][0]["embedding"]
assert far(np.frombuffer(base64.b64decode(text), "<f4"), make_model.reference(weights, tokens("tea"))) < 1e-4

# Tokens instead of text; what is beyond the longest is not read.
ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in sentences[:3]]
for one, vector in zip(client.embeddings.create(model=NAME, input=ids).data, wanted):
    assert far(one.embedding, vector) < 1e-4
assert far(client.embeddings.create(model=NAME, input=ids[0]).data[0].embedding, wanted[0]) < 1e-4
long = client.embeddings.create(model=NAME, input=[2000] * 1000)
assert long.usage.prompt_tokens == MAX_TOKENS
most = client.embeddings.create(model=NAME, input=["tea"] * 2048)
assert len(most.data) == 2048 and len({tuple(one.embedding) for one in most.data}) <= 2

# Eight at a time.
failures = []


def some(seed):
    rng = random.Random(seed)
    for _ in range(3):
        chosen = rng.sample(range(35), 7)
        found = client.embeddings.create(model=NAME, input=[sentences[at] for at in chosen])
        failures.extend(at for at, one in zip(chosen, found.data) if far(one.embedding, wanted[at]) > 1e-4)


threads = [threading.Thread(target=some, args=(seed,)) for seed in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not failures, failures

assert [one.id for one in client.models.list()] == [NAME]
assert client.models.retrieve(NAME).id == NAME
assert client.embeddings.create(model=NAME, input="tea", dimensions=384).data


def refused(kind, param, **asked):
    try:
        client.embeddings.create(**{"model": NAME, "input": "tea", **asked})
    except kind as error:
        assert error.param == param and error.type == "invalid_request_error" and error.body["message"], error.body
        return error
    raise AssertionError(f"not refused: {asked}")


refused(openai.BadRequestError, "dimensions", dimensions=128)
refused(openai.BadRequestError, "input", input=[])
refused(openai.BadRequestError, "input", input=["tea"] * 2049)
refused(openai.BadRequestError, "input", input=[40000])
refused(openai.BadRequestError, "input", input=[{"text": "tea"}])
refused(openai.BadRequestError, "encoding_format", encoding_format="hex")
assert refused(openai.NotFoundError, "model", model="text-embedding-3-small").code == "model_not_found"
try:
    client.chat.completions.create(model=NAME, messages=[])
    raise AssertionError("a path that is not there")
except openai.NotFoundError as error:
    assert "/v1/embeddings" in error.body["message"], error.body

print(json.dumps({"sentences": len(sentences), "furthest": worst, "tokens": count}))
