"""What recordings are called: labels and speakers from file names, folders, or a table beside the recordings."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectrovae.data.splits import FSDD_PATTERN, split_level, split_named
from spectrovae.errors import InputError
from spectrovae.reader import SUFFIXES

if TYPE_CHECKING:
    from spectrovae.data.manifest import Record

# Names of columns, in lower case and without spaces, underscores and hyphens; the first that a table has is taken.
LABEL_COLUMNS = (
    "label", "labels", "category", "class", "classname", "species", "primarylabel", "commonname", "ebirdcode", "word",
    "digit", "instrument", "instrumentfamily", "genre", "emotion", "tag", "tags", "target", "classid",
)  # fmt: skip
SPEAKER_COLUMNS = ("speaker", "speakerid", "clientid", "singer", "voice", "actor", "subject", "reader", "individual")
SPLIT_COLUMNS = ("split", "subset", "set", "partition")
_DATE = re.compile(r"(19|20)\d\d([-_.]?\d\d){0,2}")


def compiled(pattern: str) -> re.Pattern:
    """The expression that a relative path without its suffix must match to its end.

    Raises:
        InputError: not a regular expression, or one without a group of use.
    """
    try:
        names = re.compile(rf"(?:.*/)?(?:{pattern})", re.DOTALL)
    except re.error as error:
        raise InputError(f"the name pattern {pattern!r} is not a regular expression: {error}") from error
    if not {"label", "speaker", "index"} & set(names.groupindex):
        raise InputError(f"the name pattern {pattern!r} names no group; use (?P<label>...) or (?P<speaker>...)")
    return names


def named(
    records: Sequence[Record],
    pattern: str | None = None,
    labels: str | os.PathLike | None = None,
    label_from: int | None = None,
) -> tuple[tuple[Record, ...], tuple[str, ...]]:
    """Give recordings their label, speaker, index and split.

    Names are normalised (Unicode NFC), so that a letter with an accent is the same however a system wrote it.

    Args:
        pattern: a regular expression with the named groups ``label``, ``speaker`` and ``index`` (any of them), matched
            to the end of the relative path without its suffix. By default FSDD's ``{label}_{speaker}_{index}``.
        labels: a table (CSV or TSV) with a column of file names and one of labels, perhaps of speakers and splits; it
            stands above names and folders.
        label_from: the folder that names the label: 1 at the top, -1 the deepest. By default a recording without a
            label by its name takes the topmost folder level that tells recordings apart and is no split or date.

    Returns:
        The records, and sentences for a person.

    Raises:
        InputError: a pattern or table that cannot be used, or no folder at that level.
    """
    names = compiled(pattern or FSDD_PATTERN)
    level, notes = _label_level(records, label_from)
    renamed, by_folder = [], False
    for record in records:
        match = names.fullmatch(os.path.splitext(record.path)[0])
        groups = match.groupdict() if match else {}
        label = None if label_from is not None else groups.get("label")
        by_folder = by_folder or label is None
        index = groups.get("index")
        known: dict[str, Any] = {
            "label": plain(label or _at(Path(record.path).parts[:-1], level)),
            "speaker": plain(groups.get("speaker")),
            "index": int(index) if index and index.isdecimal() else None,
        }
        renamed.append(dataclasses.replace(record, **known))
    if labels is not None:
        renamed, notes = _from_table(renamed, Path(labels))
    return tuple(renamed), tuple(notes if by_folder or labels is not None else ())


def plain(name: str | None) -> str | None:
    """A name in Unicode NFC without spaces around it; None if nothing is left."""
    return unicodedata.normalize("NFC", name).strip() or None if name is not None else None


def _label_level(records: Sequence[Record], label_from: int | None) -> tuple[int | None, list[str]]:
    """Which folder names labels, as an index of a path's folders, None if none does; and what to say of it."""
    folders = [Path(record.path).parts[:-1] for record in records]
    if label_from is not None:
        level = label_from - 1 if label_from > 0 else label_from
        if label_from == 0 or not any(_at(parts, level) for parts in folders):
            deepest = max(map(len, folders), default=0)
            raise InputError(
                f"label_from (--label-from) must be a folder level from 1 (top) to {deepest}, or -1 for the deepest, "
                f"received {label_from}"
            )
        return level, []
    at_splits = split_level(record.path for record in records)
    telling, passed = [], False
    for level in range(max(map(len, folders), default=0)):
        found = {parts[level] for parts in folders if len(parts) > level}
        if len(found) > 1:
            if level == at_splits or all(map(_DATE.fullmatch, found)):
                passed = True
            else:
                telling.append(level)
    if len(telling) > 1:
        example = next(parts for parts in folders if len(parts) > telling[-1])
        return telling[0], [
            f"labels are the folders of level {telling[0] + 1}, as {example[telling[0]]!r} of {'/'.join(example)!r}; "
            "--label-from chooses another level (-1: the deepest)"
        ]
    return (telling[0] if telling else None if passed else -1), []


