"""Systems measured on disturbed inputs, batch by batch: what ``robustness`` puts into tables."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spectrovae.errors import InputError
from spectrovae.evaluation import worst_case
from spectrovae.evaluation.drift import UNITS, LatentDrift
from spectrovae.evaluation.metrics import level_channel, pooled_rmse, rmse_ratio
from spectrovae.evaluation.perturbations import PERTURBATIONS, parse, perturbed_decibels
from spectrovae.evaluation.systems import Group, System, estimate_fields
from spectrovae.evaluation.worst_case import WorstCase

CLEAN = "none"
"""Name of the perturbation in rows that are not disturbed."""
FIGURES = ("consistency_db", "fidelity_db", "gain")
KINDS = ("moved", "missed", "disturbed")


@dataclasses.dataclass(frozen=True)
class Course:
    """One perturbation at the severities measured.

    Attributes:
        name: a key of ``PERTURBATIONS``, or "worst-case".
        severities: in rising order.
        marked: the severity tabulated and heard.
        unit, meaning: of the severity; ``{}`` in the meaning stands for its value.
        random: whether anything is drawn.
    """

    name: str
    severities: tuple[float, ...]
    marked: float
    unit: str
    meaning: str
    random: bool = True

    def text(self, severity: float) -> str:
        """A severity in words."""
        return self.meaning.format(f"{severity:g}")


def courses_of(perturbations: Sequence[str]) -> list[Course]:
    """What to measure, of ``NAME`` or ``NAME:SEVERITY,...``; the worst case brings the corners of its ball along.

    Severities that are infinite, which change nothing, are left out.

    Raises:
        InputError: no perturbation, one unknown or named twice, no severity, or one out of range.
    """
    courses: dict[str, Course] = {}
    for text in perturbations:
        name, colon, given = text.partition(":")
        attack = name == worst_case.NAME
        drawn = parse(f"signs{colon}{given}" if attack else text)
        kind = PERTURBATIONS[drawn[0]]
        severities = drawn[1] or (worst_case.SEVERITIES if attack else kind.severities)
        finite = tuple(sorted({severity for severity in severities if math.isfinite(severity)}))
        if not finite:
            raise InputError(f"{text} disturbs nothing: give a severity in {kind.unit}")
        if name in courses:
            raise InputError(f"the perturbation {name} is given twice: give all of its severities at once")
        marked = min(finite, key=lambda severity: abs(severity - (finite[-1] if attack else kind.default)))
        if attack:
            courses[name] = Course(name, finite, marked, "dB", worst_case.MEANING)
        else:
            courses[name] = Course(name, finite, marked, kind.unit, kind.meaning, kind.random)
    if worst_case.NAME in courses and "signs" not in courses:
        worst, kind = courses[worst_case.NAME], PERTURBATIONS["signs"]
        courses["signs"] = dataclasses.replace(worst, name="signs", meaning=kind.meaning)
    if not courses:
        raise InputError(f"give at least one perturbation of {', '.join(PERTURBATIONS)}, {worst_case.NAME}")
    return list(courses.values())


class Measured:
    """Sums over cells for each clip, of the systems of one representation, from which ``rows`` makes figures.

    Args:
        group: the systems.
        courses: the disturbances.
        seeds: of the drawn disturbances.
        steps: of the ascent to the worst case.
    """

    def __init__(self, group: Group, courses: Sequence[Course], seeds: Sequence[int], steps: int):
        self.group, self.courses, self.seeds = group, courses, seeds
        self.drifts = {s.name: LatentDrift(s.reconstructor) for s in group.systems if s.kind == "model"}
        attacked = any(course.name == worst_case.NAME for course in courses)
        self.attacks = {s.name: WorstCase(s, steps) for s in group.systems} if attacked else {}
        # sums of squared dB over cells, averaged over draws, a number a clip: f(x~) - f(x), f(x~) - x, x~ - x
        self.squares: dict[tuple[str, str, float, str], list[np.ndarray]] = defaultdict(list)

    def add(self, indices: Sequence[int], waveforms: np.ndarray) -> None:
        """Measure a batch of clips of these indices in their split."""
        clean = np.asarray(self.group.representation.decibels(waveforms))
        outputs = {system.name: system.reconstruct(clean) for system in self.group.systems}
        for drift in self.drifts.values():
            drift.clean(clean)
        for system in self.group.systems:
            self._note(system, CLEAN, 0.0, [(outputs[system.name], clean)], outputs[system.name], clean)
        for course in self.courses:
            for severity in course.severities:
                self._measure(course, severity, indices, waveforms, clean, outputs)

    def _measure(self, course, severity, indices, waveforms, clean, outputs) -> None:
        attack = course.name == worst_case.NAME
        shared = [] if attack else [
            perturbed_decibels(
                self.group.representation, waveforms, severity, indices, name=course.name, seed=seed, clean=clean
            )
            for seed in (self.seeds if course.random else self.seeds[:1])
        ]  # fmt: skip
        for system in self.group.systems:
            inputs = shared
            if attack:
                if not self.attacks[system.name].possible:
                    continue
                inputs = [self.attacks[system.name](clean, severity, indices, seed=self.seeds[0])]
            pairs = [(system.reconstruct(noisy), noisy) for noisy in inputs]
            self._note(system, course.name, severity, pairs, outputs[system.name], clean)
            if system.name in self.drifts:
                self.drifts[system.name].add((course.name, severity), inputs)

    def _note(self, system: System, name: str, severity: float, pairs, output: np.ndarray, clean: np.ndarray) -> None:
        """Keep the sums of (output, input) pairs, averaged over the pairs."""
        for kind, values in zip(KINDS, (
            [_squared(after, output) for after, _ in pairs],
            [_squared(after, clean) for after, _ in pairs],
            [_squared(noisy, clean) for _, noisy in pairs],
        )):  # fmt: skip
            self.squares[system.name, name, severity, kind].append(np.mean(values, axis=0))

    def rows(self, samples: int, options: Mapping[str, int]) -> list[dict[str, Any]]:
        """Flat rows, one for each system and severity, and one of each system undisturbed.

        Args:
            samples: of a clip.
            options: of the bootstrap.
        """
        cases = [(CLEAN, "", 0.0), *((c.name, c.unit, severity) for c in self.courses for severity in c.severities)]
        return [
            self._row(system, *case, samples, options)
            for system in self.group.systems
            for case in cases
        ]  # fmt: skip

    def _row(self, system, name, unit, severity, samples, options) -> dict[str, Any]:
        representation = self.group.representation
        kind = PERTURBATIONS.get(name)
        distance = kind and kind.distance and kind.distance(severity, representation.frequencies)
        row: dict[str, Any] = {
            "representation": self.group.label,
            "name": system.name,
            "kind": system.kind,
            "family": getattr(system.reconstructor, "family", ""),
            "perturbation": name,
            "severity": severity,
            "unit": unit,
            "note": self.attacks[system.name].note if name == worst_case.NAME else "",
            "expected_input_distance_db": 0.0 if name == CLEAN else distance,
        }
        found = [self.squares[system.name, name, severity, kind] for kind in KINDS]
        if not found[0]:
            figures = ("input_distance_db", *(f"{f}{end}" for f in FIGURES for end in ("", "_low", "_high")))
            return row | dict.fromkeys(figures)
        moved, missed, disturbed = (np.concatenate(values) for values in found)
        cells = np.full(len(moved), np.prod(representation.feature_shape(samples)[:2]), np.float64)
        return {
            **row,
            "input_distance_db": float(np.sqrt(disturbed.sum() / cells.sum())),
            **estimate_fields("consistency_db", pooled_rmse(moved, cells, **options)),
            **estimate_fields("fidelity_db", pooled_rmse(missed, cells, **options)),
            **estimate_fields("gain", rmse_ratio(moved, disturbed, **options)),
        }

    def drift_rows(self, options: Mapping[str, int]) -> list[dict[str, Any]]:
        """Flat rows, one for each part of each model's latent and each severity."""
        rows = []
        for name, drift in self.drifts.items():
            for course in self.courses:
                for severity in course.severities:
                    for part, estimate in zip(drift.parts, drift.result((course.name, severity), **options)):
                        rows.append({
                            "representation": self.group.label,
                            "name": name,
                            "part": part,
                            "perturbation": course.name,
                            "severity": severity,
                            "unit": course.unit,
                            **estimate_fields("drift", estimate),
                            "drift_unit": UNITS[drift.kind],
                        })  # fmt: skip
        return rows


def _squared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Sum of squared differences in level of each clip, in float64."""
    return np.square(np.subtract(level_channel(a), level_channel(b), dtype=np.float64)).sum(axis=(1, 2, 3))
