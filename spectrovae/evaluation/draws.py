"""What drawn sounds are worth: judges' answers, distance from real sounds as a distribution and one by one, a page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from spectrovae.errors import InputError
from spectrovae.evaluation import systems
from spectrovae.evaluation.judges import Judge
from spectrovae.evaluation.memorisation import memorisation, nearest
from spectrovae.evaluation.mmd import squared_mmd
from spectrovae.evaluation.report import MISSING, Cell, Report, Row, number_text, sound_cards

DEFINITIONS = (
    "Right: the judge answers what was asked for. Judges are classifiers trained on real recordings.",
    "MMD²: squared maximum mean discrepancy of the judge's hidden features, drawn sounds against test clips; beside it "
    "training clips against test clips, what another sample of real sounds gets. 0 is the same distribution.",
    "Nearest: root mean squared difference to the nearest training clip. Test clips are new for certain: a ratio near "
    "1 is as new as they are, well below 1 are copies, well above 1 is unlike real sounds. Near: the share of sounds "
    "that are nearer to a training clip than 99 % of the test clips.",
)  # fmt: skip
PAGE_SOUNDS = 48


def examine_draws(
    sounds: np.ndarray,
    codec: Any,
    *,
    asked: Mapping[str, str | None] | None = None,
    judges: Sequence[Judge] = (),
    recordings: Any = None,
) -> dict[str, Any]:
    """Play sounds to judges, and compare them with recordings.

    Args:
        sounds: (sounds, samples) at the codec's rate.
        asked: what was asked for, by ``"label"`` and ``"speaker"``; None where it was left open.
        judges: classifiers of either.
        recordings: opened at the codec's rate and length; None to compare with none.

    Returns:
        ``samples``, an entry a sound, ``judges`` and ``spaces``, rows of figures.
    """
    asked = dict(asked or {})
    samples: list[dict[str, Any]] = [{"asked": asked, "judges": {}, "nearest": {}} for _ in sounds]
    rows = []
    named = dict(zip(systems.unique_stems([judge.name for judge in judges]), judges))
    for name, judge in named.items():
        answers, _ = judge.hear(sounds, codec.sample_rate)
        wanted = asked.get(judge.target)
        right = [judge.labels[place] == wanted for place in answers] if wanted is not None else None
        for index, (sample, place) in enumerate(zip(samples, answers)):
            answer = {"target": judge.target, "answer": judge.labels[place]}
            sample["judges"][name] = answer | ({"right": bool(right[index])} if right else {})
        accuracy = judge.info.get("accuracy", {}).get("test")
        own = {"judge": name, "target": judge.target, "asked": wanted, "real_accuracy": accuracy}
        rows.append(own | {"right": float(np.mean(right)) if right else None, "answers": _counts(judge, answers)})
    spaces: list[dict[str, Any]] = []
    data = None
    if recordings is not None:
        data = recordings.measured("test", [codec], judges)
        for name, judge in named.items():
            spaces.append(_space(name, _hidden(judge, codec), sounds, recordings, samples, unit="", mmd=True))
        if not judges:
            spaces.append(_space("spectrogram", _levels(codec), sounds, recordings, samples, unit="dB", mmd=False))
    return {"samples": samples, "judges": rows, "spaces": spaces, "data": data}


def _counts(judge: Judge, answers: np.ndarray) -> dict[str, int]:
    return {label: int(np.sum(answers == place)) for place, label in enumerate(judge.labels)}


def _hidden(judge: Judge, codec: Any) -> Callable[[np.ndarray], np.ndarray]:
    return lambda waveforms: judge.hear(waveforms, codec.sample_rate)[1]


def _levels(codec: Any) -> Callable[[np.ndarray], np.ndarray]:
    def levels(waveforms: np.ndarray) -> np.ndarray:
        db = np.asarray(codec.representation.decibels(np.asarray(waveforms, np.float32)))[..., 0]
        return db.reshape(len(db), -1)

    return levels


def _space(name, features, sounds, recordings, samples, *, unit: str, mmd: bool) -> dict[str, Any]:
    """Distances in one space of features."""

    def batches(split):
        return (features(np.asarray(batch)) for batch in recordings.waveforms(split, 64))

    if not recordings.examples("test"):
        raise InputError("the test split has no clip to compare with: give more recordings, or leave out --data")
    drawn = features(sounds[:, : recordings.samples])
    test = np.concatenate(list(batches("test")))
    distances, places = nearest(np.concatenate([drawn, test]), batches("train"))
    examples = recordings.examples("train")
    for sample, distance, place in zip(samples, distances, places):
        sample["nearest"][name] = {"distance": float(distance), "clip": examples[place].path}
    row: dict[str, Any] = {"space": name, "unit": unit, "training_clips": len(examples), "test_clips": len(test)}
    row |= memorisation(distances[: len(drawn)], distances[len(drawn) :])
    count = min(len(drawn), len(test))
    if mmd and count > 1:
        random = np.random.default_rng(0)
        held = test[random.permutation(len(test))[:count]]
        # Clips and sounds are of different origin; the estimate, made for pairs, leaves out one term in ``count``.
        estimate = squared_mmd(held, drawn[:count], resamples=1000)
        chosen = np.sort(random.permutation(len(examples))[:count])
        real = np.concatenate(list(_chosen_rows(batches("train"), chosen)))
        usual = squared_mmd(held[: len(real)], real, resamples=1000) if len(real) > 1 else None
        row["mmd"] = _finite(estimate)
        row["real_mmd"] = None if usual is None or len(real) != count else _finite(usual)
    return row


def _chosen_rows(batches, chosen: np.ndarray):
    start = 0
    for batch in batches:
        own = chosen[(chosen >= start) & (chosen < start + len(batch))] - start
        yield batch[own]
        start += len(batch)


def _finite(estimate) -> list[float] | None:
    return [float(value) for value in estimate] if np.isfinite(estimate.value) else None


def draws_page(title: str, summary: str, result: Mapping[str, Any], sounds: Sequence[np.ndarray], codec: Any) -> Report:
    """The page of drawn sounds: figures, then a spectrogram and a player of each.

    Args:
        result: of :func:`examine_draws`.
        sounds: waveforms (samples,), in the order of ``result["samples"]``.
    """
    report = Report(title, summary, result["data"])
    if result["judges"]:
        report.table("What judges heard", ("judge", "asked", "right", "on real test clips"), [
            Row([Cell(row["judge"], row["target"]), Cell(row["asked"] or MISSING), _share(row["right"]),
                 _share(row["real_accuracy"])])
            for row in result["judges"]
        ])  # fmt: skip
    if result["spaces"]:
        heads = ("features", "nearest, median", "of test clips", "ratio", "near, share", "MMD²", "real MMD²")
        report.table("Against real sounds", heads, [
            Row([Cell(row["space"], row["unit"]), _number(row["median"]), _number(row["held_out_median"]),
                 _number(row["ratio"]), _share(row["near"]), _interval(row.get("mmd")), _interval(row.get("real_mmd"))])
            for row in result["spaces"]
        ])  # fmt: skip
    if result["judges"] or result["spaces"]:
        report.notes(DEFINITIONS)
    report.section("Sounds")
    shown = list(sounds[:PAGE_SOUNDS])
    entries = [
        (_caption(index, sample), np.asarray(codec.representation.decibels(sound[None]))[0], sound)
        for index, (sound, sample) in enumerate(zip(shown, result["samples"]))
    ]
    report.cards("", sound_cards(entries, codec.representation))
    if len(shown) < len(sounds):
        report.notes([f"{len(shown)} of {len(sounds)} sounds are on this page; all are wav files beside it."])
    return report


def path_page(title: str, summary: str, names: Sequence[str], sounds: Sequence[np.ndarray], codec: Any) -> Report:
    """The page of sounds on a way between two."""
    report = Report(title, summary)
    entries = [
        (name, np.asarray(codec.representation.decibels(sound[None]))[0], sound) for name, sound in zip(names, sounds)
    ]
    report.cards("", sound_cards(entries, codec.representation))
    return report


def _caption(index: int, sample: Mapping[str, Any]) -> str:
    parts = [f"{index}"]
    asked = ", ".join(f"{name} {value}" for name, value in sample["asked"].items() if value is not None)
    parts += [asked] if asked else []
    for name, found in sample["judges"].items():
        verdict = {True: ", right", False: ", wrong"}.get(found.get("right"), "")
        parts.append(f"{name}: {found['answer']}{verdict}")
    return " · ".join(parts)


def _number(value: float | None) -> Cell:
    return Cell(number_text(value), order=value)


def _share(value: float | None) -> Cell:
    return Cell(MISSING if value is None else f"{value:.1%}", order=value)


def _interval(values: Sequence[float] | None) -> Cell:
    if values is None:
        return Cell(MISSING)
    return Cell(number_text(values[0], 3), f"{number_text(values[1], 3)} to {number_text(values[2], 3)}", values[0])
