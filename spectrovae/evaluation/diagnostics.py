"""What a model's latent carries, whatever its family: moments, codes, and what is lost when a part is taken away.

The encoder says what there is to measure: posteriors (:func:`spectrovae.models.base.posteriors_of`), integer codes, or
a bottleneck and skips. Everything runs in batches, on encoder and decoder as a bundle keeps them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops
from scipy.special import logsumexp

from spectrovae.errors import InputError
from spectrovae.models import conditioning
from spectrovae.models.base import layers_of, posteriors_of, sigma_of
from spectrovae.quantisers import Quantiser

ACTIVE_VARIANCE = 0.01
"""A unit is active when its posterior mean varies over the data by more (Burda, Grosse and Salakhutdinov, 2016)."""
ABOVE_FLOOR = 1e-3
"""A token is active when a cell of its patch is this far from the floor: 0.08 dB of a range of 80 dB."""
BOUND_MARGIN = 0.05
"""Nats below log(clips) from where an estimate of mutual information counts as at its bound."""
MOMENT_CLIPS = 2048
"""Clips whose posteriors are held and compared pair by pair."""
EFFECT_CLIPS = 256
"""Clips on which parts of the latent are taken away; each part costs the decoder a pass over them."""

Arrays = list[np.ndarray]
Levels = Callable[[np.ndarray, Any], Any]


def diagnose(
    encoder: keras.Model,
    decoder: keras.Model,
    features: np.ndarray | Iterable,
    *,
    levels: Levels = lambda features, _: features[..., :1],
    mean: np.ndarray | None = None,
    floor: float | np.ndarray = 0.0,
    batch_size: int = 64,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure what the latent of a model carries.

    Args:
        features: an array (clips, bins, frames, channels), or batches of it **in random order**: latents are exchanged
            between the clips of a batch, and neighbours in a sorted set are too much alike. A batch may be a pair of
            features and what ``levels`` needs to know of their clips.
        levels: (features, the second of the pair or None) -> levels in dB (clips, ...); by default the first channel is
            the level.
        mean: mean features of the training clips (bins, frames, channels), for ``mean_rmse_db``.
        floor: the features of silence, a number or anything that broadcasts to (bins, frames, 1).
        seed: of noise, draws and, for an array, the order.

    Returns:
        plain JSON:

        - ``clips``, and of all of them ``rmse_db`` of the reconstruction (levels, all cells, posterior mean),
          ``mean_rmse_db`` of answering every clip with ``mean``, and ``mean_squared_error`` of the reconstruction, of
          all channels in squared units of a feature;
        - ``effect_clips``, the first so many, on which the rises below are measured;
        - ``sigma`` of each channel, of a decoder with a calibrated likelihood;
        - ``latent``: ``dimensions``, and ``shuffle_rise_db`` (of two clips or more), what the RMSE rises by
          when each clip is decoded from another's latent;
        - ``groups``, one for each tensor of the latent: ``name``, and the same for the group alone;
          ``prior_rise_db``, the rise when it is drawn from N(0, I); ``kl_nats``, ``kl_per_dimension`` (nats),
          ``mean_variance`` of each dimension, ``active_units``, and :func:`mutual_information`. Lower groups of a
          hierarchy are given the means of upper ones;
        - ``codes``: see :class:`CodeCounts`;
        - ``skips`` of a U-Net: the rise when all skips are exchanged or zeroed; its groups have ``zero_rise_db`` too;
        - ``calibration`` of a decoder with a layer ``likelihood``: see :class:`Calibration`.

    Raises:
        InputError: there is no clip.
    """
    random = np.random.default_rng(seed)
    probe = Probe(encoder)
    names = [tensor.name.split(":")[0] for tensor in decoder.inputs]
    errors = _Errors(decoder, levels, mean)
    effects = _Effects(probe, errors, names, random)
    codes = CodeCounts.of(encoder, floor) if probe.codes else None
    calibration = Calibration.of(decoder)
    moments: list[tuple[Arrays, Arrays]] = []
    clips = 0
    for batch, known in _batches(features, batch_size, random):
        latents, means, log_variances = probe(batch)
        whole = errors.add(batch, latents, known)
        if clips < MOMENT_CLIPS and means:
            moments.append((means, log_variances))
        if codes is not None:
            codes.add(latents[0], batch)
        if effects.clips < EFFECT_CLIPS:
            effects.add(batch, latents, known, whole)
            if calibration is not None:
                drawn = [m + np.exp(0.5 * v) * random.standard_normal(m.shape) for m, v in zip(means, log_variances)]
                calibration.add(batch, drawn or latents)
        clips += len(batch)
    if not clips:
        raise InputError("diagnosing needs at least one clip, received none: choose a split that holds some")

    result = {"clips": clips, **errors.result(clips), **effects.result()}
    kept = sigma_of(decoder)
    if kept is not None:
        result["sigma"] = kept.tolist()
    result["latent"]["dimensions"] = sum(probe.dimensions)
    if moments:
        for group, stacked in zip(result["groups"], _stacked(moments)):
            group |= posterior_figures(*stacked, random)
        result["latent"] |= {
            name: sum(group[name] for group in result["groups"]) for name in ("kl_nats", "active_units")
        }
    if codes is not None:
        result["codes"] = codes.result()
    if calibration is not None:
        result["calibration"] = calibration.result()
    return result


