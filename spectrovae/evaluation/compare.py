"""Models side by side on the same clips, beside the baselines and the representation's own ceiling.

Two things are measured. *Spectrogram*: the decoder's dB spectrogram against the input's. *Sound*: the
waveform that the representation makes of it (by Griffin-Lim, where it keeps no phase) against the original, by
distances and by judges; the ceiling is the sound of the undisturbed input, the best any model of that representation
can hope for.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spectrovae import __version__
from spectrovae.errors import InputError
from spectrovae.evaluation import systems
from spectrovae.evaluation.compare_page import MODIFIED_LEVEL_DB, Sound, page
from spectrovae.evaluation.judges import Judge
from spectrovae.evaluation.measure import ORIGINAL, absent, figures, measure
from spectrovae.evaluation.metrics import ACTIVE_MARGIN_DB
from spectrovae.evaluation.paired import paired_tests
from spectrovae.evaluation.perturbations import perturb
from spectrovae.evaluation.report import wav_bytes
from spectrovae.evaluation.systems import Group, Log, System
from spectrovae.files import as_json, check_output, new_folder, write_json, write_text

RESULT = "compare.json"
CEILING = "ceiling"

_OF_FEATURES = ("mse", "cosine", "kl_nats")
_OF_WAVEFORMS = ("mr_stft", "mcd_db", "si_sdr_db", "pesq", "stoi")  # comparable across representations


def compare(
    codecs: Sequence[Any],
    recordings: Any,
    out: str | os.PathLike,
    *,
    split: str = "test",
    limit: int | None = None,
    samples: int = 8,
    components: Sequence[int] = (8, 32, 128),
    seed: int = 0,
    batch_size: int = 32,
    resamples: int = 10_000,
    judges: Sequence[Judge] = (),
    force: bool = False,
    log: Log = systems.to_stderr,
) -> dict[str, Any]:
    """Measure codecs and baselines on one split and write tables, a page and sounds to a folder.

    The folder gets ``compare.csv``, ``tests.csv``, ``compare.json``, ``report.html`` and ``samples/original``,
    ``samples/generated`` (each model's output) and ``samples/modified`` (its output for an input disturbed by
    uniform noise of +-10 dB, and that input), as 16-bit wav. It appears whole at the end or not at all.

    Args:
        codecs: models; those of one representation share its baselines.
        recordings: the data, opened at the codecs' sample rate and length; baselines are fitted on its train
            split.
        out: the folder to write.
        split: the split measured.
        limit: measure this many clips, evenly spaced over the split, in place of all.
        samples: number of clips written as sound.
        components: sizes of the PCA baselines; the size of every vector latent is added.
        seed: of the bootstrap, the perturbation and the choice of clips to fit on.
        batch_size: clips computed at once; speed is measured with ``systems.SPEED_CLIPS``.
        resamples: bootstrap resamples.
        judges: classifiers that the sounds are played to.
        force: replace the result of an earlier comparison.
        log: receives progress, a line at a time.

    Returns:
        What ``compare.json`` holds: ``settings``; ``representations``, each with what is ``absent`` and why; flat
        ``rows`` (dB, nats, seconds; None where a figure does not apply), each figure with ``_low`` and ``_high``
        beside it, and ``_speaker_low`` and ``_speaker_high`` where the recordings name several speakers; and
        ``tests``, the rows of ``paired_tests`` between models, of each ``representation`` or, where a figure does not
        depend on it, between all (None).

    Raises:
        InputError: the output exists, a codec does not fit the recordings, the split is empty, or a judge knows none of
            its labels.
    """
    check_output(out, force=force, mark=RESULT)
    if resamples < 1:
        raise InputError(f"the number of bootstrap resamples must be at least 1; received {resamples}")
    data = systems.data_of(recordings, split, codecs, judges, log)
    indices = systems.chosen_clips(recordings, split, limit)
    heard = systems.spread(indices, samples) if samples > 0 else []
    judged = _judges(judges, recordings, split, indices)
    said = [recordings.examples(split)[index].speaker for index in indices]
    speakers = said if None not in said and len(set(said)) > 1 else None
    options: dict[str, Any] = {"resamples": resamples, "seed": seed}
    groups = systems.gather(codecs, recordings, components, seed=seed, log=log)
    rows, sounds, tested = [], [], []
    for group in groups:
        log(f"measuring {len(indices)} clips of the {split} split ({group.label})")
        measured = measure(group, recordings, split, indices, batch_size, judged, log)
        tested += [(group.label, s.name, measured[s.name].tested()) for s in group.systems if s.kind == "model"]
        values = {name: found for name, found in measured["identity"].values.items() if name not in _OF_FEATURES}
        measured[CEILING] = dataclasses.replace(measured["identity"], spectrogram=None, values=values)
        found = figures(measured, speakers=speakers, **options)
        first = next(systems.batches(recordings, split, indices, systems.SPEED_CLIPS))[1]
        speed_db = np.asarray(group.representation.decibels(first))
        for system in group.systems:
            speed = system.clips_per_second(speed_db) if system.kind == "model" else None
            rows.append(_row(group, system.name, system, found[system.name], speed))
        rows += [_row(group, name, None, found[name], None) for name in (CEILING, ORIGINAL) if name in found]
        sounds.append(_sounds(group, recordings, split, heard, seed))
    fields = dict.fromkeys(name for row in rows for name in row)  # some representations have figures that others lack
    rows = [fields | row for row in rows]
    result: dict[str, Any] = {
        "kind": "comparison",
        "spectrovae": __version__,
        "data": data,
        "settings": {
            "split": split,
            "clips": len(indices),
            "sample_rate": recordings.sample_rate,
            "clip_seconds": recordings.samples / recordings.sample_rate,
            "limit": limit,
            "samples": samples,
            "modified_level_db": MODIFIED_LEVEL_DB,
            "active_margin_db": ACTIVE_MARGIN_DB,
            "components": list(components),
            "seed": seed,
            "batch_size": batch_size,
            "speed_clips": systems.SPEED_CLIPS,
            "resamples": resamples,
            "confidence": 0.95,
            "speakers": len(set(speakers)) if speakers else None,
            "judges": [
                {"name": name, "target": judge.target, "labels": judge.labels, "info": _figures(judge)}
                for name, judge in judged.items()
            ],
        },
        "representations": [
            {"label": g.label, "config": g.representation.get_config(), "absent": absent(g)} for g in groups
        ],
        "rows": rows,
        "tests": _tests(tested, speakers, options),
    }
    result = as_json(result)
    rows = result["rows"]
    with new_folder(out, force=force, mark=RESULT) as folder:
        write_json(folder / RESULT, result)
        write_text(folder / "compare.csv", systems.csv_text(rows))
        if result["tests"]:
            write_text(folder / "tests.csv", systems.csv_text(result["tests"]))
        names = systems.clip_names(recordings, split, heard)
        _write_sounds(folder / "samples", sounds, names, recordings.sample_rate)
        page(result, groups, sounds, names, recordings.sample_rate).save(folder / "report.html")
    return result


def _judges(judges: Sequence[Judge], recordings: Any, split: str, indices: Sequence[int]) -> dict[str, Judge]:
    """Judges by a name for tables, each of which knows labels of the chosen clips."""
    examples = recordings.examples(split)
    for judge in judges:
        if not np.any(judge.truth([examples[index] for index in indices]) >= 0):
            given = sorted({getattr(examples[index], judge.target) for index in indices} - {None})
            raise InputError(
                f"the judge {judge.name} tells the {judge.target}s {', '.join(judge.labels[:10])}; the {split} split "
                f"has none of them, but {', '.join(given[:10]) or f'no {judge.target}s'}: compare without it"
            )
    return dict(zip(systems.unique_stems([judge.name for judge in judges]), judges))


def _figures(judge: Judge) -> dict[str, Any]:
    """What a judge says of itself, without the list of its training clips."""
    return {name: value for name, value in judge.info.items() if name != "data"}


def _tests(
    tested: Sequence[tuple[str, str, Mapping[str, np.ndarray]]],
    speakers: Sequence[str] | None,
    options: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Paired tests of the models of each representation, and of all of them in figures of the waveform."""
    values: dict[tuple[str | None, str], dict[str, np.ndarray]] = {}
    for label, model, found in tested:
        for name, clips in found.items():
            shared = name in _OF_WAVEFORMS or name.endswith("_accuracy")
            values.setdefault((None if shared else label, name), {})[model] = clips
    rows = paired_tests(values, clusters=speakers, **options)
    return [{"representation": row["figure"][0], **row, "figure": row["figure"][1]} for row in rows]


