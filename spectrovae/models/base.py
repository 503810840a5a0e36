"""What every family's trainer shares, and the padding that lets a family take features of any size."""

import math
import random
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from spectrovae import layers, losses
from spectrovae.errors import InputError

WARMUPS = ("linear", "cyclical", "log")
CYCLES = 4


class OwnLoss(keras.Model):
    """A Keras model whose loss and metrics are its own: it refuses others, which Keras would leave out silently."""

    def compile(
        self, optimizer="rmsprop", loss=None, loss_weights=None, metrics=None, weighted_metrics=None, **options
    ):
        """As Keras's.

        Raises:
            InputError: a loss or metrics.
        """
        if any((loss, loss_weights, metrics, weighted_metrics)):
            raise InputError(
                f"{type(self).__name__} has its own loss and metrics: leave out loss, loss_weights, metrics and "
                "weighted_metrics of compile"
            )
        super().compile(optimizer, **options)

    @staticmethod
    def refuse_weights(sample_weight) -> None:
        """Say that no loss here takes sample weights."""
        if sample_weight is not None:
            raise InputError("sample_weight is not supported, all examples weigh the same: leave it out")


class Trainer(OwnLoss):
    """A Keras model that holds an ``encoder`` and a ``decoder``; families override ``call`` and ``compute_loss``.

    Args:
        feature_shape: (bins, frames, channels) of one example.
        preset: name of a size among ``presets``.
        db_per_unit: dB that a unit of a feature is worth, a number or one per bin, for the metric ``rmse_db``; without
            it the metric is ``rmse``, in units of the features.
        seed: of the noise in training; None chooses one, which :meth:`get_config` has. Weights start as
            ``keras.utils.set_random_seed`` has it.
    """

    encoder: keras.Model
    decoder: keras.Model
    representation_name: str | None = None  # the one whose features it takes; None: any spectrogram
    prior: str | None = None  # "standard_normal" where latents can be drawn from N(0, I)
    stages = 1  # of training; 2 where an adversary joins
    stage = 1
    speakers: tuple[str, ...] = ()  # whose voices the decoder is told; empty where it is told of none
    warmup = "linear"  # how the weight of the KL divergence grows, of WARMUPS; families with one have beta and steps
    beta: float
    warmup_steps: int
    steps: Any
    warmup_epochs = 0.0  # over which the weight of the KL divergence grows, where nobody says otherwise

    def __init__(self, feature_shape, *, preset, presets, db_per_unit=None, seed: int | None = 0, **kwargs):
        super().__init__(**kwargs)
        if preset not in presets:
            raise InputError(f"preset must be one of {', '.join(presets)}, received {preset!r}")
        shape = tuple(feature_shape)
        if len(shape) != 3 or any(int(n) != n or n < 1 for n in shape):
            raise InputError(
                f"feature_shape must be (bins, frames, channels), all positive, received {feature_shape!r}"
            )
        self.feature_shape = tuple(int(n) for n in shape)
        self.cells = math.prod(self.feature_shape)
        self.preset = preset
        self.seed: int = random.randrange(2**31) if seed is None else seed
        self.db_per_unit = db_per_unit
        scale = 1.0 if db_per_unit is None else db_per_unit
        self._scale = ops.reshape(ops.convert_to_tensor(scale, dtype="float32"), (1, -1, 1, 1))
        if self.representation_name is None:  # of levels
            self.error_tracker = keras.metrics.RootMeanSquaredError("rmse" if db_per_unit is None else "rmse_db")

    def build(self, input_shape=None):
        self.built = True  # encoder and decoder are functional models, built when they are made

    def initialise(self, batches) -> Any:
        """Set what depends on the data before training starts; families that have such override it.

        Args:
            batches: training features, arrays or tensors (clips, bins, frames, channels), in one pass.
        """

    @classmethod
    def frames_multiple(cls, preset: str) -> int:
        """What the frames of an example must be a multiple of."""
        return 1

    def enter(self, stage: int) -> None:
        """Begin a stage of training, from 1; compile afterwards, since it changes which weights are trained."""
        self.stage = stage

    def make_optimizer(self, learning_rate) -> keras.optimizers.Optimizer:
        """The optimizer of a stage.

        Args:
            learning_rate: a number or a schedule.
        """
        return keras.optimizers.Adam(learning_rate)

    def current_beta(self, training: bool = True):
        """The weight of the KL divergence now: warmed up in training, ``beta`` itself in evaluation.

        Over ``warmup_steps`` it grows linearly from 0; in cycles, in the first half of each linearly from 0, then held;
        or from beta / 1000 by the same factor each step.
        """
        if not training or not self.warmup_steps:
            return self.beta
        done = ops.minimum(self.steps / self.warmup_steps, 1.0)
        if self.warmup == "log":
            return self.beta * ops.power(1000.0, done - 1.0)
        if self.warmup == "cyclical":
            within = done * CYCLES - ops.floor(done * CYCLES)
            done = ops.where(done < 1.0, ops.minimum(2.0 * within, 1.0), 1.0)
        return self.beta * done

    @property
    def bits_per_example(self) -> float | None:
        """Bits of an example's codes, all of them taken for equally likely; None where the latent is not codes."""
        return None

    def track_error(self, target, prediction):
        """Update ``rmse_db`` (or ``rmse``) with a batch, on the first channel, the level; not for models of samples."""
        target, prediction = (ops.cast(x[..., :1], "float32") * self._scale for x in (target, prediction))
        self.error_tracker.update_state(target, prediction)

    def target_of(self, x, y, sample_weight):
        """What is to be reconstructed: ``y``, or the features of the inputs ``x``."""
        self.refuse_weights(sample_weight)
        if y is not None:
            return y
        return x["features"] if isinstance(x, Mapping) else x

    def calibrated_nll(self, target, prediction, training: bool):
        """Negative log-likelihood of each example in nats [shape=(batch,)], of a Gaussian of one sigma a channel.

        In training of the batch's best sigma (Rybkin et al., 2021), of which the decoder's
        :class:`spectrovae.layers.CalibratedSigma` keeps a running mean; in evaluation of that mean.
        """
        (layer,) = layers_of(self.decoder, layers.CalibratedSigma)
        if not training:
            return losses.calibrated_nll(target, prediction, layer.log_sigma)
        nll, log_sigma = losses.optimal_nll(target, prediction, layer.least_log_sigma)
        layer.update(log_sigma)
        return nll

    def reconstruct(self, features):
        """Features -> features through encoder and decoder, without noise."""
        return self.decoder(self.encoder(features))

    def get_config(self):
        return {
            **super().get_config(),
            "feature_shape": self.feature_shape,
            "preset": self.preset,
            "db_per_unit": self.db_per_unit,
            "seed": self.seed,
        }


