"""What is measured of systems on the same clips: a value a clip, from which figures, intervals and tests are made.

A batch of clips goes through every system and is forgotten; what stays is a row of numbers for each clip and system,
and a judge's hidden features of it.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from spectrovae.evaluation import sound_metrics, systems
from spectrovae.evaluation.judges import Judge
from spectrovae.evaluation.metrics import Errors, Figure, bootstrap, cosine_similarity, spectral_convergence
from spectrovae.evaluation.mmd import squared_mmd
from spectrovae.evaluation.sound_metrics import Reference
from spectrovae.evaluation.systems import Group, Log

ORIGINAL = "original"

PER_CLIP = ("mse", "cosine", "convergence_db", "mr_stft", "mcd_db", "si_sdr_db", "pesq", "stoi")
"""Figures that are the mean of a value a clip, beside the dB errors."""

COVERED = ("pesq", "stoi")
"""Figures that are not defined for every clip; how many there were is reported beside them."""


@dataclasses.dataclass
class Measured:
    """Of one system.

    Attributes:
        spectrogram, sound: dB errors of the spectrogram, and of the sound's; None of the originals themselves.
        values: by name, a value a clip (clips,), NaN where undefined: ``PER_CLIP`` as far as they apply, ``kl_nats``,
            and ``NAME_accuracy`` of each judge, 1 or 0.
        hidden: by judge, hidden features of the sounds (clips, 64).
        not_finite: clips that came out with numbers that are not finite. Figures without them would flatter the system,
            so it has none.
    """

    spectrogram: Errors | None
    sound: Errors | None
    values: dict[str, np.ndarray]
    hidden: dict[str, np.ndarray]
    not_finite: int = 0

    @classmethod
    def joined(cls, parts: Sequence[Measured]) -> Measured:
        """Several batches, in order."""

        not_finite = sum(part.not_finite for part in parts)
        if not_finite:
            return cls(None, None, {}, {}, not_finite)

        def errors(found: list[Errors | None]) -> Errors | None:
            present = [part for part in found if part is not None]
            return Errors.concatenate(present) if present else None

        return cls(
            errors([part.spectrogram for part in parts]),
            errors([part.sound for part in parts]),
            {name: np.concatenate([part.values[name] for part in parts]) for name in parts[0].values},
            {name: np.concatenate([part.hidden[name] for part in parts]) for name in parts[0].hidden},
        )

    def tested(self) -> dict[str, np.ndarray]:
        """The values by which models are tested against each other, (clips,); RMSE and LSD are each clip's own."""
        found = {}
        if self.spectrogram is not None:
            found["rmse_db"] = np.sqrt(self.spectrogram.squared / self.spectrogram.cells)
            found["lsd_db"] = self.spectrogram.lsd
        if self.sound is not None:
            found["sound_lsd_db"] = self.sound.lsd
        return found | {name: values for name, values in self.values.items() if name != "kl_nats"}


def measure(
    group: Group,
    recordings: Any,
    split: str,
    indices: Sequence[int],
    batch_size: int,
    judges: Mapping[str, Judge],
    log: Log,
) -> dict[str, Measured]:
    """Take the chosen clips of a split through every system of a group, batch by batch.

    Args:
        judges: by the name that their figures get.

    Returns:
        By system; with judges, ``ORIGINAL`` too, which has the judges' values alone.
    """
    examples = recordings.examples(split)
    truth = {name: judge.truth(examples) for name, judge in judges.items()}
    representation = group.representation
    parts: dict[str, list[Measured]] = defaultdict(list)
    done = 0
    # PESQ and STOI hold the interpreter on one core; meanwhile TensorFlow computes the next system on the others.
    with ThreadPoolExecutor(1) as listener:
        for found, waveforms in systems.batches(recordings, split, indices, batch_size):
            originals = Reference(waveforms, recordings.sample_rate)
            reference = np.asarray(representation.decibels(waveforms))
            known = {name: places[found] for name, places in truth.items()}
            if judges:
                parts[ORIGINAL].append(Measured(None, None, *_judged(judges, known, waveforms, recordings.sample_rate)))
            listening = []
            for system in group.systems:
                features, output = system.reconstruct_features(reference)
                broken = ~np.isfinite(output).all(axis=(1, 2, 3))
                output = np.where(broken[:, None, None, None], features, output)
                decibels = system.decibels(output, reference)
                sound = group.synthesise(decibels, waveforms.shape[1])
                listening.append(listener.submit(originals.figures, sound, phase=representation.keeps_phase))
                heard = np.asarray(representation.decibels(sound))
                sound_errors = Errors.measure(reference, heard, representation.min_db)
                values, hidden = _judged(judges, known, sound, recordings.sample_rate)
                values |= {
                    "mse": np.mean(np.square(output - features, dtype=np.float64), axis=(1, 2, 3)),
                    "cosine": cosine_similarity(features, output),
                    # against silence a ratio of magnitudes says nothing
                    "convergence_db": np.where(
                        sound_errors.cells_active > 0, spectral_convergence(reference, heard), np.nan
                    ),
                }
                kl = system.kl_nats(reference)
                if kl is not None:
                    values["kl_nats"] = kl
                spectrogram = Errors.measure(reference, decibels, representation.min_db)
                parts[system.name].append(Measured(spectrogram, sound_errors, values, hidden, int(broken.sum())))
            for system, future in zip(group.systems, listening):
                parts[system.name][-1].values.update(future.result())
            done += len(found)
            log(f"  {done} of {len(indices)}")
    joined = {name: Measured.joined(measured) for name, measured in parts.items()}
    for name, found_of in joined.items():
        if found_of.not_finite:
            log(f"{name} has no figures: {found_of.not_finite} clips come out of it with numbers that are not finite")
    return joined


