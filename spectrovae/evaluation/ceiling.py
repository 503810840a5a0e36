"""What a representation keeps of a sound before any model: its ceiling, looked at, measured and heard.

FOLDER/
  features.npz  representation.keras     what invert needs
  spectrogram.png  reconstruction.wav
  ceiling.json                           the figures
"""

import os
from pathlib import Path
from typing import Any

import numpy as np

from spectrovae import audio, files, plots, representations
from spectrovae.errors import InputError
from spectrovae.evaluation.metrics import Errors, spectral_convergence
from spectrovae.evaluation.report import new_folder
from spectrovae.representations import LogSTFT, Representation

RESULT = "ceiling.json"


def measure(representation: Representation, waveform: np.ndarray, again: np.ndarray) -> dict[str, Any]:
    """Compare a waveform with what came back of it.

    Args:
        representation: what it went through.
        waveform, again: [shape=(samples,)].

    Returns:
        ``snr_db`` where the representation keeps phase; ``spectral_convergence_db`` and ``log_spectral_distance_db``,
        both of STFT magnitudes, where it is invented.
    """
    if representation.keeps_phase:
        noise = float(np.sum(np.square(waveform - again, dtype=np.float64)))
        signal = float(np.sum(np.square(waveform, dtype=np.float64)))
        return {"snr_db": 10.0 * np.log10(max(signal, 1e-20) / max(noise, 1e-20))}
    view = LogSTFT(representation.sample_rate, max_db=representation.max_db)
    before, after = (np.asarray(view.decibels(np.asarray(x, np.float32)[None])) for x in (waveform, again))
    return {
        "spectral_convergence_db": float(spectral_convergence(before, after)[0]),
        "log_spectral_distance_db": float(Errors.measure(before, after, view.min_db).lsd[0]),
    }


def write(representation: Representation, waveform: np.ndarray, out: str | os.PathLike, *, force: bool = False) -> dict:
    """Transform a waveform (samples,) and keep features, picture, what comes back, and the figures in a folder.

    Returns:
        The figures of :func:`measure`, ``feature_shape``, and ``peak`` of what came back.

    Raises:
        InputError: the folder exists, or cannot be written.
    """
    batch = np.asarray(waveform, np.float32)[None]
    features = np.asarray(representation(batch))
    levels = representation.decibels(batch)
    statistics = np.asarray(representation.statistics(levels))
    again = np.asarray(representation.inverse(features, len(waveform), statistics))[0]
    figures = measure(representation, waveform, again)
    figures |= {"feature_shape": list(features.shape[1:]), "peak": float(np.max(np.abs(again), initial=0.0))}
    with new_folder(out, force=force, mark=RESULT) as folder:
        np.savez(folder / "features.npz", features=features, statistics=statistics, length=len(waveform))
        representation.save(folder / "representation.keras")
        audio.write(folder / "reconstruction.wav", again / max(1.0, figures["peak"]), representation.sample_rate)
        figure = plots.spectrogram_figure(
            np.asarray(levels)[0],
            frequencies=representation.frequencies,
            duration=len(waveform) / representation.sample_rate,
            min_db=representation.min_db,
            max_db=representation.max_db,
            size=(8.0, 4.0),
        )
        (folder / "spectrogram.png").write_bytes(plots.png(figure, transparent=False))
        files.write_json(folder / RESULT, figures)
    return figures


def invert(features: str | os.PathLike) -> tuple[np.ndarray, int]:
    """Waveform (samples,) and its rate in Hz of a ``features.npz``, through the ``representation.keras`` beside it.

    Raises:
        InputError: either file is missing or not what :func:`write` wrote.
    """
    path = Path(features)
    try:
        with np.load(path, allow_pickle=False) as kept:
            values, statistics, length = kept["features"], kept["statistics"], int(kept["length"])
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} is not features.npz as spectrovae transform writes it: {error}") from error
    representation = representations.load(path.parent / "representation.keras")
    return np.asarray(representation.inverse(values, length, statistics))[0], representation.sample_rate
