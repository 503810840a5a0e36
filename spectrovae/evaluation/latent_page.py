"""The page and the sounds of a study of a latent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from spectrovae import plots
from spectrovae.evaluation import disentanglement, systems
from spectrovae.evaluation.latent_figures import (
    Label,
    binned,
    boxes_figure,
    map_figure,
    mosaic_figure,
    spectrum_figure,
)
from spectrovae.evaluation.latent_space import Drawn, Traversal
from spectrovae.evaluation.players import match_levels, wav_bytes
from spectrovae.evaluation.report import PAGE_BYTES, Card, Cell, Report, Row, interval_text, number_text, signed_text
from spectrovae.plots import Curve

PAUSE_SECONDS = 0.05
STRONGEST = 12
"""Dimensions of a group that the page's table has at most; all are in the JSON."""


def write(
    folder: Path,
    result: Mapping[str, Any],
    codec: Any,
    drawn: Drawn,
    labels: Sequence[Label],
    places: Sequence[np.ndarray],
    errors: np.ndarray,
) -> None:
    """Write ``report.html``, its tables and ``sounds`` to the folder."""
    settings = result["settings"]
    report = Report(
        f"The latent of {settings['model']}",
        f"{settings['clips']} clips of the {settings['split']} split through a {settings['family']}; "
        f"{sum(group['dimensions'] for group in result['groups'])} numbers a clip.",
        result["data"],
    )
    report.notes(result["notes"])
    sounds = _Sounds(folder / "sounds", codec)
    _axes(report, result, labels, places)
    _moves(report, result, codec, drawn, sounds)
    _draws(report, result, codec, drawn, sounds)
    _loss(report, result, labels, errors)
    _interpolation(report, result, codec, drawn, sounds)
    _disentanglement(report, result)
    report.save(folder / "report.html")


class _Sounds:
    """Turns dB spectrograms into wav files, and into cards while the page has room for them."""

    def __init__(self, folder: Path, codec: Any):
        self.folder, self.codec, self.bytes = folder, codec, 0
        self.stems: set[str] = set()
        self.synthesise = systems.synthesiser(codec.representation)

    def row(self, decoded: np.ndarray) -> np.ndarray:
        """Spectrograms one after the other, with pauses between: a waveform (samples,)."""
        waveforms = self.synthesise(decoded, self.codec.segment_samples)
        pause = np.zeros(int(PAUSE_SECONDS * self.codec.sample_rate), np.float32)
        return np.concatenate([part for waveform in waveforms for part in (waveform, pause)])

    def cards(self, rows: Mapping[str, np.ndarray], shown: int) -> list[Card]:
        """Write each waveform to a file, turned down where it would clip, and make cards of the first few."""
        self.folder.mkdir(exist_ok=True)
        cards: list[Card] = []
        for title, waveform in rows.items():
            player = match_levels([waveform], self.codec.sample_rate)[0]
            wav = wav_bytes(player.waveform, self.codec.sample_rate)
            (self.folder / f"{systems.unique_stem(title, self.stems)}.wav").write_bytes(wav)
            self.bytes += len(wav) * 4 // 3
            if len(cards) < shown and self.bytes < PAGE_BYTES:
                cards.append(Card(title, sound=wav, caption=f"gain {signed_text(player.gain_db)} dB"))
        return cards


def _axes(report: Report, result: Mapping[str, Any], labels: Sequence[Label], places: Sequence[np.ndarray]) -> None:
    report.section(
        "Principal axes",
        "PCA of the clips' latents. Effective dimensions are those of as many equal variances (participation ratio).",
    )
    rows = [
        Row([
            Cell(group["name"], " × ".join(map(str, group["shape"]))), _count(group["dimensions"]),
            _number(group["pca"]["total_variance"]), _count(group["pca"]["components_90"]),
            _count(group["pca"]["components_99"]), _number(group["pca"]["effective_dimensions"], 1),
        ])
        for group in result["groups"]
    ]  # fmt: skip
    heads = ("group", "dimensions", "total\nvariance", "axes for\n90 %", "axes for\n99 %", "effective\ndimensions")
    report.table("Variance of the latent", heads, rows)
    explained = {group["name"]: group["pca"]["explained"] for group in result["groups"]}
    cards = [_card("Explained variance", lambda ink: spectrum_figure(explained, ink=ink),
                   "Share of the variance that the first principal axes hold.")]  # fmt: skip
    report.cards("", cards, wide=True)
    rows = [
        Row([
            Cell(f"{group['name']}: {row['label']}", "share of variance" if row["measure"] == "R2" else "accuracy"),
            *(_number(row[name]) for name in ("axes_2", "axes_3", "whole", "chance")),
        ])
        for group in result["groups"]
        for row in group["neighbours"]
    ]  # fmt: skip
    if rows:
        report.table(
            "What the five nearest clips tell of a clip", ("label", "on 2 axes", "on 3 axes", "in all", "chance"), rows
        )
    for group, points in zip(result["groups"], places):
        if points.shape[1] > 1:
            for label in labels:
                maps = [_map(group, points[:, :axes], label) for axes in (2, 3) if axes <= points.shape[1]]
                report.cards(f"Map of {group['name']}, coloured by {label.name}", maps, wide=True)


