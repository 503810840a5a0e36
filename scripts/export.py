"""Export a model for TensorFlow Serving and call it as a server would: what `spectrovae export` does, in Python.

python scripts/export.py saved_models/my-vae served
"""

import argparse

import numpy as np
import tensorflow as tf

import spectrovae as sv

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("bundle")
parser.add_argument("folder", help="writes FOLDER/NAME/VERSION/")
options = parser.parse_args()

path = sv.serving.export(options.bundle, options.folder)

# From here on neither Keras nor spectrovae is needed.
served = tf.saved_model.load(path)
waveform = np.zeros((1, 8000), np.float32)
sound = served.signatures["serving_default"](waveform=tf.constant(waveform))["waveform"]
print(f"{path}: {waveform.shape} -> {sound.shape}; signatures {sorted(served.signatures)}")
