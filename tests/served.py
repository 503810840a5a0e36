"""Exports of several families, served where neither Keras nor spectrovae is there, beside what Keras gives."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from families import SPECTROGRAMS

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
CASES = [(1, 1), (7, 1), (1, 481), (7, 700), (7, 60 * RATE)]
"""Batches and samples."""
ROW = 3
NUDGE = 2.0**-21
"""Of the peak of an input: four units in the last place, as rounding moves a sum of a hundred products."""

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


def nudged(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Inputs with every float moved by ``NUDGE``, up or down."""
    random = np.random.default_rng(0)
    return {
        name: x + np.float32(NUDGE * np.abs(x).max(initial=0.0)) * random.choice(np.float32([-1, 1]), x.shape)
        if np.issubdtype(x.dtype, np.floating)
        else x
        for name, x in inputs.items()
    }


def conditions(table, tried) -> dict[str, float]:
    """By name of an output: how far, relative to its peak, ``NUDGE`` in the inputs moves it in any signature.

    Logarithms of near silence, powers of ten of loud levels and the inverse of mel bands multiply a rounding error,
    which depends on the processor and on the size of the batch; how much is a property of the model.
    """
    found: dict[str, float] = {}
    for endpoint in table:
        if endpoint.name in tried:
            inputs, results = tried[endpoint.name]
            moved = nudged(inputs)
            for name, tensor in endpoint.function(*(tf.constant(moved[spec.name]) for spec in endpoint.inputs)).items():
                if tensor.dtype.is_floating:
                    peak = max(1.0, np.abs(results[name]).max())
                    distance = np.abs(tensor.numpy() - results[name]).max() / peak
                    found[name] = max(found.get(name, 0.0), float(distance))
    return found


def serve(pairs, folder: Path) -> None:
    """Write for each pair what the Keras model gives, and what its export gives in one process that serves them all."""
    for package in ("keras", "tf_keras", "spectrovae"):
        (folder / "absent" / package).mkdir(parents=True)
        (folder / "absent" / package / "__init__.py").write_text("raise ImportError('taken to be not installed')")
    arguments = []
    for pair in pairs:
        codec = trained(*pair)
        table = endpoints(codec)
        saved_model.save(codec, folder / codec.name, table)
        requests, expected, condition = {}, {}, {}
        for batch, samples in CASES:
            tried = examples(table, noise(batch, samples))
            for name, (inputs, results) in tried.items():
                requests |= {f"{batch}x{samples}/{name}/{key}": array for key, array in inputs.items()}
                expected |= {f"{batch}x{samples}/{name}/{key}": array for key, array in results.items()}
                if batch > ROW:
                    requests |= {f"row{samples}/{name}/{key}": array[ROW : ROW + 1] for key, array in inputs.items()}
            for name, value in conditions(table, tried).items():
                condition[name] = max(condition.get(name, 0.0), value)
        files = [folder / f"{codec.name}-{kind}.npz" for kind in ("requests", "served", "expected", "conditions")]
        for file, arrays in zip(files, (requests, None, expected, condition)):
            if arrays is not None:
                np.savez(file, **arrays)
        arguments += [folder / codec.name, *files[:2]]
        keras.backend.clear_session()
    environment = {**os.environ, "PYTHONPATH": str(folder / "absent"), "CUDA_VISIBLE_DEVICES": "-1"}
    command = [sys.executable, "-c", SERVER, *map(str, arguments)]
    subprocess.run(command, env=environment, cwd=folder, check=True)  # the folder it starts in is on Python's path


def results(folder: Path, family: str, name: str):
    """What :func:`serve` wrote of a pair: what is served, what Keras gives, and the conditions."""
    return [dict(np.load(folder / f"{family}-{name}-{kind}.npz")) for kind in ("served", "expected", "conditions")]


def assert_close(found, expected, conditions, case):
    """Equal to 1e-5 of full scale, which is 1 for waveforms (of the peak, where an untamed model is louder), and four
    times what rounding of the inputs does, as each of a handful of layers rounds; never more than a thousandth."""
    assert found.shape == expected.shape, case
    tolerance = min(1e-5 + 4.0 * conditions.get(case.rsplit("/", 1)[1], 0.0), 1e-3)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * max(1.0, np.abs(expected).max()), err_msg=case)


def check_served(folder: Path, family: str, name: str) -> None:
    """A served model gives what Keras gives."""
    found, expected, conditions = results(folder, family, name)
    assert {key.split("/")[1] for key in expected} == signatures(family)
    for case, array in expected.items():
        assert np.isfinite(array).all()
        assert_close(found[case], array, conditions, case)


def check_rows(folder: Path, family: str, name: str) -> None:
    """A result does not depend on the others in the batch."""
    found, _, conditions = results(folder, family, name)
    # Two codes of a codebook after one step can be equally near to the last bit; serving_default tells what they sound.
    alone = [key for key in found if key.startswith("row") and np.issubdtype(found[key].dtype, np.floating)]
    assert {key.split("/")[1] for key in alone} >= signatures(family) - {"encode"}
    for key in alone:
        together = found[key.replace("row", "7x")]
        assert_close(found[key], together[ROW : ROW + 1], conditions, key)
    assert np.ptp(found["7x700/serving_default/waveform"], axis=0).max() > 1e-3  # so that a mix-up would show
