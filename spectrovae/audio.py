"""Read, write, resample and shape recordings: files and NumPy arrays, no TensorFlow.

A waveform is float32 in [-1, 1], ``(samples,)`` when mono and ``(channels, samples)`` otherwise. What libsndfile reads
is read: wav, flac, ogg (Vorbis, Opus), mp3, AIFF, W64, RF64, CAF, AU; resampling is soxr's. Everything decodes by
``Reader``, so that a scan and a training see the same samples.
"""

import contextlib
import errno
import itertools
import math
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import librosa
import numpy as np
import soundfile
import soxr

from spectrovae.dsp.defaults import default_samples
from spectrovae.errors import InputError
from spectrovae.files import replacing
from spectrovae.reader import BLOCK, HALF, RATES, SUFFIXES, Info, Reader  # noqa: F401

WRITABLE = (".wav", ".flac", ".ogg", ".mp3")
"""Endings of files that can be written."""
_SYSTEM = 2  # libsndfile's code for what the operating system refused: of a file that is open, room on the disk


def info(path: str | os.PathLike) -> Info:
    """Say what a file holds. It is decoded for that where its encoding does not say it otherwise.

    Raises:
        InputError: the path is missing, no regular file, empty, not audio, holds no samples, has a rate outside
            ``RATES``, or less than half of what its header promises.
    """
    with Reader(path) as reader:
        if reader.samples is None or reader.samples < HALF * (reader.promised or 0) or not reader.samples:
            for _ in reader.blocks():
                pass
        return reader.info


def read(path: str | os.PathLike, sample_rate: int | None = None, mono: bool = True) -> tuple[np.ndarray, int]:
    """Read a whole file.

    Args:
        path: in any format of ``SUFFIXES``. One that is cut short is read as far as it goes, which warns.
        sample_rate: resample to this rate (Hz); the file's own by default.
        mono: mix the channels down.

    Returns:
        The waveform, float32 ``(samples,)``, or ``(channels, samples)`` with ``mono=False``; its rate in Hz.

    Raises:
        InputError: as ``info``, or it holds NaN or infinite samples.
    """
    with Reader(path) as reader:
        waveform = np.concatenate(list(reader.blocks()), axis=-1)
        header = reader.info
    _warn(path, header)
    if not np.isfinite(waveform).all():
        raise InputError(f"{path} holds NaN or infinite samples; repair or leave out the recording")
    if mono:
        waveform = to_mono(waveform)
    if sample_rate is None:
        return waveform, header.sample_rate
    return resample(waveform, header.sample_rate, sample_rate), sample_rate


def blocks(path: str | os.PathLike) -> Iterator[np.ndarray]:
    """Yield a file piece by piece, float32 ``(channels, samples)``: a long one need not fit in memory.

    Raises:
        InputError: as ``info``.
    """
    with Reader(path) as reader:
        yield from reader.blocks()


def stream(path: str | os.PathLike, sample_rate: int | None = None) -> Iterator[np.ndarray]:
    """Yield a file piece by piece, mixed down and resampled: laid end to end what ``read(path, sample_rate)`` gives.

    Args:
        sample_rate: Hz; the file's own by default. Resampled samples are ``read``'s to the resampler's precision.

    Raises:
        InputError: as ``read``.
    """
    header = info(path)
    _warn(path, header)
    rate = sample_rate or header.sample_rate
    resampler = soxr.ResampleStream(header.sample_rate, rate, 1, dtype="float32", quality="HQ")
    missing = resampled_length(header.samples, header.sample_rate, rate)
    end = np.zeros((1, max(0, _enough(header.sample_rate, rate) - header.samples)), np.float32)
    for block in itertools.chain(blocks(path), [end]):
        if not np.isfinite(block).all():
            raise InputError(f"{path} holds NaN or infinite samples; repair or leave out the recording")
        piece = to_mono(block)
        if rate != header.sample_rate:
            piece = resampler.resample_chunk(piece, last=block is end)
        piece = piece[:missing]
        missing -= len(piece)
        if len(piece):
            yield piece
    if missing > 0:
        yield np.zeros(missing, np.float32)


