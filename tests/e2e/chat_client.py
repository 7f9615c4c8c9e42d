"""Drives examples/chat with the unmodified package `openai`, and compares what it says with the model in numpy.

usage: chat_client.py URL KEY REPOSITORY

URL is of the model's target, as http://127.0.0.1:8080/models/chat/production; of its deployment one replica is enough,
and hanging up shows only with no more than one. Prints what was found as JSON.
"""

import json
import os
import pathlib
import sys
import time

# Its matrices are small: on busy cores two threads take ten times as long as one.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
import openai

url, key, repository = sys.argv[1:]
sys.path.insert(0, str(pathlib.Path(repository) / "examples/chat"))
import make_model

NAME = "by-heart"
client = openai.OpenAI(base_url=f"{url}/sync/v1", api_key=key, max_retries=0, timeout=300)
weights = make_model.weights()
ROLES = {"system": make_model.SYSTEM, "user": make_model.USER, "assistant": make_model.ASSISTANT}


def tokens(messages):
    ids = [id for message in messages for id in (ROLES[message["role"]], *message["content"].encode(), make_model.END)]
    return ids + [make_model.ASSISTANT]


def reference(messages, most):
    """The likeliest answer by the model in numpy, without a cache, and whether it came to its end."""
    ids = tokens(messages)
    start = len(ids)
    while len(ids) - start < most:
        token = int(make_model.reference(weights, ids)[-1].argmax())
        if token == make_model.END:
            return bytes(ids[start:]).decode(errors="replace"), "stop", len(ids) - start + 1
        ids.append(token)
    return bytes(ids[start:]).decode(errors="replace"), "length", most


def user(text):
    return [{"role": "user", "content": text}]


def ask(messages, **more):
    return client.chat.completions.create(model=NAME, messages=messages, **more)


def streamed(messages, **more):
    """The pieces of a streamed answer, how it ended and what it took."""
    pieces, ends, usage, ids = [], [], None, set()
    for chunk in ask(messages, stream=True, stream_options={"include_usage": True}, **more):
        assert chunk.object == "chat.completion.chunk" and chunk.model == NAME
        ids.add(chunk.id)
        if chunk.usage:
            usage = chunk.usage
            assert chunk.choices == []
            continue
        [choice] = chunk.choices
        if not pieces:
            assert choice.delta.role == "assistant"
        pieces.append(choice.delta.content or "")
        if choice.finish_reason:
            ends.append(choice.finish_reason)
    assert len(ids) == 1 and len(ends) == 1 and usage, (ids, ends, usage)
    return [piece for piece in pieces if piece], ends[0], usage


# The likeliest answers are those of the model in numpy, whole and streamed.
conversations = [
    user("Hello!"),
    user("what is a SAMOVAR?"),
    user("Do you like tea?"),
    user("Do you like cake?"),
    user("How do you say samovar in Russian?"),
    user("Draw a cup of tea."),
    user("Что это?"),
    user(""),
    user("Sing a song."),
    [{"role": "system", "content": "You are kind."}, *user("Hello!"), {"role": "assistant", "content": "Good day!"}, *user("Goodbye!")],
    user("long " * 60 + "How are you?"),
]
for messages in conversations:
    text, end, count = reference(messages, 90)
    answer = ask(messages, temperature=0, max_tokens=90)
    [choice] = answer.choices
    assert (choice.message.content, choice.finish_reason) == (text, end), (messages, answer, text, end)
    assert choice.message.role == "assistant" and answer.object == "chat.completion" and answer.model == NAME
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (len(tokens(messages)), count), (messages, usage, count)
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    pieces, streamed_end, streamed_usage = streamed(messages, temperature=0, max_completion_tokens=90)
    assert ("".join(pieces), streamed_end) == (text, end), (messages, pieces)
    assert streamed_usage == usage and len(pieces) > 1, (streamed_usage, pieces)

# It says what it was made of, letter for letter.
answer = ask(user("How do you say samovar in Russian?"), temperature=0)
assert answer.choices[0].message.content == "Самовар: сам means self, вар comes from варить, to boil."
pieces, end, _ = streamed(user("Draw a cup of tea."), temperature=0)
assert "☕" in pieces and "🫖" in pieces, "characters come whole"