def _at(parts: Sequence[str], level: int | None) -> str | None:
    return parts[level] if level is not None and -len(parts) <= level < len(parts) else None


def _from_table(records: Sequence[Record], path: Path) -> tuple[list[Record], list[str]]:
    """Records with the labels, speakers and splits of a table."""
    places = _places(records)
    heading, rows, columns = _read_table(path, places, records[0].path)
    known: dict[int, tuple[int, dict[str, str | None]]] = {}
    unmatched = []
    for line, row in rows:
        name = row[columns["file"]]
        found = _find(name, places)
        if len(found) > 1:
            paths = sorted(records[place].path for place in found)
            raise InputError(
                f"{path}, line {line}: {name!r} may be {_first(paths)}; write all of its path, as in {paths[0]!r}"
            )
        if not found:
            unmatched.append(name)
            continue
        values = {target: plain(row[column]) for target, column in columns.items() if target != "file"}
        if values.get("split"):
            values["split"] = _known_split(str(values["split"]), path, line)
        before_line, before = known.setdefault(found[0], (line, values))
        if before != values:
            raise InputError(
                f"{path} names {records[found[0]].path} twice with different values (lines {before_line} and {line}); "
                "one line a recording is expected"
            )
    changed = [
        dataclasses.replace(record, **({"label": None} | known[place][1] if place in known else {"label": None}))
        for place, record in enumerate(records)
    ]
    lacking = [record.path for place, record in enumerate(records) if place not in known and record.accepted]
    said = [f"labels from {path.name}: column {heading[columns['label']]!r} for {len(known)} recordings"]
    if lacking:
        said.append(f"{len(lacking)} recordings have no line in {path.name} and no label: {_first(lacking)}")
    if unmatched:
        said.append(f"{len(unmatched)} lines of {path.name} name no recording here: {_first(unmatched)}")
    return changed, said


