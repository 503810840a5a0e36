"""Models side by side on the same clips, beside the baselines and the representation's own ceiling.

Two things are measured. *Spectrogram*: the decoder's dB spectrogram against the input's. *Sound*: the
waveform that Griffin-Lim makes of it, analysed again, against the original; the ceiling is the sound of the
undisturbed input, the best any model of that representation can hope for.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spectrovae import __version__
from spectrovae.evaluation import systems
from spectrovae.evaluation.metrics import ACTIVE_MARGIN_DB, Errors, mean, pooled_rmse, spectral_convergence
from spectrovae.evaluation.perturbations import perturb
from spectrovae.evaluation.report import (
    Cell,
    Report,
    Row,
    check_output,
    count_text,
    duration_text,
    interval_text,
    new_folder,
    number_text,
    wav_bytes,
)
from spectrovae.evaluation.systems import Group, Log, System
from spectrovae.files import write_json, write_text

MODIFIED_LEVEL_DB = 10.0
RESULT = "compare.json"

DEFINITIONS = (
    "RMSE: root of the mean squared error in dB over all cells of all clips. LSD: log-spectral distance in "
    "dB, the RMS "
    "over the bins of a frame, then the mean over frames and clips. Outputs are not clipped to the dB range.",
    f"Active cells: those whose input is more than {ACTIVE_MARGIN_DB:g} dB above the floor of the "
    "representation's "
    "range. Silence and padding are easy, so the figures over all cells flatter every system.",
    "Convergence: spectral convergence in dB of the sound after Griffin-Lim, 20 log10 of the relative error "
    "of its "
    "magnitudes against the original's; lower is better, and silence scores 0. Sound LSD: the log-spectral "
    "distance of "
    "the same. Neither compares across representations of different settings.",
    "Ceiling: the input's own spectrogram through Griffin-Lim. Identity, PCA-k and mean are baselines "
    "fitted on the "
    "train split. KL is that of the posterior from N(0, I), in nats per clip, the mean over the clips.",
    "Intervals cover 95 % (percentile bootstrap over clips): they speak for other clips of this kind, "
    "not for other trainings of the model.",
)


def compare(
    codecs: Sequence[Any],
    recordings: Any,
    out: str | os.PathLike,
    *,
    split: str = "test",
    limit: int | None = None,
    samples: int = 8,
    components: Sequence[int] = (8, 32, 128),
    seed: int = 0,
    batch_size: int = 32,
    resamples: int = 10_000,
    force: bool = False,
    log: Log = systems.to_stderr,
) -> dict[str, Any]:
    """Measure codecs and baselines on one split and write tables, a page and sounds to a folder.

    The folder gets ``compare.csv``, ``compare.json``, ``report.html`` and ``samples/original``,
    ``samples/generated`` (each model's output) and ``samples/modified`` (its output for an input disturbed by
    uniform noise of +-10 dB, and that input), as 16-bit wav. It appears whole at the end or not at all.

    Args:
        codecs: models; those of one representation share its baselines.
        recordings: the data, opened at the codecs' sample rate and length; baselines are fitted on its train
            split.
        out: the folder to write.
        split: the split measured.
        limit: measure this many clips, evenly spaced over the split, in place of all.
        samples: number of clips written as sound.
        components: sizes of the PCA baselines; the size of every vector latent is added.
        seed: of the bootstrap, the perturbation and the choice of clips to fit on.
        batch_size: clips computed at once, also when speed is measured.
        resamples: bootstrap resamples.
        force: replace the result of an earlier comparison.
        log: receives progress, a line at a time.

    Returns:
        What ``compare.json`` holds: ``settings``, ``representations`` and flat ``rows`` (dB, nats, seconds;
        None where a figure does not apply), each figure with ``_low`` and ``_high`` beside it.

    Raises:
        InputError: the output exists, a codec does not fit the recordings, or the split is empty.
    """
    check_output(out, force=force, mark=RESULT)
    indices = systems.chosen_clips(recordings, split, limit)
    heard = systems.spread(indices, samples) if samples > 0 else []
    groups = systems.gather(codecs, recordings, components, seed=seed, log=log)
    rows, sounds = [], []
    for group in groups:
        log(f"measuring {len(indices)} clips of the {split} split ({group.label})")
        measured = _measure(group, recordings, split, indices, batch_size, log)
        first = next(systems.batches(recordings, split, indices[:batch_size], batch_size))[1]
        speed_db = np.asarray(group.representation.decibels(first))
        for system in group.systems:
            row = _figures(*measured[system.name], resamples=resamples, seed=seed)
            speed = system.clips_per_second(speed_db) if system.kind == "model" else None
            rows.append(_row(group, system, row, speed))
        ceiling = _figures(None, *measured["identity"][1:], resamples=resamples, seed=seed)
        rows.append(_row(group, None, ceiling, None))
        sounds.append(_sounds(group, recordings, split, heard, seed))
    result = {
        "kind": "comparison",
        "spectrovae": __version__,
        "settings": {
            "split": split,
            "clips": len(indices),
            "sample_rate": recordings.sample_rate,
            "clip_seconds": recordings.samples / recordings.sample_rate,
            "limit": limit,
            "samples": samples,
            "modified_level_db": MODIFIED_LEVEL_DB,
            "active_margin_db": ACTIVE_MARGIN_DB,
            "components": list(components),
            "seed": seed,
            "batch_size": batch_size,
            "resamples": resamples,
            "confidence": 0.95,
        },
        "representations": [{"label": g.label, "config": g.representation.get_config()} for g in groups],
        "rows": rows,
    }
    with new_folder(out, force=force, mark=RESULT) as folder:
        write_json(folder / RESULT, result)
        write_text(folder / "compare.csv", systems.csv_text(rows))
        names = systems.clip_names(recordings, split, heard)
        _write_sounds(folder / "samples", sounds, names, recordings.sample_rate)
        _page(result, groups, sounds, names, recordings.sample_rate).save(folder / "report.html")
    return result


def format_comparison(result: Mapping[str, Any]) -> str:
    """The comparison as plain text, at most 120 columns wide."""
    columns = (
        "model", "RMSE dB", "95 %", "active", "LSD", "active", "converg.", "snd LSD", "params", "trained",
        "clips/s", "KL",
    )  # fmt: skip
    widths = (20, 7, 13, 6, 6, 6, 8, 7, 7, 7, 8, 6)
    lines = []
    for representation in result["representations"]:
        lines += [representation["label"], _aligned(columns, widths), "-" * (sum(widths) + len(widths) - 1)]
        for row in result["rows"]:
            if row["representation"] == representation["label"]:
                numbers = [number_text(row[name]) for name in ("rmse_active_db", "lsd_db", "lsd_active_db")]
                cells = (
                    row["name"], number_text(row["rmse_db"]), interval_text(row, "rmse_db"), *numbers,
                    number_text(row["convergence_db"], 1), number_text(row["sound_lsd_db"]),
                    count_text(row["parameters"]), duration_text(row["training_seconds"]),
                    count_text(row["clips_per_second"]), number_text(row["kl_nats"], 1),
                )  # fmt: skip
                lines.append(_aligned(cells, widths))
        lines.append("")
    settings = result["settings"]
    lines.append(
        f"{settings['clips']} clips of the {settings['split']} split, {settings['clip_seconds']:g} s each. "
        "RMSE and LSD in dB "
        "over all and over active cells;\nconvergence and sound LSD (dB) after Griffin-Lim; KL in nats. "
        "Lower is better."
    )
    return "\n".join(lines)


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    """The first cell to the left, the others to the right; a name that is too long ends in three dots."""
    name = cells[0] if len(cells[0]) <= widths[0] else cells[0][: widths[0] - 3] + "..."
    return " ".join([name.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:]))])


class Measured(NamedTuple):
    """Of a system: errors of the spectrogram and of the sound, and by clip convergence (dB) and KL (nats, or none)."""

    spectrogram: Errors
    sound: Errors
    convergence: np.ndarray
    kl: np.ndarray | None


def _measure(
    group: Group, recordings: Any, split: str, indices: Sequence[int], batch_size: int, log: Log
) -> dict[str, Measured]:
    """Return what was measured of each system."""
    representation = group.representation
    parts: dict[str, list[Measured]] = defaultdict(list)
    done = 0
    for found, waveforms in systems.batches(recordings, split, indices, batch_size):
        reference = np.asarray(representation.decibels(waveforms))
        for system in group.systems:
            output = system.reconstruct(reference)
            sound = np.asarray(representation.decibels(group.synthesise(output, waveforms.shape[1])))
            sound_errors = Errors.measure(reference, sound, representation.min_db)
            # against silence a ratio of magnitudes says nothing
            convergence = np.where(sound_errors.cells_active > 0, spectral_convergence(reference, sound), np.nan)
            spectrogram = Errors.measure(reference, output, representation.min_db)
            parts[system.name].append(Measured(spectrogram, sound_errors, convergence, system.kl_nats(reference)))
        done += len(found)
        log(f"  {done} of {len(indices)}")
    return {name: _joined(measured) for name, measured in parts.items()}


def _joined(parts: Sequence[Measured]) -> Measured:
    kl = [part.kl for part in parts if part.kl is not None]
    return Measured(
        Errors.concatenate([part.spectrogram for part in parts]),
        Errors.concatenate([part.sound for part in parts]),
        np.concatenate([part.convergence for part in parts]),
        np.concatenate(kl) if kl else None,
    )


def _figures(
    spectrogram: Errors | None,
    sound: Errors,
    convergence: np.ndarray,
    kl: np.ndarray | None,
    *,
    resamples: int,
    seed: int,
) -> dict[str, float | None]:
    options: dict[str, int] = {"resamples": resamples, "seed": seed}
    sound_figures = sound.summary(**options)
    figures = sound_figures if spectrogram is None else spectrogram.summary(**options)
    fields: dict[str, float | None] = {}
    for name, estimate in figures.items():
        fields |= systems.estimate_fields(name, estimate)
    if spectrogram is None:
        fields = dict.fromkeys(fields)
    fields |= systems.estimate_fields("convergence_db", mean(convergence, **options))
    fields |= systems.estimate_fields("sound_rmse_db", pooled_rmse(sound.squared, sound.cells, **options))
    fields |= systems.estimate_fields("sound_lsd_db", sound_figures["lsd_db"])
    return fields | {"kl_nats": None if kl is None else float(np.mean(kl))}


def _row(group: Group, system: System | None, figures: dict[str, float | None], speed: float | None) -> dict[str, Any]:
    """One flat row; without a system, the ceiling's."""
    return {
        "representation": group.label,
        "name": "ceiling" if system is None else system.name,
        "kind": "ceiling" if system is None else system.kind,
        **figures,
        "parameters": None if system is None else system.parameters,
        "training_seconds": None if system is None else system.info.get("training_seconds"),
        "clips_per_second": speed,
    }


