"""Fit an autoencoder on a folder of recordings, step by step, and see whether it beats PCA at its own size.

python scripts/fit_autoencoder.py recordings saved_models/my-autoencoder --latent-dim 32
python scripts/fit_autoencoder.py toy:harmonic saved_models/toy-autoencoder --epochs 5
"""

import argparse

import numpy as np

import spectrovae as sv
from spectrovae.evaluation.baselines import fit_baselines

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("data", help="folder, manifest, or toy set")
parser.add_argument("out", help="folder of the bundle")
parser.add_argument("--epochs", type=int, default=50)
parser.add_argument("--latent-dim", type=int, default=32)
parser.add_argument("--time-stretch", type=float, default=0.15, help="of the training clips, at random")
parser.add_argument("--seed", type=int, default=0)
options = parser.parse_args()

recordings = sv.data.Recordings.open(options.data)
representation = sv.representations.LogSTFT(recordings.sample_rate)
peak = representation.peak_db(recordings.waveforms("train"))
representation = sv.representations.LogSTFT(recordings.sample_rate, max_db=peak)

# Its linear path holds the training clips' principal components (train() puts them there); the convolutions learn the
# rest.
with sv.training.precision("auto"):
    autoencoder = sv.models.Autoencoder(
        representation.feature_shape(recordings.samples),
        latent_dim=options.latent_dim,
        time_stretch=options.time_stretch,
        time_shift=1.0,
        bin_stretch=0.05,
        db_per_unit=representation.db_per_unit,
        seed=options.seed,
    )

codec = sv.training.train(
    autoencoder,
    representation,
    recordings,
    options.out,
    sv.training.FitOptions(epochs=options.epochs, learning_rate=1.5e-3, seed=options.seed),
)

# PCA with as many components and with twice as many, on clips that neither has seen.
k = options.latent_dim
baselines = fit_baselines(recordings.features("train", representation), (k, 2 * k))
clips = np.concatenate([np.asarray(batch) for batch in recordings.features("test", representation)])
for name, system in [(codec.family, codec), *((baseline.name, baseline) for baseline in baselines)]:
    error = (system.reconstruct_features(clips) - clips)[..., 0] * np.reshape(representation.db_per_unit, (-1, 1))
    print(f"{name:12} {np.sqrt(np.mean(error**2)):6.3f} dB")
