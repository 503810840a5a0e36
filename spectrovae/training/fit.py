"""Fit a model on recordings: one call from objects to a saved codec, that may be interrupted and called again."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras

import spectrovae
from spectrovae import files, models, representations
from spectrovae.bundle import read_description
from spectrovae.codec import Codec
from spectrovae.data import Recordings
from spectrovae.data.reopen import moved
from spectrovae.errors import InputError, within_graphs
from spectrovae.models.base import Trainer, count_weights
from spectrovae.training import state
from spectrovae.training.callbacks import log
from spectrovae.training.loop import Training, holds_model
from spectrovae.training.options import FitOptions
from spectrovae.training.precision import precision
from spectrovae.training.run import Run

LABELS = "labels_and_speakers"
"""Entry of ``data`` in a run's configuration: a hash of each example's label and speaker."""


def fit(
    family: str,
    recordings: Recordings,
    representation: representations.Representation,
    out: str | os.PathLike,
    options: FitOptions | None = None,
    *,
    warmup_epochs: float | None = None,
    resume: bool = False,
    force: bool = False,
    reuse: bool = False,
    **model_options,
) -> Codec:
    """Build a family's model for these recordings and train it: what ``spectrovae fit`` runs.

    Args:
        family: a name of ``spectrovae.models.FAMILIES``.
        warmup_epochs: epochs over which the weight of the KL divergence grows from 0; by default ``warmup_steps`` of
            the model options, or else the family's own number, three for the hierarchical VAE and none for the VAE.
        **model_options: of the family's trainer, such as ``preset`` or ``latent_dim``. ``speakers=True`` takes the
            names of those in the training split.

    See :func:`train` for the others and for the errors.
    """
    options = options or FitOptions()
    with reserved(out):
        trainer = _build(family, recordings, representation, options, warmup_epochs, model_options)
        return train(trainer, representation, recordings, out, options, resume=resume, force=force, reuse=reuse)


@within_graphs()
def train(
    trainer: Trainer,
    representation: representations.Representation,
    recordings: Recordings,
    out: str | os.PathLike,
    options: FitOptions | None = None,
    *,
    resume: bool = False,
    force: bool = False,
    reuse: bool = False,
) -> Codec:
    """Train a model and keep it as a bundle at ``out``.

    Each epoch ends with the state on disk, and the best model so far in the bundle; a long epoch saves its state on the
    way too. Stopped anywhere, the same call continues after the last state, with the same weights, optimizer, noise and
    order of examples as if nothing had happened: Ctrl-C and SIGTERM save the state first, SIGKILL does not.

    Args:
        trainer: an instance of a family.
        representation: makes its features; statistics already fitted.
        recordings: with splits ``train`` and ``validation``.
        out: the bundle's folder, locked until this returns.
        options: how to train.
        resume: continue a run that is finished or stopped improving, perhaps with more ``epochs`` or another
            ``patience``.
        reuse: return the model of a finished run of the same configuration, instead of refusing it.
        force: start over where a bundle is; model and run there stay as they are until the first epoch is over.

    Returns:
        The best model as a codec, its figures in ``codec.info``.

    Raises:
        InputError: ``out`` holds something else, or a run of another configuration, is being written by another process
            or cannot be written; nothing has been written then.
        StorageError: the disk is full.
        TrainingError: training diverged.
    """
    out = Path(out)
    with reserved(out):
        options = _staged(trainer, options or FitOptions(), out, force)
        config = run_config(trainer, representation, recordings, options)
        before = _check_out(out, config, resume=resume, force=force, reuse=reuse)
        run = Run(out, config, replacing=force and _occupied(out))
        training = Training(trainer, representation, recordings, out, options, run)
        if run.begun:
            training.load_state()
            if run.best_epoch and not holds_model(out):
                raise InputError(f"{out} lacks the model of epoch {run.best_epoch}; restore it, or --force starts over")
            if run.finished and not (resume and options.epochs > run.epoch):
                return Codec.load(out)
            if resume and (run.finished or training.stalled):
                run.waited = 0
            run.finished = False
            log(f"continuing {out} after epoch {run.epoch}" + (f", step {run.step}" if run.step else ""))
            if holds_model(out) and "learned_prior" in read_description(out):
                log("the learned prior is dropped where an epoch is better; spectrovae fit-prior learns another")
            if before["options"].get("epochs") != options.epochs:
                rate = float(trainer.optimizer.learning_rate)
                log(f"the half cosine of the learning rate now spans {options.epochs} epochs: it goes on at {rate:.2g}")
        else:
            training.begin()
        log(_headline(trainer, recordings, options, config["precision"]))
        training.run_epochs()
        return training.finish()


def repeat(
    path: str | os.PathLike,
    out: str | os.PathLike,
    *,
    data: str | None = None,
    resume: bool = False,
    force: bool = False,
    **changes: Any,
) -> Codec:
    """Run the fit again that a ``run/config.json`` describes, into another bundle.

    Args:
        data: where the recordings are now; the same ones, wherever they lie.
        **changes: of ``FitOptions``, such as ``epochs``.

    Raises:
        InputError: the file cannot be read, or the recordings are no longer the same.
    """
    with reserved(out):
        try:
            config = json.loads(Path(path).read_text(encoding="utf-8"))
            kept = dict(config["options"])
            if kept["precision"] == "auto":
                kept["precision"] = config["precision"]  # of this very run, on another machine too
            options = FitOptions(**(kept | changes))
            opened = moved(config["data"]["open"], data) if data else config["data"]["open"]
            recordings = Recordings.open(**opened)
            if recordings.fingerprint != config["data"]["fingerprint"]:
                raise InputError(f"the recordings at {opened['source']} are not those of the run")
            if recordings.names != config["data"].get(LABELS, recordings.names):
                raise InputError(f"the labels or speakers of {opened['source']} are not those of the run")
            log(recordings.describe())
            representation = representations.REPRESENTATIONS[config["representation"]["name"]](
                **config["representation"]["options"]
            )
            derived = ("feature_shape", "db_per_unit", "seed")
            model_options = {name: value for name, value in config["model"].items() if name not in derived}
            trainer = _build(config["family"], recordings, representation, options, None, model_options)
        except Exception as error:  # what another hand has written may be wrong in any way
            unknown = " is missing or unknown" if isinstance(error, KeyError) else ""
            reason = (str(error) or repr(error)).splitlines()[0] + unknown
            raise InputError(f"cannot repeat the run described in {path}: {reason}") from error
        return train(trainer, representation, recordings, out, options, resume=resume, force=force)


def run_config(trainer, representation, recordings, options: FitOptions) -> dict[str, Any]:
    """All that repeats a run, as JSON."""
    bare = ("dtype", "name", "trainable")
    families = {cls: name for name, cls in models.FAMILIES.items()}
    names = {cls: name for name, cls in representations.REPRESENTATIONS.items()}
    config = {
        "spectrovae": spectrovae.__version__,
        "family": families.get(type(trainer), type(trainer).__name__),
        "model": {key: value for key, value in trainer.get_config().items() if key not in bare},
        "representation": {
            "name": names.get(type(representation), type(representation).__name__),
            "options": {key: value for key, value in representation.get_config().items() if key not in bare},
        },
        "data": {
            "open": recordings.get_config(),
            "fingerprint": recordings.fingerprint,
            LABELS: recordings.names,
        },
        "options": options.kept(),
        "precision": trainer.dtype_policy.name,
    }
    return json.loads(json.dumps(config))


@contextlib.contextmanager
def reserved(out: str | os.PathLike) -> Iterator[None]:
    """Hold the lock of a bundle's folder for a fit.

    Raises:
        InputError: it holds something else, is being written by another process, or cannot be written.
    """
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; choose a folder for the bundle")
    if _occupied(out) and not (out / "run" / "config.json").is_file() and not holds_model(out):
        raise InputError(f"{out} is not empty and holds no spectrovae bundle; choose another folder")
    with files.locked(out, "spectrovae fit"):
        yield


def _occupied(out: Path) -> bool:
    """Whether a folder holds anything but its lock."""
    return out.is_dir() and any(path.name != files.LOCK for path in out.iterdir())


def _build(family, recordings, representation, options, warmup_epochs, model_options) -> Trainer:
    """A family's trainer for these recordings."""
    if family not in models.FAMILIES:
        raise InputError(f"family must be one of {', '.join(models.FAMILIES)}, received {family!r}")
    for split in ("train", "validation"):
        recordings.waveforms(split, options.batch_size)  # an empty one is refused before anything is computed
    if model_options.get("speakers") is True:
        model_options["speakers"] = recordings.speakers()
    if warmup_epochs is None and "warmup_steps" not in model_options:
        warmup_epochs = models.FAMILIES[family].warmup_epochs
    if warmup_epochs:
        steps = recordings.steps("train", options.batch_size)
        model_options["warmup_steps"] = round(warmup_epochs * steps)
    if representation.normalisation == "per_bin":
        representation.adapt(recordings.waveforms("train", options.batch_size))
    with precision(options.precision):
        keras.utils.set_random_seed(options.seed)
        return models.FAMILIES[family](
            representation.feature_shape(recordings.samples),
            db_per_unit=representation.db_per_unit,
            seed=options.seed,
            **model_options,
        )


