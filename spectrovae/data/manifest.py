"""Scan a folder of recordings: every file accounted for, and splits that stay put.

A manifest is a JSON-lines file: one header line, then one line for each audio file, accepted or rejected
with the reason. Splits are decided by what is in a file, never by its place in a list, so that adding
recordings moves no other one from training to test.
"""

import dataclasses
import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spectrovae import audio
from spectrovae.data import labels as naming
from spectrovae.data.splits import FSDD_PATTERN, divide
from spectrovae.errors import InputError
from spectrovae.files import sha256, write_text

SILENCE = 1e-4  # -80 dB under full scale
_FORMAT, _VERSION = "spectrovae-manifest", 1

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Record:
    """One audio file.

    ``path`` is relative to the manifest's root, with "/" between folders; ``split`` is the one that a table of labels
    names; ``peak`` is the largest magnitude of all channels; ``clipped`` says that neighbouring samples stand at full
    scale; ``nan`` includes infinities. What could not be read is None.
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


@dataclass(frozen=True)
class Manifest:
    """What a scan found: ``records`` in the order of their paths, and how many other files were ``ignored``.

    ``scanned`` is when the scan began, in seconds since 1970: files touched later are hashed again before
    use. ``notes`` are sentences about labels, for a person.
    """

    root: Path
    records: tuple[Record, ...]
    pattern: str = FSDD_PATTERN
    ignored: int = 0
    scanned: float = 0.0
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


def scan(
    folder: str | os.PathLike,
    *,
    pattern: str | None = None,
    labels: str | os.PathLike | None = None,
    label_from: int | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Look at every audio file under a folder (wav, flac, ogg, mp3; hidden ones are ignored).

    A file is accepted when all of it decodes and every sample is a number; silent and clipped ones are
    accepted and flagged.

    Args:
        folder: searched with its sub-folders.
        pattern, labels, label_from: how files are labelled: see :func:`labels.named`.
        progress: called with (files done, files in all).

    Raises:
        InputError: no such folder, a wrong pattern, or no file to accept; the message lists the reasons.
    """
    root, started = Path(folder), time.time()
    if not root.is_dir():
        problem = "is not a folder" if root.exists() else "does not exist"
        raise InputError(f"{root} {problem}; expected a folder of recordings")
    pattern = pattern or FSDD_PATTERN
    naming.compiled(pattern)  # before anything is read
    paths, ignored = [], 0
    for path in _files(root):
        if path.suffix.lower() in audio.SUFFIXES and not path.name.startswith("."):
            paths.append(path)
        else:
            ignored += 1
    paths.sort(key=lambda path: path.relative_to(root).as_posix())
    records = []
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for record in pool.map(lambda path: _examine(path, root), paths):
            records.append(record)
            if progress:
                progress(len(records), len(paths))
    manifest = Manifest(root, tuple(records), pattern, ignored, started)
    if not manifest.accepted:
        raise InputError(_nothing_accepted(manifest))
    return manifest.named(labels=labels, label_from=label_from)


def _files(root: Path) -> Iterator[Path]:
    seen = set()
    for folder, _, names in os.walk(root, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:  # a link back up
            continue
        seen.add(real)
        yield from (Path(folder) / name for name in names)


def _examine(path: Path, root: Path) -> Record:
    known: dict[str, Any] = {"path": path.relative_to(root).as_posix()}
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