class Sound(NamedTuple):
    """One sound of a clip: the folder it is written to, the system that made it, a title, its dB spectrogram
    (bins, frames, 1) and its waveform (samples,)."""

    folder: str
    system: str
    title: str
    db: np.ndarray
    waveform: np.ndarray


def _sounds(group: Group, recordings: Any, split: str, heard: Sequence[int], seed: int) -> dict[int, list[Sound]]:
    """Return the sounds of each clip heard, the original first."""
    sounds = {}
    models = [system for system in group.systems if system.kind == "model"]
    for index, waveform in (pair for batch in systems.batches(recordings, split, heard, 16) for pair in zip(*batch)):
        original = np.asarray(group.representation.decibels(waveform[None]))
        modified = perturb(original, MODIFIED_LEVEL_DB, [index], seed=seed)
        made = [("generated", "ceiling", "ceiling: input through Griffin-Lim", original)]
        made += [("generated", model.name, model.name, model.reconstruct(original)) for model in models]
        made += [("modified", "input", f"input ±{MODIFIED_LEVEL_DB:g} dB", modified)]
        made += [
            (
                "modified",
                model.name,
                f"{model.name} of ±{MODIFIED_LEVEL_DB:g} dB",
                model.reconstruct(modified),
            )
            for model in models
        ]
        sounds[index] = [Sound("original", "", "original", original[0], waveform)]
        for folder, system, title, db in made:
            sounds[index].append(Sound(folder, system, title, db[0], group.synthesise(db, len(waveform))[0]))
    return sounds


