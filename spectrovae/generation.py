"""New sounds: latents drawn from a codec's prior, learned or standard normal, and decoded.

One segment is drawn at a time: a learned prior knows no neighbours, so that segments of one sound are independent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from spectrovae.conversion import check_guidance, names_of
from spectrovae.errors import InputError
from spectrovae.sampling import normal

if TYPE_CHECKING:
    from spectrovae.codec import Codec

ROWS = 64  # segments drawn at a time
DRAW_FUNCTIONS = 8  # graphs that a codec keeps

Names = str | Sequence[str] | None


def generate(
    codec: Codec,
    count: int,
    *,
    segments: int = 1,
    temperature: float = 1.0,
    seed: int = 0,
    conditions: Mapping[str, Names] | None = None,
    top_k: int = 0,
    top_p: float = 1.0,
    guidance: float = 1.0,
    prefix: np.ndarray | None = None,
) -> np.ndarray:
    """What :meth:`Codec.generate` does. A speaker is told to the prior and to the decoder, whichever knows any."""
    check_prior(codec)
    for name, number, least in (("count", count, 1), ("segments", segments, 1), ("seed", seed, 0), ("top_k", top_k, 0)):
        if not isinstance(number, int | np.integer) or number < least:
            raise InputError(f"{name} must be a whole number, at least {least}, received {number!r}")
    if not (math.isfinite(temperature) and temperature >= 0.0):
        raise InputError(f"temperature must be 0 or more, received {temperature:g}")
    if not 0.0 < top_p <= 1.0:
        raise InputError(f"top_p must be above 0 and at most 1, received {top_p:g}")
    check_guidance(guidance)
    prior = codec.learned_prior
    given = {name: names for name, names in (conditions or {}).items() if names is not None}
    voice = given.get("speaker") if codec.speakers else None
    if voice is not None and (prior is None or "speaker" not in prior.conditions):
        del given["speaker"]  # the decoder's alone
    of_codes = prior is not None and prior.codes
    if not (prior is not None and prior.draws_codes) and (top_k or top_p < 1.0 or guidance != 1.0):
        raise InputError(f"{codec.name} draws no codes, so that top_k, top_p and guidance do nothing; use temperature")
    if not of_codes and prefix is not None:
        raise InputError(f"{codec.name} draws no codes, and only those have a beginning to continue: leave out prefix")
    random = np.random.default_rng(seed)
    if prior is None:
        if given:
            raise InputError(
                f"{codec.name} draws from N(0, I), which knows no {' or '.join(given)}; run spectrovae fit-prior"
            )
        noise = [random.standard_normal((count, segments, *shape)) for shape in codec.latent_shapes]
        return codec.decode([np.float32(temperature * z) for z in noise], speaker=voice)
    classes = condition_classes(prior, given, count)
    uniform = random.random((count, segments, *prior.noise_shape), np.float32)
    known = mask = None
    if prefix is not None:
        known, mask = _kept(codec, prefix, count, segments)
        known, mask = known.reshape(-1, *prior.latent_shape), mask.reshape(-1, *prior.latent_shape)
    uniform = uniform.reshape(-1, *prior.noise_shape)
    classes = {name: np.repeat(index, segments) for name, index in classes.items()}
    draw = _draw_function(codec, top_k, top_p, guidance != 1.0, prefix is not None)
    weight = [tf.constant(guidance, tf.float32)] if guidance != 1.0 else []
    parts = []
    for start in range(0, len(uniform), ROWS):
        rows = slice(start, start + ROWS)
        kept = [] if known is None or mask is None else [tf.constant(known[rows]), tf.constant(mask[rows])]
        own = {name: tf.constant(index[rows]) for name, index in classes.items()}
        heat = tf.fill([len(uniform[rows])], np.float32(temperature))
        parts.append(draw(tf.constant(uniform[rows]), own, heat, *weight, *kept).numpy())
    return codec.decode(np.concatenate(parts).reshape(count, segments, *prior.latent_shape), speaker=voice)


def check_prior(codec: Codec) -> None:
    """Raise InputError where there is nothing to draw from."""
    if codec.learned_prior is not None or codec.prior == "standard_normal":
        return
    if codec.quantiser is not None:
        raise InputError(
            f"{codec.name} ({codec.family}) cannot generate: its codes need a prior learned from real sounds, and it "
            "has none; run spectrovae fit-prior, or use a vae"
        )
    if len(codec.latent_shapes) == 1:
        raise InputError(
            f"{codec.name} ({codec.family}) cannot generate: its latents have no prior; run spectrovae fit-prior, or "
            "use a vae"
        )
    raise InputError(
        f"{codec.name} ({codec.family}) cannot generate: its decoder needs what the encoder found in a real "
        "sound, and no prior over that exists; use a vae"
    )


def check_fit(codec: Codec) -> None:
    """Raise InputError where the learned prior is of other latents than the codec's."""
    prior, quantiser = codec.learned_prior, codec.quantiser
    size = quantiser.codebook_size if quantiser is not None else 0
    if prior is None:
        return
    if codec.latent_shapes != [prior.latent_shape] or prior.codes != (quantiser is not None) or (
        prior.codes and prior.classes != size
    ):  # fmt: skip
        raise InputError(
            f"the prior is of latents {[prior.latent_shape]} of {prior.classes} codes, {codec.name} has "
            f"{codec.latent_shapes} of {size}; fit a prior to this codec"
        )


