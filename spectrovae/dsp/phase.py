"""Phase recovery: a waveform from a magnitude spectrogram.

=========================== ==================================================================================
``griffin_lim``             alternate projections: plain, fast (momentum) or accelerated (over-relaxed besides)
``admm``                    alternating direction method of multipliers over the same two sets
``pghi``                    the phase by integrating its gradient, which the magnitude tells: no iterations
``invert_magnitude``        any of these by name, and fast Griffin-Lim started from PGHI's phase
``causal_step``             one frame in, ``hop_length`` samples out: for live synthesis
=========================== ==================================================================================

Everything is batched, made of TensorFlow operations, and repeatable; a row's result does not depend on the other rows.
Magnitudes are linear and laid out (batch, frames, bins), as :func:`spectrovae.dsp.stft.stft` makes them.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from spectrovae.dsp.phase_gradient import (
    advancing_phase,
    check_magnitude,
    cleaned,
    find_peaks,
    frame_advance,
    pghi_phase,
    within_frame,
    without_faint,
    wrapped,
)
from spectrovae.dsp.stft import frame, hann, inverse_window_sum, overlap_add, uncentre
from spectrovae.errors import InputError

METHODS = ("accelerated_griffin_lim", "fast_griffin_lim", "griffin_lim", "admm", "pghi", "pghi_fast_griffin_lim")

_TINY = 1e-30


def invert_magnitude(
    magnitude: tf.Tensor,
    n_fft: int,
    hop_length: int,
    *,
    method: str = "accelerated_griffin_lim",
    iterations: int = 24,
    length=None,
    seed: int = 0,
) -> tf.Tensor:
    """A waveform whose magnitude spectrogram is near the one given.

    Args:
        magnitude: float32 [shape=(batch, frames, 1 + n_fft // 2)], linear, not in dB, not mel.
        method: one of ``METHODS``. ``accelerated_griffin_lim`` starts from :func:`advancing_phase` and compiles under
            XLA; ``pghi_fast_griffin_lim`` needs the fewest iterations, and a CPU for its start.
        iterations: of every method but ``pghi``.
        length: samples wanted; by default ``(frames - 1) * hop_length``.
        seed: of the initial phase, where the method has one.

    Returns:
        float32 [shape=(batch, length)].

    Raises:
        InputError: an unknown method, or the last dimension is not ``1 + n_fft // 2``.
    """
    check_method(method)
    if method == "pghi":
        return pghi(magnitude, n_fft, hop_length, length=length)
    if method == "admm":
        return admm(magnitude, n_fft, hop_length, iterations=iterations, length=length, seed=seed)
    options: dict[str, Any] = {"momentum": 0.0 if method == "griffin_lim" else 0.99}
    if method == "accelerated_griffin_lim":
        options |= {"inertia": 1.2, "relaxation": 1.25, "phase": advancing_phase(magnitude, n_fft, hop_length)}
    elif method == "pghi_fast_griffin_lim":
        options["phase"] = pghi_phase(magnitude, n_fft, hop_length)
    return griffin_lim(magnitude, n_fft, hop_length, iterations=iterations, length=length, seed=seed, **options)


def check_method(method: str) -> str:
    """Return the method, or say which there are."""
    if method not in METHODS:
        raise InputError(f"method must be one of {', '.join(METHODS)}, received {method!r}")
    return method


def griffin_lim(
    magnitude: tf.Tensor,
    n_fft: int,
    hop_length: int,
    *,
    iterations: int = 32,
    momentum: float = 0.99,
    inertia: float = 0.0,
    relaxation: float = 1.0,
    length=None,
    seed: int = 0,
    phase: tf.Tensor | None = None,
) -> tf.Tensor:
    """Griffin-Lim, plain, fast or accelerated: alternate projections with momentum.

    Args:
        magnitude: float32 [shape=(batch, frames, 1 + n_fft // 2)], linear, not in dB, not mel.
        iterations: projections made; 0 inverts the initial phase.
        momentum: 0 is the original algorithm (Griffin and Lim, 1984), 0.99 the fast one (Perraudin, Balazs and
            Sondergaard, 2013).
        inertia, relaxation: beta and gamma of accelerated Griffin-Lim (Nenov, Nguyen, Balazs and Bot, 2023), whose
            alpha is the momentum. A relaxation of 1 leaves both out; from about 1.3 on it no longer converges.
        length: samples wanted; by default ``(frames - 1) * hop_length``.
        seed: of the initial phase, which is the same for every row of a batch, so that a row's result does not depend
            on its place.
        phase: where to start instead, in radians, of the magnitude's shape.

    Returns:
        float32 [shape=(batch, length)].

    Raises:
        InputError: the last dimension is not ``1 + n_fft // 2``: a mel spectrogram or one without its Nyquist bin.
    """
    check_magnitude(magnitude, n_fft)
    analyse, synthesise, finish = _transforms(magnitude, n_fft, hop_length, length)

    # All is a combination of consistent spectra, hence of waveforms, which are far smaller to handle.
    def project(index, ahead, carried, previous, _):
        projected = synthesise(_with_magnitude(analyse(ahead), magnitude))
        relaxed = relaxation * projected + (1.0 - relaxation) * carried if relaxation != 1.0 else projected
        step = relaxed - previous
        carried = relaxed + inertia * step if relaxation != 1.0 else carried
        return index + 1, relaxed + momentum * step, carried, relaxed, projected

    start = synthesise(_initial(magnitude, phase, seed))
    *_, signal = tf.while_loop(
        lambda index, *_: index < iterations, project, (0, *[start] * 4), maximum_iterations=iterations
    )
    return finish(signal)


def admm(
    magnitude: tf.Tensor,
    n_fft: int,
    hop_length: int,
    *,
    iterations: int = 32,
    rho: float = 0.1,
    length=None,
    seed: int = 0,
    phase: tf.Tensor | None = None,
) -> tf.Tensor:
    """Phase recovery by the alternating direction method of multipliers (Masuyama, Yatabe and Oikawa, 2019).

    Args:
        rho: how far an inconsistent spectrum is tolerated on the way.

    Other arguments, result and errors: see :func:`griffin_lim`. Better than it with little overlap.
    """
    check_magnitude(magnitude, n_fft)
    analyse, synthesise, finish = _transforms(magnitude, n_fft, hop_length, length)

    def update(index, consistent, dual, _):
        exact = _with_magnitude(consistent - dual, magnitude)
        both = exact + dual
        consistent = (rho * both + analyse(synthesise(both))) / (1.0 + rho)
        return index + 1, consistent, both - consistent, exact

    start = _initial(magnitude, phase, seed)
    _, _, _, spectrum = tf.while_loop(
        lambda index, *_: index < iterations,
        update,
        (0, start, tf.zeros_like(start), start),
        maximum_iterations=iterations,
    )
    return finish(synthesise(spectrum))


def pghi(magnitude: tf.Tensor, n_fft: int, hop_length: int, *, length=None) -> tf.Tensor:
    """The waveform of :func:`pghi_phase`'s phase. Arguments, result and errors: see :func:`griffin_lim`."""
    return griffin_lim(
        magnitude, n_fft, hop_length, iterations=0, length=length, phase=pghi_phase(magnitude, n_fft, hop_length)
    )


class CausalState(NamedTuple):
    """What :func:`causal_step` remembers of the frames before, float32; ``batch`` rows."""

    magnitude: tf.Tensor  # (batch, 2, bins): the last two frames
    loudest: tf.Tensor  # (batch, 1, 1): of all bins so far
    advance: tf.Tensor  # (batch, 1, bins): of the last frame synthesised
    phase: tf.Tensor  # (batch, 1, bins): of the last frame synthesised
    signal: tf.Tensor  # (batch, n_fft): overlap-added, unfinished
    weight: tf.Tensor  # (1, n_fft): overlap-added squared windows


def causal_state(batch, n_fft: int) -> CausalState:
    """The state before the first frame of ``batch`` streams."""
    bins = 1 + n_fft // 2
    return CausalState(
        tf.zeros([batch, 2, bins]),
        tf.zeros([batch, 1, 1]),
        tf.zeros([batch, 1, bins]),
        tf.zeros([batch, 1, bins]),
        tf.zeros([batch, n_fft]),
        tf.zeros([1, n_fft]),
    )


def causal_step(
    state: CausalState, magnitude: tf.Tensor, n_fft: int, hop_length: int, *, iterations: int = 2
) -> tuple[CausalState, tf.Tensor]:
    """One frame of magnitudes in, ``hop_length`` samples out: phase gradient integration in real time.

    Each peak of a frame continues the phase of the frame before, the bins around it follow along the gradient (after
    Prusa and Sondergaard, 2016); a few projections onto what is already played then mend the frame (real-time
    Griffin-Lim: Zhu, Beauregard and Wyse, 2007). A frame is synthesised once the next one is known, so the first step
    gives silence and the delay is ``hop_length + n_fft // 2`` samples from a frame's centre.

    Args:
        state: of the step before; :func:`causal_state` at first.
        magnitude: float32 [shape=(batch, 1 + n_fft // 2)], linear.
        iterations: projections per frame.

    Returns:
        (the state for the next step, float32 samples [shape=(batch, hop_length)]).

    Raises:
        InputError: the last dimension is not ``1 + n_fft // 2``, or ``hop_length`` exceeds ``n_fft``.
    """
    check_magnitude(magnitude, n_fft)
    if hop_length > n_fft:
        raise InputError(f"hop_length must not exceed n_fft={n_fft} in real time, received {hop_length}")
    known = tf.concat([state.magnitude, magnitude[:, None]], 1)
    loudest = tf.maximum(state.loudest, tf.reduce_max(known, [1, 2], keepdims=True))
    clean, level = cleaned(known, loudest)
    advance = frame_advance(level[:, 1:2], n_fft, hop_length)
    within = within_frame(0.5 * (level[:, 2:] - level[:, :1]), n_fft, hop_length)
    peaks, peak_of = find_peaks(without_faint(clean[:, 1:2]))
    continued = state.phase + 0.5 * (state.advance + advance) - within
    phase = tf.gather(tf.gather(tf.reshape(continued, [-1]), peaks), peak_of)
    phase = wrapped(tf.reshape(phase, tf.shape(within)) + within)

    window = hann(n_fft)
    now = known[:, 1]
    turned = math.pi * (tf.range(1 + n_fft // 2, dtype=tf.float32) % 2.0)  # from a frame's centre to its start
    spectrum = _initial(now, phase[:, 0] + turned, 0)
    weight = state.weight + tf.square(window)
    gain = _reciprocal(weight)

    def played(spectrum):
        return state.signal + tf.signal.irfft(spectrum, [n_fft]) * window

    for _ in range(iterations):
        spectrum = _with_magnitude(tf.signal.rfft(played(spectrum) * gain * window), now)
    if iterations:
        phase = (tf.math.angle(spectrum) - turned)[:, None]
    signal = played(spectrum)
    after = [[0, 0], [0, hop_length]]
    following = CausalState(
        known[:, 1:],
        loudest,
        advance,
        phase,
        tf.pad(signal[:, hop_length:], after),
        tf.pad(weight[:, hop_length:], after),
    )
    return following, (signal * gain)[:, :hop_length]


def causal(magnitude: tf.Tensor, n_fft: int, hop_length: int, *, iterations: int = 2, length=None) -> tf.Tensor:
    """A whole spectrogram through :func:`causal_step`, its delay taken off. Arguments: see :func:`griffin_lim`."""
    check_magnitude(magnitude, n_fft)
    frames = tf.shape(magnitude)[1]
    length = (frames - 1) * hop_length if length is None else length
    steps = frames + 1 + n_fft // hop_length  # the last ones play what is left
    padded = tf.pad(magnitude, [[0, 0], [0, steps - frames], [0, 0]])

    def step(index, state, pieces):
        state, samples = causal_step(state, padded[:, index], n_fft, hop_length, iterations=iterations)
        return index + 1, CausalState(*state), pieces.write(index, samples)

    pieces = tf.TensorArray(tf.float32, size=steps)
    state = causal_state(tf.shape(magnitude)[0], n_fft)
    shapes = CausalState(*(tf.TensorShape([None] * x.shape.rank) for x in state))
    _, _, pieces = tf.while_loop(
        lambda index, *_: index < steps,
        step,
        (0, state, pieces),
        shape_invariants=(tf.TensorShape([]), shapes, tf.TensorShape(None)),
    )
    signal = tf.reshape(tf.transpose(pieces.stack(), [1, 0, 2]), [tf.shape(magnitude)[0], steps * hop_length])
    return uncentre(signal[:, hop_length:], n_fft, length)


def _transforms(magnitude, n_fft, hop_length, length) -> tuple[Callable, Callable, Callable]:
    """STFT and least-squares inverse between spectra and centred signals padded to all of the magnitude's frames.

    The third takes the padding off. Samples outside the length wanted stay zero.
    """
    frames = tf.shape(magnitude)[1]
    length = (frames - 1) * hop_length if length is None else length
    window = hann(n_fft)
    gain = inverse_window_sum(n_fft, hop_length, frames)
    place = tf.range(tf.shape(gain)[1]) - n_fft // 2
    gain = tf.where((place >= 0) & (place < length), gain, 0.0)

    def analyse(signal):
        return tf.ensure_shape(tf.signal.rfft(frame(signal, n_fft, hop_length, frames) * window), magnitude.shape)

    def synthesise(spectrum):
        return overlap_add(tf.signal.irfft(spectrum, [n_fft]) * window, hop_length) * gain

    return analyse, synthesise, lambda signal: uncentre(signal, n_fft, length)


def _initial(magnitude, phase, seed):
    if phase is None:
        # One generator named, since the default differs between devices and under XLA.
        shape = [1, tf.shape(magnitude)[1], magnitude.shape[-1]]
        phase = tf.random.stateless_uniform(shape, [seed, 0], 0.0, 2.0 * math.pi, alg="philox")
    return tf.complex(magnitude * tf.cos(phase), magnitude * tf.sin(phase))


def _with_magnitude(spectrum, magnitude):
    power = tf.square(tf.math.real(spectrum)) + tf.square(tf.math.imag(spectrum))
    return spectrum * tf.cast(magnitude * tf.math.rsqrt(power + _TINY), spectrum.dtype)


def _reciprocal(weight):
    return tf.math.divide_no_nan(tf.ones_like(weight), tf.where(weight > 1e-8, weight, 0.0))
