"""From recordings to batches: decode, resample, mix down, pad or cut, shuffle, cache.

recordings = Recordings.open("folder")             # or a manifest file, or "toy:harmonic"
for batch in recordings.waveforms("train"): ...    # float32 (batch, samples)
"""

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from spectrovae import audio
from spectrovae.data import decode, provenance, toy
from spectrovae.data.describe import describe
from spectrovae.data.manifest import Manifest, Progress
from spectrovae.data.order import gather, numbered_rows, row_batches
from spectrovae.data.scan import manifest_of
from spectrovae.data.sources import Example, FileSource, ToySource
from spectrovae.data.splits import SPLITS
from spectrovae.errors import InputError, within_graphs

CACHE_BYTES = 2 << 30


class Recordings:
    """Recordings of equal length and rate, in three splits, as ``tf.data`` pipelines.

    Made by ``Recordings.open``. Datasets built twice with the same arguments give the same batches, shuffled
    or not. What fits below ``cache_bytes`` (waveforms and features together) is computed once and kept in
    memory; the rest is decoded anew, in parallel, in each epoch.

    Attributes:
        sample_rate: Hz.
        samples: of each example.
        fingerprint: changes when the recordings, the splits or the way they are cut do.
        manifest: the ``Manifest`` behind the examples; None for a toy set.
        rule: the split rule that was used; "auto" is resolved.
        notes: sentences for a person: what was left out, and how splits and labels were chosen.
        allow_seen: whether a model may be measured on clips that it was trained or validated on, by other settings than
            those of its fit. It is said either way.
    """

    def __init__(
        self, source: FileSource | ToySource, cache_bytes: int = CACHE_BYTES, config: dict[str, Any] | None = None
    ):
        self._source = source
        self._config = dict(config or {})
        self._cache_bytes = cache_bytes
        self._cache: dict[Any, tf.Tensor] = {}
        self.sample_rate: int = source.sample_rate
        self.samples: int = source.samples
        self.fingerprint: str = source.fingerprint
        self.manifest: Manifest | None = source.manifest
        self.rule: str = source.rule
        self.notes: list[str] = source.notes
        self.allow_seen = False

    @classmethod
    def open(
        cls,
        source: str | os.PathLike | Manifest,
        *,
        sample_rate: int | None = None,
        duration: float | None = None,
        samples: int | None = None,
        long: str = "auto",
        overlap: float = 0.5,
        split: str = "auto",
        decoder: str | None = None,
        cache_bytes: int = CACHE_BYTES,
        pattern: str | None = None,
        labels: str | os.PathLike | None = None,
        label_from: int | None = None,
        progress: Progress | None = None,
    ) -> "Recordings":
        """Open a folder (which is scanned), a manifest or its file, or a toy set by name (``toy:harmonic``).

        Args:
            sample_rate: Hz; by default the most common one among the recordings.
            duration: seconds of each example; by default that of ``audio.example_length``, 1.008 s at 8 kHz.
            samples: of each example, instead of ``duration``. Shorter recordings are padded with zeros at
                the end.
            long: what becomes of longer recordings: "crop" keeps their beginning, "chunk" cuts all of it into
                overlapping pieces, the last one flush with the end; "auto" crops where 99 % of the
                recordings are no longer than an example and no more than 3 % of the sound is lost, and chunks
                otherwise.
            overlap: the part that neighbouring chunks share, 0 <= overlap < 1.
            split: the rule, see :func:`spectrovae.data.splits.divide`: "auto", "hash", "speaker", "fsdd", "folder",
                "time" or "table".
            decoder: "soundfile" for all files, or "tensorflow-io" for those that it is proved to decode equally;
                the default is that where many recordings do not fit in ``cache_bytes`` (``spectrovae.data.decode``).
            cache_bytes: memory for decoded waveforms and features.
            pattern, labels, label_from: see :func:`spectrovae.data.labels.named`; for a manifest too.
            progress: as for ``spectrovae.data.scan.scan``.

        Raises:
            InputError: nothing usable there, or an argument out of range.
        """
        if long not in ("auto", "crop", "chunk"):
            raise InputError(f"long must be 'auto', 'crop' or 'chunk', received {long!r}")
        if not 0 <= overlap < 1:
            raise InputError(f"overlap must be at least 0 and less than 1, received {overlap}")
        if sample_rate is not None and sample_rate < 1:
            raise InputError(f"sample_rate must be positive, received {sample_rate}")
        if isinstance(source, str) and source.startswith(toy.PREFIX):
            if split not in ("auto", "hash"):
                raise InputError(f"{source} can be split by 'hash' only, received split={split!r}")
            made = ToySource(toy.open_toy(source, sample_rate, samples, duration))
            config = {"source": source, "sample_rate": made.sample_rate, "samples": made.samples}
            return cls(made, cache_bytes, config)
        manifest = manifest_of(source, pattern, labels, label_from, progress)
        rates = Counter(int(record.sample_rate or 0) for record in manifest.accepted)
        rate = sample_rate or max(rates, key=lambda rate: (rates[rate], rate))
        samples = audio.example_length(rate, samples, duration)
        config = {
            "source": str(Path(manifest.root if isinstance(source, Manifest) else source).resolve()),
            "sample_rate": rate,
            "samples": samples,
            "long": long,
            "overlap": overlap,
            "split": split,
            "pattern": manifest.pattern,
        }
        config |= {"labels": str(Path(labels).resolve())} if labels is not None else {}
        config |= {"label_from": label_from} if label_from is not None else {}
        files = FileSource(manifest, rate, samples, long, overlap, split, decoder)
        if files.worth_checking(cache_bytes):
            files = FileSource(decode.checked(manifest), rate, samples, long, overlap, split, decoder)
        return cls(files, cache_bytes, config)

    @classmethod
    def scan(cls, folder: str | os.PathLike, **options: Any) -> "Recordings":
        """``open`` for a folder alone: a file or a toy set's name is an error. Options as for ``open``."""
        if not Path(folder).is_dir():
            raise InputError(f"{folder} is not a folder of recordings")
        return cls.open(Path(folder), **options)

    def get_config(self) -> dict[str, Any]:
        """The arguments of ``open`` that give these recordings again, as JSON."""
        return dict(self._config)

    def provenance(self) -> dict[str, Any]:
        """What a model that is trained on these remembers of them: see :mod:`spectrovae.data.provenance`.

        ``open``, the arguments of :meth:`open`; ``fingerprint``; ``rule``; and ``splits``, the contents of each split,
        by the first 16 hexadecimal digits of their SHA-256.
        """
        return {
            "open": self.get_config(), "fingerprint": self.fingerprint, "rule": self.rule,
            "splits": self._source.contents(),
        }  # fmt: skip

    @property
    def names(self) -> str:
        """A hash over the label and speaker of every example: the fingerprint is the same whatever they are."""
        rows = [[e.path, e.label, e.speaker] for split in SPLITS for e in self.examples(split)]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()

    def measured(self, split: str, codecs: Sequence[Any] = (), judges: Sequence[Any] = ()) -> dict[str, Any]:
        """What a result says of its data: see :func:`spectrovae.data.provenance.measured`."""
        return provenance.measured(self, split, codecs, judges)

    def stretches(self, split: str) -> list[Any]:
        """The content of each example of a split: see :class:`spectrovae.data.sources.Stretch`."""
        return self._source.stretches(_known(split))

    def describe(self) -> str:
        """What there is to train on, in a few lines: files, hours, cutting, splits, labels."""
        return describe(self)

    def require(self, *splits: str) -> None:
        """Raise InputError where a split is empty, or a file of it vanished or changed since the scan."""
        for split in splits:
            self._checked(split)

    def examples(self, split: str) -> list[Example]:
        """The examples of a split, in the order of ``waveforms(split)``."""
        _known(split)
        return self._source.examples[split]

    def factors(self, split: str) -> np.ndarray:
        """What made a toy set's examples: float64 ``(examples, factors)``, named by ``factor_names``.

        Raises:
            InputError: these are recordings, whose factors nobody knows.
        """
        return self._source.factors(_known(split))

    @property
    def factor_names(self) -> tuple[str, ...]:
        """Names of a toy set's factors; empty for recordings."""
        return self._source.factor_names

    def steps(self, split: str, batch_size: int = 32) -> int:
        """Batches in one epoch, the last and perhaps short one included."""
        return math.ceil(len(self.examples(split)) / batch_size)

    def summary(self) -> dict[str, Any]:
        """For a report: rate (Hz), samples, examples of each split, and the manifest's summary if any."""
        return {
            "sample_rate": self.sample_rate,
            "samples": self.samples,
            "examples": {split: len(self.examples(split)) for split in SPLITS},
            "fingerprint": self.fingerprint,
            **self._source.summary(),
        }

    def waveforms(
        self,
        split: str,
        batch_size: int = 32,
        *,
        shuffle: bool = False,
        seed: int = 0,
        first_epoch: int | None = None,
        first_step: int = 0,
        numbered: bool = False,
    ) -> tf.data.Dataset:
        """Batches of waveforms, float32 ``(batch, samples)``.

        Args:
            split: "train", "validation" or "test".
            shuffle: draw a new order for each pass, from ``seed``.
            first_epoch: None for a dataset of one pass. A number for an endless one that begins with that
                epoch: ``steps`` batches each, in an order that depends on ``seed`` and the epoch's number
                alone, so that an interrupted training continues with the very batches it would have seen.
            first_step: of an endless dataset, the batches of its first epoch that are left out.
            numbered: batches of (waveforms, places of the examples in ``examples(split)``, epoch) instead; the epoch
                of a dataset of one pass is -1.

        Raises:
            InputError: the split is empty, or a recording vanished or changed since the scan.
        """
        count = self._checked(split)
        array = self._waveform_array(split)
        order = (count, batch_size, shuffle, seed, first_epoch, first_step)
        rows = row_batches(*order)
        batches = self._source.load(split, rows) if array is None else gather(array, rows)
        if numbered:
            pairs = tf.data.Dataset.zip((batches, numbered_rows(*order)))
            batches = pairs.map(lambda waveforms, number: (waveforms, *number))
        return batches.prefetch(tf.data.AUTOTUNE)

    def labelled(
        self, split: str, labels: np.ndarray, batch_size: int = 32, *, seed: int = 0, first_epoch: int = 0
    ) -> tf.data.Dataset:
        """Endless shuffled batches (waveforms, labels), as ``waveforms(..., shuffle=True, first_epoch=...)``.

        Args:
            labels: one for each example, in the order of ``examples(split)``.
        """
        waveforms = self.waveforms(split, batch_size, shuffle=True, seed=seed, first_epoch=first_epoch)
        rows = row_batches(len(self.examples(split)), batch_size, True, seed, first_epoch)
        return tf.data.Dataset.zip(waveforms, gather(tf.convert_to_tensor(labels), rows))

    def speakers(self) -> tuple[str, ...]:
        """Names of those who speak in the training split, in alphabetical order.

        Raises:
            InputError: somebody there has no name, or there are fewer than two.
        """
        found = {example.speaker for example in self.examples("train")}
        if None in found or len(found) < 2:
            raise InputError(
                f"speakers need recordings of two at least, all of them named ({self._source.described}); "
                f"found {', '.join(sorted(map(str, found))[:5])}: give a name pattern with a (?P<speaker>...) group"
            )
        return tuple(sorted(map(str, found)))

    def places(self, split: str, speakers: Sequence[str]) -> np.ndarray:
        """The place of each example's speaker among ``speakers``, their number for anybody else: int32 (examples,)."""
        place: dict[str | None, int] = {name: index for index, name in enumerate(speakers)}
        return np.array([place.get(example.speaker, len(place)) for example in self.examples(split)], np.int32)

    def spoken(
        self,
        batches: tf.data.Dataset,
        split: str,
        speakers: Sequence[str],
        batch_size: int = 32,
        *,
        shuffle: bool = False,
        seed: int = 0,
        first_epoch: int | None = None,
        first_step: int = 0,
    ) -> tf.data.Dataset:
        """Batches of features, or of (features, target), with who speaks: ``{"features": ..., "speaker": ...}``.

        Args:
            batches: of this split, made with the same ``batch_size``, ``shuffle``, ``seed``, ``first_epoch`` and
                ``first_step``.
            speakers: names; ``"speaker"`` is int32 (batch,) as :meth:`places` has it.
        """
        rows = row_batches(len(self.examples(split)), batch_size, shuffle, seed, first_epoch, first_step)
        chosen = gather(tf.convert_to_tensor(self.places(split, speakers)), rows)

        def join(batch, speaker):
            if isinstance(batch, tuple):
                return {"features": batch[0], "speaker": speaker}, batch[1]
            return {"features": batch, "speaker": speaker}

        return tf.data.Dataset.zip(batches, chosen).map(join).prefetch(tf.data.AUTOTUNE)

    def features(
        self,
        split: str,
        representation: Any,
        batch_size: int = 32,
        *,
        shuffle: bool = False,
        seed: int = 0,
        first_epoch: int | None = None,
        first_step: int = 0,
    ) -> tf.data.Dataset:
        """Batches of ``representation(waveforms)``, float32 ``(batch, bins, frames, channels)``.

        Arguments and errors as for ``waveforms``. A representation of another sample rate is an InputError.
        """
        rate = getattr(representation, "sample_rate", self.sample_rate)
        if rate != self.sample_rate:
            raise InputError(
                f"the representation is for {rate} Hz and these recordings are at {self.sample_rate} Hz; "
                f"open them with sample_rate={rate}"
            )
        count = self._checked(split)
        array = self._feature_array(split, representation)
        order: dict[str, Any] = {"shuffle": shuffle, "seed": seed, "first_epoch": first_epoch, "first_step": first_step}
        if array is not None:
            return gather(array, row_batches(count, batch_size, **order)).prefetch(tf.data.AUTOTUNE)
        batches = self.waveforms(split, batch_size, **order)
        return batches.map(representation, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)

    def _checked(self, split: str) -> int:
        count = len(self.examples(split))
        if count == 0:
            raise InputError(
                f"the {split} split is empty ({self._source.described}): add recordings, choose another split rule, or "
                "shorter examples, so that one long recording can be split in time"
            )
        if ("waveforms", split) not in self._cache:
            self._source.check(split)
        return count

    def _room(self, shape: tuple[int, ...]) -> bool:
        used = sum(array.shape.num_elements() for array in self._cache.values())
        return 4 * (used + math.prod(shape)) <= self._cache_bytes

    def _keep(self, key: Any, batches: tf.data.Dataset) -> tf.Tensor:
        # Batches are gathered by tf.data, which works on the host.
        with tf.device("CPU:0"), within_graphs():
            self._cache[key] = tf.concat(list(batches), axis=0)
        return self._cache[key]

    def _waveform_array(self, split: str) -> tf.Tensor | None:
        key, shape = ("waveforms", split), (len(self.examples(split)), self.samples)
        if key in self._cache or not self._room(shape):
            return self._cache.get(key)
        return self._keep(key, self._source.load_all(split))

    def _feature_array(self, split: str, representation: Any) -> tf.Tensor | None:
        key = ("features", split, _identity(representation))
        shape = (len(self.examples(split)), *representation.feature_shape(self.samples))
        if key in self._cache or not self._room(shape):
            return self._cache.get(key)
        return self._keep(key, self.waveforms(split, 64).map(representation, tf.data.AUTOTUNE))


def _known(split: str) -> str:
    if split not in SPLITS:
        raise InputError(f"split must be one of {', '.join(SPLITS)}, received {split!r}")
    return split


def _identity(representation: Any) -> str:
    """What decides a representation's output: its class, configuration and weights."""
    config = json.dumps(representation.get_config(), sort_keys=True, default=str)
    digest = hashlib.sha256(f"{type(representation).__name__}:{config}".encode())
    for weight in representation.get_weights():
        digest.update(np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()
