"""Time and memory of ``compare``, beside a plain loop of librosa and SciPy for the same metrics.

    python benchmarks/compare.py DATA [--rounds N]
    python benchmarks/compare.py DATA --full BUNDLE... [--judge DIR]... [--times 1 10]

DATA is a folder with the recordings of the Free Spoken Digit Dataset.

The first form measures the test clips with noise added, without any model: the spectrogram's and the sound's metrics, a
batch at a time as ``compare`` does and clip by clip in the loop; PESQ and STOI, which both take from the same packages,
apart; and 1 000 bootstrap draws of every figure, in the loop by ``scipy.stats.bootstrap``. They take turns; figures are
the loop's time over ours, medians over rounds, by the clock and (in brackets) in CPU time.

The second form runs the whole of ``compare`` with those models in fresh processes, on the test clips and on as many
times as many (the same clips repeated), and prints the time for a clip and the peak memory of the process.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import librosa
import numpy as np
import scipy.stats
from pesq import PesqError, pesq
from pystoi import stoi

from spectrovae.data import Recordings
from spectrovae.evaluation.metrics import Errors, Figure, bootstrap, cosine_similarity, spectral_convergence
from spectrovae.evaluation.sound_metrics import RESOLUTIONS, Reference
from spectrovae.representations import LogSTFT

RATE, BATCH, RESAMPLES = 8000, 32, 1000
REPRESENTATION = LogSTFT(RATE, max_db=-5.5)


def ours(originals: np.ndarray, estimates: np.ndarray) -> dict[str, np.ndarray]:
    """Every metric of all clips, without the speech packages."""
    parts = []
    for start in range(0, len(originals), BATCH):
        x, y = originals[start : start + BATCH], estimates[start : start + BATCH]
        before, after = (np.asarray(REPRESENTATION.decibels(waveform)) for waveform in (x, y))
        features = [np.asarray(REPRESENTATION.from_db(db)) for db in (before, after)]
        errors, reference = Errors.measure(before, after, REPRESENTATION.min_db), Reference(x, RATE)
        parts.append({
            "rmse": np.sqrt(errors.squared / errors.cells),
            "lsd": errors.lsd,
            "convergence": spectral_convergence(before, after),
            "mse": np.mean(np.square(features[1] - features[0]), axis=(1, 2, 3)),
            "cosine": cosine_similarity(*features),
            "mr_stft": reference.multi_resolution_stft(y),
            "mcd": reference.mel_cepstral_distortion(y),
            "si_sdr": reference.si_sdr(y),
        })  # fmt: skip
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def loop(originals: np.ndarray, estimates: np.ndarray) -> dict[str, np.ndarray]:
    """The same by librosa, clip by clip."""
    rows = [_one(x, y) for x, y in zip(originals, estimates)]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def _one(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    low, high = REPRESENTATION.min_db, REPRESENTATION.max_db
    magnitudes = [np.abs(librosa.stft(w, n_fft=512, hop_length=128, pad_mode="constant"))[:-1] / 128 for w in (x, y)]
    db = [np.clip(librosa.amplitude_to_db(m, amin=1e-7, top_db=None), low, high) for m in magnitudes]
    level = [(values - low) / (high - low) for values in db]
    floored = [10 ** (values / 20) for values in db]
    distances = []
    for n_fft, hop, window in RESOLUTIONS:
        a, b = (
            np.maximum(
                np.abs(librosa.stft(w, n_fft=n_fft, hop_length=hop, win_length=window, pad_mode="reflect")), 1e-4
            )
            for w in (x, y)
        )
        distances.append(np.linalg.norm(a - b) / np.linalg.norm(a) + np.mean(np.abs(np.log(a) - np.log(b))))
    mel = [
        librosa.feature.melspectrogram(y=w, sr=RATE, n_fft=256, hop_length=64, n_mels=40, pad_mode="constant")
        for w in (x, y)
    ]
    top = 10 * np.log10(mel[0].max())
    mel = [np.maximum(librosa.power_to_db(m, amin=1e-20, top_db=None), top - 80) for m in mel]
    cepstra = [librosa.feature.mfcc(S=m, n_mfcc=14)[1:] for m in mel]
    frames = np.sqrt(np.sum((cepstra[0] - cepstra[1]) ** 2, axis=0) / 40)
    target = x * (np.dot(x, y) / np.dot(x, x))
    return {
        "rmse": np.sqrt(np.mean((db[0] - db[1]) ** 2)),
        "lsd": np.mean(np.sqrt(np.mean((db[0] - db[1]) ** 2, axis=0))),
        "convergence": 20 * np.log10(np.linalg.norm(floored[0] - floored[1]) / np.linalg.norm(floored[0])),
        "mse": np.mean((level[0] - level[1]) ** 2),
        "cosine": np.sum(level[0] * level[1]) / (np.linalg.norm(level[0]) * np.linalg.norm(level[1])),
        "mr_stft": np.mean(distances),
        "mcd": frames[mel[0].max(axis=0) > top - 80].mean(),
        "si_sdr": 10 * np.log10(np.sum(target**2) / np.sum((target - y) ** 2)),
    }


def our_speech(originals: np.ndarray, estimates: np.ndarray) -> None:
    reference = Reference(originals, RATE)
    reference.pesq(estimates)
    reference.stoi(estimates)


def their_speech(originals: np.ndarray, estimates: np.ndarray) -> None:
    for x, y in zip(originals, estimates):
        pesq(RATE, x, y, "nb", on_error=PesqError.RETURN_VALUES)
        stoi(x, y, RATE)


def our_intervals(values: dict[str, np.ndarray]) -> None:
    bootstrap({name: Figure.mean(v) for name, v in values.items()}, resamples=RESAMPLES)


def their_intervals(values: dict[str, np.ndarray]) -> None:
    for v in values.values():
        scipy.stats.bootstrap((v,), np.mean, n_resamples=RESAMPLES, method="percentile")


def metrics(folder: str, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Ratios (clock, CPU) of the loop's time to ours, by round."""
    recordings = Recordings.open(folder, sample_rate=RATE)
    originals = np.concatenate([np.asarray(batch) for batch in recordings.waveforms("test")])
    noise = np.random.default_rng(0).standard_normal(originals.shape)
    estimates = (originals + 0.003 * noise).astype(np.float32)
    found, expected = ours(originals, estimates), loop(originals, estimates)
    for name, values in found.items():
        apart = np.max(np.abs(values - expected[name]) / np.maximum(np.abs(expected[name]), 1e-3))
        print(f"{name:12} largest relative difference {apart:.1e}", file=sys.stderr)
    pairs: dict[str, tuple[Callable, Callable, tuple]] = {
        "metrics": (ours, loop, (originals, estimates)),
        "PESQ and STOI": (our_speech, their_speech, (originals, estimates)),
        "intervals": (our_intervals, their_intervals, (found,)),
    }
    ratios: dict[str, list[tuple[float, float]]] = {name: [] for name in pairs}
    for _ in range(rounds):
        for name, (mine, theirs, arguments) in pairs.items():
            mine_took, theirs_took = _timed(mine, arguments), _timed(theirs, arguments)
            ratios[name].append((theirs_took[0] / mine_took[0], theirs_took[1] / mine_took[1]))
            print(
                f"{name}: {1e3 * mine_took[1] / len(originals):.2f} ms of CPU a clip, the loop "
                f"{1e3 * theirs_took[1] / len(originals):.2f}",
                file=sys.stderr,
            )
    return ratios


