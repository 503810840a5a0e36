"""Vector-quantised autoencoder (van den Oord, Vinyals and Kavukcuoglu, 2017): a map of integer codes as the latent.

Work is done where the map is: the first layers leave full resolution at once, the last ones return to it by pixel
shuffle. Beside the convolutions runs a linear path from each patch to its code's vector and back.
"""

import math
from typing import Any

import keras
from keras import ops

from spectrovae import layers, quantisers
from spectrovae.errors import InputError
from spectrovae.models import base, conditioning

ADVERSARY = 300.0  # weight of the speaker's adversary, in nats per example as all of the loss
WARP = 0.1  # of what the encoder hears where there are speakers
QUANTISERS = ("vector", "scalar")

# widths and strides of the encoder's stages, from full resolution down; the decoder mirrors them. ``blocks`` residual
# blocks stand at the resolution of the codes on either side.
COLUMN = 2  # frames of a code in time, where there are speakers
WIDE = 4  # the widest stride whose convolution overlaps its neighbours
PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"widths": (8, 16), "strides": ((4, 2), (2, 2)), "blocks": 1},
    "small": {"widths": (32, 64, 128), "strides": ((4, 2), (2, 2), (2, 2)), "blocks": 2},
    "base": {"widths": (64, 128, 256), "strides": ((4, 2), (2, 2), (2, 2)), "blocks": 4},
}


def patch_shape(strides) -> tuple[int, int]:
    """(bins, frames) of the cells that one code stands for."""
    return math.prod(rows for rows, _ in strides), math.prod(columns for _, columns in strides)


