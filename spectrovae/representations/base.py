"""What every representation shares: normalisation from dB to features and back, checks, saving."""

import os

import keras
import numpy as np
import tensorflow as tf

from spectrovae import archives, files
from spectrovae.errors import InputError

NORMALISATIONS = ("range", "per_bin", "per_example")


class Representation(keras.layers.Layer):
    """A level in dB over bins and frames, normalised; ``call`` goes forward, ``inverse`` back.

    Some representations carry phase or sign beside the level, in further channels that normalisation leaves alone. A
    subclass gives ``analyse`` (waveform -> level and carried channels), ``synthesise`` (back), ``feature_shape`` and
    ``samples_of``. Computes in float32 under any precision policy.

    Args:
        sample_rate: of the waveforms, in Hz.
        max_db: top of the dB range. 0 dB is the level of a full-scale sine.
        dynamic_range: dB below ``max_db`` at which levels are floored.
        normalisation: ``"range"`` maps [max_db - dynamic_range, max_db] to [0, 1], with nothing to fit;
            ``"per_bin"`` subtracts each bin's mean and divides by its standard deviation, fitted by :meth:`adapt`;
            ``"per_example"`` maps each example's own minimum and maximum to [0, 1], and forgets them: without
            ``statistics`` the way back assumes the fixed range.
    """

    keeps_phase = False  # whether the inverse needs no phase search
    normalisations: tuple[str, ...] = NORMALISATIONS  # those that it can have
    n_fft: int  # samples in a window
    hop_length: int = 0  # samples between frames; 0 where the features are of the whole sound

    def __init__(
        self,
        sample_rate: int,
        *,
        max_db: float = 0.0,
        dynamic_range: float = 80.0,
        normalisation: str = "range",
        **kwargs,
    ):
        super().__init__(**{**kwargs, "dtype": "float32", "autocast": False, "trainable": False})
        if normalisation not in NORMALISATIONS:
            raise InputError(f"normalisation must be one of {', '.join(NORMALISATIONS)}, received {normalisation!r}")
        if int(sample_rate) != sample_rate or sample_rate <= 0:
            raise InputError(f"sample_rate must be a positive whole number of Hz, received {sample_rate!r}")
        if not dynamic_range > 0:
            raise InputError(f"dynamic_range must be a positive number of dB, received {dynamic_range!r}")
        self.sample_rate = int(sample_rate)
        self.max_db = float(max_db)
        self.dynamic_range = float(dynamic_range)
        self.normalisation = normalisation

    @property
    def min_db(self) -> float:
        """The floor: no level is read below it, in dB."""
        return self.max_db - self.dynamic_range

    def build(self, input_shape=None):
        if self.normalisation == "per_bin":
            shape = (self.bins,)
            self.bin_mean = self.add_weight(shape=shape, initializer="zeros", trainable=False, name="bin_mean")
            self.bin_std = self.add_weight(shape=shape, initializer="ones", trainable=False, name="bin_std")
        self.built = True

    def feature_shape(self, samples: int) -> tuple[int, int, int]:
        """(bins, frames, channels) that ``samples`` samples (an int or an integer tensor) give."""
        raise NotImplementedError

    def samples_of(self, frames):
        """Samples from the first frame's centre to the last one's; they give ``frames`` frames (ints or tensors)."""
        raise NotImplementedError

    @property
    def bins(self) -> int:
        """Bins that have a level."""
        return self.feature_shape(1)[0]

    @property
    def frequencies(self) -> np.ndarray:
        """Frequency of each bin in Hz [shape=(bins,)]; by default evenly spaced from 0 to half the sample rate."""
        return np.arange(self.bins) * (self.sample_rate / 2.0 / self.bins)

    def get_view(self) -> "Representation":  # no property, for Keras's saving would follow it for ever
        """The representation whose bins and frames ``decibels`` has: itself, but for features that are samples."""
        return self

    @property
    def context(self) -> int:
        """Frames before and after a block of frames that all of its samples and features depend on at most."""
        return -(-self.n_fft // (2 * (self.hop_length or self.n_fft))) + 1

    def analyse(self, waveform, floor_db: float):
        """(batch, samples) -> (batch, bins, frames, channels): level in dB floored at ``floor_db``, then the rest."""
        raise NotImplementedError

    def synthesise(self, db, length=None):
        """What ``analyse`` gave, (batch, bins, frames, channels) -> waveform (batch, length)."""
        raise NotImplementedError

    def call(self, waveform, statistics=None):
        """Waveform (batch, samples) in [-1, 1] -> features (batch, bins, frames, channels).

        Args:
            statistics: under ``"per_example"``, the :meth:`statistics` to scale by instead of the waveform's own.
        """
        return self.from_db(self.decibels(waveform), statistics)

    def compute_output_shape(self, input_shape):
        batch, samples = input_shape
        bins, frames, channels = self.feature_shape(samples or 1)
        return (batch, bins, frames if samples is not None else None, channels)

    def decibels(self, waveform):
        """Waveform (batch, samples) -> (batch, bins, frames, channels): level in [min_db, max_db], then the rest."""
        level, carried = split_level(self.analyse(check_waveform(waveform), self.min_db))
        return join_level(tf.minimum(level, self.max_db), carried)

    def inverse(self, features, length=None, statistics=None):
        """Features (batch, bins, frames, channels) -> waveform (batch, length), by default the length the frames span.

        Args:
            statistics: under ``"per_example"``, what :meth:`statistics` gave for the same examples.
        """
        return self.synthesise(self.to_db(features, statistics), length)

    def skip(self, features, frames: int):
        """Features without their first ``frames``, such that the rest means what it meant behind them."""
        return features[:, :, frames:]

    def statistics(self, db):
        """Minimum and maximum of each example in dB [shape=(batch, 2)], the side information of per-example scaling."""
        level, _ = split_level(db)
        return tf.stack([tf.reduce_min(level, axis=(1, 2, 3)), tf.reduce_max(level, axis=(1, 2, 3))], axis=-1)

    def from_db(self, db, statistics=None):
        """Levels in dB -> features, same shape. Affine, never clipped, so that a perturbation in dB keeps its size."""
        level, carried = split_level(tf.cast(db, tf.float32))
        if self.normalisation == "per_bin":
            self._require_built()
            level = (level - self._column(self.bin_mean)) / self._column(self.bin_std)
        elif self.normalisation == "per_example":
            low, high = self._low_high(self.statistics(level) if statistics is None else statistics)
            level = tf.math.divide_no_nan(level - low, high - low)
        else:
            level = (level - self.min_db) / self.dynamic_range
        return join_level(level, carried)

    def to_db(self, features, statistics=None):
        """Features -> levels in dB, same shape: the inverse of :meth:`from_db`."""
        level, carried = split_level(tf.cast(features, tf.float32))
        if self.normalisation == "per_bin":
            self._require_built()
            level = level * self._column(self.bin_std) + self._column(self.bin_mean)
        elif self.normalisation == "per_example" and statistics is not None:
            low, high = self._low_high(tf.cast(statistics, tf.float32))
            level = level * (high - low) + low
        else:
            level = level * self.dynamic_range + self.min_db
        return join_level(level, carried)

    @property
    def db_per_unit(self) -> float | list[float]:
        """dB that one unit of a feature is worth: a number, or one for each bin (nominal under ``per_example``)."""
        if self.normalisation == "per_bin":
            self._require_built()
            return [float(value) for value in np.asarray(self.bin_std)]
        return self.dynamic_range

    def adapt(self, dataset) -> None:
        """Fit the statistics of ``"per_bin"`` in one pass over batches of waveforms; nothing to do for the others.

        Raises:
            InputError: the data set is empty.
        """
        if self.normalisation != "per_bin":
            return
        self._require_built()
        count, total, squares = 0, 0.0, 0.0
        for waveform in dataset:
            db = np.asarray(self._adapted(waveform), dtype=np.float64)
            count += db.shape[0] * db.shape[2]
            total = total + db.sum(axis=(0, 2, 3))
            squares = squares + np.square(db).sum(axis=(0, 2, 3))
        if not count:
            raise InputError("adapt needs at least one waveform, received an empty data set")
        mean = total / count
        std = np.sqrt(np.maximum(squares / count - mean**2, 0.0))
        self.bin_mean.assign(mean)
        # A bin that never moves (all floor) keeps unit scale: 1 dB stays 1, instead of a division by zero.
        self.bin_std.assign(np.where(std < 1e-3, 1.0, std))

    def peak_db(self, dataset) -> float:
        """Highest level over batches of waveforms, in dB: what ``max_db`` may be set to for quiet recordings.

        Raises:
            InputError: every waveform is silent, or there is none.
        """
        silence = -200.0
        levels = (split_level(self.analyse(check_waveform(batch), silence))[0] for batch in dataset)
        peak = max((float(tf.reduce_max(level)) for level in levels), default=silence)
        if peak <= silence + 1.0:
            raise InputError("the recordings are silent: no peak level to set the dB range by; give max_db yourself")
        return peak

    def save(self, path: str | os.PathLike) -> None:
        """Write the layer with its statistics to a ``.keras`` file of its own."""
        inputs = keras.Input((None,), dtype="float32", name="waveform")
        with files.replacing(path) as temporary:
            keras.Model(inputs, self(inputs), name="representation").save(temporary)

    def get_config(self):
        return {
            **super().get_config(),
            "sample_rate": self.sample_rate,
            "max_db": self.max_db,
            "dynamic_range": self.dynamic_range,
            "normalisation": self.normalisation,
        }

    def _adapted(self, waveform):
        """What ``"per_bin"`` standardises, before it does (batch, bins, frames, 1)."""
        return split_level(self.decibels(waveform))[0]

    def _require_built(self):
        if not self.built:
            self.build()

    @staticmethod
    def _column(values):
        return tf.reshape(tf.convert_to_tensor(values), [1, -1, 1, 1])

    @staticmethod
    def _low_high(statistics):
        return statistics[:, None, None, 0:1], statistics[:, None, None, 1:2]


def load(path: str | os.PathLike) -> Representation:
    """Read a representation that :meth:`Representation.save` wrote.

    Raises:
        InputError: no such file, one that is damaged, or not a representation.
    """
    model = archives.load_model(path)
    found = [layer for layer in model.layers if isinstance(layer, Representation)]
    if len(found) != 1:
        raise InputError(f"{path} holds {len(found)} representations, expected one file written by Representation.save")
    return found[0]


def split_level(values):
    """(..., channels) -> the level (..., 1) and the channels carried beside it (..., channels - 1)."""
    return values[..., :1], values[..., 1:]


def join_level(level, carried):
    """The inverse of :func:`split_level`."""
    return tf.concat([level, carried], axis=-1) if carried.shape[-1] else level


def check_waveform(waveform) -> tf.Tensor:
    """Return the waveform as a float32 tensor, or say what is wrong with it."""
    waveform = tf.convert_to_tensor(waveform)
    if not waveform.dtype.is_floating:
        raise InputError(
            f"waveform must be floating point in [-1, 1], received {waveform.dtype.name}; "
            "divide integer samples by their full scale first"
        )
    if waveform.shape.rank != 2:
        raise InputError(
            f"waveform must be shaped (batch, samples), received {tuple(waveform.shape)}; "
            "mix channels down and add a batch dimension first"
        )
    return tf.cast(waveform, tf.float32)
