"""Learn a prior of a codec's latents, so that new sounds can be drawn that are like real ones."""

import contextlib
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from spectrovae import files, models
from spectrovae.bundle import read, read_description, weights_digest
from spectrovae.codec import Codec
from spectrovae.data import Recordings
from spectrovae.data.order import shuffled
from spectrovae.errors import InputError, within_graphs
from spectrovae.evaluation.systems import data_of
from spectrovae.models.priors import Prior
from spectrovae.training.callbacks import ShowSteps, log, sigterm_as_interrupt
from spectrovae.training.mixture import fit_mixture, mean_nll
from spectrovae.training.resumable import Resumable, check_settings

CONDITIONS = ("label", "speaker")
SPLITS = ("train", "validation", "test")
RUN = "run-prior"
"""Folder in the bundle that keeps the state until the prior is learned."""
REJECTED = "rejected_prior"
"""Entry of a codec's info: the figures of a prior that was not kept."""

Classes = dict[str, np.ndarray]


@within_graphs()
def fit_prior(
    bundle: str | os.PathLike,
    recordings: Recordings,
    kind: str | None = None,
    *,
    conditions: Sequence[str] | None = None,
    epochs: int = 30,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    preset: str = "small",
    seed: int = 0,
    force: bool = False,
    **prior_options: Any,
) -> Codec:
    """Encode the recordings with a bundle's encoder, learn their latents' distribution, keep it in the bundle.

    A latent is the posterior mean, or the codes, of one segment. The epoch of the lowest validation loss is kept; a
    mixture needs none. The bundle is replaced in one step at the end, and until then it is as it was but for its lock.
    Interrupted or killed, the same call continues after the last whole epoch, exactly.

    A prior that describes validation or test clips worse than N(0, I) is not kept where the decoder was trained for
    N(0, I), unless its ``kind`` is given: ``generate`` goes on as before, and ``codec.info["rejected_prior"]`` has the
    figures.

    Args:
        bundle: folder of a codec with one latent: codes, or a vector.
        recordings: of the codec's rate; those it was trained on, so that the test split is new to both.
        kind: a name of ``spectrovae.models.PRIORS``; by default ``pixelcnn`` for codes, ``mixture`` for vectors and
            ``latent-wavenet`` for sequences of vectors.
        conditions: of ``"label"`` and ``"speaker"``; by default those that all training examples have, two or more of
            them, and not each another.
        epochs, batch_size, learning_rate: of Adam, whose rate falls to zero along a half cosine.
        preset: size of the prior.
        seed: of weights, order and dropout.
        force: replace a prior that is there.
        **prior_options: of the prior's class.

    Returns:
        The codec with its prior; ``codec.learned`` holds the figures.

    Raises:
        InputError: a codec whose latents cannot have such a prior, a prior that is there, recordings that do not fit.
        TrainingError: the loss is not finite.
    """
    description = read_description(bundle)
    codec = Codec.load(bundle, prior=False)
    insisted, kind = kind is not None, _checked_kind(codec, kind)
    if "learned_prior" in description and not force:
        raise InputError(f"{bundle} has a learned prior already; --force replaces it")
    check_settings(epochs, batch_size, learning_rate)
    if recordings.sample_rate != codec.sample_rate:
        raise InputError(
            f"{codec.name} works at {codec.sample_rate} Hz, the recordings are at {recordings.sample_rate} Hz; open "
            f"them with sample_rate={codec.sample_rate}"
        )
    held = "test" if recordings.examples("test") else "validation"
    about = data_of(recordings, held, [codec], log=log)
    for split in ("train", "validation"):
        if not recordings.examples(split):
            raise InputError(f"the {split} split is empty; add recordings, or choose another split rule")
    settings = {"kind": kind, "epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate, "seed": seed}
    options: dict[str, Any] = {"preset": preset, "seed": seed, **prior_options}
    options["conditions"] = _condition_names(recordings, conditions)
    folder = Path(bundle) / RUN
    with files.locked(bundle, "spectrovae fit-prior"), sigterm_as_interrupt():
        if read_description(bundle) != description:
            raise InputError(f"{bundle} was replaced meanwhile; run the same command again")
        encoder = weights_digest(codec.encoder)
        run = Resumable(
            folder,
            settings
            | {"options": options, "encoder": encoder}
            | {"fingerprint": recordings.fingerprint, "names": recordings.names},
        )
        prior, learned = _fitted(codec, recordings, kind, options, settings, run)
        learned |= {"encoder": encoder, "data": about}
        fitted = _replaced(codec, Path(bundle), prior, learned, insisted)
        if REJECTED not in fitted.info:
            memory = {name: value for name, value in (codec.data or {}).items() if name != "prior"}
            if memory.get("fingerprint") != recordings.fingerprint:
                memory["prior"] = recordings.provenance()
            fitted = fitted.replace(data=memory)
        fitted.save(bundle)
        run.clear()
        with contextlib.suppress(OSError):
            folder.rmdir()
    return fitted


def _fitted(codec, recordings, kind, options, settings, run: Resumable) -> tuple[Any, dict[str, Any]]:
    """The prior, and what ``codec.json`` says of it."""
    keras.utils.set_random_seed(settings["seed"])
    names = options["conditions"]
    data = {split: _encoded(codec, recordings, split, names) for split in SPLITS if recordings.examples(split)}
    shape = codec.latent_shapes[0]
    size = codec.quantiser.codebook_size if codec.quantiser is not None else 0
    classes = ", ".join(f"{name} ({len(values)})" for name, values in names.items()) or "none"
    what = f"codes of {size}" if size else "numbers"
    log(f"{kind} of {shape} {what}, {len(data['train'][0])} examples, conditions: {classes}")
    epoch = 0
    if kind == "mixture":
        prior: Any = fit_mixture(*data["train"], *data["validation"], log=log, **options)
    else:
        prior = models.PRIORS[kind](shape, size, **options)
        epoch = _train(prior, data["train"], data["validation"], settings, run)
    figures = code_figures(prior, data) if prior.codes else vector_figures(prior, data)
    return prior, {
        "kind": kind,
        "preset": options["preset"],
        "parameters": prior.count_params(),
        "epoch": epoch,
        "seed": settings["seed"],
        "training_seconds": round(run.elapsed, 3),
        "examples": {split: len(latents) for split, (latents, _) in data.items()},
        "figures": figures,
    }


def _replaced(codec: Codec, bundle: Path, prior, learned: dict[str, Any], insisted: bool) -> Codec:
    """The codec with its prior; without it where N(0, I) is better and nobody has insisted."""
    info = {name: value for name, value in codec.info.items() if name != REJECTED}
    if not worse_than_normal(codec, learned) or insisted:
        return codec.replace(learned_prior=prior, learned=learned, info=info)
    earlier: dict[str, Any] = {}
    with contextlib.suppress(InputError):  # an earlier prior that cannot be read goes
        earlier["learned_prior"], earlier["learned"] = read(bundle, lambda parts: parts.prior(codec.encoder))
    return codec.replace(**earlier, info=info | {REJECTED: learned})


def worse_than_normal(codec: Codec, learned: dict[str, Any]) -> bool:
    """Whether a prior describes held-out latents worse than N(0, I), from which ``generate`` can draw without it.

    On the validation split, or on the test split: a mixture's size is chosen on the first.
    """
    if codec.prior != "standard_normal":
        return False
    splits = [learned["figures"][split] for split in ("validation", "test") if split in learned["figures"]]
    return any(not own["prior"] < own["standard_normal"] for own in splits if "standard_normal" in own)


def code_figures(prior: Prior, data: dict[str, tuple[np.ndarray, Classes]]) -> dict[str, Any]:
    """Bits a code, by split: of the prior with its conditions and without, and of what it should beat.

    ``uniform`` is log2 of the number of codes; ``unigram`` codes each by how often it stands in the training split
    (one more than its count, so that none is impossible), at any position, for each stage of the quantiser on its own.
    ``saved`` is the part of the unigram's bits that the prior does without.
    """
    staged = len(prior.latent_shape) == 3
    stages = prior.latent_shape[-1] if staged else 1
    train = data["train"][0].reshape(-1, stages)
    counts = np.stack([np.bincount(train[:, stage], minlength=prior.classes) for stage in range(stages)]) + 1.0
    bits = -np.log2(counts / counts.sum(axis=1, keepdims=True))
    figures: dict[str, Any] = {"unit": "bits a code", "uniform": math.log2(prior.classes)}
    for split, (latents, classes) in data.items():
        flat = latents.reshape(-1, stages)
        unigram = float(np.mean([bits[stage][flat[:, stage]].mean() for stage in range(stages)]))
        given = mean_nll(prior, latents, classes) / (prior.size * math.log(2.0))
        own = {"prior": given, "unigram": unigram, "saved": 1.0 - given / unigram}
        if prior.conditions:
            own["unconditional"] = mean_nll(prior, latents, _open(prior, len(latents))) / (prior.size * math.log(2.0))
        figures[split] = own
    return figures


def vector_figures(prior: Prior, data: dict[str, tuple[np.ndarray, Classes]]) -> dict[str, Any]:
    """Nats a vector, by split: of the prior with its conditions and without, of N(0, I), and of the Gaussian of the
    training split's mean and covariance."""
    train = data["train"][0].reshape(len(data["train"][0]), -1).astype(np.float64)
    mean, covariance = train.mean(axis=0), np.atleast_2d(np.cov(train, rowvar=False, bias=True))
    covariance[np.diag_indices(len(covariance))] += 1e-6 * max(float(np.mean(np.diag(covariance))), 1e-9)
    factor = np.linalg.cholesky(covariance)
    constant = 0.5 * train.shape[1] * math.log(2.0 * math.pi)
    figures: dict[str, Any] = {"unit": "nats a vector"}
    for split, (latents, classes) in data.items():
        x = latents.reshape(len(latents), -1).astype(np.float64)
        white = np.linalg.solve(factor, (x - mean).T)
        own = {
            "prior": mean_nll(prior, latents, classes),
            "standard_normal": float(0.5 * np.mean(np.sum(x * x, axis=1))) + constant,
            "gaussian": float(0.5 * np.mean(np.sum(white * white, axis=0)) + np.log(np.diag(factor)).sum()) + constant,
        }
        if prior.conditions:
            own["unconditional"] = mean_nll(prior, latents, _open(prior, len(latents)))
        figures[split] = own
    return figures


def figures_text(learned: dict[str, Any]) -> str:
    """One line a split, for a person."""
    figures = learned["figures"]
    lines = []
    for split in SPLITS:
        if split in figures:
            own = dict(figures[split])
            saved = own.pop("saved", None)
            text = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in own.items())
            lines.append(f"{split}: {text} {figures['unit']}" + (f"; {saved:.1%} saved" if saved is not None else ""))
    return "\n".join(lines)