def _judged(
    judges: Mapping[str, Judge], known: Mapping[str, np.ndarray], sound: np.ndarray, sample_rate: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Whether each judge tells the sounds rightly, and what it hears."""
    values, hidden = {}, {}
    for name, judge in judges.items():
        answers, hidden[name] = judge.hear(sound, sample_rate)
        values[f"{name}_accuracy"] = np.where(known[name] >= 0, answers == known[name], np.nan)
    return values, hidden


def figures(
    measured: Mapping[str, Measured], *, speakers: Sequence[str] | None, resamples: int, seed: int
) -> dict[str, dict[str, float | None]]:
    """Of each system its figures with intervals, all by the same resamples.

    Args:
        measured: what ``measure`` returned.
        speakers: of each clip, for intervals over speakers too; None where they are not known.
        resamples, seed: of the bootstrap.

    Returns:
        By system flat fields, the same for all, None where a figure does not apply: each figure with ``_low`` and
        ``_high`` (over clips), with speakers also ``_speaker_low`` and ``_speaker_high``; ``_clips`` of ``COVERED``;
        ``not_finite``, how many clips came out so.
    """
    wanted = {(system, name): figure for system, found in measured.items() for name, figure in _figures(found).items()}
    clusterings = [("", None)] + ([("_speaker", speakers)] if speakers is not None else [])
    estimates = {
        suffix: bootstrap(wanted, clusters=clusters, resamples=resamples, seed=seed) for suffix, clusters in clusterings
    }
    for suffix, clusters in clusterings:
        for system, found in measured.items():
            for judge, hidden in found.hidden.items() if system != ORIGINAL else ():
                estimates[suffix][system, f"{judge}_mmd"] = squared_mmd(
                    measured[ORIGINAL].hidden[judge], hidden, clusters=clusters, resamples=resamples, seed=seed
                )
    names = list(dict.fromkeys(name for _, name in estimates[""]))
    rows: dict[str, dict[str, float | None]] = {}
    for system, found in measured.items():
        row: dict[str, float | None] = {}
        for name in names:
            for suffix, by_key in estimates.items():
                fields = systems.estimate_fields(f"{name}{suffix}", by_key.get((system, name), _NOTHING))
                row |= fields if not suffix else {key: x for key, x in fields.items() if key != f"{name}{suffix}"}
            if name in COVERED:
                row[f"{name}_clips"] = int(np.sum(~np.isnan(found.values[name]))) if name in found.values else None
        kl = found.values.get("kl_nats")
        rows[system] = row | {"kl_nats": None if kl is None else float(np.mean(kl)), "not_finite": found.not_finite}
    return rows


_NOTHING = bootstrap({0: Figure.mean(np.array([np.nan]))}, resamples=1)[0]


def _figures(found: Measured) -> dict[str, Figure]:
    wanted: dict[str, Figure] = {}
    if found.spectrogram is not None:
        wanted |= found.spectrogram.figures()
    if found.sound is not None:
        sound = found.sound.figures()
        wanted |= {"sound_rmse_db": sound["rmse_db"], "sound_lsd_db": sound["lsd_db"]}
    return wanted | {name: Figure.mean(values) for name, values in found.values.items() if name != "kl_nats"}


def absent(group: Group) -> dict[str, str]:
    """Figures that cannot be had of a group, each with the reason."""
    return sound_metrics.absent(phase=group.representation.keeps_phase)
