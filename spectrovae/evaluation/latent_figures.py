"""Pictures of a latent: spectra, maps coloured by a label, rows of spectrograms, boxes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from spectrovae.plots import COLOURS, INK, quiet, text

MAX_CLASSES = 24
"""A label of more values is not drawn by colour, nor by boxes."""


@dataclasses.dataclass(frozen=True)
class Label:
    """What is known of each clip: classes (strings) or a quantity (float64), one for each clip."""

    name: str
    values: np.ndarray

    @property
    def numeric(self) -> bool:
        return self.values.dtype.kind == "f"

    @property
    def classes(self) -> list[str]:
        """The classes in order; of a quantity none."""
        return [] if self.numeric else sorted(set(self.values.tolist()), key=_order)


def _order(name: str) -> tuple[bool, float, str]:
    try:
        return False, float(name), name
    except ValueError:
        return True, 0.0, name


def binned(label: Label) -> dict[str, np.ndarray]:
    """Which clips have each class of a label (booleans); of a quantity each value, or eight bins of equal counts."""
    if not label.numeric:
        return {name: label.values == name for name in label.classes}
    values = np.unique(label.values)
    if len(values) <= 12:
        return {f"{value:.4g}": label.values == value for value in values}
    edges = np.quantile(label.values, np.linspace(0, 1, 9))
    place = np.clip(np.searchsorted(edges, label.values, side="right") - 1, 0, 7)
    return {f"{edges[bin_]:.3g}–{edges[bin_ + 1]:.3g}": place == bin_ for bin_ in range(8) if np.any(place == bin_)}


def spectrum_figure(explained: Mapping[str, Sequence[float]], *, ink: str = INK) -> Figure:
    """Draw the share of the variance that the first k principal components hold, for each group of latents."""
    figure = Figure(figsize=(5.6, 3.2), layout="constrained")
    axes = figure.add_subplot()
    for index, (name, shares) in enumerate(explained.items()):
        count = np.arange(len(shares) + 1)
        axes.plot(count, [0, *np.cumsum(shares)], color=COLOURS[index % len(COLOURS)], linewidth=2, label=text(name))
    axes.set_xlabel("principal components")
    axes.set_ylabel("share of the variance")
    axes.set_ylim(0, 1.02)
    axes.set_xlim(left=0)
    axes.grid(axis="y", color=ink, alpha=0.15, linewidth=0.6)
    quiet(axes, ink)
    if len(explained) > 1:
        axes.legend(frameon=False, fontsize=7.5, labelcolor=ink)
    return figure


def map_figure(points: np.ndarray, shares: Sequence[float], label: Label, *, ink: str = INK) -> Figure:
    """Draw clips along two or three principal axes, coloured by a label.

    Args:
        points: coordinates along the axes [shape=(clips, 2 or 3)].
        shares: of the variance, of each axis.
    """
    figure = Figure(figsize=(3.7, 3.7), layout="constrained")
    solid = points.shape[1] > 2
    axes: Any = figure.add_subplot(projection="3d" if solid else None)
    drawn: Any = None
    if label.numeric:
        drawn = axes.scatter(*points.T, c=label.values, cmap="viridis", s=9, linewidths=0)
    else:
        palette: Any = matplotlib.colormaps["tab10" if len(label.classes) <= 10 else "tab20"]
        for index, name in enumerate(label.classes):
            own = points[label.values == name].T
            marker = "os^D"[index // palette.N % 4]
            axes.scatter(*own, color=palette(index % palette.N), s=9, linewidths=0, label=text(name), marker=marker)
    names = [f"axis {number} ({share:.0%})" for number, share in enumerate(shares, start=1)]
    axes.set_xlabel(names[0])
    axes.set_ylabel(names[1])
    if solid:
        axes.set_zlabel(names[2])
        _quiet_space(axes, ink)
    else:
        quiet(axes, ink)
    if label.numeric:
        bar = figure.colorbar(drawn, ax=axes, location="bottom", pad=0.02, aspect=30, shrink=0.8)
        bar.set_label(text(label.name))
        bar.outline.set_visible(False)  # type: ignore[operator]
        quiet(bar.ax, ink)
    else:
        handles, names = axes.get_legend_handles_labels()
        figure.legend(
            handles, names, loc="outside lower center", ncols=5 if max(map(len, names)) < 4 else 3, frameon=False,
            fontsize=7.5, labelcolor=ink, columnspacing=1.0, handletextpad=0.2, markerscale=1.6,
        )  # fmt: skip
    return figure


def _quiet_space(axes: Any, ink: str) -> None:
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.set_pane_color((0, 0, 0, 0))
        axis.line.set_color(ink)
        axis.label.set_color(ink)
        axis.label.set_fontsize(8)
        axis._axinfo["grid"].update(color=ink, linewidth=0.2)
    axes.tick_params(colors=ink, labelsize=6.5, pad=-2)
    axes.set_box_aspect(None, zoom=0.82)


def mosaic_figure(
    pictures: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    min_db: float,
    max_db: float,
    xlabel: str = "",
    ylabel: str = "",
    ink: str = INK,
) -> Figure:
    """Draw spectrograms (rows, columns, bins, frames) in dB as one picture, low bins below, time to the right.

    Args:
        rows, columns: labels at the left and below; an empty list for none.
    """
    height, width, bins, frames = pictures.shape
    gap_x, gap_y = max(1, frames // 16), max(1, bins // 16)
    whole = np.full((height * (bins + gap_y) - gap_y, width * (frames + gap_x) - gap_x), np.nan, np.float32)
    for row in range(height):
        for column in range(width):
            top, left = (height - 1 - row) * (bins + gap_y), column * (frames + gap_x)
            whole[top : top + bins, left : left + frames] = pictures[row, column]
    figure = Figure(figsize=(min(8.6, 1.4 + 0.78 * width), 0.8 + 0.72 * height), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(
        whole, origin="lower", aspect="auto", vmin=min_db, vmax=max_db, cmap="magma", interpolation="nearest"
    )
    middle_x = [column * (frames + gap_x) + frames / 2 - 0.5 for column in range(width)]
    middle_y = [(height - 1 - row) * (bins + gap_y) + bins / 2 - 0.5 for row in range(height)]
    axes.set_xticks(middle_x[: len(columns)], list(map(text, columns)))
    axes.set_yticks(middle_y[: len(rows)], list(map(text, rows)))
    axes.set_xlabel(text(xlabel))
    axes.set_ylabel(text(ylabel))
    quiet(axes, ink)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0)
    bar = figure.colorbar(image, ax=axes, pad=0.01, aspect=30)
    bar.set_label("level (dB)")
    bar.outline.set_visible(False)
    quiet(bar.ax, ink)
    return figure


def boxes_figure(groups: Mapping[str, np.ndarray], *, xlabel: str, ylabel: str, ink: str = INK) -> Figure:
    """Draw a box for each group of figures: quartiles and median, whiskers to 1.5 times the box, the rest as points."""
    figure = Figure(figsize=(4.2, 3.0), layout="constrained")
    axes = figure.add_subplot()
    line = {"color": ink, "linewidth": 0.9}
    axes.boxplot(
        list(groups.values()), patch_artist=True, widths=0.6, medianprops={"color": COLOURS[1], "linewidth": 1.8},
        whiskerprops=line, capprops=line, boxprops={**line, "facecolor": COLOURS[0] + "55"},
        flierprops={"marker": ".", "markersize": 3, "markerfacecolor": ink, "markeredgewidth": 0},
    )  # fmt: skip
    long = len(groups) * max(map(len, groups)) > 40
    axes.set_xticks(
        range(1, len(groups) + 1), list(map(text, groups)), rotation=40 if long else 0, ha="right" if long else "center"
    )
    axes.set_xlabel(text(xlabel))
    axes.set_ylabel(text(ylabel))
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", color=ink, alpha=0.15, linewidth=0.6)
    quiet(axes, ink)
    return figure
