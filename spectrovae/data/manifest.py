"""What a scan found: every file accounted for, and splits that stay put.

A manifest is a JSON-lines file: one header line, then one line for each audio file, accepted or rejected
with the reason. Splits are decided by what is in a file, never by its place in a list, so that adding
recordings moves no other one from training to test.
"""

import dataclasses
import hashlib
import json
import os
import re
import types
import typing
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spectrovae import audio
from spectrovae.data import labels as naming
from spectrovae.data.splits import FSDD_PATTERN, SPLITS, divide
from spectrovae.errors import InputError
from spectrovae.files import sha256, write_text

_FORMAT, _VERSION = "spectrovae-manifest", 2

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Record:
    """One audio file.

    ``path`` is relative to the manifest's root, with "/" between folders; ``split`` is the one that a table of labels
    names; ``peak`` is the largest magnitude of all channels; ``clipped`` says that neighbouring samples stand at full
    scale; ``nan`` includes infinities; ``loud`` is far beyond full scale; ``dc`` says that the samples' mean is off
    zero. ``note`` says in words what is unusual about an accepted file, such as how much of it is there. ``checksum``
    is ``decode.checksum`` of a file that tensorflow-io was seen to decode to soundfile's samples; ``sound`` the SHA-256
    of the samples, which is the same for a copy in another lossless format. What could not be read is None.
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
    split: str | None = None
    peak: float | None = None
    silent: bool | None = None
    clipped: bool | None = None
    nan: bool | None = None
    note: str | None = None
    loud: bool | None = None
    dc: bool | None = None
    checksum: int | None = None
    sound: str | None = None

    @property
    def content(self) -> str:
        """What copies have in common, whatever their names: the hash of their samples, else (of a manifest that was
        written without) of their files."""
        return str(self.sound or self.sha256)


@dataclass(frozen=True)
class Manifest:
    """What a scan found: ``records`` in the order of their paths, and how many other files were ``ignored``.

    ``scanned`` is when the scan began, in seconds since 1970: files touched later are hashed again before
    use. ``endings`` counts the ignored files by ending ("hidden" for hidden ones, "" for none), most frequent first;
    ``unreadable`` are sub-folders that could not be listed; ``notes`` are sentences about labels.
    """

    root: Path
    records: tuple[Record, ...]
    pattern: str = FSDD_PATTERN
    ignored: int = 0
    scanned: float = 0.0
    endings: dict[str, int] = dataclasses.field(default_factory=dict)
    unreadable: tuple[str, ...] = ()
    notes: tuple[str, ...] = dataclasses.field(default=(), compare=False)

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
            digest.update(os.fsencode(f"{record.path}\0{record.sha256}\n"))
        return digest.hexdigest()

    def summary(self) -> dict[str, Any]:
        """Counts for a report: files, reasons, rates (Hz), seconds, labels, speakers and what was flagged."""
        accepted = self.accepted
        return {
            "root": str(self.root),
            "accepted": len(accepted),
            "rejected": len(self.rejected),
            "ignored": self.ignored,
            "endings": self.endings,
            "unreadable": list(self.unreadable),
            "notes": {record.path: record.note for record in accepted if record.note},
            "reasons": {record.path: record.reason for record in self.rejected},
            "sample_rates": _counts(record.sample_rate for record in accepted),
            "channels": _counts(record.channels for record in accepted),
            "seconds": sum(record.duration or 0.0 for record in accepted),
            "labels": _counts(record.label for record in accepted),
            "speakers": _counts(record.speaker for record in accepted),
            "silent": sum(bool(record.silent) for record in accepted),
            "clipped": sum(bool(record.clipped) for record in accepted),
            "loud": sum(bool(record.loud) for record in accepted),
            "dc": sum(bool(record.dc) for record in accepted),
            "duplicates": len(accepted) - len({record.content for record in accepted}),
            "fingerprint": self.fingerprint,
        }

    def named(
        self, pattern: str | None = None, labels: str | os.PathLike | None = None, label_from: int | None = None
    ) -> "Manifest":
        """The same files with labels and speakers by a pattern, folder level or table: see :func:`labels.named`."""
        pattern = pattern or self.pattern
        records, notes = naming.named(self.records, pattern, labels, label_from)
        return dataclasses.replace(self, records=records, notes=notes, pattern=pattern)

    def splits(self, rule: str = "auto", seconds: float = 1.0) -> dict[str, list[Record]]:
        """Share out the accepted files over "train", "validation" and "test": see :func:`splits.divide`.

        Args:
            rule: "auto", "hash", "speaker", "fsdd", "folder", "time" or "table".
            seconds: of an example, for the rule "time".

        Raises:
            InputError: an unknown rule, or files that do not have what the rule needs.
        """
        return divide(
            self.accepted, rule, lambda record: round(1000 * (record.duration or 0)), round(1000 * seconds)
        ).records

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
            "endings": self.endings,
            "unreadable": self.unreadable,
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
        damaged = InputError(f"{path} is not a manifest, or is damaged; scan its folder again")
        try:
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror or error}") from error
        except (ValueError, RecursionError) as error:
            raise damaged from error
        if not lines or not isinstance(lines[0], dict) or lines[0].get("format") != _FORMAT:
            raise damaged
        header, version = lines[0], lines[0].get("version")
        if isinstance(version, int) and version > _VERSION:
            raise InputError(f"{path} has manifest version {str(version)[:20]}; this spectrovae reads up to {_VERSION}")
        types = {"version": int, "root": str, "pattern": str, "ignored": int, "scanned": float}
        if not all(_has_type(header.get(name), type_) for name, type_ in types.items()):
            raise damaged
        endings, unreadable = header.get("endings", {}), header.get("unreadable", [])
        if (
            not _has_type(endings, dict[str, int])
            or not _has_type(unreadable, list[str])
            or not _is_name(header["root"])
        ):
            raise damaged
        for number, line in enumerate(lines[1:], 2):
            if problem := _record_problem(line):
                raise InputError(f"{path} is damaged, line {number}: {problem}; scan its folder again")
        records = tuple(Record(**line) for line in lines[1:])
        twice = [name for name, count in Counter(record.path for record in records).items() if count > 1]
        if twice:
            raise InputError(f"{path} is damaged: {twice[0]} has more than one line; scan its folder again")
        root = Path(os.path.normpath(path.resolve().parent / header["root"]))
        manifest = cls(
            root, records, header["pattern"], header["ignored"], header["scanned"], endings, tuple(unreadable)
        )
        if not manifest.accepted:
            raise InputError(f"{path} lists no recording that can be used; scan its folder again")
        if not root.is_dir():
            raise InputError(f"{path} describes recordings in {root}, which does not exist; scan their new folder")
        return manifest


_TYPES = typing.get_type_hints(Record)
_NEEDED = ("sha256", "format", "subtype", "sample_rate", "channels", "samples", "duration")  # of an accepted file


def _has_type(value: Any, expected: Any) -> bool:
    """Whether a JSON value has a field's type; a bool is no int, an int is a float, and no float is NaN or infinite."""
    if isinstance(expected, types.UnionType):
        return any(_has_type(value, option) for option in typing.get_args(expected))
    if typing.get_origin(expected) is dict:
        return isinstance(value, dict) and all(_has_type(item, typing.get_args(expected)[1]) for item in value.values())
    if typing.get_origin(expected) is list:
        return isinstance(value, list) and all(_has_type(item, typing.get_args(expected)[0]) for item in value)
    if expected is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
    return isinstance(value, expected) and (expected is bool or not isinstance(value, bool))


