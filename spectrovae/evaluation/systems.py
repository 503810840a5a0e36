"""What is evaluated, gathered so that every row of a table is measured in the same way.

A system is a codec or a baseline under a representation. Codecs may use different representations: each is
measured in the dB of its own, beside baselines fitted under that one.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import re
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from spectrovae.errors import InputError
from spectrovae.evaluation.baselines import fit_baselines

Log = Callable[[str], None]

RESERVED = ("ceiling", "identity", "input", "mean", "original")
"""What rows and sounds are called that are no model's, beside PCA-k."""
STEM_BYTES = 80
"""Of part of a file name in UTF-8: three such parts make a file name of 255 at most."""
SPEED_CLIPS = 32
"""Clips reconstructed at once where speed is measured, whatever else is computed at once."""
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How a cell begins that a spreadsheet takes for a formula."""


@dataclasses.dataclass
class System:
    """Something that reconstructs features, under a representation.

    Attributes:
        name: unique among the systems compared.
        kind: "model" or "baseline".
        reconstructor: a codec or a baseline: it has ``reconstruct_features``.
        representation: gives the features and takes them back to dB.
        parameters: number of trained values.
        info: the codec's ``info``; empty for a baseline.
        stem: of the names of a model's files, unique too.
    """

    name: str
    kind: str
    reconstructor: Any
    representation: Any
    parameters: int
    info: Mapping[str, Any]
    stem: str = ""

    def reconstruct(self, db: np.ndarray) -> np.ndarray:
        """Take dB spectrograms (clips, bins, frames, channels) through the system: normalise, reconstruct,
        back to dB.

        Nothing is clipped, before or after. Under per-example scaling the input's own minimum and maximum
        bring the output back.
        """
        return self.decibels(self.reconstruct_features(db)[1], db)

    def reconstruct_features(self, db: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The features of dB spectrograms, and what the system makes of them."""
        features = np.asarray(self.representation.from_db(db))
        return features, np.asarray(self.reconstructor.reconstruct_features(features))

    def decibels(self, features: np.ndarray, db: np.ndarray) -> np.ndarray:
        """Reconstructed features in dB, by the statistics of the input's dB spectrograms."""
        return np.asarray(self.representation.to_db(features, self.representation.statistics(db)))

    def kl_nats(self, db: np.ndarray) -> np.ndarray | None:
        """KL divergence of each clip in nats, of models whose encoder gives a posterior; None for the others."""
        if self.kind != "model":
            return None
        return self.reconstructor.kl_divergence(self.representation.from_db(db))

    def clips_per_second(self, db: np.ndarray, *, seconds: float = 1.0) -> float:
        """Measure how many clips ``reconstruct_features`` takes a second once warm, in batches of ``SPEED_CLIPS`` made
        of the clips given."""
        db = np.resize(db, (SPEED_CLIPS, *db.shape[1:]))
        features = tf.convert_to_tensor(self.representation.from_db(db))
        for _ in range(2):
            np.asarray(self.reconstructor.reconstruct_features(features))
        durations: list[float] = []
        while sum(durations) < seconds or len(durations) < 3:
            start = time.perf_counter()
            np.asarray(self.reconstructor.reconstruct_features(features))
            durations.append(time.perf_counter() - start)
        return len(db) / float(np.median(durations))


@dataclasses.dataclass
class Group:
    """The systems of one representation, models first, and how it turns dB into sound.

    Attributes:
        label: the representation's class and main settings, for people.
        representation: the representation the systems share.
        systems: models in the order given, then identity, PCA-k from the largest, mean.
        synthesise: dB spectrograms (clips, bins, frames, 1) and a number of samples -> waveforms (clips,
            samples).
    """

    label: str
    representation: Any
    systems: list[System]
    synthesise: Callable[[np.ndarray, int], np.ndarray]


