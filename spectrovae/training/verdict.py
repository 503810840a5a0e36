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
"""Errors in units of what answering with the mean of the training clips gives. Nothing was learnt above the first: a
collapsed model stays at 1, give or take what a small split differs by. Above the second the weights have run away: an
untrained network answers near 0, which is only a few times worse than the mean."""
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
        name: for programs: ``converged``, ``still_improving``, ``overfitting``, ``diverged``, ``collapsed``,
            ``level_unused``, ``codebook_dying`` or ``skips_carry_everything``; after adversarial training also
            ``generator_collapsed``, ``discriminator_winning`` or ``feature_matching_dominating``.
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
        spectrum: variances along the principal directions, largest first, in squared units of a feature.
        model: the trainer's options; ``likelihood``, ``alpha``, ``sigma`` and ``beta`` are looked at.
        diagnosis: of :func:`spectrovae.evaluation.diagnostics.diagnose`.
        cells: of one example.

    Returns:
        ``eigenvalues`` (the first ten), ``variance`` of all, ``mean_predictor_mse``; with posteriors also
        ``sigma_squared``, ``beta``, ``threshold`` (None where the likelihood has no sigma), ``predicted_active``,
        ``found_active``, and ``calibrated_active``: what beta = 1 and sigma^2 = the error reached would keep.
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
    sigma_squared = _sigma_squared(model, error, cells, diagnosis)
    beta, dimensions = float(model.get("beta", 1.0)), latent["dimensions"]

    def kept(threshold: float) -> int:
        return int(min(dimensions, np.sum(spectrum > threshold)))

    threshold = None if sigma_squared is None else beta * sigma_squared
    return result | {
        "sigma_squared": sigma_squared,
        "beta": beta,
        "threshold": threshold,
        "predicted_active": None if threshold is None else kept(threshold),
        "calibrated_active": kept(error),
        "found_active": latent["active_units"],
    }


def _sigma_squared(model, error: float, cells: int, diagnosis) -> float | None:
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
        return error
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
    findings = _course(history, law, diagnosis, model, stalled, corrupt, first) if history.get("loss") else []
    if not _times_the_mean(diagnosis, law) <= UNTRAINED:
        # A latent means nothing to a decoder that has not learnt the mean yet; but what the law forbids will not come.
        hopeless = law.get("predicted_active") == law.get("found_active") == 0
        text = "no dimension is active, and none will be."
        return [*findings, _collapsed(text, law, model)] if hopeless else findings
    return [*findings, *_posteriors(diagnosis, law, model), *_codebook(diagnosis), *_skips(diagnosis, law)]


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


def _course(history, law, diagnosis, model, stalled: bool, corrupt: str | None, first: bool) -> list[Finding]:
    loss = np.asarray(history["loss"], np.float64)
    watched = np.asarray(history.get("val_loss", loss), np.float64)
    # Levels err in dB; models of samples have a spectral distance, without a unit.
    name = next((name for name in ("rmse_db", "distance") if name in history), "loss")
    unit, measure = (" dB", "error") if name == "rmse_db" else ("", "distance" if name == "distance" else "loss")
    training = np.asarray(history[name], np.float64)
    validation = np.asarray(history.get(f"val_{name}", training), np.float64)
    epochs, best = len(loss), int(np.argmin(watched))
    inputs = f"validation inputs corrupted by {corrupt}" if corrupt else "validation"
    error = "" if unit else f"{measure} "
    error += f"{validation[best]:.2f}{unit} on {inputs} at the best epoch, {best + 1} of {epochs}"
    error += " of the first stage" if first else ""

    times = _times_the_mean(diagnosis, law)
    if not times <= EXPLODED:
        text = f"{error}; the loss is finite, the error {times:.3g} times that of answering with the mean of the clips."
        return [Finding("diverged", text, "a tenth of --learning-rate, with --force.")]

    fall, rise = watched[0] - watched[best], float(np.mean(watched[-3:])) - watched[best]
    higher = float(np.mean(validation[-3:])) - validation[best]
    rising = best < epochs - 3 and rise > 0.0 and loss[-1] < loss[best]
    rising &= rise > OVERFIT_RISE * fall or higher > OVERFIT_RISE * validation[best]
    gap = validation[best] / training[best] if name != "loss" and training[best] > 0 else 1.0
    if rising or gap > OVERFIT_GAP:
        text = f"{error}, but {training[best]:.2f}{unit} on training."
        if rising:
            text += f" Since then the training loss fell on, and on validation the loss rose by {rise:.4g}"
            text += f" and the {measure} by {higher:.2f}{unit}."
        text += " The best epoch is kept; more epochs will not help."
        change = "more recordings; or, without any, a smaller --latent-dim or --preset."
        if model.get("time_stretch") == 0.0 and not corrupt:
            change = (
                "sounds at random tempo, --time-stretch 0.15 --time-shift 1, where features are levels; or more sounds."
            )
        return [Finding("overfitting", text, change)]

    longer = f"--epochs {2 * epochs} with --resume."
    if first:
        longer = f"--adversarial-from {2 * epochs} and --epochs {epochs} more, with --force."
    if times > UNTRAINED:
        text = f"{error}; answering with the mean of the training clips is better ({times:.2g} times less)."
        return [Finding("still_improving", text, longer)]
    if epochs < FEW_EPOCHS:
        return [Finding("still_improving", f"{error}; {epochs} epochs are too few to see where it would end.", longer)]
    quarter = max(1, epochs // 4)
    before, after = float(np.min(validation[:-quarter])), float(np.min(validation))
    loss_before, loss_after = float(np.min(watched[:-quarter])), float(watched[best])
    gained = before - after > IMPROVING * abs(before) or loss_before - loss_after > IMPROVING * fall
    if gained and not stalled:
        text = f"{error}; in the last {quarter} epochs the lowest {measure} went from {before:.3f} to {after:.3f}{unit}"
        text += f", the lowest loss from {loss_before:.4g} to {loss_after:.4g}."
        return [Finding("still_improving", text, longer)]
    return [Finding("converged", f"{error}; the last {quarter} epochs lowered it by {before - after:.3f}{unit}.")]


def _times_the_mean(diagnosis, law) -> float:
    """The error in units of the mean predictor's; 0 where it is not known."""
    mean_error = law.get("mean_predictor_mse", 0.0)
    return (diagnosis.get("mean_squared_error", 0.0) / mean_error) ** 0.5 if mean_error else 0.0


def _unused_rise(diagnosis, law) -> float:
    """The rise of the error, in its own unit, below which a part of the latent is unused."""
    times = _times_the_mean(diagnosis, law)
    return UNUSED * diagnosis["rmse_db"] / times if times and "rmse_db" in diagnosis else UNUSED_DB


def _posteriors(diagnosis, law, model) -> list[Finding]:
    groups, latent = diagnosis["groups"], diagnosis["latent"]
    if "shuffle_rise_db" not in latent:
        return []
    unused = _unused_rise(diagnosis, law)
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
    first = ", ".join(f"{value:.3g}" for value in law["eigenvalues"][:5])
    text += (
        f" A direction of the data is kept while its variance exceeds beta sigma^2 = {law['threshold']:.3g}; the "
        f"training features have {first}, ..., so {law['predicted_active']} dimensions would live, and "
        f"{law['calibrated_active']} with a calibrated sigma."
    )
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


def _skips(diagnosis, law) -> list[Finding]:
    skips, bottleneck = diagnosis.get("skips"), diagnosis["groups"][0]
    if not skips or bottleneck["shuffle_rise_db"] >= _unused_rise(diagnosis, law):
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
