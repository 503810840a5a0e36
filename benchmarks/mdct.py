"""MDCT and its inverse as ratios to tf.signal's, in turns in one process.

python benchmarks/mdct.py [--rounds N]
"""

import argparse
import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from spectrovae.dsp.mdct import imdct, mdct

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--rounds", type=int, default=11)
options = parser.parse_args()


def seconds(function, argument) -> float:
    start = time.process_time()
    function(argument)
    return time.process_time() - start


print(f"{'frame':>6} {'forward':>8} {'inverse':>8}   (CPU time of tf.signal / ours, median of {options.rounds} rounds)")
for length in (256, 512, 1024, 2048, 4096):
    waveform = tf.constant(np.random.default_rng(0).standard_normal((64, 16_384)), tf.float32)
    coefficients = mdct(waveform, length)
    pairs = {
        "forward": (
            tf.function(lambda x, n=length: tf.signal.mdct(x, n, tf.signal.vorbis_window, pad_end=True, norm="ortho")),
            tf.function(lambda x, n=length: mdct(x, n)),
            waveform,
        ),
        "inverse": (
            tf.function(lambda c: tf.signal.inverse_mdct(c, tf.signal.vorbis_window, norm="ortho")),
            tf.function(lambda c, n=length: imdct(c, n)),
            coefficients,
        ),
    }
    ratios = []
    for theirs, ours, argument in pairs.values():
        theirs(argument), ours(argument)
        rounds = [seconds(theirs, argument) / seconds(ours, argument) for _ in range(options.rounds)]
        ratios.append(statistics.median(rounds))
    print(f"{length:6} {ratios[0]:8.1f} {ratios[1]:8.1f}")