def gather(codecs: Sequence[Any], recordings: Any, components: Sequence[int], *, seed: int, log: Log) -> list[Group]:
    """Group codecs by representation and fit the baselines of each group on the train split.

    PCA has the sizes of ``components`` and of every vector latent.

    Raises:
        InputError: no codec, or one that does not fit the recordings' sample rate or length.
    """
    if not codecs:
        raise InputError("at least one model is needed: give the folder of a bundle that spectrovae fit wrote")
    groups: dict[str, Group] = {}
    labels: set[str] = set()
    # a vector latent is measured against a PCA of its own size
    sizes = {*components, *(shape[0] for codec in codecs for shape in codec.latent_shapes if len(shape) == 1)}
    names = {*RESERVED, *(f"pca-{size}" for size in sizes)}
    stems = set(names)
    for codec in codecs:
        check_fit(codec, recordings)
        representation = codec.representation
        key = fingerprint(representation)
        if key not in groups:
            text = unique_name(label(representation), labels)
            groups[key] = Group(text, representation, [], synthesiser(representation))
        name = unique_name(codec.name, names)
        groups[key].systems.append(
            System(name, "model", codec, representation, codec.parameters, codec.info, unique_stem(name, stems))
        )
    for group in groups.values():
        log(f"fitting the baselines on the train split ({group.label})")
        latents = [shape for system in group.systems for shape in system.reconstructor.latent_shapes]
        wanted = [*components, *(shape[0] for shape in latents if len(shape) == 1)]
        batches = recordings.features("train", group.representation)
        for baseline in fit_baselines(batches, wanted, seed=seed):
            group.systems.append(
                System(baseline.name, "baseline", baseline, group.representation, baseline.parameters, {})
            )
    return list(groups.values())


def chosen_clips(recordings: Any, split: str, limit: int | None) -> list[int]:
    """Return the indices evaluated: all clips of the split, or ``limit`` of them evenly spaced.

    Raises:
        InputError: the split has no clip, or ``limit`` is not positive.
    """
    count = len(recordings.examples(split))
    if not count:
        raise InputError(f"the {split} split has no clip: give more recordings, or another split")
    if limit is not None and limit < 1:
        raise InputError(f"the number of clips to evaluate must be at least 1; received {limit}")
    return spread(range(count), limit or count)


def spread(items: Sequence[int], count: int) -> list[int]:
    """Pick ``count`` of the items evenly spaced, or all where there are fewer."""
    places = np.linspace(0, len(items) - 1, min(count, len(items)))
    return [items[int(round(place))] for place in places]