def _is_name(path: str) -> bool:
    """Whether a file system may hold this name."""
    try:
        return b"\0" not in os.fsencode(path)
    except UnicodeError:
        return False


def _record_problem(line: Any) -> str | None:
    """What keeps a line of a manifest from being a record; None if nothing."""
    if not isinstance(line, dict):
        return f"expected an object, received {str(line)[:40]}"
    for name, value in line.items():
        if name not in _TYPES:
            return f"unknown field {name[:40]!r}"
        if not _has_type(value, _TYPES[name]):
            return f"{name} must be {getattr(_TYPES[name], '__name__', _TYPES[name])}, received {str(value)[:40]!r}"
    if missing := [name for name in ("path", "bytes", "accepted") if name not in line]:
        return f"{missing[0]} is missing"
    path = line["path"]
    if path.startswith("/") or ".." in path.split("/") or not path or not _is_name(path):
        return f"path must lie below the folder, received {path[:40]!r}"
    if line.get("split") not in (None, *SPLITS):
        return f"split must be one of {', '.join(SPLITS)}, received {line['split'][:40]!r}"
    if not line["accepted"]:
        return None
    if missing := [name for name in _NEEDED if line.get(name) is None]:
        return f"{missing[0]} of an accepted file is missing"
    for name in ("sha256", "sound"):
        if line.get(name) is not None and not re.fullmatch(r"[0-9a-f]{64}", line[name]):
            return f"{name} must be 64 hexadecimal digits, received {line[name][:40]!r}"
    for name, most in (("sample_rate", audio.RATES[1]), ("channels", 1024), ("samples", 2**53)):
        if not 1 <= line[name] <= most:
            return f"{name} must be 1 to {most}, received {str(line[name])[:20]}"
    return None


def _counts(values: Iterable[Any]) -> dict[str, int]:
    counts = Counter(str(value) for value in values if value is not None)
    return dict(sorted(counts.items()))