def read_segment(
    path: str | os.PathLike,
    start: int,
    samples: int,
    sample_rate: int,
    *,
    total: int | None = None,
    intact: bool = False,
) -> np.ndarray:
    """Read ``samples`` of the mono, resampled recording from ``start``, decoding only around that piece.

    Args:
        start, samples: counted at ``sample_rate`` (Hz).
        total: samples of the recording at its own rate, where they are known.
        intact: whether the file has been decoded to its end; positions in a flac are exact then.

    Returns:
        float32 ``(samples,)``: what ``read(path, sample_rate)[0][start:start + samples]`` gives (resampled
        pieces to the resampler's precision), zero-padded at the end where the recording is shorter.

    Raises:
        InputError: as ``read``, or the piece ends before ``total`` says.
    """
    with Reader(path) as reader:
        rate = reader.sample_rate
        divisor = math.gcd(rate, sample_rate)
        source_step, step = rate // divisor, sample_rate // divisor
        # A piece starts on a sample that both rates share, with a margin longer than the resampler's filter.
        margin = 0 if step == source_step else math.ceil(4096 / min(source_step, step))
        block = max(0, start // step - margin)
        begin, end = block * source_step, (-(-(start + samples) // step) + margin) * source_step
        reader.seekable |= intact and reader.format == "FLAC"
        reader.skip(begin)
        size = reader.block
        pieces = [to_mono(reader.read(min(size, end - at)).T) for at in range(begin, end, size)]
    piece = np.concatenate(pieces)
    if total is not None and len(piece) < min(end, total) - begin:
        raise InputError(f"{path} changed since the scan: it has fewer than {total} samples now; scan the folder again")
    if not np.isfinite(piece).all():
        raise InputError(f"{path} holds NaN or infinite samples; repair or leave out the recording")
    offset = start - block * step
    return fit_length(resample(piece, rate, sample_rate)[offset : offset + samples], samples)


def write(path: str | os.PathLike, waveform: np.ndarray, sample_rate: int, subtype: str = "PCM_16") -> int:
    """Write a waveform, whole or not at all; the suffix chooses the format.

    Args:
        path: ends in .wav, .flac, .ogg or .mp3.
        waveform: ``(samples,)`` or ``(channels, samples)``.
        sample_rate: Hz.
        subtype: encoding of wav and flac ("PCM_16", "PCM_24"; "FLOAT" for wav); ogg and mp3 have their own.

    Returns:
        How many samples lay outside [-1, 1] and were clipped, which also warns; none for "FLOAT".

    Raises:
        InputError: NaN or infinite samples, none, a wrong shape, suffix or subtype, an unwritable path.
    """
    path, waveform = Path(path), np.asarray(waveform, dtype=np.float32)
    check_suffix(path)
    if waveform.ndim not in (1, 2) or waveform.size == 0:
        raise InputError(
            f"cannot write {path}: expected (samples,) or (channels, samples) with at least one sample, "
            f"received shape {waveform.shape}"
        )
    if not np.isfinite(waveform).all():
        raise InputError(f"cannot write {path}: the waveform holds NaN or infinite samples")
    container = path.suffix.lower()[1:].upper()
    encoding = subtype if container in ("WAV", "FLAC") else None
    if encoding and not soundfile.check_format(container, encoding):
        raise InputError(f"cannot write {path}: {container} has no encoding {subtype!r}; use 'PCM_16'")
    clipped = 0
    if encoding not in ("FLOAT", "DOUBLE"):
        clipped = int(np.count_nonzero(np.abs(waveform) > 1.0))
    if clipped:
        warnings.warn(
            f"{path}: {clipped} samples clipped (peak {np.abs(waveform).max():.3g}); "
            "lower the level, or write a wav with subtype='FLOAT'",
            stacklevel=2,
        )
        waveform = np.clip(waveform, -1.0, 1.0)
    with replacing(path) as temporary:
        _encode(temporary, [waveform.T], sample_rate, len(np.atleast_2d(waveform)), encoding)
    return clipped


def write_pieces(path: str | os.PathLike, waveform: Iterable[np.ndarray], sample_rate: int) -> float:
    """Write a waveform that comes in pieces (samples,), scaled down where it exceeds full scale; whole or not at all.

    Returns:
        The waveform's peak before that.

    Raises:
        InputError: a wrong suffix, or a path that cannot be written.
    """
    path = Path(path)
    check_suffix(path)
    with replacing(path) as temporary, set_aside(waveform, path.parent) as (sound, peak):
        write_scaled(temporary, sound(), peak, sample_rate)
    return peak


@contextlib.contextmanager
def set_aside(
    waveform: Iterable[np.ndarray], folder: Path
) -> Iterator[tuple[Callable[[], Iterator[np.ndarray]], float]]:
    """Keep a waveform in a nameless file, to read it again once its peak is known."""
    with tempfile.TemporaryFile(dir=folder) as file:
        peak = 0.0
        for piece in waveform:
            peak = max(peak, float(np.abs(piece).max(initial=0.0)))
            file.write(piece.astype(np.float32).tobytes())

        def source() -> Iterator[np.ndarray]:
            file.seek(0)
            while data := file.read(4 * BLOCK):
                yield np.frombuffer(data, np.float32)

        yield source, peak


def write_scaled(path: Path, waveform: Iterable[np.ndarray], peak: float, sample_rate: int) -> None:
    """Write pieces of a waveform whose peak is known, scaled down where that exceeds full scale."""
    _encode(path, (piece / max(1.0, peak) for piece in waveform), sample_rate)


def _encode(
    path: Path, pieces: Iterable[np.ndarray], sample_rate: int, channels: int = 1, subtype: str | None = None
) -> None:
    container = path.suffix[1:].upper()
    try:
        with soundfile.SoundFile(path, "w", sample_rate, channels, subtype, format=container) as file:
            for piece in pieces:
                file.write(piece)
    except soundfile.LibsndfileError as error:
        if error.code == _SYSTEM:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        raise InputError(f"cannot write {container} at {sample_rate} Hz: {error.error_string}") from error


def check_suffix(path: Path) -> None:
    """Refuse a name that no format goes by."""
    if path.suffix.lower() not in WRITABLE:
        raise InputError(f"cannot write {path}: the name must end in one of {', '.join(WRITABLE)}")


def resample(waveform: np.ndarray, source_rate: int, sample_rate: int) -> np.ndarray:
    """Resample the last axis from ``source_rate`` to ``sample_rate`` (Hz), soxr high quality.

    Returns:
        float32, ``resampled_length`` samples long; the input itself when the rates are equal.
    """
    if source_rate == sample_rate:
        return waveform
    if source_rate < 1 or sample_rate < 1:
        raise InputError(f"sample rates must be positive, received {source_rate} and {sample_rate} Hz")
    samples = resampled_length(waveform.shape[-1], source_rate, sample_rate)
    padded = fit_length(waveform, max(waveform.shape[-1], _enough(source_rate, sample_rate)))
    resampled = librosa.resample(padded, orig_sr=source_rate, target_sr=sample_rate, res_type="soxr_hq")
    return fit_length(resampled.astype(np.float32, copy=False), samples)


def resampled_length(samples: int, source_rate: int, sample_rate: int) -> int:
    """Samples that ``resample`` returns: ceil(samples * sample_rate / source_rate)."""
    return -(-samples * sample_rate // source_rate)


def _enough(source_rate: int, sample_rate: int) -> int:
    """Samples that give soxr one to return: of fewer, such as one sample at 44.1 kHz, it makes none."""
    return math.ceil(source_rate / sample_rate) + 1


def to_mono(waveform: np.ndarray) -> np.ndarray:
    """The mean of the channels: ``(channels, samples)`` or ``(samples,)`` to ``(samples,)``."""
    if waveform.ndim == 1:
        return waveform
    if waveform.ndim != 2:
        raise InputError(f"expected (samples,) or (channels, samples), received shape {waveform.shape}")
    return waveform[0] if len(waveform) == 1 else waveform.mean(axis=0, dtype=np.float32)


def fit_length(waveform: np.ndarray, samples: int) -> np.ndarray:
    """Crop the last axis at its end, or pad it there with zeros, to exactly ``samples``."""
    missing = samples - waveform.shape[-1]
    if missing <= 0:
        return waveform[..., :samples]
    return np.pad(waveform, [(0, 0)] * (waveform.ndim - 1) + [(0, missing)])


def example_length(sample_rate: int, samples: int | None = None, duration: float | None = None) -> int:
    """Samples of one training example: ``samples``, else ``duration`` (s), else about a second.

    The default is 63 of the default hops, which give 64 frames (:mod:`spectrovae.dsp.defaults`): 8 064 samples or
    1.008 s at 8 kHz, between 0.5 and 1.01 s at other rates.
    """
    if samples is None and duration is not None:
        samples = round(duration * sample_rate)
    if samples is None:
        samples = default_samples(sample_rate)
    if samples < 1:
        raise InputError(f"an example must have at least one sample, received {samples} (duration {duration} s)")
    return samples


def _warn(path: str | os.PathLike, header: Info) -> None:
    if header.note:
        warnings.warn(f"{path}: {header.note}", stacklevel=3)
