"""Train a judge: a small classifier of the recordings' labels or speakers, for ``evaluation``."""

import contextlib
import os
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from spectrovae import files
from spectrovae.data import Recordings
from spectrovae.errors import InputError, within_graphs
from spectrovae.evaluation.judges import RESULT, TARGETS, Judge, build_network
from spectrovae.files import check_output
from spectrovae.representations import LogMel
from spectrovae.training.callbacks import ShowSteps, log, sigterm_as_interrupt
from spectrovae.training.resumable import Resumable, check_settings

N_MELS = 40
GAIN_DB = 10.0
SHIFT_SECONDS = 0.1
NOISE_DB = (10.0, 60.0)  # signal-to-noise ratios of the training clips


@within_graphs()
def fit_judge(
    target: str,
    recordings: Recordings,
    out: str | os.PathLike,
    *,
    epochs: int = 20,
    batch_size: int = 32,
    learning_rate: float = 3e-3,
    seed: int = 0,
    force: bool = False,
) -> Judge:
    """Train on the train split, keep the epoch of the lowest validation loss, measure on the test split, save.

    Training clips are moved in time by up to 0.1 s, made louder or softer by up to 10 dB, and white noise is added at
    10 to 60 dB: what a judge of reconstructions should not mind.

    Interrupted or killed, the same call continues after the last whole epoch, exactly: until the judge is saved, its
    state is kept in the folder ``OUT.run``, which is locked.

    Args:
        target: ``"label"`` (of FSDD: the digit) or ``"speaker"``.
        recordings: with labels of that kind.
        out: folder to write.
        force: replace a judge that is there.

    Returns:
        The judge; ``info`` holds its accuracy on ``test`` and ``validation``.

    Raises:
        InputError: recordings without such labels, or with one only; an existing folder; an empty split; another
            process that fits this judge.
        TrainingError: the loss is not finite.
    """
    if target not in TARGETS:
        raise InputError(f"a judge tells {' or '.join(TARGETS)}, received {target!r}")
    check_settings(epochs, batch_size, learning_rate)
    check_output(out, force=force, mark=RESULT)
    found = {getattr(example, target) for example in recordings.examples("train")}
    if None in found or len(found) < 2:
        raise InputError(
            f"a judge of {target}s needs recordings of two {target}s at least, all of them named; found "
            f"{', '.join(sorted(map(str, found))[:5])}: give a name pattern with a (?P<{target}>...) group"
        )
    for split in ("train", "validation"):
        recordings.waveforms(split)  # an empty one is refused before anything is computed
    labels = sorted(str(name) for name in found)
    folder = Path(f"{os.path.abspath(out)}.run")
    with files.locked(folder, "spectrovae fit-judge"), sigterm_as_interrupt():
        run = Resumable(folder, {
            "target": target, "names": recordings.names, "epochs": epochs, "batch_size": batch_size,
            "learning_rate": learning_rate, "seed": seed, "fingerprint": recordings.fingerprint,
        })  # fmt: skip
        judge = _trained(target, labels, recordings, run)
        judge.save(out, force=force)
        run.clear()
    with contextlib.suppress(OSError):
        folder.rmdir()
    return judge