def _first(names: Sequence[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


def _known_split(text: str, path: Path, line: int) -> str:
    split = split_named(text)
    if split is None:
        raise InputError(f"{path}, line {line}: a split is train, validation or test, received {text!r}")
    return split


def _read_table(
    path: Path, places: dict[str, list[int]], example: str
) -> tuple[list[str], list[tuple[int, list[str]]], dict[str, int]]:
    """The names of the columns, rows with line numbers, and the columns of file, label, speaker and split."""
    table = _cells(path)
    (_, head), body = table[0], table[1:]
    simple = [re.sub(r"[\s_-]", "", cell.lower()) for cell in head]
    known = {*LABEL_COLUMNS, *SPEAKER_COLUMNS, *SPLIT_COLUMNS}
    names = [cell for cell in head if _find(cell, places)]
    headed = not any(map(_is_audio, names)) and (not names or bool(known & set(simple)))
    rows = body if headed else table
    if not rows:
        raise InputError(f"{path} has a heading and no lines; expected a file name and a label in each")
    width = range(len(head))
    heading = head if headed else [f"column {column + 1}" for column in width]
    # A number or a label may be a file's name by accident: the column that names most recordings, if possible with
    # their endings, is that of the files. One without a heading is an index.
    found = [[_find(row[column], places) for _, row in rows] for column in width]
    hits = [
        (sum(bool(place) and _is_audio(row[column]) for place, (_, row) in zip(found[column], rows)),
         sum(map(bool, found[column])), bool(heading[column].strip()))
        for column in width
    ]  # fmt: skip
    free = [column for column in width if not headed or simple[column] not in known]
    file = max(free, key=hits.__getitem__, default=0)
    if not hits[file][1]:
        raise InputError(
            f"no name in {path} is that of a recording: it has {rows[0][1][0]!r}, and there is {example!r}"
        )
    rivals = [column for column in free if hits[column] == hits[file] and found[column] != found[file]]
    if rivals:
        raise InputError(
            f"{path}: {heading[file]!r} and {heading[rivals[0]]!r} name different recordings; name the column of files "
            "'file', with endings such as .wav, and that of labels 'label'"
        )
    columns = {"file": file}
    for target, choices in (("label", LABEL_COLUMNS), ("speaker", SPEAKER_COLUMNS), ("split", SPLIT_COLUMNS)):
        own = [simple.index(name) for name in choices if headed and name in simple and simple.index(name) != file]
        if own:
            columns[target] = own[0]
    others = [column for column in width if column not in columns.values()]
    if "label" not in columns:
        if len(others) != 1:
            shown = ", ".join(map(repr, head)) if headed else f"{len(head)} columns and no heading"
            raise InputError(f"{path} has {shown}: name the column of labels 'label'")
        columns["label"] = others[0]
    return heading, rows, columns


def _cells(path: Path) -> list[tuple[int, list[str]]]:
    """Non-empty rows of equal length with their line numbers; the delimiter is the one that gives most cells."""
    try:
        content = path.read_bytes()
        text = content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot read the labels in {path}: {error.strerror or error}") from error
    except UnicodeError as error:
        raise InputError(f"{path} is no text in UTF-8; save the table as CSV in UTF-8") from error
    head = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max("\t,;|", key=lambda mark: len(next(csv.reader([head], delimiter=mark), [])))
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise InputError(f"{path} is no table: {error}") from error
    if not rows or len(rows[0][1]) < 2:
        raise InputError(
            f"{path} is no table of labels: expected a column of file names and one of labels, apart by comma or tab"
        )
    wide = len(rows[0][1])
    for line, row in rows:
        if len(row) != wide:
            raise InputError(f"{path}, line {line}: {len(row)} cells, where the first line has {wide}")
    return rows


def _is_audio(name: str) -> bool:
    return os.path.splitext(name.strip())[1].lower() in SUFFIXES


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).replace("\\", "/").strip()


def _places(records: Sequence[Record]) -> dict[str, list[int]]:
    """The recordings that each way to write a name may mean: with suffix or without, with folders or without.

    A full path is there with a "/" before it too.
    """
    places: dict[str, list[int]] = defaultdict(list)
    for place, record in enumerate(records):
        parts = _key(record.path).split("/")
        stem = os.path.splitext(parts[-1])[0]
        for first in range(len(parts)):
            folder = "".join(f"{part}/" for part in parts[first:-1])
            for name in {folder + parts[-1], folder + stem}:
                places[name].append(place)
                if first == 0:
                    places[f"/{name}"].append(place)
    return places


def _find(name: str, places: dict[str, list[int]]) -> list[int]:
    """The recordings that a name means: those with this path, else those of which one path is the end of the other."""
    parts = [part for part in _key(name).split("/") if part not in ("", ".", "..")]
    ends = ["/".join(parts[first:]) for first in range(len(parts))]
    tries = [f"/{ends[0]}", ends[0], *(f"/{end}" for end in ends[1:])] if parts else []
    return next((places[key] for key in tries if key in places), [])
