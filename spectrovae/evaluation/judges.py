"""Judges: small classifiers of sounds, trained on real recordings, that say what a reconstruction still tells.

A judge takes waveforms, so it hears what a listener would. Its folder:

judges/digits/
  judge.json            format version, what it tells and by which labels, sample rate, accuracy, file hashes
  representation.keras  network.keras
"""

import os
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

import spectrovae
from spectrovae import archives, audio, files, representations
from spectrovae.errors import InputError
from spectrovae.files import new_folder

FORMAT_VERSION = 1
RESULT = "judge.json"
TARGETS = ("label", "speaker")
FEATURES = 64

_FILES = ("representation.keras", "network.keras")


def build_network(feature_shape: tuple[int, int, int], classes: int, *, dropout: float = 0.3) -> keras.Model:
    """Convolutions over a log-mel spectrogram, the mean over time, and two outputs.

    Returns:
        Features (batch, bins, frames, channels) -> [logits (batch, classes), hidden (batch, 64)]; the hidden features,
        which the logits are made of, have unit variance on the training clips.
    """

    def convolution(x, filters):
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        # A training has some thousand steps: averages over a hundred of them would lag behind.
        return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))

    inputs = keras.Input(feature_shape)
    x = inputs
    for filters in (16, 32, 64):
        x = layers.MaxPooling2D(2, padding="same")(convolution(x, filters))
    x = convolution(x, 64)
    bins, frames, channels = x.shape[1:]
    x = layers.AveragePooling2D((1, frames))(x)
    x = layers.Dropout(dropout)(layers.Reshape((bins * channels,))(x))
    x = layers.Dense(FEATURES, use_bias=False)(x)
    hidden = layers.BatchNormalization(momentum=0.9, center=False, scale=False, name="hidden")(x)
    logits = layers.Dense(classes, name="logits")(layers.ReLU()(hidden))
    return keras.Model(inputs, [logits, hidden], name="judge")


class Judge:
    """A classifier of waveforms.

    Args:
        representation: waveform -> features.
        network: features -> [logits, hidden features], as :func:`build_network` makes it.
        target: what is told apart, ``"label"`` or ``"speaker"``.
        labels: the classes, in the order of the logits.
        samples: that a waveform is cut or padded to.
        name: for tables; the folder's by default.
        info: what else to keep: accuracy, data, any JSON.
    """

    def __init__(
        self,
        representation: representations.Representation,
        network: keras.Model,
        *,
        target: str,
        labels: list[str],
        samples: int,
        name: str = "judge",
        info: dict | None = None,
    ):
        self.representation, self.network = representation, network
        self.target, self.labels, self.samples, self.name = target, list(labels), samples, name
        self.sample_rate = representation.sample_rate
        self.info: dict[str, Any] = dict(info or {})
        shapes = [tuple(output.shape[1:]) for output in network.outputs]
        if len(shapes) != 2 or shapes[0] != (len(self.labels),) or len(shapes[1]) != 1:
            raise InputError(
                f"a judge of {len(self.labels)} labels gives logits and hidden features, received {shapes}"
            )
        if tuple(network.inputs[0].shape[1:]) != representation.feature_shape(samples):
            raise InputError(
                f"the judge's network takes features {tuple(network.inputs[0].shape[1:])}, {samples} samples give "
                f"{representation.feature_shape(samples)}"
            )
        waveform = tf.TensorSpec([None, samples], tf.float32)
        self._call = tf.function(self._graph, input_signature=[waveform], autograph=False)

    def _graph(self, waveform):
        logits, hidden = self.network(self.representation(waveform), training=False)
        return tf.argmax(logits, axis=-1), hidden

    def hear(self, waveforms: np.ndarray, sample_rate: int) -> tuple[np.ndarray, np.ndarray]:
        """Judge waveforms at any rate; they are resampled, and cut or padded at their end.

        Args:
            waveforms: (clips, samples).
            sample_rate: Hz.

        Returns:
            The places of the answers in ``labels`` (clips,), and the hidden features (clips, 64).

        Raises:
            InputError: samples that are no floating-point numbers.
        """
        waveforms = representations.base.check_waveform(waveforms).numpy()
        own = audio.resample(waveforms, sample_rate, self.sample_rate)
        answers, hidden = self._call(audio.fit_length(own, self.samples))
        return answers.numpy(), hidden.numpy()

    def truth(self, examples: list) -> np.ndarray:
        """The place in ``labels`` of each example of ``Recordings.examples``; -1 where the judge does not know its."""
        place = {label: number for number, label in enumerate(self.labels)}
        return np.array([place.get(getattr(example, self.target), -1) for example in examples], int)

    def save(self, path: str | os.PathLike, *, force: bool = False) -> None:
        """Write the judge's folder, whole or not at all.

        Raises:
            InputError: it exists already (``force`` replaces a judge, nothing else), or cannot be written.
        """
        with new_folder(path, force=force, mark=RESULT) as folder:
            self.representation.save(folder / "representation.keras")
            self.network.save(folder / "network.keras")
            description = {
                "format_version": FORMAT_VERSION,
                "spectrovae": spectrovae.__version__,
                "target": self.target,
                "labels": self.labels,
                "sample_rate": self.sample_rate,
                "samples": self.samples,
                "parameters": self.network.count_params(),
                "info": self.info,
                "files": {name: files.sha256(folder / name) for name in _FILES},
            }
            files.write_json(folder / RESULT, description)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Judge":
        """Read what :meth:`save` wrote.

        Raises:
            InputError: no judge there, a damaged one, or one of a newer version.
        """
        path = Path(path)

        def describe() -> bytes:
            if not os.path.isfile(path / RESULT):
                raise InputError(
                    f"no judge at {path}: expected a folder with {RESULT}, as spectrovae fit-judge writes it"
                )
            return archives.read_bytes(path / RESULT)

        return archives.read_unchanged(describe, lambda text: cls._of(path, text))

    @classmethod
    def _of(cls, path: Path, text: bytes) -> "Judge":
        fields = _checked(text, path)
        for name in _FILES:
            archives.check_file(path / name)
            if files.sha256(path / name) != fields["files"].get(name):
                raise InputError(f"{path / name} is not what {RESULT} has the hash of; fit the judge again")
        representation = representations.load(path / _FILES[0])
        network = archives.load_model(path / _FILES[1])
        options = {name: fields[name] for name in ("target", "labels", "samples", "info")}
        try:
            return cls(representation, network, name=path.resolve().name, **options)
        except Exception as error:  # Keras raises any where layers do not fit
            reason = archives.first_line(error)
            raise InputError(f"the parts of the judge {path} do not fit together: {reason}") from error


def _checked(text: bytes, path: Path) -> dict:
    """The content of ``judge.json``; InputError where a field is missing or of another type."""
    fields = archives.parse_json(text, path / RESULT)
    version = fields.get("format_version") if isinstance(fields, dict) else None
    if type(version) is int and version > FORMAT_VERSION:
        raise InputError(
            f"{path} has format version {version}, this spectrovae {spectrovae.__version__} reads up to "
            f"{FORMAT_VERSION}; upgrade spectrovae"
        )
    sound = type(version) is int and (
        version > 0
        and fields.get("target") in TARGETS
        and isinstance(fields.get("labels"), list)
        and all(isinstance(label, str) for label in fields["labels"])
        and type(fields.get("samples")) is int
        and fields["samples"] > 0
        and isinstance(fields.get("info"), dict)
        and isinstance(fields.get("files"), dict)
    )
    if not sound:
        raise InputError(f"{path / RESULT} is damaged: a field is missing or of another type; fit the judge again")
    return fields
