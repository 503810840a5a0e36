"""What a run keeps on disk, and the callbacks that keep it.

BUNDLE/run/
  config.json     all that repeats the run
  state.npz       weights, optimizer, noise generators and progress after the last whole epoch
  history.csv     one row an epoch
  loss.png        the same as curves, at the end and at most once a minute
  verdict.md      what the run came to, and what to change; diagnostics.json has all figures
  logs/           TensorBoard: scalars, spectrograms, audio
"""

import csv
import io
import json
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from spectrovae import files, plots
from spectrovae.errors import InputError
from spectrovae.models.base import Trainer
from spectrovae.training.divergence import Diverged

UNITS = {"distance": "", "rmse_db": "dB", "kl": "nats", "reconstruction": "", "adversarial": "", "discriminator": ""}
PICTURE_SECONDS = 60.0
"""Least time between two drawings of the loss curves, each of which takes about a second; the last is always drawn."""
PROGRESS = ("epoch", "best", "best_epoch", "waited", "seconds", "finished", "history")


def log(message: str) -> None:
    """Progress goes to standard error."""
    print(message, file=sys.stderr, flush=True)


class Run:
    """The folder of a run and its progress: epochs done, best loss, history, seconds spent."""

    def __init__(self, bundle: Path, config: dict):
        self.folder = bundle / "run"
        self.config = config
        self.epoch = 0
        self.best: float | None = None
        self.best_epoch = 0
        self.waited = 0
        self.seconds = 0.0
        self.finished = False
        self.history: dict[str, list[float]] = {}
        self._next_picture = time.monotonic() + PICTURE_SECONDS

    @property
    def state_file(self) -> Path:
        return self.folder / "state.npz"

    def start(self) -> None:
        """Write the configuration; from here on the run can be continued. Clears what a killed writer left."""
        files.clear_temporary(self.folder)
        files.write_json(self.folder / "config.json", self.config)

    def save(self, trainer: Trainer) -> None:
        """Write the state after a whole epoch, in one file that is replaced at once."""
        progress = {key: value for key, value in vars(self).items() if key in PROGRESS}
        variables = _variables(trainer)
        arrays: dict[str, Any] = {
            f"{kind}/{i}": np.asarray(v) for kind in variables for i, v in enumerate(variables[kind])
        }
        with files.replacing(self.state_file) as temporary:
            np.savez(temporary, progress=np.array(json.dumps(progress)), **arrays)
        self.write_history()
        if time.monotonic() >= self._next_picture or self.finished:
            plots.plot_loss_curves(self.history, self.folder / "loss.png")
            self._next_picture = time.monotonic() + PICTURE_SECONDS

    def progress(self) -> dict:
        """How far the run on disk has come; empty before its first epoch is over.

        Raises:
            InputError: the state is damaged.
        """
        if not self.state_file.is_file():
            return {}
        try:
            with np.load(self.state_file, allow_pickle=False) as kept:
                return json.loads(str(kept["progress"]))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(f"{self.state_file} is damaged ({error}); --force starts over") from error

    def load(self, trainer: Trainer) -> None:
        """Put the state of the last whole epoch back into the trainer, exactly.

        Raises:
            InputError: the file is damaged or belongs to another model.
        """
        vars(self).update(self.progress())
        try:
            with np.load(self.state_file, allow_pickle=False) as kept:
                for kind, variables in _variables(trainer).items():
                    for index, variable in enumerate(variables):
                        variable.assign(kept[f"{kind}/{index}"])
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(f"{self.state_file} is damaged ({error}); --force starts over") from error

    def record(self, logs: dict[str, float]) -> None:
        """Append an epoch's losses to the history; a column that is new to an old run starts with NaN."""
        for name, value in logs.items():
            self.history.setdefault(name, [float("nan")] * (self.epoch - 1)).append(float(value))

    def write_history(self) -> None:
        """``history.csv``."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["epoch", *self.history])
        writer.writerows([index + 1, *row] for index, row in enumerate(zip(*self.history.values())))
        files.write_text(self.folder / "history.csv", text.getvalue())


def _variables(trainer: Trainer) -> dict[str, list]:
    optimizer: Any = trainer.optimizer
    return {
        "model": [*trainer.trainable_variables, *trainer.non_trainable_variables],
        "optimizer": list(getattr(optimizer, "variables")),  # noqa: B009
    }


class KeepRun(keras.callbacks.Callback):
    """After each epoch: history, progress line, the bundle when it is the best so far, the state; stop when it stalls.

    Args:
        save_best: called with the epoch's logs when the watched loss is the lowest so far.
        patience: epochs without a new best after which training stops; 0 never stops.
    """

    def __init__(self, run: Run, epochs: int, examples: int, patience: int, save_best: Callable[[dict], None]):
        super().__init__()
        self.run, self.epochs, self.examples, self.patience, self.save_best = run, epochs, examples, patience, save_best

    def on_epoch_begin(self, epoch, logs=None):
        self.started = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        logs = {name: float(value) for name, value in (logs or {}).items()}
        if not np.isfinite(logs["loss"]):
            raise Diverged(epoch + 1, logs["loss"])
        run, seconds = self.run, time.monotonic() - self.started
        run.epoch, run.seconds = epoch + 1, run.seconds + seconds
        run.record(logs)
        watched = logs.get("val_loss", logs["loss"])
        # An adversary's share of the loss moves with the adversary: in its stage the newest counts.
        improved = self.model.stage == 2 or run.best is None or watched < run.best
        if improved:
            run.best, run.best_epoch, run.waited = watched, epoch + 1, 0
            self.save_best(logs)
        else:
            run.waited += 1
        run.save(self.model)
        log(self.line(epoch, logs, seconds) + ("  *" if improved else ""))
        if self.patience and run.waited >= self.patience:
            log(f"no better for {self.patience} epochs: stopping")
            self.model.stop_training = True

    def line(self, epoch: int, logs: dict[str, float], seconds: float) -> str:
        """One epoch in physical units, training | validation."""

        def named(prefix: str) -> str:
            names = [name for name in UNITS if f"{prefix}{name}" in logs]
            return "  ".join(
                f"{name.removesuffix('_db')} {logs[prefix + name]:.2f} {UNITS[name]}".strip() for name in names
            )

        width = len(str(self.epochs))
        rate = self.examples / max(seconds, 1e-9)
        done = f"epoch {epoch + 1:{width}}/{self.epochs}"
        clean = f"  clean  {named('val_clean_')}" if "val_clean_loss" in logs else ""
        return f"{done}  {named('')}  | validation  {named('val_')}{clean}  {rate:.0f} examples/s"


class TensorBoardPictures(keras.callbacks.Callback):
    """Scalars each epoch; every few epochs spectrograms and audio of a few validation examples.

    Args:
        folder: where the event files go.
        features: a few examples (batch, bins, frames, channels).
        representation: turns features back into sound.
        every: epochs between pictures.
    """

    def __init__(self, folder: Path, features, representation, every: int = 5):
        super().__init__()
        self.folder, self.features, self.representation, self.every = folder, features, representation, every
        self.writer: Any = None

    def on_epoch_end(self, epoch, logs=None):
        self.writer = self.writer or tf.summary.create_file_writer(str(self.folder))
        with self.writer.as_default(step=epoch + 1):
            for name, value in (logs or {}).items():
                tf.summary.scalar(name, value)
            if epoch % self.every == 0:
                decoded = self.model.reconstruct(self.features)
                pair = tf.concat([self._picture(self.features), self._picture(decoded)], axis=2)
                tf.summary.image("original | reconstruction", pair, max_outputs=len(self.features))
                for name, features in (("original", self.features), ("reconstruction", decoded)):
                    audio = tf.clip_by_value(self.representation.inverse(features), -1.0, 1.0)
                    tf.summary.audio(name, audio[..., None], self.representation.sample_rate, max_outputs=len(audio))
        self.writer.flush()

    def _picture(self, features):
        level = (
            self.representation.to_db(features)[..., :1] - self.representation.min_db
        ) / self.representation.dynamic_range
        return tf.clip_by_value(level[:, ::-1], 0.0, 1.0)
