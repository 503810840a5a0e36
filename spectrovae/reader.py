"""Read audio files: one reader for scans, training and commands, which reads what is there and says what is missing.

libsndfile decodes. Where it reads a header otherwise than ``containers`` does, it is given the bare samples.
"""

import contextlib
import hashlib
import os
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile

from spectrovae import containers
from spectrovae.errors import OF_THE_PROCESS, InputError

SUFFIXES = (
    ".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".w64", ".rf64", ".bw64",
    ".caf", ".au", ".snd",
)  # fmt: skip
"""Endings of recordings that a scan takes up."""
RATES = (1000, 768_000)
"""Lowest and highest sample rate of a recording, Hz."""
BLOCK = 1 << 18  # values read at a time
HALF = 0.5  # of a recording must be there, or it is refused
UNREAD = 0.02  # share of a file behind the end of its stream: more than tags take
_SEEKABLE = ("PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW")


@dataclass(frozen=True)
class Info:
    """Rate in Hz, channels, samples per channel that are there, container and encoding.

    ``note`` is what is unusual, such as "cut short or damaged, 97 % of it is there".
    """

    sample_rate: int
    channels: int
    samples: int
    format: str
    subtype: str
    note: str | None = None

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.samples / self.sample_rate


class Reader:
    """An open recording, decoded from its beginning: the one way in which audio files are read.

    What a file has is read, also where its header promises more, less or nothing. Used as a context manager.

    Attributes:
        sample_rate: Hz.
        channels, format, subtype: as of ``Info``.
        promised: samples by the header; None where it states none.
        samples: samples that are there; None until they have been decoded, where the encoding does not say it before.
        seekable: whether positions are exact; set by a caller that knows a flac to be sound.
        block: samples that are decoded at a time.

    Raises:
        InputError: the path is missing, no regular file, empty, not audio, or its rate is beyond ``RATES``.
    """

    samples: int | None
    promised: int | None

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self._raw = _regular(self.path)
        self._file: Any = None
        try:
            self._open(os.fstat(self._raw.fileno()).st_size)
        except BaseException:
            self.close()
            raise

    def _open(self, size: int) -> None:
        if size == 0:
            raise InputError(f"{self.path} is empty (0 bytes)")
        raw: Any = self._raw
        if tag := containers.tag_before(raw):
            raw, size = _Stretch(raw, tag, size - tag), size - tag
        self._layout = layout = containers.layout(raw, size)
        self._sum, self._bits = containers.flac_sum(raw)
        self._ends_early = containers.ends_early(raw, size)
        self._endless = containers.mp3_without_length(raw)
        # From here on libsndfile moves the file's position.
        self._file = file = self._sound(raw, size, layout)
        self.sample_rate, self.channels = file.samplerate, file.channels
        self.format, self.subtype = (layout.format if layout and file.format == "RAW" else file.format), file.subtype
        if not RATES[0] <= self.sample_rate <= RATES[1]:
            raise InputError(
                f"{self.path} has {self.sample_rate} Hz by its header; expected {RATES[0]} to {RATES[1]} Hz: "
                "correct the header"
            )
        if file.format == "MP3":
            with contextlib.suppress(soundfile.LibsndfileError):
                file.seek(0)  # as soundfile.read does, for the same last bits
        self._differs, self._unread = False, 0.0
        self._position, self._left = 0, np.zeros((0, self.channels), np.float32)
        self.block = max(1, BLOCK // self.channels)
        exact = file.format not in ("OGG", "MP3", "FLAC") and file.subtype in _SEEKABLE
        self.seekable = exact and not (layout and layout.contradicts)
        frames = file.frames if file.frames < 2**62 and not self._endless else None
        self.samples, self.promised = None, frames
        if layout and layout.subtype:
            self.samples = frames
            self.promised = None if layout.promised is None else layout.promised // layout.frame_bytes
        elif layout and layout.present < (layout.promised or 0):  # samples of no fixed size
            self.promised = round(file.frames * (layout.promised or 0) / max(1, layout.present))

    def _sound(self, raw: Any, size: int, layout: containers.Layout | None) -> soundfile.SoundFile:
        """libsndfile's file; of the bare samples where it reads the header otherwise than ``containers`` does."""
        reason = ""
        file: soundfile.SoundFile | None = None
        head = containers.flac_that_promises_less(raw, size)
        try:
            if self._endless:
                file = soundfile.SoundFile(_Endless(raw, 0, 1000 * size))
            elif head or raw is not self._raw:
                file = soundfile.SoundFile(_Stretch(raw, 0, size, head))
            else:
                handle = os.dup(self._raw.fileno())
                os.lseek(handle, 0, os.SEEK_SET)
                file = soundfile.SoundFile(handle, closefd=True)
        except (soundfile.LibsndfileError, RuntimeError) as error:
            reason = str(getattr(error, "error_string", error)).rstrip(".")
        if layout and layout.subtype and (file is None or file.frames != layout.present // layout.frame_bytes):
            if file:
                file.close()
            order = "LITTLE" if layout.little else "BIG"
            stretch = _Stretch(raw, layout.offset, layout.present)
            described = layout.sample_rate, layout.channels, layout.subtype, order, "RAW"
            try:
                return soundfile.SoundFile(stretch, "r", *described)
            except (soundfile.LibsndfileError, OverflowError) as error:
                raise InputError(f"{self.path} is not readable audio: its header contradicts itself") from error
        if file is None:
            raise InputError(f"{self.path} is not readable audio: {reason}; convert it to WAV or FLAC, or leave it out")
        return file

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        if self._file:
            self._file.close()
        self._raw.close()

    def read(self, samples: int) -> np.ndarray:
        """The next samples, float32 ``(samples, channels)``; fewer at the end, or where decoding fails."""
        if self.seekable:
            return self._decode(samples)
        pieces, missing = [], samples
        while missing > 0:
            if not len(self._left):
                # Always in the same steps from the beginning: an mp3's last bits depend on them.
                self._left = self._decode(self.block)
            pieces.append(self._left[:missing])
            self._left = self._left[missing:]
            if not len(pieces[-1]):
                break
            missing -= len(pieces[-1])
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces or [self._left])

    def _decode(self, samples: int) -> np.ndarray:
        wanted = max(0, min(samples, self._file.frames - self._position))
        block = np.full((wanted, self.channels), np.nan, np.float32)
        try:
            count = len(self._file.read(out=block)) if wanted else 0
        except soundfile.LibsndfileError:
            # What was decoded before the damage is in the block.
            missing = np.isnan(block).any(axis=1)
            count = int(missing.argmax()) if missing.any() else wanted
        self._position += count
        if count < samples:
            self.samples = self._position
        return block[:count]

    def blocks(self) -> Iterator[np.ndarray]:
        """What is left, piece by piece, float32 ``(channels, samples)``.

        Raises:
            InputError: at the end, where less than half of what the header promises was there.
        """
        digest = hashlib.md5(usedforsecurity=False)
        while len(block := self.read(self.block)):
            if self._sum:
                scaled = np.rint(block * 2.0 ** (self._bits - 1)).astype("<i4")
                digest.update(scaled.view(np.uint8).reshape(-1, 4)[:, : self._bits // 8].tobytes())
            yield block.T
            if len(block) < self.block:
                break
        self.samples = self._position
        self._differs = bool(self._sum) and digest.digest() != self._sum
        if self.format in ("FLAC", "OGG", "MP3"):  # libsndfile stops at the end of the first stream
            size = os.fstat(self._raw.fileno()).st_size
            self._unread = (size - self._raw.tell()) / size
        if not self.samples:
            raise InputError(f"{self.path} holds no samples, or its end is missing")
        if self.promised and self.samples < HALF * self.promised:
            raise InputError(
                f"{self.path} is cut short: {self.samples} of {self.promised} samples are there, less than half; "
                "copy it anew"
            )

    def skip(self, samples: int) -> None:
        """Go forward; without decoding where the format has exact positions."""
        if self.seekable and samples:
            try:
                self._position = self._file.seek(min(samples, self._file.frames))
            except soundfile.LibsndfileError as error:
                raise InputError(f"{self.path} is damaged or cut short before sample {samples}") from error
            return
        while samples > 0 and len(block := self.read(min(samples, self.block))):
            samples -= len(block)

    @property
    def note(self) -> str | None:
        """What is unusual about the file, once it has been decoded."""
        samples, layout, notes = self.samples or 0, self._layout, []
        if self._unread > UNREAD and samples >= (self.promised or 0):
            share = f"{100 * self._unread:.3g} %"
            notes.append(
                f"the last {share} of its bytes are not decoded; if they are another recording, split the file"
            )
        elif self.promised is None:
            notes += [] if self._endless else ["its header states no length, read to its end"]
        elif samples < self.promised:
            notes.append(f"cut short or damaged, {min(99.9, 100 * samples / self.promised):.3g} % of it is there")
        elif samples > self.promised:
            notes.append(f"its header states {self.promised} samples, {samples} are there and read")
        elif self._differs:
            notes.append("its samples are not those that its MD5 sum is of")
        if self._ends_early:
            notes.append("cut short, its last page is missing")
        if layout and layout.contradicts:
            notes.append("its header contradicts itself")
        return "; ".join(notes) or None

    @property
    def info(self) -> Info:
        """After ``blocks``: what the file holds."""
        return Info(self.sample_rate, self.channels, self.samples or 0, self.format, self.subtype, self.note)


def _regular(path: Path) -> BinaryIO:
    """Open a regular file, which a pipe or a device is not: opening those may wait, and reading them never end.

    Raises:
        InputError: anything else.
    """
    if os.path.isdir(path):
        raise InputError(f"{path} is a folder; expected an audio file ({', '.join(SUFFIXES)})")
    try:
        # A pipe must not be opened before it is known to be none, and may be put there in between.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist") from error
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) in OF_THE_PROCESS:
            raise
        if os.path.lexists(path) and not path.is_file():
            raise InputError(f"{path} is not a regular file; leave it out") from error
        raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise InputError(f"{path} is a pipe or a device, not a regular file; leave it out")
    return open(handle, "rb", buffering=0)  # no buffer: libsndfile moves the position, too


class _Stretch:
    """A stretch of a file as a file of its own, whose first bytes may be replaced."""

    def __init__(self, raw: Any, offset: int, length: int, head: bytes = b""):
        self._raw, self._offset, self._length, self._head, self._position = raw, offset, length, head, 0

    def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}[whence]
        self._position = max(0, base + position)
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, count: int = sys.maxsize) -> bytes:
        begin = self._position
        count = max(0, min(count, self._length - begin))
        data = self._head[begin : begin + count]
        self._raw.seek(self._offset + begin + len(data))
        data += self._raw.read(count - len(data))
        self._position += len(data)
        return data


class _Endless(_Stretch):
    """An mp3 that seems longer than it is: libsndfile estimates its samples by its bytes, and reads no more of them."""

    def read(self, count: int = sys.maxsize) -> bytes:
        # Where there is nothing it looks for a tag, at the end.
        return super().read(count) or bytes(count if self._position + count == self._length else 0)
