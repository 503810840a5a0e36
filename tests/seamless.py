"""A codec of convolutions over any number of frames, and noise to send through it."""

import keras
import numpy as np
from keras import layers

from spectrovae.codec import Codec
from spectrovae.representations import Subbands

FRAMES, BANDS = 64, 4


def seamless(kernel=5, **options):
    """Convolutions of any number of frames: (4, frames, 1) -> (frames / 2, 3) -> (4, frames, 1)."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((BANDS, None, 1))
    x = layers.Reshape((-1, BANDS))(layers.Permute((2, 1, 3))(inputs))
    encoder = keras.Model(inputs, layers.Conv1D(3, kernel, 2, padding="same", activation="tanh")(x))
    latent = keras.Input((None, 3))
    x = layers.Conv1D(BANDS, kernel, padding="same")(layers.UpSampling1D(2)(latent))
    decoder = keras.Model(latent, layers.Permute((2, 1, 3))(layers.Reshape((-1, BANDS, 1))(x)))
    return Codec(Subbands(8000, bands=BANDS), encoder, decoder, segment_frames=FRAMES, **options)


def sound(samples, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)
