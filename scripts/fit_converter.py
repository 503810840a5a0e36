"""Fit a VQ-VAE whose decoder is told who speaks, and hear one voice in another: what `spectrovae fit vq-vae --speakers`
and `spectrovae convert` do, in Python.

python scripts/fit_converter.py data/fsdd saved_models/voices
"""

import argparse
from pathlib import Path

import spectrovae as sv

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("data", help="folder or manifest of recordings whose speakers are known, as by FSDD's file names")
parser.add_argument("out", help="folder of the bundle; the sounds go into its folder voices")
parser.add_argument("--epochs", type=int, default=30)
parser.add_argument("--preset", default="small")
parser.add_argument("--seed", type=int, default=0)
options = parser.parse_args()

recordings = sv.data.Recordings.open(options.data)
representation = sv.representations.LogSTFT(recordings.sample_rate)
peak = representation.peak_db(recordings.waveforms("train"))
representation = sv.representations.LogSTFT(recordings.sample_rate, max_db=peak)

# The decoder takes the codes and the place of one of these names, so that codes need not say who speaks. What keeps
# them from it: there are few of them, the encoder hears voices moved in frequency, and an adversary opposes it.
speakers = recordings.speakers()
with sv.training.precision("auto"):
    vq_vae = sv.models.VQVAE(
        representation.feature_shape(recordings.samples),
        preset=options.preset,
        speakers=speakers,
        db_per_unit=representation.db_per_unit,
        seed=options.seed,
    )
codec = sv.training.train(
    vq_vae, representation, recordings, options.out, sv.training.FitOptions(epochs=options.epochs, seed=options.seed)
)
metrics = codec.info["metrics"]
leak, chance = metrics["speaker_leak_accuracy"], metrics["speaker_leak_chance"]
print(f"{options.out}: codes still name the speaker for {leak:.0%} of the validation clips (chance {chance:.0%})")

# One sound in every voice. Nobody's voice is what codec.reconstruct gives.
waveform = next(iter(recordings.waveforms("test")))[:1]
for speaker in codec.speakers:
    path = Path(options.out) / "voices" / f"{speaker}.wav"
    sv.audio.write(path, codec.convert(waveform, speaker)[0], codec.sample_rate)
    print(path)
