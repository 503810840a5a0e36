"""What a run came to, in plain words, each with one change to try.

A verdict is a list of findings from the course of the losses, the diagnostics of the latent, and the PCA spectrum of
the training features. Every threshold is here, with its reason.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

FEW_EPOCHS = 4
"""With fewer, a quarter of the run is no whole epoch, and no course can be read."""
IMPROVING = 0.01
"""Still improving: in the last quarter of the epochs the error fell by more than this part of itself, or the loss by
more than this part of its whole fall. The learning rate falls to zero over a run, so a curve flattens at its end
whatever is left to learn; 1 % is 0.04 dB of 4."""
UNTRAINED, EXPLODED = 1.2, 10.0
"""Errors in dB of the level over the error of answering with the mean of the training clips, on the same clips. Nothing
was learnt above the first: a collapsed model stays at 1, give or take the noise of training. Above the second the
weights have run away: an untrained network answers near 0, which is only a few times worse than the mean."""
OVERFIT_RISE = 0.02
"""Overfitting: after the best epoch the training loss falls on, and the validation error ends above that epoch's by
more than this part of itself, or the loss by more than this part of its whole fall. Less is noise of a small split."""
OVERFIT_GAP = 1.5
"""Overfitting too: the validation error is so many times the training error."""
UNUSED_DB, UNUSED = 0.3, 0.035
"""A part of the latent is unused when exchanging it, or drawing it from its prior, raises the error by less than 3.5 %
of what the mean of the training clips leaves: 0.3 dB of 8.7 on spoken digits, and 0.3 dB where that is not known."""
DEAD_SHARE = 0.5
"""Collapsed: fewer units are active than this part of what a calibrated likelihood would keep at the error reached. The
law is of linear models; others need fewer dimensions for the same error, but not half as few."""
CODES_USED, PERPLEXITY = 0.5, 0.25
"""A codebook is dying when fewer of its codes are in use, or its perplexity is below this part of its size: half of
what a healthy one has (95 %, and half its size)."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing found.

    Attributes:
        name: for programs. Of the course, one: ``converged``, ``still_improving``, ``too_short``,
            ``worse_than_the_mean``, ``overfitting`` or ``diverged``. Of the latent: ``collapsed``, ``level_unused``,
            ``codebook_dying`` or ``skips_carry_everything``. After adversarial training also ``generator_collapsed``,
            ``discriminator_winning`` or ``feature_matching_dominating``.
        text: what was found and why, in plain sentences.
        change: the one change to try; empty where nothing is wrong.
    """

    name: str
    text: str
    change: str = ""

    def __str__(self) -> str:
        return f"{self.name.replace('_', ' ')}: {self.text}" + (f" Try: {self.change}" if self.change else "")


def collapse_law(
    spectrum: np.ndarray, model: Mapping[str, Any], diagnosis: Mapping[str, Any], cells: int
) -> dict[str, Any]:
    """How many dimensions a linear VAE would keep: the principal directions of variance above beta * sigma^2.

    Lucas et al. (2019) with the weight beta; sigma is what the likelihood takes for the noise of a cell. The published
    ``alpha * error + KL`` losses have one too: alpha MSE is a Gaussian with sigma^2 = cells / (2 alpha), and alpha RMSE
    locally one with sigma^2 = cells * RMSE / alpha.

    Args:
        spectrum: variances along the principal directions, largest first, in squared units of a feature, of features
            whose channels are divided by :func:`channel_scale`.
        model: the trainer's options; ``likelihood``, ``alpha``, ``sigma`` and ``beta`` are looked at.
        diagnosis: of :func:`spectrovae.evaluation.diagnostics.diagnose`.
        cells: of one example.

    Returns:
        ``eigenvalues`` (the first ten), ``variance`` of all, ``mean_predictor_mse``; with posteriors also
        ``sigma_squared``, ``beta``, ``threshold`` (None where the likelihood has no sigma), ``predicted_active``,
        ``found_active``, and ``calibrated_active``: what beta = 1 and a calibrated sigma would keep, the decoder's own
        or else the error reached.
    """
    result: dict[str, Any] = {
        "eigenvalues": [float(value) for value in spectrum[:10]],
        "directions": len(spectrum),
        "variance": float(spectrum.sum()),
        "mean_predictor_mse": float(spectrum.sum()) / cells,
    }
    latent, error = diagnosis["latent"], diagnosis.get("mean_squared_error")
    if "active_units" not in latent or error is None:
        return result
    kept = diagnosis.get("sigma")
    calibrated = error if kept is None else float(np.mean(np.square(kept)))
    sigma_squared = _sigma_squared(model, error, calibrated, cells, diagnosis)
    beta, dimensions = float(model.get("beta", 1.0)), latent["dimensions"]

    def above(threshold: float) -> int:
        return int(min(dimensions, np.sum(spectrum > threshold)))

    threshold = None if sigma_squared is None else beta * sigma_squared
    return result | {
        "sigma_squared": sigma_squared,
        "beta": beta,
        "threshold": threshold,
        "predicted_active": None if threshold is None else above(threshold),
        "calibrated_active": above(calibrated),
        "found_active": latent["active_units"],
    }


def channel_scale(sigma: np.ndarray | None) -> np.ndarray | float:
    """What to divide channels by so that all have one sigma, the root of their mean square [shape=(channels,)].

    The law compares a direction's variance with the noise of its cells, and phase has more of that than the level.
    """
    return 1.0 if sigma is None else sigma / np.sqrt(np.mean(np.square(sigma)))


def _sigma_squared(model, error: float, calibrated: float, cells: int, diagnosis) -> float | None:
    likelihood, alpha = model.get("likelihood", "sigma"), float(model.get("alpha") or 1.0)
    if likelihood == "alpha_mse":
        return cells / (2.0 * alpha)
    if likelihood == "alpha_rmse":
        return cells * error**0.5 / alpha
    if likelihood == "bernoulli":
        return None
    if "calibration" in diagnosis:
        return diagnosis["calibration"]["sigma_rms"] ** 2
    if likelihood == "sigma" or model.get("sigma") is None:
        return calibrated
    return float(model["sigma"]) ** 2


def judge(
    history: Mapping[str, Sequence[float]],
    diagnosis: Mapping[str, Any],
    law: Mapping[str, Any],
    model: Mapping[str, Any],
    *,
    stalled: bool = False,
    corrupt: str | None = None,
    first: bool = False,
) -> list[Finding]:
    """Findings on a run that ended well: its course first, then the latent.

    Args:
        history: values by name, one an epoch; empty where only the model is known.
        diagnosis: of :func:`spectrovae.evaluation.diagnostics.diagnose`.
        law: of :func:`collapse_law`.
        model: the trainer's options.
        stalled: it stopped because it was no better for as many epochs as ``patience``.
        corrupt: what was done to the inputs of training and validation.
        first: a second stage, which is not in ``history``, followed.
    """
    times = _times_the_mean(diagnosis)
    findings, improving = [], True  # unless the course says otherwise
    if len(history.get("loss", ())):
        course = _Course.of(history)
        improving = course.epochs < FEW_EPOCHS or (course.gained and not stalled)
        findings = [_judge_course(course, times, model, improving, stalled, corrupt, first)]
    elif not times <= UNTRAINED:
        findings = [_without_history(times)]
    if not times <= UNTRAINED:
        # A latent means nothing to a decoder that has not learnt the mean yet; but what the law forbids will not come.
        forbidden = law.get("predicted_active") == 0
        if not times <= EXPLODED or law.get("found_active") != 0 or (improving and not forbidden):
            return findings
        text = f"no dimension is active{', and none will be' if forbidden else ''}."
        return [*findings, _collapsed(text, law, model)]
    return [*findings, *_posteriors(diagnosis, law, model), *_codebook(diagnosis), *_skips(diagnosis)]


def diverged(epoch: int, found: Mapping[str, Any] | None, learning_rate: float) -> Finding:
    """The finding of a run whose loss was not finite in ``epoch``; ``found`` by ``divergence.first_non_finite``."""
    lower = f"--learning-rate {learning_rate / 10:g} with --force; it was {learning_rate:g}."
    if found is None:
        text = f"the loss of epoch {epoch} is not finite, but all stayed finite when the epoch was trained on again."
        return Finding("diverged", text, lower)
    kind, name, step = (found[key] for key in ("kind", "name", "step"))
    text = f"in step {step} of epoch {epoch} the first tensor that is not finite is the {kind} {name}."
    if kind == "features":
        return Finding("diverged", text, "`spectrovae data scan`, and drop the recordings that are damaged.")
    if kind == "weight" and step == 1:
        return Finding("diverged", text + " It was so before the step.", "start over from finite weights with --force.")
    return Finding("diverged", text, lower)


def _without_history(times: float) -> Finding:
    text = f"the error is {times:.3g} times that of answering with the mean of the training clips."
    name = "worse_than_the_mean" if times <= EXPLODED else "diverged"
    return Finding(name, text, "train it for longer, or again with a tenth of the learning rate.")


@dataclasses.dataclass(frozen=True)
class _Course:
    """Losses and errors by epoch; what is not finite on validation is infinite."""

    loss: np.ndarray
    watched: np.ndarray  # the loss by which the best epoch is chosen
    training: np.ndarray
    validation: np.ndarray
    measure: str
    decibels: bool

    @classmethod
    def of(cls, history: Mapping[str, Sequence[float]]) -> "_Course":
        # Levels err in dB, other features in their own units; models of samples have a spectral distance.
        name = next((name for name in ("rmse_db", "rmse", "distance") if name in history), "loss")
        loss, training = (np.asarray(history[key], np.float64) for key in ("loss", name))
        watched, validation = (
            np.nan_to_num(np.asarray(values, np.float64), nan=np.inf)
            for values in (history.get("val_loss", loss), history.get(f"val_{name}", training))
        )
        measure = {"rmse_db": "error", "rmse": "RMSE of the features"}.get(name, name)
        return cls(loss, watched, training, validation, measure, name == "rmse_db")

    @property
    def epochs(self) -> int:
        return len(self.loss)

    @property
    def best(self) -> int:
        return int(np.argmin(self.watched))

    @property
    def fall(self) -> float:
        """Of the loss from the first epoch that has one to the best."""
        return float(self.watched[np.isfinite(self.watched)][0] - self.watched[self.best])

    @property
    def quarter(self) -> int:
        return self.epochs // 4

    def text(self, value: float, digits: int = 2) -> str:
        return f"{value:.{digits}f} dB" if self.decibels else f"{value:.{digits + 1}g}"

    def lowest(self, values: np.ndarray) -> tuple[float, float]:
        """Before the last quarter of the epochs, and in all of them."""
        return float(np.min(values[: -self.quarter])), float(np.min(values))

    @property
    def gained(self) -> bool:
        """Whether the last quarter of the epochs lowered the error or the loss."""
        if not np.isfinite(self.watched[self.best]):
            return False
        before, after = self.lowest(self.validation)
        loss_before, loss_after = self.lowest(self.watched)
        return before - after > IMPROVING * abs(before) or loss_before - loss_after > IMPROVING * self.fall


def _judge_course(
    course: _Course, times: float, model, improving: bool, stalled: bool, corrupt: str | None, first: bool
) -> Finding:
    """The one finding on the course of a run whose error is so many ``times`` the mean predictor's."""
    epochs, best, measure = course.epochs, course.best, course.measure
    inputs = f"validation inputs corrupted by {corrupt}" if corrupt else "validation"
    error = "" if course.decibels else f"{measure} "
    error += f"{course.text(course.validation[best])} on {inputs} at the best epoch, {best + 1} of {epochs}"
    error += " of the first stage" if first else ""
    slower = "a tenth of --learning-rate, with --force."
    if not np.isfinite(course.watched[best]):
        return Finding("diverged", f"the loss was not finite on {inputs} in any epoch.", slower)
    if not times <= EXPLODED:
        text = f"{error}; the loss is finite, but in dB the error is {times:.3g} times that of answering with the mean."
        return Finding("diverged", text, slower)

    longer = f"--epochs {2 * epochs} with --resume."
    if first:
        longer = f"--adversarial-from {2 * epochs} and --epochs {epochs} more, with --force."
    if epochs < FEW_EPOCHS:
        text = f"{error}; {_count(epochs, 'epoch')} can tell neither whether it improves nor where it would end."
        return Finding("too_short", text, longer)
    before, after = course.lowest(course.validation)
    loss_before, loss_after = course.lowest(course.watched)
    if times > UNTRAINED:
        text = f"{error}; in dB its error is {times:.2g} times that of answering with the mean of the training clips."
        text += " It is still falling." if improving else " It no longer falls."
        return Finding("worse_than_the_mean", text, longer if improving else slower)
    overfitting = _overfitting(course, error, model, corrupt)
    if overfitting:
        return overfitting
    if improving:
        text = f"{error}; in the last {_count(course.quarter, 'epoch')} the lowest {measure} went from "
        text += f"{course.text(before, 3)} to {course.text(after, 3)}, the lowest loss from {loss_before:.4g} to "
        text += f"{loss_after:.4g}."
        return Finding("still_improving", text, longer)
    if stalled:
        return Finding("converged", f"{error}; it was no better for as many epochs as --patience allows.")
    text = f"{error}; the last {_count(course.quarter, 'epoch')} lowered it by {course.text(before - after, 3)}."
    return Finding("converged", text)


