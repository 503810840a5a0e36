"""Every family on every representation: trained, exported, and served where neither Keras nor spectrovae is there."""

import functools
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from families import ONE_OF_EACH, PAIRS, SPECTROGRAMS

from spectrovae import models, representations
from spectrovae.codec import Codec
from spectrovae.serving import saved_model
from spectrovae.serving.endpoints import endpoints, examples

RATE = 2000
SEGMENT = 512
# No search for a phase: the one it starts from is kept. A search turns the last bit of a float into a thousandth of the
# waveform, so that it would be the rounding that is compared (the parity gate, which does search, allows for it).
OPTIONS: dict[str, dict] = {
    "log-stft": {"n_fft": 64, "hop_length": 32, "phase_iterations": 0},
    "log-mel": {"n_fft": 64, "hop_length": 32, "n_mels": 16, "phase_iterations": 0},
    "magnitude-phase": {"n_fft": 64, "hop_length": 32},
    "mdct": {"frame_length": 64},
    "spectrum": {"n_fft": 64},
    "subbands": {"bands": 4},
    "chunks": {"length": SEGMENT},
}
SPEAKING = {"vae", "vq-vae"}  # that can be told who speaks
CASES = {"quick": [(7, 1), (7, 700)], "slow": [(1, 1), (7, 1), (1, 481), (7, 700), (7, 60 * RATE)]}
ROW = 3

SERVER = """
import sys, numpy as np, tensorflow as tf
for model, requests, results in zip(*[iter(sys.argv[1:])] * 3):
    served = tf.saved_model.load(model)
    recorded, found = np.load(requests), {}
    for case in {key.rsplit("/", 1)[0] for key in recorded.files}:
        names = [key.rsplit("/", 1)[1] for key in recorded.files if key.startswith(case + "/")]
        inputs = {name: tf.constant(recorded[f"{case}/{name}"]) for name in names}
        outputs = served.signatures[case.split("/")[1]](**inputs)
        found |= {f"{case}/{name}": tensor.numpy() for name, tensor in outputs.items()}
    np.savez(results, **found)
for package in ("keras", "spectrovae"):
    try:
        __import__(package)
    except ImportError:
        continue
    sys.exit(f"{package} can be imported")
"""


def noise(batch: int, samples: int) -> np.ndarray:
    return (0.2 * np.random.default_rng(samples).standard_normal((batch, samples))).astype(np.float32)


def trained(family: str, name: str) -> Codec:
    """A codec after one step of training; standardised features make its sounds loud and unlike each other."""
    keras.utils.set_random_seed(1)
    normalisation = "per_bin" if name in SPECTROGRAMS else "range"
    representation = representations.REPRESENTATIONS[name](RATE, normalisation=normalisation, **OPTIONS[name])
    if normalisation == "per_bin":
        representation.adapt([noise(4, SEGMENT)])
    options: dict = {"speakers": ("ann", "bob")} if family in SPEAKING else {}
    if family == "rave":
        options = {"causal": True}
    model = models.FAMILIES[family](representation.feature_shape(SEGMENT), preset="tiny", **options)
    features = representation(noise(40, SEGMENT))
    model.initialise([features])
    model.compile(optimizer="adam", run_eagerly=True)  # one step is not worth a graph
    batch = {"features": features[:8], "speaker": np.arange(8) % 2} if model.speakers else features[:8]
    assert np.isfinite(model.train_on_batch(batch, return_dict=True)["loss"])
    if model.stages > 1:
        model.enter(2)  # its noise is heard
        for weight in model.decoder.trainable_weights:  # at first it is quiet, and says much the same of everything
            weight.assign(1.5 * weight if "kernel" in weight.path else weight)
    for weight in model.decoder.trainable_weights if model.speakers else ():
        if "modulate" in weight.path:  # at first a speaker changes nothing
            weight.assign(np.random.default_rng(0).standard_normal(weight.shape))
    # Autoencoder and rave draw from a learned prior, who has one from N(0, I), the others not.
    prior = None
    if family in ("autoencoder", "rave"):
        latents = np.asarray(model.encoder(features))
        kind = models.Flow if family == "autoencoder" else models.LatentWaveNet
        prior = kind(latents.shape[1:], preset="tiny", conditions={"label": ("a", "b"), "speaker": ("c",)})
        prior.initialise(latents)
        for weight in prior.trainable_weights:  # so that every part of it changes what is drawn
            weight.assign(0.1 * np.random.default_rng(0).standard_normal(weight.shape))
    return Codec(
        representation, model.encoder, model.decoder, family=family, prior=model.prior, learned_prior=prior,
        name=f"{family}-{name}", segment_frames=model.feature_shape[1],
    )  # fmt: skip


