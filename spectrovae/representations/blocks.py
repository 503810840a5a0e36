"""Long files piece by piece: forward and inverse in memory that does not grow with the length.

Waveforms come and go as float32 pieces (samples,), features as blocks (bins, frames, channels); what comes may have any
sizes. A block is computed with the few frames around it that it depends on, so that blocks laid end to end are what the
representation makes of the whole file, to float32 rounding. An inverse that has to search for phases is the exception:
its blocks overlap and are cross-faded, which is another result, about as good.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from spectrovae import overlap
from spectrovae.errors import InputError
from spectrovae.representations.base import Representation

BLOCK_FRAMES = 2048


def forward(
    representation: Representation,
    waveform: Iterable[np.ndarray],
    *,
    statistics: np.ndarray | None = None,
    block_frames: int = BLOCK_FRAMES,
) -> Iterator[np.ndarray]:
    """Features (bins, frames, channels) of a waveform's pieces (samples,), in blocks of ``block_frames``.

    Args:
        statistics: under ``"per_example"``, what :func:`statistics` found in a pass before this one.

    Raises:
        InputError: there are no samples, or ``"per_example"`` goes without its statistics.
    """
    if representation.normalisation == "per_example" and statistics is None:
        raise InputError(
            "normalisation 'per_example' needs the extremes of the whole file: pass what blocks.statistics finds"
        )
    for piece, inner in pieces(representation, waveform, block_frames):
        yield np.asarray(representation(piece, statistics=statistics))[0, :, inner]


def decibels(
    representation: Representation, waveform: Iterable[np.ndarray], *, block_frames: int = BLOCK_FRAMES
) -> Iterator[np.ndarray]:
    """``representation.decibels`` of a waveform's pieces (samples,), in blocks (bins, frames, channels)."""
    view = representation.get_view()
    for piece, inner in pieces(view, waveform, block_frames):
        yield np.asarray(view.decibels(piece))[0, :, inner]


def statistics(
    representation: Representation, waveform: Iterable[np.ndarray], *, block_frames: int = BLOCK_FRAMES
) -> np.ndarray:
    """``representation.statistics`` of a waveform's pieces (samples,): its extremes in dB [shape=(1, 2)]."""
    low, high = np.inf, -np.inf
    for db in decibels(representation, waveform, block_frames=block_frames):
        low, high = min(low, db[..., 0].min()), max(high, db[..., 0].max())
    return np.array([[low, high]], np.float32)


def adapt(representation: Representation, waveform: Iterable[np.ndarray], *, block_frames: int = BLOCK_FRAMES) -> None:
    """``representation.adapt`` to a waveform's pieces (samples,), each frame of the file counted once.

    Raises:
        InputError: there are no samples.
    """
    blocks = pieces(representation, waveform, block_frames)
    representation.adapt_values(representation.values(piece)[:, :, inner] for piece, inner in blocks)


def pieces(
    representation: Representation, waveform: Iterable[np.ndarray], block_frames: int = BLOCK_FRAMES
) -> Iterator[tuple[np.ndarray, slice]]:
    """Cut a waveform into overlapping pieces (1, samples), each with the frames of it that are the whole file's.

    Raises:
        InputError: there are no samples, or a piece is not (samples,).
    """
    hop, context = representation.hop_length, representation.context
    if not hop:
        yield _joined(_rows(waveform)), slice(None)
        return
    before, after = context * hop, (context - 1) * hop
    for piece, offset, last in overlap.windows(_rows(waveform), block_frames * hop, before, after):
        first = offset // hop
        yield piece, slice(first, None if last else first + block_frames)


def inverse(
    representation: Representation,
    features: Iterable[np.ndarray],
    length: int | None = None,
    *,
    statistics: np.ndarray | None = None,
    block_frames: int = BLOCK_FRAMES,
) -> Iterator[np.ndarray]:
    """Waveform pieces (samples,) of blocks of features (bins, frames, channels).

    Where the representation keeps phase they are the inverse of the whole; the running phase of an instantaneous
    frequency is carried along. Where it does not, each block's phase is searched by itself, and blocks meet where they
    are most alike, in a cross-fade of about a window. A file of one block then comes back as the whole does, and what
    a longer one sounds like depends on ``block_frames``, which is raised to at least 48 contexts.

    Features of the whole sound, which have no hop, are inverted at once.

    Args:
        length: samples wanted, by default those that the frames span. Zeros follow where the frames end.
        statistics: under ``"per_example"``, what :func:`statistics` found.

    Raises:
        InputError: there are no features.
    """
    hop, context = representation.hop_length, representation.context
    if not hop:
        return iter(np.asarray(representation.inverse(_joined(features)[None], length, statistics)))

    def skip(block, frames):
        return np.asarray(representation.skip(block[None], frames))[0]

    def waveforms(step, before, after):
        start = 0
        for block, offset, last in overlap.windows(features, step, before, after, skip):
            rest = None if length is None or not last else length - (start - offset) * hop
            natural = rest is None or rest <= 0
            waveform = np.asarray(representation.inverse(block[None], None if natural else rest, statistics))[0]
            yield waveform[offset * hop : None if last or not before else (offset + step) * hop]
            start += step

    if representation.keeps_phase:
        return overlap.fitted(waveforms(block_frames, context, context), length)
    shared = 24 * context
    step = max(block_frames, 2 * shared)
    return overlap.fitted(overlap.joined(waveforms(step, 0, shared), step * hop, 2 * context * hop), length)


def evenly(waveform: Iterable[np.ndarray], samples: int) -> Iterator[np.ndarray]:
    """A waveform's pieces (samples,), of any sizes, in pieces of one size, the last one perhaps longer."""
    for window, _, _ in overlap.windows(_rows(waveform), samples, 0, 0):
        yield window[0]


def _joined(values: Iterable[np.ndarray]) -> np.ndarray:
    parts = list(values)
    if not parts or not any(part.shape[1] for part in parts):
        raise InputError("there is nothing to transform: no samples and no frames came")
    return np.concatenate(parts, axis=1)


def _rows(waveform: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    for piece in waveform:
        if np.ndim(piece) != 1:
            raise InputError(f"pieces of a waveform must be shaped (samples,), received {np.shape(piece)}")
        yield np.asarray(piece)[None]
