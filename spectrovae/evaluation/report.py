"""One HTML page that needs nothing but itself: text, tables, pictures and players, readable by day, night and
phone.

Every string is escaped on its way in. Pictures are PNG and sounds 16-bit wav, both written into the page, and so is
each table as CSV and JSON, which are also files in the folder ``tables`` beside it.
"""

from __future__ import annotations

import base64
import dataclasses
import html
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from spectrovae.errors import InputError
from spectrovae.evaluation.players import LEVEL_NOTE, match_levels, wav_bytes
from spectrovae.evaluation.systems import csv_text, unique_name, writable
from spectrovae.files import write_text
from spectrovae.plots import png, spectrogram_figure

PAGE_BYTES = 5_000_000
"""Clips are added to a page while it stays under this; the others are in the folder beside it."""

MISSING = "–"
"""The text of a figure that does not apply."""


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
class Table:
    """A table of a page as files: numbers in full where cells have them, notes in columns of their own.

    Attributes:
        name: of the files, without ending.
    """

    name: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[Row]

    def records(self) -> tuple[list[str], list[dict[str, Any]]]:
        """Column names, all different, and the rows by them; None where a figure does not apply."""
        heads: list[str] = []
        taken: set[str] = set()
        for column in self.columns:
            head = " ".join(column.split())
            heads.append(unique_name(head, taken))
        noted = [any(row.cells[place].note for row in self.rows) for place in range(len(heads))]
        names = [name for head, note in zip(heads, noted) for name in ([head, f"{head}, note"] if note else [head])]
        records = []
        for row in self.rows:
            record: dict[str, Any] = {}
            for head, note, cell in zip(heads, noted, row.cells):
                order = _order(cell)
                record[head] = order if order is not None else None if cell.text == MISSING else cell.text
                record |= {f"{head}, note": cell.note or None} if note else {}
            records.append(record)
        return names, records

    def csv(self) -> str:
        """With a header; an empty cell where a figure does not apply."""
        names, records = self.records()
        return csv_text(records, names)

    def json(self) -> str:
        """``caption``, ``columns`` and ``rows``."""
        names, records = self.records()
        table = {"caption": self.caption, "columns": names, "rows": records}
        return writable(json.dumps(table, indent=2, allow_nan=False, ensure_ascii=False)) + "\n"


@dataclasses.dataclass(frozen=True)
class Card:
    """A picture (PNG bytes, described by ``alt``) with a player (wav bytes) under a title; a ``full`` one has a row of
    its own, and scrolls where that is too narrow for it."""

    title: str
    picture: bytes | None = None
    alt: str = ""
    sound: bytes | None = None
    dark_picture: bytes | None = None
    caption: str = ""
    full: bool = False


