"""Decoders that are told who speaks, and encoders that are to leave it out: what trainers with ``speakers`` share.

A VQ-VAE whose decoder is given the speaker keeps in its codes what was said and how, and one speaker's codes decode in
another's voice (van den Oord, Vinyals and Kavukcuoglu, 2017). What the codes still tell of the speaker is pushed out by
a classifier whose gradient is turned round on its way into the encoder (Ganin and Lempitsky, 2015), and by what the
encoder is given: in training it hears a voice whose pitch and resonances were moved, and the decoder, told the speaker,
has to put them back (as in NANSY, Choi et al., 2021).
"""

import math
from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from spectrovae import layers
from spectrovae.errors import InputError
from spectrovae.models import base

SPEAKER = "speaker"
EMBEDDING = "speaker_embedding"
DIM = 16  # of a speaker's vector
HIDDEN = 64  # units of the adversary's layers


class Speakers(base.Trainer):
    """A trainer whose decoder takes ``[latent, speaker]`` where it has ``speakers``.

    Its inputs are then ``{"features": (batch, bins, frames, channels), "speaker": int32 (batch,)}``: the place of each
    example's speaker, and the number of speakers for anybody else. Features alone are spoken by nobody.
    """

    speaker_dropout = 0.0
    speaker_adversary = 0.0
    speaker_warp = 0.0
    disguise: keras.layers.Layer | None = None
    adversary: keras.Model | None = None

    def condition(self, speakers, speaker_dropout: float, speaker_adversary: float, speaker_warp: float) -> None:
        """Take the options, before encoder and decoder are built.

        Raises:
            InputError: fewer than two speakers, two of one name, or a number out of range.
        """
        names = tuple(map(str, speakers or ()))
        if not names:
            return
        if len(names) < 2 or len(set(names)) < len(names):
            raise InputError(f"speakers must be two different names at least, received {', '.join(names)}")
        if not 0.0 <= speaker_dropout < 1.0:
            raise InputError(f"speaker_dropout must be at least 0 and less than 1, received {speaker_dropout}")
        if not 0.0 <= speaker_adversary < math.inf:
            raise InputError(f"speaker_adversary must not be negative, received {speaker_adversary}")
        if not 0.0 <= speaker_warp <= 1.0:
            raise InputError(f"speaker_warp must lie between 0 and 1, received {speaker_warp}")
        self.speakers, self.speaker_dropout, self.speaker_adversary = names, speaker_dropout, speaker_adversary
        self.speaker_warp = speaker_warp
        if speaker_warp:
            self.disguise = layers.RandomWarp(bin_stretch=speaker_warp, seed=self.seed + 3, name="disguise")
        self.speaker_seed = keras.random.SeedGenerator(self.seed + 2)

    def oppose(self, shape: tuple[int, ...]) -> None:
        """Make the adversary, of encodings shaped (batch, *shape), where there is to be one."""
        if not self.speakers or not self.speaker_adversary:
            return
        inputs = keras.Input(shape, name="encodings")
        x = layers.GradientReversal(self.speaker_adversary, name="reversal")(inputs)
        if len(shape) > 1:
            for index in range(2):
                x = keras.layers.Conv2D(HIDDEN, 3, padding="same", activation="relu", name=f"conv_{index}")(x)
            x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
        x = keras.layers.Dense(HIDDEN, activation="relu", name="hidden_0")(x)
        x = keras.layers.Dense(HIDDEN, activation="relu", name="hidden_1")(x)
        logits = keras.layers.Dense(len(self.speakers), dtype="float32", name="logits")(x)
        self.adversary = keras.Model(inputs, logits, name="adversary")
        self.adversary_tracker = keras.metrics.Mean(name="adversary")

    def told(self, inputs, training: bool):
        """(features, what the decoder is told: int32 (batch,), or None where it is to be told nothing).

        In training a speaker becomes nobody with a probability of ``speaker_dropout``, so that one decoder does both.
        """
        features = inputs["features"] if isinstance(inputs, Mapping) else inputs
        if not self.speakers:
            return features, None
        nobody = ops.full((ops.shape(features)[0],), len(self.speakers), dtype="int32")
        if not isinstance(inputs, Mapping):
            return features, nobody
        speaker = ops.cast(inputs[SPEAKER], "int32")
        if training and self.speaker_dropout:
            uniform = keras.random.uniform(ops.shape(speaker), seed=self.speaker_seed)
            speaker = ops.where(uniform < self.speaker_dropout, nobody, speaker)
        return features, speaker

    def spoken(self, latent, speaker, training: bool):
        """What the decoder takes: the latent, with the speaker where there are any.

        In training a latent that nobody speaks has no gradient: the encoder is not to learn to make up for a speaker
        that the decoder is not told.
        """
        if speaker is None:
            return latent
        if training:
            told = ops.reshape(speaker < len(self.speakers), (-1, *[1] * (len(latent.shape) - 1)))
            latent = ops.where(told, latent, ops.stop_gradient(latent))
        return [latent, speaker]

    def disguised(self, features, training: bool):
        """What the encoder hears: in training, features at another pitch, by a factor of up to exp(+-speaker_warp)."""
        return self.disguise(features, training=True) if training and self.disguise is not None else features

    def guessed(self, encodings, training: bool) -> dict[str, Any]:
        """The adversary's logits of encodings, to be added to what ``call`` returns."""
        return {} if self.adversary is None else {"guessed": self.adversary(encodings, training=training)}

    def adversary_loss(self, x, y_pred, training: bool):
        """Cross-entropy of the adversary's guesses, nats per example; 0 in evaluation, where nobody is opposed."""
        if self.adversary is None or not isinstance(x, Mapping):
            return 0.0
        speaker = ops.cast(x[SPEAKER], "int32")
        known = ops.cast(speaker < len(self.speakers), "float32")
        place = ops.where(speaker < len(self.speakers), speaker, 0)
        nats = ops.sparse_categorical_crossentropy(place, y_pred["guessed"], from_logits=True)
        self.adversary_tracker.update_state(nats, sample_weight=known)
        return ops.mean(nats * known) if training else 0.0

    def reconstruct(self, features, speaker=None):
        """Features -> features through encoder and decoder, without noise; spoken by nobody, or by ``speaker``."""
        latent = self.encoder(features)
        if not self.speakers:
            return self.decoder(latent)
        if speaker is None:
            speaker = self.told(features, False)[1]
        return self.decoder([latent, ops.convert_to_tensor(speaker, dtype="int32")])

    def speaker_config(self) -> dict[str, Any]:
        """For ``get_config``; nothing where there are no speakers, so that runs from before them stay the same."""
        if not self.speakers:
            return {}
        names = ("speaker_dropout", "speaker_adversary", "speaker_warp")
        return {"speakers": list(self.speakers)} | {name: getattr(self, name) for name in names}


