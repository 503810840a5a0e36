"""Scan a folder of recordings: every file accounted for, and splits that stay put.

A manifest is a JSON-lines file: one header line, then one line for each audio file, accepted or rejected
with the reason. Splits are decided by what is in a file, never by its place in a list, so that adding
recordings moves no other one from training to test.
"""

import dataclasses
import hashlib
import json
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spectrovae import audio
from spectrovae.errors import InputError
from spectrovae.files import sha256, write_text

FSDD_PATTERN = r"(?P<label>\d)_(?P<speaker>[A-Za-z]+)_(?P<index>\d+)"
SPLITS = ("train", "validation", "test")
SPLIT_RULES = ("auto", "hash", "speaker", "fsdd")
SILENCE = 1e-4  # -80 dB under full scale
_FORMAT, _VERSION = "spectrovae-manifest", 1

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Record:
    """One audio file.

    ``path`` is relative to the manifest's root, with "/" between folders; ``peak`` is the largest magnitude
    of all channels; ``clipped`` says that neighbouring samples stand at full scale; ``nan`` includes
    infinities. What could not be read is None.
    """

    path: str
    bytes: int
    accepted: bool
    reason: str | None = None
    sha256: str | None = None
    format: str | None = None
    subtype: str | None = None
    sample_rate: int | None = None
    channels: int | None = None
    samples: int | None = None
    duration: float | None = None
    label: str | None = None
    speaker: str | None = None
    index: int | None = None
    peak: float | None = None
    silent: bool | None = None
    clipped: bool | None = None
    nan: bool | None = None