def layers_of(model: keras.Model, kind: type) -> list[Any]:
    """The layers of a model that are of a class, those of models within it too, in the model's order."""
    found = []
    for layer in model.layers:
        if isinstance(layer, kind):
            found.append(layer)
        elif isinstance(layer, keras.Model):
            found += layers_of(layer, kind)
    return found


def sigma_of(decoder: keras.Model) -> np.ndarray | None:
    """Standard deviation of a decoder's calibrated likelihood, in feature units [shape=(channels,)]; None without one.

    It is what the training loss, the bound in nats and the collapse law take for the noise of a cell.
    """
    found = layers_of(decoder, layers.CalibratedSigma)
    return np.exp(ops.convert_to_numpy(found[0].log_sigma)) if found else None


def posteriors_of(encoder: keras.Model) -> Any:  # a keras.Model or None
    """Features -> ([mean, ...], [log-variance, ...]) of the latent groups, from an encoder as saved and loaded alone.

    The groups are the encoder's layers :class:`spectrovae.layers.GaussianParameters`, in the order of their names'
    numbers, in coordinates where each one's prior is N(0, I). None for an encoder without any.
    """
    groups = layers_of(encoder, layers.GaussianParameters)
    if not groups:
        return None
    moments = [layer.output for layer in sorted(groups, key=lambda layer: (len(layer.name), layer.name))]
    means, log_variances = zip(*moments)
    return keras.Model(encoder.input, (list(means), list(log_variances)), name="posteriors")


def count_weights(*models: keras.Model) -> int:
    """Number of weights in models, those of a layer in several of them once.

    Two files that hold one layer give two objects when they are loaded, which are known by the layer's name and its
    values; layers of nothing but zeros or ones, which are not trained yet, by being the same object.
    """
    owners: dict[tuple[int, str], dict[int, Any]] = {}
    for index, model in enumerate(models):
        for weight in model.weights:
            owners.setdefault((index, weight.path.rpartition("/")[0]), {})[id(weight)] = weight
    sizes = {}
    for (_, path), weights in owners.items():
        values = [ops.convert_to_numpy(weight) for weight in weights.values()]
        constant = all(np.all(value == value.flat[0]) for value in values if value.size)
        key = tuple(weights) if constant else (path.rpartition("/")[2], *(value.tobytes() for value in values))
        sizes[key] = sum(value.size for value in values)
    return sum(sizes.values())


def reduced_shape(feature_shape, strides) -> tuple[int, int]:
    """(height, width) after all ``strides``, of features padded to a multiple of their product."""
    return tuple(
        math.ceil(size / math.prod(stride[axis] for stride in strides)) for axis, size in enumerate(feature_shape[:2])
    )


def pad_to_multiple(x, feature_shape, strides):
    """Zero-pad bins and frames at their end so that every stride divides them; :func:`crop_to_shape` undoes it."""
    padding = _excess(feature_shape, strides)
    return keras.layers.ZeroPadding2D([(0, n) for n in padding], name="pad")(x) if any(padding) else x


def crop_to_shape(x, feature_shape, name="crop"):
    """Crop bins and frames at their end to ``feature_shape``."""
    cropping = [have - want for have, want in zip(x.shape[1:3], feature_shape[:2])]
    return keras.layers.Cropping2D([(0, n) for n in cropping], name=name)(x) if any(cropping) else x


def _excess(feature_shape, strides):
    reduced = reduced_shape(feature_shape, strides)
    total = [math.prod(stride[axis] for stride in strides) for axis in (0, 1)]
    return [r * t - size for r, t, size in zip(reduced, total, feature_shape[:2])]