def result_text(codec: Codec) -> str:
    """What :func:`fit_prior` came to, for a person."""
    rejected = codec.info.get(REJECTED)
    learned = rejected or codec.learned
    text, kind = figures_text(learned), learned["kind"]
    if rejected:
        draws = f"the {codec.learned['kind']} from before" if codec.learned_prior is not None else "N(0, I)"
        return (
            f"{text}\nThe {kind} describes held-out clips worse than N(0, I), so it is not kept: generate draws from "
            f"{draws}. More recordings may help; --kind {kind} keeps it all the same."
        )
    if worse_than_normal(codec, learned):
        return f"{text}\nThe {kind} describes held-out clips worse than N(0, I); it was asked for, so it is kept."
    return text


def _checked_kind(codec: Codec, kind: str | None) -> str:
    if codec.prior == "standard_normal" and len(codec.latent_shapes) > 1:
        raise InputError(
            f"{codec.name} ({codec.family}) is a hierarchy: its groups are drawn by priors of its own, which it "
            "learned with its decoder; spectrovae generate draws from them"
        )
    if len(codec.latent_shapes) > 1:
        raise InputError(
            f"{codec.name} ({codec.family}) decodes a bottleneck together with the skips of a real sound, which no "
            "prior of one latent can draw; fit a prior to an autoencoder, a vae or a vq-vae"
        )
    of_codes = codec.quantiser is not None
    rank = len(codec.latent_shapes[0])
    fitting = [
        name for name, cls in models.PRIORS.items() if cls.codes == of_codes and (not cls.ranks or rank in cls.ranks)
    ]
    kind = kind or ("pixelcnn" if of_codes else "latent-wavenet" if rank > 1 else "mixture")
    if kind not in fitting:
        what = "codes" if of_codes else "sequences of vectors" if rank > 1 else "vectors"
        raise InputError(
            f"a prior of the {what} of {codec.name} must be one of {', '.join(fitting) or 'none'}, received {kind!r}"
        )
    return kind


