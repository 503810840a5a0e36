"""What a model is about to be trained on, in a few lines for a person."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from spectrovae.data.splits import SPLITS
from spectrovae.errors import printable

if TYPE_CHECKING:
    from spectrovae.data.pipeline import Recordings

SHOWN = 5


def describe(recordings: Recordings) -> str:
    """Files, rejected ones and why, rate, cutting, splits, labels and speakers; a fact a line."""
    made = f"{recordings.get_config().get('source')}: sounds made by formula"
    labels = recordings.get_config().get("labels")
    lines = _files(recordings.manifest, labels) if recordings.manifest else [made]
    lines += [_cutting(recordings), _splits(recordings)]
    for name in ("label", "speaker"):
        names = {split: [getattr(e, name) for e in recordings.examples(split)] for split in SPLITS}
        lines += _names(name, names) if not recordings.factor_names else []
    return "\n".join(map(printable, [*filter(None, lines), *recordings.notes]))


def _files(manifest: Any, labels: str | None) -> list[str]:
    accepted, rejected = manifest.accepted, manifest.rejected
    seconds = sum(record.duration or 0.0 for record in accepted)
    lines = [f"{manifest.root}: {_count(len(accepted), 'recording')}, {duration(seconds)}"]
    if rejected:
        reasons = [f"{record.path}: {record.reason}" for record in rejected]
        lines.append(f"rejected {len(rejected)}: {_listed(reasons)}")
    noted = [f"{record.path}: {record.note}" for record in accepted if record.note]
    if noted:
        lines.append(f"accepted with a note {len(noted)}: {_listed(noted)}")
    if manifest.ignored:
        endings = list(manifest.endings.items())[:SHOWN]
        kinds = ", ".join(f"{count} {ending or 'without ending'}" for ending, count in endings)
        lines.append(f"ignored {_count(manifest.ignored, 'other file')}" + (f": {kinds}" if kinds else ""))
        if labels is None and {".csv", ".tsv"} & set(manifest.endings):
            lines[-1] += "; a table of labels is read by --labels FILE"
    if manifest.unreadable:
        unreadable = _listed(list(manifest.unreadable))
        lines.append(f"{_count(len(manifest.unreadable), 'folder')} cannot be read: {unreadable}")
    return lines


def _cutting(recordings: Recordings) -> str:
    rate, samples = recordings.sample_rate, recordings.samples
    text = f"examples of {samples / rate:.4g} s ({samples} samples at {rate} Hz)"
    manifest, summary = recordings.manifest, recordings.summary()
    if manifest is None:
        return text
    others = Counter(record.sample_rate for record in manifest.accepted if record.sample_rate != rate)
    mixed = sum((record.channels or 1) > 1 for record in manifest.accepted)
    parts = [f"{count} resampled from {other} Hz" for other, count in sorted(others.items())[:SHOWN]]
    if len(others) > SHOWN:
        parts.append(f"{sum(others.values())} resampled in all, from {len(others)} rates")
    parts += [f"{mixed} mixed down to one channel"] if mixed else []
    parts += [f"{summary['padded']} padded with silence"] if summary["padded"] else []
    if summary.get("chunked"):
        parts.append(f"{summary['chunked']} cut into overlapping pieces")
    if summary.get("cropped"):
        parts.append(f"{summary['cropped']} cropped to their beginning, which loses {summary['lost']:.1%} of the sound")
    return text + (f"; recordings: {', '.join(parts)}" if parts else "")


def _splits(recordings: Recordings) -> str:
    parts = []
    for split in SPLITS:
        examples = recordings.examples(split)
        files = len({example.path for example in examples})
        parts.append(
            f"{split} {len(examples)}" + (f" of {_count(files, 'recording')}" if files < len(examples) else "")
        )
    return f"split by {recordings.rule}: {', '.join(parts)}"


def _names(kind: str, names: dict[str, list[str | None]]) -> list[str]:
    counts = Counter(name for split in SPLITS for name in names[split] if name is not None)
    if not counts:
        return [] if kind == "speaker" else ["no labels; --pattern, --labels or --label-from give some"]
    missing = sum(name is None for split in SPLITS for name in names[split])
    shown = [f"{name} {count}" for name, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))]
    line = f"{_count(len(counts), kind)}: {_listed(shown, 2 * SHOWN)}" + (f"; none: {missing}" if missing else "")
    untrained = sorted(map(str, set(counts) - set(names["train"])))
    if untrained:
        line += f"; not in train: {_listed(untrained)}"
    return [line]


def duration(seconds: float) -> str:
    """ "2.5 h", "3.1 min" or "12.0 s"."""
    for size, unit in ((3600.0, "h"), (60.0, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def _listed(items: Sequence[str], shown: int = SHOWN) -> str:
    more = f"; and {len(items) - shown} more" if len(items) > shown else ""
    return "; ".join(items[:shown]) + more


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + "s" * (number != 1)
