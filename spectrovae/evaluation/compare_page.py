"""A comparison for people: as text for a terminal, and as a page."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from spectrovae.evaluation.measure import COVERED, ORIGINAL
from spectrovae.evaluation.metrics import ACTIVE_MARGIN_DB
from spectrovae.evaluation.report import Cell, Report, Row, count_text, duration_text, interval_text, number_text
from spectrovae.evaluation.systems import SPEED_CLIPS, Group

MODIFIED_LEVEL_DB = 10.0

DEFINITIONS = (
    "RMSE: root of the mean squared error in dB over all cells of all clips. LSD: log-spectral distance in "
    "dB, the RMS "
    "over the bins of a frame, then the mean over frames and clips. Outputs are not clipped to the dB range.",
    f"Active cells: those whose input is more than {ACTIVE_MARGIN_DB:g} dB above the floor of the "
    "representation's "
    "range. Silence and padding are easy, so the figures over all cells flatter every system.",
    "Sounds are made by the inverse of the representation, by Griffin-Lim where it keeps no phase. Convergence: "
    "spectral convergence of the sound in dB, 20 log10 of the relative error of its magnitudes against the original's; "
    "lower is better, and silence scores 0. Sound LSD: the log-spectral distance of the same. Neither compares across "
    "representations of different settings.",
    "Ceiling: the sound of the input's own spectrogram. Identity, PCA-k and mean are baselines fitted on the train "
    "split. KL is that of the posterior from N(0, I), in nats per clip, the mean over the clips.",
    "MSE and cosine: of the normalised features. MR-STFT: mean over three STFT resolutions of spectral convergence + "
    "mean absolute difference of log magnitudes, of the waveforms. MCD: mel-cepstral distortion in dB, over the frames "
    "that sound, the level left out. SI-SDR: scale-invariant signal-to-distortion ratio. PESQ (ITU-T P.862) and STOI: "
    "quality and intelligibility of speech, over the clips where they are defined. None depends on the representation.",
    "A judge is a classifier of real recordings: the share of sounds that it tells rightly. MMD²: unbiased squared "
    "maximum mean discrepancy between what it hears in the originals and in the sounds, times 1000; 0 where they are "
    "distributed alike, and it may fall below.",
    "Intervals cover 95 % (percentile bootstrap over clips): they speak for other clips of this kind, "
    "not for other trainings of the model. compare.csv has intervals over speakers too.",
)


class Sound(NamedTuple):
    """One sound of a clip: the folder it is written to, the stem of the system that made it, a title, its dB
    spectrogram (bins, frames, 1) and its waveform (samples,)."""

    folder: str
    system: str
    title: str
    db: np.ndarray
    waveform: np.ndarray


def format_comparison(result: Mapping[str, Any]) -> str:
    """The comparison as plain text, at most 120 columns wide."""
    columns = (
        "model", "RMSE dB", "95 %", "active", "LSD", "active", "converg.", "snd LSD", "params", "trained",
        "clips/s", "KL",
    )  # fmt: skip
    widths = (20, 7, 13, 6, 6, 6, 8, 7, 7, 7, 8, 6)
    sound = [(name, head.replace("\n", " "), digits, scale) for name, head, digits, scale in _sound_columns(result)]
    lines = []
    for representation in result["representations"]:
        rows = [row for row in result["rows"] if row["representation"] == representation["label"]]
        lines += [representation["label"], _aligned(columns, widths), "-" * (sum(widths) + len(widths) - 1)]
        for row in rows:
            if row["kind"] == ORIGINAL:
                continue
            numbers = [number_text(row[name]) for name in ("rmse_active_db", "lsd_db", "lsd_active_db")]
            cells = (
                row["name"], number_text(row["rmse_db"]), interval_text(row, "rmse_db"), *numbers,
                number_text(row["convergence_db"], 1), number_text(row["sound_lsd_db"]),
                count_text(row["parameters"]), duration_text(row["training_seconds"]),
                count_text(row["clips_per_second"]), number_text(row["kl_nats"], 1),
            )  # fmt: skip
            lines.append(_aligned(cells, widths))
        lines.append("")
        for start in range(0, len(sound), 7):
            chosen = sound[start : start + 7]
            wide = (20, *(max(13, len(head)) for _, head, _, _ in chosen))
            lines += [_aligned(("sound", *(head for _, head, _, _ in chosen)), wide), "-" * (sum(wide) + len(chosen))]
            for row in rows:
                scaled = [_scaled(row[name], scale) for name, _, _, scale in chosen]
                figures = [number_text(value, digits) for value, (_, _, digits, _) in zip(scaled, chosen)]
                lines.append(_aligned((row["name"], *figures), wide))
            lines.append("")
        for name, reason in representation["absent"].items():
            lines += textwrap.wrap(f"no {name}: {reason}", 120)
    settings = result["settings"]
    lines.append(
        f"{settings['clips']} clips of the {settings['split']} split, {settings['clip_seconds']:g} s each. "
        "RMSE and LSD in dB "
        "over all and over active cells;\nconvergence and LSD of the sound in dB; KL in nats: lower is better.\n"
        "SI-SDR, PESQ, STOI and answers that are right: higher is better. "
        f"Speed: {settings['speed_clips']} clips at once."
    )
    return "\n".join(lines)


def _sound_columns(result: Mapping[str, Any]) -> list[tuple[str, str, int, float]]:
    """Name, heading, digits and scale of the figures of the sound that some row has."""
    columns = [
        ("mr_stft", "MR-STFT", 3, 1.0), ("mcd_db", "MCD\ndB", 2, 1.0), ("si_sdr_db", "SI-SDR\ndB", 1, 1.0),
        ("pesq", "PESQ", 2, 1.0), ("stoi", "STOI", 3, 1.0),
    ]  # fmt: skip
    for judge in result["settings"]["judges"]:
        columns.append((f"{judge['name']}_accuracy", f"{judge['name']}\n% right", 1, 100.0))
        columns.append((f"{judge['name']}_mmd", f"{judge['name']}\nMMD² x1000", 1, 1000.0))
    return [column for column in columns if any(row.get(column[0]) is not None for row in result["rows"])]


def _scaled(value: float | None, scale: float) -> float | None:
    return None if value is None else scale * value


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    """The first cell to the left, the others to the right; a name that is too long keeps its ends."""
    name, kept = cells[0], (widths[0] - 3) // 2
    name = name if len(name) <= widths[0] else f"{name[:kept]}...{name[kept + 3 - widths[0] :]}"
    return " ".join([name.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:]))])


def page(
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
        result["data"],
    )
    lacking = {found["label"]: found["absent"] for found in result["representations"]}
    report.section("Figures")
    for group in groups:
        rows = [row for row in result["rows"] if row["representation"] == group.label]
        systems_rows = [row for row in rows if row["kind"] != ORIGINAL]
        report.table(group.label, _HEADS, [Row(_cells(row), row["kind"]) for row in systems_rows])
        columns = _sound_columns(result)
        heads = ("model", *(head for _, head, _, _ in columns))
        sound = [Row(_sound_cells(row, columns, settings["clips"]), row["kind"]) for row in rows]
        report.table(f"The sound: {group.label}", heads, sound)
        report.notes([f"No {name}: {reason}." for name, reason in lacking[group.label].items()])
    _tests_tables(report, result["tests"])
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


def _tests_tables(report: Report, tests: Sequence[Mapping[str, Any]]) -> None:
    """Pairs of models by figure: the mean difference, and under it Wilcoxon's p, corrected."""
    if not tests:
        return
    report.section(
        "Differences between models",
        "First less second, the mean over clips; under it p of Wilcoxon's signed-rank test over clips, corrected for "
        "the number of pairs (Holm). tests.csv has intervals over clips and over speakers.",
    )
    for label in dict.fromkeys(row["representation"] for row in tests):
        chosen = [row for row in tests if row["representation"] == label]
        names = list(dict.fromkeys(row["figure"] for row in chosen))
        cells = {(row["first"], row["second"], row["figure"]): row for row in chosen}
        rows = []
        for first, second in dict.fromkeys((row["first"], row["second"]) for row in chosen):
            line = [Cell(f"{first} − {second}")]
            for name in names:
                row = cells.get((first, second, name))
                line.append(Cell("–") if row is None or row["difference"] is None else _difference(row))
            rows.append(Row(line, "test"))
        report.table(label or "Figures of the waveform", ("pair", *(name.replace("_", " ") for name in names)), rows)


