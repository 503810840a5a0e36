"""Is the U-Net far more robust than the VAE? docs/unet_robustness.md has the question and the setting.

python scripts/reproduce/unet_robustness.py --data recordings --out studies/unet-robustness
python scripts/reproduce/unet_robustness.py --small --out /tmp/unet-robustness     # a toy set, in a minute or two

Fits a VAE and U-Nets with all, none and some of their skips, each on clean and on perturbed inputs, over several
seeds; disturbs the test clips; writes unet_robustness.csv and .json and report.html. The same command again continues:
fits and measurements that are finished stay. OUT/fits has the bundles, OUT/measured a page with sounds for each seed.
"""

import argparse
import contextlib
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import spectrovae as sv
from spectrovae.errors import InputError
from spectrovae.evaluation import systems
from spectrovae.evaluation.disturbed import courses_of
from spectrovae.evaluation.report import Card, Cell, Report, Row, number_text
from spectrovae.evaluation.robustness import RESULT
from spectrovae.files import write_json, write_text
from spectrovae.models.unet import PRESETS
from spectrovae.plots import DARK_INK, LIGHT_INK, Curve, curves_figure, png

FIGURES = ("consistency_db", "fidelity_db", "gain")
MORE, FAR = 1.05, 2.0
"""More robust: the other's figure is at least so many times as large, with every seed; far more: twice."""
UNDECIDED = "neither more nor less"  # or the seeds disagree
DENOISING = ", denoising"
CLAIM = "The U-Net is far more robust than the VAE."
PERTURBATIONS = (
    "uniform:0,2,5,10,20", "gaussian:10", "gain:6", "tilt:3", "band-mask:10", "time-mask:10", "white-noise:20",
    "pink-noise:20", "resampling:2", "mp3:16", "vorbis:2", "worst-case:1,2",
)  # fmt: skip
SMALL = {
    "data": "toy:harmonic?size=60", "preset": "tiny", "epochs": 2, "seeds": (0,), "limit": 6, "resamples": 200,
    "noise_seeds": 1, "steps": 3, "perturbation": ["uniform:0,10", "gain:6", "worst-case:1"],
}  # fmt: skip
FULL = {
    "preset": "small", "epochs": 30, "seeds": (0, 1, 2), "limit": None, "resamples": 2000, "noise_seeds": 2,
    "steps": 20, "perturbation": list(PERTURBATIONS),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Model:
    """One of the models compared: a family with options, on clean inputs or on corrupted ones."""

    name: str
    family: str
    options: Mapping[str, Any]
    corrupt: str | None


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = parse(arguments)
    out = Path(options.out)
    recordings = sv.data.Recordings.open(options.data)
    representation = sv.representations.LogSTFT(recordings.sample_rate)
    peak = round(representation.peak_db(recordings.waveforms("train")), 2)
    representation = sv.representations.LogSTFT(recordings.sample_rate, max_db=peak)
    models = models_of(options)
    rows, training = [], []
    for seed in options.seeds:
        codecs = []
        for model in models:
            log(f"{model.name}, seed {seed}")
            codecs.append(fitted(model, seed, out, recordings, representation, options))
            training.append({"model": model.name, "seed": seed, **kept(codecs[-1])})
        measured = measure(codecs, out / "measured" / str(seed), recordings, options)
        rows += [row | {"seed": seed} for row in measured["rows"]]
        settings = {name: measured["settings"][name] for name in ("split", "clips", "perturbations")}
    result = {
        "claim": CLAIM,
        "settings": {
            **{name: getattr(options, name) for name in ("data", "seeds", "corrupt", *FULL)},
            "representation": systems.label(representation),
            "data_summary": recordings.summary(),
            **settings,
        },
        "models": [dataclasses.asdict(model) for model in models],
        "training": training,
        "rows": summarised(rows),
    }
    result["verdict"] = verdict(rows, options)
    result = json.loads(json.dumps(result, default=str))
    write_json(out / "unet_robustness.json", result)
    write_text(out / "unet_robustness.csv", systems.csv_text(result["rows"]))
    page(result).save(out / "report.html")
    print("\n".join(result["verdict"]["sentences"]), file=sys.stdout)
    print(f"\n{out / 'report.html'}")
    return result


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder of recordings, manifest, or toy set")
    parser.add_argument("--out", required=True)
    parser.add_argument("--small", action="store_true", help="smallest setting, on a toy set where --data is not given")
    parser.add_argument("--seeds", type=lambda text: tuple(int(part) for part in text.split(",")), help="0,1,2")
    parser.add_argument("--epochs", type=int, help="of each fit; 30")
    parser.add_argument("--patience", type=int, default=10, help="epochs without improvement before a fit stops")
    parser.add_argument("--preset", choices=("tiny", "small", "base"), help="of all models; small")
    parser.add_argument("--latent-dim", type=int, help="of the VAE; the preset's")
    parser.add_argument("--corrupt", default="uniform:10", help="what the denoising fits undo")
    parser.add_argument("--perturbation", nargs="+", metavar="NAME[:SEVERITY,...]", help=" ".join(PERTURBATIONS))
    parser.add_argument("--noise-seeds", type=int, help="disturbances of each clip; 2")
    parser.add_argument("--steps", type=int, help="of the ascent to the worst case; 20")
    parser.add_argument("--limit", type=int, help="measure this many test clips; all")
    parser.add_argument("--resamples", type=int, help="of the bootstrap on each seed's page; 2000")
    options = parser.parse_args(arguments)
    for name, value in (SMALL if options.small else FULL).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if options.data is None:
        parser.error("--data is needed: a folder of recordings (or --small for a toy set)")
    if not any(c.name == "uniform" and 10.0 in c.severities for c in courses_of(options.perturbation)):
        parser.error("the claim is judged at uniform:10: give it among --perturbation")
    return options


def models_of(options: argparse.Namespace) -> list[Model]:
    """VAE and U-Nets, on clean inputs and then on corrupted ones."""
    depth = len(PRESETS[options.preset]["widths"]) - 1
    vae = {} if options.latent_dim is None else {"latent_dim": options.latent_dim}
    own = [
        ("VAE", "vae", vae),
        ("U-Net, all skips", "unet", {}),
        ("U-Net, deep skips", "unet", {"skips": tuple(range(depth // 2, depth))}),
        ("U-Net, no skips", "unet", {"skips": ()}),
    ]
    return [
        Model(name + (DENOISING if corrupt else ""), family, model_options, corrupt)
        for corrupt in (None, options.corrupt)
        for name, family, model_options in own
    ]


def fitted(model: Model, seed: int, out: Path, recordings, representation, options) -> sv.Codec:
    """The model's codec: trained now, or further, or as it was kept.

    Raises:
        InputError: a fit with other settings is there.
    """
    path = out / "fits" / f"{systems.file_stem(model.name)}-{seed}"
    how = sv.training.FitOptions(
        epochs=options.epochs, patience=options.patience, seed=seed, corrupt=model.corrupt
    )  # fmt: skip
    longer = False
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # fit says what is wrong with it
        config = json.loads((path / "run" / "config.json").read_text(encoding="utf-8"))
        longer = config["options"]["epochs"] < options.epochs
    codec = sv.training.fit(
        model.family, recordings, representation, path, how, resume=longer, reuse=True, preset=options.preset,
        **model.options,
    )  # fmt: skip
    codec.name = model.name
    return codec


def kept(codec: sv.Codec) -> dict[str, Any]:
    names = ("epoch", "epochs", "training_seconds", "findings")
    metrics = ("validation_rmse_db", "validation_clean_rmse_db")
    return (
        {name: codec.info.get(name) for name in names}
        | {name: codec.info["metrics"].get(name) for name in metrics}
        | {"parameters": codec.parameters}
    )  # fmt: skip


def measure(codecs: Sequence[sv.Codec], path: Path, recordings, options) -> dict[str, Any]:
    """Robustness of one seed's models; what was measured before with these settings, of these fits, stays."""
    asked = {
        "seeds": options.noise_seeds,
        "steps": options.steps,
        "limit": options.limit,
        "resamples": options.resamples,
    }
    courses = [json.loads(json.dumps(dataclasses.asdict(course))) for course in courses_of(options.perturbation)]
    trained = [[codec.name, codec.info.get("epochs"), codec.info["training_seconds"]] for codec in codecs]
    kept_as = path / "request.json"
    request = {**asked, "perturbations": courses, "trained": trained}
    if kept_as.is_file() and json.loads(kept_as.read_text(encoding="utf-8")) == request:
        return json.loads((path / RESULT).read_text(encoding="utf-8"))
    result = sv.evaluation.robustness(
        codecs, recordings, path, perturbations=options.perturbation, samples=2, force=True, log=log, **asked
    )
    write_json(kept_as, request)
    return result


def summarised(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation over seeds of each system at each severity."""
    found: dict[tuple, list] = {}
    for row in rows:
        found.setdefault((row["name"], row["perturbation"], row["severity"]), []).append(row)
    summary = []
    for own in found.values():
        first = own[0]
        line = {name: first[name] for name in ("name", "kind", "family", "perturbation", "severity", "unit", "note")}
        line["seeds"] = len(own)
        for name in ("input_distance_db", *FIGURES):
            values = [row[name] for row in own if row[name] is not None]
            line[name] = float(np.mean(values)) if values else None
            line[f"{name}_deviation"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
        summary.append(line)
    return summary


def verdict(rows: Sequence[Mapping[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    """What the figures say of the claim, and of what explains them, in plain sentences."""

    def figures(name: str, figure: str, perturbation: str = "uniform", severity: float = 10.0) -> np.ndarray:
        key = (name, perturbation, severity)
        own = [row for row in rows if (row["name"], row["perturbation"], row["severity"]) == key]
        return np.array([np.nan if row[figure] is None else row[figure] for row in own])

    def compared(a: str, b: str, figure: str, *where: Any) -> tuple[str, str]:
        """How robust a is against b (far more, more, less, far less, or undecided), and the two figures."""
        x, y = figures(a, figure, *where), figures(b, figure, *where)
        word = (
            "far more" if np.all(FAR * x <= y) else "more" if np.all(MORE * x <= y)
            else "far less" if np.all(FAR * y <= x) else "less" if np.all(MORE * y <= x)
            else UNDECIDED
        )  # fmt: skip
        return word, f"{np.mean(x):.2f} against {np.mean(y):.2f} dB"

    def both(a: str, b: str, *where: Any) -> tuple[tuple[str, str], str]:
        moved, missed = (compared(a, b, figure, *where) for figure in FIGURES[:2])
        text = f"{a} against {b}: {moved[0]} consistent ({moved[1]}), {missed[0]} faithful ({missed[1]})"
        return (moved[0], missed[0]), text

    unet, vae = "U-Net, all skips", "VAE"
    words, text = both(unet, vae)
    better = {"far more", "more"}
    if set(words) == {"far more"}:
        answer = "holds"
    elif set(words) <= better:
        answer = "holds in direction, not in size"
    elif set(words) <= {"far less", "less"}:
        answer = "is the opposite of what was found"
    elif set(words) & better:
        answer = "does not hold: it is better in one sense and not in the other"
    else:
        answer = "does not hold"
    seeds = len(options.seeds)
    sentences = [
        f"Claim: {CLAIM} At ±10 dB on every cell, trained on clean inputs, over {seeds} seed{'s' * (seeds > 1)}, it "
        f"{answer}. {text}."
    ]
    passed = figures(unet, "gain").mean(), figures(vae, "gain").mean()
    identity = figures("identity", "fidelity_db").mean()
    sentences.append(
        f"Of the disturbance {passed[0]:.0%} passes the {unet}, {passed[1]:.0%} the {vae}. An identity is then "
        f"{identity:.2f} dB from the clean input; a model above that adds more error than it removes."
    )
    pcas = sorted({row["name"] for row in rows if row["name"].startswith("PCA-")}, key=lambda name: int(name[4:]))
    for name in pcas[-1:]:
        sentences.append(f"Beside a linear model, {both(vae, name)[1]}.")
    for other in ("U-Net, deep skips", "U-Net, no skips"):
        sentences.append(f"What the skips do. {both(other, unet)[1]}.")
    for name in (vae, unet, "U-Net, deep skips", "U-Net, no skips"):
        sentences.append(f"Trained to undo {options.corrupt}. {both(name + DENOISING, name)[1]}.")
    sentences.append(f"Both trained so. {both(unet + DENOISING, vae + DENOISING)[1]}.")
    others = {}
    for row in rows:
        if row["name"] == unet and row["gain"] is not None:  # disturbed, and measured
            where = (row["perturbation"], row["severity"])
            others[f"{where[0]}:{where[1]:g}"] = both(unet, vae, *where)[0]
    for index, sense in enumerate(("consistent", "faithful")):
        counted = {word: [key for key, words in others.items() if words[index] == word] for word in
                   ("far more", "more", UNDECIDED, "less", "far less")}  # fmt: skip
        listed = "; ".join(f"{word} {sense} under {', '.join(keys)}" for word, keys in counted.items() if keys)
        sentences.append(f"Under all perturbations, clean training, the {unet} against the {vae} is {listed}.")
    if seeds < 3:
        sentences.append("Fewer than three seeds: what differs between models may differ between seeds as much.")
    return {"answer": answer, "compared": others, "sentences": sentences}


def page(result: Mapping[str, Any]) -> Report:
    """Verdict, curves under uniform noise, and one table for each perturbation."""
    settings = result["settings"]
    report = Report(
        "Is the U-Net far more robust?",
        f"{settings['clips']} clips of the {settings['split']} split, {len(settings['seeds'])} seeds, "
        f"{settings['epochs']} epochs, preset {settings['preset']}; {settings['representation']}.",
    )
    report.section("Verdict", *result["verdict"]["sentences"])
    report.section("Uniform noise on every cell", "Bands are a standard deviation over seeds, on either side.")
    uniform = [row for row in result["rows"] if row["perturbation"] == "uniform"]
    report.cards("", [curve_card(uniform, figure) for figure in FIGURES], wide=True)
    shown = (*FIGURES, "input_distance_db")
    for course in settings["perturbations"]:
        for severity in course["severities"]:
            rows = [
                row for row in result["rows"] if (row["perturbation"], row["severity"]) == (course["name"], severity)
            ]  # fmt: skip
            caption = f"{course['name']}: {course['meaning'].format(f'{severity:g}')}"
            report.table(caption, ("model", "consistency\ndB", "fidelity\ndB", "gain", "input moved\ndB"), [
                Row([Cell(row["name"], row["note"]), *(figure_cell(row, name) for name in shown)], row["kind"])
                for row in rows
            ])  # fmt: skip
    report.section("Fits")
    heads = ("model", "seed", "best epoch", "epochs", "trained\ns", "validation\ndB", "clean validation\ndB")
    report.table("Fits", heads, [
        Row([Cell(row["model"]), *(
            Cell(number_text(row[name], digits), "", row[name])
            for name, digits in (("seed", 0), ("epoch", 0), ("epochs", 0), ("training_seconds", 0),
                                 ("validation_rmse_db", 2), ("validation_clean_rmse_db", 2))
        )])
        for row in result["training"]
    ])  # fmt: skip
    report.notes([
        "Consistency d(f(x~), f(x)): how far the disturbance moves the output. Fidelity d(f(x~), x): how far the "
        "output is from the clean input. Gain: how much of the disturbance passes. d is the RMSE in dB over all cells "
        "of all clips.",
        f"±: standard deviation over seeds. More or less: by a factor of {MORE:g} with every seed; far: of {FAR:g}.",
        f"Denoising: trained on inputs under {settings['corrupt']} with clean targets; its validation error is of such "
        "inputs.",
    ])  # fmt: skip
    return report


def figure_cell(row: Mapping[str, Any], name: str) -> Cell:
    deviation = row[f"{name}_deviation"]
    return Cell(number_text(row[name]), "" if deviation is None else f"± {deviation:.2f}", row[name])


def curve_card(rows: Sequence[Mapping[str, Any]], figure: str) -> Card:
    curves = []
    for name in dict.fromkeys(row["name"] for row in rows):
        own = sorted(
            (row for row in rows if row["name"] == name and row[figure] is not None), key=lambda row: row["severity"]
        )  # fmt: skip
        x, y = ([row[key] for row in own] for key in ("severity", figure))
        width = [row[f"{figure}_deviation"] or 0.0 for row in own]
        low, high = ([v + sign * w for v, w in zip(y, width)] for sign in (-1, 1))
        curves.append(Curve(name, x, y, low, high, reference=own[0]["kind"] != "model"))
    title = figure.removesuffix("_db").capitalize()
    unit = "ratio" if figure == "gain" else "dB"
    light, dark = (
        png(curves_figure(curves, xlabel="uniform noise (±dB)", ylabel=unit, marked=10.0, size=(4.4, 4.6), ink=ink))
        for ink in (DARK_INK, LIGHT_INK)
    )  # fmt: skip
    spoken = "; ".join(f"{curve.name} {curve.y[-1]:.2f}" for curve in curves)
    return Card(title, light, f"{title} against uniform noise. At the most: {spoken}", dark_picture=dark)


def log(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
