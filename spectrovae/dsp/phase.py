"""Phase recovery: a waveform from a magnitude spectrogram."""

import tensorflow as tf

from spectrovae.dsp.stft import istft, stft


def griffin_lim(
    magnitude: tf.Tensor,
    n_fft: int,
    hop_length: int,
    *,
    iterations: int = 32,
    momentum: float = 0.99,
    length=None,
    seed: int = 0,
) -> tf.Tensor:
    """Fast Griffin-Lim: alternate projections with momentum from a random phase.

    Args:
        magnitude: float32 [shape=(batch, frames, 1 + n_fft // 2)], linear, not in dB, not mel.
        iterations: projections made; 0 inverts the random phase.
        momentum: 0 is the original algorithm (Griffin and Lim, 1984), 0.99 the fast one (Perraudin, Balazs and
            Sondergaard, 2013).
        length: samples wanted; by default ``(frames - 1) * hop_length``.
        seed: of the initial phase, which is the same for every row of a batch, so that a row's result does not depend
            on its place.

    Returns:
        float32 [shape=(batch, length)].

    Raises:
        ValueError: the last dimension is not ``1 + n_fft // 2``: a mel spectrogram or one without its Nyquist bin.
    """
    if magnitude.shape[-1] != 1 + n_fft // 2:
        raise ValueError(
            f"griffin_lim needs linear-frequency magnitudes with {1 + n_fft // 2} bins for n_fft={n_fft}, received "
            f"{magnitude.shape[-1]}; invert a mel scale first, and put a dropped Nyquist bin back"
        )
    frames = tf.shape(magnitude)[1]
    length = (frames - 1) * hop_length if length is None else length
    angle = tf.random.stateless_uniform([1, frames, magnitude.shape[-1]], [seed, 0], 0.0, 2.0 * 3.141592653589793)
    phase = tf.complex(tf.cos(angle), tf.sin(angle)) * tf.ones_like(tf.complex(magnitude, 0.0))
    scaled = tf.complex(magnitude, 0.0)
    blend = tf.constant(momentum / (1.0 + momentum), tf.complex64)

    def project(index, phase, previous):
        rebuilt = stft(istft(scaled * phase, n_fft, hop_length, length), n_fft, hop_length)
        # A length that is no multiple of the hop can give one frame more or less than the magnitude has.
        rebuilt = tf.pad(rebuilt[:, :frames], [[0, 0], [0, tf.maximum(frames - tf.shape(rebuilt)[1], 0)], [0, 0]])
        rebuilt = tf.ensure_shape(rebuilt, magnitude.shape)
        return index + 1, _unit(rebuilt - blend * previous), rebuilt

    _, phase, _ = tf.while_loop(
        lambda index, *_: index < iterations, project, (0, phase, tf.zeros_like(phase)), maximum_iterations=iterations
    )
    return istft(scaled * phase, n_fft, hop_length, length)


def _unit(spectrum: tf.Tensor) -> tf.Tensor:
    power = tf.square(tf.math.real(spectrum)) + tf.square(tf.math.imag(spectrum))
    return spectrum * tf.complex(tf.math.rsqrt(power + 1e-20), 0.0)