def _row(
    group: Group, name: str, system: System | None, found: dict[str, float | None], speed: float | None
) -> dict[str, Any]:
    """One flat row; the ceiling and the originals are no system."""
    return {
        "representation": group.label,
        "name": name,
        "kind": name if system is None else system.kind,
        **found,
        "parameters": None if system is None else system.parameters,
        "training_seconds": None if system is None else system.info.get("training_seconds"),
        "clips_per_second": speed,
    }


def _sounds(group: Group, recordings: Any, split: str, heard: Sequence[int], seed: int) -> dict[int, list[Sound]]:
    """Return the sounds of each clip heard, the original first."""
    sounds = {}
    models = [system for system in group.systems if system.kind == "model"]
    for index, waveform in (pair for batch in systems.batches(recordings, split, heard, 16) for pair in zip(*batch)):
        original = np.asarray(group.representation.decibels(waveform[None]))
        modified = perturb(original, MODIFIED_LEVEL_DB, [index], seed=seed)
        way = "the inverse" if group.representation.keeps_phase else "Griffin-Lim"
        made = [("generated", "ceiling", f"ceiling: input through {way}", original)]
        made += [("generated", model.stem, model.name, model.reconstruct(original)) for model in models]
        made += [("modified", "input", f"input ±{MODIFIED_LEVEL_DB:g} dB", modified)]
        made += [
            (
                "modified",
                model.stem,
                f"{model.name} of ±{MODIFIED_LEVEL_DB:g} dB",
                model.reconstruct(modified),
            )
            for model in models
        ]
        sounds[index] = [Sound("original", "", "original", original[0], waveform)]
        for folder, system, title, db in made:
            sounds[index].append(Sound(folder, system, title, db[0], group.synthesise(db, len(waveform))[0]))
    return sounds


def _write_sounds(
    folder: Path, groups: Sequence[Mapping[int, Sequence[Sound]]], names: Mapping[int, str], sample_rate: int
) -> None:
    for number, clips in enumerate(groups, start=1):
        suffix = f"-{number}" if len(groups) > 1 else ""
        for index, made in clips.items():
            for sound in made:
                system = f"-{sound.system}{suffix}" if sound.system else ""
                path = folder / sound.folder / f"{names[index]}{system}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(wav_bytes(sound.waveform, sample_rate))
