"""Figures of the latent in every epoch's row of the history, measured on a few validation clips."""

import keras
import numpy as np

from spectrovae.data import Recordings
from spectrovae.evaluation.diagnostics import Probe, live_columns
from spectrovae.models.base import Trainer

CLIPS = 256
"""Most clips that are looked at after an epoch."""
SHARE = 0.1
"""Of the training clips: the encoder alone over so many, without gradients, takes less than 5 % of an epoch."""


class LiveDiagnostics(keras.callbacks.Callback):
    """Adds the columns of :func:`live_columns` to the logs of each epoch; stands before the callbacks that keep them.

    They are a function of the weights alone, so a run that was continued has the same.

    Args:
        representation: makes the features, and those of silence.
        seed: of the choice of clips.
    """

    def __init__(self, trainer: Trainer, recordings: Recordings, representation, batch_size: int, seed: int = 0):
        super().__init__()
        self.probe = Probe(trainer.encoder)
        self.floor = silence(representation, recordings.samples)
        wanted = min(CLIPS, max(16, int(SHARE * len(recordings.examples("train")))))
        self.batches: list[np.ndarray] = []
        if not (self.probe.posteriors or self.probe.codes):
            return
        for batch in recordings.features("validation", representation, batch_size, shuffle=True, seed=seed):
            self.batches.append(np.asarray(batch)[:wanted])
            wanted -= len(self.batches[-1])
            if wanted <= 0:
                break

    def on_epoch_end(self, epoch, logs=None):
        if self.batches and logs is not None:
            logs.update(live_columns(self.probe, self.batches, self.floor))


def silence(representation, samples: int) -> np.ndarray:
    """The level of silence in features [shape=(bins, frames, 1)]."""
    return np.asarray(representation(np.zeros((1, samples), np.float32)))[0, ..., :1]
