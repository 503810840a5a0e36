"""Phase recovery: a waveform from a magnitude spectrogram.

=========================== ==================================================================================
``griffin_lim``             alternate projections, plain (momentum 0) or fast (momentum 0.99)
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
from typing import NamedTuple

import tensorflow as tf

from spectrovae.dsp.stft import _uncentre, frame, hann, inverse_window_sum, overlap_add
from spectrovae.errors import InputError

METHODS = ("fast_griffin_lim", "griffin_lim", "admm", "pghi", "pghi_fast_griffin_lim")

_QUIETEST = 1e-5  # of a row's loudest bin: the floor of the logarithms
_FAINT = 0.01  # of a frame's loudest bin: under it no phase is continued; 0 gains 0.1 dB and takes a third more time
_TINY = 1e-30
_HANN_GAMMA = 0.25645  # the Gaussian exp(-pi t^2 / (gamma n_fft^2)) is the one nearest to the Hann window


def invert_magnitude(
    magnitude: tf.Tensor,
    n_fft: int,
    hop_length: int,
    *,
    method: str = "fast_griffin_lim",
    iterations: int = 32,
    length=None,
    seed: int = 0,
) -> tf.Tensor:
    """A waveform whose magnitude spectrogram is near the one given.

    Args:
        magnitude: float32 [shape=(batch, frames, 1 + n_fft // 2)], linear, not in dB, not mel.
        method: one of ``METHODS``. ``pghi_fast_griffin_lim`` is the best per second of computing time.
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
    phase = pghi_phase(magnitude, n_fft, hop_length) if method == "pghi_fast_griffin_lim" else None
    momentum = 0.0 if method == "griffin_lim" else 0.99
    return griffin_lim(
        magnitude, n_fft, hop_length, iterations=iterations, momentum=momentum, length=length, seed=seed, phase=phase
    )


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
    length=None,
    seed: int = 0,
    phase: tf.Tensor | None = None,
) -> tf.Tensor:
    """Fast Griffin-Lim: alternate projections with momentum.

    Args:
        magnitude: float32 [shape=(batch, frames, 1 + n_fft // 2)], linear, not in dB, not mel.
        iterations: projections made; 0 inverts the initial phase.
        momentum: 0 is the original algorithm (Griffin and Lim, 1984), 0.99 the fast one (Perraudin, Balazs and
            Sondergaard, 2013).
        length: samples wanted; by default ``(frames - 1) * hop_length``.
        seed: of the initial phase, which is the same for every row of a batch, so that a row's result does not depend
            on its place.
        phase: where to start instead, in radians, of the magnitude's shape.

    Returns:
        float32 [shape=(batch, length)].

    Raises:
        InputError: the last dimension is not ``1 + n_fft // 2``: a mel spectrogram or one without its Nyquist bin.
    """
    _check(magnitude, n_fft)
    analyse, synthesise, finish = _transforms(magnitude, n_fft, hop_length, length)

    # The momentum is a combination of consistent spectra, hence of waveforms, which are far smaller to handle.
    def project(index, ahead, previous):
        current = synthesise(_with_magnitude(analyse(ahead), magnitude))
        return index + 1, current + momentum * (current - previous), current

    start = synthesise(_initial(magnitude, phase, seed))
    _, _, signal = tf.while_loop(
        lambda index, *_: index < iterations, project, (0, start, start), maximum_iterations=iterations
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
    _check(magnitude, n_fft)
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


def pghi_phase(magnitude: tf.Tensor, n_fft: int, hop_length: int) -> tf.Tensor:
    """Phase gradient integration for the Hann window (after Prusa, Balazs and Sondergaard, 2017).

    For a Gaussian window the gradient of the phase is that of the log magnitude, turned by a right angle; the Hann
    window is near enough. The gradient is integrated along a maximum spanning tree of the spectrogram, so that the
    phase spreads over the loudest paths. The published algorithm grows that tree bin by bin with a heap. Here it is
    built for all bins at once: within a frame, the bins around a peak follow it; then the peaks, some ten times fewer
    than bins, are joined over frames and valleys by Boruvka's rounds (each tree takes its loudest link, the linked
    trees become one), about six for a second of speech.

    Args:
        magnitude: float32 [shape=(batch, frames, 1 + n_fft // 2)], linear, not in dB, not mel.

    Returns:
        float32 of the same shape, radians.

    Raises:
        InputError: the last dimension is not ``1 + n_fft // 2``.
    """
    _check(magnitude, n_fft)
    frames, bins = tf.shape(magnitude)[1], 1 + n_fft // 2
    loudest = tf.reduce_max(magnitude, [1, 2], keepdims=True)
    magnitude, level = _cleaned(magnitude, loudest)
    advance = _advance(level, n_fft, hop_length)
    within = _within_frame(_central_difference(level, 1), n_fft, hop_length)
    magnitude = _without_faint(magnitude)
    peaks, peak_of = _peaks(magnitude)

    flat, within_flat, advance = (tf.reshape(x, [-1]) for x in (magnitude, within, advance))
    number = tf.range(tf.size(peaks))

    def to_frame(step):
        """Links from the peaks to whatever peak their bin belongs to in the next (1) or the previous (-1) frame."""
        place = peaks // bins % frames + step
        there = tf.clip_by_value(peaks + step * bins, 0, tf.size(flat) - 1)
        inside = (place >= 0) & (place < frames)
        strength = tf.where(inside, tf.minimum(tf.gather(flat, peaks), tf.gather(flat, there)), 0.0)
        moved = 0.5 * step * (tf.gather(advance, peaks) + tf.gather(advance, there))
        offset = tf.gather(within_flat, there) - tf.gather(within_flat, peaks) - moved
        return number, tf.gather(peak_of, there), strength, offset

    # Neighbours in a frame share its integral over the bins; the valley between them is their link's strength.
    valley = tf.cast(tf.where(peak_of[1:] != peak_of[:-1])[:, 0], tf.int32)
    strength = tf.minimum(tf.gather(flat, valley), tf.gather(flat, valley + 1))
    strength = tf.where((valley + 1) % bins != 0, strength, 0.0)
    to_neighbour = (number[:-1], number[1:], strength, tf.zeros_like(strength))

    links = [tf.concat(parts, 0) for parts in zip(to_neighbour, to_frame(-1), to_frame(1))]
    offset = _spanning_forest(tf.size(peaks), *links)
    phase = tf.gather(offset, peak_of) + within_flat
    return tf.reshape(phase, tf.shape(magnitude)) + math.pi * (tf.range(bins, dtype=tf.float32) % 2.0)


def _spanning_forest(count, first, second, strength, offset):
    """Potentials of ``count`` nodes, from links ``potential[first] = potential[second] + offset``, strongest first.

    Boruvka's algorithm; links of strength 0 are not used. Every tree has one node of potential 0.
    """
    # Strengths made unique by the link's number: equal ones could close a circle. Bits of positive floats sort as they.
    bits = tf.cast(tf.bitcast(strength, tf.int32), tf.int64)
    key = tf.bitwise.left_shift(bits, tf.constant(32, tf.int64)) + tf.range(tf.size(bits, tf.int64))
    useful = strength > 0.0
    links = tuple(tf.boolean_mask(x, useful) for x in (first, second, offset, key))
    number = tf.range(count)

    def grow(root, potential, first, second, offset, key):
        best = tf.maximum(
            tf.math.unsorted_segment_max(key, first, count), tf.math.unsorted_segment_max(key, second, count)
        )
        by_first, by_second = (tf.where(tf.gather(best, end) == key)[:, 0] for end in (first, second))
        child = tf.concat([tf.gather(first, by_first), tf.gather(second, by_second)], 0)
        parent = tf.concat([tf.gather(second, by_first), tf.gather(first, by_second)], 0)
        moved = tf.concat([tf.gather(offset, by_first), -tf.gather(offset, by_second)], 0)
        parent = tf.tensor_scatter_nd_update(number, child[:, None], parent)
        moved = tf.tensor_scatter_nd_update(tf.zeros_like(potential), child[:, None], moved)
        mutual = (tf.gather(parent, parent) == number) & (number < parent)
        parent, moved = tf.where(mutual, number, parent), tf.where(mutual, 0.0, moved)
        parent, moved = _to_roots(parent, moved)

        potential = _wrapped(potential + tf.gather(moved, root))
        offset = offset + tf.gather(moved, second) - tf.gather(moved, first)
        first, second = tf.gather(parent, first), tf.gather(parent, second)
        links = (tf.boolean_mask(x, first != second) for x in (first, second, offset, key))
        return tf.gather(parent, root), potential, *links

    _, potential, *_ = tf.while_loop(
        lambda root, potential, first, *_: tf.size(first) > 0,
        grow,
        (number, tf.zeros([count]), *links),
        shape_invariants=(tf.TensorShape([None]),) * 6,
    )
    return potential


def _to_roots(parent, moved):
    """Follow parents to the roots of their trees, adding up the way: each pass doubles the steps made."""

    def jump(parent, moved, _):
        further = tf.gather(parent, parent)
        return further, _wrapped(moved + tf.gather(moved, parent)), tf.reduce_any(further != parent)

    parent, moved, _ = tf.while_loop(lambda *state: state[-1], jump, (parent, moved, tf.constant(True)))
    return parent, moved


def _cleaned(magnitude, loudest):
    """The magnitude with what is too quiet, or not a number, set to 0; and its logarithm, floored."""
    floor = _QUIETEST * loudest
    cleaned = tf.where(magnitude > floor, magnitude, 0.0)
    return cleaned, tf.math.log(tf.maximum(cleaned, floor) + _TINY)


def _without_faint(magnitude):
    """The magnitude with what is faint beside its own frame set to 0."""
    return tf.where(magnitude > _FAINT * tf.reduce_max(magnitude, -1, keepdims=True), magnitude, 0.0)


def _advance(level, n_fft, hop_length):
    """Phase from one frame to the next at each bin, in radians."""
    bins = 1 + n_fft // 2
    turns = tf.cast(hop_length * tf.range(bins) % n_fft, tf.float32) / n_fft
    return _central_difference(level, 2) * (hop_length / (_HANN_GAMMA * n_fft)) + 2.0 * math.pi * turns


def _within_frame(slope, n_fft, hop_length):
    """Phase along the bins of each frame up to a constant, from the log magnitude's change per frame."""
    per_bin = slope * (-_HANN_GAMMA * n_fft / hop_length)
    return tf.cumsum(0.5 * (per_bin + tf.pad(per_bin[..., :-1], [[0, 0], [0, 0], [1, 0]])), axis=-1)


def _central_difference(x, axis):
    """Half the difference of the two neighbours; at the ends, half that of the end and its neighbour."""
    before, after = [[0, 0]] * 3, [[0, 0]] * 3
    before[axis], after[axis] = [1, 0], [0, 1]
    step = x[:, 1:] - x[:, :-1] if axis == 1 else x[..., 1:] - x[..., :-1]
    return 0.5 * (tf.pad(step, before) + tf.pad(step, after))


def _peaks(magnitude):
    """Flat positions of the peaks of all frames, in order, and for every bin the number of the peak uphill of it."""
    left = tf.pad(magnitude[..., :-1], [[0, 0], [0, 0], [1, 0]], constant_values=-1.0)
    right = tf.pad(magnitude[..., 1:], [[0, 0], [0, 0], [0, 1]], constant_values=-1.0)
    is_peak = (magnitude > left) & (magnitude >= right)
    rises = (right > tf.maximum(left, magnitude)) & ~is_peak
    is_peak, rises = tf.reshape(is_peak, [-1]), tf.reshape(rises, [-1])
    peak_of = tf.cumsum(tf.cast(is_peak, tf.int32)) - tf.cast(~rises, tf.int32)
    return tf.cast(tf.where(is_peak)[:, 0], tf.int32), peak_of


def _wrapped(angle):
    return angle - 2.0 * math.pi * tf.round(angle / (2.0 * math.pi))


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
    _check(magnitude, n_fft)
    if hop_length > n_fft:
        raise InputError(f"hop_length must not exceed n_fft={n_fft} in real time, received {hop_length}")
    known = tf.concat([state.magnitude, magnitude[:, None]], 1)
    loudest = tf.maximum(state.loudest, tf.reduce_max(known, [1, 2], keepdims=True))
    cleaned, level = _cleaned(known, loudest)
    advance = _advance(level[:, 1:2], n_fft, hop_length)
    within = _within_frame(0.5 * (level[:, 2:] - level[:, :1]), n_fft, hop_length)
    peaks, peak_of = _peaks(_without_faint(cleaned[:, 1:2]))
    continued = state.phase + 0.5 * (state.advance + advance) - within
    phase = tf.gather(tf.gather(tf.reshape(continued, [-1]), peaks), peak_of)
    phase = _wrapped(tf.reshape(phase, tf.shape(within)) + within)

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
    _check(magnitude, n_fft)
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
    return _uncentre(signal[:, hop_length:], n_fft, length)


def _check(magnitude, n_fft):
    bins = 1 + n_fft // 2
    if magnitude.shape[-1] != bins:
        raise InputError(
            f"phase recovery needs linear-frequency magnitudes with {bins} bins for n_fft={n_fft}, received "
            f"{magnitude.shape[-1]}; invert a mel scale first, and put a dropped Nyquist bin back"
        )


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

    return analyse, synthesise, lambda signal: _uncentre(signal, n_fft, length)


def _initial(magnitude, phase, seed):
    if phase is None:
        # One generator named, since the default differs between devices and under XLA.
        shape = [1, tf.shape(magnitude)[1], magnitude.shape[-1]]
        phase = tf.random.stateless_uniform(shape, [seed, 0], 0.0, 2.0 * math.pi, alg="philox")
    return tf.complex(magnitude * tf.cos(phase), magnitude * tf.sin(phase))


def _with_magnitude(spectrum, magnitude):
    power = tf.square(tf.math.real(spectrum)) + tf.square(tf.math.imag(spectrum))
    return spectrum * tf.complex(magnitude * tf.math.rsqrt(power + _TINY), 0.0)


def _reciprocal(weight):
    return tf.math.divide_no_nan(tf.ones_like(weight), tf.where(weight > 1e-8, weight, 0.0))