class Probe:
    """An encoder's latents and posterior moments in one pass: features -> (latents, means, log-variances), in NumPy."""

    def __init__(self, encoder: keras.Model):
        posteriors = posteriors_of(encoder)
        moments = [] if posteriors is None else posteriors.outputs
        self.model = keras.Model(encoder.input, [*encoder.outputs, *moments], name="probe")
        self.encoder, self.groups, self.posteriors = encoder, len(encoder.outputs), len(moments) // 2
        self.codes = "int" in str(encoder.outputs[0].dtype)
        # Of an encoder that takes any number of frames known with the first batch only.
        self.dimensions = [
            0 if None in tensor.shape[1:] else int(np.prod(tensor.shape[1:])) for tensor in encoder.outputs
        ]

    def __call__(self, features) -> tuple[Arrays, Arrays, Arrays]:
        outputs = [_array(tensor) for tensor in keras.tree.flatten(self.model(features, training=False))]
        self.dimensions = [int(np.prod(z.shape[1:])) for z in outputs[: self.groups]]
        means, log_variances = outputs[self.groups :][: self.posteriors], outputs[self.groups + self.posteriors :]
        return outputs[: self.groups], means, log_variances


def posterior_figures(mean: np.ndarray, log_variance: np.ndarray, random: np.random.Generator) -> dict[str, Any]:
    """Figures of one group of posteriors N(mean, exp(log_variance)) [shape=(clips, ...)] against a prior N(0, I)."""
    mean, log_variance = (x.reshape(len(x), -1).astype(np.float64) for x in (mean, log_variance))
    kl = np.mean(0.5 * (mean**2 + np.exp(log_variance) - 1.0 - log_variance), axis=0)
    variance = np.var(mean, axis=0)
    information = mutual_information(mean, log_variance, random)
    return {
        "kl_nats": float(kl.sum()),
        "active_units": int(np.sum(variance > ACTIVE_VARIANCE)),
        **information,
        # KL(q(z) || p): how far the latents of all clips together are from what a prior draws
        "aggregate_kl_nats": float(kl.sum()) - information["mutual_information_nats"],
        "kl_per_dimension": kl.tolist(),
        "mean_variance": variance.tolist(),
    }


def mutual_information(mean: np.ndarray, log_variance: np.ndarray, random: np.random.Generator) -> dict[str, Any]:
    """Mutual information of clip and latent under diagonal Gaussian posteriors (clips, d), in nats.

    I = KL(q(z|x) || p) - KL(q(z) || p) = E[log q(z|x) - log q(z)], by one draw of z for each clip, and q(z) the mean of
    all clips' posteriors by log-mean-exp (Hoffman and Johnson, 2016). It cannot exceed log(clips); ``at_bound`` says
    when that is what was found, and the truth is more.
    """
    clips, _ = mean.shape
    mean, log_variance = mean.astype(np.float64), log_variance.astype(np.float64)
    precision = np.exp(-log_variance)
    drawn = mean + np.exp(0.5 * log_variance) * random.standard_normal(mean.shape)
    # (z - m)^2 / v of every pair by three matrix products; what is constant in d cancels in the difference
    constant = np.sum(mean**2 * precision + log_variance, axis=1)
    log_density = -0.5 * (drawn**2 @ precision.T - 2.0 * drawn @ (mean * precision).T + constant)
    own = np.diagonal(log_density)
    information = float(np.mean(own - logsumexp(log_density, axis=1) + np.log(clips)))
    bound = float(np.log(clips))
    return {
        "mutual_information_nats": information,
        "bound_nats": bound,
        "at_bound": bool(information > bound - BOUND_MARGIN),
    }


