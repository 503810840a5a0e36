"""A representation, an encoder and a decoder bound into one object; ``bundle`` is what keeps it on disk."""

import functools
import os
import platform
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import spectrovae
from spectrovae import archives, bundle, conversion, files, generation, losses, representations
from spectrovae.errors import InputError
from spectrovae.models import base
from spectrovae.quantisers import Quantiser

_TRACED = ("representation", "encoder", "decoder", "conditioned", "learned_prior", "segment_frames")


class Codec:
    """Waveform -> latent -> waveform.

    Waveforms are float32 (batch, samples) in [-1, 1] at ``sample_rate``, of any length. A longer one is cut into the
    segments that the encoder takes, so latents carry an axis of segments: (batch, segments, ...), one tensor or a list
    as the encoder returns it. Segments are joined as features, before the inverse transform, so that no seam is heard
    in the phase. An encoder and a decoder that take any number of frames run over all segments at once instead, and the
    latent is cut afterwards: there is no seam in a waveform either.

    Args:
        representation: from waveform to features and back.
        encoder, decoder: Keras models; the decoder takes what the encoder returns, and perhaps the ``speaker`` too.
        family: name of the model family, ``"vae"`` or ``"unet"`` or your own.
        prior: ``"standard_normal"`` where latents can be drawn from N(0, I); None where they cannot.
        learned_prior: a :class:`spectrovae.models.priors.Prior` of one segment's latent; new sounds are drawn from it.
        learned: what ``codec.json`` says of it: kind, figures, and the digest of the encoder it was fitted to.
        info: what else to keep in ``codec.json``: training time, metrics, any JSON.
        data: how the training data were opened and split, any JSON; kept in ``data.json``.
        segment_frames: frames of a segment, for an encoder that takes any number of them.
        name: for tables and file names.
    """

    def __init__(
        self,
        representation: representations.Representation,
        encoder: keras.Model,
        decoder: keras.Model,
        *,
        family: str = "custom",
        prior: str | None = None,
        learned_prior: keras.Model | None = None,
        learned: dict | None = None,
        info: dict | None = None,
        data: dict | None = None,
        segment_frames: int | None = None,
        name: str = "codec",
    ):
        if len(encoder.inputs) != 1 or len(encoder.inputs[0].shape) != 4:
            raise InputError(
                "the encoder must take features (batch, bins, frames, channels), received "
                f"{[tuple(tensor.shape) for tensor in encoder.inputs]}"
            )
        self.representation, self.encoder = representation, encoder
        self.decoder, self.conditioned = conversion.split(decoder)  # the first takes no speaker
        decoder = self.decoder
        self.family, self.prior, self.name = family, prior, name
        self.info: dict[str, Any] = dict(info or {})
        self.data = data
        self.sample_rate = representation.sample_rate
        bins, frames, channels = encoder.inputs[0].shape[1:]
        self.whole = frames is None  # whether segments are only a way to cut the latent
        if self.whole and not segment_frames:
            raise InputError("the encoder takes any number of frames; give segment_frames, those of a segment")
        self.segment_frames: int = int(segment_frames or 0) if self.whole else frames
        frames = self.segment_frames
        self.feature_shape = (bins, frames, channels)
        self.segment_samples = representation.samples_of(frames)
        if representation.feature_shape(self.segment_samples) != self.feature_shape:
            raise InputError(
                f"the encoder takes features shaped {self.feature_shape}, the representation gives "
                f"{representation.feature_shape(self.segment_samples)}"
            )
        self.latent_shapes, self.latent_types = _signature(encoder.outputs)
        if (self.latent_shapes, self.latent_types) != _signature(decoder.inputs):
            raise InputError(
                f"the encoder returns latents of shapes and types {_signature(encoder.outputs)}, the decoder takes "
                f"{_signature(decoder.inputs)}"
            )
        decoded = [tuple(tensor.shape[1:]) for tensor in decoder.outputs]
        if decoded != [(bins, None if self.whole else frames, channels)]:
            raise InputError(f"the decoder must return features shaped {self.feature_shape}, received {decoded}")
        if self.whole:
            segment = encoder.compute_output_spec(keras.KerasTensor((1, *self.feature_shape)))
            self.latent_shapes, _ = _signature(tf.nest.flatten(segment))
        self.learned_prior: Any = learned_prior
        self.learned: dict[str, Any] = {"kind": type(learned_prior).__name__} | dict(learned or {})
        self.draw_functions: dict[Any, Any] = {}  # see generation
        generation.check_fit(self)
        waveform = tf.TensorSpec([None, None], tf.float32, name="waveform")
        length = tf.TensorSpec([], tf.int32, name="length")
        latent = self.pack(self.latent_specs([f"latent_{index}" for index in range(len(self.latent_shapes))]))
        self._encode = tf.function(self.encode_graph, input_signature=[waveform], autograph=False)
        self._decode = tf.function(self.decode_graph, input_signature=[latent, length], autograph=False)
        self._reconstruct = tf.function(self.reconstruct_graph, input_signature=[waveform], autograph=False)
        speaker = tf.TensorSpec([None], tf.int32, name="speaker")
        voice = [speaker, tf.TensorSpec([None], tf.float32, name="guidance")]
        self._decode_as = tf.function(self.decode_graph, input_signature=[latent, length, *voice], autograph=False)
        self._convert = tf.function(self.reconstruct_graph, input_signature=[waveform, *voice], autograph=False)
        features = tf.TensorSpec([None, bins, None, channels], tf.float32, name="features")
        self._reconstruct_features = tf.function(
            self.reconstruct_features_graph, input_signature=[features], autograph=False
        )

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _TRACED and name in self.__dict__:
            raise AttributeError(f"{name} is part of this codec's graphs; replace({name}=...) makes another codec")
        super().__setattr__(name, value)

    def replace(self, **changes: Any) -> "Codec":
        """A codec of the same parts with some of the constructor's arguments changed."""
        own: dict[str, Any] = {
            "decoder": self.conditioned or self.decoder,
            "segment_frames": self.segment_frames if self.whole else None,
        }
        names = ("representation", "encoder", "family", "prior", "learned_prior", "info", "data", "name")
        own |= {name: getattr(self, name) for name in names}
        same = self.learned_prior is not None and "learned_prior" not in changes
        own["learned"] = self.learned if same else None
        return Codec(**(own | changes))

    @property
    def parameters(self) -> int:
        """Number of weights in encoder and decoder; those of a layer in both count once."""
        return base.count_weights(self.encoder, self.decoder)

    @property
    def quantiser(self) -> Quantiser | None:
        """The layer that makes the codes; None where latents are not codes."""
        return next(iter(base.layers_of(self.encoder, Quantiser)), None)

    @property
    def speakers(self) -> tuple[str, ...]:
        """Names of those in whose voices the decoder can speak; empty where it is told of none."""
        return () if self.conditioned is None else conversion.conditioning.names_of(self.conditioned)

    # The path in the graph: what Python, the SavedModel and the reports all run.

    def features_graph(self, waveform):
        """(batch, samples) -> features (batch, bins, segments * segment_frames, channels), silence after the end."""
        return self.representation(self._whole_segments(waveform))

    def encode_graph(self, waveform):
        """(batch, samples) -> latent (batch, segments, ...), a tensor or a list."""
        return self._encode_features(self.features_graph(waveform))

    def decode_graph(self, latent, length, *voice):
        """Latent (batch, segments, ...) -> (batch, length); a negative length means all that the segments span.

        Args:
            voice: nothing for nobody's; or int32 (batch,), places among ``speakers``, and float32 (batch,), how much
                their voices weigh.
        """
        features = self._decode_features(latent, *voice)
        return self.representation.inverse(features, self._length(latent, length))

    def reconstruct_graph(self, waveform, *voice):
        """(batch, samples) -> (batch, samples), keeping the statistics that per-example scaling would lose."""
        features = self.features_graph(waveform)
        statistics = None
        if self.representation.normalisation == "per_example":
            statistics = self.representation.statistics(self.representation.decibels(self._whole_segments(waveform)))
        decoded = self.through_graph(features, *voice)
        return self.representation.inverse(decoded, tf.shape(waveform)[1], statistics)

    def reconstruct_features_graph(self, features):
        """Features (batch, bins, frames, channels) through encoder and decoder, same shape.

        Frames of silence fill the last segment and are taken off again.
        """
        batch, _, frames, _ = tf.unstack(tf.shape(features))
        silence = self.representation(tf.zeros([1, self.segment_samples]))[:, :, : -frames % self.segment_frames]
        whole = tf.concat([features, tf.repeat(silence, batch, axis=0)], axis=2)
        return self.through_graph(whole)[:, :, :frames]

    def through_graph(self, features, *voice, move=None):
        """Features of whole segments through encoder and decoder, same shape; ``move`` changes the latent between."""
        latent = self._encode_features(features)
        return self._decode_features(latent if move is None else move(latent), *voice)

    def _whole_segments(self, waveform):
        """Silence after the end, until the frames fill the last segment."""
        frames = self.representation.feature_shape(tf.shape(waveform)[1])[1]
        segments = -(-frames // self.segment_frames)
        missing = self.representation.samples_of(segments * self.segment_frames) - tf.shape(waveform)[1]
        return tf.pad(waveform, [[0, 0], [0, tf.maximum(missing, 0)]])

    def _encode_features(self, features):
        shape = tf.shape(features)
        segments = shape[2] // self.segment_frames
        if self.whole:
            parts = zip(tf.nest.flatten(self.encoder(features)), self.latent_shapes)
            return self.pack([tf.cast(tf.reshape(z, [shape[0], segments, *own]), tf.float32) for z, own in parts])
        bins, channels = features.shape[1], features.shape[3]
        cut = tf.reshape(features, [shape[0], bins, segments, self.segment_frames, channels])
        cut = tf.reshape(tf.transpose(cut, [0, 2, 1, 3, 4]), [-1, bins, self.segment_frames, channels])
        parts = zip(tf.nest.flatten(self.encoder(cut)), self.latent_types)
        return self.pack([tf.cast(tf.reshape(z, [shape[0], segments, *z.shape[1:]]), kind) for z, kind in parts])

    def _decode_features(self, latent, *voice):
        batch, segments = tf.unstack(tf.shape(tf.nest.flatten(latent)[0])[:2])
        if self.whole:
            joined = tf.nest.map_structure(
                lambda z: tf.reshape(z, [batch, segments * z.shape[2], *z.shape[3:]]), latent
            )
            return tf.cast(conversion.decoded(self, joined, *voice), tf.float32)
        flat = tf.nest.map_structure(lambda z: tf.reshape(z, [-1, *z.shape[2:]]), latent)
        features = tf.cast(conversion.decoded(self, flat, *voice), tf.float32)
        _, bins, frames, channels = features.shape
        features = tf.transpose(tf.reshape(features, [batch, segments, bins, frames, channels]), [0, 2, 1, 3, 4])
        return tf.reshape(features, [batch, bins, segments * frames, channels])

    def _length(self, latent, length):
        segments = tf.shape(tf.nest.flatten(latent)[0])[1]
        return tf.where(length >= 0, length, self.representation.samples_of(segments * self.segment_frames))

    # The same in NumPy, checked.

    def encode(self, waveform, sample_rate: int | None = None):
        """Latent of waveforms: NumPy float32 [shape=(batch, segments, ...)], or a list of them.

        Args:
            waveform: [shape=(batch, samples)].
            sample_rate: of the waveform in Hz; give it to have it checked.

        Raises:
            InputError: wrong sample rate, shape or type.
        """
        return tf.nest.map_structure(np.asarray, self._encode(self.checked(waveform, sample_rate)))

    def decode(
        self,
        latent,
        length: int | None = None,
        *,
        fill: str = "mean",
        seed: int = 0,
        speaker: conversion.Speaker | None = None,
        guidance: float = conversion.GUIDANCE,
    ) -> np.ndarray:
        """Waveforms of latents: float32 [shape=(batch, length)], by default all that the segments span.

        Args:
            latent: as :meth:`encode` returned it. Of a hierarchy the first groups are enough.
            fill: what the groups left out become: ``"mean"``, their prior's mean given those above, or ``"draw"``, a
                draw from that prior.
            seed: of the draw.
            speaker: whose voice, one name of ``speakers`` or one for each sound; None leaves it open.
            guidance: how much the voice weighs, as for :meth:`convert`.

        Raises:
            InputError: another shape, type or number of latents; an unknown speaker, a guidance below 0.
        """
        parts = [np.asarray(z) for z in (latent if isinstance(latent, list | tuple) else [latent])]
        parts += self._filling(parts, fill, seed)
        self._check_latent(parts)
        if length is not None and (isinstance(length, bool) or int(length) != length or length < 0):
            raise InputError(f"length must be a number of samples, received {length!r}")
        packed = self.pack([tf.cast(z, kind) for z, kind in zip(parts, self.latent_types)])
        length = -1 if length is None else length
        if speaker is None:
            return self._decode(packed, length).numpy()
        return self._decode_as(packed, length, *conversion.asked(self, speaker, guidance, len(parts[0]))).numpy()

    def _check_latent(self, parts: list[np.ndarray]) -> None:
        """Raise InputError where these are not latents of this codec."""
        if (
            len(parts) != len(self.latent_shapes)
            or any(z.ndim < 2 or z.shape[2:] != shape for z, shape in zip(parts, self.latent_shapes))
            or len({z.shape[:2] for z in parts}) > 1
            or not parts[0].shape[1]
        ):
            raise InputError(
                f"latent must be shaped (batch, segments) + {self.latent_shapes} with a segment at least, received "
                f"{[z.shape for z in parts]}"
            )
        for z, kind in zip(parts, self.latent_types):
            if z.dtype.kind not in "fiu" or (kind.is_integer and z.dtype.kind == "f"):
                expected = "integer codes" if kind.is_integer else "numbers"
                raise InputError(f"{self.name} decodes {expected}, received {z.dtype}; give what encode returned")
            if not np.all(np.isfinite(z)):
                raise InputError("latent holds NaN or infinite numbers; give what encode returned")
            if kind.is_integer and self.quantiser is not None and z.size:
                size, low, high = self.quantiser.codebook_size, z.min(), z.max()
                if low < 0 or high >= size:
                    raise InputError(f"{self.name} has codes from 0 to {size - 1}, received {low} to {high}")

    def _filling(self, parts: list, fill: str, seed: int) -> list:
        """Latents for the groups below ``parts``, where each has a prior N(0, I) given those above."""
        if fill not in ("mean", "draw"):
            raise InputError(f"fill must be mean or draw, received {fill!r}")
        missing = self.latent_shapes[len(parts) :]
        if not parts or parts[0].ndim < 2 or self.prior != "standard_normal":
            return []
        random = np.random.default_rng(seed)
        noise = [random.standard_normal((*parts[0].shape[:2], *shape), np.float32) for shape in missing]
        return noise if fill == "draw" else [0.0 * z for z in noise]

    def reconstruct(self, waveform, sample_rate: int | None = None) -> np.ndarray:
        """Waveforms through encoder and decoder, same shape."""
        return self._reconstruct(self.checked(waveform, sample_rate)).numpy()

    def convert(
        self,
        waveform,
        speaker: conversion.Speaker,
        sample_rate: int | None = None,
        guidance: float = conversion.GUIDANCE,
    ) -> np.ndarray:
        """Waveforms [shape=(batch, samples)] in another voice, same shape.

        Args:
            speaker: one name of ``speakers``, or one for each sound.
            sample_rate: of the waveform in Hz; give it to have it checked.
            guidance: how much the voice weighs: 1 is what the decoder makes of the name, more is more of what sets the
                voice apart from nobody's, at the cost of the words.

        Raises:
            InputError: an unknown speaker, a codec without speakers, a guidance below 0, wrong sample rate, shape or
                type.
        """
        checked = self.checked(waveform, sample_rate)
        return self._convert(checked, *conversion.asked(self, speaker, guidance, int(checked.shape[0]))).numpy()

    def reconstruct_features(self, features) -> np.ndarray:
        """Features (batch, bins, frames, channels) of any number of frames through encoder and decoder, same shape."""
        return self._reconstruct_features(tf.cast(features, tf.float32)).numpy()

    def kl_divergence(self, features) -> np.ndarray | None:
        """KL(posterior || N(0, I)) of each example in nats [shape=(batch,)]; None if the encoder has no posterior."""
        return None if self._kl_divergence is None else self._kl_divergence(tf.cast(features, tf.float32)).numpy()

    @functools.cached_property
    def _kl_divergence(self):
        posteriors = base.posteriors_of(self.encoder)
        if posteriors is None:
            return None

        def divergence(features):
            moments = zip(*posteriors(features))
            parts = [losses.kl_divergence(mean, log_variance) for mean, log_variance in moments]
            return tf.add_n([tf.reduce_sum(kl, axis=range(1, len(kl.shape))) for kl in parts])

        shape = [None, *self.encoder.inputs[0].shape[1:]]
        return tf.function(divergence, input_signature=[tf.TensorSpec(shape, tf.float32)], autograph=False)

    def generate(
        self,
        count: int,
        *,
        segments: int = 1,
        temperature: float = 1.0,
        seed: int = 0,
        label: generation.Names = None,
        speaker: generation.Names = None,
        top_k: int = 0,
        top_p: float = 1.0,
        guidance: float = 1.0,
        prefix: np.ndarray | None = None,
    ) -> np.ndarray:
        """New sounds from the learned prior, or from N(0, I).

        Returns:
            float32 [shape=(count, segments * segment_samples, about)].

        Args:
            temperature: below 1 is more typical, less varied; 0 takes what is likeliest.
            label, speaker: what to draw, one name or one for each sound; None leaves it open. Of a learned
                prior; a decoder that is told who speaks is told the speaker too.
            top_k, top_p: keep the likeliest codes, see :func:`spectrovae.sampling.choose`.
            guidance: of codes: above 1 heeds label and speaker more, at twice the work.
            prefix: a beginning to continue, [shape=(samples,)] shorter than a segment: its whole columns of codes are
                kept. Of codes.

        Raises:
            InputError: no prior to draw from, or an argument out of range or of another prior.
        """
        return generation.generate(
            self, count, segments=segments, temperature=temperature, seed=seed,
            conditions={"label": label, "speaker": speaker}, top_k=top_k, top_p=top_p, guidance=guidance, prefix=prefix,
        )  # fmt: skip

    def interpolate(self, first, second, count: int, path: str = "line") -> np.ndarray:
        """Sounds between two waveforms by way of their latents, both ends included.

        Args:
            first, second: [shape=(samples,)]; the shorter is padded with silence.
            path: ``"line"`` or ``"sphere"``, see :func:`spectrovae.generation.between`.

        Returns:
            float32 [shape=(count, samples)].
        """
        if count < 1:
            raise InputError(f"count must be at least 1, received {count}")
        sounds = [self.checked_sound(x, name) for x, name in ((first, "the first sound"), (second, "the second sound"))]
        length = max(map(len, sounds))
        ends = self.encode(np.stack([np.pad(x, (0, length - len(x))) for x in sounds]))
        way = tf.nest.map_structure(lambda z: generation.between(self, z[:1], z[1:], count, path), ends)
        return self.decode(way, length)

    def latent_specs(self, names) -> list[tf.TensorSpec]:
        """Specifications (batch, segments, ...) of the latent tensors, by these names."""
        return [
            tf.TensorSpec([None, None, *shape], kind, name=name)
            for name, shape, kind in zip(names, self.latent_shapes, self.latent_types)
        ]

    def pack(self, parts: list):
        """A list of latent tensors as the encoder returns it: the tensor alone, or the list."""
        return parts if isinstance(self.encoder.output, list | tuple) else parts[0]

    def checked(self, waveform, sample_rate):
        """A waveform as float32 (batch, samples); InputError where it is not one of this codec."""
        if sample_rate is not None and sample_rate != self.sample_rate:
            raise InputError(
                f"{self.name} works at {self.sample_rate} Hz, received {sample_rate} Hz; resample first "
                f"(spectrovae.audio.resample)"
            )
        waveform = representations.base.check_waveform(waveform)
        if not bool(tf.reduce_all(tf.math.is_finite(waveform))):
            raise InputError("waveform holds NaN or infinite samples; repair or drop them first")
        return waveform

    def checked_sound(self, sound, name: str) -> np.ndarray:
        """One waveform as float32 [shape=(samples,)]; InputError, with its ``name``, where it is not one."""
        sound = np.asarray(sound)
        if sound.ndim != 1:
            raise InputError(f"{name} must be one waveform (samples,), received shape {sound.shape}")
        return np.asarray(self.checked(sound[None], None))[0]

    # On disk

    def save(self, path: str | os.PathLike) -> None:
        """Write the bundle. A reader sees the old one or the new one, whole, however the writer is stopped.

        Raises:
            InputError: the folder cannot be written, or another process is writing it.
            StorageError: the disk is full, or fails.
        """
        with bundle.saving(path, self.description()) as stage:
            self.representation.save(stage / "representation.keras")
            self.encoder.save(stage / "encoder.keras")
            (self.conditioned or self.decoder).save(stage / "decoder.keras")
            if self.learned_prior is not None:
                self.learned_prior.save(stage / f"{bundle.PRIOR}.keras")
            golden: dict[str, Any] = self.replay(golden_waveforms(self.segment_samples, self.sample_rate))
            np.savez(stage / "golden.npz", **golden)
            if self.data is not None:
                files.write_json(stage / bundle.DATA, self.data)

    def description(self) -> dict:
        """What ``codec.json`` says, without the file hashes."""
        return {
            "format_version": bundle.FORMAT_VERSION,
            "family": self.family,
            "prior": self.prior,
            "sample_rate": self.sample_rate,
            "segment_samples": self.segment_samples,
            "feature_shape": list(self.feature_shape),
            "latent_shapes": [list(shape) for shape in self.latent_shapes],
            "parameters": {"encoder": self.encoder.count_params(), "decoder": self.decoder.count_params()},
            "representation": {"class": type(self.representation).__name__}
            | {
                key: value
                for key, value in self.representation.get_config().items()
                if key not in ("dtype", "trainable")
            },
            "versions": {
                "spectrovae": spectrovae.__version__,
                "keras": keras.__version__,
                "tensorflow": tf.__version__,
                "numpy": np.__version__,
                "python": platform.python_version(),
            },
            "info": self.info | ({"speakers": list(self.speakers)} if self.speakers else {}),
        } | self._learned_description()

    def _learned_description(self) -> dict:
        if self.learned_prior is None:
            return {}
        conditions = {name: list(names) for name, names in self.learned_prior.conditions.items()}
        entry = {"encoder": bundle.weights_digest(self.encoder)} | self.learned | {"conditions": conditions}
        return {"learned_prior": entry}

    def replay(self, waveform: np.ndarray) -> dict[str, Any]:
        """Waveforms with the features, latents and decoded features they give: the golden vectors of a bundle."""
        features = self.features_graph(tf.constant(waveform))
        latent = self._encode(waveform)
        found = {"waveform": waveform, "features": features, "decoded": self._decode_features(latent)}
        found |= {f"latent_{index}": z for index, z in enumerate(tf.nest.flatten(latent))}
        return {name: np.asarray(value) for name, value in found.items()}

    @classmethod
    def load(cls, path: str | os.PathLike, verify: bool = False, prior: bool = True) -> "Codec":
        """Read a bundle.

        Args:
            verify: also replay the golden vectors, see :meth:`verify`.
            prior: also read the learned prior, where there is one.

        Raises:
            InputError: no bundle there, a part missing or damaged, a newer format, or golden vectors that differ.
        """
        return bundle.read(path, lambda version: cls._of(version, verify, prior))

    @classmethod
    def _of(cls, version: bundle.Bundle, verify: bool, prior: bool) -> "Codec":
        path, description = version.path, version.description
        representation, encoder, decoder = (version.part(part) for part in bundle.PARTS)
        learned_prior, learned = version.prior(encoder) if prior else (None, None)
        options = {name: description[name] for name in ("family", "prior", "info")}
        frames = description["feature_shape"][1]
        options |= {"data": version.data(), "segment_frames": frames, "name": path.resolve().name}
        try:
            codec = cls(representation, encoder, decoder, learned_prior=learned_prior, learned=learned, **options)
            own = codec.description()
        except Exception as error:  # Keras raises any where layers do not fit
            reason = archives.first_line(error)
            raise InputError(f"the parts in {path} do not fit together: {reason}; {bundle.MEND}") from error
        for name in ("sample_rate", "segment_samples", "feature_shape", "latent_shapes"):
            if description.get(name, own[name]) != own[name]:
                raise InputError(
                    f"{path / bundle.DESCRIPTION} is damaged ({name} is {description[name]}, its parts have "
                    f"{own[name]}); {bundle.MEND}"
                )
        if verify:
            codec._verify(version, 1e-3)
        return codec

    def verify(self, path: str | os.PathLike, tolerance: float = 1e-3) -> dict[str, float]:
        """Replay a bundle's golden vectors and return the largest relative difference of each kind.

        Args:
            tolerance: largest difference allowed, relative to the largest golden value of its kind.

        Raises:
            InputError: golden vectors missing or damaged, or a difference above the tolerance: the model would not
                sound as it did when saved.
        """
        return bundle.read(path, lambda version: self._verify(version, tolerance))

    def _verify(self, version: bundle.Bundle, tolerance: float) -> dict[str, float]:
        file = version.file("golden.npz")
        golden = archives.load_arrays(file)
        waveform = golden.get("waveform", np.zeros(0))
        if (
            waveform.shape != (GOLDEN, self.segment_samples)
            or waveform.dtype != np.float32
            or not np.all(np.abs(waveform) <= 1.0)
        ):
            raise InputError(
                f"{file} is damaged (its waveform must be {(GOLDEN, self.segment_samples)}); {bundle.MEND}"
            )
        try:
            found = self.replay(waveform)
        except Exception as error:  # of layers that do not fit, known only when they run
            reason = archives.first_line(error)
            raise InputError(f"the parts in {version.path} do not fit together: {reason}; {bundle.MEND}") from error
        kinds = [{name: (array.shape, array.dtype) for name, array in arrays.items()} for arrays in (golden, found)]
        if kinds[0] != kinds[1]:
            raise InputError(f"{file} does not hold the features and latents of these parts; {bundle.MEND}")
        differences = {
            name: float(np.max(np.abs(found[name] - value)) / max(float(np.max(np.abs(value))), 1e-6))
            for name, value in golden.items()
            if name != "waveform"
        }
        worst = max(differences, key=lambda name: np.nan_to_num(differences[name], nan=np.inf))
        if not differences[worst] <= tolerance:
            raise InputError(
                f"{version.path} does not give what it gave when saved: {worst} differs by {differences[worst]:.2g} of "
                f"its range (allowed {tolerance:g}); check the library versions in codec.json or fit again"
            )
        return differences


def _signature(tensors) -> tuple[list[tuple[int, ...]], list[tf.DType]]:
    """Shapes, and types as they travel: whole numbers as int32, all else as float32 under any precision policy."""
    kinds = [tf.int32 if tf.as_dtype(tensor.dtype).is_integer else tf.float32 for tensor in tensors]
    return [tuple(tensor.shape[1:]) for tensor in tensors], kinds


GOLDEN = 4


def golden_waveforms(samples: int, sample_rate: int) -> np.ndarray:
    """Four test signals [shape=(4, samples)]: a sweep, a harmonic tone, noise that fades, silence."""
    time = np.arange(samples) / sample_rate
    nyquist = sample_rate / 2.0
    sweep = np.sin(2 * np.pi * (50.0 + 0.5 * (0.8 * nyquist - 50.0) * time / time.max(initial=1e-9)) * time)
    tone = sum(np.sin(2 * np.pi * 220.0 * n * time) / n for n in range(1, int(nyquist / 220.0) + 1))
    noise = np.random.default_rng(0).standard_normal(samples) * np.exp(-5.0 * time)
    stack = np.stack([0.5 * sweep, 0.3 * tone, 0.1 * noise, np.zeros(samples)])
    return stack.astype(np.float32)