class Report:
    """Build the page from top to bottom, then ``save`` it.

    Args:
        title: heading of the page.
        summary: one or two sentences under it.
        data: what ``Recordings.measured`` says of the clips measured; its notes stand under the summary.
    """

    def __init__(self, title: str, summary: str = "", data: Mapping[str, Any] | None = None) -> None:
        self._title = title
        self._tables: list[Table] = []
        self._scripts, self._styles = [asset("page.js")], [asset("page.css")]
        self._parts = [
            f"<header><h1>{_text(title)}</h1>" + (f"<p>{_text(summary)}</p>" if summary else "") + "</header>"
        ]
        self.notes(data["notes"] if data else ())

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
        """Add a table that sorts by its columns' heads, scrolls inside its own box and can be had as CSV and JSON.

        Raises:
            InputError: a row does not have a cell for each column.
        """
        for row in rows:
            if len(row.cells) != len(columns):
                raise InputError(
                    f"a row of the table {caption!r} needs {len(columns)} cells; received {len(row.cells)}"
                )
        table = Table(f"{len(self._tables) + 1:02}-{_slug(caption)}", caption, columns, rows)
        self._tables.append(table)
        head = "".join(f'<th scope="col"><button type="button">{_text(column)}</button></th>' for column in columns)
        body = "".join(f'<tr class="{_text(row.kind)}">{"".join(map(_cell, row.cells))}</tr>' for row in rows)
        links = ", ".join(
            f'<a download="{table.name}.{ending}" href="{_data(kind, text.encode())}">{ending.upper()}</a>'
            for ending, kind, text in (("csv", "text/csv", table.csv()), ("json", "application/json", table.json()))
        )
        self._parts.append(
            f'<div class="scroll" role="region" tabindex="0" aria-label="{_text(caption)}"><table>'
            f"<caption><span>{_text(caption)}</span></caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
            f'</table></div><p class="downloads">This table as {links}</p>'
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

    def embed(self, markup: str, script: str, style: str) -> None:
        """Add markup, script and style of our own, which are written as they are: nothing in them may come from
        outside."""
        self._parts.append(markup)
        self._scripts.append(script)
        self._styles.append(style)

    def html(self) -> str:
        """Return the page."""
        style = "".join(self._styles)
        return (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
            f"<title>{_text(self._title)}</title><style>{style}</style></head>\n<body><main>\n"
            + "\n".join(self._parts)
            + "\n</main>"
            + "".join(f"<script>{script}</script>" for script in self._scripts)
            + "</body></html>\n"
        )

    def save(self, path: str | os.PathLike) -> None:
        """Write the page, and its tables as CSV and JSON to the folder ``tables`` beside it; each file whole or not at
        all. Tables of an earlier page there are removed."""
        tables = Path(path).parent / "tables"
        files = {f"{t.name}.{end}": text for t in self._tables for end, text in (("csv", t.csv()), ("json", t.json()))}
        for old in tables.glob("[0-9][0-9]-*.*"):
            if old.suffix in (".csv", ".json") and old.name not in files:
                old.unlink()
        for name, text in files.items():
            tables.mkdir(exist_ok=True)
            write_text(tables / name, text)
        write_text(path, self.html())


def sound_cards(sounds: Sequence[tuple[str, np.ndarray, np.ndarray]], representation: Any) -> list[Card]:
    """Make a card with spectrogram and player of each sound of one clip, the original first, equally
    loud.

    Args:
        sounds: (title, dB spectrogram (bins, frames, channels), waveform (samples,)).
        representation: gives the sample rate, the frequencies of the bins and the colour scale.
    """
    sample_rate, frequencies = representation.sample_rate, representation.frequencies
    players = match_levels([waveform for _, _, waveform in sounds], sample_rate)
    cards = []
    for (title, db, _), player in zip(sounds, players):
        seconds = len(player.waveform) / sample_rate
        figure = spectrogram_figure(
            db, frequencies=frequencies, duration=seconds, min_db=representation.min_db, max_db=representation.max_db
        )
        alt = (
            f"Spectrogram, {title}: {seconds:.2f} s, 0 to {sample_rate / 2:g} Hz, {representation.min_db:g} to "
            f"{representation.max_db:g} dB"
        )
        sound, gain = wav_bytes(player.waveform, sample_rate), f"gain {signed_text(player.gain_db)} dB"
        cards.append(Card(title, png(figure, dots_per_inch=130), alt, sound, caption=gain))
    return cards


def number_text(value: float | None, digits: int = 2) -> str:
    """A figure for people; a dash where there is none."""
    return MISSING if value is None else f"{value:.{digits}f}".replace("-", "−")


def signed_text(value: float, digits: int = 1) -> str:
    """A figure with its sign: +1.2, −3.4, 0.0."""
    text = f"{value:+.{digits}f}"
    return (text[1:] if float(text) == 0.0 else text).replace("-", "−")


def interval_text(row: Mapping[str, Any], name: str, digits: int = 2) -> str:
    """The interval of a figure in a flat row, "3.21–3.43"; with "to" where a sign would be misread; "" if
    none."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    if low is None or high is None:
        return ""
    return ("–" if low >= 0 else " to ").join(number_text(end, digits) for end in (low, high))


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
    return html.escape(writable(str(value)), quote=True)


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _slug(text: str) -> str:
    """Letters, digits and hyphens for a file name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].strip("-") or "table"


def asset(name: str) -> str:
    """The text of a style sheet, script or markup that belongs to this package."""
    return (resources.files("spectrovae.evaluation") / name).read_text(encoding="utf-8")


def _order(cell: Cell) -> float | None:
    """The number that a cell sorts by, as Python's own; None if there is none or it is not finite."""
    order = cell.order.item() if isinstance(cell.order, np.generic) else cell.order
    return order if order is not None and math.isfinite(order) else None


def _cell(cell: Cell) -> str:
    order = _order(cell)
    order_text = "" if order is None else f' data-order="{order!r}"'
    note = f"<small>{_text(cell.note)}</small>" if cell.note else ""
    return f"<td{order_text}>{_text(cell.text)}{note}</td>"


def _card(card: Card) -> str:
    parts = [f"<figcaption>{_text(card.title)}</figcaption>"] if card.title else []
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
    kind = ' class="full" tabindex="0"' if card.full else ""
    return f"<figure{kind}>{''.join(parts)}</figure>"