def _overfitting(course: _Course, error: str, model, corrupt: str | None) -> Finding | None:
    training, validation, best = course.training, course.validation, course.best
    rise, higher = (float(np.mean(values[-3:]) - values[best]) for values in (course.watched, validation))
    rising = best < course.epochs - 3 and rise > 0.0 and course.loss[-1] < course.loss[best]
    rising &= rise > OVERFIT_RISE * course.fall or higher > OVERFIT_RISE * validation[best]
    gap = validation[best] / training[best] if course.measure != "loss" and training[best] > 0 else 1.0
    if not rising and gap <= OVERFIT_GAP:
        return None
    text = f"{error}, but {course.text(training[best])} on training."
    if rising:
        text += f" Since then the training loss fell on, and on validation the loss rose by {rise:.4g}"
        if course.measure != "loss":
            text += f" and the {course.measure} {'rose' if higher >= 0 else 'fell'} by {course.text(abs(higher))}"
        text += "."
        text += " The best epoch is kept; more epochs will not help."
    change = "more recordings; or, without any, a smaller --latent-dim or --preset."
    if model.get("time_stretch") == 0.0 and not corrupt:
        change = (
            "sounds at random tempo, --time-stretch 0.15 --time-shift 1, where features are levels; or more sounds."
        )
    return Finding("overfitting", text, change)


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'s' * (number != 1)}"


