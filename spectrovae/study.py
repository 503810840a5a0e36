"""A study: the same data, budget and seeds over several families, or over values of one parameter.

OUT/
  fits/NAME-SEED/      a bundle each, with its run; a study that was stopped continues there
  study.json  study.csv
  report.html          the table, and error against rate, of all of them
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spectrovae import __version__, files, plots
from spectrovae.codec import Codec
from spectrovae.data import Recordings
from spectrovae.errors import InputError
from spectrovae.evaluation import systems
from spectrovae.evaluation.baselines import Identity, fit_baselines
from spectrovae.evaluation.metrics import Errors, deviation
from spectrovae.evaluation.rate import TOLERANCE, gaussian_bound, rate_distortion
from spectrovae.evaluation.report import MISSING, Card, Cell, Report, Row, count_text, duration_text, number_text
from spectrovae.evaluation.systems import System
from spectrovae.files import as_json, write_json, write_text
from spectrovae.pca import MAX_CLIPS, principal_components

RESULT = "study.json"
BASELINES = (8, 16, 32, 64, 128)
BATCH_SIZE = 64
RATE_CLIPS = 1000
"""Clips at most whose latents are held while their bits are counted."""
RATES = np.geomspace(8.0, 65536.0, 60)  # bits a clip at which the bound is drawn

DEFINITIONS = (
    "RMSE: root of the mean squared error in dB over all cells of all clips, of the deterministic reconstruction.",
    "Bits: what a clip's latent carries. Of a model with a posterior, its KL divergence from the prior; of codes, "
    "log2 of the codebook's size each; of other numbers, the capacity they have under as much Gaussian noise as raises "
    f"the error by {100 * TOLERANCE:g} %. Error at these bits: with the latent drawn from the posterior, or under "
    "that noise.",
    "Bound: nats that describe a clip at most, the negative ELBO, with the latent drawn from the posterior and the "
    "sigma found in training; it compares models of one representation.",
    "Gaussian bound: no code of so many bits does better on Gaussian clips with the covariance of the training "
    "features (reverse water-filling over their PCA spectrum). Speech is not Gaussian: a model may lie below.",
    "± is the standard deviation over seeds.",
)


@dataclasses.dataclass(frozen=True)
class Trial:
    """One fit of a study.

    Attributes:
        name: trials with the same name differ only in their seed.
        family: of the model.
        seed: of the fit.
        fit: trains into a folder and returns the codec: continues a run that was stopped, returns the codec of a
            finished run of the same configuration, and refuses any other (``training.fit`` with ``reuse=True``).
    """

    name: str
    family: str
    seed: int
    fit: Callable[[Path], Codec]

    def place(self, fits: Path) -> Path:
        """The folder of the bundle, among those of trials of other names."""
        return folders([self], fits)[0]

    def run(self, fits: Path) -> Codec:
        """The codec, trained where it is not there."""
        return self.fit(self.place(fits))


def folders(trials: Sequence[Trial], fits: Path) -> list[Path]:
    """The folder of each trial's bundle, numbered where names are equal as file names."""
    names = list(dict.fromkeys(trial.name for trial in trials))
    stems = dict(zip(names, systems.unique_stems(names)))
    return [fits / f"{stems[trial.name]}-{trial.seed}" for trial in trials]


def study(
    trials: Sequence[Trial],
    recordings: Recordings,
    out: str | Path,
    *,
    split: str = "test",
    log: systems.Log = systems.to_stderr,
) -> dict[str, Any]:
    """Run the trials one after the other, measure each on one split and write tables, a picture and a page.

    A trial that is finished already with the same configuration is measured again, not trained again. Tables and page
    are written anew after each trial.

    Args:
        trials: what to fit, of one data set.
        recordings: the data.
        out: the study's folder.
        split: the split measured.

    Returns:
        What ``study.json`` holds: ``rows``, a trial each, ``trials``, the configuration of each, and ``summary``, a
        name each with mean and deviation over seeds.

    Raises:
        InputError: ``out`` holds something else, or fits of other settings or data, or two trials have the same name
            and seed.
    """
    out = Path(out)
    names = {path.name for path in out.iterdir()} - {files.LOCK} if out.is_dir() else set()
    foreign = "fits" not in names or (RESULT not in names and "report.html" in names)
    if (out.exists() and not out.is_dir()) or (names and foreign):
        raise InputError(f"{out} exists and is not a study; choose another folder")
    if len({(trial.name, trial.seed) for trial in trials}) < len(trials):
        raise InputError("two trials of the study have the same name and seed")
    with files.locked(out, "spectrovae study"):
        return _run(trials, recordings, out, split, log)


