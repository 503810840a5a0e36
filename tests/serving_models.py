"""Tiny SavedModels and a server process for the tests of serving."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import tensorflow as tf

ROOT = Path(__file__).resolve().parents[1]
WAVEFORM = tf.TensorSpec([None, None], tf.float32, "waveform")


def save(path: Path, gain: float) -> Path:
    """A model whose results say how it was called.

    - ``serving_default``: the waveform times ``gain``.
    - ``rows``: for each waveform how many were computed together; takes 5 ms, in which others come.
    - ``strict``: the waveform; fails on a negative sample.
    - ``slow``: the waveform, after ``seconds``.
    - ``codes``: int32 codes and their double.
    - ``describe``: no inputs.
    """
    module = tf.Module()
    module.gain = tf.Variable(gain)

    def function(*inputs):
        return lambda python: tf.function(python, input_signature=inputs, autograph=False)

    def after(seconds, tensor):
        end = tf.timestamp() + tf.cast(seconds, tf.float64)
        (now,) = tf.while_loop(lambda now: now < end, lambda now: [tf.timestamp()], [tf.timestamp()])
        with tf.control_dependencies([now]):
            return tf.identity(tensor)

    @function(WAVEFORM)
    def scaled(waveform):
        return {"waveform": module.gain * waveform}

    @function(WAVEFORM)
    def rows(waveform):
        return {"rows": after(0.005, tf.fill(tf.shape(waveform)[:1], tf.shape(waveform)[0]))}

    @function(WAVEFORM)
    def strict(waveform):
        with tf.control_dependencies([tf.debugging.assert_non_negative(waveform, "negative sample")]):
            return {"waveform": tf.identity(waveform)}

    @function(WAVEFORM, tf.TensorSpec([], tf.float64, "seconds"))
    def slow(waveform, seconds):
        return {"waveform": after(seconds, waveform)}

    @function(tf.TensorSpec([None, 3], tf.int32, "codes"))
    def codes(codes):
        return {"codes": codes, "doubled": 2 * codes}

    @function()
    def describe():
        return {"description": tf.constant(json.dumps({"gain": gain}))}

    signatures = {
        "serving_default": scaled, "rows": rows, "strict": strict, "slow": slow, "codes": codes, "describe": describe,
    }  # fmt: skip
    tf.saved_model.save(module, str(path), signatures=signatures)
    return path


class Server:
    """``spectrovae serve`` in a process of its own, ready when constructed.

    Args:
        folder: of the models.
        options: of the command line, besides the ports.
    """

    def __init__(self, folder: Path, *options: str):
        command = [
            sys.executable,
            "-m",
            "spectrovae",
            "serve",
            str(folder),
            "--stand-in",
            "--rest-port=0",
            "--grpc-port=0",
        ]
        # With one thread of TensorFlow a slow model would hold up the others.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("TF_NUM_INT")}
        self.process = subprocess.Popen(
            [*command, *options], env={**inherited, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "-1"},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.log: list[str] = []
        for line in self.process.stderr:
            self.log.append(line)
            if found := re.search(r"ready: REST at http://(\S+?):(\d+)/.* gRPC at (\S+)", line):
                self.rest_port, self.grpc = int(found[2]), found[3]
                break
        else:
            raise RuntimeError("".join(self.log))
        self._reader = threading.Thread(target=lambda: self.log.extend(self.process.stderr), daemon=True)
        self._reader.start()

    def rest(self, path: str, body: dict | bytes | None = None, **headers: str) -> tuple[int, dict]:
        """Status and JSON of a request; POST where there is a body."""
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        request = urllib.request.Request(f"http://127.0.0.1:{self.rest_port}{path}", data, headers)
        with contextlib.ExitStack() as stack:
            try:
                response = stack.enter_context(urllib.request.urlopen(request, timeout=30))
            except urllib.error.HTTPError as error:
                response = stack.enter_context(error)
            return response.status, json.loads(response.read())

    def stop(self) -> tuple[int, str]:
        """Ask it to end; its exit status and standard output."""
        self.process.send_signal(signal.SIGTERM)
        output = self.process.stdout.read()
        return self.process.wait(30), output