def _trained(target: str, labels: list[str], recordings: Recordings, run: Resumable) -> Judge:
    """The judge of the best epoch, with its figures."""
    epochs, batch_size, seed = (run.settings[name] for name in ("epochs", "batch_size", "seed"))
    keras.utils.set_random_seed(seed)
    representation = _representation(recordings)
    network = build_network(representation.feature_shape(recordings.samples), len(labels))
    judge = Judge(representation, network, target=target, labels=labels, samples=recordings.samples)
    truth = {split: judge.truth(recordings.examples(split)) for split in ("train", "validation", "test")}
    if not np.all(truth["validation"] >= 0):
        raise InputError(f"the validation split has {target}s that the train split has not; split in another way")
    steps = recordings.steps("train", batch_size)
    classifier = keras.Model(network.input, network.output[0])
    schedule = keras.optimizers.schedules.CosineDecay(run.settings["learning_rate"], epochs * steps)
    classifier.compile(
        keras.optimizers.Adam(schedule),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    classifier.optimizer.build(classifier.trainable_variables)
    run.load(classifier)
    batches = recordings.labelled("train", truth["train"], batch_size, seed=seed, first_epoch=run.epoch)
    augment = _Augment(representation.sample_rate, seed)
    batches = batches.enumerate(run.epoch * steps).map(lambda step, pair: augment(step, *pair), tf.data.AUTOTUNE)
    batches = batches.map(lambda x, y: (representation(x), y), tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
    held = tf.data.Dataset.zip(
        recordings.features("validation", representation, 64),
        tf.data.Dataset.from_tensor_slices(truth["validation"]).batch(64),
    )
    say = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: log(_line(epoch, epochs, logs)))
    if run.epoch < epochs:
        classifier.fit(
            batches,
            initial_epoch=run.epoch,
            epochs=epochs,
            steps_per_epoch=steps,
            validation_data=held,
            callbacks=[run, say, ShowSteps(epochs, steps)],
            verbose=0,
            shuffle=False,
        )
    run.put_back(classifier)
    judge.info = {
        "accuracy": {split: accuracy(judge, recordings, split, truth[split]) for split in ("validation", "test")},
        "clips": {split: len(places) for split, places in truth.items()},
        "epochs": epochs,
        "epoch": run.best_epoch,
        "seed": seed,
        "data": recordings.provenance(),
        "training_seconds": run.elapsed,
    }
    return judge


def accuracy(judge: Judge, recordings: Recordings, split: str, truth: np.ndarray) -> float | None:
    """Share of a split's clips that a judge tells rightly, among those whose label it knows; None if there is none."""
    if not np.any(truth >= 0):
        return None
    answers = np.concatenate(
        [judge.hear(np.asarray(batch), recordings.sample_rate)[0] for batch in recordings.waveforms(split, 64)]
    )
    return float(np.mean(answers[truth >= 0] == truth[truth >= 0]))


def _representation(recordings: Recordings) -> LogMel:
    window = 2 ** max(6, round(np.log2(0.032 * recordings.sample_rate)))
    settings: dict[str, Any] = {"n_fft": window, "hop_length": window // 2, "n_mels": N_MELS, "power": 2}
    peak = LogMel(recordings.sample_rate, **settings).peak_db(recordings.waveforms("train"))
    return LogMel(recordings.sample_rate, max_db=round(peak, 2), **settings)


class _Augment:
    """Move, scale and add noise to the waveforms (batch, samples) of a training step: a function of seed and step."""

    def __init__(self, sample_rate: int, seed: int):
        self._seed = seed
        self._shift = round(SHIFT_SECONDS * sample_rate)

    def __call__(self, step, waveform, label):
        seeds = tf.random.split([tf.constant(self._seed, tf.int64), step], 4)
        shape = tf.shape(waveform)
        column = [shape[0], 1]
        starts = tf.random.stateless_uniform(column, seeds[0], 0, 2 * self._shift + 1, tf.int32)
        padded = tf.pad(waveform, [[0, 0], [self._shift, self._shift]])
        waveform = tf.gather(padded, starts + tf.range(shape[1]), batch_dims=1)
        loudness = tf.sqrt(tf.reduce_mean(tf.square(waveform), axis=1, keepdims=True))
        noise = loudness * 10.0 ** (-tf.random.stateless_uniform(column, seeds[1], *NOISE_DB) / 20.0)
        gain = 10.0 ** (tf.random.stateless_uniform(column, seeds[2], -GAIN_DB, GAIN_DB) / 20.0)
        return gain * (waveform + noise * tf.random.stateless_normal(shape, seeds[3])), label


def _line(epoch: int, epochs: int, logs: dict[str, float]) -> str:
    right = f"{logs['accuracy']:.1%} right, validation {logs['val_accuracy']:.1%} (loss {logs['val_loss']:.3f})"
    return f"epoch {epoch + 1}/{epochs}: {right}"
