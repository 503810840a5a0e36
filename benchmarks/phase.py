"""Spectral convergence against computing time of every phase recovery method, beside librosa.griffinlim.

    SPECTROVAE_DATA=folder python benchmarks/phase.py [--json FILE] [--repeats 7] [--clips 64] [--seconds 10]

The folder holds fsdd/recordings and music. Magnitudes are the true ones. Each repeat runs every method once, in turn,
so that other load on the machine falls on all of them; the times are the least of the repeats. Progress goes to
stderr, the tables to stdout.
"""

import argparse
import glob
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import librosa
import numpy as np
import tensorflow as tf

from spectrovae.data.fsdd import SPEAKERS
from spectrovae.dsp.phase import causal, invert_magnitude
from spectrovae.files import write_json

TARGETS = [(0.0, 8.0), (3.0, 4.0)]  # dB better than librosa's 32 iterations, times faster
METHODS = [
    *(("griffin_lim", n) for n in (32, 100)),
    *(("fast_griffin_lim", n) for n in (8, 16, 32, 64, 100)),
    *(("accelerated_griffin_lim", n) for n in (8, 16, 20, 24, 32, 64)),
    *(("admm", n) for n in (16, 32, 64)),
    ("pghi", 0),
    *(("pghi_fast_griffin_lim", n) for n in (2, 3, 4, 8, 10, 16, 32)),
    *(("causal", n) for n in (0, 2)),
]


def speech(folder: Path, clips: int) -> np.ndarray:
    """Digits of FSDD's test split (takes 0 to 4) at 8 kHz: float32 (clips, 8064), silence after each."""
    names = [f"{digit}_{who}_{take}.wav" for take in range(5) for digit in range(10) for who in SPEAKERS]
    sounds = [librosa.load(folder / "fsdd" / "recordings" / name, sr=8000)[0] for name in names[:clips]]
    return np.stack([librosa.util.fix_length(sound, size=8064) for sound in sounds])


def music(folder: Path, seconds: float) -> np.ndarray:
    """The start of each recording at 22.05 kHz: float32 (recordings, 22050 * seconds)."""
    sounds = [librosa.load(path, sr=22050, duration=seconds)[0] for path in sorted(glob.glob(f"{folder}/music/*.ogg"))]
    return np.stack([librosa.util.fix_length(sound, size=int(22050 * seconds)) for sound in sounds])


def magnitude_of(waveform, n_fft, hop_length):
    spectrum = librosa.stft(waveform, n_fft=n_fft, hop_length=hop_length, pad_mode="constant")
    return np.float32(np.swapaxes(np.abs(spectrum), -1, -2))


def convergence(magnitude, waveform, n_fft, hop_length):
    """Mean spectral convergence in dB."""
    error = np.linalg.norm(magnitude - magnitude_of(waveform, n_fft, hop_length), axis=(1, 2))
    return float(np.mean(20.0 * np.log10(error / np.linalg.norm(magnitude, axis=(1, 2)))))


def candidates(magnitude, n_fft, hop_length, length):
    """(name, iterations) -> a call that gives the waveforms."""
    given = tf.constant(magnitude)

    def ours(method, iterations):
        @tf.function(input_signature=[tf.TensorSpec([None, None, 1 + n_fft // 2])])
        def run(magnitude):
            if method == "causal":
                return causal(magnitude, n_fft, hop_length, iterations=iterations, length=length)
            return invert_magnitude(magnitude, n_fft, hop_length, method=method, iterations=iterations, length=length)

        return lambda: run(given).numpy()

    def theirs(magnitude, iterations):
        return librosa.griffinlim(
            np.swapaxes(magnitude, -1, -2),
            n_iter=iterations,
            n_fft=n_fft,
            hop_length=hop_length,
            length=length,
            pad_mode="constant",
            random_state=0,
        )

    return {
        ("librosa", 32): lambda: theirs(magnitude, 32),
        ("librosa, clip by clip", 32): lambda: np.stack([theirs(row, 32) for row in magnitude]),
        **{(method, iterations): ours(method, iterations) for method, iterations in METHODS},
    }


def measure(title, waveforms, n_fft, hop_length, repeats):
    magnitude = magnitude_of(waveforms, n_fft, hop_length)
    calls = candidates(magnitude, n_fft, hop_length, waveforms.shape[1])
    reached = {}
    for key, call in calls.items():
        print(f"{title}: {key[0]} {key[1]}", file=sys.stderr)
        reached[key] = convergence(magnitude, call(), n_fft, hop_length)
    times: dict = {key: [] for key in calls}
    for repeat in range(repeats):
        print(f"{title}: repeat {repeat + 1} of {repeats}", file=sys.stderr)
        for key, call in calls.items():
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            times[key].append((time.perf_counter() - wall, time.process_time() - cpu))
    least = {key: np.min(taken, axis=0) for key, taken in times.items()}
    base = least["librosa", 32]
    rows = [
        {
            "method": key[0],
            "iterations": key[1],
            "convergence_db": reached[key],
            "cpu_ms_per_clip": 1e3 * least[key][1] / len(waveforms),
            "wall_ms_per_clip": 1e3 * least[key][0] / len(waveforms),
            "wall_speed": base[0] / least[key][0],
            "cpu_speed": base[1] / least[key][1],
        }
        for key in calls
    ]
    return {"title": title, "n_fft": n_fft, "hop_length": hop_length, "clips": len(waveforms), "rows": rows}


def show(table):
    print(f"\n{table['title']}: {table['clips']} clips, {table['n_fft']}/{table['hop_length']}\n")
    print("| method | iterations | convergence, dB | CPU ms per clip | ms per clip | times librosa | in CPU time |")
    print("|---|---|---|---|---|---|---|")
    for row in table["rows"]:
        print(
            f"| {row['method']} | {row['iterations']} | {row['convergence_db']:.1f} | {row['cpu_ms_per_clip']:.2f} "
            f"| {row['wall_ms_per_clip']:.2f} | {row['wall_speed']:.1f} | {row['cpu_speed']:.1f} |"
        )
    print()
    librosa_db = table["rows"][0]["convergence_db"]
    for better, wanted in TARGETS:
        enough = [row for row in table["rows"][2:] if row["convergence_db"] <= librosa_db - better]
        if not enough:
            print(f"no method is {better} dB better than librosa")
            continue
        best = max(enough, key=lambda row: row["wall_speed"])
        print(
            f"{librosa_db - better:.1f} dB: {best['method']} {best['iterations']}, {best['wall_speed']:.1f} times "
            f"as fast as librosa ({best['cpu_speed']:.1f} in CPU time); wanted {wanted:.0f}"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", help="write the tables there too")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--clips", type=int, default=64, help="of speech")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each recording of music")
    options = parser.parse_args()
    if "SPECTROVAE_DATA" not in os.environ:
        parser.error("set SPECTROVAE_DATA to the folder that holds fsdd and music")
    folder = Path(os.environ["SPECTROVAE_DATA"])
    tables = [
        measure("speech", speech(folder, options.clips), 512, 128, options.repeats),
        measure("music", music(folder, options.seconds), 2048, 512, options.repeats),
    ]
    for table in tables:
        show(table)
    if options.json:
        write_json(options.json, {"tables": tables})


if __name__ == "__main__":
    main()
