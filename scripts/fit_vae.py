"""Fit a VAE on a folder of recordings, step by step: what `spectrovae fit vae` does, in Python, to be changed.

python scripts/fit_vae.py recordings saved_models/my-vae
python scripts/fit_vae.py toy:harmonic saved_models/toy-vae --epochs 5
"""

import argparse

import spectrovae as sv

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("data", help="folder, manifest, or toy set")
parser.add_argument("out", help="folder of the bundle")
parser.add_argument("--epochs", type=int, default=30)
parser.add_argument("--latent-dim", type=int, default=128)
parser.add_argument("--beta", type=float, default=1.0)
parser.add_argument("--seed", type=int, default=0)
options = parser.parse_args()

# Recordings become equal pieces at one rate, split by file into train, validation and test.
recordings = sv.data.Recordings.open(options.data)

# Their loudest cell sets the top of a fixed range of 80 dB, which becomes [0, 1].
representation = sv.representations.LogSTFT(recordings.sample_rate)
peak = representation.peak_db(recordings.waveforms("train"))
representation = sv.representations.LogSTFT(recordings.sample_rate, max_db=peak)

with sv.training.precision("auto"):
    vae = sv.models.VAE(
        representation.feature_shape(recordings.samples),
        latent_dim=options.latent_dim,
        beta=options.beta,
        db_per_unit=representation.db_per_unit,
        seed=options.seed,
    )

# Keeps the best model, and continues where it was stopped when called again.
codec = sv.training.train(
    vae, representation, recordings, options.out, sv.training.FitOptions(epochs=options.epochs, seed=options.seed)
)
print(f"{options.out}: {codec.info['metrics']}")
