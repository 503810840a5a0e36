"""The hierarchical VAE beside the flat one: their bounds at equal epochs, and what each group of latents is used for.

    python benchmarks/hierarchy.py data/fsdd [--epochs N] [--seed N] [--json FILE]

Both are trained here, one after the other, in the default representation, with the same batches, schedule and warm-up.
On the test split, in float32:

- bound: negative ELBO, nats per clip, of sampled latents. The likelihood's one sigma is that of the errors of the
  validation split, so that the test split sets nothing.
- resampled: by how many dB the test RMSE rises when a group is drawn from its prior given the groups above, the other
  groups' whitened latents kept at their posterior means. A group that does nothing would give 0.
- first k: RMSE of the first k groups, the rest at their prior's mean.
"""

import argparse
import math
import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import spectrovae as sv
from spectrovae import files, losses
from spectrovae.models.hierarchical_vae import resample_group
from spectrovae.training.precision import copy_weights, float32_twin

BATCH = 32


def train(family: str, splits: dict, db_per_unit: float, epochs: int, seed: int, **options):
    """A trainer in float32 after so many epochs, and the seconds they took."""
    steps = math.ceil(len(splits["train"]) / BATCH)
    keras.utils.set_random_seed(seed)
    with sv.training.precision("auto"):
        trainer = sv.models.FAMILIES[family](
            splits["train"].shape[1:], db_per_unit=db_per_unit, seed=seed, warmup_steps=round(0.3 * epochs * steps),
            **options,
        )  # fmt: skip
    schedule = keras.optimizers.schedules.CosineDecay(1e-3, steps * epochs)
    trainer.compile(optimizer=keras.optimizers.Adam(schedule), jit_compile=False)

    def report(epoch, logs):
        figures = "  ".join(f"{name} {value:.5g}" for name, value in logs.items())
        print(f"{family} {epoch + 1}/{epochs}  {figures}", file=sys.stderr, flush=True)

    started = time.monotonic()
    trainer.fit(
        splits["train"], validation_data=(splits["validation"],), epochs=epochs, batch_size=BATCH, verbose=0,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=report)],
    )  # fmt: skip
    seconds = time.monotonic() - started
    twin = float32_twin(trainer)
    copy_weights(trainer, twin)
    return twin, seconds


def batches(array):
    return np.array_split(array, math.ceil(len(array) / BATCH))


def sampled(trainer, features):
    """Mean squared error of sampled reconstructions, and KL of each group in nats, both means over the clips."""
    errors, divergences = [], []
    for batch in batches(features):
        outputs = trainer(batch, training=True)
        errors.append(losses.mean_squared_error(batch, outputs["features"]))
        pairs = zip(tf.nest.flatten(outputs["mean"]), tf.nest.flatten(outputs["log_variance"]))
        kl = [losses.kl_divergence(mean, log_variance) for mean, log_variance in pairs]
        divergences.append(np.stack([np.sum(x, axis=tuple(range(1, x.ndim))) for x in map(np.asarray, kl)], axis=1))
    return float(np.mean(np.concatenate(errors))), np.concatenate(divergences).mean(axis=0)


def measure(trainer, splits: dict) -> dict:
    """The figures of a trained model on the test split."""
    validation_error, _ = sampled(trainer, splits["validation"])
    error, kl = sampled(trainer, splits["test"])
    log_sigma = 0.5 * math.log(validation_error)
    bound = float(losses.gaussian_nll(error, log_sigma, trainer.cells)) + float(np.sum(kl))
    latents = [tf.nest.flatten(trainer.encoder(batch)) for batch in batches(splits["test"])]
    latent = [np.concatenate([np.asarray(part[group]) for part in latents]) for group in range(len(kl))]

    def rmse_db(groups):
        parts = [list(part) for part in zip(*map(batches, groups))]
        decoded = [np.asarray(trainer.decoder(part if len(part) > 1 else part[0])) for part in parts]
        return float(trainer.db_per_unit * np.sqrt(np.mean((np.concatenate(decoded) - splits["test"]) ** 2)))

    plain = rmse_db(latent)
    groups = range(len(kl))
    return {
        "decoder_parameters": trainer.decoder.count_params(),
        "rmse_db": plain,
        "kl": [float(x) for x in kl],
        "bound": bound,
        "resampled": [rmse_db(resample_group(latent, group)) - plain for group in groups],
        "first": [rmse_db([z * float(index <= group) for index, z in enumerate(latent)]) for group in groups],
    }


def text(name: str, result: dict) -> str:
    def numbers(values, form):
        return ", ".join(format(value, form) for value in values)

    return (
        f"| {name} | {result['decoder_parameters'] / 1e6:.2f} M | {result['rmse_db']:.2f} | "
        f"{sum(result['kl']):.0f} ({numbers(result['kl'], '.0f')}) | {result['bound']:.0f} | "
        f"{numbers(result['resampled'], '+.2f')} | {numbers(result['first'], '.2f')} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder, manifest, or toy set")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--groups", type=int, default=3, choices=(2, 3))
    parser.add_argument("--preset", default="small", choices=("tiny", "small", "base"))
    parser.add_argument("--families", default="hierarchical-vae,vae", help="which to train, in this order")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", help="write the figures here")
    options = parser.parse_args()

    recordings = sv.data.Recordings.open(options.data)
    representation = sv.representations.LogSTFT(recordings.sample_rate)
    peak = round(representation.peak_db(recordings.waveforms("train")), 2)
    representation = sv.representations.LogSTFT(recordings.sample_rate, max_db=peak)
    splits = {
        split: np.concatenate([np.asarray(x) for x in recordings.features(split, representation)])
        for split in ("train", "validation", "test")
    }
    print("| | decoder | RMSE dB | KL (groups) | bound | resampled, dB | first k groups, dB |")
    print("|---|---|---|---|---|---|---|", flush=True)
    results = {"epochs": options.epochs, "seed": options.seed}
    for family in options.families.split(","):
        own = {"groups": options.groups} if family == "hierarchical-vae" else {}
        trainer, seconds = train(
            family, splits, representation.db_per_unit, options.epochs, options.seed, preset=options.preset, **own
        )
        results[family] = measure(trainer, splits) | {"seconds": round(seconds)}
        print(text(family, results[family]), flush=True)
        if options.json:
            files.write_json(options.json, results)


if __name__ == "__main__":
    main()