def _check_out(out: Path, config: dict, *, resume: bool, force: bool, reuse: bool) -> dict:
    """Continue the same run, refuse another one unless forced; the configuration on disk, empty where there is none."""
    if force or not _occupied(out):
        return {}
    described = out / "run" / "config.json"
    if not described.is_file():
        raise InputError(f"{out} already holds a model; choose another folder or --force to start over")
    before = _read_config(described)
    flat = _flat(before)
    # The precision counts, and not whether it was chosen by name; older runs do not have the names of their labels.
    ignored = {"spectrovae", "options.precision"} | ({f"data.{LABELS}"} - {name for name, _ in flat})
    ignored |= {"options.epochs", "options.patience"} if resume else set()
    if getattr(models.FAMILIES.get(config["family"]), "representation_name", None):
        ignored.add("model.db_per_unit")  # families of samples do not use it; older runs have one
    names = {name for name, _ in flat ^ _flat(config)} - ignored
    # The data may have moved: what they are decides, and how they were opened explains a difference.
    opened = {name for name in names if name.startswith("data.open")}
    changed = names - opened
    if changed:
        changed |= opened if any(name.startswith("data.") for name in changed) else set()
        held = dict(flat)
        shown = ", ".join(f"{name} {held.get(name, 'not set')[:24]}" for name in sorted(changed))
        raise InputError(
            f"{out} holds a run with other settings ({shown}); give the same ones to continue it, choose another "
            "folder, or --force to start over"
        )
    run = Run(out, config)
    progress = run.progress()
    if progress.get("finished", False) and not (resume or reuse):
        raise InputError(
            f"{out} is finished; --force starts over, --resume with more --epochs goes on, or choose another folder"
        )
    begun = progress["epoch"] + (progress["step"] > 0 and not progress.get("finished")) if progress else 0
    if config["options"]["epochs"] < begun:
        raise InputError(f"{out} has come to epoch {begun} already; give --epochs {begun} or more")
    info = read_description(out)["info"] if not progress and holds_model(out) else {}
    if info.get("finished") or state.count(info.get("epoch"), 2):
        raise InputError(
            f"{run.state_file} is missing, without which the run cannot go on; restore it, choose another folder, or "
            "--force to start over"
        )
    return before