def batches(
    recordings: Any, split: str, indices: Sequence[int], batch_size: int
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Yield (indices, waveforms (clips, samples)) for the chosen clips of a split, in order, in full batches."""
    wanted, start = set(indices), 0
    found: list[int] = []
    clips: list[np.ndarray] = []
    for batch in recordings.waveforms(split, batch_size=batch_size):
        for index, waveform in enumerate(np.asarray(batch, np.float32), start):
            if index in wanted:
                found.append(index)
                clips.append(waveform)
            if len(found) == batch_size:
                yield found, np.stack(clips)
                found, clips = [], []
        start += len(batch)
    if found:
        yield found, np.stack(clips)


def clip_names(recordings: Any, split: str, indices: Sequence[int]) -> dict[int, str]:
    """Return a file name stem for each index: its number, so that it is unique, and its recording's own
    stem."""
    examples = recordings.examples(split)
    return {index: f"{index:04d}-{file_stem(Path(str(examples[index].path)).stem)}" for index in indices}


def file_stem(name: str) -> str:
    """A name as part of a file name: letters and digits of any script, the rest by underscores, not too long."""
    composed = unicodedata.normalize("NFC", name)
    plain = "".join(x if x.isalnum() or x in ".-" or unicodedata.category(x)[0] == "M" else "_" for x in composed)
    plain = re.sub("_+", "_", plain).encode()[:STEM_BYTES].decode(errors="ignore").strip("._") or "unnamed"
    return f"_{plain}" if re.fullmatch(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?", plain) else plain


def to_stderr(message: str) -> None:
    """The default log: one line on standard error."""
    print(message, file=sys.stderr, flush=True)


def csv_text(rows: Sequence[Mapping[str, Any]], names: Sequence[str] = ()) -> str:
    """Rows of equal keys as CSV with a header, ``names`` or those keys; None becomes an empty cell.

    Text that a spreadsheet would take for a formula gets an apostrophe before it.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = names or list(rows[0] if rows else ())
    if not names:
        return ""
    writer.writerow(map(_cell, names))
    writer.writerows([_cell(row[name]) for name in names] for row in rows)
    return writable(buffer.getvalue())


def writable(text: str) -> str:
    """Text without what UTF-8 cannot hold: bytes of a file name that are no text."""
    return text.encode(errors="replace").decode()


def _cell(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def estimate_fields(name: str, estimate: Any) -> dict[str, float | None]:
    """An ``Estimate`` as three flat fields; NaN becomes None, which JSON can hold."""
    values = {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    return {key: float(value) if np.isfinite(value) else None for key, value in values.items()}


def check_fit(codec: Any, recordings: Any) -> None:
    """Raise InputError where a codec's sample rate or length is not that of the recordings."""
    if codec.sample_rate != recordings.sample_rate:
        raise InputError(
            f"{codec.name} works at {codec.sample_rate} Hz and the recordings are read at "
            f"{recordings.sample_rate} Hz: "
            f"open them with sample_rate={codec.sample_rate}"
        )
    shape = codec.representation.feature_shape
    if shape(codec.segment_samples) != shape(recordings.samples):
        raise InputError(
            f"{codec.name} takes {codec.segment_samples} samples and the recordings give "
            f"{recordings.samples}: "
            f"open them with duration={codec.segment_samples / codec.sample_rate:g}"
        )


def fingerprint(representation: Any) -> str:
    """Equal for representations that compute the same: same class, settings and statistics."""
    config = {key: value for key, value in representation.get_config().items() if key not in ("name", "dtype")}
    text = json.dumps([type(representation).__name__, config], sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode())
    for value in representation.get_weights():
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def label(representation: Any) -> str:
    config = representation.get_config()
    sizes = [str(config[key]) for key in ("n_fft", "hop_length") if key in config]
    name = " ".join([type(representation).__name__, "/".join(sizes)]).strip()
    low, high = (f"{level:g}".replace("-", "−") for level in (representation.min_db, representation.max_db))
    normalisation = config["normalisation"].replace("_", " ")
    return f"{name}, {representation.sample_rate} Hz, {low} to {high} dB, normalised by {normalisation}"


def synthesiser(representation: Any) -> Callable[[np.ndarray, int], np.ndarray]:
    """dB spectrograms (clips, bins, frames, channels) and a number of samples -> waveforms (clips, samples)."""
    # in a graph, three times as fast as eagerly
    compiled = tf.function(representation.synthesise, reduce_retracing=True)
    return lambda db, samples: np.asarray(compiled(tf.convert_to_tensor(db, tf.float32), samples))


def unique_name(name: str, taken: set[str]) -> str:
    """The name as it can be shown, numbered where one that differs in case alone is taken; it is taken then."""
    shown = " ".join(name.split())
    shown = "".join(x if x.isprintable() else "\N{REPLACEMENT CHARACTER}" for x in shown) or "unnamed"
    return _unique(shown, taken, "{} ({})")


def unique_stem(name: str, taken: set[str]) -> str:
    """:func:`file_stem` of a name, numbered as by :func:`unique_name`: many disks do not tell A from a."""
    return _unique(file_stem(name), taken, "{}_{}")


def unique_stems(names: Sequence[str]) -> list[str]:
    """A :func:`unique_stem` of each name, in order."""
    taken: set[str] = set()
    return [unique_stem(name, taken) for name in names]


def _unique(name: str, taken: set[str], numbered: str) -> str:
    unique, number = name, 2
    while unique.casefold() in taken:
        unique, number = numbered.format(name, number), number + 1
    taken.add(unique.casefold())
    return unique


def data_of(
    recordings: Any, split: str, codecs: Sequence[Any] = (), judges: Sequence[Any] = (), log: Log = to_stderr
) -> dict[str, Any]:
    """What a result says of its data, said to the log too.

    Raises:
        InputError: a model was trained on clips that it is measured on: see ``Recordings.measured``.
    """
    data = recordings.measured(split, codecs, judges)
    for note in data["notes"]:
        log(note)
    return data
