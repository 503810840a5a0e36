"""Fit the U-Net baseline on a folder of recordings, step by step: what `spectrovae fit unet` does, in Python.

python scripts/fit_unet.py recordings saved_models/my-unet
"""

import argparse

import spectrovae as sv

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("data", help="folder, manifest, or toy set")
parser.add_argument("out", help="folder of the bundle")
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--seed", type=int, default=0)
options = parser.parse_args()

recordings = sv.data.Recordings.open(options.data)
representation = sv.representations.LogSTFT(recordings.sample_rate)
peak = representation.peak_db(recordings.waveforms("train"))
representation = sv.representations.LogSTFT(recordings.sample_rate, max_db=peak)

with sv.training.precision("auto"):
    unet = sv.models.UNet(
        representation.feature_shape(recordings.samples), db_per_unit=representation.db_per_unit, seed=options.seed
    )

codec = sv.training.train(
    unet, representation, recordings, options.out, sv.training.FitOptions(epochs=options.epochs, seed=options.seed)
)

# Encoder and decoder are plain Keras models, here and in the files of the bundle.
features = next(iter(recordings.features("validation", representation, batch_size=4)))
bottleneck, *skips = codec.encoder(features)
print(f"{options.out}: bottleneck {bottleneck.shape}, skips {[skip.shape for skip in skips]}, {codec.info['metrics']}")
