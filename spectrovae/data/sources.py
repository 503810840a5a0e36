"""Where examples come from: files on disk, or a toy set's formula. ``Recordings`` treats both alike."""

import functools
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from spectrovae import audio
from spectrovae.data import decode
from spectrovae.data.manifest import Manifest, Record
from spectrovae.data.splits import SPLITS, divide
from spectrovae.data.toy import PREFIX
from spectrovae.data.toy_set import ToySet
from spectrovae.errors import InputError


@dataclass(frozen=True)
class Example:
    """One row of the data: a recording, or its piece from ``start`` (samples at the set's rate)."""

    path: str
    label: str | None
    speaker: str | None
    index: int | None
    start: int = 0


@dataclass(frozen=True)
class Stretch:
    """Sound by its content: a digest, and where in it (seconds). Older bundles keep the digest of its ``file``."""

    content: str
    begin: float = 0.0
    end: float = float("inf")
    file: str | None = None


class ToySource:
    """A toy set. Its sounds are labelled by their factors."""

    manifest = None
    rule = "hash"

    def __init__(self, toy: ToySet):
        self.notes: list[str] = []
        self.toy, self._indices = toy, toy.splits()
        self.sample_rate, self.samples = toy.sample_rate, toy.samples
        self.fingerprint, self.factor_names = toy.fingerprint, toy.factor_names
        self.described = f"{len(toy)} sounds"
        self.examples = {
            split: [
                Example(f"{PREFIX}{toy.name}/{index}", label, None, int(index))
                for index, label in zip(indices, _labels(toy, indices))
            ]
            for split, indices in self._indices.items()
        }

    def stretches(self, split: str) -> list[Stretch]:
        """What each sound of a split is."""
        return [Stretch(content) for content in self.toy.contents(self._indices[split])]

    def contents(self) -> dict[str, list[str]]:
        """What each split holds."""
        return {split: sorted(self.toy.contents(indices)) for split, indices in self._indices.items()}

    def check(self, split: str) -> None:
        """Nothing on disk can have changed."""

    def summary(self) -> dict[str, Any]:
        return {"toy": self.toy.name, "size": len(self.toy), "seed": self.toy.seed, "factors": list(self.factor_names)}

    def factors(self, split: str) -> np.ndarray:
        return self.toy.factors(self._indices[split])

    def load_all(self, split: str) -> tf.data.Dataset:
        """All sounds of a split in order, in batches."""
        return self.load(split, tf.data.Dataset.range(len(self._indices[split])).batch(256))

    def load(self, split: str, rows: tf.data.Dataset) -> tf.data.Dataset:
        """For each batch of row numbers the sounds, float32 ``(batch, samples)``."""
        indices = self._indices[split]

        def make(chosen):
            batch = tf.numpy_function(lambda rows: self.toy.waveforms(indices[rows]), [chosen], tf.float32)
            return tf.ensure_shape(batch, (None, self.samples))

        return rows.map(make, num_parallel_calls=tf.data.AUTOTUNE)


def _labels(toy: ToySet, indices: np.ndarray) -> list[str]:
    """Of one factor its value; of several, each with its name: ``"q=0.7 cutoff=200"``."""
    factors = toy.factors(indices)
    if len(toy.factor_names) == 1:
        return [f"{value:.4f}" for (value,) in factors]
    return [" ".join(f"{name}={value:.4g}" for name, value in zip(toy.factor_names, row)) for row in factors]


CROP_SHORT = 0.99  # share of recordings no longer than an example
CROP_LOSS = 0.03  # and share of the sound that may be lost, for "auto" to crop