@dataclass(frozen=True)
class Manifest:
    """What a scan found: ``records`` in the order of their paths, and how many other files were ``ignored``.

    ``scanned`` is when the scan began, in seconds since 1970: files touched later are hashed again before
    use.
    """

    root: Path
    records: tuple[Record, ...]
    pattern: str = FSDD_PATTERN
    ignored: int = 0
    scanned: float = 0.0

    @property
    def accepted(self) -> list[Record]:
        return [record for record in self.records if record.accepted]

    @property
    def rejected(self) -> list[Record]:
        return [record for record in self.records if not record.accepted]

    @property
    def fingerprint(self) -> str:
        """A hash over the paths and contents of all accepted files; it changes when the data do."""
        digest = hashlib.sha256()
        for record in self.accepted:
            digest.update(f"{record.path}\0{record.sha256}\n".encode())
        return digest.hexdigest()

    def summary(self) -> dict[str, Any]:
        """Counts for a report: files, reasons, rates (Hz), seconds, labels, speakers and what was flagged."""
        accepted = self.accepted
        return {
            "root": str(self.root),
            "accepted": len(accepted),
            "rejected": len(self.rejected),
            "ignored": self.ignored,
            "reasons": {record.path: record.reason for record in self.rejected},
            "sample_rates": _counts(record.sample_rate for record in accepted),
            "channels": _counts(record.channels for record in accepted),
            "seconds": sum(record.duration or 0.0 for record in accepted),
            "labels": _counts(record.label for record in accepted),
            "speakers": _counts(record.speaker for record in accepted),
            "silent": sum(bool(record.silent) for record in accepted),
            "clipped": sum(bool(record.clipped) for record in accepted),
            "duplicates": len(accepted) - len({record.sha256 for record in accepted}),
            "fingerprint": self.fingerprint,
        }

    def splits(self, rule: str = "auto") -> dict[str, list[Record]]:
        """Share out the accepted files over "train", "validation" and "test".

        Args:
            rule: "hash" takes 80, 10 and 10 % by the hash of a file's content (copies stay together);
                "speaker" the same by the hash of the speaker's name; "fsdd" is the official test set, index
                0-4, with 5-9 for validation; "auto" is "fsdd" where every name follows that scheme and fills
                all three, else "hash".

        Raises:
            InputError: an unknown rule, or names that do not give what the rule needs.
        """
        if rule not in SPLIT_RULES:
            raise InputError(f"split must be one of {', '.join(SPLIT_RULES)}, received {rule!r}")
        records = self.accepted
        if rule == "auto":
            official = _fsdd_splits(records) if all(map(_is_fsdd, records)) else {}
            return official if official and all(official.values()) else self.splits("hash")
        if rule == "fsdd":
            _require(records, _is_fsdd, "the fsdd split needs names such as 7_jackson_32.wav", "use split='hash'")
            return _fsdd_splits(records)
        if rule == "speaker":
            hint = "give a name pattern with a (?P<speaker>...) group, or use split='hash'"
            _require(records, lambda record: record.speaker is not None, "the speaker split needs speakers", hint)
            keys = {record.path: f"speaker:{record.speaker}" for record in records}
        else:
            keys = {record.path: str(record.sha256) for record in records}
        chosen = split_by_hash(keys.values())
        return {split: [record for record in records if chosen[keys[record.path]] == split] for split in SPLITS}

    def check(self, records: Iterable[Record] | None = None, thorough: bool = False) -> None:
        """See that files are still what was scanned.

        Sizes are compared, and contents too where a file was touched since the scan, or everywhere if
        ``thorough``.

        Raises:
            InputError: a file vanished or changed.
        """
        for record in self.accepted if records is None else records:
            path = self.root / record.path
            try:
                status = path.stat()
            except OSError as error:
                raise InputError(f"{path} vanished since the scan; scan the folder again") from error
            # Two seconds: the coarsest time stamps of common file systems.
            touched = thorough or status.st_mtime > self.scanned - 2
            if status.st_size != record.bytes or (touched and sha256(path) != record.sha256):
                raise InputError(f"{path} changed since the scan; scan the folder again")

    def write(self, path: str | os.PathLike) -> None:
        """Write the manifest as JSON lines, whole or not at all.

        The root is kept relative where the manifest lies inside it or in a folder above it, so that both can
        move together; absolute otherwise.
        """
        folder, root = Path(path).resolve().parent, self.root.resolve()
        together = root.is_relative_to(folder) or folder.is_relative_to(root)
        header = {
            "format": _FORMAT,
            "version": _VERSION,
            "root": Path(os.path.relpath(root, folder)).as_posix() if together else str(root),
            "pattern": self.pattern,
            "ignored": self.ignored,
            "scanned": self.scanned,
        }
        lines = [header, *(dataclasses.asdict(record) for record in self.records)]
        write_text(path, "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines))

    @classmethod
    def read(cls, path: str | os.PathLike) -> "Manifest":
        """Read what ``write`` wrote.

        Raises:
            InputError: not a manifest, damaged, of a newer version, or its folder is gone.
        """
        path = Path(path)
        try:
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
            header = lines[0]
            if header["format"] != _FORMAT:
                raise KeyError("format")
            version = header["version"]
            if version > _VERSION:
                raise InputError(f"{path} has manifest version {version}; this spectrovae reads up to {_VERSION}")
            root = Path(os.path.normpath(path.parent / header["root"]))
            records = tuple(Record(**line) for line in lines[1:])
            manifest = cls(root, records, header["pattern"], header["ignored"], header["scanned"])
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror or error}") from error
        except InputError:
            raise
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise InputError(f"{path} is not a manifest, or is damaged; scan its folder again") from error
        if not root.is_dir():
            raise InputError(f"{path} describes recordings in {root}, which does not exist; scan their new folder")
        return manifest


def scan(folder: str | os.PathLike, *, pattern: str | None = None, progress: Progress | None = None) -> Manifest:
    """Look at every audio file under a folder (wav, flac, ogg, mp3; hidden ones are ignored).

    A file is accepted when all of it decodes and every sample is a number; silent and clipped ones are
    accepted and flagged.

    Args:
        folder: searched with its sub-folders.
        pattern: a regular expression with the named groups ``label``, ``speaker`` and ``index`` (any of
            them), matched to the end of the relative path without its suffix. By default FSDD's
            ``{label}_{speaker}_{index}``. A file without a label by its name is labelled by its sub-folder.
        progress: called with (files done, files in all).

    Raises:
        InputError: no such folder, a wrong pattern, or no file to accept; the message lists the reasons.
    """
    root, started = Path(folder), time.time()
    if not root.is_dir():
        problem = "is not a folder" if root.exists() else "does not exist"
        raise InputError(f"{root} {problem}; expected a folder of recordings")
    pattern = pattern or FSDD_PATTERN
    try:
        names = re.compile(rf"(?:.*/)?(?:{pattern})")
    except re.error as error:
        raise InputError(f"the name pattern {pattern!r} is not a regular expression: {error}") from error
    if not {"label", "speaker", "index"} & set(names.groupindex):
        raise InputError(f"the name pattern {pattern!r} names no group; use (?P<label>...) or (?P<speaker>...)")
    paths, ignored = [], 0
    for path in _files(root):
        if path.suffix.lower() in audio.SUFFIXES and not path.name.startswith("."):
            paths.append(path)
        else:
            ignored += 1
    paths.sort(key=lambda path: path.relative_to(root).as_posix())
    records = []
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for record in pool.map(lambda path: _examine(path, root, names), paths):
            records.append(record)
            if progress:
                progress(len(records), len(paths))
    manifest = Manifest(root, tuple(records), pattern, ignored, started)
    if not manifest.accepted:
        raise InputError(_nothing_accepted(manifest))
    return manifest


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


