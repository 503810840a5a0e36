"""Fit a causal RAVE on a folder of recordings in its two stages, step by step, and run it as a live host would.

python scripts/fit_rave.py recordings saved_models/my-rave
python scripts/fit_rave.py toy:harmonic saved_models/toy-rave --epochs 3 --adversarial-from 2 --preset tiny
"""

import argparse

import numpy as np

import spectrovae as sv
from spectrovae.streaming import StreamingCodec

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("data", help="folder, manifest, or toy set")
parser.add_argument("out", help="folder of the bundle")
parser.add_argument("--epochs", type=int, default=60, help="of both stages together")
parser.add_argument("--adversarial-from", type=int, default=40, help="epochs of the first stage")
parser.add_argument("--preset", choices=("tiny", "small", "paper"), default="small")
parser.add_argument("--version", choices=("v1", "v2"), default="v1")
parser.add_argument("--seconds", type=float, default=1.0, help="of an example, rounded up to whole latent frames")
parser.add_argument("--seed", type=int, default=0)
options = parser.parse_args()

rate = sv.data.Recordings.open(options.data).sample_rate
bands = sv.representations.Subbands(rate).hop_length
multiple = bands * sv.models.RAVE.frames_multiple(options.preset)
samples = -(-round(options.seconds * rate) // multiple) * multiple
recordings = sv.data.Recordings.open(options.data, samples=samples)
peak = sv.representations.Subbands(rate).sample_peak(recordings.waveforms("train"))
representation = sv.representations.Subbands(rate, peak=peak)

# Adversarial training of little data: recordings change anew in each epoch.
fit_options = sv.training.FitOptions(
    epochs=options.epochs, batch_size=8, adversarial_from=options.adversarial_from, augment="gain,phase",
    seed=options.seed,
)  # fmt: skip
with sv.training.precision("auto"):
    rave = sv.models.RAVE(
        representation.feature_shape(recordings.samples),
        preset=options.preset,
        version=options.version,
        causal=True,
        warmup_steps=5 * recordings.steps("train", fit_options.batch_size),
        seed=options.seed,
    )
codec = sv.training.train(rave, representation, recordings, options.out, fit_options)

# Blocks of any size go in, and as many samples come out, the codec's latency later.
stream = StreamingCodec(codec)
sound = np.asarray(next(iter(recordings.waveforms("validation"))))[:1]
live = np.concatenate(
    [stream.process(sound[:, start : start + 300]) for start in range(0, sound.shape[1], 300)], axis=1
)
sv.audio.write(f"{options.out}/live.wav", live[0] / max(1.0, abs(live).max()), codec.sample_rate)
print(f"{options.out}: {stream.latency} samples late ({stream.latency_ms:.1f} ms), {codec.info['metrics']}")
