"""Phase gradient integration: the phase that a magnitude spectrogram tells, by itself.

The pieces here serve a whole spectrogram (:func:`pghi_phase`) and one frame after another
(:func:`spectrovae.dsp.phase.causal_step`) alike. Magnitudes are linear and laid out (batch, frames, bins).
"""

import math

import tensorflow as tf

from spectrovae.errors import InputError

_QUIETEST = 1e-5  # of a row's loudest bin: the floor of the logarithms
_FAINT = 0.01  # of a frame's loudest bin: under it no phase is continued; 0 gains 0.1 dB and takes a third more time
_TINY = 1e-30
_HANN_GAMMA = 0.25645  # the Gaussian exp(-pi t^2 / (gamma n_fft^2)) is the one nearest to the Hann window


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
    check_magnitude(magnitude, n_fft)
    frames, bins = tf.shape(magnitude)[1], 1 + n_fft // 2
    loudest = tf.reduce_max(magnitude, [1, 2], keepdims=True)
    magnitude, level = cleaned(magnitude, loudest)
    advance = frame_advance(level, n_fft, hop_length)
    within = within_frame(_central_difference(level, 1), n_fft, hop_length)
    magnitude = without_faint(magnitude)
    peaks, peak_of = find_peaks(magnitude)

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


def advancing_phase(magnitude: tf.Tensor, n_fft: int, hop_length: int) -> tf.Tensor:
    """The gradient integrated along time alone, each bin by itself: the cheap start of a search.

    It keeps every partial going at its own frequency; what it does not know, how the bins of a frame belong together,
    the search finds out. Arguments, result and errors: see :func:`pghi_phase`.
    """
    check_magnitude(magnitude, n_fft)
    _, level = cleaned(magnitude, tf.reduce_max(magnitude, [1, 2], keepdims=True))
    advance = frame_advance(level, n_fft, hop_length)
    # Wrapped before it is summed, or float32 would lose the phase of a long sound.
    step = wrapped(0.5 * (advance[:, 1:] + advance[:, :-1]))
    phase = tf.pad(tf.cumsum(step, axis=1), [[0, 0], [1, 0], [0, 0]])
    return phase + math.pi * (tf.range(1 + n_fft // 2, dtype=tf.float32) % 2.0)


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

        potential = wrapped(potential + tf.gather(moved, root))
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
        return further, wrapped(moved + tf.gather(moved, parent)), tf.reduce_any(further != parent)

    parent, moved, _ = tf.while_loop(lambda *state: state[-1], jump, (parent, moved, tf.constant(True)))
    return parent, moved


def cleaned(magnitude, loudest):
    """The magnitude with what is too quiet, or not a number, set to 0; and its logarithm, floored."""
    floor = _QUIETEST * loudest
    cleaned = tf.where(magnitude > floor, magnitude, 0.0)
    return cleaned, tf.math.log(tf.maximum(cleaned, floor) + _TINY)


def without_faint(magnitude):
    """The magnitude with what is faint beside its own frame set to 0."""
    return tf.where(magnitude > _FAINT * tf.reduce_max(magnitude, -1, keepdims=True), magnitude, 0.0)


def frame_advance(level, n_fft, hop_length):
    """Phase from one frame to the next at each bin, in radians."""
    bins = 1 + n_fft // 2
    turns = tf.cast(hop_length * tf.range(bins) % n_fft, tf.float32) / n_fft
    return _central_difference(level, 2) * (hop_length / (_HANN_GAMMA * n_fft)) + 2.0 * math.pi * turns


def within_frame(slope, n_fft, hop_length):
    """Phase along the bins of each frame up to a constant, from the log magnitude's change per frame."""
    per_bin = slope * (-_HANN_GAMMA * n_fft / hop_length)
    return tf.cumsum(0.5 * (per_bin + tf.pad(per_bin[..., :-1], [[0, 0], [0, 0], [1, 0]])), axis=-1)


def _central_difference(x, axis):
    """Half the difference of the two neighbours; at the ends, half that of the end and its neighbour."""
    before, after = [[0, 0]] * 3, [[0, 0]] * 3
    before[axis], after[axis] = [1, 0], [0, 1]
    step = x[:, 1:] - x[:, :-1] if axis == 1 else x[..., 1:] - x[..., :-1]
    return 0.5 * (tf.pad(step, before) + tf.pad(step, after))


def find_peaks(magnitude):
    """Flat positions of the peaks of all frames, in order, and for every bin the number of the peak uphill of it."""
    left = tf.pad(magnitude[..., :-1], [[0, 0], [0, 0], [1, 0]], constant_values=-1.0)
    right = tf.pad(magnitude[..., 1:], [[0, 0], [0, 0], [0, 1]], constant_values=-1.0)
    is_peak = (magnitude > left) & (magnitude >= right)
    rises = (right > tf.maximum(left, magnitude)) & ~is_peak
    is_peak, rises = tf.reshape(is_peak, [-1]), tf.reshape(rises, [-1])
    peak_of = tf.cumsum(tf.cast(is_peak, tf.int32)) - tf.cast(~rises, tf.int32)
    return tf.cast(tf.where(is_peak)[:, 0], tf.int32), peak_of


def wrapped(angle):
    """The angle plus whole turns, nearest to 0."""
    return angle - 2.0 * math.pi * tf.round(angle / (2.0 * math.pi))


def check_magnitude(magnitude, n_fft):
    """Refuse what is not a linear-frequency magnitude spectrogram with its Nyquist bin."""
    bins = 1 + n_fft // 2
    if magnitude.shape[-1] != bins:
        raise InputError(
            f"phase recovery needs linear-frequency magnitudes with {bins} bins for n_fft={n_fft}, received "
            f"{magnitude.shape[-1]}; invert a mel scale first, and put a dropped Nyquist bin back"
        )