def _run(trials: Sequence[Trial], recordings: Recordings, out: Path, split: str, log: systems.Log) -> dict[str, Any]:
    """:func:`study` in its folder."""
    result: dict[str, Any] = {
        "kind": "study",
        "spectrovae": __version__,
        "data": recordings.measured(split),
        "settings": {"split": split, "clips": len(recordings.examples(split)), "data": recordings.get_config()},
        "trials": [],
        "rows": [],
        "references": [],
    }
    labels: dict[str, str] = {}
    taken: set[str] = set()
    for number, (trial, path) in enumerate(zip(trials, folders(trials, out / "fits")), start=1):
        log(f"study: {trial.name}, seed {trial.seed} ({number} of {len(trials)})")
        codec = trial.fit(path)
        key = systems.fingerprint(codec.representation)
        if key not in labels:
            labels[key] = systems.unique_name(systems.label(codec.representation), taken)
            result["references"].append(_references(codec.representation, labels[key], recordings, split))
        result["rows"].append(_measure(trial, codec, recordings, split) | {"representation": labels[key]})
        result["trials"].append({"name": trial.name, "seed": trial.seed, "folder": path.name, **_configuration(path)})
        result["summary"] = summarise(result["rows"])
        _write(result, out)
    return as_json(result)


def _configuration(path: Path) -> dict[str, Any]:
    """What the fit was run with, of its ``run/config.json``; {} where a trial keeps none."""
    file = path / "run" / "config.json"
    return {"configuration": json.loads(file.read_text(encoding="utf-8"))} if file.is_file() else {}