def _condition_names(recordings: Recordings, conditions: Sequence[str] | None) -> dict[str, tuple[str, ...]]:
    """The classes of each condition, from the training split."""
    found = {}
    for name in CONDITIONS if conditions is None else conditions:
        if name not in CONDITIONS:
            raise InputError(f"conditions must be of {', '.join(CONDITIONS)}, received {name!r}")
        values = [getattr(example, name) for example in recordings.examples("train")]
        different = set(values)
        if None not in different and 1 < len(different) <= len(values) // 2:
            found[name] = tuple(sorted(map(str, different)))
        elif conditions is not None:
            raise InputError(
                f"a condition needs recordings that all have a {name}, of two at least and several recordings of each; "
                f"found {len(different)} different in {len(values)}"
            )
    return found


def _encoded(codec: Codec, recordings: Recordings, split: str, names) -> tuple[np.ndarray, Classes]:
    """Latents of a split's segments, and their classes; a name that the training split lacks counts as none given."""
    latents = [np.asarray(codec.encode(batch)) for batch in recordings.waveforms(split, 64)]
    stacked = np.concatenate(latents)
    segments = stacked.shape[1]
    classes = {}
    for name, known in names.items():
        place = {own: number for number, own in enumerate(known)}
        index = [place.get(str(getattr(example, name)), len(known)) for example in recordings.examples(split)]
        classes[name] = np.repeat(np.array(index, np.int32), segments)
    return stacked.reshape(-1, *stacked.shape[2:]), classes


