"""What becomes of a disturbance on its way through a model: smaller, larger, or undone.

With x a dB spectrogram, x~ the same disturbed before it is normalised, f a model in dB, and d the RMSE in dB
over all cells, three figures at each level:

consistency  d(f(x~), f(x))             how far the disturbance moves the output
fidelity     d(f(x~), x)                how far the output is from the clean input
gain         d(f(x~), f(x)) / d(x~, x)  how much of the disturbance passes: 1 for the identity, 0 for a
constant

A model that ignores its input has perfect consistency, so consistency alone is no merit: read fidelity with
it.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spectrovae import __version__
from spectrovae.errors import InputError
from spectrovae.evaluation import systems
from spectrovae.evaluation.metrics import level_channel, pooled_rmse, rmse_ratio
from spectrovae.evaluation.perturbations import PERTURBATIONS, perturb
from spectrovae.evaluation.report import (
    Card,
    Cell,
    Report,
    Row,
    check_output,
    interval_text,
    new_folder,
    number_text,
    wav_bytes,
)
from spectrovae.evaluation.systems import Group, Log
from spectrovae.files import write_json, write_text
from spectrovae.plots import DARK_INK, LIGHT_INK, Curve, curves_figure, png

RESULT = "robustness.json"
KINDS = ("moved", "missed", "disturbed")
FIGURES = {
    "consistency_db": ("consistency d(f(x~), f(x))", "dB"),
    "fidelity_db": ("fidelity d(f(x~), x)", "dB"),
    "gain": ("gain d(f(x~), f(x)) / d(x~, x)", "ratio"),
}
DEFINITIONS = (
    "x is the dB spectrogram of a clip, x~ the same with noise added before it is normalised, f the model, "
    "d the root of the mean squared difference in dB over all cells of all clips. Nothing is clipped on the "
    "way, so "
    "noise near the floor or the top of the range leaves it, on both sides of the model.",
    "Consistency d(f(x~), f(x)): how far the noise moves the output. Fidelity d(f(x~), x): how far the "
    "output is from "
    "the clean input; below the identity's curve the model removes more than it adds. "
    "Gain d(f(x~), f(x)) / d(x~, x): how much of the noise passes, 1 for the identity and 0 for a constant.",
    "A model that ignores its input is perfectly consistent, so consistency says nothing without fidelity. "
    "A variational model answers with its posterior mean.",
    "Intervals cover 95 % (percentile bootstrap over clips, after averaging each clip's squared error over "
    "seeds); the "
    "noise is the same for every system, and the same pattern scaled at every level.",
)


def robustness(
    codecs: Sequence[Any],
    recordings: Any,
    out: str | os.PathLike,
    *,
    split: str = "test",
    perturbation: str = "uniform",
    levels: Sequence[float] = (0, 1, 2, 5, 10, 15, 20),
    marked: float = 10,
    seeds: int = 5,
    limit: int | None = None,
    samples: int = 4,
    components: Sequence[int] = (32, 128),
    seed: int = 0,
    batch_size: int = 32,
    resamples: int = 10_000,
    force: bool = False,
    log: Log = systems.to_stderr,
) -> dict[str, Any]:
    """Disturb the inputs of codecs and baselines in dB and write curves, tables, a page and sounds to a
    folder.

    The folder gets ``robustness.csv``, ``robustness.json``, ``report.html`` and, at the marked level,
    ``samples/original``, ``samples/perturbed`` and ``samples/reconstructed`` as 16-bit wav. It appears whole
    at the end or not at all.

    Args:
        codecs: models; those of one representation share its baselines.
        recordings: the data, opened at the codecs' sample rate and length; baselines are fitted on its train
            split.
        out: the folder to write.
        split: the split measured.
        perturbation: a key of ``perturbations.PERTURBATIONS``.
        levels: strengths of the disturbance: for "uniform" the half-width in dB.
        marked: the level tabulated, heard and marked on the curves; one of ``levels``.
        seeds: independent disturbances of each clip.
        limit: measure this many clips, evenly spaced over the split, in place of all.
        samples: number of clips written as sound.
        components: sizes of the PCA baselines; the size of every vector latent is added.
        seed: the first of the disturbances' seeds, and the bootstrap's.
        batch_size: clips computed at once.
        resamples: bootstrap resamples.
        force: replace the result of an earlier run.
        log: receives progress, a line at a time.

    Returns:
        What ``robustness.json`` holds: ``settings``, ``representations`` and flat ``rows``, one for each
        system and level, with ``consistency_db``, ``fidelity_db``, ``gain``, their ``_low`` and ``_high``,
        the measured ``input_distance_db`` and the one expected of the perturbation whatever the sound.

    Raises:
        InputError: the output exists, a level is not a number of dB, ``marked`` is not among the levels, a
        codec does
            not fit the recordings, or the split is empty.
    """
    check_output(out, force=force, mark=RESULT)
    levels = _checked_levels(perturbation, levels, marked, seeds)
    indices = systems.chosen_clips(recordings, split, limit)
    heard = systems.spread(indices, samples) if samples > 0 else []
    groups = systems.gather(codecs, recordings, components, seed=seed, log=log)
    rows: list[dict[str, Any]] = []
    for group in groups:
        log(f"disturbing {len(indices)} clips of the {split} split at {len(levels)} levels ({group.label})")
        squares = _measure(
            group,
            recordings,
            split,
            indices,
            perturbation,
            levels,
            range(seed, seed + seeds),
            batch_size,
            log,
        )
        cells = np.full(len(indices), np.prod(group.representation.feature_shape(recordings.samples)), np.float64)
        options: dict[str, int] = {"resamples": resamples, "seed": seed}
        for system in group.systems:
            for level in levels:
                moved, missed, disturbed = (squares[system.name, level, kind] for kind in KINDS)
                rows.append(
                    {
                        "representation": group.label,
                        "name": system.name,
                        "kind": system.kind,
                        "perturbation": perturbation,
                        "level_db": level,
                        "expected_input_distance_db": PERTURBATIONS[perturbation].distance(level),
                        "input_distance_db": float(np.sqrt(disturbed.sum() / cells.sum())),
                        **systems.estimate_fields("consistency_db", pooled_rmse(moved, cells, **options)),
                        **systems.estimate_fields("fidelity_db", pooled_rmse(missed, cells, **options)),
                        **systems.estimate_fields("gain", rmse_ratio(moved, disturbed, **options)),
                    }
                )
    result: dict[str, Any] = {
        "kind": "robustness",
        "spectrovae": __version__,
        "settings": {
            "split": split,
            "clips": len(indices),
            "sample_rate": recordings.sample_rate,
            "clip_seconds": recordings.samples / recordings.sample_rate,
            "perturbation": perturbation,
            "levels_db": levels,
            "marked_db": float(marked),
            "seeds": seeds,
            "limit": limit,
            "samples": samples,
            "components": list(components),
            "seed": seed,
            "batch_size": batch_size,
            "resamples": resamples,
            "confidence": 0.95,
        },
        "representations": [{"label": g.label, "config": g.representation.get_config()} for g in groups],
        "rows": rows,
    }
    names = systems.clip_names(recordings, split, heard)
    with new_folder(out, force=force, mark=RESULT) as folder:
        write_json(folder / RESULT, result)
        write_text(folder / "robustness.csv", systems.csv_text(rows))
        report = _page(result, groups)
        for number, group in enumerate(groups, start=1):
            suffix = f"-{number}" if len(groups) > 1 else ""
            _listen(report, folder / "samples", suffix, group, recordings, result["settings"], names)
        report.save(folder / "report.html")
    return result


def format_robustness(result: Mapping[str, Any]) -> str:
    """Consistency, fidelity and gain at every level as plain text, at most 120 columns wide for ten
    levels."""
    lines = []
    levels = result["settings"]["levels_db"]
    for representation in result["representations"]:
        lines.append(representation["label"])
        rows = [row for row in result["rows"] if row["representation"] == representation["label"]]
        for figure, (title, unit) in FIGURES.items():
            head = "".join(f"{level:>9g}" for level in levels)
            lines += [f"{f'{title}, {unit}':<36.36}{head}", "-" * (36 + len(head))]
            for name in dict.fromkeys(row["name"] for row in rows):
                values = "".join(f"{number_text(row[figure]):>9}" for row in rows if row["name"] == name)
                lines.append(f"{name:<36.36}{values}")
            lines.append("")
    settings = result["settings"]
    lines.append(
        f"{settings['clips']} clips, {settings['seeds']} seeds; columns: level of the disturbance "
        f"({PERTURBATIONS[settings['perturbation']].meaning}), dB."
    )
    return "\n".join(lines)


def _checked_levels(perturbation: str, levels: Sequence[float], marked: float, seeds: int) -> list[float]:
    if perturbation not in PERTURBATIONS:
        raise InputError(f"unknown perturbation {perturbation!r}: choose one of {', '.join(PERTURBATIONS)}")
    checked = sorted({float(level) for level in levels})
    if not all(np.isfinite(level) and level >= 0 for level in checked) or not any(checked):
        raise InputError(
            f"the levels must be numbers of dB, 0 or more and one at least above 0; received {list(levels)}"
        )
    if float(marked) not in checked:
        raise InputError(f"the marked level must be one of the levels {checked}; received {marked}")
    if seeds < 1:
        raise InputError(f"the number of seeds must be at least 1; received {seeds}")
    return checked


def _measure(
    group: Group,
    recordings: Any,
    split: str,
    indices: Sequence[int],
    perturbation: str,
    levels: Sequence[float],
    seeds: Sequence[int],
    batch_size: int,
    log: Log,
) -> dict[tuple[str, float, str], np.ndarray]:
    """Return sums of squared dB over cells, averaged over seeds, (clips,), by system, level and kind.

    The ``KINDS``: "moved" f(x~) - f(x), "missed" f(x~) - x, "disturbed" x~ - x.
    """
    squares: dict[tuple[str, float, str], list[np.ndarray]] = defaultdict(list)
    done = 0
    for found, waveforms in systems.batches(recordings, split, indices, batch_size):
        clean = np.asarray(group.representation.decibels(waveforms))
        outputs = {system.name: system.reconstruct(clean) for system in group.systems}
        for level in levels:
            sums = {(system.name, level, kind): np.zeros(len(found)) for system in group.systems for kind in KINDS}
            for noise_seed in seeds:
                noisy = perturb(clean, level, found, name=perturbation, seed=noise_seed)
                disturbed = _squared(noisy, clean)
                for system in group.systems:
                    output = outputs[system.name] if level == 0 else system.reconstruct(noisy)
                    values = (_squared(output, outputs[system.name]), _squared(output, clean), disturbed)
                    for kind, value in zip(KINDS, values):
                        sums[system.name, level, kind] += value / len(seeds)
            for key, value in sums.items():
                squares[key].append(value)
        done += len(found)
        log(f"  {done} of {len(indices)}")
    return {key: np.concatenate(value) for key, value in squares.items()}


def _squared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Sum of squared differences in level of each clip, in float64."""
    return np.square(np.subtract(level_channel(a), level_channel(b), dtype=np.float64)).sum(axis=(1, 2, 3))


