"""Fit a VQ-VAE on a folder of recordings, and look at its codes: what `spectrovae fit vq-vae` does, in Python.

python scripts/fit_vq_vae.py recordings saved_models/my-vq-vae
python scripts/fit_vq_vae.py toy:harmonic saved_models/toy-vq-vae --epochs 5
"""

import argparse

import numpy as np

import spectrovae as sv

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("data", help="folder, manifest, or toy set")
parser.add_argument("out", help="folder of the bundle")
parser.add_argument("--epochs", type=int, default=30)
parser.add_argument("--codebook-size", type=int, default=256)
parser.add_argument("--stages", type=int, default=1)
parser.add_argument("--seed", type=int, default=0)
options = parser.parse_args()

# Recordings become equal pieces at one rate, split by file into train, validation and test.
recordings = sv.data.Recordings.open(options.data)

# Their loudest cell sets the top of a fixed range of 80 dB, which becomes [0, 1].
representation = sv.representations.LogSTFT(recordings.sample_rate)
peak = representation.peak_db(recordings.waveforms("train"))
representation = sv.representations.LogSTFT(recordings.sample_rate, max_db=peak)

with sv.training.precision("auto"):
    vq_vae = sv.models.VQVAE(
        representation.feature_shape(recordings.samples),
        codebook_size=options.codebook_size,
        stages=options.stages,
        db_per_unit=representation.db_per_unit,
        seed=options.seed,
    )

# Keeps the best model, and continues where it was stopped when called again.
codec = sv.training.train(
    vq_vae, representation, recordings, options.out, sv.training.FitOptions(epochs=options.epochs, seed=options.seed)
)
print(f"{options.out}: {codec.info['metrics']}")

# A sound is a map of integers now, and sounds again from them.
waveform = next(iter(recordings.waveforms("test")))[:1]
codes = codec.encode(waveform)
print(f"waveform {waveform.shape} -> codes {codes.shape} {codes.dtype} of {vq_vae.bits_per_example:.0f} bits")
print(f"{len(np.unique(codes))} different codes in it; decoded: {codec.decode(codes).shape}")
