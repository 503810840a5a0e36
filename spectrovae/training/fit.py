"""Fit a model on recordings: one call from objects to a saved codec, that may be interrupted and called again."""

import contextlib
import dataclasses
import json
import math
import os
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

import spectrovae
from spectrovae import models, representations
from spectrovae.codec import Codec
from spectrovae.data import Recordings
from spectrovae.errors import InputError
from spectrovae.models.base import Trainer
from spectrovae.training import augment, examine, verdict
from spectrovae.training.corrupt import CleanValidation, Corruption, canonical
from spectrovae.training.divergence import Diverged, Snapshot, first_non_finite
from spectrovae.training.live import LiveDiagnostics
from spectrovae.training.precision import copy_weights, float32_twin, precision
from spectrovae.training.run import KeepRun, Run, TensorBoardPictures, log

LATER = ("corrupt", "augment", "adversarial_from")  # options that older runs do not have; left out where they are None


@dataclasses.dataclass(frozen=True)
class FitOptions:
    """How to train.

    Attributes:
        epochs: passes over the training split; the learning rate falls to zero over them along a half cosine.
        batch_size: examples a step.
        learning_rate: at the start, of Adam.
        patience: epochs without a lower validation loss after which training stops; 0 never stops, and a family of two
            stages does not either.
        seed: of weights, noise and order.
        precision: ``"auto"``, ``"float32"``, ``"mixed_bfloat16"`` or ``"mixed_float16"``; what is saved is float32.
        corrupt: what is done to the inputs, and undone by the model: ``NAME:SEVERITY``, see
            :mod:`spectrovae.evaluation.perturbations`; None for clean inputs.
        augment: what training recordings become anew in every epoch, and the model is to give back as such:
            ``NAME:STRENGTH,...``, see :mod:`spectrovae.training.augment`; None to leave them as they are.
        adversarial_from: of a family of two stages, the epochs of the first, after which the adversary joins; two
            thirds of ``epochs`` by default, and with as many as those it never does.
    """

    epochs: int = 30
    batch_size: int = 32
    learning_rate: float = 1e-3
    patience: int = 10
    seed: int = 0
    precision: str = "auto"
    corrupt: str | None = None
    augment: str | None = None
    adversarial_from: int | None = None

    def __post_init__(self):
        for name, least in (("epochs", 1), ("batch_size", 1), ("patience", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} must be at least {least}, received {getattr(self, name)}")
        if self.adversarial_from is not None and self.adversarial_from < 0:
            raise InputError(f"adversarial_from must not be negative, received {self.adversarial_from}")
        if not 0.0 < self.learning_rate < 1.0:
            raise InputError(f"learning_rate must lie between 0 and 1, received {self.learning_rate}")
        object.__setattr__(self, "corrupt", canonical(self.corrupt))
        object.__setattr__(self, "augment", augment.canonical(self.augment))
        if self.corrupt and self.augment:
            raise InputError(
                "corrupt (--corrupt) and augment (--augment) cannot be trained together: what is undone would be "
                "changed too; leave one of them out"
            )


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
        warmup_epochs: epochs over which the weight of the KL divergence grows from 0; by default the family's own
            number, three for the hierarchical VAE and none for the VAE.
        **model_options: of the family's trainer, such as ``preset`` or ``latent_dim``. ``speakers=True`` takes the
            names of those in the training split.

    See :func:`train` for the others and for the errors.
    """
    options = options or FitOptions()
    if family not in models.FAMILIES:
        raise InputError(f"family must be one of {', '.join(models.FAMILIES)}, received {family!r}")
    if model_options.get("speakers") is True:
        model_options["speakers"] = recordings.speakers()
    if warmup_epochs is None:
        warmup_epochs = models.FAMILIES[family].warmup_epochs
    if warmup_epochs:
        steps = recordings.steps("train", options.batch_size)
        model_options["warmup_steps"] = round(warmup_epochs * steps)
    if representation.normalisation == "per_bin":
        representation.adapt(recordings.waveforms("train", options.batch_size))
    with precision(options.precision):
        keras.utils.set_random_seed(options.seed)
        trainer = models.FAMILIES[family](
            representation.feature_shape(recordings.samples),
            db_per_unit=representation.db_per_unit,
            seed=options.seed,
            **model_options,
        )
    return train(trainer, representation, recordings, out, options, resume=resume, force=force, reuse=reuse)


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

    Each epoch ends with the state on disk, and the best model so far in the bundle. Stopped anywhere, by Ctrl-C,
    SIGTERM or SIGKILL, the same call continues after the last whole epoch, with the same weights, optimizer, noise and
    order of examples as if nothing had happened.

    Args:
        trainer: an instance of a family.
        representation: makes its features; statistics already fitted.
        recordings: with splits ``train`` and ``validation``.
        out: the bundle's folder.
        options: how to train.
        resume: continue a finished run too, with more ``epochs``.
        reuse: return the model of a finished run of the same configuration, instead of refusing it.
        force: start over where a bundle is; the one there stays until the new one is better than nothing.

    Returns:
        The best model as a codec, its figures in ``codec.info``.

    Raises:
        InputError: ``out`` holds something else, or a run of another configuration, or cannot be written; training
            diverged.
    """
    out = Path(out)
    options = _staged(trainer, options or FitOptions(), out, force)
    corruption = _corruption(trainer, representation, options)
    augmentation = None
    if options.augment:
        augmentation = augment.Augmentation(augment.parse(options.augment), representation.sample_rate, options.seed)
    config = run_config(trainer, representation, recordings, options)
    run = Run(out, config)
    _check_out(out, config, resume=resume, force=force, reuse=reuse)
    if force and run.folder.exists():
        shutil.rmtree(run.folder)

    steps = recordings.steps("train", options.batch_size)
    spans = {1: (0, options.epochs)}  # the epochs of each stage
    if options.adversarial_from is not None and options.adversarial_from < options.epochs:
        spans = {1: (0, options.adversarial_from), 2: (options.adversarial_from, options.epochs)}

    def enter(stage: int) -> None:
        first, last = spans[stage]
        trainer.enter(stage)
        schedule = keras.optimizers.schedules.CosineDecay(options.learning_rate, max(steps * (last - first), 1))
        # XLA on a CPU halves the speed of these convolutions.
        trainer.compile(optimizer=trainer.make_optimizer(schedule), jit_compile=False)
        trainer.optimizer.build(trainer.trainable_variables)

    def load_state() -> None:
        """What is on disk, under the optimizer of its last epoch, and then that of the next one."""
        done = run.progress()["epoch"]
        enter(_stage_of(done - 1, spans))
        run.load(trainer)
        if _stage_of(done, spans) != trainer.stage:
            enter(_stage_of(done, spans))

    def batches(split: str, **kwargs):
        return recordings.features(split, representation, options.batch_size, **kwargs)

    def spoken(examples, split: str, **kwargs):
        """With who speaks, for a trainer that takes it."""
        if not trainer.speakers:
            return examples
        return recordings.spoken(examples, split, trainer.speakers, options.batch_size, **kwargs)

    def examples_of(split: str, **kwargs):
        """What the model is trained on: features, or pairs of corrupted and clean ones."""
        if corruption:
            examples = corruption.pairs(recordings, split, options.batch_size, **kwargs)
        elif augmentation and split == "train":
            examples = augmentation.features(recordings, split, representation, options.batch_size, **kwargs)
        else:
            examples = batches(split, **kwargs)
        return spoken(examples, split, **kwargs)

    if run.state_file.is_file():
        load_state()
        if run.finished and not (resume and options.epochs > run.epoch):
            return Codec.load(out)
        run.finished = False
        log(f"continuing {out} after epoch {run.epoch}")
    else:
        enter(_stage_of(0, spans))
        trainer.initialise(batches("train"))
    run.start()

    twin = float32_twin(trainer)

    current = Codec(
        representation,
        twin.encoder,
        twin.decoder,
        family=config["family"],
        prior=trainer.prior,
        name=out.resolve().name,
        segment_frames=trainer.feature_shape[1],
    )

    def save_model(logs: dict | None = None) -> None:
        """Save the weights of now in the codec that all epochs share: one traces its functions once."""
        copy_weights(trainer, twin)
        current.info = {"epoch": run.epoch, "training_seconds": round(run.seconds, 3), "finished": False}
        current.save(out)

    log(_headline(trainer, recordings, options, config["precision"]))
    validation = examples_of("validation")
    examples = len(recordings.examples("train"))
    first = tf.nest.flatten(next(iter(validation)))[0][:4]
    patience = options.patience if trainer.stages == 1 else 0
    callbacks = [
        LiveDiagnostics(trainer, recordings, representation, options.batch_size, options.seed),
        TensorBoardPictures(run.folder / "logs", first, representation),
        *([CleanValidation(spoken(batches("validation"), "validation"))] if corruption else []),
        KeepRun(run, options.epochs, examples, patience, save_model),
    ]
    start = Snapshot(trainer)
    try:
        with _sigterm_as_interrupt():
            for stage, (_, last) in spans.items():
                if run.epoch >= last or (patience and run.waited >= patience):
                    continue
                if stage != trainer.stage:
                    enter(stage)
                trainer.fit(
                    examples_of("train", shuffle=True, seed=options.seed, first_epoch=run.epoch),
                    steps_per_epoch=steps,
                    validation_data=validation,
                    initial_epoch=run.epoch,
                    epochs=last,
                    shuffle=False,  # the data set has shuffled
                    verbose=0,
                    callbacks=callbacks,
                )
    except KeyboardInterrupt:
        if run.best is None:
            save_model()
        log(f"stopped after epoch {run.epoch}: a usable model is at {out}; the same command continues")
        raise
    except Diverged as error:
        batch_order = examples_of("train", shuffle=True, seed=options.seed, first_epoch=run.epoch).take(steps)
        restore = load_state if run.state_file.is_file() else start.put_back
        finding = verdict.diverged(error.epoch, first_non_finite(trainer, restore, batch_order), options.learning_rate)
        examine.write(run.folder, {"findings": [dataclasses.asdict(finding)]})
        log(str(finding))
        raise InputError(f"{error}. {finding.text}") from error

    best = Codec.load(out)
    stalled = bool(patience) and run.waited >= patience
    report = examine.examine(
        best, recordings, model=config["model"], history=run.history, stalled=stalled, corrupt=options.corrupt
    )
    metrics = _evaluate(best, twin, validation)
    if corruption:
        metrics |= _evaluate(best, twin, spoken(batches("validation"), "validation"), "validation_clean")
    # The twin has the best weights now. A prior that was learned of this very encoder stays.
    current.learned_prior, current.learned = best.learned_prior, best.learned
    current.info = {
        "finished": True,
        "epoch": run.best_epoch,
        "epochs": run.epoch,
        "training_seconds": round(run.seconds, 3),
        "precision": config["precision"],
        "seed": options.seed,
        "training_examples": examples,
        "labels": sorted(recordings.manifest.summary()["labels"]) if recordings.manifest else [],
        "metrics": metrics | examine.key_figures(report),
        "findings": [finding["name"] for finding in report["findings"]],
    }
    for name in ("corrupt", "augment"):
        if getattr(options, name):
            current.info[name] = getattr(options, name)
    if trainer.bits_per_example:
        current.info["bits_per_example"] = trainer.bits_per_example
    current.save(out)
    examine.write(run.folder, report)
    run.finished = True
    run.save(trainer)
    figures = ", ".join(f"{name} {value:.4g}" for name, value in current.info["metrics"].items())
    log(f"best epoch {run.best_epoch} of {run.epoch}: {figures}\n\n{examine.report_text(report)}")
    return current


def repeat(path: str | os.PathLike, out: str | os.PathLike, *, resume: bool = False, force: bool = False) -> Codec:
    """Run the fit again that a ``run/config.json`` describes, into another bundle.

    Raises:
        InputError: the file cannot be read, or the recordings are no longer the same.
    """
    try:
        config = json.loads(Path(path).read_text(encoding="utf-8"))
        recordings = Recordings.open(**config["data"]["open"])
        representation = representations.REPRESENTATIONS[config["representation"]["name"]](
            **config["representation"]["options"]
        )
        options = FitOptions(**config["options"])
        model_options = dict(config["model"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"cannot repeat the run described in {path}: {error}") from error
    if recordings.fingerprint != config["data"]["fingerprint"]:
        raise InputError(f"the recordings at {config['data']['open']['source']} are not those of the run in {path}")
    for derived in ("feature_shape", "db_per_unit", "seed"):
        model_options.pop(derived)
    return fit(config["family"], recordings, representation, out, options, resume=resume, force=force, **model_options)


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
        "data": {"open": recordings.get_config(), "fingerprint": recordings.fingerprint},
        "options": {name: v for name, v in dataclasses.asdict(options).items() if name not in LATER or v is not None},
        "precision": trainer.dtype_policy.name,
    }
    return json.loads(json.dumps(config))


def _check_out(out: Path, config: dict, *, resume: bool, force: bool, reuse: bool) -> None:
    """Continue the same run, refuse to touch anything else, unless forced; never mix with files of another kind."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; choose a folder for the bundle")
    if not out.exists() or not any(out.iterdir()):
        return
    described = out / "run" / "config.json"
    if not described.is_file() and not (out / "codec.json").is_file():
        raise InputError(f"{out} is not empty and holds no spectrovae bundle; choose another folder")
    if force:
        return
    if not described.is_file():
        raise InputError(f"{out} already holds a model; choose another folder or --force to start over")
    try:
        before = json.loads(described.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{described} is damaged ({error}); --force starts over") from error
    ignored = {"spectrovae"} | ({"epochs"} if resume else set())
    changed = sorted(name for name in _flat(before) ^ _flat(config) if name[0].rsplit(".")[-1] not in ignored)
    if changed:
        names = ", ".join(sorted({name for name, _ in changed}))
        raise InputError(
            f"{out} holds a run with other settings ({names}); give the same ones to continue it, choose another "
            "folder, or --force to start over"
        )
    if not (resume or reuse) and Run(out, config).progress().get("finished", False):
        raise InputError(
            f"{out} is finished; --force starts over, --resume with more --epochs goes on, or choose another folder"
        )


def _staged(trainer: Trainer, options: FitOptions, out: Path, force: bool) -> FitOptions:
    """The options with the epochs of the first stage; a run that is there keeps its own."""
    if trainer.stages == 1:
        if options.adversarial_from is not None:
            raise InputError("adversarial_from (--adversarial-from) is for families of two stages, such as rave")
        return options
    kept = None
    if options.adversarial_from is None and not force:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            described = json.loads((out / "run" / "config.json").read_text(encoding="utf-8"))
            kept = int(described["options"]["adversarial_from"])
    if kept is None:
        kept = options.adversarial_from
    return dataclasses.replace(options, adversarial_from=2 * options.epochs // 3 if kept is None else kept)


def _stage_of(epoch: int, spans: dict[int, tuple[int, int]]) -> int:
    """The stage that an epoch, counted from 0, belongs to; after the last one, the last."""
    return next((stage for stage, (_, last) in spans.items() if epoch < last), max(spans))


def _flat(config: dict, prefix: str = "") -> set[tuple[str, str]]:
    """{(dotted name, value as JSON)}"""
    found: set[tuple[str, str]] = set()
    for key, value in config.items():
        name = f"{prefix}{key}"
        found |= _flat(value, name + ".") if isinstance(value, dict) else {(name, json.dumps(value))}
    return found


def _corruption(trainer: Trainer, representation, options: FitOptions) -> Corruption | None:
    if options.corrupt is None:
        return None
    if getattr(trainer, "warp", None) is not None:
        raise InputError(
            "corrupt (--corrupt) and sounds at another tempo or pitch (--time-stretch, --time-shift, --bin-stretch) "
            "cannot be trained together: the clean target would not be changed alike; leave one of them out"
        )
    return Corruption(options.corrupt, representation, options.seed)


def _evaluate(codec: Codec, twin: Trainer, validation, prefix: str = "validation") -> dict[str, float]:
    """Figures of the best model on the validation split, in float32."""
    twin.encoder.set_weights(codec.encoder.get_weights())
    twin.decoder.set_weights(codec.decoder.get_weights())
    twin.compile()
    figures = twin.evaluate(validation, verbose=0, return_dict=True)
    figures.pop("adversary", None)  # it belongs to the training, and no bundle keeps it
    return {f"{prefix}_{name}": float(value) for name, value in figures.items() if math.isfinite(value)}


def _headline(trainer: Trainer, recordings: Recordings, options: FitOptions, policy: str) -> str:
    counts = ", ".join(f"{len(recordings.examples(split))} {split}" for split in ("train", "validation"))
    parameters = trainer.encoder.count_params() + trainer.decoder.count_params()
    bits = trainer.bits_per_example
    rate = bits and bits * recordings.sample_rate / recordings.samples
    codes = f", codes of {bits:.0f} bits an example ({rate:.0f} bits/s)" if bits else ""
    return (
        f"{type(trainer).__name__} ({trainer.preset}): {parameters / 1e6:.2f} M parameters, features "
        f"{trainer.feature_shape}{codes}, {counts} examples, {options.epochs} epochs, {policy}"
    )


@contextlib.contextmanager
def _sigterm_as_interrupt():
    """Let SIGTERM, as a scheduler or container sends it, end a fit as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(signum, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
