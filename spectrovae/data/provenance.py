"""Which recordings a model was trained and validated on, and whether it is measured on them.

A bundle keeps ``Recordings.provenance()`` in its ``data.json``, a judge in ``judge.json``. Contents are compared, not
paths or names: moved, renamed and copied recordings are recognised, and those in another lossless format. Edited ones,
and those coded with loss, are new: what is compared are samples.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from spectrovae.errors import InputError

HELD_OUT = "test"  # the split that no model may have seen
LEARNED_FROM = ("train", "validation")


def measured(recordings: Any, split: str, codecs: Sequence[Any] = (), judges: Sequence[Any] = ()) -> dict[str, Any]:
    """Count how many clips of a split each model and judge was trained or validated on, and put it in words.

    Args:
        recordings: the data measured on.
        split: the split measured.
        codecs, judges: those measured, with what they remember of their data in ``codec.data`` and
            ``judge.info["data"]``.

    Returns:
        JSON for a result: ``source``, ``rule``, ``fingerprint``, ``split``, ``clips``; ``models``, a row each with
        ``name``, ``same_data`` and the clips seen in ``train`` and ``validation`` (None where it is not known); and
        ``notes``, sentences for a person.

    Raises:
        InputError: a model whose fit split the data otherwise learned more from clips measured than the split says,
            and ``recordings.allow_seen`` is not set: it was trained or validated on test clips, or trained on
            validation clips.
    """
    own, clips = recordings.provenance(), recordings.stretches(split)
    try:
        rows = [_row(name, memory, own, clips) for name, memory in _memories(codecs, judges)]
    except (AttributeError, TypeError, ValueError) as error:  # JSON that another hand has written
        raise InputError(f"what a model or judge keeps of its data is damaged ({error}); fit it again") from error
    result = {
        "source": own["open"].get("source"), "rule": own["rule"], "fingerprint": own["fingerprint"], "split": split,
        "clips": len(clips), "models": rows,
    }  # fmt: skip
    seen = [row for row in rows if row["train"] or row["validation"]]
    guilty = [row for row in seen if not row["same_data"] and _flatters(row, split)]
    if guilty and not recordings.allow_seen:
        raise InputError(
            f"{'; '.join(_seen_text(row, split, len(clips)) for row in guilty)}: figures would be too good. Measure "
            f"each model on its own {split} split (leave out --data and --split-rule), with judges and priors fitted "
            "to the same split, or give --allow-seen (recordings.allow_seen = True)"
        )
    return result | {"notes": _notes(result, seen, recordings)}


def _memories(codecs: Sequence[Any], judges: Sequence[Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Names and what they remember; empty where a model, such as one that was not fitted, knows no data."""
    taken = Counter[str]()
    for codec in codecs:
        taken[codec.name] += 1
        name = codec.name if taken[codec.name] == 1 else f"{codec.name} ({taken[codec.name]})"
        memory = codec.data or {}
        yield name, memory
        if "prior" in memory:
            yield f"the prior of {name}", memory["prior"]
    for judge in judges:
        memory = judge.info.get("data") or {}
        yield f"judge {judge.name}", memory if "fingerprint" in memory else {}


def _row(name: str, memory: Mapping[str, Any], own: Mapping[str, Any], clips: Sequence[Any]) -> dict[str, Any]:
    same_print = memory.get("fingerprint") == own["fingerprint"]
    contents = own["splits"] if same_print else memory.get("splits")
    row: dict[str, Any] = {"name": name, "same_data": contents == own["splits"], "train": None, "validation": None}
    if contents is not None:
        for split in LEARNED_FROM:
            known = _index(contents.get(split, ()))
            row[split] = sum(
                any(begin < clip.end and clip.begin < end for begin, end in known[clip.content] + known[clip.file])
                for clip in clips
            )
    return row


def _index(contents: Sequence[str]) -> defaultdict[str | None, list[tuple[float, float]]]:
    """The stretches (seconds) of each content."""
    known: defaultdict[str | None, list[tuple[float, float]]] = defaultdict(list)
    for text in contents:
        content, _, span = text.partition("@")
        begin, _, end = span.partition("-")
        known[content].append((float(begin or 0.0), float(end or "inf")))
    return known


def _flatters(row: Mapping[str, Any], split: str) -> bool:
    """Whether a model learned more from the clips measured than is usual of clips of this split."""
    return bool(row["train"] and split != "train" or row["validation"] and split == HELD_OUT)


def _seen_text(row: Mapping[str, Any], split: str, clips: int) -> str:
    counts = " and ".join(f"{row[own]} in its {own} split" for own in LEARNED_FROM if row[own])
    return f"{row['name']} learned from clips measured here: of {clips} {split} clips, {counts}"


def _notes(result: Mapping[str, Any], seen: Sequence[Mapping[str, Any]], recordings: Any) -> list[str]:
    split, clips, rows = result["split"], result["clips"], result["models"]
    notes = [f"Data: {result['source']}, split by {result['rule']}; the {split} split has {clips} clips."]
    unknown = [row["name"] for row in rows if row["train"] is None]
    clean = [row["name"] for row in rows if row["train"] is not None and row not in seen]
    other = [row["name"] for row in rows if not row["same_data"] and row["name"] not in unknown]
    if other:
        notes.append(f"These are other data, or split otherwise, than those of the fit of {', '.join(other)}.")
    if clean:
        compared = " (samples are compared: an edited or lossy copy is new)" if recordings.manifest else ""
        notes.append(f"None of these clips was in the train or validation split of {', '.join(clean)}{compared}.")
    for row in seen:
        good = "figures are too good" if _flatters(row, split) else "the split that was chosen"
        notes.append(f"{_seen_text(row, split, clips)}: {good}.")
    if unknown:
        notes.append(f"It is not known which recordings {', '.join(unknown)} learned from, so this cannot be checked.")
    return notes + [f"{note[0].upper()}{note[1:]}." for note in recordings.notes]