def _timed(run: Callable, arguments: tuple) -> tuple[float, float]:
    started, used = time.perf_counter(), time.process_time()
    run(*arguments)
    return time.perf_counter() - started, time.process_time() - used


def repeated(folder: Path, out: Path, times: int) -> None:
    """Links to the recordings, those of the test split under as many names: leading zeros make no other index."""
    for path in folder.rglob("*.wav"):
        stem, index = path.stem.rsplit("_", 1)
        copies = times if int(index) < 5 else 1
        for copy in range(copies):
            (out / f"{stem}_{'0' * copy}{index}.wav").symlink_to(path.resolve())


def full(folder: str, bundles: list[str], judges: list[str], times: int) -> dict[str, float]:
    """Run ``spectrovae compare`` in a process of its own."""
    with tempfile.TemporaryDirectory() as temporary:
        data, out = Path(temporary) / "data", Path(temporary) / "out"
        data.mkdir()
        repeated(Path(folder), data, times)
        options = [part for judge in judges for part in ("--judge", judge)]
        command = [sys.executable, "-m", "spectrovae", "compare", *bundles, "--data", str(data), "--out", str(out)]
        started = time.perf_counter()
        process = subprocess.Popen(
            [*command, "--resamples", str(RESAMPLES), *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)
        elapsed = time.perf_counter() - started
        if status:
            raise SystemExit(f"{' '.join(command)} ended with status {status}")
        clips = json.loads((out / "compare.json").read_text())["settings"]["clips"]
    return {
        "times": times,
        "clips": clips,
        "seconds": elapsed,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_mebibytes": usage.ru_maxrss / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="recordings of the Free Spoken Digit Dataset")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--full", nargs="+", metavar="BUNDLE", help="run compare with these models instead")
    parser.add_argument("--judge", action="append", default=[])
    parser.add_argument("--times", type=int, nargs="+", default=[1, 10])
    options = parser.parse_args()
    if options.full:
        for times in options.times:
            found = full(options.folder, options.full, options.judge, times)
            print(
                f"{found['clips']} clips: {found['seconds']:.0f} s by the clock, {found['cpu_seconds']:.0f} s of CPU, "
                f"{1e3 * found['cpu_seconds'] / found['clips']:.0f} ms of CPU a clip, "
                f"peak {found['peak_mebibytes']:.0f} MiB",
                flush=True,
            )
        return
    for name, rounds in metrics(options.folder, options.rounds).items():
        clock, cpu = (statistics.median(values) for values in zip(*rounds))
        print(f"{name:14} the loop takes {clock:.1f} times as long ({cpu:.1f})")


if __name__ == "__main__":
    main()
