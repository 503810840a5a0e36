"""A blind listening test: a page that plays A, B and X, one of which X is, and counts the right answers.

The page needs nothing but itself and works from a disk. Sounds are equally loud, nameless and in random order; what
follows what is drawn in the browser, which also keeps the answers.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spectrovae import __version__
from spectrovae.errors import InputError
from spectrovae.evaluation import systems
from spectrovae.evaluation.players import loudness, match_levels, wav_bytes
from spectrovae.evaluation.report import Cell, Report, Row, asset, signed_text
from spectrovae.files import as_json, check_output, new_folder, write_json

RESULT = "listen.json"
PAGE_BYTES = 50_000_000


def listen(
    codecs: Sequence[Any],
    recordings: Any,
    out: str | os.PathLike,
    *,
    split: str = "test",
    clips: int = 8,
    trials: int = 24,
    ceiling: bool = False,
    seed: int = 0,
    force: bool = False,
    log: systems.Log = systems.to_stderr,
) -> dict[str, Any]:
    """Write a page for an A/B/X test of originals against the codecs' reconstructions, and of these against each other.

    The folder gets ``listen.html`` and ``listen.json`` (settings, gains). It appears whole at the end or not at all.

    Args:
        codecs: models of one sample rate.
        recordings: the data, opened at the codecs' sample rate and length.
        out: the folder to write.
        clips: how many, evenly spaced over the split; silent ones are left out.
        trials: of a series, unless the listener takes another number.
        ceiling: also the original through each representation's phase search alone, without a model.
        seed: of the order in which the page holds the sounds. The trials' order is drawn in the browser.
        force: replace the result of an earlier run.

    Returns:
        What ``listen.json`` holds: ``settings``, ``systems`` and ``clips``, each with its ``gain_db`` by system.

    Raises:
        InputError: the output exists, a codec does not fit the recordings, every clip is silent, or the page would be
            too large.
    """
    check_output(out, force=force, mark=RESULT)
    if not codecs:
        raise InputError("at least one model is needed: give the folder of a bundle that spectrovae fit wrote")
    if clips < 1 or trials < 1:
        raise InputError(f"a test needs at least one clip and one trial, received {clips} and {trials}")
    for codec in codecs:
        systems.check_fit(codec, recordings)
    data = systems.data_of(recordings, split, codecs, log=log)
    indices = systems.chosen_clips(recordings, split, clips)
    names, sounds = _sounds(codecs, recordings, split, indices, ceiling, log)
    clip_names = systems.clip_names(recordings, split, list(sounds))
    matched = {
        clip_names[index]: match_levels([made[name] for name in names], recordings.sample_rate)
        for index, made in sounds.items()
    }
    result = {
        "kind": "listening",
        "spectrovae": __version__,
        "data": data,
        "settings": {
            "split": split,
            "sample_rate": recordings.sample_rate,
            "clip_seconds": recordings.samples / recordings.sample_rate,
            "trials": trials,
            "ceiling": ceiling,
            "seed": seed,
        },
        "systems": names,
        "clips": [
            {"name": clip, "gain_db": {name: player.gain_db for name, player in zip(names, players)}}
            for clip, players in matched.items()
        ],
    }
    result = as_json(result)
    wavs = [[wav_bytes(player.waveform, recordings.sample_rate) for player in players] for players in matched.values()]
    size = sum(len(wav) for row in wavs for wav in row) * 4 // 3
    if size > PAGE_BYTES:
        raise InputError(
            f"the page would hold {size / 1e6:.0f} MB of sound, and {PAGE_BYTES / 1e6:.0f} are the limit: "
            "take fewer --clips or models"
        )
    with new_folder(out, force=force, mark=RESULT) as folder:
        write_json(folder / RESULT, result)
        _page(result, wavs).save(folder / "listen.html")
    return result


def _sounds(
    codecs: Sequence[Any], recordings: Any, split: str, indices: Sequence[int], ceiling: bool, log: systems.Log
) -> tuple[list[str], dict[int, dict[str, np.ndarray]]]:
    """Names of the systems, the original first, and by clip the waveform (samples,) of each."""
    taken: set[str] = set(systems.RESERVED)
    makers = {systems.unique_name(codec.name, taken): codec.reconstruct for codec in codecs}
    if ceiling:
        for codec in {systems.label(codec.representation): codec for codec in codecs}.values():
            name = systems.unique_name(f"{type(codec.representation).__name__} alone", taken)
            makers[name] = _through(codec.representation)
    sounds: dict[int, dict[str, np.ndarray]] = {}
    for found, waveforms in systems.batches(recordings, split, indices, 8):
        made = {"original": waveforms, **{name: np.asarray(make(waveforms)) for name, make in makers.items()}}
        for row, index in enumerate(found):
            if np.isfinite(loudness(waveforms[row], recordings.sample_rate)):
                sounds[index] = {name: waveform[row] for name, waveform in made.items()}
        log(f"  {len(sounds)} of {len(indices)} clips")
    if not sounds:
        raise InputError(f"every clip chosen of the {split} split is silent: take more --clips, or another split")
    return ["original", *makers], sounds


def _through(representation: Any):
    def through(waveforms: np.ndarray) -> np.ndarray:
        return representation.synthesise(np.asarray(representation.decibels(waveforms)), waveforms.shape[1])

    return through


def _page(result: Mapping[str, Any], wavs: Sequence[Sequence[bytes]]) -> Report:
    names, settings = result["systems"], result["settings"]
    order = np.random.default_rng(settings["seed"]).permutation(len(wavs) * len(names))
    flat = [wav for row in wavs for wav in row]
    places = np.empty(len(flat), int)
    places[order] = np.arange(len(flat))
    digest = hashlib.sha256(json.dumps(result, sort_keys=True).encode())
    for wav in flat:
        digest.update(wav)
    key = {
        "id": digest.hexdigest()[:12],
        "systems": names,
        "clips": list(range(1, len(wavs) + 1)),
        "places": places.reshape(len(wavs), len(names)).tolist(),
        "trials": settings["trials"],
    }
    report = Report(
        "A blind listening test",
        f"X is A, or X is B: which? {len(wavs)} clips of {settings['clip_seconds']:g} s, the original and what "
        f"{len(names) - 1} {'system makes' if len(names) == 2 else 'systems make'} of it, all equally loud. Wear "
        "headphones.",
        result["data"],
    )
    held = json.dumps([base64.b64encode(flat[place]).decode("ascii") for place in order])
    secret = base64.b64encode(scramble(json.dumps(key).encode())).decode("ascii")
    report.embed(
        asset("listen.html")
        + f'<script type="application/json" id="sounds">{held}</script>'
        + f'<script type="text/plain" id="key">{secret}</script>',
        asset("listen.js"),
        asset("listen.css"),
    )
    report.section(
        "How it is counted",
        "Which of A and B is which, and which of them X is, is drawn anew for each trial by fair coins, in this "
        "browser. The score and its p, the probability of as many right answers or more by guessing (binomial, "
        "one-sided), show when the series is over: one that is watched, and stopped where it looks good, proves less.",
        "Answers are kept in this browser until they are erased, and are sent nowhere.",
    )
    report.section(
        "Gains",
        "Each sound is brought to the loudness of its original (ITU-R BS.1770, gated), and all of a clip are turned "
        "down together where one would clip.",
    )
    rows = [
        Row([
            Cell(str(number), clip["name"], number),
            *(Cell(signed_text(clip["gain_db"][name]), "", clip["gain_db"][name]) for name in names),
        ], "plain")
        for number, clip in enumerate(result["clips"], start=1)
    ]  # fmt: skip
    report.table("Gain applied, dB", ["clip", *names], rows)
    return report


def scramble(data: bytes) -> bytes:
    """Bytes so changed that nobody reads them in passing, and back; the same in ``listen.js``."""
    return bytes(byte ^ ((31 * place + 7) & 255) for place, byte in enumerate(data))
