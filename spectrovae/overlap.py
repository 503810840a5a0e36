"""A stream in overlapping windows, and waveforms joined where they overlap."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from spectrovae.errors import InputError


def windows(
    values: Iterable[np.ndarray], step: int, before: int, after: int, skip: Callable = lambda block, n: block[:, n:]
) -> Iterator[tuple[np.ndarray, int, bool]]:
    """Cut a stream along axis 1 into windows of ``step`` with ``before`` and ``after`` of their neighbours.

    Args:
        values: parts of the stream, of any sizes along axis 1.
        skip: drops the first n along axis 1 of a part.

    Yields:
        The window, where in it the step begins, and whether it is the last, which takes all that is left.

    Raises:
        InputError: a step below 1, or an empty stream.
    """
    if step < 1:
        raise InputError(f"blocks (block_frames) must be at least 1 long, received {step}")
    parts: list[np.ndarray] = []
    waiting, offset = 0, 0
    for part in (value[:, at : at + step] for value in values for at in range(0, max(value.shape[1], 1), step)):
        parts.append(part)
        waiting += part.shape[1]
        while waiting > offset + step + after:
            whole = np.concatenate(parts, axis=1)
            yield whole[:, : offset + step + after], offset, False
            dropped = max(0, offset + step - before)
            parts, waiting, offset = [skip(whole, dropped)], waiting - dropped, offset + step - dropped
    if not waiting:
        raise InputError("there is nothing to transform: no samples and no frames came")
    yield np.concatenate(parts, axis=1), offset, True


def joined(waveforms: Iterator[np.ndarray], step: int, fade: int) -> Iterator[np.ndarray]:
    """Cross-fade waveforms (samples,) that begin ``step`` samples apart and overlap, where they are most alike.

    Args:
        fade: samples of the cross-fade; at most what two neighbours share.
    """
    pending, start = next(waveforms), 0  # what is pending begins ``start`` samples into its step
    for following in waveforms:
        head, tail = np.split(pending, [step - start])
        shared = min(len(tail), len(following))
        seam, sign, mixed = _cross_fade(tail[:shared], following[:shared], min(fade, shared))
        yield head
        yield tail[:seam]
        pending, start = np.concatenate([mixed, sign * following[seam + len(mixed) :]]), seam
    yield pending


def _cross_fade(old: np.ndarray, new: np.ndarray, fade: int) -> tuple[int, float, np.ndarray]:
    """Where to pass from one waveform to the other, with which sign of the new one, and the ``fade`` samples between.

    A search for phases may end with either sign. The middle half of the waveforms is searched for the place where they
    differ least: their ends were searched without the neighbours on one side.
    """

    def sums(values):
        total = np.cumsum(np.concatenate([[0.0], values]))
        return total[fade:] - total[:-fade]

    common, energy = sums(np.float64(old) * new), (sums(np.float64(old) ** 2), sums(np.float64(new) ** 2))
    different = energy[0] + energy[1] - 2.0 * np.abs(common)
    places = len(different)
    seam = places // 4 + int(np.argmin(different[places // 4 : places - places // 4]))
    sign = -1.0 if common[seam] < 0.0 else 1.0
    likeness = min(1.0, abs(common[seam]) / np.sqrt(energy[0][seam] * energy[1][seam] + 1e-30))
    rise = np.sin(0.5 * np.pi * (np.arange(fade) + 0.5) / fade) ** 2
    fall = 1.0 - rise
    # Unlike waveforms add up in power only, and the sum would dip.
    level = np.sqrt(rise**2 + fall**2 + 2.0 * likeness * rise * fall)
    here = slice(seam, seam + fade)
    return seam, sign, ((fall * old[here] + rise * sign * new[here]) / level).astype(np.float32)


def fitted(waveforms: Iterable[np.ndarray], length: int | None) -> Iterator[np.ndarray]:
    """Cut off what exceeds ``length``, and put zeros where it is not reached."""
    done = 0
    for waveform in waveforms:
        waveform = waveform if length is None else waveform[: length - done]
        done += len(waveform)
        if len(waveform):
            yield waveform
    if length is not None and done < length:
        yield np.zeros(length - done, np.float32)