def strides_for(strides, feature_shape, code_map):
    """Strides of the stages, and one more after them where needed, that lead to a map of ``code_map`` codes.

    Args:
        strides: of a preset, kept as far as they lead there.
        code_map: (rows, columns).

    Raises:
        InputError: a map with more codes than cells, or with none.
    """
    cells = feature_shape[:2]
    if len(code_map) != 2 or any(not 1 <= int(n) <= size for n, size in zip(code_map, cells)):
        raise InputError(f"code_map must be rows and columns between 1 and {cells}, received {tuple(code_map)}")
    found = [[1, 1] for _ in strides]
    rest = [-(-size // int(n)) for size, n in zip(cells, code_map)]
    for axis in (0, 1):
        done = 1
        for index, stride in enumerate(strides):
            left = -(-rest[axis] // stride[axis])
            if rest[axis] >= stride[axis] and -(-cells[axis] // (done * stride[axis] * left)) == code_map[axis]:
                found[index][axis] = stride[axis]
                done, rest[axis] = done * stride[axis], left
    kept = tuple((rows, columns) for rows, columns in found)
    return kept if rest == [1, 1] else (*kept, (rest[0], rest[1]))


def residual_blocks(x, count: int, name: str):
    """``count`` pairs of 3 x 3 convolutions, each added to what went in."""
    width = x.shape[-1]
    for index in range(count):
        y = keras.layers.Conv2D(width, 3, padding="same", activation="relu", name=f"{name}_{index}_in")(x)
        y = keras.layers.Conv2D(width, 3, padding="same", name=f"{name}_{index}_out")(y)
        x = keras.layers.Activation("relu", name=f"{name}_{index}")(
            keras.layers.Add(name=f"{name}_{index}_sum")([x, y])
        )
    return x


def build_encoder(
    feature_shape, widths, strides, blocks: int, quantiser: quantisers.Quantiser, instance_norm: bool = False
) -> keras.Model:
    """Features (batch, bins, frames, channels) -> codes, int32 (batch, height, width) or (..., stages).

    Args:
        instance_norm: give every channel of each stage, and of the encodings, mean 0 and variance 1 over an example.
    """

    def normalised(x, name):
        return keras.layers.GroupNormalization(groups=-1, name=f"norm_{name}")(x) if instance_norm else x

    inputs = keras.Input(feature_shape, name="features")
    padded = x = base.pad_to_multiple(inputs, feature_shape, strides)
    for index, (width, stride) in enumerate(zip(widths, strides)):
        # A stage that takes many cells into one, as those of all bins, looks at its own alone.
        kernel = [max(3, 2 * s - 1) if s <= WIDE else s for s in stride]
        x = keras.layers.Conv2D(width, kernel, stride, padding="same", activation="relu", name=f"down_{index}")(x)
        x = normalised(x, f"down_{index}")
    x = residual_blocks(x, blocks, "block")
    # Digital silence is encoded as the bias alone: it is given a direction, which zero has not.
    bias = keras.initializers.RandomNormal(stddev=0.1)
    curved = keras.layers.Conv2D(quantiser.code_dim, 1, bias_initializer=bias, name="curved")(x)
    patch = patch_shape(strides)
    linear = keras.layers.Conv2D(quantiser.code_dim, patch, patch, use_bias=False, name="linear")(padded)
    encodings = keras.layers.Add(name="both" if instance_norm else "encodings", dtype="float32")([curved, linear])
    if instance_norm:
        own = {"groups": -1, "scale": False, "center": False, "dtype": "float32"}
        encodings = keras.layers.GroupNormalization(**own, name="encodings")(encodings)
    return keras.Model(inputs, quantiser(encodings), name="encoder")


def build_decoder(
    feature_shape, widths, strides, blocks: int, quantiser: quantisers.Quantiser, speakers=()
) -> keras.Model:
    """Codes, int32 (batch, height, width) or (..., stages) -> features (batch, bins, frames, channels).

    With speakers ``[codes, speaker]``: the speaker scales and shifts the channels of each stage and of the linear path.
    """
    stages = () if quantiser.stages == 1 else (quantiser.stages,)
    inputs = keras.Input((*base.reduced_shape(feature_shape, strides), *stages), dtype="int32", name="codes")
    vectors = x = quantiser.codebook(inputs)
    speaker, voice = conditioning.speaker_input(speakers)
    x = keras.layers.Conv2D(widths[-1], 3, padding="same", activation="relu", name="project")(x)
    x = conditioning.modulate(x, voice, "project")
    x = residual_blocks(x, blocks, "block")
    x = conditioning.modulate(x, voice, "block")
    outputs = (feature_shape[-1], *widths[:-1])
    for index in reversed(range(len(widths))):
        cells = math.prod(strides[index])
        activation = "relu" if index else None
        x = keras.layers.Conv2D(outputs[index] * cells, 3, padding="same", activation=activation, name=f"up_{index}")(x)
        x = conditioning.modulate(x, voice, f"up_{index}")
        x = layers.PixelShuffle(strides[index], name=f"shuffle_{index}")(x)
    patch = patch_shape(strides)
    linear = keras.layers.Conv2D(feature_shape[-1] * math.prod(patch), 1, name="linear")(vectors)
    linear = conditioning.modulate(linear, voice, "linear")
    x = keras.layers.Add(name="sum")([x, layers.PixelShuffle(patch, name="patches")(linear)])
    x = layers.CalibratedSigma(name="sigma")(base.crop_to_shape(x, feature_shape))
    x = keras.layers.Activation("linear", dtype="float32", name="features")(x)
    return keras.Model(conditioning.inputs_of(inputs, speaker), x, name="decoder")


@keras.saving.register_keras_serializable("spectrovae")
class VQVAE(conditioning.Speakers):
    """VQ-VAE trainer: ``encoder`` returns int32 codes (batch, height, width) or (..., stages), ``decoder`` takes them.

    The loss is in nats per example: the calibrated likelihood of :class:`spectrovae.models.VAE`, plus what the codes
    cost it. ``commitment`` is the likelihood's counterpart on the side of the encodings, their negative logarithm of
    density under a Gaussian round their codes' vectors, less its constants; ``unused`` is the part of the codes'
    capacity that goes unused, positions * (log K - entropy of the batch's average choice). So no weight depends on the
    number of cells, of positions, or the scale of the features.

    Args:
        feature_shape: (bins, frames, channels).
        preset: ``"tiny"`` (tests), ``"small"`` (CPU) or ``"base"`` (GPU). At (256, 64, 1) the last two have a map of
            16 x 8 codes: 128 bytes, or 1 024 bits, for K = 256.
        quantiser: ``"vector"``, a learned codebook (:class:`spectrovae.quantisers.VectorQuantiser`), or ``"scalar"``,
            dimensions rounded to ``levels`` (:class:`spectrovae.quantisers.FiniteScalarQuantiser`).
        codebook_size, code_dim, stages, normalise, gradient, commitment, restart, kmeans_steps: of the vector
            quantiser, see there.
        levels: of the scalar quantiser.
        code_map: (rows, columns) of the map of codes; the preset's by default. With speakers, and of four frames or
            more, a row in time, each code of all bins of two frames: fewer codes leave less room for who speaks.
        instance_norm: normalise every channel of the encoder over each example (Ulyanov et al., 2016): what is the same
            all through a sound, as a voice is, leaves the codes (Chou and Lee, 2019). By default with speakers.
        commitment_weight: of the commitment.
        diversity_weight: of the unused capacity.
        speakers: names of those whose voices the decoder takes beside the codes, see
            :class:`spectrovae.models.conditioning.Speakers`; none by default.
        speaker_dropout: how often, in training, it is not told who speaks.
        speaker_adversary: weight of the gradient that hides the speaker from the encodings; 0 opposes nobody.
        speaker_warp: in training the encoder hears frequencies changed by a random factor of up to exp(+-speaker_warp),
            and what is to be decoded are the true ones; for bins that are equally spaced.
        db_per_unit: dB that a unit of a feature is worth, a number or one per bin; metrics are reported with it.
        seed: of the quantiser's noise.

    Metrics: ``reconstruction``, ``commitment`` and ``unused`` (nats per example, unweighted), ``rmse_db`` (dB).
    """

    def __init__(
        self,
        feature_shape,
        *,
        preset: str = "small",
        quantiser: str = "vector",
        codebook_size: int = 256,
        code_dim: int = 8,
        stages: int = 1,
        levels=(8, 6, 5),
        gradient: str = "rotation",
        normalise: bool = True,
        commitment: str = "adapted",
        commitment_weight: float = 1.0,
        diversity_weight: float = 0.1,
        restart: float = 0.1,
        kmeans_steps: int = 10,
        code_map=None,
        instance_norm: bool | None = None,
        speakers=(),
        speaker_dropout: float = 0.1,
        speaker_adversary: float = ADVERSARY,
        speaker_warp: float = WARP,
        db_per_unit=None,
        seed: int | None = 0,
        **kwargs,
    ):
        super().__init__(feature_shape, preset=preset, presets=PRESETS, db_per_unit=db_per_unit, seed=seed, **kwargs)
        if quantiser not in QUANTISERS:
            raise InputError(f"quantiser must be one of {', '.join(QUANTISERS)}, received {quantiser!r}")
        for name, weight in (("commitment_weight", commitment_weight), ("diversity_weight", diversity_weight)):
            if weight < 0.0:
                raise InputError(f"{name} must not be negative, received {weight}")
        self.options: dict[str, Any] = {
            "quantiser": quantiser, "codebook_size": codebook_size, "code_dim": code_dim, "stages": stages,
            "levels": tuple(levels), "gradient": gradient, "normalise": normalise, "commitment": commitment,
            "restart": restart, "kmeans_steps": kmeans_steps,
        }  # fmt: skip
        self.commitment_weight, self.diversity_weight = commitment_weight, diversity_weight
        if quantiser == "vector":
            self.quantiser = quantisers.VectorQuantiser(
                codebook_size, code_dim, stages, normalise=normalise, gradient=gradient, commitment=commitment,
                restart=restart, kmeans_steps=kmeans_steps, seed=self.seed, name="quantiser",
            )  # fmt: skip
        else:
            self.quantiser = quantisers.FiniteScalarQuantiser(levels, name="quantiser")
        shape = dict(PRESETS[preset])
        if code_map is None and speakers and self.feature_shape[1] >= 2 * COLUMN:
            code_map = (1, -(-self.feature_shape[1] // COLUMN))
        self.code_map = None if code_map is None else tuple(int(n) for n in code_map)
        if self.code_map is not None:
            shape["strides"] = strides_for(shape["strides"], self.feature_shape, self.code_map)
            more = len(shape["strides"]) - len(shape["widths"])
            shape["widths"] = (*shape["widths"], *shape["widths"][-1:] * more)
        self.condition(speakers, speaker_dropout, speaker_adversary, speaker_warp)
        alone = base.reduced_shape(self.feature_shape, shape["strides"]) == (1, 1)
        self.instance_norm = bool(self.speakers) and not alone if instance_norm is None else bool(instance_norm)
        if self.instance_norm and alone:
            raise InputError("instance_norm leaves nothing of a map of a single code; give a larger code_map")
        self.encoder = build_encoder(
            self.feature_shape, **shape, quantiser=self.quantiser, instance_norm=self.instance_norm
        )
        self.decoder = build_decoder(self.feature_shape, **shape, quantiser=self.quantiser, speakers=self.speakers)
        # The way of the gradient: past the codes, through the vectors.
        self.analysis = keras.Model(self.encoder.input, self.encoder.get_layer("encodings").output, name="analysis")
        self.synthesis = conditioning.part(self.decoder, "codebook")
        self.oppose(self.analysis.output.shape[1:])
        self.reconstruction_tracker = keras.metrics.Mean(name="reconstruction")
        self.commitment_tracker = keras.metrics.Mean(name="commitment")
        self.unused_tracker = keras.metrics.Mean(name="unused")

    @property
    def bits_per_example(self) -> float:
        """Bits of an example's codes, all of them taken for equally likely."""
        positions = math.prod(self.decoder.inputs[0].shape[1:]) // self.quantiser.stages
        return positions * self.quantiser.bits

    def call(self, inputs, training=False):
        features, speaker = self.told(inputs, training)
        encodings = self.analysis(self.disguised(features, training), training=training)
        estimate = self.quantiser.estimate(encodings, training)
        return {
            "features": self.synthesis(self.spoken(estimate.vectors, speaker, training), training=training),
            "commitment": estimate.commitment,
            "unused": estimate.unused,
            **self.guessed(encodings, training),
        }

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        target = self.target_of(x, y, sample_weight)
        reconstruction = self.calibrated_nll(target, y_pred["features"], training)
        self.reconstruction_tracker.update_state(reconstruction)
        self.commitment_tracker.update_state(y_pred["commitment"])
        self.unused_tracker.update_state(y_pred["unused"])
        self.track_error(target, y_pred["features"])
        loss = ops.mean(
            reconstruction + self.commitment_weight * y_pred["commitment"] + self.diversity_weight * y_pred["unused"]
        )
        return loss + self.adversary_loss(x, y_pred, training)

    def get_config(self):
        return {
            **super().get_config(),
            **self.options,
            "commitment_weight": self.commitment_weight,
            "diversity_weight": self.diversity_weight,
            **({} if self.code_map is None else {"code_map": self.code_map}),
            **({"instance_norm": self.instance_norm} if self.speakers or self.instance_norm else {}),
            **self.speaker_config(),
        }
