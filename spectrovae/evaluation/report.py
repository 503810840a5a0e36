"""One HTML page that needs nothing but itself: text, tables, pictures and players, readable by day, night and
phone.

Every string is escaped on its way in. Pictures are PNG and sounds 16-bit wav, both written into the page.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import html
import io
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from spectrovae.errors import InputError
from spectrovae.files import write_text
from spectrovae.plots import png, spectrogram_figure

PAGE_BYTES = 5_000_000
"""Clips are added to a page while it stays under this; the others are in the folder beside it."""

LEVEL_NOTE = (
    "The players of one clip are matched in level: each is scaled to the RMS of the original, "
    "and all of them together are turned down where one would clip. The wav files keep their own level."
)


@dataclasses.dataclass(frozen=True)
class Cell:
    """A table cell: its text, a smaller note under it, and the number it sorts by (text where there is
    none)."""

    text: str
    note: str = ""
    order: float | None = None


@dataclasses.dataclass(frozen=True)
class Row:
    """A table row; ``kind`` is "model" (emphasised) or anything else (quieter)."""

    cells: Sequence[Cell]
    kind: str = "model"


@dataclasses.dataclass(frozen=True)
class Card:
    """A picture (PNG bytes, described by ``alt``) with a player (wav bytes) under a title."""

    title: str
    picture: bytes | None = None
    alt: str = ""
    sound: bytes | None = None
    dark_picture: bytes | None = None
    caption: str = ""


class Report:
    """Build the page from top to bottom, then ``save`` it.

    Args:
        title: heading of the page.
        summary: one or two sentences under it.
    """

    def __init__(self, title: str, summary: str = "") -> None:
        self._title = title
        self._parts = [
            f"<header><h1>{_text(title)}</h1>" + (f"<p>{_text(summary)}</p>" if summary else "") + "</header>"
        ]

    def section(self, title: str, *paragraphs: str) -> None:
        """Start a section with a heading and paragraphs of plain text."""
        self._parts.append(f"<h2>{_text(title)}</h2>")
        self.text(*paragraphs)

    def text(self, *paragraphs: str) -> None:
        self._parts.extend(f"<p>{_text(paragraph)}</p>" for paragraph in paragraphs)

    def notes(self, items: Sequence[str]) -> None:
        """Add a list of remarks in smaller print."""
        if items:
            self._parts.append('<ul class="notes">' + "".join(f"<li>{_text(item)}</li>" for item in items) + "</ul>")

    def table(self, caption: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        """Add a table that sorts by a click on a column's head and scrolls inside its own box.

        Raises:
            InputError: a row does not have a cell for each column.
        """
        for row in rows:
            if len(row.cells) != len(columns):
                raise InputError(
                    f"a row of the table {caption!r} needs {len(columns)} cells; received {len(row.cells)}"
                )
        head = "".join(f'<th scope="col"><button type="button">{_text(column)}</button></th>' for column in columns)
        body = "".join(f'<tr class="{_text(row.kind)}">{"".join(map(_cell, row.cells))}</tr>' for row in rows)
        self._parts.append(
            f'<div class="scroll" role="region" tabindex="0" aria-label="{_text(caption)}"><table>'
            f"<caption>{_text(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
            "</table></div>"
        )

    def cards(self, title: str, cards: Sequence[Card], *, wide: bool = False) -> None:
        """Add a row of cards that wraps on a narrow screen, under a small heading if ``title`` is not
        empty."""
        if title:
            self._parts.append(f"<h3>{_text(title)}</h3>")
        inside = "".join(map(_card, cards))
        self._parts.append(f'<div class="cards{" wide" if wide else ""}">{inside}</div>')

    def clips(
        self,
        sounds: Mapping[str, Sequence[tuple[str, np.ndarray, np.ndarray]]],
        representation: Any,
    ) -> None:
        """Add the sounds of several clips, as many clips as keep the page under ``PAGE_BYTES`` (one at
        least).

        Args:
            sounds: by clip name, what ``sound_cards`` takes.
            representation: as for ``sound_cards``.
        """
        self.text(LEVEL_NOTE)
        size, shown = sum(map(len, self._parts)), 0
        for name, clip in sounds.items():
            cards = sound_cards(clip, representation)
            size += sum(len(card.picture or b"") + len(card.sound or b"") for card in cards) * 4 // 3
            if shown and size > PAGE_BYTES:
                break
            self.cards(name, cards)
            shown += 1
        if shown < len(sounds):
            self.notes([f"{shown} of {len(sounds)} clips are on this page; all are in the folder samples beside it."])

    def html(self) -> str:
        """Return the page."""
        return (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
            f"<title>{_text(self._title)}</title><style>{_STYLE}</style></head>\n<body><main>\n"
            + "\n".join(self._parts)
            + f"\n</main><script>{_SCRIPT}</script></body></html>\n"
        )

    def save(self, path: str | os.PathLike) -> None:
        """Write the page, whole or not at all."""
        write_text(path, self.html())


def wav_bytes(waveform: np.ndarray, sample_rate: int) -> bytes:
    """Return a mono waveform (samples,) in [-1, 1] as a 16-bit wav file; samples beyond that range are
    clipped."""
    buffer = io.BytesIO()
    samples = np.clip(np.asarray(waveform, np.float32), -1.0, 1.0)
    soundfile.write(buffer, samples, sample_rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def sound_cards(sounds: Sequence[tuple[str, np.ndarray, np.ndarray]], representation: Any) -> list[Card]:
    """Make a card with spectrogram and player of each sound of one clip, the original first, matched in
    level.

    Args:
        sounds: (title, dB spectrogram (bins, frames, channels), waveform (samples,)).
        representation: gives the sample rate, the frequencies of the bins and the colour scale.
    """
    sample_rate, frequencies = representation.sample_rate, representation.frequencies
    players = match_levels([waveform for _, _, waveform in sounds])
    cards = []
    for (title, db, _), player in zip(sounds, players):
        seconds = len(player) / sample_rate
        figure = spectrogram_figure(
            db, frequencies=frequencies, duration=seconds, min_db=representation.min_db, max_db=representation.max_db
        )
        alt = (
            f"Spectrogram, {title}: {seconds:.2f} s, 0 to {sample_rate / 2:g} Hz, {representation.min_db:g} to "
            f"{representation.max_db:g} dB"
        )
        cards.append(Card(title, png(figure, dots_per_inch=130), alt, wav_bytes(player, sample_rate)))
    return cards


def match_levels(waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Scale waveforms to the RMS of the first, then all by one gain so that none exceeds 1.

    A silent waveform stays silent; a silent first one leaves the others as they are, but for the common gain.
    """
    levels = [float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64)))) for waveform in waveforms]
    gains = [levels[0] / level if level > 0 and levels[0] > 0 else 1.0 for level in levels]
    scaled = [np.asarray(waveform, np.float64) * gain for waveform, gain in zip(waveforms, gains)]
    peak = max(1.0, *(float(np.abs(waveform).max(initial=0.0)) for waveform in scaled))
    return [(waveform / peak).astype(np.float32) for waveform in scaled]