def _page(result: Mapping[str, Any], groups: Sequence[Group]) -> Report:
    settings = result["settings"]
    models = list(dict.fromkeys(row["name"] for row in result["rows"] if row["kind"] == "model"))
    marked = settings["marked_db"]
    expected = PERTURBATIONS[settings["perturbation"]].distance(marked)
    report = Report(
        f"{' and '.join(models) if len(models) < 3 else f'{len(models)} models'}, disturbed",
        f"{settings['clips']} clips of the {settings['split']} split, {settings['seeds']} seeds. The "
        "disturbance: "
        f"{PERTURBATIONS[settings['perturbation']].meaning}, before normalising.",
    )
    for group in groups:
        rows = [row for row in result["rows"] if row["representation"] == group.label]
        report.section(f"Curves: {group.label}", "Bands are 95 % intervals; the vertical rule is at the marked level.")
        report.cards("", [_curve_card(rows, figure, marked) for figure in FIGURES], wide=True)
        report.section(
            f"At {marked:g} dB",
            f"Level {marked:g} dB moves any input by {expected:.2f} dB RMS, whatever the sound.",
        )
        report.table(
            f"Level {marked:g} dB",
            (
                "model",
                "consistency\ndB",
                "fidelity\ndB",
                "gain",
                "fidelity undisturbed\ndB",
                "input moved\ndB",
            ),
            _table_rows(rows, marked),
        )
    report.notes(DEFINITIONS)
    return report


