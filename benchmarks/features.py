"""Waveform to features: speed beside a plain librosa loop, and memory over the length of a file.

    python benchmarks/features.py FOLDER [--rounds N] [--json FILE]
    python benchmarks/features.py --memory [--minutes 1 60]

The speed is that of passes over all recordings of FOLDER, which is scanned first, through ``Recordings.features``.
Without a cache every pass decodes all files anew: the first one includes the building of the pipelines, the others are
the next epochs of the same stream, as a training sees them. With a cache, a pass that fills it and one from it. The
loop is ``librosa.load``, ``stft`` and ``amplitude_to_db`` of clips padded or cropped to the same length. Passes take
turns, so that what else the machine does falls on all; ratios are medians over rounds, of clips per second and of clips
per CPU second.

The memory is the peak of a fresh process that makes features of a file of that many minutes and inverts them, less what
a process that has only imported the library takes.
"""

import argparse
import itertools
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import librosa
import numpy as np
import soundfile

from spectrovae import audio, files
from spectrovae.data import Recordings, scan
from spectrovae.data.splits import SPLITS
from spectrovae.representations import MDCT, LogSTFT, MagnitudePhase, blocks

PASSES = 3  # of a stream, timed as one
MEMORY = {"log-stft": LogSTFT, "magnitude-phase": MagnitudePhase, "mdct": MDCT}


def librosa_loop(paths: list[Path], sample_rate: int, samples: int, representation: LogSTFT) -> int:
    """Features as ``LogSTFT`` makes them, one clip after the other; returns their number."""
    for path in paths:
        waveform, _ = librosa.load(path, sr=None)
        waveform = librosa.util.fix_length(waveform, size=samples)
        spectrum = librosa.stft(waveform, n_fft=representation.n_fft, hop_length=representation.hop_length)
        librosa.amplitude_to_db(np.abs(spectrum), ref=1.0, top_db=80.0)
    return len(paths)


def passes(manifest, representation: LogSTFT, **options) -> Iterator[int]:
    """Go over every split epoch by epoch; each pass yields the number of clips."""
    recordings = Recordings.open(manifest, **options)
    streams = [
        (recordings.steps(split, 64), iter(recordings.features(split, representation, 64, first_epoch=0)))
        for split in SPLITS
    ]
    while True:
        yield sum(len(next(stream)) for steps, stream in streams for _ in range(steps))


def speed(folder: str, rounds: int) -> dict:
    """Clips per second, and per CPU second, of the pipelines and of the loop, and the ratios by round."""
    manifest = scan(folder)
    first = Recordings.open(manifest)
    representation = LogSTFT(first.sample_rate, n_fft=512, hop_length=128)
    paths = [manifest.root / record.path for record in manifest.accepted]

    names = ("librosa", "first pass", "next passes", "pass that fills the cache", "pass from the cache")
    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in names}

    def timed(name: str, run: Callable[[], int]) -> None:
        started, used = time.perf_counter(), time.process_time()
        count = run()
        figures[name].append((count / (time.perf_counter() - started), count / (time.process_time() - used)))

    librosa_loop(paths[:100], first.sample_rate, first.samples, representation)
    for index in range(rounds):
        uncached, cached = passes(manifest, representation, cache_bytes=0), passes(manifest, representation)
        # Before the passes, not between them: a stream left waiting would fetch ahead outside the time taken.
        timed("librosa", lambda: librosa_loop(paths, first.sample_rate, first.samples, representation))
        timed("first pass", partial(next, uncached))
        timed("next passes", partial(sum, itertools.islice(uncached, PASSES)))
        timed("pass that fills the cache", partial(next, cached))
        timed("pass from the cache", partial(next, cached))
        row = ", ".join(f"{name} {values[-1][0]:.0f}" for name, values in figures.items())
        print(f"round {index + 1}/{rounds}: {row} clips/s", file=sys.stderr, flush=True)
    ratios = {
        name: [tuple(a / b for a, b in zip(ours, loop)) for ours, loop in zip(values, figures["librosa"])]
        for name, values in figures.items()
        if name != "librosa"
    }
    return {"clips": len(paths), "clips_per_second": figures, "ratios": ratios, "cores": os.cpu_count()}


def memory(minutes: list[int]) -> dict:
    """Peak memory in MiB of each representation and length, above that of a process without a file."""
    result: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for length in minutes:
            path = Path(folder) / f"{length}.wav"
            random = np.random.default_rng(0)
            with soundfile.SoundFile(path, "w", 8000, 1, subtype="PCM_16") as file:
                for _ in range(6 * length):
                    file.write(0.1 * random.standard_normal(80000, np.float32))
            for name in MEMORY:
                command = [sys.executable, __file__, "--one", name, str(path)]
                printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                result.setdefault(name, {})[str(length)] = float(printed)
                print(f"{name}, {length} min: {float(printed):.0f} MiB", file=sys.stderr, flush=True)
    return result


def one(name: str, path: str) -> float:
    """Peak memory in MiB that a file adds to this process."""
    representation = MEMORY[name](8000)
    representation(np.zeros((1, 8000), np.float32))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    features = blocks.forward(representation, audio.stream(path))
    count = sum(len(piece) for piece in blocks.inverse(representation, features, audio.info(path).samples))
    assert count == audio.info(path).samples
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", help="recordings, such as those of the Free Spoken Digit Dataset")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", action="store_true", help="measure memory instead of speed")
    parser.add_argument("--minutes", type=int, nargs="+", default=[1, 60])
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--json", help="write the figures to this file too")
    options = parser.parse_args()
    if options.one:
        print(one(*options.one))
        return
    if options.memory:
        result = memory(options.minutes)
        for name, row in result.items():
            print(f"{name:16}" + "".join(f"  {length} min {figure:.0f} MiB" for length, figure in row.items()))
    elif options.folder:
        result = speed(options.folder, options.rounds)
        for name, ratios in result["ratios"].items():
            wall, cpu = zip(*ratios)
            print(
                f"{name:26} {statistics.median(wall):5.1f} times the loop ({min(wall):.1f}-{max(wall):.1f}), "
                f"{statistics.median(cpu):.1f} per CPU second"
            )
    else:
        parser.error("give a folder of recordings, or --memory")
    if options.json:
        files.write_json(options.json, result)


if __name__ == "__main__":
    main()
