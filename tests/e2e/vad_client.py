"""Streams audio to examples/vad, and compares its segments with those of the package `silero-vad`.

usage: vad_client.py URL KEY

URL is of the model's target, as http://127.0.0.1:8080/models/vad/production. The package's own code needs torch, so the
rules of its `get_speech_timestamps` are written down here in plain Python, around its own network in ONNX Runtime.
Speech comes from eSpeak, silence and noise from numpy. Prints what was found as JSON.
"""

import ctypes
import http.client
import importlib.util
import io
import json
import pathlib
import sys
import time
import urllib.parse
import wave

import numpy as np
import onnxruntime

RATE, FRAME, CONTEXT = 16000, 512, 64
url, key = sys.argv[1:]
address = urllib.parse.urlsplit(url)


def folder_of(package):
    return pathlib.Path(importlib.util.find_spec(package).origin).parent


# The reference.

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
network = onnxruntime.InferenceSession(folder_of("silero_vad") / "data/silero_vad.onnx", options)


def probabilities(samples):
    audio = samples.astype(np.float32) / 32768
    audio = np.pad(audio, (0, -len(audio) % FRAME))
    state, context = np.zeros((2, 1, 128), np.float32), np.zeros(CONTEXT, np.float32)
    found = []
    for frame in audio.reshape(-1, FRAME):
        heard = np.concatenate([context, frame])
        out, state = network.run(None, {"input": heard[None], "state": state, "sr": np.array(RATE, np.int64)})
        context = heard[-CONTEXT:]
        found.append(float(out[0, 0]))
    return found


