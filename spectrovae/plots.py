"""Pictures: spectrograms with labelled axes, curves with their intervals, losses by epoch.

Figures are made without pyplot, so nothing global changes and threads may draw. Their background is
transparent where they go into a page; ``INK`` is legible on white and on near-black, and ``DARK_INK`` and
``LIGHT_INK`` suit one of them.
"""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from spectrovae.errors import InputError
from spectrovae.files import replacing

INK, DARK_INK, LIGHT_INK = "#7a7872", "#33312d", "#d2cfc8"
COLOURS = ("#2f74c0", "#d4691e", "#2a9d72", "#9a62c9", "#c23b5a", "#8a7a1f")
MARKERS = ("", "o", "s", "^", "D", "v")  # of the curves whose colours come again
GREYS = ("#8a8880", "#a8a69e", "#6f6d67", "#b9b7b0", "#96948c")
STYLES: tuple[Any, ...] = ((0, (5, 2)), (0, (1, 1.5)), (0, (4, 1.5, 1, 1.5)), (0, (7, 3)), (0, (2, 2)))


@dataclasses.dataclass(frozen=True)
class Curve:
    """A line of a chart: its points, the interval around them, and whether it is a reference drawn in
    grey."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    reference: bool = False


def text(name: str) -> str:
    """A name as matplotlib is to draw it: dollars begin no formula, and an underscore at its start hides no entry."""
    name = name.replace("$", r"\$")
    return f" {name}" if not name or name.startswith("_") else name


def spectrogram_figure(
    db: np.ndarray,
    *,
    frequencies: np.ndarray,
    duration: float,
    min_db: float,
    max_db: float,
    size: tuple[float, float] = (3.2, 2.2),
    ink: str = INK,
) -> Figure:
    """Draw a dB spectrogram with its time axis in seconds, frequency in Hz and the colour bar in dB.

    Args:
        db: (bins, frames), or (bins, frames, channels) with the level first; low bins first.
        frequencies: of the bins' centres, in Hz [shape=(bins,)].
        duration: seconds that the frames span.
        min_db, max_db: the ends of the colour scale, dB.
        size: inches.
        ink: colour of axes and labels.

    Raises:
        InputError: ``db`` is not one spectrogram.
    """
    db = np.asarray(db)
    if db.ndim == 3:
        db = db[..., 0]
    if db.ndim != 2:
        raise InputError(f"a spectrogram (bins, frames) is needed; received shape {db.shape}: pass one clip")
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(
        db,
        origin="lower",
        aspect="auto",
        extent=(0.0, duration, -0.5, len(db) - 0.5),
        vmin=min_db,
        vmax=max_db,
        cmap="magma",
        interpolation="nearest",
    )
    axes.set_xlabel("time (s)")
    axes.set_ylabel("frequency (Hz)")
    ticks = np.linspace(0, len(db) - 1, 6)
    hertz = np.interp(ticks, np.arange(len(db)), frequencies)
    axes.set_yticks(ticks, [f"{float(f'{value:.2g}'):g}" for value in hertz])
    bar = figure.colorbar(image, ax=axes, pad=0.02, aspect=25)
    bar.set_label("level (dB)")
    bar.outline.set_visible(False)
    for part in (axes, bar.ax):
        quiet(part, ink)
    return figure


def curves_figure(
    curves: Sequence[Curve],
    *,
    xlabel: str,
    ylabel: str,
    marked: float | None = None,
    size: tuple[float, float] = (3.6, 3.2),
    ink: str = INK,
) -> Figure:
    """Draw curves over x >= 0 with their intervals as bands, and a vertical rule at ``marked``.

    References are grey broken lines, the others coloured, with marks on them where a colour comes again.
    """
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    models = references = 0
    style: Any
    for curve in curves:
        colour, style, width = COLOURS[models % len(COLOURS)], "solid", 2.0
        marker = MARKERS[models // len(COLOURS) % len(MARKERS)]
        if curve.reference:
            colour, style, width = GREYS[references % len(GREYS)], STYLES[references % len(STYLES)], 1.3
            marker = ""
        references += curve.reference
        models += not curve.reference
        low, high = (np.array(ends, float) for ends in (curve.low, curve.high))  # None, of a single clip, is NaN
        axes.fill_between(curve.x, low, high, color=colour, alpha=0.18, linewidth=0)
        marker = "o" if len(curve.x) == 1 else marker
        axes.plot(
            curve.x,
            curve.y,
            color=colour,
            linestyle=style,
            linewidth=width,
            marker=marker,
            markersize=4.5,
            label=text(curve.name),
        )
    if marked is not None:
        axes.axvline(marked, color=ink, linewidth=0.8, alpha=0.6, zorder=0)
    axes.set_xlabel(text(xlabel))
    axes.set_ylabel(text(ylabel))
    axes.grid(axis="y", color=ink, alpha=0.15, linewidth=0.6)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    quiet(axes, ink)
    figure.legend(
        loc="outside lower center",
        ncols=3,
        frameon=False,
        fontsize=7.5,
        labelcolor=ink,
        handlelength=2.2,
        columnspacing=1.2,
    )
    return figure


def fidelity_figure(curve: Sequence[float], rows: Sequence[Mapping[str, Any]], *, ink: str = INK) -> Figure:
    """Draw the share of variance along 1, 2, ... directions, and the distance of what is decoded with some of them.

    Args:
        curve: fidelity of the first 1, 2, ... directions.
        rows: ``directions``, ``cut`` and ``drawn``, the distances with the other directions left out and drawn.
    """
    figure = Figure(figsize=(7.2, 3.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(range(len(curve) + 1), [0.0, *curve], color=COLOURS[0], linewidth=2)
    left.set_ylim(0.0, 1.02)
    left.set_ylabel("fidelity")
    counts = [row["directions"] for row in rows]
    for name, colour in (("cut", COLOURS[0]), ("drawn", COLOURS[1])):
        right.plot(counts, [row[name] for row in rows], color=colour, marker="o", linewidth=2, label=name)
    right.set_ylabel("spectral distance")
    right.set_ylim(bottom=0.0)
    right.legend(frameon=False, fontsize=8, labelcolor=ink)
    for axes in (left, right):
        axes.set_xlabel("directions")
        axes.set_xlim(left=0)
        axes.grid(axis="y", color=ink, alpha=0.15, linewidth=0.6)
        quiet(axes, ink)
    return figure


def rate_figure(
    points: Mapping[str, Sequence[tuple[float, float]]],
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    levels: Sequence[Mapping[str, Any]],
    *,
    size: tuple[float, float] = (6.4, 4.2),
    ink: str = INK,
) -> Figure:
    """Draw errors in dB over bits a clip, these on an axis that is logarithmic from 1 on.

    Args:
        points: by name, (bits, dB) of each seed.
        curves: by name, bits and dB of a reference line.
        levels: ``name`` and ``rmse_db`` of baselines, drawn as short marks at the right edge.
    """
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    for index, (name, (x, y)) in enumerate(curves.items()):
        axes.plot(x, y, color=GREYS[index % len(GREYS)], linewidth=1.3, linestyle="dashed", label=text(name), zorder=1)
    markers = "osD^vP*X"
    for index, (name, pairs) in enumerate(points.items()):
        x, y = zip(*pairs)
        marker = markers[index // len(COLOURS) % len(markers)]
        axes.scatter(x, y, s=34, color=COLOURS[index % len(COLOURS)], marker=marker, label=text(name), zorder=3)
    # A collapsed latent carries nothing: 0 belongs on the axis.
    axes.set_xscale("symlog", linthresh=1.0)
    bits = [x for pairs in points.values() for x, _ in pairs]
    axes.set_xlim(0.3 * min(bits) if min(bits) > 3.0 else -0.2, 3.0 * max(*bits, 1.0))
    for level in levels:
        axes.axhline(level["rmse_db"], xmin=0.94, color=ink, linewidth=0.8, alpha=0.7)
        axes.annotate(
            text(level["name"]), (0.935, level["rmse_db"]), xycoords=("axes fraction", "data"), ha="right", va="center",
            fontsize=6.5, color=ink,
        )  # fmt: skip
    axes.set_ylim(bottom=0, top=1.08 * max([y for pairs in points.values() for _, y in pairs] + [4.0]))
    axes.set_xlabel("bits a clip")
    axes.set_ylabel("RMSE (dB)")
    axes.grid(axis="y", color=ink, alpha=0.15, linewidth=0.6)
    quiet(axes, ink)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=7.5, labelcolor=ink)
    return figure


def plot_loss_curves(history: Mapping[str, Sequence[float]], path: str | os.PathLike) -> None:
    """Write a PNG of every training quantity by epoch, with its validation curve beside it.

    Args:
        history: values by name, one an epoch, as Keras' ``History.history``; ``val_`` starts the name of a
            validation quantity. ``loss`` is drawn first. Values that are not finite are left out of the line.
        path: the PNG file, replaced whole.

    Raises:
        InputError: the history is empty.
    """
    names = [name for name in history if not name.startswith("val_")]
    names.sort(key=lambda name: name != "loss")
    if not names or not any(len(history[name]) for name in names):
        raise InputError("the history holds no epoch: pass the values by name, for instance {'loss': [3.1, 2.7]}")
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.0 * rows), layout="constrained", facecolor="white")
    for index, name in enumerate(names):
        axes = figure.add_subplot(rows, columns, index + 1)
        series = [
            (label, history[key])
            for label, key in (("training", name), ("validation", f"val_{name}"))
            if key in history
        ]
        for (label, values), colour in zip(series, COLOURS):
            finite = np.where(np.isfinite(values), np.asarray(values, np.float64), np.nan)
            epochs = np.arange(1, len(finite) + 1)
            axes.plot(
                epochs,
                finite,
                color=colour,
                linewidth=1.8,
                label=label,
                marker="." if len(finite) < 3 else None,
            )
        axes.set_title(text(name), loc="left", fontsize=10, color=DARK_INK)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="y", color=DARK_INK, alpha=0.12, linewidth=0.6)
        quiet(axes, DARK_INK)
        if len(series) > 1:
            axes.legend(frameon=False, fontsize=8, labelcolor=DARK_INK)
    with replacing(path) as temporary:
        temporary.write_bytes(png(figure, transparent=False))


def png(figure: Figure, *, dots_per_inch: int = 160, transparent: bool = True) -> bytes:
    """Render a figure to PNG bytes with 256 colours, a third of the size of full colour."""
    figure.patch.set_alpha(0.0 if transparent else 1.0)
    for axes in figure.axes:
        axes.patch.set_alpha(0.0)
    figure.set_dpi(dots_per_inch)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGBA" if transparent else "RGB")
    buffer = io.BytesIO()
    quantised = image.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    quantised.save(buffer, "PNG")
    return buffer.getvalue()


def quiet(axes, ink: str) -> None:
    """Small grey labels, and no frame but the two axes."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(ink)
        axes.spines[side].set_linewidth(0.6)
    axes.tick_params(colors=ink, labelsize=7.5, width=0.6, length=3)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(ink)
        label.set_fontsize(8.5)
