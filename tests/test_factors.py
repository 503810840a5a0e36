"""Disentanglement of whole codecs: one whose latent is the factors, its floors, and the command."""

import json
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from spectrovae.cli import main
from spectrovae.codec import Codec
from spectrovae.data import Recordings
from spectrovae.errors import InputError
from spectrovae.evaluation import factors
from spectrovae.representations import Spectrum

TOY = "toy:additive?size=1200"
SAMPLES = 1024


def codec_of(weights, dimensions=2):
    """A linear encoder of linear magnitudes, and a decoder that is not asked."""
    bins = SAMPLES // 2 + 1
    features = keras.Input((bins, 1, 1))
    latent = keras.layers.Dense(dimensions, name="map")(keras.layers.Flatten()(features))
    encoder = keras.Model(features, latent)
    if weights is not None:
        encoder.get_layer("map").set_weights(weights)
    code = keras.Input((dimensions,))
    decoder = keras.Model(code, keras.layers.Reshape((bins, 1, 1))(keras.layers.Dense(bins)(code)))
    return Codec(Spectrum(44_100, n_fft=SAMPLES), encoder, decoder, name="linear")


@pytest.fixture(scope="module")
def recordings():
    return Recordings.open(TOY, samples=SAMPLES)


def test_a_model_that_reads_a_factor_is_above_both_floors(recordings):
    """Least squares from features to the cut-off and the number of harmonics, from the training split."""
    probe = codec_of(None)
    x = np.concatenate([np.asarray(b) for b in recordings.features("train", probe.representation)]).reshape(-1, 513)
    y = np.log(recordings.factors("train")[:, [1, 3]])
    y = (y - y.mean(axis=0)) / y.std(axis=0)
    centred = x - x.mean(axis=0)
    weights = np.linalg.solve(centred.T @ centred + 10.0 * np.eye(513), centred.T @ y)
    codec = codec_of([weights, -x.mean(axis=0) @ weights])
    result = factors.disentangle(codec, recordings, split="train", seeds=(0, 1))
    assert (result["sounds"], result["dimensions"]) == (len(x), 2)
    for metric in ("mig", "sap", "beta_vae", "informativeness", "disentanglement"):
        for floor in ("untrained", "chance"):
            assert result["model"][metric]["mean"] > result[floor][metric]["mean"] + 0.03, (metric, floor)
    assert result["chance"]["informativeness"]["mean"] < 0.05
    assert len(result["untrained"]["mig"]["runs"]) == 2
    assert result["untrained"]["mig"]["deviation"] > 0
    json.dumps(result, allow_nan=False)
    table = factors.format_disentanglement(result)
    assert f"{result['model']['mig']['mean']:.3f}" in table


def test_an_untrained_encoder_has_the_same_layers_and_leaves_the_trained_one():
    codec = codec_of(None, 5)
    before = codec.encoder.get_weights()
    fresh = [factors.untrained_encoder(codec.encoder, seed) for seed in (0, 0, 1)]
    kernels = [model.get_weights()[0] for model in fresh]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert np.abs(kernels[0] - kernels[2]).max() > 0.01
    assert kernels[0].std() == pytest.approx(513**-0.5, rel=0.1)
    for kept, now in zip(before, codec.encoder.get_weights()):
        np.testing.assert_array_equal(kept, now)


def test_what_has_no_factors_is_refused(recordings):
    one = Recordings.open("toy:harmonic?size=600", sample_rate=44_100, samples=SAMPLES)
    with pytest.raises(InputError, match="two factors that vary, received 1"):
        factors.disentangle(codec_of(None), one)
    with pytest.raises(InputError, match="2000 dimensions"):
        factors.disentangle(codec_of(None, 2000), recordings)
    x = keras.Input((513, 1, 1))
    coded = SimpleNamespace(name="coded", data=None, encoder=keras.Model(x, keras.ops.cast(x, "int32")))
    with pytest.raises(InputError, match="coded encodes to codes"):
        factors.disentangle(coded, recordings)
    with pytest.raises(InputError, match="at least one seed"):
        factors.disentangle(codec_of(None), recordings, seeds=())


@pytest.mark.slow
def test_the_command(tmp_path, capsys):
    bundle, out = tmp_path / "vae", tmp_path / "result.json"
    fit = ["--preset", "tiny", "--network", "dense", "--latent-dim", "3", "--epochs", "1", "--precision", "float32"]
    assert main(["fit", "vae", "--data", TOY, "--representation", "spectrum", "--out", str(bundle), *fit]) == 0
    arguments = ["disentangle", str(bundle), "--data", TOY, "--seeds", "0,1", "--out", str(out)]
    capsys.readouterr()
    assert main(arguments) == 0
    assert "untrained" in capsys.readouterr().out
    assert json.loads(out.read_text())["factors"] == ["inharmonicity", "harmonics", "q", "cutoff"]
    assert main(arguments) == 2
    assert "--force" in capsys.readouterr().err
    assert main([*arguments[:-2], "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(out.read_text())