def _map(group: Mapping[str, Any], points: np.ndarray, label: Label) -> Card:
    return _card(
        f"{'Three' if points.shape[1] > 2 else 'Two'} axes",
        lambda ink: map_figure(points, group["pca"]["explained"], label, ink=ink),
        f"Clips on the first {points.shape[1]} principal axes of {group['name']}, coloured by {label.name}.",
    )


def _moves(report: Report, result: Mapping[str, Any], codec: Any, drawn: Drawn, sounds: _Sounds) -> None:
    span = result["settings"]["span"]
    report.section(
        "Dimension by dimension",
        f"Each dimension is moved from −{span:g} to {span:g} deviations, the others stay in the middle; then the same "
        "along the principal axes, in deviations of the clips along them.",
    )
    rows = []
    for group in result["groups"]:
        strongest = sorted(group["moved"], key=lambda row: -row["change_db"])[:STRONGEST]
        for row in strongest:
            name = Cell(f"{group['name']} {row['dimension']}", "", None)
            rows.append(Row([name, _number(row["deviation"], 3), _number(row["change_db"])], "plain"))
    report.table(
        f"The dimensions that change the sound most, {STRONGEST} of a group at most",
        ("dimension", "deviation\nover clips", "change from end\nto end, dB RMS"),
        rows,
    )
    for group in dict.fromkeys(line.group for line in drawn.traversals):
        own = [line for line in drawn.traversals if line.group == group]
        for kind in ("dimension", "axis"):
            lines = [line for line in own if line.name.startswith(kind)]
            if lines:
                title = f"{group}: {'dimensions' if kind == 'dimension' else 'principal axes'}"
                report.cards(title, [_mosaic(codec, lines)], wide=True)
                heard = {f"{group}, {line.name}": sounds.row(line.decoded) for line in lines}
                report.cards("", sounds.cards(heard, 3))


def _mosaic(codec: Any, lines: Sequence[Traversal]) -> Card:
    return _pictures(
        codec,
        np.stack([line.decoded for line in lines]),
        [line.name for line in lines],
        _places(lines[0].places),
        "deviations from the middle",
        "Spectrograms along " + ", ".join(line.name for line in lines),
    )


def _draws(report: Report, result: Mapping[str, Any], codec: Any, drawn: Drawn, sounds: _Sounds) -> None:
    span = result["settings"]["span"]
    report.section(
        "Mesh and draws",
        "Nearest: RMS distance in dB to the nearest clip, the mean over the draws; spread: between two of them. Draws "
        "that are further off than clips are from each other sound like none; draws of less spread are all alike.",
    )
    rows = [
        Row(
            [Cell(row["name"]), _count(row["draws"]), _number(row["nearest_db"]), _number(row["spread_db"])],
            "baseline" if row["name"] == "clips" else "model",
        )
        for row in result["sampling"]
    ]
    report.table("Draws beside the clips", ("points", "number", "nearest\ndB", "spread\ndB"), rows)
    size = len(drawn.mesh)
    texts = _places(np.linspace(-span, span, size))
    card = _pictures(
        codec, drawn.mesh, texts[::-1], texts, drawn.mesh_axes[0], "A mesh of decoded points", drawn.mesh_axes[1]
    )
    report.cards(f"Mesh of {result['groups'][0]['name']}", [card], wide=True)
    for name, decoded in drawn.draws.items():
        rows_of = decoded[:16].reshape(2, -1, *decoded.shape[1:])
        report.cards(f"Drawn {name}", [_pictures(codec, rows_of, [], [], "", f"Points drawn {name}")], wide=True)
        report.cards("", sounds.cards({f"draws {name}": sounds.row(decoded[:8])}, 1))


def _loss(report: Report, result: Mapping[str, Any], labels: Sequence[Label], errors: np.ndarray) -> None:
    if not labels:
        return
    report.section("Loss by factor", "RMSE of each clip's reconstruction in dB, over all cells.")
    report.cards("", [_boxes(label, errors) for label in labels])
    for found in result["loss"]:
        if "spearman" in found:
            said = f"rank correlation {number_text(found['spearman'])}"
        else:
            said = f"differences by chance with p = {found['kruskal_wallis_p']:.2g} (Kruskal and Wallis)"
        rows = [
            Row([
                Cell(row["value"]), _count(row["clips"]), _number(row["median_db"]), _number(row["lower_quartile_db"]),
                _number(row["upper_quartile_db"]), _number(row["mean_db"]), _number(row["kl_nats"], 1),
            ], "plain")
            for row in found["rows"]
        ]  # fmt: skip
        heads = (
            found["label"],
            "clips",
            "median\ndB",
            "lower quartile\ndB",
            "upper quartile\ndB",
            "mean\ndB",
            "KL\nnats",
        )
        report.table(f"Error by {found['label']}: {said}", heads, rows)


