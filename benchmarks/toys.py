"""Toy sets generated whole, as ratios to a loop over sounds that computes the formula's samples and filters them.

python benchmarks/toys.py [--sounds N] [--rounds N] [--full]
"""

import argparse
import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from scipy import signal

from spectrovae.data.toy_grids import Additive, FrequencyModulation

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--sounds", type=int, default=64, help="drawn from each set for the ratio")
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--full", action="store_true", help="generate each set whole, too, and print its seconds")
options = parser.parse_args()


def additive(made, factors):
    inharmonicity, harmonics, q, cutoff = factors
    time_ = np.arange(made.samples) / made.sample_rate
    sound = np.zeros(made.samples)
    for n in range(1, int(harmonics) + 1):
        sound += np.sin(2 * np.pi * made.fundamental * n * np.sqrt(1 + inharmonicity * n**2) * time_) / n
    warped = 2 * made.sample_rate * np.tan(np.pi * cutoff / made.sample_rate)
    return signal.lfilter(*signal.bilinear([warped**2], [1, warped / q, warped**2], made.sample_rate), sound)


def fm(made, factors):
    carrier, ratio, index, resonance, cutoff = factors
    angle = 2 * np.pi * carrier * np.arange(made.samples) / made.sample_rate
    warped = 2 * made.sample_rate * np.tan(np.pi * cutoff / made.sample_rate)
    loop = np.poly([-warped] * 4)
    loop[-1] += resonance * warped**4
    b, a = signal.bilinear([(1 + resonance) * warped**4], loop, made.sample_rate)
    return signal.lfilter(b, a, np.sin(angle + index * np.sin(ratio * angle)))


def seconds(function, *arguments) -> float:
    start = time.process_time()
    function(*arguments)
    return time.process_time() - start


def one_by_one(naive, made, rows) -> None:
    for factors in made.factors(rows):
        naive(made, factors)


print(
    f"{'set':>9} {'ratio':>6}   (CPU time of a loop / ours, median of {options.rounds} rounds, {options.sounds} sounds)"
)
for made, naive in ((Additive(), additive), (FrequencyModulation(), fm)):
    rows = np.random.default_rng(0).choice(len(made), options.sounds, replace=False)
    made.waveforms(rows[:2])
    rounds = [seconds(one_by_one, naive, made, rows) / seconds(made.waveforms, rows) for _ in range(options.rounds)]
    print(f"{made.name:>9} {statistics.median(rounds):6.1f}   ({min(rounds):.1f} to {max(rounds):.1f})")
    if options.full:
        start, used = time.perf_counter(), time.process_time()
        for first in range(0, len(made), 256):
            made.waveforms(np.arange(first, min(first + 256, len(made))))
        print(
            f"          {len(made)} sounds: {time.perf_counter() - start:.1f} s, {time.process_time() - used:.1f} s CPU"
        )
