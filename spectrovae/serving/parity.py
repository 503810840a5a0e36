"""Does an exported model give what the Keras model gives? Asked in a new process that has no Keras and no spectrovae."""

import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf

from spectrovae.codec import Codec, golden_waveforms
from spectrovae.serving import replay

TOLERANCE = 1e-3  # of the peak: -60 dB


class ParityError(RuntimeError):
    """An exported model that cannot be loaded, or that differs from the Keras model."""


def check_parity(path: str | os.PathLike, codec: Codec, tolerance: float = TOLERANCE) -> dict[str, dict[str, float]]:
    """Replay golden waveforms of several batches and lengths through a SavedModel and compare with the codec.

    Args:
        path: folder of the SavedModel.
        codec: what it was made from.
        tolerance: largest difference allowed, relative to the peak of the codec's result.

    Returns:
        For each of ``encode``, ``decode`` and ``serving_default``, the largest difference of a sample or of a latent's
        element over all requests, ``relative`` to the peak of the codec's result and the same in ``db`` (-200 where it
        is smaller still).

    Raises:
        ParityError: a difference above the tolerance, or the model fails in the new process.
    """
    requests, expected = _requests(codec)
    found = _replay(path, requests)
    if set(found) != set(expected):
        raise ParityError(f"{path} returns {sorted(found)}, expected {sorted(expected)}")
    figures: dict[str, dict[str, float]] = {}
    for key, value in expected.items():
        signature = key.split("/")[1]
        relative = _difference(found[key], value)
        if not relative <= tolerance:
            raise ParityError(
                f"{path} differs from the Keras model: {key} by {relative:.2g} of its peak (allowed {tolerance:g})"
            )
        worst = max(relative, figures.get(signature, {}).get("relative", 0.0))
        figures[signature] = {"relative": worst, "db": 20.0 * math.log10(max(worst, 1e-10))}
    return figures


def _requests(codec: Codec) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Tensors to send and tensors to expect, both named CASE/SIGNATURE/TENSOR."""
    requests, expected = {}, {}
    segment = codec.segment_samples
    for batch, samples in ((4, 1), (1, 100), (4, segment), (2, 5 * segment // 2)):
        waveform = golden_waveforms(samples, codec.sample_rate)[-batch:]
        latent = codec.encode(waveform)
        parts = tf.nest.flatten(latent)
        names = ["latent"] if len(parts) == 1 else [f"latent_{index}" for index in range(len(parts))]
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
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
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
