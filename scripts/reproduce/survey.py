"""Statements of the survey of RAVE and VQ-VAE: a linear autoencoder is PCA, codes compress, few directions are enough.

python scripts/reproduce/survey.py --data data/fsdd
"""

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import reproduction
import scipy.linalg
from reproduction import Reproduction, Table, Verdict, spread, trials

from spectrovae.codec import Codec
from spectrovae.data import Recordings
from spectrovae.evaluation.fidelity import fidelity
from spectrovae.models import RAVE
from spectrovae.pca import PrincipalComponents, principal_components
from spectrovae.representations import LogSTFT, Subbands
from spectrovae.study import study

ERROR_RATIO, ANGLE = 1.01, 15.0  # the linear autoencoder against PCA; degrees
FIDELITY, SHARE, LOSS = 0.95, 0.5, 1.05
"""Of the latent's variance; of its directions, at most; of the spectral distance that is left with those alone."""
VARIANTS: dict[str, dict[str, Any]] = {
    "K=64": {"codebook_size": 64},
    "K=256": {"codebook_size": 256},
    "K=1024": {"codebook_size": 1024},
    "K=256, 2 stages": {"stages": 2},
    "K=256, 4 stages": {"stages": 4},
    "levels 8, 6, 5": {"quantiser": "scalar"},
    "K=256, map of 32 x 16": {"preset": "tiny"},
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = reproduction.options_parser(__doc__, "survey", data="data/fsdd", epochs=8)
    parser.add_argument("--sizes", type=reproduction.whole, default=(4, 8, 16, 32), help="of the linear autoencoder")
    parser.add_argument("--linear-epochs", type=int, default=15, help="of the linear autoencoder's fits")
    parser.add_argument("--variants", type=int, default=len(VARIANTS), help="how many of the VQ-VAE's, from the first")
    parser.add_argument("--rave-epochs", type=int, default=24, help="of RAVE's fits, two thirds in the first stage")
    parser.add_argument("--rave-preset", default="tiny", help="its size")
    small = {"data": "toy:harmonic?size=60", "sizes": (2, 4), "linear_epochs": 2, "variants": 2, "rave_epochs": 1}
    return reproduction.run(reproduce, parser, small, arguments)


def reproduce(options: argparse.Namespace) -> Reproduction:
    recordings = Recordings.open(options.data)
    representation = reproduction.with_peak(recordings, LogSTFT)
    linear = linear_rows(options, recordings, representation)
    codes = code_rows(options, recordings, representation)
    directions = fidelity_rows(options)
    return Reproduction(
        "A linear autoencoder is PCA, what codes compress, and how few directions RAVE needs",
        f"{options.data}, log-STFT of {recordings.sample_rate} Hz; linear autoencoders {options.linear_epochs} epochs, "
        f"VQ-VAEs {options.epochs} epochs of preset {options.preset}; seeds {', '.join(map(str, options.seeds))}.",
        [
            Table("linear", "Linear autoencoders and PCA of their size", {
                "size": "dimensions", "seed": "seed", "rmse_db": "test RMSE, dB", "pca_db": "PCA, dB",
                "train_ratio": "training error / PCA's", "test_ratio": "test error / PCA's", "captured": "variance "
                "kept / PCA's", "largest_angle": "largest angle, degrees", "median_angle": "median angle, degrees",
                "gap": "last variance / next",
            }, linear),
            Table("codes", "VQ-VAEs: size of a clip's codes against error", {
                "name": "codes", "seed": "seed", "rmse_db": "test RMSE, dB", "rmse_active_db": "active cells, dB",
                "bits": "bits a clip", "entropy_bits": "bits at the codes' entropy", "per_second": "bits/s",
                "to_samples": "times smaller than 16-bit samples", "to_features": "than float32 features",
                "gaussian_bits": "bits of a Gaussian code of this error", "perplexity": "perplexity, active tokens",
                "parameters": "parameters",
            }, codes),
            Table("fidelity", "RAVE decoded with its latent's first directions alone", {
                "seed": "seed", "directions": "directions", "dimensions": "of", "fidelity": "fidelity",
                "cut": "spectral distance, the rest at its mean", "drawn": "drawn from N(0, 1)",
            }, directions),
        ],
        verdicts(linear, codes, directions),
        [
            "Principal angles are those between the span of the decoder's columns and that of as many principal "
            "components of the training clips. Directions of nearly equal variance (last variance / next near 1) are "
            "told apart last by any training; a swap of the last one shows as an angle of 90 degrees and costs next to "
            "no error.",
            "The ratios count the codes alone: a decoder has to be there, whose weights are many times a clip. They "
            "are not ratios of a lossless coder: read them with the error.",
            "Bits at the codes' entropy: what an ideal coder of single codes, knowing how often each occurs in the "
            "training split, would use. All tokens, silent ones too.",
            "A Gaussian code of this error: the fewest bits that Gaussian clips of the training clips' covariance "
            "would need for the same RMSE (reverse water-filling over the PCA spectrum); speech may need fewer.",
            "The map of 32 x 16 codes is that of preset tiny, whose networks are smaller as well.",
        ],
    )  # fmt: skip


def linear_rows(options: argparse.Namespace, recordings: Recordings, representation: LogSTFT) -> list[dict[str, Any]]:
    features = {name: _features(recordings, name, representation) for name in ("train", "test")}
    rows = []
    for size in options.sizes:
        found = principal_components([features["train"]], size + 1)
        for trial in trials(
            f"linear {size}", "autoencoder", argparse.Namespace(**{**vars(options), "epochs": options.linear_epochs}),
            recordings, representation, network="linear", latent_dim=size,
        ):  # fmt: skip
            codec = trial.run(options.out / "linear" / "fits")
            rows.append({"size": size, "seed": trial.seed} | against_pca(codec, features, found))
    return rows


def against_pca(
    codec: Codec, features: Mapping[str, np.ndarray], found: PrincipalComponents
) -> dict[str, float | None]:
    """A linear autoencoder's error and subspace beside PCA of its size.

    Args:
        found: one component more than the latent has dimensions, of the training features.
    """
    weights = np.asarray(codec.decoder.get_layer("linear").kernel, np.float64)
    size = len(weights)
    components = found.components[:size]
    angles = np.degrees(scipy.linalg.subspace_angles(weights.T, components.T))
    errors, pca_errors = {}, {}
    for name, array in features.items():
        made = np.concatenate([np.asarray(codec.reconstruct_features(part)) for part in _parts(array)])
        errors[name] = math.sqrt(np.mean(np.square(made - array, dtype=np.float64)))
        centred = array.reshape(len(array), -1) - found.mean.ravel()
        left = centred - centred @ components.T @ components
        pca_errors[name] = math.sqrt(np.mean(np.square(left, dtype=np.float64)))
    centred = features["train"].reshape(len(features["train"]), -1) - found.mean.ravel()
    kept = np.sum(np.square(centred @ scipy.linalg.orth(weights.T).astype(np.float32), dtype=np.float64))
    scale = float(codec.representation.db_per_unit)
    return {
        "rmse_db": scale * errors["test"],
        "pca_db": scale * pca_errors["test"],
        "train_ratio": errors["train"] / pca_errors["train"],
        "test_ratio": errors["test"] / pca_errors["test"],
        "captured": float(kept / np.sum(np.square(centred @ components.T, dtype=np.float64))),
        "largest_angle": float(angles.max()),
        "median_angle": float(np.median(angles)),
        "gap": float(found.variances[size - 1] / found.variances[size]) if len(found.variances) > size else None,
    }


def code_rows(options: argparse.Namespace, recordings: Recordings, representation: LogSTFT) -> list[dict[str, Any]]:
    chosen = dict(list(VARIANTS.items())[: options.variants])
    tried = []
    for name, model in chosen.items():
        own = argparse.Namespace(**{**vars(options), "preset": model.get("preset", options.preset)})
        model = {key: value for key, value in model.items() if key != "preset"}
        tried += trials(name, "vq-vae", own, recordings, representation, **model)
    result = study(tried, recordings, options.out / "codes")
    bound = result["references"][0]["gaussian_bound"]
    cells = math.prod(representation.feature_shape(recordings.samples))
    rows = []
    for trial, row in zip(tried, result["rows"]):
        path = trial.place(options.out / "codes" / "fits") / "run" / "diagnostics.json"
        stages = json.loads(path.read_text(encoding="utf-8"))["diagnostics"]["training_codes"]["stages"]
        rows.append({
            **reproduction.pick(row, "name", "seed", "rmse_db", "rmse_active_db", "bits"),
            # a stage's entropy in bits a token, of as many tokens as all stages share the numbers of a clip
            "entropy_bits": sum(stage["all"]["bits"] for stage in stages) * row["numbers"] / len(stages),
            "per_second": row["bits"] * recordings.sample_rate / recordings.samples,
            "to_samples": 16.0 * recordings.samples / row["bits"],
            "to_features": 32.0 * cells / row["bits"],
            "gaussian_bits": float(np.interp(-row["rmse_db"], -np.array(bound["rmse_db"]), bound["bits"])),
            "perplexity": ", ".join(f"{stage['active']['perplexity']:.0f}" for stage in stages),
            "parameters": row["parameters"],
        })  # fmt: skip
    return rows


def fidelity_rows(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Spectral distance of the test clips by the number of directions that are kept."""
    whole = Recordings.open(options.data)
    multiple = Subbands(whole.sample_rate).hop_length * RAVE.frames_multiple(options.rave_preset)
    recordings = Recordings.open(options.data, samples=-(-whole.samples // multiple) * multiple)
    representation = reproduction.with_peak(recordings, Subbands)
    peak = round(representation.sample_peak(recordings.waveforms("train")), 4)
    representation = Subbands(recordings.sample_rate, max_db=representation.max_db, peak=peak)
    own = argparse.Namespace(**{**vars(options), "epochs": options.rave_epochs, "preset": options.rave_preset})
    rows = []
    for trial in trials(
        "rave", "rave", own, recordings, representation, batch_size=8, warmup_epochs=min(5, options.rave_epochs / 3)
    ):
        codec = trial.run(options.out / "rave" / "fits")
        found = fidelity(
            codec, recordings, options.out / "rave" / f"fidelity-{trial.seed}", samples=2, force=True,
            log=lambda message: None,
        )  # fmt: skip
        rows += [{"seed": trial.seed, "dimensions": found["dimensions"], **row} for row in found["rows"]]
    return rows


def verdicts(
    linear: Sequence[Mapping[str, Any]],
    codes: Sequence[Mapping[str, Any]],
    directions: Sequence[Mapping[str, Any]] = (),
) -> list[Verdict]:
    """The tables' rows -> what held."""
    same = [row["train_ratio"] <= ERROR_RATIO for row in linear]
    spans = [ratio and row["largest_angle"] <= ANGLE for ratio, row in zip(same, linear)]
    shown = "; ".join(
        f"{row['size']}: ratio {row['train_ratio']:.3f}, largest angle {row['largest_angle']:.0f} degrees"
        for row in linear
    )
    ladder, orders, told = [], [], []
    for seed in sorted({row["seed"] for row in codes}):
        own = [row for row in codes if row["seed"] == seed]
        one = {row["name"]: row for row in own}
        for names in (("K=64", "K=256", "K=1024"), ("K=256", "K=256, 2 stages", "K=256, 4 stages")):
            found = [one[name] for name in names if name in one]
            orders += [after["rmse_db"] < before["rmse_db"] for before, after in zip(found, found[1:])]
        ladder += [row["bits"] <= row["gaussian_bits"] for row in own]
        told.append(", ".join(f"{row['name']} {row['bits']:.0f} bits {row['rmse_db']:.2f} dB" for row in own))
    few, few_told = [], []
    for seed in sorted({row["seed"] for row in directions}):
        own = sorted((row for row in directions if row["seed"] == seed), key=lambda row: row["directions"])
        enough = next(row for row in own if row["fidelity"] >= FIDELITY)
        near = enough["cut"] <= LOSS * own[-1]["cut"]
        few.append(enough["directions"] <= SHARE * own[-1]["directions"] and near)
        few_told.append(
            f"seed {seed}: {enough['directions']} of {own[-1]['directions']}, distance {enough['cut']:.2f} against "
            f"{own[-1]['cut']:.2f}"
        )
    return [
        Verdict(
            "A linear autoencoder reaches PCA's error",
            f"the training error is at most {ERROR_RATIO:g} times that of PCA of as many dimensions; a case is a size "
            "and seed", same, shown,
        ),
        Verdict(
            "It spans PCA's subspace",
            f"besides, no principal angle between the two is above {ANGLE:g} degrees; a case is a size and seed",
            spans, shown,
        ),
        Verdict(
            "More bits, less error",
            "each step to a larger codebook (64, 256, 1024), and to more stages (1, 2, 4), lowers the test RMSE; a "
            "case is a step and seed", orders, "; ".join(told),
        ),
        Verdict(
            "Few directions of RAVE's latent are enough",
            f"as many as hold {FIDELITY:.0%} of its variance are at most {SHARE:.0%} of its dimensions, and the "
            f"spectral distance with those alone is at most {LOSS:g} times that with all; a case is a seed", few,
            "; ".join(few_told),
        ),
        Verdict(
            "Learned codes are smaller than the best code of Gaussian clips",
            "a clip's codes have no more bits than Gaussian clips of the same covariance would need for the same RMSE; "
            "a case is a fit", ladder,
            "bits against the Gaussian code's: " + ", ".join(
                f"{row['name']} {row['bits']:.0f} against {row['gaussian_bits']:.0f}" for row in codes
            ) + f"; {spread(row['to_samples'] for row in codes)} times smaller than the samples",
        ),
    ]  # fmt: skip


def _features(recordings: Recordings, split: str, representation: LogSTFT) -> np.ndarray:
    return np.concatenate([np.asarray(batch) for batch in recordings.features(split, representation, 64)])


def _parts(array: np.ndarray) -> list[np.ndarray]:
    return [array[start : start + 64] for start in range(0, len(array), 64)]


if __name__ == "__main__":
    sys.exit(main())
