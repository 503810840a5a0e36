"""Where examples come from: files on disk, or a toy set's formula. ``Recordings`` treats both alike."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from spectrovae import audio
from spectrovae.data.decode import decoder_for
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
    """Sound by its content: a digest, and where in it (seconds)."""

    content: str
    begin: float = 0.0
    end: float = float("inf")


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
        kinds = sorted({(str(record.format), str(record.subtype)) for record in manifest.accepted})
        self._kind = {kind: place for place, kind in enumerate(kinds)}
        self._decoders = [decoder_for(*kind, decoder) for kind in kinds]
        self._mono = all(record.channels == 1 for record in manifest.accepted)
        self._one_rate = all(record.sample_rate == sample_rate for record in manifest.accepted)
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
        return [
            Stretch(_content(self._records[split][place[e.path]]), e.start / rate, e.start / rate + seconds)
            for e in self.examples[split]
        ]

    def contents(self) -> dict[str, list[str]]:
        """What each split holds: contents of recordings, "digest@begin-end" (seconds) for a part of one."""
        rate, found = self.sample_rate, {}
        for split, records in self._records.items():
            spans = self._spans.get(split, {})
            texts = set()
            for record in records:
                begin, end = (edge / rate for edge in spans.get(record.path, (0, 0)))
                texts.add(_content(record) + (f"@{begin:.6f}-{end:.6f}" if spans else ""))
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
        if self._one_each(split):
            return self.load(split, tf.data.Dataset.range(len(records)).batch(64)).prefetch(tf.data.AUTOTUNE)
        starts = tf.ragged.constant([self._starts(record, split) for record in records], dtype=tf.int64)
        files = tf.data.Dataset.from_tensor_slices((self._columns(records), starts))

        def load(file, starts):
            starts = starts[:, None] + tf.range(self.samples, dtype=tf.int64)
            waveform = self._decode(file)
            missing = tf.maximum(starts[-1, -1] + 1 - tf.size(waveform, tf.int64), 0)
            return tf.gather(tf.pad(waveform, [[0, missing]]), starts)

        return files.map(load, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)

    def load(self, split: str, rows: tf.data.Dataset) -> tf.data.Dataset:
        """For each batch of row numbers the examples, float32 ``(batch, samples)``, decoded anew.

        A file that is one example is decoded whole, in the graph; a piece of a longer one is sought in it.
        """
        records, examples = self._records[split], self.examples[split]
        places = np.array([self._places[split][example.path] for example in examples])
        columns = {name: column[places] for name, column in self._columns(records).items()}
        if not self._one_each(split):
            columns["start"] = np.array([example.start for example in examples])
            columns["whole"] = (np.bincount(places) == 1)[places] & (columns["start"] == 0)

        def load_batch(rows):
            return self._read({name: tf.gather(column, rows) for name, column in columns.items()})

        return rows.map(load_batch, num_parallel_calls=tf.data.AUTOTUNE)

    @tf.function(reduce_retracing=True)  # traced once for all splits
    def _read(self, rows: dict[str, tf.Tensor]) -> tf.Tensor:
        """Examples (batch, samples) of the columns of some rows."""

        def read(row):
            def whole():
                return self._fit(self._decode(row))

            def piece():
                return tf.numpy_function(self._seek, [row["path"], row["start"]], tf.float32)

            waveform = tf.cond(row["whole"], whole, piece) if "whole" in row else whole()
            return tf.ensure_shape(waveform, (self.samples,))

        return tf.map_fn(read, rows, fn_output_signature=tf.TensorSpec((self.samples,), tf.float32))

    def _length(self, record: Record) -> int:
        """Samples of a recording at this source's rate."""
        return audio.resampled_length(record.samples or 0, record.sample_rate or 1, self.sample_rate)

    def _one_each(self, split: str) -> bool:
        """Whether each recording of a split is one example, from its beginning."""
        examples = self.examples[split]
        return len(self._records[split]) == len(examples) and not any(example.start for example in examples)

    def _starts(self, record: Record, split: str) -> list[int]:
        """Where the pieces of a recording, or of its stretch, begin; the last one is flush with the end."""
        first, end = self._spans.get(split, {}).get(record.path, (0, self._length(record)))
        last = end - self.samples
        return [*range(first, last, self._hop), last] if self.chunked and last > first else [first]

    def _columns(self, records: list[Record]) -> dict[str, np.ndarray]:
        return {
            "path": np.array([str(self.manifest.root / record.path) for record in records]),
            "kind": np.array([self._kind[str(record.format), str(record.subtype)] for record in records], np.int32),
            "rate": np.array([record.sample_rate for record in records], np.int32),
            "samples": np.array([record.samples for record in records], np.int32),
        }

    def _decode(self, file: dict[str, tf.Tensor]) -> tf.Tensor:
        """One file, whole, mono, at this source's rate: float32 ``(samples,)``."""
        content = tf.io.read_file(file["path"])
        branches = [lambda decoder=decoder: decoder(content) for decoder in self._decoders]
        channels = tf.switch_case(file["kind"], branches) if len(branches) > 1 else branches[0]()
        same = tf.shape(channels)[0] == file["samples"]
        tf.debugging.Assert(same, [file["path"], "changed since the scan"])
        waveform = channels[:, 0] if self._mono else tf.reduce_mean(channels, axis=1)
        if not self._one_rate:
            waveform = tf.cond(
                file["rate"] == self.sample_rate,
                lambda: waveform,
                lambda: tf.numpy_function(self._resample, [waveform, file["rate"]], tf.float32),
            )
        return tf.ensure_shape(waveform, (None,))

    def _resample(self, waveform: np.ndarray, rate: int) -> np.ndarray:
        return audio.resample(waveform, int(rate), self.sample_rate)

    def _seek(self, path: bytes, start: int) -> np.ndarray:
        return audio.read_segment(path.decode(), int(start), self.samples, self.sample_rate)

    def _fit(self, waveform: tf.Tensor) -> tf.Tensor:
        waveform = waveform[: self.samples]
        return tf.pad(waveform, [[0, self.samples - tf.size(waveform)]])


def _content(record: Record) -> str:
    return str(record.sha256)[:16]
