"""What models of the waveform give back of held-out clips: spectral distance, and log-spectral distance by band.

    python benchmarks/waveform_quality.py BUNDLE [BUNDLE ...] --data DATA [--above 2000] [--split test] [--json FILE]

Beside each bundle stand its family untrained, as the fit began, and silence. The spectral distance is
``losses.spectral_distance``, of no unit; the log-spectral distance in dB is over the bins of a spectrogram of 64 ms
windows, below ``--above`` Hz and above, with a floor 80 dB under the loudest bin of the split's recordings.
"""

import argparse
import json
import math
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import scipy.signal

from spectrovae import losses, models
from spectrovae.codec import Codec
from spectrovae.data import Recordings


def levels(waveforms: np.ndarray, rate: int, floor_db: float | None = None) -> tuple[np.ndarray, np.ndarray, float]:
    """(frequencies in Hz, levels in dB (clips, bins, frames), the floor that they are cut at)."""
    size = 2 ** math.ceil(math.log2(0.064 * rate))
    frequencies, _, spectrum = scipy.signal.stft(waveforms, rate, nperseg=size, noverlap=3 * size // 4)
    db = 20.0 * np.log10(np.maximum(np.abs(spectrum), 1e-12))
    floor_db = float(db.max()) - 80.0 if floor_db is None else floor_db
    return frequencies, np.maximum(db, floor_db), floor_db


def untrained(bundle: Path, codec: Codec) -> Codec:
    """The codec as its fit began."""
    config = json.loads((bundle / "run" / "config.json").read_text(encoding="utf-8"))
    keras.utils.set_random_seed(config["options"]["seed"])
    trainer = models.FAMILIES[config["family"]](**config["model"])
    return Codec(
        codec.representation, trainer.encoder, trainer.decoder, family=codec.family,
        segment_frames=codec.segment_frames,
    )  # fmt: skip


class Reference:
    """Recordings (clips, samples) that others are measured against."""

    def __init__(self, waveforms: np.ndarray, rate: int, above: float):
        self.waveforms, self.rate = waveforms, rate
        frequencies, self.levels, self.floor_db = levels(waveforms, rate)
        self.high = frequencies >= above

    def row(self, name: str, decoded: np.ndarray) -> dict:
        error = np.square(levels(decoded, self.rate, self.floor_db)[1] - self.levels)
        pairs = zip(self.waveforms, decoded)
        distance = [float(np.mean(losses.spectral_distance(a[None], b[None]))) for a, b in pairs]
        rms = np.sqrt(np.mean(np.square(decoded)) / np.mean(np.square(self.waveforms)))
        row = {"name": name, "clips": len(decoded), "distance": float(np.mean(distance))}
        # The root over bins of a frame, then the mean over frames: as evaluation.metrics has it.
        for part, bins in (("low", ~self.high), ("high", self.high)):
            row[f"lsd_{part}_db"] = float(np.mean(np.sqrt(np.mean(error[:, bins], axis=1))))
        return row | {"level_db": 20.0 * math.log10(max(float(rms), 1e-6))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path, metavar="BUNDLE")
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--above", type=float, default=2000.0, help="Hz")
    parser.add_argument("--json", help="write the figures here")
    options = parser.parse_args()
    rows = []
    for bundle in options.bundles:
        codec = Codec.load(bundle)
        recordings = Recordings.open(options.data, sample_rate=codec.sample_rate, samples=codec.segment_samples)
        waveforms = np.concatenate([np.asarray(batch) for batch in recordings.waveforms(options.split, 16)])
        reference = Reference(waveforms, codec.sample_rate, options.above)
        for name, one in ((f"{bundle.name}, untrained", untrained(bundle, codec)), (bundle.name, codec)):
            decoded = [one.reconstruct(waveforms[start : start + 16]) for start in range(0, len(waveforms), 16)]
            rows.append(reference.row(name, np.concatenate(decoded)))
        rows.append(reference.row("silence", np.zeros_like(waveforms)))
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    print(f"| {options.split} split | distance | LSD below {options.above:g} Hz, dB | above | level, dB |")
    print("|---|---|---|---|---|")
    for one in rows:
        print(
            f"| {one['name']} | {one['distance']:.2f} | {one['lsd_low_db']:.2f} | {one['lsd_high_db']:.2f} | "
            f"{one['level_db']:+.1f} |"
        )


if __name__ == "__main__":
    main()