def timestamps(found, length, threshold=0.5, min_speech_duration_ms=250, min_silence_duration_ms=100, speech_pad_ms=30):
    """`get_speech_timestamps_from_probs`, without the longest speech, which is endless by default."""
    min_speech, min_silence, pad = (RATE * ms / 1000 for ms in (min_speech_duration_ms, min_silence_duration_ms, speech_pad_ms))
    lower = max(threshold - 0.15, 0.01)
    triggered, temp_end, speech, speeches = False, 0, {}, []
    for number, probability in enumerate(found):
        now = FRAME * number
        if probability >= threshold and temp_end:
            temp_end = 0
        if probability >= threshold and not triggered:
            triggered = True
            speech["start"] = now
            continue
        if probability < lower and triggered:
            if not temp_end:
                temp_end = now
            if now - temp_end < min_silence:
                continue
            speech["end"] = temp_end
            if speech["end"] - speech["start"] > min_speech:
                speeches.append(speech)
            triggered, temp_end, speech = False, 0, {}
    if speech and length - speech["start"] > min_speech:
        speech["end"] = length
        speeches.append(speech)
    for number, speech in enumerate(speeches):
        if number == 0:
            speech["start"] = int(max(0, speech["start"] - pad))
        if number != len(speeches) - 1:
            after = speeches[number + 1]
            silence = after["start"] - speech["end"]
            if silence < 2 * pad:
                speech["end"] += int(silence // 2)
                after["start"] = int(max(0, after["start"] - silence // 2))
            else:
                speech["end"] = int(min(length, speech["end"] + pad))
                after["start"] = int(max(0, after["start"] - pad))
        else:
            speech["end"] = int(min(length, speech["end"] + pad))
    return [(speech["start"], speech["end"]) for speech in speeches]


# The audio.


class Voice:
    """eSpeak, speaking into memory."""

    def __init__(self):
        folder = folder_of("espeakng_loader")
        self.library = ctypes.CDLL(str(folder / "libespeak-ng.so"))
        # Samples are fetched while it speaks (2: AUDIO_OUTPUT_SYNCHRONOUS).
        self.rate = self.library.espeak_Initialize(2, 0, str(folder / "espeak-ng-data").encode(), 0)
        assert self.rate > 0, "eSpeak does not start"
        self.pieces = []
        kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        self.callback = kind(self.take)
        self.library.espeak_SetSynthCallback(self.callback)
        assert self.library.espeak_SetVoiceByName(b"en") == 0

    def take(self, samples, count, _events):
        if samples and count:
            self.pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def say(self, text):
        self.pieces = []
        data = text.encode() + b"\0"
        assert self.library.espeak_Synth(data, len(data), 0, 0, 0, 1, None, None) == 0
        self.library.espeak_Synchronize()
        said = np.concatenate(self.pieces).astype(np.float64)
        places = np.arange(0, len(said), self.rate / RATE)
        return np.interp(places, np.arange(len(said)), said).astype(np.int16)


rng = np.random.default_rng(7)


def silence(seconds):
    return np.zeros(int(RATE * seconds), np.int16)


def noise(seconds, loudness):
    return (rng.standard_normal(int(RATE * seconds)) * loudness).clip(-32768, 32767).astype(np.int16)


def tone(seconds, hertz):
    return (8000 * np.sin(2 * np.pi * hertz * np.arange(int(RATE * seconds)) / RATE)).astype(np.int16)


voice = Voice()
sentences = [voice.say(text) for text in ("Good morning, the tea is ready.", "Yes.", "Would you like another cup, or shall we go for a walk?")]
conversation = np.concatenate([silence(1), sentences[0], silence(1.5), sentences[1], silence(0.3), sentences[2], silence(1)])
noisy = conversation + noise(len(conversation) / RATE, 300)[: len(conversation)]
recordings = {
    "conversation": conversation,
    "noisy": noisy,
    "cut": np.concatenate([silence(0.5), sentences[2][: RATE * 2 + 100]]),
    "at once": sentences[0],
    "close": np.concatenate([sentences[0], silence(0.2), sentences[2], silence(0.2)] * 3),
    "silence": silence(3),
    "noise": noise(3, 2000),
    "tone": tone(3, 440),
    "tiny": noise(0.01, 2000),
    "nothing": silence(0),
}


# The model.


def wav(samples, rate=RATE):
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes(samples.tobytes())
    return out.getvalue()


def connect():
    return http.client.HTTPConnection(address.hostname, address.port, timeout=60)


def begin(query=""):
    connection = connect()
    connection.putrequest("POST", f"{address.path}/predict{query}")
    connection.putheader("authorization", f"Bearer {key}")
    connection.putheader("transfer-encoding", "chunked")
    connection.endheaders()
    return connection


def send(connection, data):
    if data:
        connection.send(b"%x\r\n%s\r\n" % (len(data), data))


def lines(response):
    while line := response.readline():
        yield json.loads(line)


def ask(data, query=""):
    connection = connect()
    connection.request("POST", f"{address.path}/predict{query}", data, {"authorization": f"Bearer {key}"})
    response = connection.getresponse()
    body = response.read()
    if response.status != 200:
        return response.status, json.loads(body)
    found = [json.loads(line) for line in body.splitlines()]
    for line in found:
        assert line["start_s"] == line["start_sample"] / RATE and line["end_s"] == line["end_sample"] / RATE, line
    return 200, [(line["start_sample"], line["end_sample"]) for line in found]


counts = {}
for name, samples in recordings.items():
    heard = probabilities(samples)
    for settings in ({}, {"threshold": 0.7, "min_silence_duration_ms": 500}, {"min_speech_duration_ms": 1000, "speech_pad_ms": 50}):
        query = "?" + urllib.parse.urlencode(settings)
        wanted = timestamps(heard, len(samples), **settings)
        found = ask(samples.tobytes(), query)
        assert found == (200, wanted), (name, settings, found, wanted)
        assert ask(wav(samples), query) == found, (name, settings)
        counts[f"{name} {settings}" if settings else name] = len(wanted)

# While audio still comes in: a segment is there as soon as it has ended, before anything of the next one is sent.
first = np.concatenate([silence(1), sentences[0], silence(0.5)])
second = np.concatenate([sentences[2], silence(0.5)])
wanted = timestamps(probabilities(np.concatenate([first, second])), len(first) + len(second))
split = next(number for number, (_, end) in enumerate(wanted) if end > len(first))
assert 0 < split < len(wanted), wanted
connection = begin()
# In pieces that are no whole number of samples.
data = first.tobytes()
for start in range(0, len(data), 1001):
    send(connection, data[start : start + 1001])
response = connection.getresponse()
assert response.status == 200
answers = lines(response)
early = [next(answers) for _ in range(split)]
send(connection, second.tobytes())
connection.send(b"0\r\n\r\n")
found = [(line["start_sample"], line["end_sample"]) for line in early + list(answers)]
assert found == wanted, (found, wanted)

# What is no such audio is refused with what to do.
status, error = ask(wav(silence(1), rate=8000))
assert status == 400 and error["error_code"] == "invalid_audio" and "8000 Hz" in error["error"] and "ffmpeg" in error["error"], error
status, error = ask(b"", "?threshold=loud")
assert status == 400 and "threshold" in error["error"], error
status, error = ask(b"", "?speech_pad_ms=60")
assert status == 400 and "speech_pad_ms" in error["error"], error

started = time.perf_counter()
long = np.tile(conversation, 20)
ask(long.tobytes())
took = time.perf_counter() - started
print(json.dumps({"segments": counts, "early": split, "times_faster_than_real_time": round(len(long) / RATE / took)}))
