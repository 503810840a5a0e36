"""Fits that are stopped as by Ctrl-C, SIGTERM or SIGKILL, and the history they leave."""

import csv
import os
import signal

import keras


class At(keras.callbacks.Callback):
    """Does something after a step of an epoch, both counted from 0."""

    def __init__(self, epoch, step, action):
        super().__init__()
        self.at, self.action, self.epoch = (epoch, step), action, None

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == self.at:
            self.action()


def stopping(monkeypatch, epoch, step, action):
    """Every fit does ``action`` after a step; callbacks that are given come first."""
    original = keras.Model.fit

    def stopped(self, *args, callbacks=(), **kwargs):
        return original(self, *args, callbacks=[*callbacks, At(epoch, step, action)], **kwargs)

    monkeypatch.setattr(keras.Model, "fit", stopped)


def interrupted(monkeypatch, epoch):
    """Every fit stops in ``epoch``, counted from 0, so that nothing is saved on the way out."""
    stopping(monkeypatch, epoch, 1, interrupt)


def interrupt():
    raise KeyboardInterrupt


def killed():
    raise SystemExit("as SIGKILL does: nothing is saved on the way out")


def signalled(number=signal.SIGINT):
    """An action: this process gets a signal."""
    return lambda: os.kill(os.getpid(), number)


def history(out):
    """The rows of a run's history, of text."""
    with open(out / "run" / "history.csv", newline="") as stream:
        return list(csv.DictReader(stream))
