"""Does an exported model give what the Keras model gives? Asked in a process without Keras and spectrovae."""

import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf

from spectrovae.codec import Codec, golden_waveforms
from spectrovae.errors import ParityError
from spectrovae.serving import replay

# Largest difference relative to the peak. On one machine both sides are usually equal to the bit; Griffin-Lim turns a
# rounding error of 1e-6 in the features, as other convolution kernels make it, into 2e-3 in the waveform.
TOLERANCES = {"encode": 1e-3, "decode": 1e-2, "serving_default": 1e-2}


def check_parity(path: str | os.PathLike, codec: Codec) -> dict[str, dict[str, float]]:
    """Replay golden waveforms of several batches and lengths through a SavedModel and compare with the codec.

    Both compute on the CPU: what is compared is the models, not the devices.

    Args:
        path: folder of the SavedModel.
        codec: what it was made from.

    Returns:
        For each of ``encode``, ``decode`` and ``serving_default``, the largest difference of a sample or of a latent's
        element over all requests, ``relative`` to the peak of the codec's result and the same in ``db`` (-200 where it
        is smaller still).

    Raises:
        ParityError: a latent differs by more than 1e-3 (-60 dB) or a waveform by more than 1e-2 (-40 dB) of its peak,
            or the model fails in the new process.
    """
    with tf.device("CPU:0"):
        requests, expected = _requests(codec)
    found = _replay(path, requests)
    if set(found) != set(expected):
        raise ParityError(f"{path} returns {sorted(found)}, expected {sorted(expected)}")
    figures: dict[str, dict[str, float]] = {}
    for key, value in expected.items():
        signature = key.split("/")[1]
        relative = _difference(found[key], value)
        if not relative <= TOLERANCES[signature]:
            raise ParityError(
                f"{path} differs from the Keras model: {key} by {relative:.2g} of its peak, allowed "
                f"{TOLERANCES[signature]:g}"
            )
        worst = max(relative, figures.get(signature, {}).get("relative", 0.0))
        figures[signature] = {"relative": worst, "db": 20.0 * math.log10(max(worst, 1e-10))}
    return figures


def latent_names(codec: Codec) -> list[str]:
    """Names of the latent tensors in requests and results: ``latent``, or ``latent_0``, ``latent_1``, ..."""
    count = len(codec.latent_shapes)
    return ["latent"] if count == 1 else [f"latent_{index}" for index in range(count)]


def _requests(codec: Codec) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Tensors to send and tensors to expect, both named CASE/SIGNATURE/TENSOR."""
    requests, expected = {}, {}
    names = latent_names(codec)
    segment = codec.segment_samples
    longest = 5 * segment // 2
    golden = golden_waveforms(longest, codec.sample_rate)
    for batch, samples in ((4, 1), (1, 100), (4, segment), (2, longest)):
        waveform = golden[:batch, -samples:]  # the start of every golden waveform is near zero
        latent = codec.encode(waveform)
        parts = tf.nest.flatten(latent)
        case = f"{batch}x{samples}"
        requests[f"{case}/serving_default/waveform"] = waveform
        requests[f"{case}/encode/waveform"] = waveform
        requests |= {f"{case}/decode/{name}": part for name, part in zip(names, parts)}
        expected[f"{case}/serving_default/waveform"] = codec.reconstruct(waveform)
        expected |= {f"{case}/encode/{name}": part for name, part in zip(names, parts)}
        expected[f"{case}/decode/waveform"] = codec.decode(latent)
    return requests, expected


def _replay(path: str | os.PathLike, requests: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    with tempfile.TemporaryDirectory() as temporary:
        sent, received = Path(temporary) / "requests.npz", Path(temporary) / "results.npz"
        np.savez(sent, **requests)  # type: ignore[arg-type]
        command = [sys.executable, replay.__file__, os.fspath(path), os.fspath(sent), os.fspath(received)]
        # On a GPU this process may hold all the memory.
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
        finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if finished.returncode:
            reason = finished.stderr.strip().splitlines() or [f"exit status {finished.returncode}"]
            raise ParityError(f"{path} does not run in a new process: {reason[-1]}")
        with np.load(received, allow_pickle=False) as results:
            return {name: results[name] for name in results.files}


def _difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest absolute difference relative to the peak; infinite where shapes differ."""
    if found.shape != expected.shape:
        return math.inf
    return float(np.max(np.abs(found - expected)) / max(float(np.max(np.abs(expected))), 1e-6))
