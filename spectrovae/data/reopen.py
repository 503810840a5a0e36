"""Open the recordings that models are measured on: by default their own, as they saw them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spectrovae.data import toy
from spectrovae.data.pipeline import CACHE_BYTES, Recordings
from spectrovae.errors import InputError

CUTTING = ("long", "overlap", "split", "pattern", "labels", "label_from")


def recordings_for(
    codecs: Sequence[Any],
    source: str | os.PathLike | None = None,
    *,
    allow_seen: bool = False,
    cache_bytes: int = CACHE_BYTES,
    progress: Any = None,
    **settings: Any,
) -> Recordings:
    """Recordings at the rate and length of some codecs, which must agree in both.

    Args:
        codecs: models; the first one's memory of its data (``codec.data``) decides what is not given here.
        source: folder, manifest or toy set; by default that of the first codec's fit.
        allow_seen: measure the codecs on clips they learned from, too: see :class:`Recordings`.
        cache_bytes, progress: as for ``Recordings.open``.
        **settings: ``long``, ``overlap``, ``split``, ``pattern``, ``labels`` and ``label_from`` of ``Recordings.open``
            where they are to differ from the fit's; None for those that are not.

    Raises:
        InputError: codecs of different rate or length, an unknown or vanished source, or settings that do not suit it.
    """
    first = codecs[0]
    for codec in codecs[1:]:
        if (codec.sample_rate, codec.segment_samples) != (first.sample_rate, first.segment_samples):
            raise InputError(
                f"{codec.name} takes {codec.segment_samples} samples at {codec.sample_rate} Hz, {first.name} "
                f"{first.segment_samples} at {first.sample_rate} Hz; compare models of the same rate and length"
            )
    own = dict((first.data or {}).get("open", {}))
    if source is None:
        source = _own_source(first, own)
    given = {name: value for name, value in settings.items() if value is not None}
    if str(source).startswith(toy.PREFIX):
        chosen = given
    else:
        chosen = {name: own[name] for name in CUTTING if name in own} | given
        if "labels" in chosen and "labels" not in given:
            chosen["labels"] = moved(own, source)["labels"]
    try:
        recordings = Recordings.open(
            source, sample_rate=first.sample_rate, samples=_samples(first, own), cache_bytes=cache_bytes,
            progress=progress, **chosen,
        )  # fmt: skip
    except InputError as error:
        kept = sorted(set(chosen) - set(given) - {"long", "overlap"})
        if not kept or str(source) == own.get("source"):
            raise
        flags = ", ".join(f"{name} {chosen[name]!r}" for name in kept)
        raise InputError(f"{error} (settings of the fit of {first.name}: {flags}; options override them)") from error
    recordings.allow_seen = allow_seen
    return recordings


def _samples(codec: Any, own: dict[str, Any]) -> int:
    """Samples of an example: those of the fit, which may be a few more or less than the codec's frames need."""
    samples, shape = own.get("samples"), codec.representation.feature_shape
    if samples and own.get("sample_rate") == codec.sample_rate and shape(samples) == shape(codec.segment_samples):
        return samples
    return codec.segment_samples


def _own_source(codec: Any, own: dict[str, Any]) -> str:
    source = own.get("source")
    if source is None:
        raise InputError(f"{codec.name} does not say which recordings it was trained on; name them with --data")
    if not str(source).startswith(toy.PREFIX) and not Path(source).exists():
        raise InputError(
            f"{codec.name} was trained on {source}, which is no longer there; say with --data where the recordings are"
        )
    return str(source)


def moved(config: dict[str, Any], source: str | os.PathLike) -> dict[str, Any]:
    """The arguments of ``Recordings.open`` for data that are elsewhere now: a table of labels at the same place in the
    folder of the recordings, or beside it, moved with it."""
    labels = config.get("labels")
    if labels is not None:
        beside = os.path.normpath(os.path.join(source, os.path.relpath(labels, config["source"])))
        labels = {"labels": beside if os.path.exists(beside) else labels}
    return config | {"source": str(source)} | (labels or {})