def signatures(family: str) -> set[str]:
    drawn = {"generate"} if family == "autoencoder" or models.FAMILIES[family].prior else set()
    told = {"convert"} if family in SPEAKING else set()
    told |= {"stream_encode", "stream_decode"} if family == "rave" else set()
    return {"serving_default", "features", "encode", "decode", "reconstruct"} | drawn | told


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    return functools.cache(lambda kind: serve(kind, tmp_path_factory.mktemp(kind)))


def serve(kind: str, folder):
    """For each pair: what the Keras model gives, and what its export gives in one process that serves them all."""
    pairs, cases = (ONE_OF_EACH if kind == "quick" else PAIRS), CASES[kind]
    for package in ("keras", "tf_keras", "spectrovae"):
        (folder / "absent" / package).mkdir(parents=True)
        (folder / "absent" / package / "__init__.py").write_text("raise ImportError('taken to be not installed')")
    arguments, expected = [], {}
    for pair in pairs:
        codec = trained(*pair)
        table = endpoints(codec)
        saved_model.save(codec, folder / codec.name, table)
        requests, expected[pair] = {}, {}
        for batch, samples in cases:
            for name, (inputs, results) in examples(table, noise(batch, samples)).items():
                requests |= {f"{batch}x{samples}/{name}/{key}": array for key, array in inputs.items()}
                expected[pair] |= {f"{batch}x{samples}/{name}/{key}": array for key, array in results.items()}
                if batch > ROW:
                    requests |= {f"row{samples}/{name}/{key}": array[ROW : ROW + 1] for key, array in inputs.items()}
        files = [folder / f"{codec.name}-{kind}.npz" for kind in ("requests", "results")]
        np.savez(files[0], **requests)
        arguments += [folder / codec.name, *files]
        keras.backend.clear_session()
    environment = {**os.environ, "PYTHONPATH": str(folder / "absent"), "CUDA_VISIBLE_DEVICES": "-1"}
    command = [sys.executable, "-c", SERVER, *map(str, arguments)]
    subprocess.run(command, env=environment, cwd=folder, check=True)  # the folder it starts in is on Python's path
    found = {pair: dict(np.load(file)) for pair, file in zip(pairs, arguments[2::3])}
    return expected, found


def both(pairs, slow_pairs):
    return [pytest.param("quick", *pair, id="-".join(pair)) for pair in pairs] + [
        pytest.param("slow", *pair, id=f"long-{'-'.join(pair)}", marks=pytest.mark.slow) for pair in slow_pairs
    ]


every_pair = pytest.mark.parametrize(("kind", "family", "name"), both(ONE_OF_EACH, PAIRS))


def assert_close(found, expected, case):
    """Equal to 1e-5 of full scale, which is 1 for waveforms; of the peak, where an untamed model is louder."""
    assert found.shape == expected.shape, case
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * max(1.0, np.abs(expected).max()), err_msg=case)


@every_pair
def test_a_served_model_gives_what_keras_gives(served, kind, family, name):
    expected, found = (tensors[family, name] for tensors in served(kind))
    assert {key.split("/")[1] for key in expected} == signatures(family)
    for case, array in expected.items():
        assert np.isfinite(array).all()
        assert_close(found[case], array, case)


@every_pair
def test_a_result_does_not_depend_on_the_others_in_the_batch(served, kind, family, name):
    found = served(kind)[1][family, name]
    # Two codes of a codebook after one step can be equally near to the last bit; serving_default tells what they sound.
    alone = [key for key in found if key.startswith("row") and np.issubdtype(found[key].dtype, np.floating)]
    assert {key.split("/")[1] for key in alone} >= signatures(family) - {"encode"}
    for key in alone:
        together = found[key.replace("row", "7x")]
        assert_close(found[key], together[ROW : ROW + 1], key)
    assert np.ptp(found["7x700/serving_default/waveform"], axis=0).max() > 1e-3  # so that a mix-up would show
