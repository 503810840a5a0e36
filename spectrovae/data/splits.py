"""Which recordings, or which parts of them, train a model, validate it and test it.

A split is decided by what a recording is (its content, speaker, name or folder), never by its position in a list, so
that adding recordings moves no other one from training to test.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from spectrovae.errors import InputError

if TYPE_CHECKING:
    from spectrovae.data.manifest import Record

SPLITS = ("train", "validation", "test")
SPLIT_RULES = ("auto", "hash", "speaker", "fsdd", "folder", "time", "table")
FSDD_PATTERN = r"(?P<label>\d)_(?P<speaker>[A-Za-z]+)_(?P<index>\d+)"
BACKGROUND = "_background_noise_"  # Speech Commands: material to mix in, no class and no example
FEW = 5  # recordings, below which "auto" splits long ones in time
NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev", "development"),
    "test": ("test", "testing", "eval", "evaluation"),
}


@dataclass(frozen=True)
class Division:
    """Recordings by split.

    Attributes:
        rule: the rule that was used, "auto" resolved.
        records: the recordings of each split; under the rule "time" one recording is in several.
        spans: under the rule "time", for each split the (begin, end) of its stretch by a recording's path, in the unit
            of the lengths given to :func:`divide`.
        notes: sentences for a person about what was left out or chosen.
    """

    rule: str
    records: dict[str, list[Record]]
    spans: dict[str, dict[str, tuple[int, int]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def divide(
    records: Sequence[Record], rule: str = "auto", length: Callable[[Record], int] | None = None, example: int = 0
) -> Division:
    """Share recordings out over "train", "validation" and "test".

    Recordings in a folder ``_background_noise_``, as Speech Commands has it, are in no split.

    Args:
        rule: one of

            - "hash": 80, 10 and 10 % by the hash of a file's content (copies stay together);
            - "speaker": the same by the hash of the speaker's name;
            - "fsdd": the official test set of FSDD, index 0-4, with 5-9 for validation;
            - "folder": by folders named train, val (valid, validation, dev) and test (eval), at the first level that
              has several of them; a validation or test split that has no folder is taken from train by "hash";
            - "time": each recording that is long enough is cut into a stretch for training (80 %), one for validation
              and one for test, with gaps of one example between them; shorter ones train;
            - "table": the splits named by a table of labels (``Recordings.open(labels=...)``);
            - "auto": "table" where a table names splits, "folder" where all recordings lie in such folders, "fsdd"
              where every name follows that scheme and fills all three, "time" for fewer than five long recordings,
              else "hash".
        length: the length of a recording, in any unit.
        example: the length of an example, in the same unit; needed by "time".

    Raises:
        InputError: an unknown rule, or recordings that do not have what the rule needs.
    """
    if rule not in SPLIT_RULES:
        raise InputError(f"split must be one of {', '.join(SPLIT_RULES)}, received {rule!r}")
    used = [record for record in records if BACKGROUND not in Path(record.path).parts[:-1]]
    notes = []
    if len(used) < len(records):
        notes.append(
            f"{_count(len(records) - len(used), 'recording')} in {BACKGROUND} left out of all splits: the folder holds "
            "noise to mix in, and is no class; rename it to use them"
        )
    lengths = {record.path: length(record) if length else 0 for record in used}
    by_folder = _folder_splits(used)
    if rule == "auto":
        rule = _recognised(used, by_folder, lengths, example)
        if rule != "folder" and {"train", "test"} <= set(by_folder.values()):
            notes.append(
                "some folders are named train and test, but not all recordings lie in such folders, so they are split "
                f"by {rule!r}; give the folders of the splits alone to use them"
            )
    if rule == "time":
        return _divide_in_time(used, lengths, example, notes)
    if rule == "fsdd":
        _require(used, _is_fsdd, "the fsdd split needs names such as 7_jackson_32.wav", "use split='hash'")
        chosen = {record.path: _fsdd_split(record) for record in used}
    elif rule == "folder":
        hint = "move it into one, or use split='hash'"
        _require(used, lambda record: record.path in by_folder, "the folder split needs folders train, val, test", hint)
        chosen = _completed(used, by_folder, notes)
    elif rule == "table":
        if not any(record.split for record in used):
            raise InputError("the table split needs a table of labels with a column 'split' (train, validation, test)")
        chosen = _completed(used, {record.path: record.split for record in used if record.split}, notes)
    else:
        if rule == "speaker":
            hint = "give a name pattern with a (?P<speaker>...) group, or use split='hash'"
            _require(used, lambda record: record.speaker is not None, "the speaker split needs speakers", hint)
        keys = {r.path: f"speaker:{r.speaker}" for r in used} if rule == "speaker" else _keys(used)
        by_key = split_by_hash(keys.values())
        chosen = {path: by_key[key] for path, key in keys.items()}
    divided = {split: [record for record in used if chosen.get(record.path) == split] for split in SPLITS}
    notes += _copies(divided)
    return Division(rule, divided, notes=notes)


def split_by_hash(keys: Iterable[str]) -> dict[str, str]:
    """Give every key a split by its hash: 80 % train, 10 % validation, 10 % test.

    A key keeps its split whatever other keys there are, with one exception for tiny sets: where that would
    leave a split empty, the key whose hash is nearest to the border moves over (with two keys, train and
    validation are filled; with one, train).
    """
    ordered = sorted(set(keys), key=_unit)
    count = len(ordered)
    train = sum(_unit(key) < 0.8 for key in ordered)
    validation = sum(_unit(key) < 0.9 for key in ordered)
    if count >= 3:
        train = min(max(train, 1), count - 2)
        validation = min(max(validation, train + 1), count - 1)
    else:
        train, validation = min(count, 1), count
    return {
        key: "train" if place < train else "validation" if place < validation else "test"
        for place, key in enumerate(ordered)
    }


def split_in_time(length: int, example: int) -> dict[str, tuple[int, int]] | None:
    """(begin, end) of each split's stretch of one recording, with gaps of an example between them.

    Training takes 80 % of what the gaps leave, validation and test 10 % each, one example at least. None where the
    recording is shorter than five examples, or there is no example length.
    """
    if example < 1 or length < 5 * example:
        return None
    held = max(example, (length - 2 * example) // 10)
    test, validation = length - held, length - 2 * held - example
    return {"train": (0, validation - example), "validation": (validation, validation + held), "test": (test, length)}


def split_named(text: str) -> str | None:
    """The split that a folder or a cell of a table names: "train" of "train-clean-100"; None if none, or several."""
    words = set(re.findall(r"[a-z]+", text.lower()))
    named = {split for split, names in NAMES.items() if words & set(names)}
    return named.pop() if len(named) == 1 else None


def split_level(paths: Iterable[str]) -> int | None:
    """The first folder level, counted from 0 at the top, at which folders name more than one split."""
    folders = {Path(path).parts[:-1] for path in paths}
    levels = range(max(map(len, folders), default=0))
    named = [{split_named(parts[level]) for parts in folders if len(parts) > level} - {None} for level in levels]
    return next((level for level in levels if len(named[level]) > 1), None)


def _folder_splits(records: Sequence[Record]) -> dict[str, str]:
    """The split of each path whose folder names one; empty unless some train and some do not."""
    level = split_level(record.path for record in records)
    if level is None:
        return {}
    folders = {record.path: Path(record.path).parts[:-1][level:] for record in records}
    known = {path: split for path, parts in folders.items() if parts and (split := split_named(parts[0]))}
    return known if "train" in known.values() else {}


def _recognised(records: Sequence[Record], by_folder: dict[str, str], lengths: dict[str, int], example: int) -> str:
    if any(record.split for record in records):
        return "table"
    if by_folder and len(by_folder) == len(records):
        return "folder"
    if records and all(map(_is_fsdd, records)) and {_fsdd_split(record) for record in records} == set(SPLITS):
        return "fsdd"
    contents = {record.content for record in records}
    long = [split_in_time(lengths[record.path], example) is not None for record in records]
    few = len(contents) < FEW and (all(long) if len(contents) > 2 else any(long))
    return "time" if few else "hash"


def _divide_in_time(records: Sequence[Record], lengths: dict[str, int], example: int, notes: list[str]) -> Division:
    divided: dict[str, list[Record]] = {split: [] for split in SPLITS}
    spans: dict[str, dict[str, tuple[int, int]]] = {split: {} for split in SPLITS}
    for record in records:
        stretches = split_in_time(lengths[record.path], example)
        stretches = stretches or {"train": (0, lengths[record.path])}
        for split, span in stretches.items():
            divided[split].append(record)
            spans[split][record.path] = span
    if not divided["test"]:
        longest = max(lengths.values(), default=0)
        raise InputError(
            "the time split needs a recording of five examples at least; the longest one has "
            f"{longest / max(example, 1):.1f}: give shorter examples (--duration), longer recordings, or split='hash'"
        )
    short = len(records) - len(divided["test"])
    if short:
        notes.append(f"{_count(short, 'recording')} shorter than five examples: all of it trains")
    return Division("time", divided, spans, notes)


def _completed(records: Sequence[Record], chosen: dict[str, str], notes: list[str]) -> dict[str, str]:
    """Fixed splits; a validation or test split that nobody named is taken from train by the hash of its contents."""
    missing = [split for split in ("validation", "test") if split not in chosen.values()]
    if len(chosen) < len(records):
        notes.append(f"{_count(len(records) - len(chosen), 'recording')} without a split left out")
    if not missing:
        return chosen
    train = [record for record in records if chosen.get(record.path) == "train"]
    keys = _keys(train)
    by_key = split_by_hash(keys.values())
    taken = {path: by_key[key] for path, key in keys.items() if by_key[key] in missing}
    notes.append(f"no recordings are named for {' or '.join(missing)}: {len(taken)} of train taken by their hash")
    return chosen | taken


def _keys(records: Sequence[Record]) -> dict[str, str]:
    """By path the hash of a recording's file; of copies in other formats, the least of their files' hashes."""
    least: dict[str, str] = {}
    for record in records:
        least[record.content] = min(str(record.sha256), least.get(record.content, "g"))
    return {record.path: least[record.content] for record in records}


def _copies(divided: dict[str, list[Record]]) -> list[str]:
    """A sentence for each split that holds copies of training recordings."""
    train = {record.content for record in divided["train"]}
    counts = {split: sum(r.content in train for r in divided[split]) for split in ("validation", "test")}
    return [
        f"{_count(count, 'recording')} of {split} with the content of one in train, under another name"
        for split, count in counts.items()
        if count
    ]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + "s" * (number != 1)


def _unit(key: str) -> float:
    """A number in [0, 1): a SHA-256 that is given, or the key's own, read as a fraction."""
    digest = (
        key if re.fullmatch(r"[0-9a-f]{64}", key) else hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()
    )
    return int(digest[:16], 16) / 2.0**64


def _is_fsdd(record: Record) -> bool:
    return re.fullmatch(FSDD_PATTERN, Path(record.path).stem) is not None


def _fsdd_split(record: Record) -> str:
    index = int(Path(record.path).stem.rsplit("_", 1)[1])
    return "test" if index < 5 else "validation" if index < 10 else "train"


def _require(records: Sequence[Record], fulfils: Callable[[Record], bool], need: str, hint: str) -> None:
    for record in records:
        if not fulfils(record):
            raise InputError(f"{need}; {record.path} has none: {hint}")
