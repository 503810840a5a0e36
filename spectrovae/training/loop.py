"""The training of a fit: stages and epochs, what is saved on the way, and how it ends."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from spectrovae.codec import Codec
from spectrovae.data import Recordings
from spectrovae.errors import InputError, TrainingError
from spectrovae.models.base import Trainer
from spectrovae.training import augment, examine, state, verdict
from spectrovae.training.callbacks import Interruption, KeepRun, ShowSteps, TensorBoardPictures, log
from spectrovae.training.corrupt import CleanValidation, Corruption
from spectrovae.training.divergence import Diverged, Snapshot, first_non_finite
from spectrovae.training.live import LiveDiagnostics
from spectrovae.training.options import FitOptions, minutes
from spectrovae.training.precision import copy_weights, float32_twin
from spectrovae.training.run import Run


class Training:
    """A trainer, its data and its run, from the first step or the last state to the finished bundle.

    Nothing is written before :meth:`run_epochs`. Arguments as for :func:`spectrovae.training.train`.

    Raises:
        InputError: data or options with which no training can begin, or a damaged state.
    """

    def __init__(
        self, trainer: Trainer, representation, recordings: Recordings, out: Path, options: FitOptions, run: Run
    ):
        self.trainer, self.representation, self.recordings = trainer, representation, recordings
        self.out, self.options, self.run = out, options, run
        self.corruption = corruption_of(trainer, representation, options)
        self.augmentation = None
        if options.augment:
            strengths = augment.parse(options.augment)
            self.augmentation = augment.Augmentation(strengths, representation.sample_rate, options.seed)
        self.steps = recordings.steps("train", options.batch_size)
        self.patience = options.patience if trainer.stages == 1 else 0
        self.spans = {1: (0, options.epochs)}  # the epochs of each stage
        if options.adversarial_from is not None and options.adversarial_from < options.epochs:
            self.spans = {1: (0, options.adversarial_from), 2: (options.adversarial_from, options.epochs)}
        self.validation = self.examples("validation")
        self.first = tf.nest.flatten(next(iter(self.validation)))[0][:4]
        self.examples("train")  # an empty split is refused here
        self.interruption = Interruption()

    # Data

    def features(self, split: str, **order):
        return self.recordings.features(split, self.representation, self.options.batch_size, **order)

    def with_speakers(self, examples, split: str, **order):
        """Examples with the index of their speaker, for a trainer that takes it."""
        if not self.trainer.speakers:
            return examples
        return self.recordings.spoken(examples, split, self.trainer.speakers, self.options.batch_size, **order)

    def examples(self, split: str, **order):
        """What the model is trained on: features, or pairs of corrupted and clean ones."""
        size = self.options.batch_size
        if self.corruption:
            examples = self.corruption.pairs(self.recordings, split, size, **order)
        elif self.augmentation and split == "train":
            examples = self.augmentation.features(self.recordings, split, self.representation, size, **order)
        else:
            examples = self.features(split, **order)
        return self.with_speakers(examples, split, **order)

    def remaining(self):
        """Endless training examples from where the run is."""
        run = self.run
        order = {"shuffle": True, "seed": self.options.seed, "first_epoch": run.epoch, "first_step": run.step}
        return self.examples("train", **order)

    # Beginning

    def enter(self, stage: int) -> None:
        """Begin a stage: its trainable weights, and an optimizer whose rate falls over its epochs."""
        first, last = self.spans[stage]
        trainer = self.trainer
        trainer.enter(stage)
        schedule = keras.optimizers.schedules.CosineDecay(
            self.options.learning_rate, max(self.steps * (last - first), 1)
        )
        # XLA halves the speed of these convolutions on a CPU; on other devices it was not measured.
        trainer.compile(optimizer=trainer.make_optimizer(schedule), jit_compile=False)
        trainer.optimizer.build(trainer.trainable_variables)

    def begin(self) -> None:
        """Initialise the model."""
        self.enter(self._stage_of(0))
        self.trainer.initialise(self.features("train"))

    def load_state(self) -> None:
        """What is on disk, under the optimizer of its last step, and then that of the next one."""
        run = self.run
        progress = run.progress()
        if progress["step"] >= self.steps:
            raise state.damaged(run.state_file, f"step {progress['step']} of {self.steps}")
        self.enter(self._stage_of(progress["epoch"] - (progress["step"] == 0)))
        run.load(self.trainer)
        following = self._stage_of(run.epoch)
        if following != self.trainer.stage:
            self.enter(following)

    def _stage_of(self, epoch: int) -> int:
        """The stage that an epoch, counted from 0, belongs to; after the last one, the last."""
        return next((stage for stage, (_, last) in self.spans.items() if epoch < last), max(self.spans))

    # Training

    @property
    def stalled(self) -> bool:
        return bool(self.patience) and self.run.waited >= self.patience

    def run_epochs(self) -> None:
        """Train to the last epoch, or until it stalls.

        Raises:
            KeyboardInterrupt: interrupted, the state saved where that was possible.
            TrainingError: it diverged.
        """
        run, options = self.run, self.options
        twin = self.twin = float32_twin(self.trainer)
        self.codec = Codec(
            self.representation,
            twin.encoder,
            twin.decoder,
            family=run.config["family"],
            prior=self.trainer.prior,
            name=self.out.resolve().name,
            segment_frames=self.trainer.feature_shape[1],
            data=self.recordings.provenance(),
        )
        examples = len(self.recordings.examples("train"))
        live = LiveDiagnostics(self.trainer, self.recordings, self.representation, options.batch_size, options.seed)
        clean = [CleanValidation(self.clean_validation())] if self.corruption else []
        keep = KeepRun(
            run, options.epochs, examples, self.patience, self.save_model, self.steps,
            minutes(options.checkpoint_every), self.interruption,
        )  # fmt: skip
        pictures = TensorBoardPictures(run.folder / "logs", self.first, self.representation)
        callbacks = [live, *clean, keep, pictures, ShowSteps(options.epochs, self.steps)]
        snapshot = None if run.begun else Snapshot(self.trainer)
        if run.replacing:
            run.check()
        else:
            run.start()
        try:
            with self.interruption.watching():
                self._fit(callbacks)
        except KeyboardInterrupt:
            self._interrupted()
            raise
        except Diverged as error:
            raise self._explained(error, snapshot) from error
        finally:
            pictures.close()

    def _fit(self, callbacks: list) -> None:
        run, trainer = self.run, self.trainer
        for stage, (_, last) in self.spans.items():
            while run.epoch < last and not self.stalled:
                if stage != trainer.stage:
                    self.enter(stage)
                # An epoch that is continued has fewer steps, so it is a fit of its own.
                trainer.fit(
                    self.remaining(),
                    steps_per_epoch=self.steps - run.step,
                    validation_data=self.validation,
                    initial_epoch=run.epoch,
                    epochs=run.epoch + 1 if run.step else last,
                    shuffle=False,  # the data set has shuffled
                    verbose=0,
                    callbacks=callbacks,
                )
                if self.interruption.requested:
                    raise KeyboardInterrupt

    def save_model(self) -> None:
        """Save the weights of now, in the codec that all epochs share: its functions are traced once."""
        copy_weights(self.trainer, self.twin)
        run = self.run
        self.codec.info = {"epoch": run.epoch, "training_seconds": round(run.seconds, 3), "finished": False}
        self.codec.save(self.out)

    def _interrupted(self) -> None:
        """Leave a usable model where there is none, and say what is there."""
        if self.run.replacing:
            log(f"stopped before the first epoch was over: {self.out} is as it was")
            return
        if not holds_model(self.out):
            self.save_model()
        progress = self.run.progress() or {"epoch": 0, "step": 0}
        step = f"step {progress['step']} of epoch {progress['epoch'] + 1}"
        where = step if progress["step"] else f"epoch {progress['epoch']}"
        log(f"stopped after {where}: a usable model is at {self.out}; the same command without --force continues")

    def _explained(self, error: Diverged, snapshot: Snapshot | None) -> TrainingError:
        """The error with its cause, which the run's verdict names too."""
        run = self.run
        replacing = run.replacing
        if run.begun:
            restore = self.load_state
            done = run.progress()["step"]
        else:
            restore, done = (snapshot or Snapshot(self.trainer)).put_back, 0
        run.epoch, run.step = error.epoch - 1, done
        batches = self.remaining().take(error.step - done)
        cause = first_non_finite(self.trainer, restore, batches, done=done, seen=error.step)
        finding = verdict.diverged(error.epoch, cause, self.options.learning_rate)
        if not replacing:
            examine.write(run.folder, {"findings": [dataclasses.asdict(finding)]})
        log(str(finding))
        return TrainingError(f"{error}. {finding.text}")

    # The end

    def clean_validation(self):
        return self.with_speakers(self.features("validation"), "validation")

    def finish(self) -> Codec:
        """Measure the best model, save it with its figures and write the verdict."""
        run, options, codec, config = self.run, self.options, self.codec, self.run.config
        best = Codec.load(self.out)
        self.twin.encoder.set_weights(best.encoder.get_weights())
        self.twin.decoder.set_weights((best.conditioned or best.decoder).get_weights())
        # The codec has the best weights now. A prior that was learned of this very encoder stays.
        if best.learned_prior is not None:
            prior = {name: value for name, value in (best.data or {}).items() if name == "prior"}  # and its data
            codec = codec.replace(
                learned_prior=best.learned_prior, learned=best.learned, data=(codec.data or {}) | prior
            )
        metrics = _evaluate(self.twin, self.validation)
        if self.corruption:
            metrics |= _evaluate(self.twin, self.clean_validation(), "validation_clean")
        codec.info = {
            "finished": True,
            "epoch": run.best_epoch,
            "epochs": run.epoch,
            "stalled": self.stalled,
            "training_seconds": round(run.seconds, 3),
            "precision": config["precision"],
            "seed": options.seed,
            "training_examples": len(self.recordings.examples("train")),
            "labels": sorted(self.recordings.manifest.summary()["labels"]) if self.recordings.manifest else [],
            "metrics": metrics,
        }
        for name in ("corrupt", "augment"):
            if getattr(options, name):
                codec.info[name] = getattr(options, name)
        if self.trainer.bits_per_example:
            codec.info["bits_per_example"] = self.trainer.bits_per_example
        if codec.speakers:
            codec.save(self.out)  # how well the latent tells speakers takes long to measure: the model is safe first
        report = examine.examine(
            codec, self.recordings, model=config["model"], history=run.history, stalled=self.stalled,
            corrupt=options.corrupt,
        )  # fmt: skip
        codec.info["metrics"] = metrics | examine.key_figures(report)
        codec.info["findings"] = [finding["name"] for finding in report["findings"]]
        codec.save(self.out)
        examine.write(run.folder, report)
        run.finished = True
        run.save(self.trainer)
        figures = ", ".join(f"{name} {value:.4g}" for name, value in codec.info["metrics"].items())
        log(f"best epoch {run.best_epoch} of {run.epoch}: {figures}\n\n{examine.report_text(report)}")
        return codec


def holds_model(out: Path) -> bool:
    """Whether a bundle is there, be it that its last files are still to be moved to their places."""
    return (out / "codec.json").is_file() or (out / ".saved" / "codec.json").is_file()


def corruption_of(trainer: Trainer, representation, options: FitOptions) -> Corruption | None:
    """What perturbs the inputs; None where nothing does.

    Raises:
        InputError: the trainer changes tempo or pitch itself.
    """
    if options.corrupt is None:
        return None
    if getattr(trainer, "warp", None) is not None:
        raise InputError(
            "corrupt (--corrupt) and sounds at another tempo or pitch (--time-stretch, --time-shift, --bin-stretch) "
            "cannot be trained together: the clean target would not be changed alike; leave one of them out"
        )
    return Corruption(options.corrupt, representation, options.seed)


def _evaluate(twin: Trainer, validation, prefix: str = "validation") -> dict[str, float]:
    """Figures of the model on the validation split, in float32."""
    twin.compile()
    figures: Mapping[str, Any] = twin.evaluate(validation, verbose=0, return_dict=True)
    # The adversary's belongs to the training, and no bundle keeps it.
    return {f"{prefix}_{k}": float(v) for k, v in figures.items() if k != "adversary" and math.isfinite(v)}
