"""Diagnose a codec on recordings and judge it: the end of a fit, and ``spectrovae diagnose``."""

import csv
import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spectrovae import files
from spectrovae.codec import Codec
from spectrovae.data import Recordings
from spectrovae.errors import InputError
from spectrovae.evaluation.codes import CodeCounts
from spectrovae.evaluation.diagnostics import Probe, diagnose
from spectrovae.evaluation.leak import speaker_leak
from spectrovae.evaluation.systems import data_of
from spectrovae.models.base import sigma_of
from spectrovae.pca import principal_components
from spectrovae.representations import Waveform
from spectrovae.training.adversarial_verdict import judge_adversary, split_stages
from spectrovae.training.live import silence
from spectrovae.training.verdict import Finding, channel_scale, collapse_law, judge, ranges

BATCH_SIZE = 64
NUMBERS = ("alpha", "beta", "sigma", "adversarial_weight", "feature_weight", "discriminator_rate")
"""Options of a trainer that verdicts look at."""
SPECTRUM_CLIPS = 1024
"""Training clips whose PCA spectrum is taken, and so many directions at most."""


def examine(
    codec: Codec,
    recordings: Recordings,
    *,
    split: str = "validation",
    model: Mapping[str, Any] | None = None,
    history: Mapping[str, Sequence[float]] | None = None,
    stalled: bool = False,
    corrupt: str | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Diagnostics, collapse law and findings of a codec on recordings of its rate and length, as JSON by :func:`plain`.

    Args:
        split: what the latent is measured on. The PCA spectrum is of the training split; codes are counted there too.
        model: options of the trainer, for the collapse law.
        history, stalled, corrupt: of the run, see :func:`spectrovae.training.verdict.judge`.
    """

    def batches(name: str):
        return recordings.features(name, codec.representation, BATCH_SIZE, shuffle=True, seed=seed)

    def with_statistics(name: str):
        """Features, and what brings them back to dB where each clip has its own scale."""
        for waveform in recordings.waveforms(name, BATCH_SIZE, shuffle=True, seed=seed):
            scaled = representation.normalisation == "per_example"
            known = representation.statistics(representation.decibels(waveform)) if scaled else None
            yield representation(waveform), known

    representation = codec.representation
    floor = silence(representation, recordings.samples)
    samples = isinstance(representation, Waveform)  # not levels: their principal components and mean say little
    scale = channel_scale(sigma_of(codec.decoder))
    spectrum = None
    if not samples:
        weighted = (np.asarray(batch) / scale for batch in batches("train"))
        spectrum = principal_components(weighted, SPECTRUM_CLIPS, max_clips=SPECTRUM_CLIPS, seed=seed)
    found = diagnose(
        codec.encoder,
        codec.decoder,
        with_statistics(split),
        levels=lambda features, known: representation.to_db(features, known)[..., :1],
        mean=None if spectrum is None else spectrum.overall_mean * scale,
        floor=floor,
        seed=seed,
    )
    if "codes" in found and split != "train":
        probe, counts = Probe(codec.encoder), CodeCounts.of(codec.encoder, floor)
        for batch in batches("train"):
            counts.add(probe(batch)[0][0], np.asarray(batch))
        found["training_codes"] = counts.result()
    law = (
        {} if spectrum is None else collapse_law(spectrum.variances, model or {}, found, math.prod(codec.feature_shape))
    )
    leak = speaker_leak(codec, recordings, split) if codec.speakers else {}
    alone, with_adversary = split_stages(history or {})
    findings = judge(alone, found, law, model or {}, stalled=stalled, corrupt=corrupt, first=bool(with_adversary))
    findings += judge_adversary(history or {}, model or {})
    return {
        "split": split,
        "corrupt": corrupt,
        "diagnostics": found,
        "collapse_law": law,
        **({"speaker_leak": leak} if leak else {}),
        "findings": [dataclasses.asdict(finding) for finding in findings],
    }


def examine_bundle(path: Path, recordings: Recordings, codec: Codec, split: str) -> dict[str, Any]:
    """:func:`examine` with what the bundle's ``run`` folder still tells of its training; a bundle may be without."""
    model, history, corrupt = {}, {}, None
    try:
        config = json.loads((path / "run" / "config.json").read_text(encoding="utf-8"))
        model, corrupt = config["model"], config["options"].get("corrupt")
        for name in NUMBERS:
            float(model.get(name) or 0.0)
        with open(path / "run" / "history.csv", newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        history = {name: [float(row[name]) for row in rows] for name in (rows[0] if rows else ())}
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path / 'run'} is damaged ({error!r}); restore it from a copy, or move it away") from error
    data = data_of(recordings, split, [codec])
    stalled = codec.info.get("stalled") is True
    return {"data": data} | examine(
        codec, recordings, split=split, model=model, history=history, stalled=stalled, corrupt=corrupt
    )


def key_figures(report: Mapping[str, Any]) -> dict[str, float]:
    """The few figures of a report that a codec keeps in its ``info``; those that are finite."""
    found = report["diagnostics"]
    figures = {f"latent_{name}": value for name, value in found["latent"].items() if name != "dimensions"}
    figures["latent_units"] = found["latent"]["dimensions"]
    if "latent_active_units" in figures:
        figures["active_units"] = figures.pop("latent_active_units")
        figures["mutual_information_nats"] = sum(group["mutual_information_nats"] for group in found["groups"])
    for index, group in enumerate(found["groups"]):
        if "prior_rise_db" in group:
            figures[f"prior_rise_db_{index}"] = group["prior_rise_db"]
    for index, stage in enumerate(found.get("training_codes", found.get("codes", {})).get("stages", ())):
        figures |= {f"code_{name}_{index}": stage["active"][name] for name in ("usage", "perplexity")}
    if "speaker_leak" in report:
        figures |= {f"speaker_leak_{name}": report["speaker_leak"][name] for name in ("accuracy", "chance")}
    return {name: float(value) for name, value in figures.items() if math.isfinite(value)}


def write(folder: Path, report: Mapping[str, Any]) -> None:
    """``diagnostics.json`` and ``verdict.md`` in the folder of a run."""
    files.write_json(folder / "diagnostics.json", files.as_json(report))
    sections = [f"# Verdict\n\n{_findings(report, '- ')}"]
    if report.get("diagnostics"):
        sections.append(f"## Figures ({report['split']} split)\n\n```\n{figures_text(report)}\n```")
        sections.append(
            "All figures are in `diagnostics.json`; the thresholds, with reasons, in `spectrovae/training/verdict.py`."
        )
    files.write_text(folder / "verdict.md", "\n\n".join(sections) + "\n")


def report_text(report: Mapping[str, Any]) -> str:
    """A report for a terminal: the figures, then the findings."""
    return "\n\n".join(filter(None, [figures_text(report), _findings(report)]))


def _findings(report, bullet: str = "") -> str:
    lines = [bullet + str(Finding(**finding)) for finding in report["findings"]]
    return "\n".join(lines or [bullet + "nothing wrong was found with the latent."])


def figures_text(report: Mapping[str, Any]) -> str:
    """The figures of a report in lines of text."""
    found, law = report["diagnostics"], report["collapse_law"]
    latent = found["latent"]
    lines = [f"clips                  {found['clips']}"]
    if report.get("corrupt"):
        lines.append(f"trained to undo        {report['corrupt']}; these figures are of clean inputs")
    beside = "of the levels of a spectrogram of the sounds"
    if "mean_rmse_db" in found:
        beside = f"(the mean of the training clips: {found['mean_rmse_db']:.2f})"
    lines.append(f"error                  {found['rmse_db']:.2f} dB {beside}")
    if 0 < found["effect_clips"] < found["clips"]:
        lines.append(f"latent exchanged       and drawn on {found['effect_clips']} of the clips")
    lines.append(f"latent                 {_figures(latent)}")
    if len(found["groups"]) > 1 or "prior_rise_db" in found["groups"][0]:
        lines += [f"  {group['name']:20} {_figures(group)}" for group in found["groups"]]
    if "skips" in found:
        lines.append(f"  all skips            {_figures(found['skips'])}")
    for name, label in (("codes", report["split"]), ("training_codes", "train")):
        for index, stage in enumerate(found.get(name, {}).get("stages", ())):
            for tokens in ("all", "active"):
                one = stage[tokens]
                lines.append(
                    f"codes {index}, {label}, {tokens} tokens: {one['used']} of {found[name]['codebook_size']} used, "
                    f"perplexity {one['perplexity']:.1f}, {one['bits']:.2f} bits, {one['tokens']} tokens"
                )
    if "speaker_leak" in report:
        leak = report["speaker_leak"]
        lines.append(
            f"speaker in the latent  named rightly for {leak['accuracy']:.1%} of {leak['clips']} clips by a linear "
            f"classifier (chance {leak['chance']:.1%})"
        )
    if "calibration" in found:
        z = found["calibration"]
        lines.append(
            f"predicted sigma        squared z {z['squared_z']:.2f} (1), within 1 sigma {z['within_1_sigma']:.1%} "
            f"(68.3 %), within 2 {z['within_2_sigma']:.1%} (95.4 %)"
        )
    if law:
        first = ", ".join(f"{value:.3g}" for value in law["eigenvalues"][:8]) or "0"
        lines.append(f"PCA spectrum of train  {first}, ... of {law['variance']:.4g}")
    if law.get("threshold") is not None and len(found["groups"]) == 1:  # the law is of one group
        lines.append(
            f"collapse law           beta sigma^2 = {law['threshold']:.3g}: {law['predicted_active']} dimensions "
            f"predicted active, {law['found_active']} found"
        )
    if "kl_per_dimension" in found["groups"][0]:
        for group in found["groups"]:
            dead = np.flatnonzero(np.asarray(group["mean_variance"]) <= 0.01)
            which = ranges(dead)
            which = which if len(which) < 200 else f"{len(dead)} of {group['dimensions']} dimensions"
            lines.append(f"not active in {group['name']}: {which}")
    return "\n".join(lines)


def _figures(group: Mapping[str, Any]) -> str:
    texts = {
        "dimensions": "{} dimensions",
        "active_units": "{} active",
        "kl_nats": "{:.1f} nats",
        "shuffle_rise_db": "exchanged {:+.2f} dB",
        "prior_rise_db": "drawn from the prior {:+.2f} dB",
        "zero_rise_db": "zeroed {:+.2f} dB",
        "mutual_information_nats": "mutual information {:.2f} nats",
    }
    shown = [text.format(group[name]) for name, text in texts.items() if name in group]
    return ", ".join(shown) + (" (its bound: log of the clips)" if group.get("at_bound") else "")