def _times_the_mean(diagnosis) -> float:
    """The error in dB over the mean predictor's; 0 where that is not known, or clips are all alike."""
    mean_error = diagnosis.get("mean_rmse_db", 0.0)
    return diagnosis["rmse_db"] / mean_error if mean_error > 0.0 else 0.0


def _unused_rise(diagnosis) -> float:
    """The rise of the error in dB below which a part of the latent is unused."""
    return UNUSED * diagnosis["mean_rmse_db"] if diagnosis.get("mean_rmse_db") else UNUSED_DB


def _posteriors(diagnosis, law, model) -> list[Finding]:
    groups, latent = diagnosis["groups"], diagnosis["latent"]
    if "shuffle_rise_db" not in latent:
        return []
    unused = _unused_rise(diagnosis)
    if latent["shuffle_rise_db"] < unused:
        text = (
            f"the decoder does not use the latent: exchanging it between clips raises the error by "
            f"{latent['shuffle_rise_db']:.2f} dB."
        )
        return [_collapsed(text, law, model)]
    if "active_units" not in latent:
        return []
    if len(groups) > 1:
        return [
            Finding(
                "level_unused",
                f"group {index} of the latent ({group['dimensions']} dimensions, {group['kl_nats']:.1f} nats) carries "
                f"next to nothing: drawing it from its prior raises the error by {group['prior_rise_db']:.2f} dB.",
                "more --free-bits for each group, or fewer groups.",
            )
            for index, group in enumerate(groups)
            if group["prior_rise_db"] < unused
        ]
    if latent["active_units"] < DEAD_SHARE * law.get("calibrated_active", 0):
        dead = np.flatnonzero(np.asarray(groups[0]["mean_variance"]) <= 0.01)
        text = f"{latent['active_units']} of {latent['dimensions']} dimensions are active; {ranges(dead)} are not."
        return [_collapsed(text, law, model)]
    return []