def condition_classes(prior, given: Mapping[str, Names], count: int) -> dict[str, np.ndarray]:
    """The classes of ``count`` rows, int32 (count,) by condition; "none given" where nothing is.

    Args:
        given: one name for all rows, or one for each, by condition.

    Raises:
        InputError: a condition or a name that the prior does not know.
    """
    for name in given:
        if name not in prior.conditions:
            known = ", ".join(prior.conditions) or "none"
            raise InputError(f"this prior was learned without {name}; its conditions: {known}")
    classes = {}
    for name, names in prior.conditions.items():
        asked = given.get(name)
        if asked is None:
            classes[name] = np.full(count, prior.none_given(name), np.int32)
            continue
        asked = names_of(asked, count)
        if len(asked) != count:
            raise InputError(f"{name} must be one name or one for each of {count} sounds, received {len(asked)}")
        for one in asked:
            if one not in names:
                raise InputError(f"{name} must be one of {', '.join(names)}, received {one!r}")
        classes[name] = np.array([names.index(one) for one in asked], np.int32)
    return classes


def noise_size(codec: Codec) -> int:
    """Numbers in [0, 1) that one segment is drawn from."""
    if codec.learned_prior is not None:
        return math.prod(codec.learned_prior.noise_shape)
    return sum(math.prod(shape) for shape in codec.latent_shapes)


def latents_graph(
    codec: Codec, uniform, conditions, temperature, top_k=0, top_p=1.0, known=None, mask=None, guidance=1.0
) -> list:
    """Latents of segments, one tensor (rows, ...) for each of the codec's: a function of each row's own noise.

    Args:
        uniform: in [0, 1) [shape=(rows, noise_size)].
        conditions: classes (rows,) by name, for a learned prior.
        temperature: [shape=(rows,)].
        top_k, top_p, known, mask: as for ``Prior.draw``.
        guidance: as for ``CodePrior.draw``, a number or a tensor.
    """
    prior = codec.learned_prior
    if prior is not None:
        noise = tf.reshape(uniform, [-1, *prior.noise_shape])
        own = {} if isinstance(guidance, float) and guidance == 1.0 else {"guidance": guidance}
        return [prior.draw(noise, conditions, temperature, top_k, top_p, known, mask, **own)]
    scaled = tf.reshape(temperature, [-1, 1]) * normal(uniform)
    parts = tf.split(scaled, [math.prod(shape) for shape in codec.latent_shapes], axis=1)
    return [tf.reshape(part, [-1, *shape]) for part, shape in zip(parts, codec.latent_shapes)]


PATHS = ("line", "sphere")


