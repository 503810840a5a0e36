"""Scan a folder of recordings: every file is decoded to its end, and accepted or rejected with the reason."""

import dataclasses
import hashlib
import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from spectrovae import audio
from spectrovae.data import labels as naming
from spectrovae.data.manifest import Manifest, Progress, Record
from spectrovae.data.splits import FSDD_PATTERN
from spectrovae.errors import OF_THE_PROCESS, InputError, printable
from spectrovae.files import sha256

SILENCE = 1e-4  # -80 dB under full scale
LOUD = 4.0  # 12 dB above full scale: more than any mastering leaves, less than 16-bit numbers in a float file
ABSURD = 1e15  # times full scale: a power spectrum of more overflows in float32
DC = 0.01  # an offset of 1 % of full scale, where it is also a third of the root mean square


def scan(
    folder: str | os.PathLike,
    *,
    pattern: str | None = None,
    labels: str | os.PathLike | None = None,
    label_from: int | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Examine every recording under a folder (endings of ``audio.SUFFIXES``; hidden files and folders are ignored).

    A file is accepted when it decodes and every sample is a number, also where its header promises more: its
    ``note`` then says how much of it is there. Silent, clipped, loud and offset ones are accepted and flagged.

    Args:
        folder: searched with its sub-folders.
        pattern, labels, label_from: how files are labelled: see :func:`spectrovae.data.labels.named`.
        progress: called with (files done, files in all).

    Raises:
        InputError: no such folder, a wrong pattern, or no file to accept; the message lists the reasons.
    """
    root, started = Path(folder), time.time()
    if not os.path.isdir(root):
        problem = "is not a folder" if os.path.exists(root) else "does not exist"
        raise InputError(f"{root} {problem}; expected a folder of recordings")
    pattern = pattern or FSDD_PATTERN
    naming.compiled(pattern)  # a wrong one is refused before anything is read
    paths, endings, unreadable = [], Counter[str](), list[str]()
    for path in _files(root, unreadable):
        if any(part.startswith(".") for part in path.relative_to(root).parts):
            endings["hidden"] += 1
        elif path.suffix.lower() in audio.SUFFIXES:
            paths.append(path)
        else:
            endings[path.suffix.lower()] += 1
    paths.sort(key=lambda path: path.relative_to(root).as_posix())
    records = []
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for record in pool.map(lambda path: _examine(path, root), paths):
            records.append(record)
            if progress:
                progress(len(records), len(paths))
    manifest = Manifest(
        root,
        tuple(records),
        pattern,
        endings.total(),
        started,
        endings=dict(endings.most_common()),
        unreadable=tuple(sorted(unreadable)),
    )
    if not manifest.accepted:
        raise InputError(_nothing_accepted(manifest))
    return manifest.named(labels=labels, label_from=label_from)


def manifest_of(
    source: str | os.PathLike | Manifest,
    pattern: str | None,
    labels: str | os.PathLike | None,
    label_from: int | None,
    progress: Progress | None,
) -> Manifest:
    """The manifest of a folder, which is scanned, of a manifest's file, or one that is there; labelled as asked."""
    path = Path() if isinstance(source, Manifest) else Path(source)
    is_file = os.path.isfile(path)  # a name may be too long for Path.is_file
    if is_file and path.suffix.lower() in audio.SUFFIXES:
        raise InputError(f"{path} is one recording; expected a folder, a manifest or a toy set")
    if not isinstance(source, Manifest) and not is_file:
        return scan(path, pattern=pattern, labels=labels, label_from=label_from, progress=progress)
    manifest = source if isinstance(source, Manifest) else Manifest.read(path)
    other = labels is not None or label_from is not None or (pattern or manifest.pattern) != manifest.pattern
    return manifest.named(pattern, labels, label_from) if other else manifest


def _files(root: Path, unreadable: list[str]) -> Iterator[Path]:
    """Every file below a folder: each folder once, by its own path if it has one there, else by that of a link."""

    def note(error: OSError) -> None:
        if error.errno in OF_THE_PROCESS:
            raise error
        unreadable.append(Path(error.filename).relative_to(root).as_posix())

    seen, waiting = set(), [str(root)]
    for start in waiting:  # grows by the links found
        for folder, folders, names in os.walk(start, onerror=note):
            if (real := os.path.realpath(folder)) in seen:
                folders.clear()
                continue
            seen.add(real)
            folders.sort()
            waiting += filter(os.path.islink, (os.path.join(folder, name) for name in folders))
            yield from (Path(folder) / name for name in names)


def _examine(path: Path, root: Path) -> Record:
    known: dict[str, Any] = {"path": path.relative_to(root).as_posix()}
    try:
        with audio.Reader(path) as reader:
            known["bytes"] = path.stat().st_size
            known["sha256"] = sha256(path)
            try:
                known.update(_measure(reader))
            finally:
                header = reader.info
                known.update({key: value for key, value in dataclasses.asdict(header).items() if key != "note"})
                known["duration"] = header.duration
    except OSError as error:
        if error.errno in OF_THE_PROCESS:
            raise
        return Record(**{"bytes": 0, **known}, accepted=False, reason=f"cannot be read: {error.strerror or error}")
    except InputError as error:
        reason = str(error).removeprefix(printable(f"{path} "))
        return Record(**{"bytes": _size(path), **known}, accepted=False, reason=reason)
    if known["nan"]:
        return Record(**known, accepted=False, reason="holds NaN or infinite samples")
    if known["peak"] > ABSURD:
        reason = f"its peak is {known['peak']:.3g} times full scale, which is no sound; repair it or leave it out"
        return Record(**known, accepted=False, reason=reason)
    notes = [header.note] if header.note else []
    if known["silent"] and known["peak"] >= SILENCE:
        notes.append("its channels cancel each other: their mean, which is trained on, is silent")
    if known["loud"]:
        notes.append(f"its peak is {known['peak']:.3g} times full scale; divide by the range of its numbers")
    if known["dc"]:
        notes.append("its samples have an offset (DC)")
    return Record(**known, accepted=True, note="; ".join(notes) or None)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _measure(reader: audio.Reader) -> dict[str, Any]:
    """Decode all of a recording and look at its levels."""
    peak, mixed, clipped, before = 0.0, 0.0, False, np.zeros(reader.channels, bool)
    total, power = np.zeros(reader.channels), np.zeros(reader.channels)
    digest = hashlib.sha256(f"{reader.sample_rate} Hz, {reader.channels} channels".encode())
    for block in reader.blocks():
        if not np.isfinite(block).all():
            return {"nan": True}
        digest.update(block.T.tobytes())
        magnitude = np.abs(block)
        peak = max(peak, float(magnitude.max()))
        mixed = max(mixed, float(np.abs(audio.to_mono(block)).max()))
        full = magnitude >= 32767 / 32768
        clipped = clipped or bool((full[:, 1:] & full[:, :-1]).any() or (full[:, 0] & before).any())
        before = full[:, -1]
        total += block.sum(axis=1, dtype=np.float64)
        power += np.square(block, dtype=np.float64).sum(axis=1)
    samples = reader.samples or 1
    mean, square = np.abs(total) / samples, power / samples
    offset = (mean > DC) & (mean**2 > square / 9)
    return {
        "peak": peak,
        "silent": mixed < SILENCE,
        "clipped": clipped,
        "loud": peak > LOUD,
        # A recording shorter than a period of 20 Hz has a mean of its own.
        "dc": bool(offset.any() and samples >= reader.sample_rate / 20),
        "nan": False,
        "sound": digest.hexdigest(),
    }


def _nothing_accepted(manifest: Manifest) -> str:
    if manifest.unreadable:
        unreadable = f"; {len(manifest.unreadable)} folders cannot be read, such as {manifest.unreadable[0]}"
    else:
        unreadable = ""
    if not manifest.records:
        kinds = ", ".join(audio.SUFFIXES)
        endings = ", ".join(f"{ending or 'no ending'} {count}" for ending, count in manifest.endings.items())
        ignored = f"{manifest.ignored} other files were ignored" + f" ({endings})" * bool(endings)
        return f"{manifest.root} holds no audio ({kinds}); {ignored}{unreadable}"
    listed = "; ".join(f"{record.path}: {record.reason}" for record in manifest.rejected[:5])
    more = f"; and {len(manifest.rejected) - 5} more" if len(manifest.rejected) > 5 else ""
    return f"no file of {manifest.root} can be used: {listed}{more}{unreadable}"
