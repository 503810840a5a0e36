"""What came of adversarial training, from the course of both players' losses; each finding with one change to try.

Every threshold is here, with its reason. What is judged is the last quarter of the second stage.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spectrovae.training.verdict import Finding

BLIND = {"hinge": 2.0, "least_squares": 0.5}
"""The discriminators' loss where they cannot tell: the least that a logit which knows nothing of the sound can have."""
WON = 0.1
"""The discriminator wins when its loss is below this part of ``BLIND``: under the hinge most sounds then lie outside
the margin, where they teach it nothing more, so it has nothing new to tell the generator."""
CAUGHT_UP = 0.1
"""... unless the fakes' score has risen from its lowest by more than this part of the distance to the real ones'."""
SILENT = 0.1
"""Collapsed: the output's RMS is below this part of the input's, 20 dB down. A decoder that drops all that it cannot
predict still has the loudest partials, which are most of the RMS."""
WORSE = 1.5
"""Collapsed too: the distance is so many times what it was before the adversary. Detail that sounds right but lies
elsewhere costs some distance, but sounds unlike their input cost more."""
DOMINATING = 0.75
"""Feature matching dominates when it is more than this part of the generator's loss, three times all else."""


def split_stages(history: Mapping[str, Sequence[float]]) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """The epochs without an adversary and those with one, by whether ``adversarial`` is a number; {} where none."""
    epochs = max(map(len, history.values()), default=0)
    # A column that began late holds NaN before, or lacks those epochs.
    columns = {
        name: np.pad(np.asarray(column, float), (epochs - len(column), 0), constant_values=np.nan)
        for name, column in history.items()
    }
    joined = np.isfinite(columns.get("adversarial", np.full(epochs, np.nan)))

    def of(rows: np.ndarray) -> dict[str, list[float]]:
        return {name: column[rows].tolist() for name, column in columns.items()} if rows.any() else {}

    return of(~joined), of(joined)


def judge_adversary(history: Mapping[str, Sequence[float]], model: Mapping[str, Any]) -> list[Finding]:
    """Findings ``generator_collapsed``, ``discriminator_winning`` and ``feature_matching_dominating``; none is good.

    Args:
        history: values an epoch, of both stages: ``adversarial``, ``discriminator``, ``feature_matching``,
            ``distance``, ``real_score``, ``fake_score``, ``generator_norm``, and ``reconstruction`` where the loss has
            that in place of ``distance``. A run without ``adversarial`` has no findings.
        model: options of the trainer; ``adversary``, ``adversarial_weight``, ``feature_weight`` and
            ``discriminator_rate`` are looked at.
    """
    before, columns = split_stages(history)
    if not columns:
        return []
    epochs = len(columns["adversarial"])
    last = {name: float(np.mean(column[-max(1, epochs // 4) :])) for name, column in columns.items()}
    # What else goes wrong once the generator has collapsed only follows from it.
    return _collapsed(before, columns, last, model) or [*_winning(columns, last, model), *_dominating(last, model)]


def _collapsed(before, columns, last, model) -> list[Finding]:
    weight = float(model.get("adversarial_weight", 1.0)) / 10.0
    change = f"--adversarial-weight {weight:g}, so that the distance holds the sound."
    if last["generator_norm"] < SILENT:
        level = 20.0 * np.log10(max(last["generator_norm"], 1e-6))
        text = f"the output is all but silent, {-level:.0f} dB below the input."
        return [Finding("generator_collapsed", text, change)]
    start, distance = before["distance"][-1] if before else columns["distance"][0], last["distance"]
    if distance <= WORSE * start:
        return []
    text = (
        f"the output no longer follows its input: since the adversary joined the spectral distance went from "
        f"{start:.3g} to {distance:.3g}; the output's RMS is {last['generator_norm']:.2g} times the input's."
    )
    return [Finding("generator_collapsed", text, change)]


def _winning(columns, last, model) -> list[Finding]:
    blind = BLIND[model.get("adversary", "hinge")]
    gap = last["real_score"] - last["fake_score"]
    risen = last["fake_score"] - min(columns["fake_score"])
    if last["discriminator"] >= WON * blind or risen > CAUGHT_UP * gap:
        return []
    text = (
        f"the discriminators' loss is {last['discriminator']:.2g}, and {blind:g} for one that cannot tell; real sounds "
        f"score {last['real_score']:.2f}, the generator's {last['fake_score']:.2f}, and no better than before."
    )
    rate = float(model.get("discriminator_rate", 1.0)) / 3.0
    return [Finding("discriminator_winning", text, f"--discriminator-rate {rate:.2g}.")]


def _dominating(last, model) -> list[Finding]:
    weight = float(model.get("feature_weight", 1.0))
    matching = weight * last["feature_matching"]
    fooling = abs(float(model.get("adversarial_weight", 1.0)) * last["adversarial"])
    others = last.get("reconstruction", last["distance"]) + fooling
    if matching <= DOMINATING * (matching + others):
        return []
    text = (
        f"feature matching is {matching / (matching + others):.0%} of the generator's loss: {matching:.3g} beside a "
        f"distance of {others - fooling:.3g} and an adversarial loss of {fooling:.3g}."
    )
    change = f"--feature-weight {others / last['feature_matching']:.2g}, with which it would be half."
    return [Finding("feature_matching_dominating", text, change)]
