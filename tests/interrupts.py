"""Fits that are stopped as by Ctrl-C, and the history they leave."""

import csv

import keras


class Interrupt(keras.callbacks.Callback):
    """Raises as Ctrl-C does, in the middle of an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.now == self.epoch and batch == 1:
            raise KeyboardInterrupt


def interrupted(monkeypatch, epoch):
    """Every fit stops in ``epoch``, counted from 0."""
    original = keras.Model.fit

    def stopping(self, *args, callbacks=(), **kwargs):
        return original(self, *args, callbacks=[*callbacks, Interrupt(epoch)], **kwargs)

    monkeypatch.setattr(keras.Model, "fit", stopping)


def history(out):
    """The rows of a run's history, of text."""
    with open(out / "run" / "history.csv", newline="") as stream:
        return list(csv.DictReader(stream))