class FileSource:
    """The accepted files of a manifest, at one rate and length; arguments as in ``Recordings.open``."""

    factor_names: tuple[str, ...] = ()

    def __init__(
        self,
        manifest: Manifest,
        sample_rate: int,
        samples: int,
        long: str,
        overlap: float,
        rule: str,
        decoder: str | None,
    ):
        self.manifest, self.sample_rate, self.samples = manifest, sample_rate, samples
        division = divide(manifest.accepted, rule, self._length, samples)
        self.rule, self._records, self._spans = division.rule, division.records, division.spans
        used = {record.path: record for records in self._records.values() for record in records}
        self.used = [record for record in manifest.accepted if record.path in used]
        self.notes = [*manifest.notes, *division.notes]
        self.described = f"{len(manifest.accepted)} recordings, split by {rule!r}"
        self._lengths = np.array([self._length(record) for record in self.used])
        excess = np.maximum(self._lengths - samples, 0).sum() / max(self._lengths.sum(), 1)
        self.lost = float(excess)  # share of the sound beyond the first example of each recording
        if long == "auto":
            short = np.mean(self._lengths <= samples) if len(self._lengths) else 1.0
            long = "crop" if short >= CROP_SHORT and excess <= CROP_LOSS and not self._spans else "chunk"
        self.chunked = long == "chunk"
        self._hop = max(1, round(samples * (1 - overlap)))
        self._decoder = decode.chosen(decoder)
        self._in_graph = self._decoder != "soundfile" and len(decode.available_decoders()) > 1
        self.examples = {
            split: [
                Example(record.path, record.label, record.speaker, record.index, start)
                for record in records
                for start in self._starts(record, split)
            ]
            for split, records in self._records.items()
        }
        self._places = {
            split: {record.path: place for place, record in enumerate(records)}
            for split, records in self._records.items()
        }
        digest = hashlib.sha256(f"{manifest.fingerprint}:{sample_rate}:{samples}".encode())
        for split in SPLITS:
            pieces = [(example.path, example.start) for example in self.examples[split]]
            digest.update(json.dumps([split, pieces]).encode())
        self.fingerprint = digest.hexdigest()

    def check(self, split: str) -> None:
        """Raise InputError where a file of the split vanished or changed since the scan."""
        self.manifest.check(self._records[split])

    def stretches(self, split: str) -> list[Stretch]:
        """What each example of a split is: its recording's content, and which seconds of it."""
        rate, seconds, place = self.sample_rate, self.samples / self.sample_rate, self._places[split]
        chosen = [(self._records[split][place[e.path]], e.start / rate) for e in self.examples[split]]
        return [Stretch(_short(r.content), start, start + seconds, _short(r.sha256)) for r, start in chosen]

    def contents(self) -> dict[str, list[str]]:
        """What each split holds: contents of recordings, "digest@begin-end" (seconds) for a part of one."""
        rate, found = self.sample_rate, {}
        for split, records in self._records.items():
            spans = self._spans.get(split, {})
            texts = set()
            for record in records:
                begin, end = (edge / rate for edge in spans.get(record.path, (0, 0)))
                texts.add(_short(record.content) + (f"@{begin:.6f}-{end:.6f}" if spans else ""))
            found[split] = sorted(texts)
        return found

    def summary(self) -> dict[str, Any]:
        return {
            "padded": int(np.sum(self._lengths < self.samples)),
            "lost": 0.0 if self.chunked else self.lost,
            "chunked" if self.chunked else "cropped": int(np.sum(self._lengths > self.samples)),
            "manifest": self.manifest.summary(),
        }

    def factors(self, split: str) -> np.ndarray:
        raise InputError("recordings have no known factors; open a toy set such as toy:harmonic")

    def load_all(self, split: str) -> tf.data.Dataset:
        """All examples of a split in order, each file decoded once: a batch holds the pieces of one file."""
        records = self._records[split]

        def read(row: np.ndarray) -> np.ndarray:
            record = records[int(row)]
            starts = self._starts(record, split)
            if len(starts) == 1:
                return self._piece(record, starts[0])[None]
            waveform = self._waveform(record)
            return np.stack([waveform[start : start + self.samples] for start in starts])

        return self._mapped(tf.data.Dataset.range(len(records)), read).prefetch(tf.data.AUTOTUNE)

    def load(self, split: str, rows: tf.data.Dataset) -> tf.data.Dataset:
        """For each batch of row numbers the examples, float32 ``(batch, samples)``, decoded anew.

        Only the samples of an example are decoded, or as few more as the format allows.
        """
        records, examples = self._records[split], self.examples[split]
        place = self._places[split]
        sums = self._checksums(records, examples)

        def read(rows: np.ndarray) -> np.ndarray:
            chosen = [examples[row] for row in np.atleast_1d(rows)]
            pieces = _pool().map(lambda example: self._piece(records[place[example.path]], example.start), chosen)
            return np.stack(list(pieces))

        if not (sums >= 0).any():
            return self._mapped(rows, read)
        paths = tf.constant([os.fsencode(self.manifest.root / example.path) for example in examples])

        def load_one(row):
            content = tf.io.read_file(paths[row])
            same = tf.gather(sums, row) == decode.checksum(content)
            return tf.cond(same, lambda: self._decode(content), lambda: tf.numpy_function(read, [row], tf.float32)[0])

        @tf.function(autograph=False)
        def load_batch(rows):
            return tf.map_fn(load_one, rows, fn_output_signature=tf.TensorSpec((self.samples,), tf.float32))

        return rows.map(load_batch, num_parallel_calls=tf.data.AUTOTUNE)

    def worth_checking(self, cache_bytes: int) -> bool:
        """Whether files ought to be proved for decoding in the graph (``decode.checked``).

        That is on request, and for many recordings that are decoded anew in each epoch; never twice.
        """
        examples = sum(len(examples) for examples in self.examples.values())
        plain = sum(map(decode.is_plain, self.manifest.accepted))
        least = 1 if self._decoder == "tensorflow-io" else decode.WORTH
        wanted = plain >= least and (least == 1 or 4 * examples * self.samples > cache_bytes)
        proved = any(record.checksum is not None for record in self.manifest.accepted)
        return self._in_graph and wanted and not proved

    def _checksums(self, records: list[Record], examples: list[Example]) -> np.ndarray:
        """Of each example's file, where it is decoded in the graph: int64 (examples,), -1 elsewhere.

        That is where the file is one example and needs no resampling.
        """
        single = Counter(example.path for example in examples)
        sums = {
            record.path: record.checksum
            for record in records
            if self._in_graph and single[record.path] == 1 and record.sample_rate == self.sample_rate
        }
        found = [None if example.start else sums.get(example.path) for example in examples]
        return np.array([-1 if checksum is None else checksum for checksum in found], np.int64)

    def _mapped(self, rows: tf.data.Dataset, read: Callable[[np.ndarray], np.ndarray]) -> tf.data.Dataset:
        """The waveforms (batch, samples) that a function returns for rows."""

        def load(rows):
            return tf.ensure_shape(tf.numpy_function(read, [rows], tf.float32), (None, self.samples))

        return rows.map(load, num_parallel_calls=tf.data.AUTOTUNE)

    def _length(self, record: Record) -> int:
        """Samples of a recording at this source's rate."""
        return audio.resampled_length(record.samples or 0, record.sample_rate or 1, self.sample_rate)

    def _starts(self, record: Record, split: str) -> list[int]:
        """Where the pieces of a recording, or of its stretch, begin; the last one is flush with the end."""
        first, end = self._spans.get(split, {}).get(record.path, (0, self._length(record)))
        last = end - self.samples
        return [*range(first, last, self._hop), last] if self.chunked and last > first else [first]

    def _piece(self, record: Record, start: int) -> np.ndarray:
        """An example (samples,), zeros after the end of its recording."""
        path, intact = self.manifest.root / record.path, record.note is None
        return audio.read_segment(
            path, start, self.samples, self.sample_rate, total=int(record.samples or 0), intact=intact
        )

    def _waveform(self, record: Record) -> np.ndarray:
        """A recording, mono, at this source's rate."""
        path = self.manifest.root / record.path
        with audio.Reader(path) as reader:
            waveform = np.concatenate([audio.to_mono(block) for block in reader.blocks()])
        if (len(waveform), reader.sample_rate) != (record.samples, record.sample_rate):
            raise InputError(f"{path} changed since the scan; scan the folder again")
        return audio.resample(waveform, reader.sample_rate, self.sample_rate)

    def _decode(self, content: tf.Tensor) -> tf.Tensor:
        """An example (samples,) of a plain file's content, in the graph."""
        channels = decode.decode(content)[: self.samples]
        waveform = tf.reduce_mean(channels, axis=1)
        return tf.ensure_shape(tf.pad(waveform, [[0, self.samples - tf.size(waveform)]]), (self.samples,))


@functools.lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    """Threads that decode; libsndfile runs outside Python's lock."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="decode")


def _short(digest: str | None) -> str:
    return str(digest)[:16]