def _unit(key: str) -> float:
    """A number in [0, 1): a SHA-256 that is given, or the key's own, read as a fraction."""
    digest = key if re.fullmatch(r"[0-9a-f]{64}", key) else hashlib.sha256(key.encode()).hexdigest()
    return int(digest[:16], 16) / 2.0**64


def _is_fsdd(record: Record) -> bool:
    return re.fullmatch(FSDD_PATTERN, Path(record.path).stem) is not None


def _fsdd_splits(records: list[Record]) -> dict[str, list[Record]]:
    splits: dict[str, list[Record]] = {split: [] for split in SPLITS}
    for record in records:
        index = int(Path(record.path).stem.rsplit("_", 1)[1])
        splits["test" if index < 5 else "validation" if index < 10 else "train"].append(record)
    return splits


def _require(records: list[Record], fulfils: Callable[[Record], bool], need: str, hint: str) -> None:
    for record in records:
        if not fulfils(record):
            raise InputError(f"{need}; {record.path} has none: {hint}")


def _files(root: Path) -> Iterator[Path]:
    seen = set()
    for folder, _, names in os.walk(root, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:  # a link back up
            continue
        seen.add(real)
        yield from (Path(folder) / name for name in names)


def _examine(path: Path, root: Path, names: re.Pattern) -> Record:
    relative = path.relative_to(root).as_posix()
    found = names.fullmatch(relative[: -len(path.suffix)])
    groups = found.groupdict() if found else {}
    index = groups.get("index")
    folder = path.parent.name if path.parent != root else None
    known: dict[str, Any] = {
        "path": relative,
        "label": groups.get("label") or folder,
        "speaker": groups.get("speaker"),
        "index": int(index) if index and index.isdecimal() else None,
    }
    try:
        known["bytes"] = path.stat().st_size
        known["sha256"] = sha256(path)
        header = audio.info(path)
        known.update(dataclasses.asdict(header), duration=header.duration)
        known.update(_measure(path))
    except OSError as error:
        return Record(**{"bytes": 0, **known}, accepted=False, reason=f"cannot be read: {error.strerror or error}")
    except InputError as error:
        return Record(**known, accepted=False, reason=str(error).removeprefix(f"{path} "))
    if known["nan"]:
        return Record(**known, accepted=False, reason="holds NaN or infinite samples")
    return Record(**known, accepted=True)


def _measure(path: Path) -> dict[str, Any]:
    peak, clipped = 0.0, False
    for block in audio.blocks(path):
        if not np.isfinite(block).all():
            return {"nan": True}
        magnitude = np.abs(block)
        peak = max(peak, float(magnitude.max()))
        full = magnitude >= 32767 / 32768
        clipped = clipped or bool((full[:, 1:] & full[:, :-1]).any())
    return {"peak": peak, "silent": peak < SILENCE, "clipped": clipped, "nan": False}


def _counts(values: Iterable[Any]) -> dict[str, int]:
    counts = Counter(str(value) for value in values if value is not None)
    return dict(sorted(counts.items()))


def _nothing_accepted(manifest: Manifest) -> str:
    if not manifest.records:
        kinds = ", ".join(audio.SUFFIXES)
        return f"{manifest.root} holds no audio ({kinds}); {manifest.ignored} other files were ignored"
    listed = "; ".join(f"{record.path}: {record.reason}" for record in manifest.rejected[:5])
    more = f"; and {len(manifest.rejected) - 5} more" if len(manifest.rejected) > 5 else ""
    return f"no file of {manifest.root} can be used: {listed}{more}"