@contextlib.contextmanager
def new_folder(out: str | os.PathLike, *, force: bool, mark: str) -> Iterator[Path]:
    """Yield a temporary folder beside ``out`` that takes its place when the block ends well, and is removed
    when not.

    Args:
        out: the folder to make. An existing one is refused unless it is empty.
        force: replace an existing folder, if it is an earlier result: one that holds ``mark``.
        mark: name of the file by which an earlier result is known.

    Raises:
        InputError: ``out`` exists and may not be replaced, or cannot be written.
    """
    out = Path(out)
    check_output(out, force=force, mark=mark)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-"))
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror or error}; choose a folder you can write to") from error
    try:
        result = temporary / "new"
        result.mkdir()
        yield result
        if out.exists():
            os.replace(out, temporary / "old")
        os.replace(result, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_output(out: str | os.PathLike, *, force: bool, mark: str) -> None:
    """Raise InputError where ``new_folder`` would, so that a long computation is not begun in vain."""
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file, and a folder is to be written there: choose another path")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not force:
        raise InputError(
            f"{out} exists and is not empty: choose another folder, or replace it with --force (force=True)"
        )
    if not (out / mark).is_file():
        raise InputError(
            f"{out} holds no {mark}, so it is not an earlier result and is not replaced: choose another folder"
        )


def number_text(value: float | None, digits: int = 2) -> str:
    """A figure for people; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")


def interval_text(row: Mapping[str, Any], name: str) -> str:
    """The interval of a figure in a flat row, "3.21–3.43"; with "to" where a sign would be misread; "" if
    none."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    if low is None or high is None:
        return ""
    return f"{low:.2f}–{high:.2f}" if low >= 0 else f"{number_text(low, 1)} to {number_text(high, 1)}"


def count_text(value: float | None) -> str:
    """A count in three digits: 12, 345, 6.7 k, 8.90 M."""
    if value is None:
        return "–"
    for size, unit in ((1e6, " M"), (1e3, " k")):
        if value >= 0.9995 * size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def duration_text(seconds: float | None) -> str:
    """A duration in its two largest units: 42 s, 9m 12s, 2h 05m."""
    if seconds is None:
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"


def _text(value: str) -> str:
    return html.escape(str(value), quote=True)


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _cell(cell: Cell) -> str:
    order = "" if cell.order is None else f' data-order="{cell.order!r}"'
    note = f"<small>{_text(cell.note)}</small>" if cell.note else ""
    return f"<td{order}>{_text(cell.text)}{note}</td>"


def _card(card: Card) -> str:
    parts = [f"<figcaption>{_text(card.title)}</figcaption>"]
    if card.picture is not None:
        image = f'<img src="{_data("image/png", card.picture)}" alt="{_text(card.alt)}">'
        if card.dark_picture is not None:
            source = _data("image/png", card.dark_picture)
            dark = f'<source srcset="{source}" media="(prefers-color-scheme: dark)">'
            image = f"<picture>{dark}{image}</picture>"
        parts.append(image)
    if card.sound is not None:
        source = _data("audio/wav", card.sound)
        parts.append(f'<audio controls preload="none" aria-label="{_text(card.title)}" src="{source}"></audio>')
    if card.caption:
        parts.append(f"<p>{_text(card.caption)}</p>")
    return f"<figure>{''.join(parts)}</figure>"


_STYLE = """
:root { color-scheme: light dark; --paper: #fcfbf8; --ink: #23211d; --quiet: #6b6860; --rule: #ddd9cf;
  --accent: #9a3f12; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #161513; --ink: #e6e2d9; --quiet: #9b978d; --rule: #37342f; --accent: #e59a66; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 17px/1.55 "Iowan Old Style", "Palatino Linotype", Palatino, "Source Serif 4", Georgia, serif; }
main { max-width: 70rem; margin: 0 auto; padding: 3.5rem 1.5rem 6rem; }
header { border-bottom: 1px solid var(--rule); margin-bottom: 2rem; padding-bottom: 1rem; }
h1 { font-size: 2.1rem; line-height: 1.15; font-weight: 500; letter-spacing: -0.01em; margin: 0 0 0.6rem; }
h2 { font-size: 1.35rem; font-weight: 500; margin: 3rem 0 0.6rem; }
h3 { font-size: 1rem; font-weight: 600; margin: 2.2rem 0 0.7rem; overflow-wrap: anywhere; }
p { max-width: 44rem; margin: 0 0 0.8rem; overflow-wrap: anywhere; }
header p { color: var(--quiet); margin-bottom: 0; }
.notes { color: var(--quiet); font-size: 0.86rem; max-width: 46rem; padding-left: 1.1rem; }
.notes li { margin-bottom: 0.3rem; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; margin: 1.2rem 0 1.6rem; }
table { border-collapse: collapse; width: 100%; font-family: system-ui, sans-serif; font-size: 0.82rem;
  line-height: 1.35; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--quiet); padding-bottom: 0.6rem; }
th, td { padding: 0.42rem 0.7rem; text-align: right; white-space: nowrap; vertical-align: top;
  border-bottom: 1px solid var(--rule); }
th { vertical-align: bottom; border-bottom: 1px solid var(--ink); padding-bottom: 0.3rem; }
th:first-child, td:first-child { text-align: left; padding-left: 0; position: sticky; left: 0;
  background: var(--paper); }
th button { all: unset; cursor: pointer; font-weight: 500; color: var(--quiet); white-space: pre-line; }
th button:hover, th[aria-sort] button { color: var(--accent); }
th button:focus-visible, .scroll:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
th[aria-sort="ascending"] button::after { content: " \\2191"; }
th[aria-sort="descending"] button::after { content: " \\2193"; }
td small { display: block; color: var(--quiet); font-size: 0.72rem; }
tr.model td { font-weight: 600; }
tr.model td small { font-weight: 400; }
tr.baseline td, tr.ceiling td { color: var(--quiet); }
.cards { display: grid; gap: 1.4rem 1.8rem;
  grid-template-columns: repeat(auto-fill, minmax(min(18rem, 100%), 1fr)); }
.cards.wide { grid-template-columns: repeat(auto-fit, minmax(min(19rem, 100%), 1fr)); }
figure { margin: 0; min-width: 0; }
figcaption { font-family: system-ui, sans-serif; font-size: 0.82rem; font-weight: 600; margin-bottom: 0.3rem;
  overflow-wrap: anywhere; }
figure p { font-size: 0.82rem; color: var(--quiet); line-height: 1.4; margin: 0.3rem 0 0; }
img { display: block; width: 100%; height: auto; }
audio { display: block; width: 100%; height: 2.2rem; margin-top: 0.4rem; }
"""

_SCRIPT = """
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement, body = head.closest("table").tBodies[0];
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = row => { const cell = row.cells[head.cellIndex];
      return cell.dataset.order === undefined ? cell.textContent : Number(cell.dataset.order); };
    const rows = [...body.rows].sort((a, b) => { const x = key(a), y = key(b);
      if (typeof x !== typeof y) return typeof x === "number" ? -1 : 1;
      return (typeof x === "number" ? x - y : x.localeCompare(y)) * (down ? -1 : 1); });
    body.append(...rows);
  });
}
"""