def _table_rows(rows: Sequence[Mapping[str, Any]], marked: float) -> list[Row]:
    undisturbed = {row["name"]: row for row in rows if row["level_db"] == 0}
    table = []
    for row in (row for row in rows if row["level_db"] == marked):
        cells = [Cell(row["name"])]
        cells += [Cell(number_text(row[name]), interval_text(row, name), row[name]) for name in FIGURES]
        clean = undisturbed.get(row["name"])
        cells.append(
            Cell(number_text(clean["fidelity_db"]), interval_text(clean, "fidelity_db"), clean["fidelity_db"])
            if clean
            else Cell("–")
        )
        cells.append(Cell(number_text(row["input_distance_db"]), "", row["input_distance_db"]))
        table.append(Row(cells, row["kind"]))
    return table


def _curve_card(rows: Sequence[Mapping[str, Any]], figure: str, marked: float) -> Card:
    title, unit = FIGURES[figure]
    curves = []
    for name in dict.fromkeys(row["name"] for row in rows):
        points = [row for row in rows if row["name"] == name and row[figure] is not None]
        if points:
            x, y, low, high = (
                [row[key] for row in points] for key in ("level_db", figure, f"{figure}_low", f"{figure}_high")
            )
            curves.append(Curve(name, x, y, low, high, reference=points[0]["kind"] != "model"))
    light, dark = (
        png(curves_figure(curves, xlabel="level of the disturbance (dB)", ylabel=unit, marked=marked, ink=ink))
        for ink in (DARK_INK, LIGHT_INK)
    )
    spoken = "; ".join(f"{curve.name} {curve.y[-1]:.2f}" for curve in curves)
    return Card(title, light, f"{title} against the level in dB. At the highest level: {spoken}", dark_picture=dark)