def _read_config(path: Path) -> dict[str, Any]:
    """The ``config.json`` of a run.

    Raises:
        InputError: it is damaged.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict) or not isinstance(config.get("options"), dict):
            raise ValueError("expected an object with options")
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({error}); --force starts over") from error
    return config


def _staged(trainer: Trainer, options: FitOptions, out: Path, force: bool) -> FitOptions:
    """The options with the epochs of the first stage; a run that is there keeps its own."""
    if trainer.stages == 1:
        if options.adversarial_from is not None:
            raise InputError("adversarial_from (--adversarial-from) is for families of two stages, such as rave")
        return options
    first = options.adversarial_from
    if first is None and not force and (out / "run" / "config.json").is_file():
        first = _read_config(out / "run" / "config.json")["options"].get("adversarial_from")
    return dataclasses.replace(options, adversarial_from=2 * options.epochs // 3 if first is None else first)


def _flat(config: dict, prefix: str = "") -> set[tuple[str, str]]:
    """{(dotted name, value as JSON)}"""
    pairs: set[tuple[str, str]] = set()
    for key, value in config.items():
        name = f"{prefix}{key}"
        pairs |= _flat(value, name + ".") if isinstance(value, dict) else {(name, json.dumps(value))}
    return pairs


def _headline(trainer: Trainer, recordings: Recordings, options: FitOptions, policy: str) -> str:
    counts = ", ".join(f"{len(recordings.examples(split))} {split}" for split in ("train", "validation"))
    parameters = count_weights(trainer.encoder, trainer.decoder)
    bits = trainer.bits_per_example
    rate = bits and bits * recordings.sample_rate / recordings.samples
    codes = f", codes of {bits:.0f} bits an example ({rate:.0f} bits/s)" if bits else ""
    return (
        f"{type(trainer).__name__} ({trainer.preset}): {parameters / 1e6:.2f} M parameters, features "
        f"{trainer.feature_shape}{codes}, {counts} examples, {options.epochs} epochs, {policy}"
    )