class CodeCounts:
    """How often each code is used, over all tokens and over active ones, by stage; maps (clips, h, w[, stages]).

    A token is active when its patch of the features rises above the floor somewhere: silence repeats a few codes, and
    hides how the rest are used. ``result()`` has ``codebook_size``, ``tokens_per_clip``, ``nominal_bits_per_clip``, and
    ``stages``, each with ``all`` and ``active`` tokens: ``tokens``, ``used`` codes, ``usage`` (their part of the
    codebook), ``perplexity`` (exp of the entropy), ``bits`` a token (the entropy).
    """

    def __init__(self, codebook_size: int, shape: tuple[int, ...], padded: tuple[int, int], floor: Any = 0.0):
        self.size, self.floor, self.padded = int(codebook_size), floor, padded
        self.grid, self.stages = shape[:2], shape[2] if len(shape) > 2 else 1
        self.counts = np.zeros((2, self.stages, self.size), np.int64)  # all, active

    @classmethod
    def of(cls, encoder: keras.Model, floor: Any = 0.0) -> CodeCounts:
        """For an encoder with a layer ``quantiser``; where it pads its input (layer ``pad``), patches are of that."""
        padded = next((layer.output.shape for layer in encoder.layers if layer.name == "pad"), encoder.inputs[0].shape)
        quantiser = layers_of(encoder, Quantiser)[0]
        return cls(quantiser.codebook_size, encoder.outputs[0].shape[1:], padded[1:3], floor)

    def add(self, codes: np.ndarray, features) -> None:
        codes = codes.reshape(-1, self.stages)
        active = self.active_tokens(np.asarray(features)).ravel()
        offsets = np.arange(self.stages) * self.size
        for row, chosen in enumerate((codes, codes[active])):
            counts = np.bincount((chosen + offsets).ravel(), minlength=self.stages * self.size)
            self.counts[row] += counts.reshape(self.stages, self.size)

    def active_tokens(self, features: np.ndarray) -> np.ndarray:
        """Booleans (clips, h, w): whether a cell of the token's patch is above the floor."""
        above = np.any(np.abs(features[..., :1] - self.floor) > ABOVE_FLOOR, axis=-1)
        missing = [(0, whole - size) for whole, size in zip(self.padded, above.shape[1:])]
        above = np.pad(above, [(0, 0), *missing])
        (height, width), (rows, columns) = above.shape[1:], self.grid
        if height % rows or width % columns:
            raise InputError(f"a map of {self.grid} codes does not divide features padded to {(height, width)}")
        patches = above.reshape(len(above), rows, height // rows, columns, width // columns)
        return np.any(patches, axis=(2, 4))

    def result(self) -> dict[str, Any]:
        tokens = int(np.prod(self.grid))
        return {
            "codebook_size": self.size,
            "tokens_per_clip": tokens,
            "nominal_bits_per_clip": float(tokens * self.stages * np.log2(self.size)),
            "stages": [
                {"all": code_figures(counts), "active": code_figures(active)} for counts, active in zip(*self.counts)
            ],
        }


def code_figures(counts: np.ndarray) -> dict[str, Any]:
    """Usage of a codebook from how often each code was chosen."""
    total = counts.sum()
    share = counts[counts > 0] / max(total, 1)
    entropy = float(-np.sum(share * np.log(share)))
    used = int(np.count_nonzero(counts))
    return {
        "tokens": int(total),
        "used": used,
        "usage": used / len(counts),
        "perplexity": float(np.exp(entropy)) if total else 0.0,
        "bits": entropy / float(np.log(2.0)),
    }


class Calibration:
    """Whether a decoder's own sigma tells its errors: z = (x - mean) / sigma over cells, of a drawn latent.

    ``result()``: ``squared_z`` is 1, ``within_1_sigma`` 0.683 and ``within_2_sigma`` 0.954 for a calibrated normal;
    ``sigma_rms`` in units of a feature.
    """

    def __init__(self, model: keras.Model):
        self.model, self.cells, self.sums = model, 0, np.zeros(4)  # squared z, within 1, within 2, variance

    @classmethod
    def of(cls, decoder: keras.Model) -> Calibration | None:
        known = any(layer.name == "likelihood" for layer in conditioning.whole(decoder).layers)
        return cls(conditioning.part(decoder, end="likelihood")) if known else None

    def add(self, features, latents: Arrays) -> None:
        mean, log_variance = (
            _array(tensor).astype(np.float64) for tensor in self.model(_packed(latents), training=False)
        )
        squared = (np.asarray(features) - mean) ** 2 / np.exp(log_variance)
        self.cells += squared.size
        self.sums += [squared.sum(), np.sum(squared <= 1.0), np.sum(squared <= 4.0), np.exp(log_variance).sum()]

    def result(self) -> dict[str, float]:
        squared, one, two, variance = (float(value) for value in self.sums / self.cells)
        return {"squared_z": squared, "within_1_sigma": one, "within_2_sigma": two, "sigma_rms": variance**0.5}


class _Errors:
    """Squared errors of the reconstruction and of the mean predictor, a clip weighing one."""

    def __init__(self, decoder: keras.Model, levels: Levels, mean: np.ndarray | None):
        self.decoder, self.levels, self.mean = decoder, levels, mean
        self.squared = self.squared_units = self.squared_mean = 0.0

    def add(self, features: np.ndarray, latents: Arrays, known: Any) -> float:
        """The sum over clips of the mean squared error of the levels, which is also added to the others."""
        decoded = self.decode(latents)
        error = decoded.astype(np.float64) - features
        self.squared_units += float(np.mean(error**2)) * len(features)
        squared = self.of(features, decoded, known)
        self.squared += squared
        if self.mean is not None:
            self.squared_mean += self.of(features, np.broadcast_to(self.mean, features.shape), known)
        return squared

    def decode(self, latents: Arrays) -> np.ndarray:
        return _array(self.decoder(_packed(latents), training=False))

    def of(self, features: np.ndarray, decoded: np.ndarray, known: Any) -> float:
        """The sum over clips of the mean squared difference of the levels in dB."""
        before, after = (_array(self.levels(x, known)).astype(np.float64) for x in (features, decoded))
        return float(np.mean((after - before) ** 2)) * len(features)

    def result(self, clips: int) -> dict[str, float]:
        found = {"rmse_db": (self.squared / clips) ** 0.5, "mean_squared_error": self.squared_units / clips}
        return found | ({} if self.mean is None else {"mean_rmse_db": (self.squared_mean / clips) ** 0.5})


class _Effects:
    """Rises of the error in dB with parts of the latent exchanged, drawn or zeroed."""

    def __init__(self, probe: Probe, errors: _Errors, names: list[str], random: np.random.Generator):
        self.errors, self.random, self.names, self.probe = errors, random, names, probe
        self.clips = 0
        self.squared: dict[tuple[str, int | str], float] = {}
        groups: list[int | str] = list(range(len(names)))
        self.cases: list[tuple[str, int | str]] = [("shuffle", "latent")]
        if len(groups) > 1:
            self.cases += [("shuffle", group) for group in groups]
        if probe.posteriors:
            self.cases += [("prior", group) for group in groups]
        self.skips = not probe.posteriors and not probe.codes and len(groups) > 1
        if self.skips:
            self.cases += [("shuffle", "skips"), *(("zero", group) for group in [*groups, "skips"])]

    def add(self, features: np.ndarray, latents: Arrays, known: Any, whole: float) -> None:
        """Measure a batch whose error is ``whole`` with the latent as it is."""
        if len(features) < 2:
            return
        changes: dict[str, Callable[[np.ndarray], np.ndarray]] = {
            "shuffle": lambda z: np.roll(z, 1, axis=0),
            "prior": lambda z: self.random.standard_normal(z.shape).astype(np.float32),
            "zero": np.zeros_like,
        }
        self.clips += len(features)
        self.squared["whole", "latent"] = self.squared.get(("whole", "latent"), 0.0) + whole
        for case in self.cases:
            kind, part = case
            changed = [changes[kind](z) if self._holds(part, index) else z for index, z in enumerate(latents)]
            squared = self.errors.of(features, self.errors.decode(changed), known)
            self.squared[case] = self.squared.get(case, 0.0) + squared

    @staticmethod
    def _holds(part: int | str, index: int) -> bool:
        return part == "latent" or part == index or (part == "skips" and index > 0)

    def result(self) -> dict[str, Any]:
        groups: list[dict[str, Any]] = [
            {"name": name, "dimensions": size} for name, size in zip(self.names, self.probe.dimensions)
        ]
        result: dict[str, Any] = {"effect_clips": self.clips, "latent": {}, "groups": groups}
        if not self.clips:
            return result
        error = {case: float(np.sqrt(total / self.clips)) for case, total in self.squared.items()}
        whole = error.pop(("whole", "latent"))
        for (kind, part), value in error.items():
            place = groups[part] if isinstance(part, int) else result.setdefault(part, {})
            place[f"{kind}_rise_db"] = value - whole
        return result


def live_columns(probe: Probe, batches: Iterable[np.ndarray], floor: Any = 0.0) -> dict[str, float]:
    """A few figures of the latent for each epoch's row of a history, from the encoder alone.

    ``active_units`` and ``mutual_information`` (nats, summed over groups) of posteriors, ``active_units_0``, ... of
    each group where there are several; ``code_usage`` and ``code_perplexity`` (active tokens), with ``_0``, ... for
    stages.
    """
    random = np.random.default_rng(0)
    codes = CodeCounts.of(probe.encoder, floor) if probe.codes else None
    moments = []
    for batch in batches:
        latents, means, log_variances = probe(batch)
        moments.append((means, log_variances))
        if codes is not None:
            codes.add(latents[0], batch)
    columns: dict[str, float] = {}
    if probe.posteriors:
        figures = [posterior_figures(*stacked, random) for stacked in _stacked(moments)]
        columns["active_units"] = sum(group["active_units"] for group in figures)
        columns["mutual_information"] = sum(group["mutual_information_nats"] for group in figures)
        if len(figures) > 1:
            columns |= {f"active_units_{index}": group["active_units"] for index, group in enumerate(figures)}
    if codes is not None:
        for index, stage in enumerate(codes.result()["stages"]):
            suffix = f"_{index}" if codes.stages > 1 else ""
            columns |= {f"code_{name}{suffix}": stage["active"][name] for name in ("usage", "perplexity")}
    return {name: float(value) for name, value in columns.items()}


def _batches(
    features: np.ndarray | Iterable, batch_size: int, random: np.random.Generator
) -> Iterator[tuple[np.ndarray, Any]]:
    batches: Iterable = features
    if isinstance(features, np.ndarray):
        order = random.permutation(len(features))
        batches = [features[order[start : start + batch_size]] for start in range(0, len(order), batch_size)]
    for batch in batches:
        yield (np.asarray(batch[0]), batch[1]) if isinstance(batch, tuple) else (np.asarray(batch), None)


def _stacked(moments: list[tuple[Arrays, Arrays]]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Batches of (means, log-variances) of groups -> (mean, log-variance) of all clips, by group."""
    means, log_variances = ([np.concatenate(group) for group in zip(*kind)] for kind in zip(*moments))
    return list(zip(means, log_variances))


def _packed(parts: list) -> Any:
    """As a functional model takes it: the tensor alone, or the list."""
    return parts if len(parts) > 1 else parts[0]


def _array(tensor) -> np.ndarray:
    """NumPy, of whole numbers as they are, and of any float type as float32."""
    whole = "int" in str(tensor.dtype)
    return np.asarray(ops.convert_to_numpy(tensor if whole else ops.cast(tensor, "float32")))