def _boxes(label: Label, errors: np.ndarray) -> Card:
    groups = {name: errors[chosen] for name, chosen in binned(label).items()}
    medians = ", ".join(f"{name} {np.median(values):.2f} dB" for name, values in groups.items())
    return _card(
        f"By {label.name}",
        lambda ink: boxes_figure(groups, xlabel=label.name, ylabel="RMSE (dB)", ink=ink),
        f"Errors by {label.name}. Medians: {medians}",
    )


def _interpolation(report: Report, result: Mapping[str, Any], codec: Any, drawn: Drawn, sounds: _Sounds) -> None:
    found = result["interpolation"]
    report.section(
        "Interpolation",
        f"{found['pairs']} pairs of clips, {found['steps']} steps on the line between their latents, beside straight "
        "mixing in dB of the same two reconstructions. Path: the length of the way over the distance of its ends, in "
        "dB RMS; a mix has 1. Largest step: over the mean step; a mix has 1. Nearest: the distance of the middle to "
        "the nearest other clip. Small figures hold four fifths of the pairs.",
    )
    if not found["pairs"]:
        report.text("Every pair of clips decodes to the same sound, so there is no way between them.")
        return
    keys = ("ratio", "largest_step", "variation", "nearest_db", "from_mix_db", "direct_db")
    heads = ("way", "path", "largest\nstep", "variation\nof steps", "nearest to\nthe middle, dB",
             "middle from\nthe mix, dB", "ends apart\ndB")  # fmt: skip
    rows = [
        Row([
            Cell(row["name"]),
            *(Cell(number_text(row[key]), interval_text(row, key), row[key]) for key in keys),
        ], "baseline" if place else "model")
        for place, row in enumerate(found["rows"])
    ]  # fmt: skip
    report.table("Ways between two clips", heads, rows)
    steps = list(range(1, found["steps"] + 1))
    profile, flat = found["profile"], [1.0] * len(steps)
    curves = [
        Curve("line in the latent", steps, profile["mean"], profile["low"], profile["high"]),
        Curve("straight mix in dB", steps, flat, flat, flat, reference=True),
    ]
    card = _card(
        "Length of each step, in mean steps",
        lambda ink: plots.curves_figure(curves, xlabel="step", ylabel="length (mean steps)", ink=ink),
        "Length of each step on the line in the latent: "
        + ", ".join(f"{value:.2f}" for value in profile["mean"]),
    )  # fmt: skip
    report.cards("", [card], wide=True)
    texts = [f"{place / found['steps']:g}" for place in range(found["steps"] + 1)]
    for title, along, mixed in drawn.paths:
        card = _pictures(codec, np.stack([along, mixed]), ["latent", "mix"], texts, "from one to the other", title)
        report.cards(f"Between {title}", [card], wide=True)
        heard = {f"{title}, {name}": sounds.row(path[::2]) for name, path in (("latent", along), ("mix", mixed))}
        report.cards("", sounds.cards(heard, 2))


def _disentanglement(report: Report, result: Mapping[str, Any]) -> None:
    found = result["disentanglement"]
    report.section("Disentanglement")
    if "reason" in found:
        report.text(f"Not measured. {found['reason'][:1].upper()}{found['reason'][1:]}")
        return
    names = ("model", "untrained", "chance")
    rows = [
        Row([
            Cell(metric.replace("_", " ")),
            *(
                Cell(number_text(cell["mean"], 3), f"± {number_text(cell['deviation'], 3)}", cell["mean"])
                for cell in (found[name][metric] for name in names)
            ),
        ], "plain")
        for metric in disentanglement.METRICS
    ]  # fmt: skip
    report.text(f"{found['sounds']} sounds, factors {', '.join(found['factors'])}; ± is the deviation over seeds.")
    report.table("Whether dimensions are factors: 1 at best", ("metric", *names), rows)


def _pictures(
    codec: Any,
    decoded: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    xlabel: str,
    alt: str,
    ylabel: str = "",
) -> Card:
    """A card with spectrograms (rows, columns, bins, frames, channels)."""
    representation = codec.representation
    figure = mosaic_figure(
        decoded[..., 0], rows, columns, min_db=representation.min_db, max_db=representation.max_db,
        xlabel=xlabel, ylabel=ylabel,
    )  # fmt: skip
    said = f"{alt}; {representation.min_db:g} to {representation.max_db:g} dB"
    return Card("", plots.png(figure, dots_per_inch=150), said, full=True)


def _card(title: str, figure: Callable[[str], Figure], alt: str) -> Card:
    light, dark = (plots.png(figure(ink)) for ink in (plots.DARK_INK, plots.LIGHT_INK))
    return Card(title, light, alt, dark_picture=dark)


def _places(places: np.ndarray) -> list[str]:
    return [f"{place:g}".replace("-", "−") for place in np.round(places, 2)]


def _number(value: float | None, digits: int = 2) -> Cell:
    return Cell(number_text(value, digits), "", value)


def _count(value: int | None) -> Cell:
    return Cell("–" if value is None else str(value), "", value)