def _open(prior: Prior, count: int) -> Classes:
    return {name: np.full(count, prior.none_given(name), np.int32) for name in prior.conditions}


def _train(prior: Prior, train, held, settings: dict[str, Any], run: Resumable) -> int:
    """Train, put the best epoch's weights back and return its number."""
    latents, classes = train
    prior.build()  # where all epochs are over already, no step does
    epochs, batch_size, seed = (settings[name] for name in ("epochs", "batch_size", "seed"))
    steps = math.ceil(len(latents) / batch_size)
    schedule = keras.optimizers.schedules.CosineDecay(settings["learning_rate"], epochs * steps)
    prior.compile(keras.optimizers.Adam(schedule, global_clipnorm=1.0), jit_compile=False)
    prior.optimizer.build(prior.trainable_variables)
    run.load(prior)
    if not run.epoch and hasattr(prior, "initialise"):
        prior.initialise(latents, classes)
    name = prior.tracker.name

    def say(epoch, logs):
        log(f"epoch {epoch + 1}/{epochs}: {logs[name]:.4g} {name}, validation {logs[f'val_{name}']:.4g}")

    tensors = {"latent": latents, **classes}
    if run.epoch < epochs:
        prior.fit(
            shuffled(tensors, len(latents), batch_size, seed=seed, first_epoch=run.epoch),
            steps_per_epoch=steps,
            initial_epoch=run.epoch,
            epochs=epochs,
            validation_data=tf.data.Dataset.from_tensor_slices({"latent": held[0], **held[1]}).batch(batch_size),
            callbacks=[run, keras.callbacks.LambdaCallback(on_epoch_end=say), ShowSteps(epochs, steps)],
            verbose=0,
            shuffle=False,  # the data set has shuffled
        )
    run.put_back(prior)
    return run.best_epoch
