"""What becomes of a disturbance on its way through a model: smaller, larger, or undone.

With x a dB spectrogram, x~ the same disturbed before it is normalised, f a model in dB, and d the RMSE in dB
over all cells, three figures at each severity:

consistency  d(f(x~), f(x))             how far the disturbance moves the output
fidelity     d(f(x~), x)                how far the output is from the clean input
gain         d(f(x~), f(x)) / d(x~, x)  how much of the disturbance passes: 1 for the identity, 0 for a
constant

A model that ignores its input has perfect consistency, so consistency alone is no merit: read fidelity with
it. Disturbances are drawn (``perturbations``), or the worst of a ball (``worst_case``); ``drift`` is what they do
to the latent.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from spectrovae import __version__
from spectrovae.errors import InputError
from spectrovae.evaluation import systems, worst_case
from spectrovae.evaluation.disturbed import Measured, courses_of
from spectrovae.evaluation.report import number_text
from spectrovae.evaluation.robustness_page import FIGURES, listen, page
from spectrovae.evaluation.systems import Log
from spectrovae.files import as_json, check_output, new_folder, write_json, write_text

RESULT = "robustness.json"


def robustness(
    codecs: Sequence[Any],
    recordings: Any,
    out: str | os.PathLike,
    *,
    split: str = "test",
    perturbations: Sequence[str] = ("uniform",),
    seeds: int = 5,
    steps: int = worst_case.STEPS,
    limit: int | None = None,
    samples: int = 4,
    components: Sequence[int] = (32, 128),
    seed: int = 0,
    batch_size: int = 32,
    resamples: int = 10_000,
    force: bool = False,
    log: Log = systems.to_stderr,
) -> dict[str, Any]:
    """Disturb the inputs of codecs and baselines and write curves, tables, a page and sounds to a folder.

    The folder gets ``robustness.csv``, ``drift.csv``, ``robustness.json``, ``report.html`` and, at each perturbation's
    marked severity, ``samples/original``, ``samples/perturbed`` and ``samples/reconstructed`` as 16-bit wav. It appears
    whole at the end or not at all. Memory holds a batch and a few numbers for each clip.

    Args:
        codecs: models; those of one representation share its baselines.
        recordings: the data, opened at the codecs' sample rate and length; baselines are fitted on its train
            split.
        out: the folder to write.
        split: the split measured.
        perturbations: each ``NAME`` or ``NAME:SEVERITY,...``, of ``perturbations.PERTURBATIONS``, or ``worst-case``
            with radii in dB. Beside the worst case stands ``signs``, drawn from the corners of the same ball.
        seeds: independent disturbances of each clip, where anything is drawn; the worst case starts once.
        steps: of the ascent to the worst case.
        limit: measure this many clips, evenly spaced over the split, in place of all.
        samples: number of clips written as sound.
        components: sizes of the PCA baselines; the size of every vector latent is added.
        seed: the first of the disturbances' seeds, and the bootstrap's.
        batch_size: clips computed at once.
        resamples: bootstrap resamples.
        force: replace the result of an earlier run.
        log: receives progress, a line at a time.

    Returns:
        What ``robustness.json`` holds: ``settings``, ``representations``, flat ``rows``, one for each system and
        severity, and one undisturbed (perturbation "none"), with ``consistency_db``, ``fidelity_db``, ``gain``, their
        ``_low`` and ``_high``, the measured ``input_distance_db`` and, where there is one, that expected of the
        perturbation whatever the sound; and ``drift``, flat rows of each part of each model's latent.

    Raises:
        InputError: the output exists, a perturbation or severity is unknown, a codec does not fit the recordings, or
            the split is empty.
    """
    check_output(out, force=force, mark=RESULT)
    courses = courses_of(perturbations)
    for name, number in (("seeds", seeds), ("steps", steps), ("bootstrap resamples", resamples)):
        if number < 1:
            raise InputError(f"the number of {name} must be at least 1; received {number}")
    data = systems.data_of(recordings, split, codecs, log=log)
    indices = systems.chosen_clips(recordings, split, limit)
    heard = systems.spread(indices, samples) if samples > 0 else []
    groups = systems.gather(codecs, recordings, components, seed=seed, log=log)
    rows: list[dict[str, Any]] = []
    drifts: list[dict[str, Any]] = []
    options: dict[str, int] = {"resamples": resamples, "seed": seed}
    for group in groups:
        count = sum(len(course.severities) for course in courses)
        log(f"disturbing {len(indices)} clips of the {split} split in {count} ways ({group.label})")
        measured = Measured(group, courses, range(seed, seed + seeds), steps)
        done = 0
        for found, waveforms in systems.batches(recordings, split, indices, batch_size):
            measured.add(found, waveforms)
            done += len(found)
            log(f"  {done} of {len(indices)}")
        rows += measured.rows(recordings.samples, options)
        drifts += measured.drift_rows(options)
    result: dict[str, Any] = {
        "kind": "robustness",
        "spectrovae": __version__,
        "data": data,
        "settings": {
            "split": split,
            "clips": len(indices),
            "sample_rate": recordings.sample_rate,
            "clip_seconds": recordings.samples / recordings.sample_rate,
            "perturbations": [dataclasses.asdict(c) | {"severities": list(c.severities)} for c in courses],
            "seeds": seeds,
            "steps": steps,
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
        "drift": drifts,
    }
    result = as_json(result)
    rows, drifts = result["rows"], result["drift"]
    names = systems.clip_names(recordings, split, heard)
    with new_folder(out, force=force, mark=RESULT) as folder:
        write_json(folder / RESULT, result)
        write_text(folder / "robustness.csv", systems.csv_text(rows))
        write_text(folder / "drift.csv", systems.csv_text(drifts))
        report = page(result, [group.label for group in groups])
        for number, group in enumerate(groups, start=1):
            suffix = f"-{number}" if len(groups) > 1 else ""
            listen(report, folder / "samples", suffix, group, recordings, result["settings"], names)
        report.save(folder / "report.html")
    return result


def format_robustness(result: Mapping[str, Any]) -> str:
    """Every perturbation's figures as plain text."""
    lines = []
    settings = result["settings"]
    for representation in result["representations"]:
        lines.append(representation["label"])
        for course in settings["perturbations"]:
            rows, drifts = (
                [
                    row
                    for row in result[kind]
                    if (row["representation"], row["perturbation"]) == (representation["label"], course["name"])
                ]
                for kind in ("rows", "drift")
            )
            head = "".join(f"{severity:>9g}" for severity in course["severities"])
            for figure, (title, unit) in FIGURES.items():
                lines += _block(f"{title}, {unit}", head, [(row["name"], row[figure]) for row in rows])
            moved = [(f"{row['name']}, {row['part']} ({row['drift_unit']})", row["drift"]) for row in drifts]
            lines += _block("latent moved", head, moved)
            notes = {f"{row['name']}: {row['note']}" for row in rows if row["note"]}
            meaning = course["meaning"].format("N")
            lines += [f"columns: N of {meaning} ({course['unit']}){'; ' * bool(notes)}{', '.join(sorted(notes))}", ""]
    lines.append(f"{settings['clips']} clips, {settings['seeds']} seed{'s' * (settings['seeds'] != 1)}")
    return "\n".join(lines)


def _block(title: str, head: str, cells: Sequence[tuple[str, float | None]]) -> list[str]:
    names = dict.fromkeys(name for name, _ in cells)
    width = max(map(len, (title, *names)))
    lines = [f"{title:<{width}}{head}", "-" * (width + len(head))]
    for name in names:
        lines.append(f"{name:<{width}}" + "".join(f"{number_text(value):>9}" for own, value in cells if own == name))
    return [*lines, ""]