def _features(codec: Codec, recordings: Recordings, split: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Of at most ``RATE_CLIPS`` clips, evenly spaced, and what brings them back to dB where each has its own scale."""
    representation, indices = codec.representation, systems.chosen_clips(recordings, split, RATE_CLIPS)
    parts = [waveforms for _, waveforms in systems.batches(recordings, split, indices, BATCH_SIZE)]
    features = np.concatenate([np.asarray(representation(part)) for part in parts])
    if representation.normalisation != "per_example":
        return features, None
    return features, np.concatenate([np.asarray(representation.statistics(representation.decibels(p))) for p in parts])


def _measure(trial: Trial, codec: Codec, recordings: Recordings, split: str) -> dict[str, Any]:
    system = System(trial.name, "model", codec, codec.representation, codec.parameters, codec.info)
    [errors] = _errors([system], recordings, split)
    measured = rate_distortion(codec, *_features(codec, recordings, split), seed=trial.seed)
    return {
        "name": trial.name,
        "family": trial.family,
        "seed": trial.seed,
        **errors,
        "bound_nats": None,
        **measured,
        "parameters": codec.parameters,
        "epochs": codec.info.get("epochs"),
        "training_seconds": codec.info.get("training_seconds"),
        "findings": codec.info.get("findings", []),
    }


def _errors(measured: Sequence[System], recordings: Recordings, split: str) -> list[dict[str, float]]:
    """The errors of systems of one representation over a split, as ``compare`` measures them."""
    representation, parts = measured[0].representation, []
    for waveforms in recordings.waveforms(split, BATCH_SIZE):
        db = np.asarray(representation.decibels(waveforms))
        parts.append([Errors.measure(db, system.reconstruct(db), representation.min_db) for system in measured])
    joined = [Errors.concatenate(own) for own in zip(*parts)]
    return [
        {
            "rmse_db": math.sqrt(errors.squared.sum() / errors.cells.sum()),
            "rmse_active_db": math.sqrt(errors.squared_active.sum() / max(errors.cells_active.sum(), 1.0)),
        }
        for errors in joined
    ]


def _references(representation: Any, label: str, recordings: Recordings, split: str) -> dict[str, Any]:
    """Baselines under a representation, and the bound of Gaussian clips."""

    def train():
        return recordings.features("train", representation, BATCH_SIZE)

    baselines = [
        System(baseline.name, "baseline", baseline, representation, baseline.parameters, {})
        for baseline in fit_baselines(train(), BASELINES)
        if not isinstance(baseline, Identity)
    ]
    errors = _errors(baselines, recordings, split)
    rows = [{"name": system.name, **own} for system, own in zip(baselines, errors)]
    found: dict[str, Any] = {"representation": label, "baselines": rows, "gaussian_bound": None}
    scale = representation.db_per_unit
    if isinstance(scale, float):  # an error of the features is one in dB, of one scale for all clips and bins
        levels = (np.asarray(batch)[..., :1] for batch in train())
        spectrum = principal_components(levels, MAX_CLIPS).variances
        bins, frames, _ = representation.feature_shape(recordings.samples)
        bound = gaussian_bound(spectrum, bins * frames, scale, RATES)
        found["gaussian_bound"] = {"bits": RATES.tolist(), "rmse_db": bound.tolist()}
    return found


def summarise(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation over the seeds of each name; the deviation of one seed is None."""
    found = []
    for name in dict.fromkeys(row["name"] for row in rows):
        own = [row for row in rows if row["name"] == name]
        summary: dict[str, Any] = {key: own[0][key] for key in ("name", "family", "kind", "numbers", "representation")}
        summary["seeds"] = len(own)
        for key in ("rmse_db", "rmse_active_db", "bits", "distortion_db", "bound_nats", "training_seconds"):
            values = [row[key] for row in own]
            known = None not in values
            summary[key] = float(np.mean(values)) if known else None
            summary[f"{key}_deviation"] = deviation(values) if known else None
        summary["parameters"] = own[0]["parameters"]
        summary["findings"] = sorted({finding for row in own for finding in row["findings"]})
        found.append(summary)
    return found


def format_study(result: Mapping[str, Any]) -> str:
    """The summary as plain text, at most 120 columns wide."""
    lines = [
        f"{'name':32} {'seeds':>5} {'RMSE dB':>13} {'active':>6} {'bits':>8} {'at':>9} {'error':>6} "
        f"{'bound nats':>10} {'params':>7} {'trained':>8}"
    ]
    for row in result["summary"]:
        lines.append(
            f"{row['name'][:32]:32} {row['seeds']:5} {_plus_minus(row, 'rmse_db'):>13} "
            f"{number_text(row['rmse_active_db']):>6} {count_text(row['bits']):>8} {row['kind']:>9} "
            f"{number_text(row['distortion_db']):>6} {number_text(row['bound_nats'], 0):>10} "
            f"{count_text(row['parameters']):>7} {duration_text(row['training_seconds']):>8}"
        )
    for reference in result["references"]:
        shown = ", ".join(f"{row['name']} {row['rmse_db']:.2f}" for row in reference["baselines"])
        lines.append(f"{reference['representation']}: {shown} dB")
    return "\n".join(lines)


def _plus_minus(row: Mapping[str, Any], key: str, digits: int = 2) -> str:
    deviation = row[f"{key}_deviation"]
    return number_text(row[key], digits) + ("" if deviation is None else f" ± {deviation:.{digits}f}")


def _write(result: Mapping[str, Any], out: Path) -> None:
    result = as_json(result)
    write_json(out / RESULT, result)
    flat = [{key: json.dumps(v) if isinstance(v, list) else v for key, v in row.items()} for row in result["rows"]]
    write_text(out / "study.csv", systems.csv_text(flat))
    _page(result).save(out / "report.html")


def _page(result: Mapping[str, Any]) -> Report:
    settings = result["settings"]
    report = Report(
        f"A study of {len(result['summary'])} models",
        f"{settings['clips']} clips of the {settings['split']} split. Same data, budget and seeds for all.",
        result["data"],
    )
    report.section("Rate and distortion")
    for reference in result["references"]:
        report.cards("", [_picture(result, reference)], wide=True)
    report.section("Figures")
    heads = ("model", "seeds", "RMSE\ndB", "RMSE active\ndB", "bits\na clip", "counted by", "error at\nthese bits, dB",
             "bound\nnats", "parameters", "trained", "verdict")  # fmt: skip
    rows = [Row([
        Cell(row["name"], row["representation"]), Cell(str(row["seeds"]), "", row["seeds"]),
        Cell(_plus_minus(row, "rmse_db"), "", row["rmse_db"]),
        Cell(_plus_minus(row, "rmse_active_db"), "", row["rmse_active_db"]),
        Cell(count_text(row["bits"]), f"{row['numbers']} numbers", row["bits"]), Cell(row["kind"]),
        Cell(_plus_minus(row, "distortion_db"), "", row["distortion_db"]),
        Cell(number_text(row["bound_nats"], 0), "", row["bound_nats"]),
        Cell(count_text(row["parameters"]), "", row["parameters"]),
        Cell(duration_text(row["training_seconds"]), "", row["training_seconds"]),
        Cell(", ".join(row["findings"]).replace("_", " ")),
    ]) for row in result["summary"]]  # fmt: skip
    for reference in result["references"]:
        rows += [
            Row(
                [Cell(row["name"], reference["representation"]), Cell(MISSING),
                 Cell(number_text(row["rmse_db"]), "", row["rmse_db"]),
                 Cell(number_text(row["rmse_active_db"]), "", row["rmse_active_db"]), *[Cell(MISSING)] * 7],
                "baseline",
            )
            for row in reference["baselines"]
        ]  # fmt: skip
    report.table("Models, and baselines fitted on the training split", heads, rows)
    report.notes(DEFINITIONS)
    return report


def _picture(result: Mapping[str, Any], reference: Mapping[str, Any]) -> Card:
    rows = [row for row in result["rows"] if row["representation"] == reference["representation"]]
    points = {
        name: [(row["bits"], row["distortion_db"]) for row in rows if row["name"] == name]
        for name in dict.fromkeys(row["name"] for row in rows)
    }
    bound = reference["gaussian_bound"]
    curves = {"Gaussian bound": (bound["bits"], bound["rmse_db"])} if bound else {}
    light, dark = (
        plots.png(plots.rate_figure(points, curves, reference["baselines"], ink=ink))
        for ink in (plots.DARK_INK, plots.LIGHT_INK)
    )
    spoken = "; ".join(f"{name} {pairs[0][0]:.0f} bits, {pairs[0][1]:.2f} dB" for name, pairs in points.items())
    title = f"Error against rate: {reference['representation']}"
    return Card(title, light, f"{title}. {spoken}", dark_picture=dark)
