"""Trainings of priors and judges: the best epoch's weights, and a state after each epoch, so that they continue."""

import json
import math
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

from spectrovae import files
from spectrovae.errors import InputError, TrainingError
from spectrovae.training import state
from spectrovae.training.callbacks import log


def check_settings(epochs: int, batch_size: int, learning_rate: float) -> None:
    """Raise InputError where a setting of a training is out of range."""
    for name, value in (("epochs", epochs), ("batch_size", batch_size)):
        if value < 1:
            raise InputError(f"{name} must be at least 1, received {value}")
    if not 0.0 < learning_rate < 1.0:
        raise InputError(f"learning_rate must lie between 0 and 1, received {learning_rate}")


class Resumable(keras.callbacks.Callback):
    """Saves the state after each epoch in a folder of its own, and knows the best epoch's weights.

    Args:
        folder: where ``state.npz`` is kept until :meth:`clear`.
        settings: all that decides what is trained, as JSON; a state of other settings is not continued.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]):
        super().__init__()
        self.file, self.settings = folder / "state.npz", json.loads(json.dumps(settings))
        self.epoch, self.best_epoch, self.best = 0, 0, math.inf
        self.best_weights: list[np.ndarray] = []
        self.seconds, self.started = 0.0, time.monotonic()

    def load(self, model: keras.Model) -> None:
        """Put a state of the same settings into a compiled model; a state that cannot be used is left out."""
        try:
            progress = state.read_progress(self.file)
            if not progress:
                return
            if progress.get("settings") != self.settings:
                log(f"{self.file} is of a training with other settings: starting over")
                return
            epoch: Any = progress.get("epoch")
            best_epoch, best, seconds = (progress.get(name) for name in ("best_epoch", "best", "seconds"))
            weights = state.read_group(self.file, "best")
            shapes = [weight.shape for weight in weights], [tuple(w.shape) for w in model.weights]
            if not (
                state.count(epoch, 1)
                and state.count(best_epoch, 0, epoch)
                and state.number(best)
                and state.number(seconds)
                and len(weights) in (0, len(model.weights))
                and (not weights or shapes[0] == shapes[1])
            ):
                raise state.damaged(self.file, "its progress does not add up")
            state.restore(self.file, state.variables_of(model))
        except InputError as error:
            log(f"{str(error).removesuffix('; --force starts over')}: starting over")
            return
        self.epoch, self.best_epoch = epoch, int(best_epoch or 0)
        self.best, self.seconds = float(best or 0.0), float(seconds or 0.0)
        self.best_weights = weights
        log(f"continuing after epoch {epoch}")

    def on_epoch_end(self, epoch, logs=None):
        logs = logs or {}
        if not math.isfinite(logs["loss"]) or not state.finite(self.model):
            self.clear()
            raise TrainingError(
                f"training diverged in epoch {epoch + 1}: the loss is {logs['loss']}; lower the learning rate"
            )
        self.epoch = epoch + 1
        if logs["val_loss"] < self.best:
            self.best, self.best_epoch, self.best_weights = logs["val_loss"], epoch + 1, self.model.get_weights()
        progress = {
            "settings": self.settings,
            "epoch": self.epoch,
            "best_epoch": self.best_epoch,
            "best": self.best,
            "seconds": self.elapsed,
        }
        state.write(self.file, progress, state.variables_of(self.model) | {"best": self.best_weights})

    @property
    def elapsed(self) -> float:
        """Seconds of training, those before an interruption included."""
        return self.seconds + time.monotonic() - self.started

    def put_back(self, model: keras.Model) -> None:
        """The best epoch's weights.

        Raises:
            TrainingError: no epoch had a finite validation loss.
        """
        if not self.best_weights:
            raise TrainingError("the validation loss of no epoch is finite; lower the learning rate")
        model.set_weights(self.best_weights)

    def clear(self) -> None:
        """Remove the state."""
        with files.writing(self.file):
            self.file.unlink(missing_ok=True)
