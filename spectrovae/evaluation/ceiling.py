"""What a representation keeps of a sound before any model: its ceiling, looked at, measured and heard.

FOLDER/
  features.npy  representation.keras     what invert needs, with "samples" and "statistics" of ceiling.json
  spectrogram.png  reconstruction.wav
  ceiling.json                           the figures

Everything goes block by block, so that a long file needs no more memory than a short one.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from spectrovae import archives, audio, files, plots, representations
from spectrovae.errors import InputError
from spectrovae.files import new_folder
from spectrovae.representations import LogSTFT, Representation, blocks

RESULT = "ceiling.json"
PICTURE_FRAMES = 4000

Source = Callable[[], Iterable[np.ndarray]]
"""A waveform that can be read more than once: each call gives its pieces, float32 (samples,), from the start."""


def measure(representation: Representation, waveform: Source, again: Source) -> dict[str, float]:
    """Compare a waveform with what came back of it.

    Args:
        representation: what it went through.
        waveform, again: of the same length.

    Returns:
        ``snr_db`` where the representation keeps phase; ``spectral_convergence_db`` and ``log_spectral_distance_db``,
        both of STFT magnitudes, where it is invented.
    """
    error = total = distance = 0.0
    frames = 0
    if representation.keeps_phase:
        for before, after in zip(blocks.evenly(waveform(), audio.BLOCK), blocks.evenly(again(), audio.BLOCK)):
            error += float(np.sum(np.square(before - after, dtype=np.float64)))
            total += float(np.sum(np.square(before, dtype=np.float64)))
        return {"snr_db": 10.0 * np.log10(max(total, 1e-20) / max(error, 1e-20))}
    view = LogSTFT(representation.sample_rate, max_db=representation.max_db)
    for before, after in zip(blocks.decibels(view, waveform()), blocks.decibels(view, again())):
        distance += float(np.sqrt(np.mean(np.square(after - before, dtype=np.float64), axis=0)).sum())
        frames += before.shape[1]
        before, after = 10.0 ** (before / 20.0), 10.0 ** (after / 20.0)
        error += float(np.sum(np.square(after - before, dtype=np.float64)))
        total += float(np.sum(np.square(before, dtype=np.float64)))
    return {
        "spectral_convergence_db": 10.0 * np.log10(max(error / total, 1e-12)),
        "log_spectral_distance_db": distance / frames,
    }


def write(
    representation: Representation, waveform: Source, samples: int, out: str | os.PathLike, *, force: bool = False
) -> dict[str, Any]:
    """Transform a waveform and keep features, picture, what comes back, and the figures in a folder.

    Args:
        samples: of the waveform.

    Returns:
        The figures of :func:`measure`, ``feature_shape``, and ``peak`` of what came back.

    Raises:
        InputError: the folder exists, or cannot be written.
    """
    statistics = None
    if representation.normalisation == "per_example":
        statistics = blocks.statistics(representation, waveform())
    shape = representation.feature_shape(samples)
    with new_folder(out, force=force, mark=RESULT) as folder:
        features, picture, done = folder / "features.npy", _Picture(shape[1]), 0
        np.lib.format.open_memmap(features, "w+", np.float32, shape)
        for block in blocks.forward(representation, waveform(), statistics=statistics):
            # Mapped anew for each block: written pages count as memory of the process for as long as they are mapped.
            np.load(features, mmap_mode="r+")[:, done : done + block.shape[1]] = block
            picture.add(np.asarray(representation.to_db(block[None], statistics))[0, :, :, 0])
            done += block.shape[1]
        representation.save(folder / "representation.keras")
        found = blocks.inverse(representation, _blocks(features), samples, statistics=statistics)
        with audio.set_aside(found, folder) as (again, peak):
            figures: dict[str, Any] = measure(representation, waveform, again)
            audio.write_scaled(folder / "reconstruction.wav", again(), peak, representation.sample_rate)
        figures |= {"feature_shape": list(shape), "peak": peak}
        figure = plots.spectrogram_figure(
            picture.levels,
            frequencies=representation.frequencies,
            duration=samples / representation.sample_rate,
            min_db=representation.min_db,
            max_db=representation.max_db,
            size=(8.0, 4.0),
        )
        (folder / "spectrogram.png").write_bytes(plots.png(figure, transparent=False))
        kept = None if statistics is None else statistics.tolist()
        files.write_json(folder / RESULT, figures | {"samples": samples, "statistics": kept})
    return figures


def invert(features: str | os.PathLike, out: str | os.PathLike) -> float:
    """Write the sound of a ``features.npy``, with ``ceiling.json`` and ``representation.keras`` beside it.

    Args:
        out: audio file to write; what exceeds full scale is scaled down.

    Returns:
        The sound's peak before that.

    Raises:
        InputError: one of the files is missing or not what :func:`write` wrote, or ``out`` cannot be written.
    """
    path, out = Path(features), Path(out)
    audio.check_suffix(out)  # before any work
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        shape, kind = mapped.shape, mapped.dtype
        if kind != np.float32:
            raise ValueError(f"it holds {kind}, expected float32")
        kept = archives.parse_json(archives.read_bytes(path.parent / RESULT), path.parent / RESULT)
        samples, statistics = int(kept["samples"]), kept["statistics"]
        statistics = None if statistics is None else np.array(statistics, np.float32).reshape(1, 2)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not features.npy as spectrovae transform writes it: {error}") from error
    representation = representations.load(path.parent / "representation.keras")
    if shape != representation.feature_shape(samples):
        expected = representation.feature_shape(samples)
        raise InputError(f"{path} holds features {shape}, expected {expected} for {samples} samples; transform again")
    if (statistics is None) == (representation.normalisation == "per_example"):
        raise InputError(f"the statistics in {path.parent / RESULT} are not those of {path}; transform again")
    found = blocks.inverse(representation, _blocks(path), samples, statistics=statistics)
    return audio.write_pieces(out, found, representation.sample_rate)


class _Picture:
    """The loudest level of neighbouring frames, few enough of them to draw."""

    def __init__(self, frames: int):
        self._group, self._done = -(-frames // PICTURE_FRAMES), 0
        self._parts: list[np.ndarray] = []

    def add(self, levels: np.ndarray) -> None:
        """Take the next frames (bins, frames)."""
        column = (self._done + np.arange(levels.shape[1])) // self._group
        columns, starts = np.unique(column, return_index=True)
        found = np.maximum.reduceat(levels, starts, axis=1)
        if self._parts and self._done % self._group:  # its first frames belong to a column begun before
            self._parts[-1][:, -1] = np.maximum(self._parts[-1][:, -1], found[:, 0])
            found = found[:, 1:]
        if found.shape[1]:
            self._parts.append(found)
        self._done += levels.shape[1]

    @property
    def levels(self) -> np.ndarray:
        """(bins, columns)."""
        return np.concatenate(self._parts, axis=1)


def _blocks(path: Path) -> Iterator[np.ndarray]:
    """The features of a file (bins, frames, channels), some frames at a time; InputError where they are not finite."""
    frames = np.load(path, mmap_mode="r", allow_pickle=False).shape[1]
    for start in range(0, frames, blocks.BLOCK_FRAMES):
        block = np.array(np.load(path, mmap_mode="r")[:, start : start + blocks.BLOCK_FRAMES])
        if not np.isfinite(block).all():
            raise InputError(f"{path} holds NaN or infinite features; transform again")
        yield block
