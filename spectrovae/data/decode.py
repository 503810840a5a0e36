"""Decode plain 16-bit wavs inside a TensorFlow graph by tensorflow-io, where that is known to be safe and the same.

soundfile decodes everything (``spectrovae.reader``). tensorflow-io takes 30 to 60 % less processor time for a 16-bit
wav, and five to ten times as much for a flac, but it trusts headers: one wrong byte ends the process. So a file is
decoded by it only if its header is the plain one of 44 bytes, a child process has decoded it to soundfile's samples,
and its content is still that (a checksum). The check costs a child and another decoding, so it is made only for
a thousand recordings or more that do not fit in memory and are decoded anew in each epoch, or on request:
``SPECTROVAE_DECODER=tensorflow-io``. Its last release works beside TensorFlow 2.16 and 2.17 only.
"""

import dataclasses
import functools
import io
import json
import os
import selectors
import struct
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import tensorflow as tf

from spectrovae import audio
from spectrovae.data.manifest import Manifest, Record
from spectrovae.errors import InputError

DECODERS = ("tensorflow-io", "soundfile")
WORTH = 1000  # files: a child costs 3 s, a file saves 0.1 to 0.8 ms in each epoch
LARGEST = 1 << 26  # bytes of a file that is decoded in the graph: it is read in one piece
_FORCE = "SPECTROVAE_DECODER"
_START, _EACH = 120.0, 30.0  # seconds that the child may take to start, and for a file
_PROGRAM = "from spectrovae.data import decode; decode._child()"
_DEATHS = 20  # children that may die before the rest is left to soundfile


def available_decoders() -> tuple[str, ...]:
    """Names of the decoders that work here."""
    return DECODERS if _tensorflow_io() is not None else DECODERS[1:]


def chosen(decoder: str | None = None) -> str | None:
    """The decoder that an argument or the variable ``SPECTROVAE_DECODER`` names; None for the default.

    Raises:
        InputError: it is unknown, or absent here.
    """
    name = decoder or os.environ.get(_FORCE) or None
    if name is not None and name not in available_decoders():
        raise InputError(
            f"decoder {name!r} is not available here; choose from {', '.join(available_decoders())} "
            f"(argument decoder, or the variable {_FORCE})"
        )
    return name


def is_plain(record: Record) -> bool:
    """Whether a file may have the plain header: a short 16-bit wav of one or two channels without anything unusual."""
    size = 2 * (record.channels or 0) * (record.samples or 0)
    kind = record.accepted and (record.format, record.subtype, record.note) == ("WAV", "PCM_16", None)
    return kind and record.channels in (1, 2) and record.bytes == 44 + size <= LARGEST


def header(record: Record) -> bytes:
    """The 44 bytes with which a plain file begins."""
    channels, rate, size = record.channels or 0, record.sample_rate or 0, record.bytes
    fmt = (16, 1, channels, rate, rate * channels * 2, channels * 2, 16)
    return struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", size - 8, b"WAVE", b"fmt ", *fmt, b"data", size - 44)


def checksum(content: tf.Tensor) -> tf.Tensor:
    """A hash of files' contents (FarmHash, the same on every machine): int64, 0 to 2^62 - 1."""
    return tf.strings.to_hash_bucket_fast(content, 2**62)


def decode(content: tf.Tensor) -> tf.Tensor:
    """A plain file's content to float32 ``(samples, channels)``, in the graph."""
    module: Any = _tensorflow_io()  # is there: ``checked`` has used it
    return tf.cast(module.audio.decode_wav(content, dtype=tf.int16), tf.float32) * (1.0 / 2**15)


def checked(manifest: Manifest) -> Manifest:
    """The manifest with the ``checksum`` of each plain file that tensorflow-io decodes to soundfile's samples."""
    records = [record for record in manifest.records if is_plain(record)]
    paths = [os.fsencode(manifest.root / record.path) for record in records]
    sums = dict(zip((record.path for record in records), _in_children(paths, records)))
    return dataclasses.replace(
        manifest,
        records=tuple(dataclasses.replace(record, checksum=sums.get(record.path)) for record in manifest.records),
    )


def _in_children(paths: list[bytes], records: list[Record]) -> list[int | None]:
    """Checksums from child processes; None where a child died, took too long or found other samples."""
    sums: list[int | None] = [None] * len(paths)
    done = deaths = 0
    while done < len(paths) and deaths < _DEATHS:
        with tempfile.TemporaryFile() as orders:
            rows = zip(paths[done:], records[done:])
            lines = (json.dumps([path.hex(), header(record).hex(), record.samples]) for path, record in rows)
            orders.write("\n".join(lines).encode())
            orders.seek(0)
            for answer in _answers(orders, len(paths) - done):
                sums[done] = answer
                done += 1
        if done < len(paths):
            done, deaths = done + 1, deaths + 1  # the file at which the child ended
    return sums


def _answers(orders: Any, count: int) -> Iterable[int | None]:
    """The answers of one child, as many as come in time."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "CUDA_VISIBLE_DEVICES": ""}
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM],
        stdin=orders,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        bufsize=0,
    ) as child:
        answers: Any = child.stdout
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(answers, selectors.EVENT_READ)
                waiting, received = _START, b""
                while count and selector.select(waiting):
                    if not (piece := os.read(answers.fileno(), 1 << 16)):
                        return
                    *lines, received = (received + piece).split(b"\n")
                    for line in lines:
                        if line.startswith(b"checked "):
                            count, waiting = count - 1, _EACH
                            yield int(line.split()[1]) if line.split()[1].isdigit() else None
        finally:
            child.kill()


def _child() -> None:
    """Decode the files of standard input by tensorflow-io, and say which give soundfile's samples."""
    for line in sys.stdin:
        path, head, samples = json.loads(line)
        print("checked", _verdict(bytes.fromhex(path), bytes.fromhex(head), samples), flush=True)


def _verdict(path: bytes, head: bytes, samples: int) -> int | str:
    try:
        content = tf.constant(Path(os.fsdecode(path)).read_bytes())
        if content.numpy()[:44] != head:
            return "other"
        ours = np.concatenate(list(audio.blocks(os.fsdecode(path))), axis=1).T
        theirs = decode(content).numpy()
        return int(checksum(content)) if len(ours) == samples and np.array_equal(ours, theirs) else "other"
    except (OSError, InputError, tf.errors.OpError):
        return "other"


@functools.lru_cache(maxsize=1)
def _tensorflow_io() -> Any | None:
    """The module; None where it is absent, or imports but fails in its first operation."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import tensorflow_io
        samples = tensorflow_io.audio.decode_wav(_tiny_wav(), dtype=tf.int16)
    except (ImportError, AttributeError, NotImplementedError, RuntimeError, tf.errors.OpError):
        return None
    return tensorflow_io if samples.shape == (2, 1) else None


def _tiny_wav() -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.array([0, 1], np.int16), 8000, format="WAV", subtype="PCM_16")
    return buffer.getvalue()
