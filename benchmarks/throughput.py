"""Training throughput of the families of spectrograms as ratios to the published VAE, trained in turns in one process.

    python benchmarks/throughput.py [--families vae,unet] [--rounds N] [--json FILE]

The published VAE is that of the report this library replaces: five convolutions whose widest layer stands at the
highest resolution, batch normalisation after each, 128 latents. All take features (256, 64, 1), which leaves out the
families of waveforms, the same batch size, Adam and Keras' own ``train_step``. Each is measured in float32 and, where
the processor has it, in mixed_bfloat16. Rounds alternate between the models, so that what else the machine does falls
on all of them; the ratio is the median over rounds.
"""

import argparse
import functools
import os
import statistics
import sys
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from spectrovae import files, losses, models
from spectrovae.layers import Sampling
from spectrovae.training import best_precision, precision

FEATURE_SHAPE = (256, 64, 1)
FILTERS = (512, 256, 128, 64, 32)
STRIDES = (2, 2, 2, 2, (2, 1))
LATENT_DIM = 128
ALPHA = 1e6
FAMILIES = [name for name, cls in models.FAMILIES.items() if cls.representation_name is None]


class PublishedVAE(keras.Model):
    """Convolution, ReLU and batch normalisation, five times down and five times up; loss 1e6 RMSE + KL."""

    def __init__(self):
        super().__init__()
        inputs = x = keras.Input(FEATURE_SHAPE)
        for filters, strides in zip(FILTERS, STRIDES):
            x = layers.Conv2D(filters, 3, strides, padding="same", activation="relu")(x)
            x = layers.BatchNormalization()(x)
        bottleneck = x.shape[1:]
        x = layers.Flatten()(x)
        mean, log_variance = (layers.Dense(LATENT_DIM, dtype="float32")(x) for _ in range(2))
        self.encoder = keras.Model(inputs, [mean, log_variance])

        latent = keras.Input((LATENT_DIM,))
        x = layers.Reshape(bottleneck)(layers.Dense(int(np.prod(bottleneck)))(latent))
        for filters, strides in zip(FILTERS[:0:-1], STRIDES[:0:-1]):
            x = layers.Conv2DTranspose(filters, 3, strides, padding="same", activation="relu")(x)
            x = layers.BatchNormalization()(x)
        x = layers.Conv2DTranspose(1, 3, STRIDES[0], padding="same")(x)
        self.decoder = keras.Model(latent, layers.Activation("sigmoid", dtype="float32")(x))
        self.sampling = Sampling()

    def build(self, input_shape):
        self.built = True

    def call(self, features, training=False):
        mean, log_variance = self.encoder(features, training=training)
        latent = self.sampling(mean, log_variance)
        return {"features": self.decoder(latent, training=training), "mean": mean, "log_variance": log_variance}

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        error = losses.root_mean_squared_error(x, y_pred["features"])
        kl = ops.sum(losses.kl_divergence(y_pred["mean"], y_pred["log_variance"]), axis=-1)
        return ops.mean(ALPHA * error + kl)


def examples_per_second(model: keras.Model, features: np.ndarray, batch_size: int) -> float:
    """Of one call of ``fit`` over the features."""
    started = time.perf_counter()
    model.fit(features, batch_size=batch_size, epochs=1, shuffle=False, verbose=0)
    return len(features) / (time.perf_counter() - started)


def measure(families: list[str], rounds: int, batch_size: int, ours_steps: int, published_steps: int) -> dict:
    """Examples per second of each model and precision, by round, and the ratios."""
    policies = list(dict.fromkeys(("float32", best_precision())))
    features = np.random.default_rng(0).random((batch_size * ours_steps, *FEATURE_SHAPE), dtype=np.float32)
    builders: dict[str, tuple[Callable[[], keras.Model], np.ndarray]] = {
        family: (functools.partial(models.FAMILIES[family], FEATURE_SHAPE, preset="small"), features)
        for family in families
    }
    builders["published"] = (PublishedVAE, features[: batch_size * published_steps])
    trained = {}
    for policy in policies:
        for name, (build, data) in builders.items():
            with precision(policy):
                model = build()
            # XLA halves the speed of these convolutions on a CPU.
            model.compile(optimizer=keras.optimizers.Adam(1e-4), jit_compile=False)
            examples_per_second(model, data[:batch_size], batch_size)
            trained[name, policy] = (model, data)
    speeds: dict[tuple[str, str], list[float]] = {key: [] for key in trained}
    for index in range(rounds):
        for key, (model, data) in trained.items():
            speeds[key].append(examples_per_second(model, data, batch_size))
        figures = ", ".join(f"{name} {policy} {speed[-1]:.1f}" for (name, policy), speed in speeds.items())
        print(f"round {index + 1}/{rounds}: {figures} examples/s", file=sys.stderr, flush=True)

    pairs = [(policy, policy) for policy in policies]
    if len(policies) > 1:
        pairs.append((policies[1], "float32"))
    ratios = []
    for family in families:
        for ours, published in pairs:
            by_round = [a / b for a, b in zip(speeds[family, ours], speeds["published", published])]
            ratios.append(
                {
                    "family": family,
                    "precision": ours,
                    "examples_per_second": statistics.median(speeds[family, ours]),
                    "published_precision": published,
                    "published_examples_per_second": statistics.median(speeds["published", published]),
                    "ratio": statistics.median(by_round),
                    "lowest_ratio": min(by_round),
                    "highest_ratio": max(by_round),
                }
            )
    return {
        "batch_size": batch_size,
        "rounds": rounds,
        "cores": os.cpu_count(),
        "devices": [device.device_type for device in tf.config.list_physical_devices()],
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "comparisons": ratios,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="of every model and precision")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--ours-steps", type=int, default=8, help="batches of ours in a round")
    parser.add_argument("--published-steps", type=int, default=1, help="batches of the published model in a round")
    parser.add_argument("--json", help="write the figures to this file too")
    parser.add_argument("--families", type=lambda text: text.split(","), default=FAMILIES, help=",".join(FAMILIES))
    options = parser.parse_args()
    if unknown := set(options.families) - set(FAMILIES):
        parser.error(f"--families takes some of {', '.join(FAMILIES)}; received {', '.join(sorted(unknown))}")
    result = measure(options.families, options.rounds, options.batch_size, options.ours_steps, options.published_steps)
    print(
        f"{'family':16} {'precision':15} {'examples/s':>10}   "
        f"{'published':15} {'examples/s':>10}   ratio (lowest-highest of the rounds)"
    )
    for row in result["comparisons"]:
        print(
            f"{row['family']:16} {row['precision']:15} {row['examples_per_second']:10.1f}   "
            f"{row['published_precision']:15} {row['published_examples_per_second']:10.1f}   "
            f"{row['ratio']:5.1f} ({row['lowest_ratio']:.1f}-{row['highest_ratio']:.1f})"
        )
    if options.json:
        files.write_json(options.json, result)


if __name__ == "__main__":
    main()
