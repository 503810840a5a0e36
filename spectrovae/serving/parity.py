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
from spectrovae.serving.endpoints import Endpoint, endpoints, examples

Parity = dict[str, dict[str, dict[str, float]]]

TIMEOUT = 1800  # seconds: for all requests of the check, on a slow machine


def check_parity(path: str | os.PathLike, codec: Codec, table: list[Endpoint] | None = None) -> Parity:
    """Replay golden waveforms of several batches and lengths through a SavedModel and compare with the codec.

    Both compute on the CPU: what is compared is the models, not the devices.

    Args:
        path: folder of the SavedModel.
        codec: what it was made from.
        table: the endpoints it was saved from, by default the codec's.

    Returns:
        For each loader, ``python`` (``tf.saved_model.load``) and ``session`` (TensorFlow's C++ session, as in TF
        Serving; left out where TensorFlow comes without ``libtensorflow_cc``), and each signature, the largest
        difference of a sample or of a latent's element over all requests, ``relative`` to the peak of the codec's
        result and the same in ``db`` (-200 where it is smaller still).

    Raises:
        ParityError: a signature differs by more than its :class:`Endpoint` tolerates, 1e-2 (-40 dB) of the peak for
            waveforms and 1e-3 (-60 dB) for the rest, or the model fails in the new process.
    """
    table = endpoints(codec) if table is None else table
    with tf.device("CPU:0"):
        requests, expected = recorded(codec, table)
    tolerances = {endpoint.name: endpoint.tolerance for endpoint in table}
    figures: Parity = {}
    for loader, found in replayed(path, requests).items():
        if set(found) != set(expected):
            raise ParityError(f"{path} returns {sorted(found)}, expected {sorted(expected)}")
        for key, value in expected.items():
            signature = key.split("/")[1]
            relative = _difference(found[key], value)
            if not relative <= tolerances[signature]:
                raise ParityError(
                    f"{path} differs from the Keras model: {key} by {relative:.2g} of its peak, allowed "
                    f"{tolerances[signature]:g} (loader: {loader})"
                )
            of_loader = figures.setdefault(loader, {})
            worst = max(relative, of_loader.get(signature, {}).get("relative", 0.0))
            of_loader[signature] = {"relative": worst, "db": 20.0 * math.log10(max(worst, 1e-10))}
    return figures


def format_parity(figures: Parity) -> str:
    """The figures of :func:`check_parity` for a person."""
    names = {"python": "tf.saved_model.load", "session": "the C++ session"}
    lines = [
        f"largest difference from the Keras model, {names[loader]}: "
        + ", ".join(f"{signature} {difference['db']:.0f} dB" for signature, difference in of_loader.items())
        for loader, of_loader in figures.items()
    ]
    return "\n".join(lines + ["the C++ session was not tried: no libtensorflow_cc here"] * ("session" not in figures))


def recorded(codec: Codec, table: list[Endpoint]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Tensors to send and tensors to expect, both named CASE/SIGNATURE/TENSOR."""
    requests: dict[str, np.ndarray] = {}
    expected: dict[str, np.ndarray] = {}
    segment = codec.segment_samples
    longest = 5 * segment // 2
    golden = golden_waveforms(longest, codec.sample_rate)
    for batch, samples in ((4, 1), (1, 100), (4, segment), (2, longest)):
        waveform = golden[:batch, -samples:]  # the start of every golden waveform is near zero
        for signature, tensors in examples(table, waveform).items():
            for kept, part in zip((requests, expected), tensors):
                kept.update({f"{batch}x{samples}/{signature}/{name}": array for name, array in part.items()})
    return requests, expected


def replayed(path: str | os.PathLike, requests: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """What the SavedModel returns to ``requests`` in a new process, for each loader."""
    with tempfile.TemporaryDirectory() as temporary:
        sent, received = Path(temporary) / "requests.npz", Path(temporary) / "results.npz"
        np.savez(sent, **requests)  # type: ignore[arg-type]
        command = [sys.executable, replay.__file__, os.fspath(path), os.fspath(sent), os.fspath(received)]
        # On a GPU this process may hold all the memory.
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
        try:
            finished = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=False, timeout=TIMEOUT
            )
        except subprocess.TimeoutExpired as error:
            raise ParityError(f"{path} gives no results within {TIMEOUT} s in a new process") from error
        if finished.returncode:
            reason = finished.stderr.strip().splitlines() or [f"exit status {finished.returncode}"]
            raise ParityError(f"{path} does not run in a new process: {reason[-1]}")
        found: dict[str, dict[str, np.ndarray]] = {}
        with np.load(received, allow_pickle=False) as results:
            for name in results.files:
                loader, key = name.split("/", 1)
                found.setdefault(loader, {})[key] = results[name]
        return found


def _difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest absolute difference relative to the peak; infinite where shapes differ."""
    if found.shape != expected.shape:
        return math.inf
    return float(np.max(np.abs(found - expected)) / max(float(np.max(np.abs(expected))), 1e-6))