def _write_sounds(
    folder: Path, groups: Sequence[Mapping[int, Sequence[Sound]]], names: Mapping[int, str], sample_rate: int
) -> None:
    for number, clips in enumerate(groups, start=1):
        suffix = f"-{number}" if len(groups) > 1 else ""
        for index, made in clips.items():
            for sound in made:
                system = f"-{systems.file_stem(sound.system)}{suffix}" if sound.system else ""
                path = folder / sound.folder / f"{names[index]}{system}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(wav_bytes(sound.waveform, sample_rate))


def _page(
    result: Mapping[str, Any],
    groups: Sequence[Group],
    sounds: Sequence[Mapping[int, Sequence[Sound]]],
    names: Mapping[int, str],
    sample_rate: int,
) -> Report:
    settings = result["settings"]
    models = [row["name"] for row in result["rows"] if row["kind"] == "model"]
    report = Report(
        f"{' and '.join(models) if len(models) < 3 else f'{len(models)} models'}, compared",
        f"{settings['clips']} clips of the {settings['split']} split, {settings['clip_seconds']:g} s each at "
        f"{sample_rate} Hz, through every model and every baseline. Small figures are 95 % intervals.",
    )
    report.section("Figures")
    for group in groups:
        rows = [row for row in result["rows"] if row["representation"] == group.label]
        report.table(group.label, _HEADS, [Row(_cells(row), row["kind"]) for row in rows])
    report.notes(DEFINITIONS)
    for group, clips in zip(groups, sounds):
        if not clips:
            continue
        report.section(
            f"Listen: {group.label}" if len(groups) > 1 else "Listen",
            f"The input and what the models make of it; then the input disturbed by uniform noise of "
            f"±{MODIFIED_LEVEL_DB:g} dB on every cell, and what they make of that.",
        )
        report.clips(
            {
                names[index]: [(sound.title, sound.db, sound.waveform) for sound in made]
                for index, made in clips.items()
            },
            group.representation,
        )
    return report


_HEADS = (
    "model", "RMSE\ndB", "RMSE active\ndB", "LSD\ndB", "LSD active\ndB", "convergence\ndB", "sound LSD\ndB",
    "parameters", "trained", "clips/s", "KL\nnats",
)  # fmt: skip


def _cells(row: Mapping[str, Any]) -> list[Cell]:
    measured = ("rmse_db", "rmse_active_db", "lsd_db", "lsd_active_db", "convergence_db", "sound_lsd_db")
    texts = [(number_text(row[name]), interval_text(row, name), row[name]) for name in measured]
    texts += [(count_text(row[name]), "", row[name]) for name in ("parameters",)]
    texts.append((duration_text(row["training_seconds"]), "", row["training_seconds"]))
    texts.append((count_text(row["clips_per_second"]), "", row["clips_per_second"]))
    texts.append((number_text(row["kl_nats"], 1), "", row["kl_nats"]))
    return [Cell(row["name"]), *(Cell(*text) for text in texts)]
