"""What every representation shares: normalisation from dB to features and back, checks, saving."""

import os

import keras
import numpy as np
import tensorflow as tf

from spectrovae import archives, files
from spectrovae.errors import InputError
from spectrovae.representations import normalise
from spectrovae.representations.normalise import NORMALISATIONS

HEADROOM = 20.0
"""dB above full scale, or above ``max_db`` where that is more, at which the way back to a waveform ends: a decoder may
answer anything, and 400 dB would be no sound but a number that no file holds."""

EXTREME = 300.0
"""Levels in dB beyond which squares of magnitudes leave the range of float32."""


class Representation(keras.layers.Layer):
    """A level in dB over bins and frames, normalised; ``call`` goes forward, ``inverse`` back.

    Some representations carry phase or sign beside the level, in further channels that normalisation leaves alone. A
    subclass gives ``analyse`` (waveform -> level and carried channels), ``waveform_of`` (back), ``feature_shape`` and
    ``samples_of``. Computes in float32 under any precision policy.

    Args:
        sample_rate: of the waveforms, in Hz.
        max_db: top of the dB range. 0 dB is the level of a full-scale sine.
        dynamic_range: dB below ``max_db`` at which levels are floored.
        normalisation: ``"range"`` maps [max_db - dynamic_range, max_db] to [0, 1], with nothing to fit;
            ``"per_bin"`` subtracts each bin's mean and divides by its standard deviation, fitted by :meth:`adapt`;
            ``"per_example"`` maps each example's own minimum and maximum to [0, 1], and forgets them: without
            ``statistics`` the way back assumes the fixed range. No example is too loud for it: levels are floored at
            ``max_db - dynamic_range``, and not limited to ``max_db``.
    """

    keeps_phase = False  # whether the inverse needs no phase search
    normalisations: tuple[str, ...] = NORMALISATIONS  # those that it can have
    from_zero = False  # whether "range" and "per_example" divide alone, so that 0 stays 0
    about_zero = False  # whether "per_bin" divides alone
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
        if not -EXTREME <= max_db - dynamic_range <= max_db <= EXTREME:
            raise InputError(
                f"max_db and max_db - dynamic_range must lie between -{EXTREME:g} and {EXTREME:g} dB, received "
                f"max_db={max_db!r} and dynamic_range={dynamic_range!r}"
            )
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

    def waveform_of(self, db, length=None):
        """What ``analyse`` gave, (batch, bins, frames, channels) -> waveform (batch, length)."""
        raise NotImplementedError

    def synthesise(self, db, length=None, statistics=None):
        """:meth:`waveform_of`, with levels limited to ``ceiling_db``, so that the waveform is bounded and finite.

        NaN stays NaN: it is a fault that must be seen.
        """
        level, carried = split_level(tf.cast(db, tf.float32))
        level = tf.minimum(level, self.ceiling_db(statistics))
        return self.waveform_of(join_level(level, tf.clip_by_value(carried, -1e6, 1e6)), length)

    def ceiling_db(self, statistics=None):
        """Highest level that is turned into sound, in dB, ``HEADROOM`` above what is to be expected."""
        top = max(self.max_db, 0.0) + HEADROOM
        if self.normalisation != "per_example" or statistics is None:
            return top
        return tf.maximum(top, tf.cast(statistics, tf.float32)[:, None, None, 1:2])

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
        """Waveform (batch, samples) -> (batch, bins, frames, channels): level in [min_db, max_db], then the rest.

        Under ``"per_example"`` levels have no upper limit.
        """
        db = self.analyse(check_waveform(waveform), self.min_db)
        if self.normalisation == "per_example":
            return db
        level, carried = split_level(db)
        return join_level(tf.minimum(level, self.max_db), carried)

    def inverse(self, features, length=None, statistics=None):
        """Features (batch, bins, frames, channels) -> waveform (batch, length), by default the length the frames span.

        Args:
            statistics: under ``"per_example"``, what :meth:`statistics` gave for the same examples.
        """
        return self.synthesise(self.to_db(features, statistics), length, statistics)

    def skip(self, features, frames: int):
        """Features without their first ``frames``, such that the rest means what it meant behind them."""
        return features[:, :, frames:]

    def statistics(self, db):
        """Minimum and maximum of each example in dB [shape=(batch, 2)], the side information of per-example scaling."""
        return normalise.extremes_of(split_level(db)[0])

    def value_of(self, db):
        """What is normalised of a level in dB, a number or a tensor: the level itself, or what it is companded to."""
        return db

    def from_db(self, db, statistics=None):
        """Levels in dB -> features, same shape. Affine, never clipped, so that a perturbation in dB keeps its size."""
        level, carried = split_level(tf.cast(db, tf.float32))
        return join_level(self.normalised(level, level, statistics), carried)

    def to_db(self, features, statistics=None):
        """Features -> levels in dB, same shape: the inverse of :meth:`from_db`."""
        level, carried = split_level(tf.cast(features, tf.float32))
        return join_level(self.denormalised(level, statistics), carried)

    def normalised(self, values, level, statistics=None):
        """Values -> features of the level's channel. Under ``"per_example"`` the extremes are by default those of
        ``level``, the values' level in dB."""
        if statistics is None and self.normalisation == "per_example":
            statistics = self.statistics(level)
        self._require_built()
        return normalise.normalise(values, *normalise.shift_and_scale(self, statistics))

    def denormalised(self, features, statistics=None):
        """The inverse of :meth:`normalised`."""
        self._require_built()
        return normalise.denormalise(features, *normalise.shift_and_scale(self, statistics))

    @property
    def db_per_unit(self) -> float | list[float] | None:
        """dB that one unit of a feature is worth: a number, or one for each bin.

        None where it is not the same everywhere: under ``per_example``, of samples, of linear magnitudes and of signed
        coefficients.
        """
        if self.normalisation == "per_example":
            return None
        if self.normalisation == "per_bin":
            self._require_built()
            return [float(value) for value in np.asarray(self.bin_std)]
        return self.dynamic_range

    def adapt(self, dataset) -> None:
        """Fit the statistics of ``"per_bin"`` in one pass over batches of waveforms; nothing to do for the others.

        Raises:
            InputError: the data set is empty.
        """
        self.adapt_values(self.values(waveform) for waveform in dataset)

    def adapt_values(self, batches) -> None:
        """:meth:`adapt` by what :meth:`values` gave, (batch, bins, frames, 1), perhaps some frames of it."""
        if self.normalisation != "per_bin":
            return
        self._require_built()
        mean, std = normalise.bin_statistics(batches, self.about_zero)
        self.bin_mean.assign(mean)
        self.bin_std.assign(std)

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

    def values(self, waveform):
        """What is normalised of a waveform, before it is (batch, bins, frames, 1)."""
        return split_level(self.decibels(waveform))[0]

    def _require_built(self):
        if not self.built:
            self.build()


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
