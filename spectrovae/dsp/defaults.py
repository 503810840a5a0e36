"""Default window, hop and example length of a sample rate, in one place: every representation has 64 frames of them."""

from spectrovae.errors import InputError

WINDOW_MS = 64
FRAMES = 64


def default_window(sample_rate: int) -> int:
    """Window in samples: the largest power of two within 64 ms, at least 16; 512 at 8 kHz, 2048 at 44.1 and 48 kHz."""
    return 1 << max(4, (WINDOW_MS * int(sample_rate) // 1000).bit_length() - 1)


def default_hop(sample_rate: int) -> int:
    """Samples between frames: a quarter of the window."""
    return default_window(sample_rate) // 4


def default_samples(sample_rate: int) -> int:
    """Samples of an example: 63 hops, which give 64 frames; from 0.504 to 1.008 s at 250 Hz or more."""
    return (FRAMES - 1) * default_hop(sample_rate)


def window_and_hop(sample_rate: int, n_fft: int | None, hop_length: int | None) -> tuple[int, int]:
    """Window and hop in samples, checked; by default :func:`default_window`, and a quarter of the window."""
    n_fft = default_window(sample_rate) if n_fft is None else n_fft
    hop_length = n_fft // 4 if hop_length is None else hop_length
    if int(n_fft) != n_fft or n_fft < 4 or n_fft % 2:
        raise InputError(f"n_fft must be an even number of samples, at least 4, received {n_fft!r}")
    if int(hop_length) != hop_length or not 1 <= hop_length <= n_fft // 2:
        raise InputError(f"hop_length must lie between 1 and n_fft // 2 = {n_fft // 2}, received {hop_length!r}")
    return int(n_fft), int(hop_length)
