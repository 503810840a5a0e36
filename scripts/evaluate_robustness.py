"""Perturb spectrograms in dB and measure the models: what `spectrovae robustness` does, in Python.

python scripts/evaluate_robustness.py recordings reports/robustness saved_models/my-vae saved_models/my-unet
"""

import argparse

import spectrovae as sv

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("data", help="folder, manifest, or toy set")
parser.add_argument("out", help="folder for the page, tables and sounds")
parser.add_argument("bundles", nargs="+")
options = parser.parse_args()

codecs = [sv.Codec.load(bundle) for bundle in options.bundles]
recordings = sv.data.Recordings.open(options.data, sample_rate=codecs[0].sample_rate, samples=codecs[0].segment_samples)
result = sv.evaluation.robustness(codecs, recordings, options.out)
print(sv.evaluation.format_robustness(result))
