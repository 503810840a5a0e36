"""Fit a hierarchical VAE on a folder of recordings, step by step, and hear what each group of latents adds.

python scripts/fit_hierarchical_vae.py recordings saved_models/my-hierarchy
python scripts/fit_hierarchical_vae.py toy:harmonic saved_models/toy-hierarchy --epochs 5
"""

import argparse

import numpy as np

import spectrovae as sv

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("data", help="folder, manifest, or toy set")
parser.add_argument("out", help="folder of the bundle")
parser.add_argument("--epochs", type=int, default=30)
parser.add_argument("--groups", type=int, choices=(2, 3), default=3)
parser.add_argument("--seed", type=int, default=0)
options = parser.parse_args()

recordings = sv.data.Recordings.open(options.data)
representation = sv.representations.LogSTFT(recordings.sample_rate)
peak = representation.peak_db(recordings.waveforms("train"))
representation = sv.representations.LogSTFT(recordings.sample_rate, max_db=peak)

# The weight of the KL divergence grows over the first three epochs, its groups balanced.
fit_options = sv.training.FitOptions(epochs=options.epochs, seed=options.seed)
warmup_steps = 3 * recordings.steps("train", fit_options.batch_size)
with sv.training.precision("auto"):
    hierarchy = sv.models.HierarchicalVAE(
        representation.feature_shape(recordings.samples),
        groups=options.groups,
        warmup_steps=warmup_steps,
        db_per_unit=representation.db_per_unit,
        seed=options.seed,
    )
codec = sv.training.train(hierarchy, representation, recordings, options.out, fit_options)

# The first groups alone say what the others add; a group drawn from its prior says whether it is used.
waveform = next(iter(recordings.waveforms("validation")))
features = codec.features_graph(waveform)
latent = codec.encoder(features)


def error_db(latent):
    return float(np.sqrt(np.mean((representation.db_per_unit * (codec.decoder(latent) - features)) ** 2)))


for group in range(options.groups):
    drawn = sv.models.hierarchical_vae.resample_group(latent, group)
    print(f"group {group}: {error_db(drawn) - error_db(latent):+.2f} dB when drawn from its prior")
    sound = codec.decode([z[:, None] for z in latent[: group + 1]])
    sv.audio.write(f"{options.out}/groups-{group + 1}.wav", sound[0] / max(1.0, abs(sound[0]).max()), codec.sample_rate)
print(f"{options.out}: {codec.info['metrics']}")