def _collapsed(text: str, law, model) -> Finding:
    """Why, and what to change: the threshold against the spectrum, or how it was trained."""
    if law.get("threshold") is None:
        return Finding("collapsed", text, "a lower --learning-rate, or --likelihood sigma where the family has it.")
    first = ", ".join(f"{value:.3g}" for value in law["eigenvalues"][:5]) or "0"
    text += (
        f" A direction of the data is kept while its variance exceeds beta sigma^2 = {law['threshold']:.3g}; the "
        f"training features have {first}, ..., so {law['predicted_active']} dimensions would live, and "
        f"{law['calibrated_active']} with a calibrated sigma."
    )
    if law["predicted_active"] == law["calibrated_active"] == 0:
        text += " The training clips differ too little for the error reached."
        return Finding("collapsed", text, "recordings that differ more.")
    if law["predicted_active"] < DEAD_SHARE * law["calibrated_active"]:
        if model.get("likelihood", "sigma") != "sigma":
            return Finding("collapsed", text + " The weighting is the cause.", "--likelihood sigma.")
        return Finding("collapsed", text + " Beta is the cause.", "--beta 1.")
    text += " So the threshold is not the cause: the KL divergence was faster than the reconstruction."
    if not model.get("warmup_steps"):
        return Finding("collapsed", text, "--warmup-epochs over a third of the epochs.")
    free = "free_bits" in model and not model["free_bits"]
    return Finding("collapsed", text, "--free-bits 0.1." if free else "twice the --warmup-epochs.")