def between(codec: Codec, first: np.ndarray, second: np.ndarray, count: int, path: str = "line"):
    """Latents from one to another, both ends included: (1, segments, ...) each -> (count, segments, ...).

    Codes have no line between them: the vectors they stand for do, and each point of it takes the nearest codes.

    Args:
        path: ``"line"`` (straight), or ``"sphere"``: for each segment the great circle between the two directions,
            the length changing evenly (White, "Sampling generative networks", 2016). Noise of many dimensions lies near
            a sphere, and a straight line cuts through its middle, where the prior has nothing.
    """
    if path not in PATHS:
        raise InputError(f"path must be one of {', '.join(PATHS)}, received {path!r}")
    weight = np.linspace(0.0, 1.0, count, dtype=np.float32)
    quantiser = codec.quantiser
    ends = [z if quantiser is None else np.asarray(quantiser.lookup(z)) for z in (first, second)]
    w = weight.reshape(-1, *[1] * (ends[0].ndim - 1))
    found = (1.0 - w) * ends[0] + w * ends[1] if path == "line" else _sphere(ends[0], ends[1], w)
    if quantiser is None:
        return found
    codes = np.array(quantiser.nearest(found))
    codes[-1], codes[0] = second[0], first[0]  # the ends as they were, also where residual stages would differ
    return codes


def _sphere(first: np.ndarray, second: np.ndarray, weight: np.ndarray) -> np.ndarray:
    axes = tuple(range(2, first.ndim))
    lengths = [np.maximum(np.sqrt(np.sum(np.square(z), axis=axes, keepdims=True)), 1e-12) for z in (first, second)]
    units = [z / length for z, length in zip((first, second), lengths)]
    angle = np.arccos(np.clip(np.sum(units[0] * units[1], axis=axes, keepdims=True), -1.0, 1.0))
    sine = np.sin(angle)
    narrow = sine < 1e-4  # the same direction, or opposite ones, between which no circle is the nearest
    sine = np.where(narrow, 1.0, sine)
    round_ = (np.sin((1.0 - weight) * angle) * units[0] + np.sin(weight * angle) * units[1]) / sine
    straight = (1.0 - weight) * units[0] + weight * units[1]
    length = (1.0 - weight) * lengths[0] + weight * lengths[1]
    return (length * np.where(narrow, straight, round_)).astype(np.float32)


def _draw_function(codec: Codec, top_k: int, top_p: float, guided: bool, continued: bool):
    """The draw as a graph, made once for each way of drawing; the last ones are cached."""
    key = (top_k, top_p, guided, continued)
    if key not in codec.draw_functions:
        prior = codec.learned_prior
        rows = tf.TensorSpec([None], tf.float32)
        signature = [
            tf.TensorSpec([None, *prior.noise_shape], tf.float32),
            {name: tf.TensorSpec([None], tf.int32) for name in prior.conditions},
            rows,
        ]
        signature += [tf.TensorSpec([], tf.float32)] if guided else []
        if continued:
            signature += [tf.TensorSpec([None, *prior.latent_shape], kind) for kind in (tf.int32, tf.bool)]

        def draw(uniform, conditions, temperature, *rest):
            guidance, *kept = rest if guided else (1.0, *rest)
            known, mask = kept or (None, None)
            return latents_graph(codec, uniform, conditions, temperature, top_k, top_p, known, mask, guidance)[0]

        while len(codec.draw_functions) >= DRAW_FUNCTIONS:  # a sweep over top_k or top_p makes many
            del codec.draw_functions[next(iter(codec.draw_functions))]
        codec.draw_functions[key] = tf.function(draw, input_signature=signature, autograph=False)
    return codec.draw_functions[key]


def _kept(codec: Codec, prefix, count: int, segments: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes of a beginning, and which of them are kept: whole columns of time [shape=(count, segments, ...)].

    Frames beyond the beginning are silent, and the encoder sees some of them from the last columns kept.
    """
    prefix = codec.checked_sound(prefix, "the prefix")
    columns = codec.learned_prior.latent_shape[1]
    kept = len(prefix) * columns // codec.segment_samples
    if kept >= columns:
        raise InputError(
            f"the prefix has {len(prefix)} samples at {codec.sample_rate} Hz, and a segment of {codec.name} ends after "
            f"{codec.segment_samples}: give less than that, so that something is left to continue"
        )
    if kept < 1:
        least = -(-codec.segment_samples // columns)
        raise InputError(f"the prefix has {len(prefix)} samples, fewer than a column of codes ({least}): give more")
    codes = codec.encode(prefix[None])[:, :1]
    known = np.zeros((count, segments, *codes.shape[2:]), np.int32)
    known[:, :1] = codes
    mask = np.zeros(known.shape, bool)
    mask[:, 0, :, :kept] = True
    return known, mask
