"""What a run keeps on disk.

BUNDLE/run/
  config.json     all that repeats the run
  state.npz       weights, optimizer, noise generators and progress, after each epoch and every ten minutes within one
  history.csv     one row an epoch
  loss.png        the same as curves, at the end and at most once a minute
  verdict.md      what the run came to, and what to change; diagnostics.json has all figures
  logs/           TensorBoard: scalars, spectrograms, audio
"""

import csv
import io
import math
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from spectrovae import files, plots
from spectrovae.models.base import Trainer
from spectrovae.training import state

PICTURE_SECONDS = 60.0
"""Least time between two drawings of the loss curves, each of which takes about a second; the last is always drawn."""
PROGRESS = ("epoch", "step", "best", "best_epoch", "waited", "seconds", "finished", "history")
WRITTEN = ("state.npz", "config.json", "history.csv", "loss.png", "verdict.md", "diagnostics.json")
EVENTS = "events.out.tfevents.*"


class Run:
    """The folder of a run and its progress.

    Args:
        bundle: the model's folder.
        config: all that repeats the run.
        replacing: another model is there, which stays until this run's first epoch is over: nothing is written before.

    Attributes:
        epoch: epochs done.
        step: steps done of the epoch after those.
        best: lowest validation loss, None before there is a finite one; ``best_epoch`` is that of the saved model.
        waited: epochs since.
        seconds: of training.
        history: values of each quantity, one an epoch.
    """

    def __init__(self, bundle: Path, config: dict, *, replacing: bool = False):
        self.folder = bundle / "run"
        self.config = config
        self.replacing = replacing
        self.epoch = 0
        self.step = 0
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

    @property
    def begun(self) -> bool:
        """Whether there is a state to continue from."""
        return not self.replacing and self.state_file.is_file()

    def check(self) -> None:
        """Raise InputError where the folder could not be written after the first epoch."""
        folder = self.folder if os.path.lexists(self.folder) else self.folder.parent
        with files.writing(folder), tempfile.TemporaryFile(dir=folder):
            pass

    def start(self) -> None:
        """Write the configuration: from here on the run can be continued. Of an earlier run its files are removed, the
        state first, and nothing else that lies there."""
        if self.replacing:
            for path in (*(self.folder / name for name in WRITTEN), *(self.folder / "logs").glob(EVENTS)):
                if path.is_file() or path.is_symlink():
                    with files.writing(path):
                        path.unlink(missing_ok=True)
        self.replacing = False
        files.clear_temporary(self.folder)
        files.write_json(self.folder / "config.json", self.config)

    def save(self, trainer: Trainer) -> None:
        """Write the state, in one file that is replaced at once; after a whole epoch the history too."""
        progress = {name: getattr(self, name) for name in PROGRESS}
        state.write(self.state_file, progress, state.variables_of(trainer, metrics=self.step > 0))
        if self.step:
            return
        self.write_history()
        if time.monotonic() >= self._next_picture or self.finished:
            plots.plot_loss_curves(self.history, self.folder / "loss.png")
            self._next_picture = time.monotonic() + PICTURE_SECONDS

    def progress(self) -> dict[str, Any]:
        """How far the run on disk has come; empty before its first state.

        Raises:
            InputError: the state is damaged.
        """
        progress = state.read_progress(self.state_file)
        if not progress:
            return {}
        progress = {"step": 0} | {name: progress.get(name) for name in PROGRESS if name in progress}
        epoch: Any = progress.get("epoch")
        seconds: Any = progress.get("seconds")
        history, best = progress.get("history"), progress.get("best")
        sound = (
            set(progress) == set(PROGRESS)
            and state.count(epoch)
            and state.count(progress["step"], 0 if epoch else 1)
            and all(state.count(progress[name], 0, epoch) for name in ("best_epoch", "waited"))
            and state.number(seconds)
            and 0.0 <= seconds < math.inf
            and isinstance(progress["finished"], bool)
            and (best is None or state.number(best))
            and isinstance(history, dict)
            and ("loss" in history) == bool(epoch)
            and all(isinstance(column, list) and len(column) == epoch for column in history.values())
            and all(state.number(value) for column in history.values() for value in column)
        )
        if not sound:
            raise state.damaged(self.state_file, "its progress does not add up")
        progress["best"] = best if best is not None and math.isfinite(best) else None
        return progress

    def load(self, trainer: Trainer) -> None:
        """Put the state back into the trainer, exactly; the metrics of an epoch that has begun by :meth:`load_metrics`.

        Raises:
            InputError: the file is damaged or belongs to another model.
        """
        vars(self).update(self.progress())
        state.restore(self.state_file, state.variables_of(trainer))

    def load_metrics(self, trainer: Trainer) -> None:
        """The running means of an epoch that has begun."""
        state.restore(self.state_file, {"metrics": state.variables_of(trainer, metrics=True)["metrics"]})

    def record(self, logs: dict[str, float]) -> None:
        """Append an epoch's losses to the history; NaN where a quantity was not measured."""
        for name in dict.fromkeys((*self.history, *logs)):
            column = self.history.setdefault(name, [math.nan] * (self.epoch - 1))
            column.append(float(logs.get(name, math.nan)))

    def write_history(self) -> None:
        """``history.csv``."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["epoch", *self.history])
        writer.writerows([index + 1, *row] for index, row in enumerate(zip(*self.history.values())))
        files.write_text(self.folder / "history.csv", text.getvalue())