def _codebook(diagnosis) -> list[Finding]:
    codes = diagnosis.get("training_codes", diagnosis.get("codes"))
    findings = []
    for index, stage in enumerate(codes["stages"] if codes else ()):
        active, size = stage["active"], codes["codebook_size"]
        # so many different codes that many tokens would show if all were equally likely
        reach = size * -np.expm1(-active["tokens"] / size)
        if active["used"] < CODES_USED * reach or active["perplexity"] < PERPLEXITY * reach:
            where = f" of stage {index}" if len(codes["stages"]) > 1 else ""
            text = (
                f"{active['used']} of {size} codes{where} are used on active tokens, with perplexity "
                f"{active['perplexity']:.1f} ({active['bits']:.2f} of {np.log2(size):.2f} bits a token)."
            )
            change = "restarts of dead codes and a start from k-means, or finite scalar quantisation; else fewer codes."
            findings.append(Finding("codebook_dying", text, change))
    return findings


def _skips(diagnosis) -> list[Finding]:
    skips, bottleneck = diagnosis.get("skips"), diagnosis["groups"][0]
    if not skips or bottleneck["shuffle_rise_db"] >= _unused_rise(diagnosis):
        return []
    text = (
        f"exchanging the bottleneck between clips raises the error by {bottleneck['shuffle_rise_db']:.2f} dB, "
        f"exchanging the skips by {skips['shuffle_rise_db']:.2f} dB: the input goes round the bottleneck."
    )
    return [Finding("skips_carry_everything", text, "fewer skips (the deepest alone), or noise on them.")]


def ranges(numbers: Sequence[int] | np.ndarray) -> str:
    """Whole numbers in rising order as text: 0-3, 7, 9-10."""
    numbers = np.asarray(numbers, int)
    if not len(numbers):
        return "none"
    pieces = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    return ", ".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in pieces)
