"""Read, write, resample and shape recordings: files and NumPy arrays, no TensorFlow.

A waveform is float32 in [-1, 1], ``(samples,)`` when mono and ``(channels, samples)`` otherwise. Formats are
wav (8 to 32 bit and float), flac, ogg (Vorbis, Opus) and mp3, through libsndfile; resampling is soxr's.
"""

import contextlib
import itertools
import math
import os
import struct
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import librosa
import numpy as np
import soundfile
import soxr

from spectrovae.dsp.defaults import default_samples
from spectrovae.errors import InputError
from spectrovae.files import replacing

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
BLOCK = 1 << 18  # samples read at a time
_UNSTATED = 0xFFFFFFFF  # in place of the length of a wav that was written to a pipe
_SEEKABLE = ("WAV", "WAVEX", "FLAC")


@dataclass(frozen=True)
class Info:
    """What a file's header says: rate in Hz, channels, samples per channel, container and encoding."""

    sample_rate: int
    channels: int
    samples: int
    format: str
    subtype: str

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.samples / self.sample_rate


def info(path: str | os.PathLike) -> Info:
    """Read a file's header.

    Raises:
        InputError: the path is missing, a folder, empty, not audio, cut short, or holds no samples.
    """
    with _open(path) as file:
        return _info(file)