def speaker_input(names) -> tuple[Any, Any]:
    """A decoder's second input, and the speaker's vector (batch, 16); both None without names."""
    if not names:
        return None, None
    speaker = keras.Input((), dtype="int32", name=SPEAKER)
    return speaker, layers.SpeakerEmbedding(names, DIM, name=EMBEDDING)(speaker)


def modulate(x, condition, name: str, scale: bool = True):
    """Scale and shift the channels of ``x`` by a condition; ``x`` where there is none."""
    return x if condition is None else layers.Modulation(scale, name=f"modulate_{name}")(x, condition)


def inputs_of(latent, speaker):
    """A decoder's inputs: the latent alone, or ``[latent, speaker]``."""
    return latent if speaker is None else [latent, speaker]


# A decoder that takes the speaker, used by those who know of none


def takes_speaker(decoder: keras.Model) -> bool:
    """Whether a decoder has a speaker as its last input."""
    return len(decoder.inputs) > 1 and decoder.inputs[-1].name.split(":")[0] == SPEAKER


def for_nobody(decoder: keras.Model) -> keras.Model:
    """The same decoder, with the same weights, that takes latents alone: nobody is given."""
    latents = [
        keras.Input(tensor.shape[1:], dtype=tensor.dtype, name=tensor.name.split(":")[0])
        for tensor in decoder.inputs[:-1]
    ]
    nobody = layers.Nobody(len(names_of(decoder)), name="nobody")(latents[0])
    return keras.Model(latents if len(latents) > 1 else latents[0], decoder([*latents, nobody]), name=decoder.name)


def names_of(decoder: keras.Model) -> tuple[str, ...]:
    """Names of the speakers that a decoder takes; empty for one that takes none."""
    return decoder.get_layer(EMBEDDING).names if takes_speaker(decoder) else ()


def whole(decoder: keras.Model) -> keras.Model:
    """The decoder whose layers can be looked at: of one by :func:`for_nobody`, what is in it."""
    inner = next((layer for layer in decoder.layers if isinstance(layer, keras.Model)), None)
    return decoder if inner is None or not takes_speaker(inner) else inner


def part(decoder: keras.Model, start: str | None = None, end: str | None = None) -> keras.Model:
    """A decoder from the output of its layer ``start`` (its inputs), to that of ``end`` (its output).

    Where it is one by :func:`for_nobody`, so is the part.
    """
    inside = whole(decoder)
    output = inside.output if end is None else inside.get_layer(end).output
    if start is None:
        entry = list(inside.inputs)
        found = keras.Model(inside.input, output)
    else:
        # From the speaker's vector on: a model of inputs and of tensors between layers would spoil the inputs' nodes.
        told = [inside.get_layer(EMBEDDING).output] if takes_speaker(inside) else []
        entry = [inside.get_layer(start).output, *told]
        found = keras.Model(entry if told else entry[0], output)
    if not takes_speaker(inside):
        return found
    latent = keras.Input(entry[0].shape[1:], dtype=entry[0].dtype)
    if inside is decoder:
        speaker = given = keras.Input((), dtype="int32", name=SPEAKER)
    else:
        speaker, given = None, layers.Nobody(len(names_of(inside)))(latent)
    voice = given if start is None else inside.get_layer(EMBEDDING)(given)
    return keras.Model(inputs_of(latent, speaker), found([latent, voice]))