def _difference(row: Mapping[str, Any]) -> Cell:
    p = "p < 0.001" if row["p_holm"] < 0.001 else f"p {row['p_holm']:.3f}"
    return Cell(f"{row['difference']:+.3g}".replace("-", "−"), p, row["difference"])


def _sound_cells(row: Mapping[str, Any], columns: Sequence[tuple[str, str, int, float]], clips: int) -> list[Cell]:
    cells = [Cell(row["name"])]
    for name, _, digits, scale in columns:
        value = _scaled(row[name], scale)
        ends = {key: _scaled(row[key], scale) for key in (f"{name}_low", f"{name}_high")}
        note = interval_text(ends, name, digits)
        if name in COVERED and value is not None and row[f"{name}_clips"] < clips:
            note += f", {row[f'{name}_clips']} of {clips} clips"
        cells.append(Cell(number_text(value, digits), note, value))
    return cells


_HEADS = (
    "model", "RMSE\ndB", "RMSE active\ndB", "LSD\ndB", "LSD active\ndB", "MSE\n×1000", "cosine", "convergence\ndB",
    "sound LSD\ndB",
    "parameters", "trained", f"clips/s\n{SPEED_CLIPS} at once", "KL\nnats",
)  # fmt: skip


def _cells(row: Mapping[str, Any]) -> list[Cell]:
    def cell(name: str, digits: int = 2, scale: float = 1.0) -> Cell:
        ends = {key: _scaled(row[key], scale) for key in (f"{name}_low", f"{name}_high")}
        value = _scaled(row[name], scale)
        return Cell(number_text(value, digits), interval_text(ends, name, digits), value)

    measured = [cell(name) for name in ("rmse_db", "rmse_active_db", "lsd_db", "lsd_active_db")]
    measured += [cell("mse", 2, 1000.0), cell("cosine", 4), cell("convergence_db"), cell("sound_lsd_db")]
    texts = [(count_text(row[name]), "", row[name]) for name in ("parameters",)]
    texts.append((duration_text(row["training_seconds"]), "", row["training_seconds"]))
    texts.append((count_text(row["clips_per_second"]), "", row["clips_per_second"]))
    texts.append((number_text(row["kl_nats"], 1), "", row["kl_nats"]))
    note = f"{row['not_finite']} clips not finite" if row["not_finite"] else ""
    return [Cell(row["name"], note), *measured, *(Cell(*text) for text in texts)]
