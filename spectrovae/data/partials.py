"""Steady sounds as sums of sinusoids, and what linear filters make of them, for many sounds at a time.

A filter changes amplitude and phase of a sinusoid and nothing else, so filtering a steady sound is a product with the
filter's response at each partial: exact, without the transient that filtering samples would begin with.
"""

import math

import numpy as np


def sinusoids(amplitudes: np.ndarray, frequencies: np.ndarray, samples: int) -> np.ndarray:
    """Sum of partials, sample t being ``Re sum_p a_p exp(2 pi i f_p t)``.

    With t = hi * n + lo the exponential is a product, so a sound is the product of a matrix (hi, partials) and a matrix
    (partials, lo), whose entries together are far fewer than samples times partials.

    Args:
        amplitudes: complex ``(sounds, partials)``, phases included.
        frequencies: in cycles a sample, ``(sounds, partials)``.

    Returns:
        float32 ``(sounds, samples)``.
    """
    low = math.isqrt(samples - 1) + 1
    high = -(-samples // low)
    fine = _powers(frequencies, low)
    coarse = _powers(frequencies * low, high) * amplitudes[:, None]
    left = np.concatenate([coarse.real, -coarse.imag], axis=2, dtype=np.float32, casting="same_kind")
    right = np.concatenate([fine.real, fine.imag], axis=2, dtype=np.float32, casting="same_kind")
    return np.matmul(left, right.transpose(0, 2, 1)).reshape(len(amplitudes), -1)[:, :samples]


def _powers(cycles: np.ndarray, count: int) -> np.ndarray:
    """``exp(2 pi i cycles n)`` of n = 0 to count - 1 at axis 1, by doubling: products cost less than exponentials."""
    result = np.empty((len(cycles), count, cycles.shape[1]), np.complex128)
    result[:, 0] = 1.0
    done = 1
    while done < count:
        more = min(done, count - done)
        step = np.exp(2j * np.pi * np.remainder(cycles * done, 1.0))
        np.multiply(result[:, :more], step[:, None], out=result[:, done : done + more])
        done += more
    return result


def biquad_low_pass(frequencies: np.ndarray, cutoff: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Response of the second-order low-pass 1 / (s^2 + s / Q + 1) after the bilinear transform.

    As in R. Bristow-Johnson's cookbook: the gain is 1 at 0 Hz and Q at the cut-off. Frequencies in cycles a sample.
    """
    s = _prewarped(frequencies, cutoff)
    return 1.0 / (s * s + s / q + 1.0)


def ladder_low_pass(frequencies: np.ndarray, cutoff: np.ndarray, resonance: np.ndarray) -> np.ndarray:
    """Response of four one-pole low-passes in a loop, (1 + k) / ((1 + s)^4 + k), after the bilinear transform.

    The linear core of Moog's ladder (1965; Stilson and Smith, 1996) with its loop free of delay. It oscillates of its
    own at k = 4. The factor 1 + k makes up for the level that the loop takes away: the gain is 1 at 0 Hz.
    """
    s = _prewarped(frequencies, cutoff)
    return (1.0 + resonance) / ((1.0 + s) ** 4 + resonance)


def _prewarped(frequencies: np.ndarray, cutoff: np.ndarray) -> np.ndarray:
    return 1j * np.tan(np.pi * frequencies) / np.tan(np.pi * cutoff)