def _listen(
    report: Report,
    folder: Path,
    suffix: str,
    group: Group,
    recordings: Any,
    settings: Mapping[str, Any],
    names: Mapping[int, str],
) -> None:
    """Write the sounds at the marked level and add them to the page."""
    if not names:
        return
    marked, representation = settings["marked_db"], group.representation
    models = [system for system in group.systems if system.kind == "model"]
    clips = {}
    chosen = systems.batches(recordings, settings["split"], list(names), 16)
    for index, waveform in (pair for batch in chosen for pair in zip(*batch)):
        clean = np.asarray(representation.decibels(waveform[None]))
        noisy = perturb(clean, marked, [index], name=settings["perturbation"], seed=settings["seed"])
        made = [("perturbed", "", f"disturbed, level {marked:g} dB", noisy)]
        made += [
            ("reconstructed", model.name, f"{model.name} of the disturbed", model.reconstruct(noisy))
            for model in models
        ]
        sounds = [("original", clean[0], waveform)]
        _write_wav(folder / "original" / f"{names[index]}.wav", waveform, recordings.sample_rate)
        for kind, system, title, db in made:
            sounds.append((title, db[0], group.synthesise(db, len(waveform))[0]))
            name = f"{names[index]}{'-' + systems.file_stem(system) if system else ''}{suffix}.wav"
            _write_wav(folder / kind / name, sounds[-1][2], recordings.sample_rate)
        clips[names[index]] = sounds
    report.section(f"Listen at {marked:g} dB")
    report.clips(clips, representation)


def _write_wav(path: Path, waveform: np.ndarray, sample_rate: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(wav_bytes(waveform, sample_rate))
