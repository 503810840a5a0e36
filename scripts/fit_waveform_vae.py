"""Fit a VAE of the waveform itself on a folder of recordings, step by step, and hear what it draws.

python scripts/fit_waveform_vae.py recordings saved_models/my-waveform-vae
python scripts/fit_waveform_vae.py toy:harmonic saved_models/toy-waveform-vae --epochs 5
"""

import argparse

import spectrovae as sv

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("data", help="folder, manifest, or toy set")
parser.add_argument("out", help="folder of the bundle")
parser.add_argument("--epochs", type=int, default=30)
parser.add_argument("--head", choices=("pool", "sequence"), default="pool", help="one vector, or one every 256 samples")
parser.add_argument("--spectral-weight", type=float, default=0.2, help="nats a sample and unit of spectral distance")
parser.add_argument("--preset", choices=("tiny", "small", "base"), default="small")
parser.add_argument("--seed", type=int, default=0)
options = parser.parse_args()

# An example is one chunk; longer sounds become chunks that share a quarter, and are cross-faded.
recordings = sv.data.Recordings.open(options.data)
representation = sv.representations.Chunks(recordings.sample_rate, length=recordings.samples)
peak = representation.sample_peak(recordings.waveforms("train"))
representation = sv.representations.Chunks(recordings.sample_rate, length=recordings.samples, peak=peak)

with sv.training.precision("auto"):
    vae = sv.models.WaveformVAE(
        representation.feature_shape(recordings.samples),
        preset=options.preset,
        head=options.head,
        spectral_weight=options.spectral_weight,
        seed=options.seed,
    )
codec = sv.training.train(
    vae, representation, recordings, options.out, sv.training.FitOptions(epochs=options.epochs, seed=options.seed)
)
for index, sound in enumerate(codec.generate(3, seed=options.seed)):
    sv.audio.write(f"{options.out}/drawn-{index}.wav", sound / max(1.0, abs(sound).max()), codec.sample_rate)
print(f"{options.out}: {codec.info['metrics']}")
