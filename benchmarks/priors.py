"""Draws of the autoregressive priors with kept states, beside draws that compute all logits anew for every code.

    python benchmarks/priors.py [--json FILE] [--repeats 3] [--batch 16] [--preset small]

Both draw the same codes of 16 x 8 maps of 256, from the same noise and untrained weights. Each repeat runs every method
once, in turn, so that other load on the machine falls on all of them; the times are the least of the repeats. Progress
goes to stderr, the table to stdout.
"""

import argparse
import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from spectrovae import sampling
from spectrovae.files import write_json
from spectrovae.models import PixelCNN, WaveNet

SHAPE, CLASSES = (16, 8), 256
TARGET = 10.0  # times as fast as naive draws
KINDS = {
    "pixelcnn": PixelCNN,
    "pixelcnn, attention": lambda *given, **more: PixelCNN(*given, attention=True, **more),
    "wavenet": WaveNet,
}


def naive(prior):
    """Noise -> codes; the logits of whole maps for each code, as one has without kept states."""

    @tf.function(jit_compile=False)
    def logits_of(codes):
        return prior.logits(codes, {})

    def draw(noise):
        codes = np.zeros((len(noise), *SHAPE), np.int32)
        height = SHAPE[0]
        for place in range(prior.size):
            frame, bin_ = divmod(place, height)
            logits = logits_of(codes)[:, bin_, frame]
            codes[:, bin_, frame] = sampling.choose(logits, noise[:, place])
        return codes

    return draw


def cached(prior):
    """Noise -> codes, by the prior's own draw."""
    draw = tf.function(lambda noise: prior.draw(noise, {}), jit_compile=False)
    return lambda noise: draw(noise).numpy()


def measure(preset, batch, repeats):
    noise = tf.constant(np.random.default_rng(0).random((batch, SHAPE[0] * SHAPE[1]), np.float32))
    calls, agreement = {}, {}
    for name, kind in KINDS.items():
        print(f"{name}: first draws", file=sys.stderr)
        keras.utils.set_random_seed(0)
        prior = kind(SHAPE, CLASSES, preset=preset)
        calls[name] = {"naive": naive(prior), "cached": cached(prior)}
        found = [call(noise) for call in calls[name].values()]
        # Rounding may move a code that lies on the edge of two, and with it those that follow in its row.
        agreement[name] = float(np.mean(found[0] == found[1]))
    times: dict = {(name, way): [] for name in calls for way in calls[name]}
    for repeat in range(repeats):
        print(f"repeat {repeat + 1} of {repeats}", file=sys.stderr)
        for name, way in times:
            wall = time.perf_counter()
            calls[name][way](noise)
            times[name, way].append(time.perf_counter() - wall)
    return [
        {
            "prior": name,
            "naive_ms": 1e3 * min(times[name, "naive"]),
            "cached_ms": 1e3 * min(times[name, "cached"]),
            "ratio": min(times[name, "naive"]) / min(times[name, "cached"]),
            "same_codes": agreement[name],
        }
        for name in calls
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", help="write the table there too")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--preset", default="small")
    options = parser.parse_args()
    rows = measure(options.preset, options.batch, options.repeats)
    print(f"{options.batch} maps of {SHAPE[0]} x {SHAPE[1]} codes of {CLASSES}, preset {options.preset}\n")
    print("| prior | all anew, ms | kept states, ms | times as fast | wanted | same codes |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['prior']} | {row['naive_ms']:.0f} | {row['cached_ms']:.0f} | {row['ratio']:.1f} | {TARGET:.0f} "
            f"| {row['same_codes']:.1%} |"
        )
    if options.json:
        write_json(options.json, {"batch": options.batch, "preset": options.preset, "rows": rows})


if __name__ == "__main__":
    main()
