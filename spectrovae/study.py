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

from spectrovae import __version__, plots
from spectrovae.bundle import read_description
from spectrovae.codec import Codec
from spectrovae.data import Recordings
from spectrovae.errors import InputError
from spectrovae.evaluation import systems
from spectrovae.evaluation.baselines import Mean, fit_baselines
from spectrovae.evaluation.metrics import Errors
from spectrovae.evaluation.rate import TOLERANCE, gaussian_bound, rate_distortion
from spectrovae.evaluation.report import Card, Cell, Report, Row, count_text, duration_text, number_text
from spectrovae.files import write_json, write_text
from spectrovae.pca import principal_components

RESULT = "study.json"
BASELINES = (8, 16, 32, 64, 128)
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
        name: of what is varied; trials of one name differ in their seed alone.
        family: of the model.
        seed: of the fit.
        fit: trains into a folder, or continues there, and returns the codec.
    """

    name: str
    family: str
    seed: int
    fit: Callable[[Path], Codec]

    def place(self, fits: Path) -> Path:
        """The folder of the bundle, among those of a study."""
        return fits / f"{systems.file_stem(self.name)}-{self.seed}"

    def run(self, fits: Path) -> Codec:
        """The codec: loaded where the fit is finished, else trained, or continued."""
        path = self.place(fits)
        return Codec.load(path) if _finished(path) else self.fit(path)


def study(
    trials: Sequence[Trial],
    recordings: Recordings,
    out: str | Path,
    *,
    split: str = "test",
    log: systems.Log = systems.to_stderr,
) -> dict[str, Any]:
    """Run the trials one after the other, measure each on one split and write tables, a picture and a page.

    A trial that is finished already is measured again, not trained again. Tables and page are written anew after
    each trial.

    Args:
        trials: what to fit, of one data set.
        recordings: the data.
        out: the study's folder.
        split: the split measured.

    Returns:
        What ``study.json`` holds: ``rows``, a trial each, and ``summary``, a name each with mean and deviation
        over seeds.

    Raises:
        InputError: ``out`` holds something else, or two trials have the same name and seed.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / "fits").is_dir())):
        raise InputError(f"{out} exists and is not a study; choose another folder")
    if len({(trial.name, trial.seed) for trial in trials}) < len(trials):
        raise InputError("two trials of the study have the same name and seed")
    result: dict[str, Any] = {
        "kind": "study",
        "spectrovae": __version__,
        "data": recordings.measured(split),
        "settings": {"split": split, "clips": len(recordings.examples(split)), "data": recordings.get_config()},
        "rows": [],
        "references": [],
    }
    references: dict[str, dict[str, Any]] = {}
    for number, trial in enumerate(trials, start=1):
        log(f"study: {trial.name}, seed {trial.seed} ({number} of {len(trials)})")
        codec = trial.run(out / "fits")
        label = systems.label(codec.representation)
        if label not in references:
            references[label] = _references(codec, recordings, split)
        result["rows"].append(_measure(trial, codec, recordings, split) | {"representation": label})
        result["summary"] = summarise(result["rows"])
        result["references"] = list(references.values())
        _write(result, out)
    return result


def _finished(path: Path) -> bool:
    return (path / "codec.json").is_file() and bool(read_description(path)["info"].get("finished"))


def _features(codec: Codec, recordings: Recordings, split: str) -> np.ndarray:
    return np.concatenate([np.asarray(batch) for batch in recordings.features(split, codec.representation, 64)])


def _measure(trial: Trial, codec: Codec, recordings: Recordings, split: str) -> dict[str, Any]:
    features = _features(codec, recordings, split)
    errors = _errors(codec, features)
    measured = rate_distortion(codec, features, seed=trial.seed)
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


def _errors(reconstructor: Any, features: np.ndarray, representation: Any = None) -> dict[str, float]:
    representation = representation or reconstructor.representation
    parts = []
    for start in range(0, len(features), 64):
        part = features[start : start + 64]
        before, after = (np.asarray(representation.to_db(x)) for x in (part, reconstructor.reconstruct_features(part)))
        parts.append(Errors.measure(before, after, representation.min_db))
    joined = Errors.concatenate(parts)
    return {
        "rmse_db": math.sqrt(joined.squared.sum() / joined.cells.sum()),
        "rmse_active_db": math.sqrt(joined.squared_active.sum() / max(joined.cells_active.sum(), 1.0)),
    }


def _references(codec: Codec, recordings: Recordings, split: str) -> dict[str, Any]:
    """Baselines under a codec's representation, and the bound of Gaussian clips."""
    representation = codec.representation
    features = _features(codec, recordings, split)
    train = _features(codec, recordings, "train")
    baselines = fit_baselines([train], BASELINES)
    rows = [
        {"name": baseline.name, **_errors(baseline, features, representation)}
        for baseline in baselines
        if baseline.name.startswith("PCA") or isinstance(baseline, Mean)
    ]
    found: dict[str, Any] = {"representation": systems.label(representation), "baselines": rows, "gaussian_bound": None}
    if _affine(representation, train[:2]):
        scale = float(np.mean(representation.db_per_unit))
        spectrum = principal_components([train[..., :1]], len(train)).variances
        bound = gaussian_bound(spectrum, train[0, ..., 0].size, scale, RATES)
        found["gaussian_bound"] = {"bits": RATES.tolist(), "rmse_db": bound.tolist()}
    return found


def _affine(representation: Any, features: np.ndarray) -> bool:
    """Whether an error of the features is an error in dB, of one scale for all bins: so for levels, not magnitudes."""
    first, last = (np.asarray(representation.to_db(x)) for x in (features[:1], features[-1:]))
    middle = np.asarray(representation.to_db(0.5 * (features[:1] + features[-1:])))
    return np.ndim(representation.db_per_unit) == 0 and np.allclose(middle, 0.5 * (first + last), atol=1e-2)


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
            summary[f"{key}_deviation"] = float(np.std(values, ddof=1)) if known and len(own) > 1 else None
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
        if reference["representation"] == result["references"][0]["representation"]:
            blank = [Cell("–")] * 7
            rows += [
                Row(
                    [Cell(row["name"]), Cell("–"), Cell(number_text(row["rmse_db"]), "", row["rmse_db"]),
                     Cell(number_text(row["rmse_active_db"]), "", row["rmse_active_db"]), *blank],
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
