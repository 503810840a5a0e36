"""Keras callbacks of a fit: what is saved, what is printed, and how it is interrupted."""

import contextlib
import math
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from spectrovae import files
from spectrovae.errors import StorageError
from spectrovae.training import state
from spectrovae.training.divergence import Diverged
from spectrovae.training.run import Run

UNITS = {
    "distance": "", "rmse_db": "dB", "rmse": "", "kl": "nats", "reconstruction": "", "adversarial": "",
    "discriminator": "",
}  # fmt: skip
LONG = 2.0
"""Seconds of an epoch after which its steps are shown on a terminal, twice a second."""

_line = ""  # what stands on the terminal's last line, to be rewritten


def log(message: str) -> None:
    """Progress goes to standard error."""
    rewrite("")
    print(message, file=sys.stderr, flush=True)


def rewrite(message: str) -> None:
    """Put a message in place of the one before on a terminal's last line."""
    global _line
    if message or _line:
        end = "" if message else "\r"
        print(f"\r{message:{len(_line)}}", end=end, file=sys.stderr, flush=True)
        _line = message


class Interruption:
    """Ctrl-C and SIGTERM, as a scheduler or container sends it, end a training after its step; a second one at once."""

    requested = False

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Within this block, signals are noted in ``requested``; outside the main thread none come."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(signum, frame):
            if self.requested:
                raise KeyboardInterrupt
            self.requested = True
            with contextlib.suppress(RuntimeError):  # in the middle of another print
                log("stopping after this step; once more stops at once")

        numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]
        before = {number: signal.signal(number, note) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Let SIGTERM end a computation as Ctrl-C does."""
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


class ShowSteps(keras.callbacks.Callback):
    """On a terminal, the step and the loss of an epoch that takes longer than ``LONG`` seconds.

    Args:
        epochs: of the training.
        steps: of an epoch.
    """

    def __init__(self, epochs: int, steps: int):
        super().__init__()
        self.epochs, self.steps = epochs, steps
        self.terminal = sys.stderr.isatty()
        self.next = math.inf

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch, self.next = epoch, time.monotonic() + LONG

    def on_train_batch_end(self, batch, logs=None):
        left = (self.params or {}).get("steps") or self.steps  # fewer in an epoch that is continued
        loss = f"  loss {logs['loss']:.4g}" if logs and "loss" in logs else ""
        self._show(f"step {batch + 1 + self.steps - left}/{self.steps}{loss}")

    def on_test_batch_end(self, batch, logs=None):
        self._show(f"validation, step {batch + 1}")

    def on_epoch_end(self, epoch, logs=None):
        self.next = math.inf

    def _show(self, text: str) -> None:
        if self.terminal and time.monotonic() >= self.next:
            self.next = time.monotonic() + 0.5
            rewrite(f"epoch {self.epoch + 1}/{self.epochs}  {text}")


class KeepRun(keras.callbacks.Callback):
    """After each epoch: history, progress line, the bundle when it is the best so far, the state; stop when it stalls.

    Within an epoch the state every so often, and where the training is interrupted.

    Args:
        run: of this training.
        epochs: of the training.
        examples: of an epoch.
        patience: epochs without a new best after which training stops; 0 never stops.
        save_model: called where the watched loss is the lowest so far, or none has been finite.
        steps: of an epoch.
        checkpoint_every: minutes between states within an epoch; 0 for none.
        interruption: what has been requested.
    """

    def __init__(
        self,
        run: Run,
        epochs: int,
        examples: int,
        patience: int,
        save_model: Callable[[], None],
        steps: int,
        checkpoint_every: float,
        interruption: Interruption,
    ):
        super().__init__()
        self.run, self.epochs, self.examples, self.patience, self.save_model = (
            run,
            epochs,
            examples,
            patience,
            save_model,
        )
        self.steps, self.interruption = steps, interruption
        self.every = 60.0 * checkpoint_every or math.inf
        self.saved = time.monotonic()

    def on_epoch_begin(self, epoch, logs=None):
        if self.run.step:
            self.run.load_metrics(self.model)  # Keras has just reset them
        self.started, self.before, self.counted = time.monotonic(), self.run.step, self.run.seconds

    def on_train_batch_end(self, batch, logs=None):
        run = self.run
        run.step += 1
        if not math.isfinite(logs["loss"]):
            raise Diverged(run.epoch + 1, f"the loss is {logs['loss']}", run.step)
        if run.step >= self.steps:
            return  # the end of the epoch saves
        due = time.monotonic() - self.saved >= self.every
        if due or self.interruption.requested:
            self._count_seconds()
            if not run.replacing:
                self._check()
                run.save(self.model)
            self.saved = time.monotonic()
        if self.interruption.requested:
            raise KeyboardInterrupt

    def on_epoch_end(self, epoch, logs=None):
        logs = {name: float(value) for name, value in (logs or {}).items()}
        run = self.run
        if not math.isfinite(logs["loss"]):
            raise Diverged(epoch + 1, f"the loss is {logs['loss']}", self.steps)
        self._check()
        seconds = self._count_seconds()
        run.epoch, run.step = epoch + 1, 0
        run.record(logs)
        watched = logs.get("val_loss", logs["loss"])
        # An adversary's share of the loss moves with the adversary: in its stage the newest counts.
        newest = self.model.stage == 2
        improved = newest or (math.isfinite(watched) and (run.best is None or watched < run.best))
        if run.replacing:
            run.start()
        if improved or run.best is None:  # of those without a finite loss the newest, until there is one
            run.best_epoch = epoch + 1
            self.save_model()
        if improved:
            run.best, run.waited = watched if math.isfinite(watched) else None, 0
        else:
            run.waited += 1
        run.save(self.model)
        self.saved = time.monotonic()
        share = (self.steps - self.before) / self.steps
        log(self.line(epoch, logs, self.examples * share / max(seconds, 1e-9)) + ("  *" if improved else ""))
        if not math.isfinite(watched):
            log(f"the validation loss of epoch {epoch + 1} is {watched}: it counts as no improvement")
        if self.patience and run.waited >= self.patience:
            log(f"no better for {self.patience} epochs: stopping")
            self.model.stop_training = True
        if self.interruption.requested:
            self.model.stop_training = True

    def _count_seconds(self) -> float:
        """Seconds of this epoch in this process, which the run's are brought up to."""
        seconds = time.monotonic() - self.started
        self.run.seconds = self.counted + seconds
        return seconds

    def _check(self) -> None:
        """Raise Diverged where a weight is not finite: no such state is saved."""
        if not state.finite(self.model):
            raise Diverged(self.run.epoch + 1, "a weight is not a finite number", self.run.step)

    def line(self, epoch: int, logs: dict[str, float], rate: float) -> str:
        """One epoch in physical units, training | validation."""

        def named(prefix: str) -> str:
            names = [name for name in UNITS if f"{prefix}{name}" in logs]
            digits = {"rmse": "#.3g"}  # of the features, whose unit may be large
            return "  ".join(
                f"{name.removesuffix('_db')} {logs[prefix + name]:{digits.get(name, '.2f')}} {UNITS[name]}".strip()
                for name in names
            )

        width = len(str(self.epochs))
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
        try:
            with files.writing(self.folder):
                self._write(epoch, logs or {})
        except tf.errors.OpError as error:
            reason = re.sub(r"\{\{.*?\}\}\s*|\[Op:.*", "", error.message.splitlines()[0]).strip()
            raise StorageError(f"cannot write {self.folder}: {reason}; run the same command again") from error

    def close(self) -> None:
        """Close the event file."""
        if self.writer is not None:
            with contextlib.suppress(tf.errors.OpError):
                self.writer.close()

    def _write(self, epoch: int, logs: dict[str, float]) -> None:
        self.writer = self.writer or tf.summary.create_file_writer(str(self.folder))
        with self.writer.as_default(step=epoch + 1):
            for name, value in logs.items():
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
