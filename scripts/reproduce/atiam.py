"""The studies of the ATIAM report "VAE synthesizer" (2017): representations, normalisation, beta, warm-up, PCA.

Single spectra of the four-factor toy set, dense networks with one hidden layer of 400.

python scripts/reproduce/atiam.py
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import reproduction
from reproduction import Reproduction, Table, Verdict, by_seed, spread, trials

from spectrovae.codec import Codec
from spectrovae.data import Recordings
from spectrovae.evaluation.disentanglement import mig
from spectrovae.evaluation.factors import encode, untrained_encoder
from spectrovae.evaluation.metrics import mean, spectral_convergence
from spectrovae.pca import principal_components
from spectrovae.representations import Spectrum
from spectrovae.study import Trial, study

CONTENTS = {
    "magnitude, linear": {"content": "magnitude", "scale": "linear"},
    "magnitude, dB": {"content": "magnitude"},
    "magnitude and phase, dB": {"content": "magnitude_phase"},
    "MDCT, linear": {"content": "mdct", "scale": "linear"},
    "MDCT, dB and sign": {"content": "mdct"},
}
NORMALISED, RAW = "mean MSE + KL, in [0, 1]", "mean MSE + KL, magnitudes"
STANDARD, CALIBRATED = "mean MSE + KL, each bin standardised", "calibrated, in [0, 1]"
WARMUPS = ("none", "linear", "cyclical", "log")
FAILED_DB = -3.0  # of spectral convergence; silence has 0
FACTORS = 4
SHARES = (0.9, 0.95, 0.99)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = reproduction.options_parser(__doc__, "atiam", data="toy:additive?size=4000", epochs=40)
    parser.add_argument("--latent-dim", type=int, default=16)
    parser.add_argument("--hidden", type=int, default=400, help="units of the hidden layer (400)")
    parser.add_argument("--n-fft", type=int, default=2048, help="samples of a spectrum (2048)")
    parser.add_argument("--betas", type=_numbers, default=(0.25, 0.5, 1.0, 2.0, 4.0, 8.0), help="as 0.5,1,2")
    parser.add_argument("--warmups", type=_names, default=WARMUPS, help=",".join(WARMUPS))
    small = {
        "data": "toy:additive?size=120", "latent_dim": 4, "hidden": 16, "n_fft": 256, "betas": (1.0, 4.0),
        "warmups": ("none", "linear"),
    }  # fmt: skip
    return reproduction.run(reproduce, parser, small, arguments)


def reproduce(options: argparse.Namespace) -> Reproduction:
    # The sounds are steady, and a spectrum looks at one window.
    recordings = Recordings.open(options.data, samples=options.n_fft)
    content = {name: _spectrum(recordings, options, **settings) for name, settings in CONTENTS.items()}
    linear, decibels = content["magnitude, linear"], content["magnitude, dB"]
    standard = _spectrum(recordings, options, scale="linear", normalisation="per_bin")
    # A feature in [0, 1] is a magnitude over this.
    raw = {"likelihood": "alpha_mse", "alpha": float((options.n_fft / 4.0) ** 2 * 10.0 ** (linear.max_db / 10.0))}
    mean_mse = {"likelihood": "alpha_mse", "alpha": 1.0}

    def fits(name: str, representation: Spectrum, **model: Any) -> list[Trial]:
        own: dict[str, Any] = {"network": "dense", "hidden": options.hidden, "latent_dim": options.latent_dim}
        return trials(name, "vae", options, recordings, representation, **own, **model)

    def measured(folder: str, *tried: list[Trial]) -> list[dict[str, Any]]:
        return rows_of([trial for group in tried for trial in group], recordings, options.out / folder)

    # One study for each representation, as each has baselines of its own.
    contents = [row for name, r in content.items() for row in measured(f"representations/{_slug(name)}", fits(name, r))]
    normalisation = [
        *measured("normalisation/range", fits(NORMALISED, linear, **mean_mse), fits(RAW, linear, **raw),
                  fits(CALIBRATED, linear)),
        *measured("normalisation/per-bin", fits(STANDARD, standard, **mean_mse)),
    ]  # fmt: skip
    betas = measured("beta", *(fits(f"beta {beta:g}", decibels, beta=beta) for beta in options.betas))
    for row, beta in zip(betas, (beta for beta in options.betas for _ in options.seeds)):
        row["beta"] = beta
    half = max(1, options.epochs // 2)
    warmup = measured("warmup", *(
        fits(f"{kind}, {scale}", linear, **model, **({} if kind == "none" else {"warmup": kind, "warmup_epochs": half}))
        for scale, model in (("in [0, 1]", mean_mse), ("magnitudes", raw))
        for kind in options.warmups
    ))  # fmt: skip
    common = {
        "name": "fit", "seed": "seed", "rmse_db": "test RMSE, dB", "mean_db": "of the mean, dB",
        "relative": "part of the mean's", "pca_db": "of PCA-16, dB", "convergence_db": "convergence, dB",
        "active_units": "active dimensions", "kl_nats": "KL, nats",
    }  # fmt: skip
    axes = {f"axes_{round(100 * share)}": f"axes to {100 * share:.0f} % of variance" for share in SHARES}
    beta_columns = {"beta": "beta"} | common | {
        "first_axis": "first axis's part", **axes, "mig": "MIG", "mig_untrained": "MIG of random weights",
    }  # fmt: skip
    return Reproduction(
        "The studies of the ATIAM VAE synthesizer",
        f"{options.data} ({len(recordings.examples('train'))} training spectra of {options.n_fft // 2 + 1} bins); "
        f"hidden layer of {options.hidden}, {options.latent_dim} dimensions, {options.epochs} epochs; seeds "
        f"{', '.join(map(str, options.seeds))}.",
        [
            Table("representations", "Representations, calibrated likelihood", common, contents),
            Table("normalisation", "Normalisation and the scale of the likelihood", common, normalisation),
            Table("beta", "Beta, and the latent's principal axes: magnitudes in dB, calibrated", beta_columns, betas),
            Table("warmup", f"Warm-up over {half} epochs: mean MSE + KL", common, warmup),
        ],
        verdicts(contents, normalisation, betas, warmup),
        [
            "The sounds are this project's four-factor set, of the report's factors and size, with ranges of its own.",
            "Magnitudes unnormalised are had by weighing the error of features in [0, 1] by the square of what they "
            "were divided by (alpha), which is the same loss.",
            "RMSE is in dB of the test spectra, where silence counts as much as partials: models fitted on linear "
            "magnitudes can be worse than the mean spectrum. Convergence is that of linear magnitudes (or MDCT "
            "coefficients), where partials rule. Neither hears a phase: a phase or sign that is lost costs "
            "nothing here.",
            "The axes are the principal components of the test sounds' posterior means. MIG is the "
            "mutual information gap.",
            "Beta, warm-up and PCA were studied in the report; what is asked here of them are our questions.",
        ],
    )  # fmt: skip


def rows_of(tried: Sequence[Trial], recordings: Recordings, folder: Path) -> list[dict[str, Any]]:
    """Fit and measure trials of one representation."""
    result = study(tried, recordings, folder)
    baselines = {row["name"]: row["rmse_db"] for row in result["references"][0]["baselines"]}
    rows = []
    for trial, row in zip(tried, result["rows"]):
        codec = Codec.load(trial.place(folder / "fits"))
        features = np.concatenate([np.asarray(b) for b in recordings.features("test", codec.representation, 64)])
        before, after = (
            np.asarray(codec.representation.to_db(x)) for x in (features, codec.reconstruct_features(features))
        )
        codes = encode(codec.encoder, features)
        rows.append({
            **reproduction.pick(row, "name", "seed", "rmse_db"),
            "mean_db": baselines["mean"],
            "relative": row["rmse_db"] / baselines["mean"],
            "pca_db": baselines.get("PCA-16"),
            "convergence_db": mean(spectral_convergence(before, after), resamples=1).value,
            "active_units": int(codec.info["metrics"]["active_units"]),
            "kl_nats": codec.info["metrics"]["latent_kl_nats"],
            **principal_axes(codes),
            **_gaps(codec, features, codes, recordings, trial.seed),
        })  # fmt: skip
    return rows


def principal_axes(codes: np.ndarray) -> dict[str, Any]:
    """Of latents (sounds, dimensions): the part of their variance on the first principal axis, and how many axes hold
    the parts of ``SHARES``; None where all sounds have the same latent."""
    variances = np.asarray(principal_components([codes], codes.shape[1]).variances, np.float64)
    names = [f"axes_{round(100 * share)}" for share in SHARES]
    if not variances.sum() > 1e-9:
        return dict.fromkeys(["first_axis", *names])
    held = np.cumsum(variances) / variances.sum()
    counts = [int(np.searchsorted(held, share)) + 1 for share in SHARES]
    return {"first_axis": float(held[0])} | dict(zip(names, counts))


def verdicts(
    contents: Sequence[Mapping[str, Any]],
    normalisation: Sequence[Mapping[str, Any]],
    betas: Sequence[Mapping[str, Any]],
    warmup: Sequence[Mapping[str, Any]],
) -> list[Verdict]:
    """The four tables' rows -> what held. A case is a seed."""
    normalised, raw, calibrated = (by_seed(normalisation, name=name) for name in (NORMALISED, RAW, CALIBRATED))
    units = {name: [row["active_units"] for row in by_seed(normalisation, name=name).values()] for name in (
        NORMALISED, RAW, CALIBRATED
    )}  # fmt: skip
    seeds = sorted(normalised)
    told = "; ".join(f"{name}: {spread(found)} active" for name, found in units.items())
    plain, best, mdct, mdct_db = (
        by_seed(contents, name=name)
        for name in ("magnitude, linear", "magnitude, dB", "MDCT, linear", "MDCT, dB and sign")
    )

    trade, trade_told, few = [], [], []
    for seed in seeds:
        own = sorted((row for row in betas if row["seed"] == seed), key=lambda row: row["beta"])
        falls = all(after["kl_nats"] < before["kl_nats"] for before, after in zip(own, own[1:]))
        trade.append(falls and own[-1]["rmse_db"] > own[0]["rmse_db"])
        trade_told += [f"beta {row['beta']:g}: {row['kl_nats']:.1f} nats, {row['rmse_db']:.2f} dB" for row in own]
        few += [row for row in own if row["beta"] == 1.0]

    def gained(scale: str) -> tuple[list[bool], str]:
        none, linear = (by_seed(warmup, name=f"{kind}, {scale}") for kind in ("none", "linear"))
        pairs = [(none[seed]["active_units"], linear[seed]["active_units"]) for seed in sorted(none)]
        return [after > before for before, after in pairs], "; ".join(f"{a} without, {b} with" for a, b in pairs)

    return [
        Verdict(
            "Normalised spectra collapse the latent, magnitudes do not",
            "with mean MSE + KL no dimension is active on [0, 1], and at least one on magnitudes; a case is a seed",
            [normalised[seed]["active_units"] == 0 < raw[seed]["active_units"] for seed in seeds], told,
        ),
        Verdict(
            "Normalisation is the cause of that collapse",
            "no dimension is active on the same normalised spectra under the calibrated likelihood either; a case is a "
            "seed", [calibrated[seed]["active_units"] == 0 for seed in seeds], told,
        ),
        Verdict(
            "MDCT coefficients defeat the model",
            f"fitted on linear ones, the spectral convergence of magnitudes is above {FAILED_DB:g} dB (silence has "
            "0); a case is a seed", [row["convergence_db"] > FAILED_DB for row in mdct.values()],
            f"{spread(row['convergence_db'] for row in mdct.values())} dB; of linear magnitudes "
            f"{spread(row['convergence_db'] for row in plain.values())} dB",
        ),
        Verdict(
            "In dB, with the sign beside it, the MDCT is modelled as well as magnitudes",
            "its RMSE, as a part of the mean's, is at most that of magnitudes in dB; a case is a seed",
            [mdct_db[seed]["relative"] <= best[seed]["relative"] for seed in seeds],
            f"{spread(row['relative'] for row in mdct_db.values())} against "
            f"{spread(row['relative'] for row in best.values())} of the mean's",
        ),
        Verdict(
            "A greater beta carries fewer nats and leaves more error",
            "nats fall at every step of beta, and the test RMSE of the greatest is above that of the least; a case is "
            "a seed", trade, "; ".join(trade_told),
        ),
        Verdict(
            "As many principal axes as there are factors hold the latent",
            f"at beta 1 at least {FACTORS} dimensions are active, and {FACTORS} axes hold 95 % of the variance of the "
            "posterior means; a case is a seed",
            [row["active_units"] >= FACTORS and row["axes_95"] <= FACTORS for row in few],
            f"{spread(row['axes_95'] or 0 for row in few)} axes",
        ),
        Verdict(
            "Warm-up keeps dimensions that are lost without it, on magnitudes",
            "linear warm-up ends with more active dimensions than none; a case is a seed", *gained("magnitudes"),
        ),
        Verdict(
            "Warm-up averts the collapse on normalised spectra",
            "the same on [0, 1]; a case is a seed", *gained("in [0, 1]"),
        ),
    ]  # fmt: skip


def _gaps(codec: Codec, features: np.ndarray, codes: np.ndarray, recordings: Recordings, seed: int) -> dict[str, Any]:
    """Mutual information gaps of the latents and of those of the same encoder with random weights."""
    if len(recordings.factor_names) < 2 or len(codes) < 50:  # mig refuses fewer
        return {"mig": None, "mig_untrained": None}
    factors = recordings.factors("test")
    untrained = encode(untrained_encoder(codec.encoder, seed), features)
    return {"mig": float(mig(codes, factors)), "mig_untrained": float(mig(untrained, factors))}


def _spectrum(recordings: Recordings, options: argparse.Namespace, **settings: Any) -> Spectrum:
    return reproduction.with_peak(recordings, Spectrum, n_fft=options.n_fft, **settings)


def _slug(name: str) -> str:
    return name.lower().replace(",", "").replace(" ", "-")


def _names(given: str) -> tuple[str, ...]:
    return tuple(given.split(","))


def _numbers(given: str) -> tuple[float, ...]:
    return tuple(float(part) for part in given.split(","))


if __name__ == "__main__":
    sys.exit(main())