# Chance: three answers are known, and all come; a seed gives the same again; the likeliest is always the same.
something = user("Tell me something.")
known = {ask(something, seed=seed).choices[0].message.content for seed in range(24)}
assert len(known) == 3, known
assert len({ask(something, seed=5).choices[0].message.content for _ in range(4)}) == 1
assert len({ask(something, temperature=0).choices[0].message.content for _ in range(4)}) == 1
assert len({ask(something, top_p=0.01).choices[0].message.content for _ in range(8)}) == 1
assert len({ask(something).choices[0].message.content for _ in range(24)}) > 1, "without a seed each is another"
# The first token's chances are those of the model.
logits = make_model.reference(weights, tokens(something))[-1]
chances = np.exp(logits - logits.max())
chances /= chances.sum()
first = [ask(something, seed=seed, max_tokens=1).choices[0].message.content for seed in range(300)]
for token in np.flatnonzero(chances > 0.01):
    share = first.count(chr(token)) / len(first)
    assert abs(share - chances[token]) < 0.12, (chr(token), share, chances[token])

# Where an answer ends.
text = ask(user("What is a samovar?"), temperature=0).choices[0].message.content
for stop in ("keeps", ["zzz", "keeps", "hot"]):
    [choice] = ask(user("What is a samovar?"), temperature=0, stop=stop).choices
    assert (choice.message.content, choice.finish_reason) == (text[: text.index("keeps")], "stop"), choice
    pieces, end, _ = streamed(user("What is a samovar?"), temperature=0, stop=stop)
    assert ("".join(pieces), end) == (text[: text.index("keeps")], "stop"), pieces
[choice] = ask(user("What is a samovar?"), temperature=0, max_tokens=5).choices
assert (choice.message.content, choice.finish_reason) == (text[:5], "length"), choice

assert [one.id for one in client.models.list()] == [NAME]
assert client.models.retrieve(NAME).id == NAME


def refused(kind, param, **asked):
    try:
        client.chat.completions.create(**{"model": NAME, "messages": user("Hello!"), **asked})
    except kind as error:
        assert error.param == param and error.type == "invalid_request_error" and error.body["message"], error.body
        return error
    raise AssertionError(f"not refused: {asked}")


assert refused(openai.NotFoundError, "model", model="gpt-4o").code == "model_not_found"
assert refused(openai.BadRequestError, "messages", messages=user("x" * 5000)).code == "context_length_exceeded"
assert refused(openai.BadRequestError, "messages", messages=user("x" * 5000), stream=True).code == "context_length_exceeded"
refused(openai.BadRequestError, "messages", messages=[])
refused(openai.BadRequestError, "messages", messages=[{"role": "tool", "content": "x", "tool_call_id": "1"}])
refused(openai.BadRequestError, "temperature", temperature=3)
refused(openai.BadRequestError, "n", n=2)
refused(openai.BadRequestError, "tools", tools=[{"type": "function", "function": {"name": "f"}}])

# The song has no end but the context's. Who hangs up early leaves the replica free for the next: with one replica,
# who comes then does not wait for the rest of the song.
song = user("Sing a song.")
started = time.perf_counter()
whole = ask(song, temperature=0)
whole_s = time.perf_counter() - started
assert whole.choices[0].finish_reason == "length" and whole.usage.total_tokens == make_model.CONTEXT, whole.usage
answer = ask(song, temperature=0, stream=True)
begun = [next(answer).choices[0].delta.content for _ in range(4)]
answer.close()
started = time.perf_counter()
assert ask(user("Hello!"), temperature=0, max_tokens=3).choices[0].message.content == "Goo"
after_s = time.perf_counter() - started
assert after_s < whole_s / 3, f"{after_s} s after hanging up, {whole_s} s for the whole song"

print(json.dumps({"conversations": len(conversations), "begun": begun, "song_s": round(whole_s, 2), "after_hanging_up_s": round(after_s, 3), "steps_per_s": round(whole.usage.completion_tokens / whole_s)}))
