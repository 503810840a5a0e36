"""The page of ``robustness``: curves, tables and sounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spectrovae.evaluation import systems, worst_case
from spectrovae.evaluation.disturbed import CLEAN
from spectrovae.evaluation.perturbations import perturbed_decibels
from spectrovae.evaluation.report import Card, Cell, Report, Row, interval_text, number_text, wav_bytes
from spectrovae.evaluation.systems import Group
from spectrovae.plots import DARK_INK, LIGHT_INK, Curve, curves_figure, png

FIGURES = {
    "consistency_db": ("consistency d(f(x~), f(x))", "dB"),
    "fidelity_db": ("fidelity d(f(x~), x)", "dB"),
    "gain": ("gain d(f(x~), f(x)) / d(x~, x)", "ratio"),
}
DEFINITIONS = (
    "x is the dB spectrogram of a clip, x~ the same disturbed before it is normalised, f the model, d the root of the "
    "mean squared difference in dB over all cells of all clips. Perturbations of the spectrogram are not clipped on "
    "the way, so that noise near the floor or the top of the range leaves it, on both sides of the model; those of the "
    "waveform come before the analysis, whose range they do not leave.",
    "Consistency d(f(x~), f(x)): how far the disturbance moves the output. Fidelity d(f(x~), x): how far the output is "
    "from the clean input; below the identity's curve the model removes more than it adds. "
    "Gain d(f(x~), f(x)) / d(x~, x): how much of the disturbance passes, 1 for the identity and 0 for a constant.",
    "A model that ignores its input is perfectly consistent, so consistency says nothing without fidelity. "
    "A variational model answers with its posterior mean.",
    "The worst case is found for each system by projected gradient ascent on the squared error against the clean "
    "input, within a ball of the largest change of a cell: a worse one may exist. Signs are drawn from the corners of "
    "the same ball.",
    "Latents are measured in their posterior's standard deviations (root of the mean square over dimensions and "
    "clips); those without a posterior in their own standard deviation over the clips; codes by the share that "
    "changed.",
    "Intervals cover 95 % (percentile bootstrap over clips, after averaging each clip's squared error over seeds); "
    "what is drawn is the same for every system, and the same pattern scaled at every severity.",
)
Settings = Mapping[str, Any]


def page(result: Mapping[str, Any], labels: Sequence[str]) -> Report:
    """The page without its sounds, of what ``robustness.json`` holds."""
    settings = result["settings"]
    models = list(dict.fromkeys(row["name"] for row in result["rows"] if row["kind"] == "model"))
    report = Report(
        f"{' and '.join(models) if len(models) < 3 else f'{len(models)} models'}, disturbed",
        f"{settings['clips']} clips of the {settings['split']} split, "
        f"{settings['seeds']} seed{'s' * (settings['seeds'] != 1)}: "
        f"{', '.join(course['name'] for course in settings['perturbations'])}.",
        result["data"],
    )
    for label in labels:
        own = [row for row in result["rows"] if row["representation"] == label]
        drifts = [row for row in result["drift"] if row["representation"] == label]
        if len(labels) > 1:
            report.section(label)
        for course in settings["perturbations"]:
            rows = [row for row in own if row["perturbation"] == course["name"]]
            clean = {row["name"]: row for row in own if row["perturbation"] == CLEAN}
            text = _meaning(course)
            title = f"{course['name'].replace('-', ' ').capitalize()}: {label}"
            report.section(title, "Bands are 95 % intervals; the vertical rule is at the severity of the table.")
            report.cards("", [_curve_card(rows, figure, course) for figure in FIGURES], wide=True)
            marked = [row for row in rows if row["severity"] == course["marked"]]
            report.table(text, _HEADS, [_figures_row(row, clean[row["name"]]) for row in marked])
            moved = [
                row
                for row in drifts
                if (row["perturbation"], row["severity"]) == (course["name"], course["marked"])
            ]  # fmt: skip
            report.table(f"Latents, {text}", ("latent", "moved", "in"), [_drift_row(row) for row in moved])
    report.notes(DEFINITIONS)
    return report


_HEADS = (
    "model", "family", "consistency\ndB", "fidelity\ndB", "gain", "fidelity undisturbed\ndB", "input moved\ndB",
)  # fmt: skip


def _meaning(course: Settings) -> str:
    return course["meaning"].format(f"{course['marked']:g}")


def _figures_row(row: Mapping[str, Any], clean: Mapping[str, Any]) -> Row:
    pairs = [*((row, name) for name in FIGURES), (clean, "fidelity_db")]
    cells = [Cell(number_text(own[name]), interval_text(own, name), own[name]) for own, name in pairs]
    moved = row["input_distance_db"]
    return Row(
        [Cell(row["name"], row["note"]), Cell(row["family"] or "–"), *cells, Cell(number_text(moved), "", moved)],
        row["kind"],
    )


def _drift_row(row: Mapping[str, Any]) -> Row:
    drift = Cell(number_text(row["drift"]), interval_text(row, "drift"), row["drift"])
    return Row([Cell(f"{row['name']}, {row['part']}"), drift, Cell(row["drift_unit"])])


def _curve_card(rows: Sequence[Mapping[str, Any]], figure: str, course: Settings) -> Card:
    title, unit = FIGURES[figure]
    curves = []
    for name in dict.fromkeys(row["name"] for row in rows):
        points = [row for row in rows if row["name"] == name and row[figure] is not None]
        if points:
            x, y, low, high = (
                [row[key] for row in points] for key in ("severity", figure, f"{figure}_low", f"{figure}_high")
            )
            curves.append(Curve(name, x, y, low, high, reference=points[0]["kind"] != "model"))
    xlabel = f"{course['name'].replace('-', ' ')} ({course['unit']})"
    light, dark = (
        png(curves_figure(curves, xlabel=xlabel, ylabel=unit, marked=course["marked"], ink=ink))
        for ink in (DARK_INK, LIGHT_INK)
    )
    spoken = "; ".join(f"{curve.name} {curve.y[-1]:.2f}" for curve in curves)
    return Card(title, light, f"{title} against {xlabel}. At the highest: {spoken}", dark_picture=dark)


def listen(
    report: Report,
    folder: Path,
    suffix: str,
    group: Group,
    recordings: Any,
    settings: Settings,
    names: Mapping[int, str],
) -> None:
    """Write the sounds of clips at each perturbation's marked severity, and put them on the page.

    Args:
        folder: of the wav files.
        suffix: of their names, where there are several groups.
        names: file name stem of each clip heard, by its index.
    """
    courses = [course for course in settings["perturbations"] if course["name"] != worst_case.NAME]
    if not names or not courses:
        return
    representation = group.representation
    models = [system for system in group.systems if system.kind == "model"]
    clips = {}
    chosen = systems.batches(recordings, settings["split"], list(names), 16)
    for index, waveform in (pair for batch in chosen for pair in zip(*batch)):
        clean = np.asarray(representation.decibels(waveform[None]))
        sounds = [("original", clean[0], waveform)]
        _write_wav(folder / "original" / f"{names[index]}.wav", waveform, recordings.sample_rate)
        for course in courses:
            noisy = perturbed_decibels(
                representation, waveform[None], course["marked"], [index], name=course["name"], seed=settings["seed"]
            )
            made = [("perturbed", "", _meaning(course), noisy)]
            made += [
                (
                    "reconstructed",
                    f"-{model.stem}",
                    f"{model.name} of that",
                    model.reconstruct(noisy),
                )
                for model in models
            ]
            for kind, system, title, db in made:
                sounds.append((title, db[0], group.synthesise(db, len(waveform))[0]))
                name = f"{names[index]}-{course['name']}{system}{suffix}.wav"
                _write_wav(folder / kind / name, sounds[-1][2], recordings.sample_rate)
        clips[names[index]] = sounds
    report.section("Listen" + (f": {group.label}" if suffix else ""))
    report.clips(clips, representation)


def _write_wav(path: Path, waveform: np.ndarray, sample_rate: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(wav_bytes(waveform, sample_rate))
