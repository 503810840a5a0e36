"""How many principal directions of the latent carry the sound: the fidelity curve of RAVE (Caillon and Esling, 2021).

Posterior means of all segments and latent frames are decomposed by SVD. The fidelity of the first n directions is their
share of the variance; the dimensions needed for a fidelity f are the fewest that reach it. What the rest is worth to
the ear is measured by decoding without it: left at its mean ("cut"), or drawn from N(0, 1), the prior ("drawn").

OUT/
  fidelity.json  fidelity.csv     figures: one row for each number of directions decoded
  fidelity.png                    the curve, and the distances
  samples/  report.html           sounds
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from spectrovae import __version__, losses, plots
from spectrovae.errors import InputError
from spectrovae.evaluation import systems
from spectrovae.evaluation.players import wav_bytes
from spectrovae.evaluation.report import Card, Cell, Report, Row, number_text, sound_cards
from spectrovae.evaluation.systems import Log
from spectrovae.files import as_json, check_output, new_folder, write_json, write_text
from spectrovae.plots import DARK_INK, LIGHT_INK

RESULT = "fidelity.json"
FIDELITIES = (0.8, 0.9, 0.95, 0.99)
DEFINITIONS = (
    "Fidelity: the share of the posterior means' variance that lies along the first principal directions, in the "
    "training split.",
    "Distance: the spectral distance (losses.spectral_distance) between recordings and what is decoded, its median "
    "over clips; of no unit, and lower is better. Cut: the other directions at their mean. Drawn: at draws from "
    "N(0, 1).",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Directions:
    """Principal directions of latent vectors.

    Attributes:
        mean: [shape=(dimensions,)].
        axes: orthonormal rows, of greatest variance first [shape=(dimensions, dimensions)].
        variances: of the vectors along each [shape=(dimensions,)].
    """

    mean: np.ndarray
    axes: np.ndarray
    variances: np.ndarray

    @classmethod
    def fit(cls, batches: np.ndarray | Iterable[np.ndarray]) -> Directions:
        """Of vectors (count, dimensions), all at once or in batches of which only the covariance is held."""
        count, total, products, origin = 0, np.zeros(()), np.zeros(()), None
        for batch in [batches] if isinstance(batches, np.ndarray) else batches:
            batch = np.asarray(batch, np.float64)
            origin = batch.mean(axis=0) if origin is None else origin  # products of small numbers lose no digits
            batch = batch - origin
            count, total, products = count + len(batch), total + batch.sum(axis=0), products + batch.T @ batch
        if origin is None:
            raise InputError("directions need at least one vector, received none: look at the train split")
        mean = total / count
        variances, axes = np.linalg.eigh(products / count - np.outer(mean, mean))
        return cls(mean + origin, axes.T[::-1], np.maximum(variances[::-1], 0.0))

    @property
    def fidelity(self) -> np.ndarray:
        """Share of the variance along the first 1, 2, ... directions [shape=(dimensions,)]."""
        total = self.variances.sum()
        return np.cumsum(self.variances) / total if total > 0 else np.ones(len(self.variances))

    def needed(self, fidelity: float) -> int:
        """The fewest directions that reach a fidelity."""
        return int(np.searchsorted(self.fidelity, fidelity - 1e-12) + 1)

    def kept(self, vectors: np.ndarray, count: int, drawn: np.ndarray | None = None) -> np.ndarray:
        """Vectors (..., dimensions) of whose coordinates the first ``count`` are kept.

        Args:
            drawn: what the others are, draws from N(0, 1) of the vectors' shape; None leaves them at 0, the mean.
        """
        coordinates = (vectors - self.mean) @ self.axes.T
        coordinates[..., count:] = 0.0 if drawn is None else drawn[..., count:]
        return (coordinates @ self.axes + self.mean).astype(np.float32)


def fidelity(
    codec: Any,
    recordings: Any,
    out: str | os.PathLike,
    *,
    split: str = "test",
    limit: int | None = 200,
    fidelities: Sequence[float] = FIDELITIES,
    samples: int = 2,
    batch_size: int = 16,
    seed: int = 0,
    force: bool = False,
    log: Log = systems.to_stderr,
) -> dict[str, Any]:
    """Write the study of a codec whose latent is one tensor of numbers, its last axis the dimensions.

    Args:
        recordings: at the codec's rate, a segment each; directions are of the split ``train``.
        split: whose clips are decoded, at most ``limit`` of them, evenly spaced.
        fidelities: each from 0 to 1.
        samples: clips that the page plays.
        seed: of the draws.

    Raises:
        InputError: another kind of latent, a fidelity out of range, or an output that may not be replaced.
    """
    if len(codec.latent_shapes) != 1 or codec.latent_types[0].is_integer:
        raise InputError(
            f"fidelity needs a latent of one tensor of numbers, {codec.name} ({codec.family}) has "
            f"{[list(shape) for shape in codec.latent_shapes]} of {codec.latent_types[0].name}"
        )
    if not fidelities or not all(0.0 < value <= 1.0 for value in fidelities):
        raise InputError(f"fidelities must be above 0 and at most 1, received {list(fidelities)}")
    check_output(out, force=force, mark=RESULT)
    data = systems.data_of(recordings, split, [codec], log=log)
    dimensions = codec.latent_shapes[0][-1]
    indices = systems.chosen_clips(recordings, split, limit)
    vectors = (codec.encode(np.asarray(batch)).reshape(-1, dimensions) for batch in recordings.waveforms("train"))
    directions = Directions.fit(vectors)
    log(f"directions from the training split; decoding {len(indices)} clips of the {split} split")
    needed = {f"{value:g}": directions.needed(value) for value in fidelities}
    counts = sorted({1, *needed.values(), dimensions})
    distances: dict[tuple[int, str], list[np.ndarray]] = {(n, how): [] for n in counts for how in ("cut", "drawn")}
    heard: dict[int, list[tuple[str, np.ndarray]]] = {
        index: [] for index in (systems.spread(indices, samples) if samples > 0 else [])
    }
    for found, waveforms in systems.batches(recordings, split, indices, batch_size):
        latent = codec.encode(waveforms)
        # of each clip the same, whatever else is in its batch and however many directions are drawn
        noise = np.stack([np.random.default_rng([seed, index]).standard_normal(latent.shape[1:]) for index in found])
        played = [(row, index) for row, index in enumerate(found) if index in heard]
        for row, index in played:
            heard[index].append(("recording", waveforms[row]))
        for count, how in distances:
            kept = directions.kept(latent, count, noise if how == "drawn" else None)
            decoded = codec.decode(kept, waveforms.shape[1])
            distances[count, how].append(np.asarray(losses.spectral_distance(waveforms, decoded)))
            for row, index in played:
                if how == "cut" or count < dimensions:
                    heard[index].append((f"{count} of {dimensions}, the rest {how}", decoded[row]))
    rows = []
    for count in counts:
        cut, drawn = (float(np.median(np.concatenate(distances[count, how]))) for how in ("cut", "drawn"))
        rows.append(
            {"directions": count, "fidelity": float(directions.fidelity[count - 1]), "cut": cut, "drawn": drawn}
        )
    result = {
        "spectrovae": __version__, "data": data, "name": codec.name, "family": codec.family, "split": split,
        "clips": len(indices), "seed": seed, "dimensions": dimensions, "needed": needed, "rows": rows,
        "curve": [float(value) for value in directions.fidelity],
    }  # fmt: skip
    result = as_json(result)
    with new_folder(out, force=force, mark=RESULT) as folder:
        write_json(folder / RESULT, result)
        write_text(folder / "fidelity.csv", systems.csv_text(result["rows"]))
        plots.fidelity_figure(result["curve"], rows).savefig(folder / "fidelity.png", dpi=130)
        (folder / "samples").mkdir()
        for index, made in heard.items():
            for title, waveform in made:
                file = folder / "samples" / f"{index}-{systems.file_stem(title)}.wav"
                file.write_bytes(wav_bytes(waveform, codec.sample_rate))
        _page(result, heard, codec).save(folder / "report.html")
    return result


def format_fidelity(result: Mapping[str, Any]) -> str:
    """The figures as text."""
    lines = [f"{result['name']}: {result['dimensions']} dimensions, {result['clips']} clips of {result['split']}"]
    lines += [f"fidelity {value}: {count} directions" for value, count in result["needed"].items()]
    lines.append(f"{'directions':>10}  {'fidelity':>8}  {'cut':>8}  {'drawn':>8}")
    lines += [
        f"{row['directions']:>10}" + "".join(f"  {number_text(row[x], 3):>8}" for x in ("fidelity", "cut", "drawn"))
        for row in result["rows"]
    ]
    return "\n".join(lines)


def _page(result: Mapping[str, Any], heard: Mapping[int, list], codec: Any) -> Report:
    report = Report(
        f"Fidelity of {result['name']}",
        f"{result['dimensions']} dimensions; {result['clips']} clips of the {result['split']} split.",
        result["data"],
    )
    report.table("Directions needed", ("fidelity", "directions"), [
        Row([Cell(value), Cell(str(count), order=count)]) for value, count in result["needed"].items()
    ])  # fmt: skip
    report.table("Decoded with the first directions alone", ("directions", "fidelity", "cut", "drawn"), [
        Row([Cell(str(row["directions"]), order=row["directions"]),
             *(Cell(number_text(row[name], 3), order=row[name]) for name in ("fidelity", "cut", "drawn"))])
        for row in result["rows"]
    ])  # fmt: skip
    report.notes(DEFINITIONS)
    bright, dark = (
        plots.png(plots.fidelity_figure(result["curve"], result["rows"], ink=ink)) for ink in (DARK_INK, LIGHT_INK)
    )
    alt = "Fidelity against the number of directions, and the spectral distance of what is decoded with them"
    report.cards("Curves", [Card("", bright, alt, dark_picture=dark)], wide=True)
    for index, made in heard.items():
        entries = [(title, np.asarray(codec.representation.decibels(x[None]))[0], x) for title, x in made]
        report.cards(f"Clip {index}", sound_cards(entries, codec.representation))
    return report