def read(path: str | os.PathLike, sample_rate: int | None = None, mono: bool = True) -> tuple[np.ndarray, int]:
    """Read a whole file.

    Args:
        path: wav, flac, ogg or mp3.
        sample_rate: resample to this rate (Hz); the file's own by default.
        mono: mix the channels down.

    Returns:
        The waveform, float32 ``(samples,)``, or ``(channels, samples)`` with ``mono=False``; its rate in Hz.

    Raises:
        InputError: as ``info``, or the file is damaged further in, or holds NaN or infinite samples.
    """
    header = info(path)
    waveform = np.concatenate(list(blocks(path)), axis=-1)
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
        InputError: as ``info``, or the file ends before its header says or is damaged further in.
    """
    with _open(path) as file:
        found = 0
        try:
            while len(block := file.read(BLOCK, dtype="float32", always_2d=True)):
                found += len(block)
                yield block.T
        except soundfile.LibsndfileError as error:
            raise InputError(f"{path} is damaged or cut short: decoding stopped at sample {found}") from error
        if found < file.frames:
            raise InputError(f"{path} is cut short: {file.frames} samples promised, {found} are there")


def stream(path: str | os.PathLike, sample_rate: int | None = None) -> Iterator[np.ndarray]:
    """Yield a file piece by piece, mixed down and resampled: laid end to end what ``read(path, sample_rate)`` gives.

    Args:
        sample_rate: Hz; the file's own by default. Resampled samples are ``read``'s to the resampler's precision.

    Raises:
        InputError: as ``read``.
    """
    header = info(path)
    rate = sample_rate or header.sample_rate
    resampler = soxr.ResampleStream(header.sample_rate, rate, 1, dtype="float32", quality="HQ")
    missing = resampled_length(header.samples, header.sample_rate, rate)
    for block in itertools.chain(blocks(path), [np.zeros((1, 0), np.float32)]):
        if not np.isfinite(block).all():
            raise InputError(f"{path} holds NaN or infinite samples; repair or leave out the recording")
        piece = to_mono(block)
        if rate != header.sample_rate:
            piece = resampler.resample_chunk(piece, last=not len(piece))[:missing]
        missing -= len(piece)
        if len(piece):
            yield piece
    if missing > 0:
        yield np.zeros(missing, np.float32)


def read_segment(path: str | os.PathLike, start: int, samples: int, sample_rate: int) -> np.ndarray:
    """Read ``samples`` of the mono, resampled recording from ``start``, decoding only around that piece.

    Args:
        start, samples: counted at ``sample_rate`` (Hz).

    Returns:
        float32 ``(samples,)``: what ``read(path, sample_rate)[0][start:start + samples]`` gives (resampled
        pieces to the resampler's precision), zero-padded at the end where the recording is shorter.
    """
    with _open(path) as file:
        divisor = math.gcd(file.samplerate, sample_rate)
        source_step, step = file.samplerate // divisor, sample_rate // divisor
        # A piece starts on a sample that both rates share, with a margin longer than the resampler's filter.
        margin = 0 if step == source_step else math.ceil(4096 / min(source_step, step))
        block = max(0, start // step - margin)
        stop = (-(-(start + samples) // step) + margin) * source_step
        skipped = min(block * source_step, file.frames)
        if file.format in _SEEKABLE:
            file.seek(skipped)
        else:  # libsndfile lands on the wrong sample near the end of an ogg
            for begin in range(0, skipped, BLOCK):
                file.read(min(BLOCK, skipped - begin), dtype="float32")
        piece = file.read(stop - block * source_step, dtype="float32", always_2d=True).T
        rate = file.samplerate
    offset = start - block * step
    return fit_length(resample(to_mono(piece), rate, sample_rate)[offset : offset + samples], samples)


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
        try:
            soundfile.write(temporary, waveform.T, sample_rate, subtype=encoding, format=container)
        except soundfile.LibsndfileError as error:
            raise InputError(f"cannot write {path} at {sample_rate} Hz: {error.error_string}") from error
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
    try:
        with soundfile.SoundFile(path, "w", sample_rate, 1, format=path.suffix[1:].upper()) as file:
            for piece in waveform:
                file.write(piece / max(1.0, peak))
    except soundfile.LibsndfileError as error:
        raise InputError(f"cannot write {path.name} at {sample_rate} Hz: {error.error_string}") from error


def check_suffix(path: Path) -> None:
    """Refuse a name that no format goes by."""
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"cannot write {path}: the name must end in one of {', '.join(SUFFIXES)}")


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
    # soxr refuses inputs that would give no output sample, such as one sample at 44.1 kHz.
    enough = math.ceil(source_rate / sample_rate) + 1
    padded = fit_length(waveform, max(waveform.shape[-1], enough))
    resampled = librosa.resample(padded, orig_sr=source_rate, target_sr=sample_rate, res_type="soxr_hq")
    return fit_length(resampled.astype(np.float32, copy=False), samples)


def resampled_length(samples: int, source_rate: int, sample_rate: int) -> int:
    """Samples that ``resample`` returns: ceil(samples * sample_rate / source_rate)."""
    return -(-samples * sample_rate // source_rate)


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


def _info(file: soundfile.SoundFile) -> Info:
    return Info(file.samplerate, file.channels, file.frames, file.format, file.subtype)


def _open(path: str | os.PathLike) -> soundfile.SoundFile:
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist")
    if path.is_dir():
        raise InputError(f"{path} is a folder; expected an audio file ({', '.join(SUFFIXES)})")
    try:
        with path.open("rb") as raw:
            size = os.fstat(raw.fileno()).st_size
            if size == 0:
                raise InputError(f"{path} is empty (0 bytes)")
            promised, present = _wav_data_bytes(raw, size)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    if promised == _UNSTATED:
        raise InputError(f"{path} is a streamed wav whose header states no length; write it to a file anew")
    if promised > present:
        raise InputError(f"{path} is cut short: {promised} bytes of samples promised, {present} are there")
    try:
        file = soundfile.SoundFile(path)
    except soundfile.LibsndfileError as error:
        raise InputError(f"{path} is not readable audio: {error.error_string.rstrip('.')}") from error
    if file.frames == 0:
        file.close()
        raise InputError(f"{path} holds no samples, or its end is missing")
    return file


def _wav_data_bytes(raw, size: int) -> tuple[int, int]:
    """Bytes of samples a RIFF file's header promises and the file has; (0, 0) for every other file.

    libsndfile reads what is there and says nothing, so a half-copied recording would pass as a short one.
    """
    if raw.read(4) != b"RIFF":
        return 0, 0
    position = 12
    while position + 8 <= size:
        raw.seek(position)
        name, length = struct.unpack("<4sI", raw.read(8))
        if name == b"data":
            return length, size - position - 8
        position += 8 + length + length % 2
    return 0, 0
