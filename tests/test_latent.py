"""The study of a latent: of a linear codec, whose every figure is known, and of every family through the command."""

import csv
import json

import keras
import numpy as np
import pytest
import soundfile
from page_check import check_page
from scipy.stats import kruskal
from sklearn.decomposition import PCA

from spectrovae import models
from spectrovae.cli import main
from spectrovae.codec import Codec
from spectrovae.data import Recordings
from spectrovae.errors import InputError
from spectrovae.evaluation.latent import format_latent, latent
from spectrovae.evaluation.latent_moves import DRAWS
from spectrovae.representations import LogSTFT

SAMPLES = 992
DIMENSIONS = 3
QUIET = {"log": lambda message: None}


def projection(shape):
    """Orthonormal directions in feature space [shape=(cells, dimensions)]."""
    matrix = np.random.default_rng(1).standard_normal((int(np.prod(shape)), DIMENSIONS))
    return np.linalg.qr(matrix)[0].astype(np.float32)


def linear_codec(sample_rate=8000):
    """An encoder that projects on three directions, and the decoder that is its transpose."""
    representation = LogSTFT(sample_rate, n_fft=64, hop_length=32, phase_iterations=2)
    shape = representation.feature_shape(SAMPLES)
    basis = projection(shape)
    inputs, z = keras.Input(shape), keras.Input((DIMENSIONS,), name="latent")
    down = keras.layers.Dense(DIMENSIONS, use_bias=False)
    up = keras.layers.Dense(basis.shape[0], use_bias=False)
    encoder = keras.Model(inputs, down(keras.layers.Flatten()(inputs)))
    decoder = keras.Model(z, keras.layers.Reshape(shape)(up(z)))
    down.set_weights([basis])
    up.set_weights([basis.T])
    return Codec(representation, encoder, decoder, family="autoencoder", name="linear")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Recordings named as those of FSDD: two digits by two speakers, one of whom is louder."""
    path = tmp_path_factory.mktemp("recordings")
    random = np.random.default_rng(0)
    for digit in (0, 1):
        for speaker, level in (("ann", 0.5), ("bob", 0.01)):
            for index in range(12):
                tone = np.sin(2 * np.pi * (400 + 900 * digit) * np.arange(SAMPLES) / 8000 + random.uniform(0, 6))
                sound = level * (tone + 0.05 * random.standard_normal(SAMPLES)) / 1.3
                soundfile.write(path / f"{digit}_{speaker}_{index}.wav", sound, 8000, subtype="PCM_16")
    return path


@pytest.fixture(scope="module")
def made(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("latent") / "out"
    recordings = Recordings.open(folder, samples=SAMPLES)
    codec = linear_codec()
    result = latent(codec, recordings, out, split="test", pairs=4, points=5, **QUIET)
    waveforms = np.concatenate([np.asarray(batch) for batch in recordings.waveforms("test")])
    features = np.asarray(codec.representation(waveforms))
    return result, out, recordings, features


def test_principal_axes_are_those_of_scikit_learn(made):
    result, out, _, features = made
    z = features.reshape(len(features), -1) @ projection(features.shape[1:])
    reference = PCA().fit(z)
    (group,) = result["groups"]
    assert (group["dimensions"], group["shape"]) == (3, [3])
    np.testing.assert_allclose(group["pca"]["explained"], reference.explained_variance_ratio_, atol=1e-4)
    assert group["pca"]["total_variance"] == pytest.approx(z.var(axis=0, ddof=1).sum(), rel=1e-4)
    variances = reference.explained_variance_
    assert group["pca"]["effective_dimensions"] == pytest.approx(variances.sum() ** 2 / (variances**2).sum(), rel=1e-3)
    with open(out / "coordinates.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    for axis in range(2):
        written = np.array([float(row[f"axis_{axis + 1}"]) for row in rows])
        expected = reference.transform(z)[:, axis]
        np.testing.assert_allclose(written * np.sign(written @ expected), expected, atol=1e-3)


def test_moving_a_dimension_changes_what_its_direction_says(made):
    result, _, _, features = made
    z = features.reshape(len(features), -1) @ projection(features.shape[1:])
    # 2 * 4 deviations along a direction of length 1 in feature space, 80 dB a unit, over all cells
    expected = 80 * 8 * z.std(axis=0) / np.sqrt(features[0].size)
    moved = result["groups"][0]["moved"]
    assert [row["dimension"] for row in moved] == [0, 1, 2]
    np.testing.assert_allclose([row["change_db"] for row in moved], expected, rtol=1e-3)
    np.testing.assert_allclose([row["deviation"] for row in moved], z.std(axis=0), rtol=1e-4)


def test_a_linear_decoder_interpolates_as_a_mix_does(made):
    found = made[0]["interpolation"]
    assert found["pairs"] == 4
    for row in found["rows"]:
        assert row["ratio"] == pytest.approx(1, abs=1e-4)
        assert row["largest_step"] == pytest.approx(1, abs=1e-3)
        assert row["from_mix_db"] == pytest.approx(0, abs=1e-3)
    assert found["rows"][0]["nearest_db"] == pytest.approx(found["rows"][1]["nearest_db"], abs=1e-3)


def test_errors_by_label(made):
    result, _, recordings, features = made
    basis = projection(features.shape[1:])
    flat = features.reshape(len(features), -1)
    errors = 80 * np.sqrt(np.mean((flat - flat @ basis @ basis.T) ** 2, axis=1))
    speakers = np.array([example.speaker for example in recordings.examples("test")])
    by_label = {found["label"]: found for found in result["loss"]}
    assert set(by_label) == {"label", "speaker"}
    for row in by_label["speaker"]["rows"]:
        own = errors[speakers == row["value"]]
        assert row["clips"] == len(own)
        assert row["median_db"] == pytest.approx(np.median(own), rel=1e-3)
        assert row["upper_quartile_db"] == pytest.approx(np.quantile(own, 0.75), rel=1e-3)
        assert row["kl_nats"] is None
    p = kruskal(*(errors[speakers == name] for name in ("ann", "bob"))).pvalue
    assert by_label["speaker"]["kruskal_wallis_p"] == pytest.approx(p, rel=1e-3)


def test_draws_are_set_beside_the_clips(made):
    even, normal, clips = made[0]["sampling"]
    assert (even["draws"], normal["draws"]) == (DRAWS, DRAWS)
    assert even["spread_db"] > normal["spread_db"] > 0
    assert clips["nearest_db"] < clips["spread_db"]


def test_labels_are_told_by_neighbours_where_they_can_be(made):
    neighbours = {row["label"]: row for row in made[0]["groups"][0]["neighbours"]}
    assert neighbours["speaker"]["whole"] == 1.0  # 34 dB apart
    assert neighbours["speaker"]["chance"] <= 0.6


def test_files_and_page(made):
    result, out, _, _ = made
    assert json.loads((out / "latent.json").read_text()) == result
    page = check_page((out / "report.html").read_text())
    words = "".join(page.words)
    assert "The latent of linear" in words
    assert "no prior" in words
    assert "Nobody knows the factors" in words
    sounds = {path.name for path in (out / "sounds").iterdir()}
    assert {f"latent_dimension_{place}.wav" for place in range(3)} <= sounds
    traversal, rate = soundfile.read(out / "sounds" / "latent_dimension_0.wav")
    segment = linear_codec().segment_samples
    assert (len(traversal), rate) == (5 * (segment + 400), 8000)
    assert np.abs(traversal).max() <= 1
    assert len(list((out / "tables").iterdir())) % 2 == 0
    table = format_latent(result)
    assert max(map(len, table.splitlines())) <= 120
    assert "line in the latent" in table


def test_what_cannot_be_studied_is_refused(made, folder, tmp_path):
    recordings, codec = made[2], linear_codec()
    with pytest.raises(InputError, match="three clips or more, received 2"):
        latent(codec, recordings, tmp_path / "out", limit=2, **QUIET)
    with pytest.raises(InputError, match="positive span"):
        latent(codec, recordings, tmp_path / "out", span=0, **QUIET)
    with pytest.raises(InputError, match="992 samples"):
        latent(codec, Recordings.open(folder, samples=500), tmp_path / "out", **QUIET)
    with pytest.raises(InputError, match="force"):
        latent(codec, recordings, made[1], **QUIET)
    assert list(tmp_path.iterdir()) == []


def check_command(family, tmp_path, capsys):
    """The command studies an untrained model of the family."""
    data = "toy:harmonic?size=40"
    representation = LogSTFT(8000, n_fft=64, hop_length=32, phase_iterations=2)
    trainer = models.FAMILIES[family](representation.feature_shape(2 * SAMPLES), preset="tiny", db_per_unit=80.0)
    codec = Codec(representation, trainer.encoder, trainer.decoder, family=family, prior=trainer.prior)
    codec.save(tmp_path / "model")
    arguments = ["--pairs", "2", "--points", "3", "--dimensions", "2", "--split", "train", "--json"]
    study = ["latent", str(tmp_path / "model"), "--data", data, "--out", str(tmp_path / "out"), *arguments]
    assert main(study) == 0
    result = json.loads(capsys.readouterr().out)
    kinds = {"vae": "posterior", "hierarchical-vae": "posterior", "vq-vae": "codes", "unet": "numbers"}
    assert result["settings"]["latent"] == kinds[family]
    assert bool(result["settings"]["held"]) == (family == "unet")
    assert all(row["change_db"] >= 0 for group in result["groups"] for row in group["moved"])
    assert result["loss"][0]["label"] == "richness"
    assert -1 <= result["loss"][0]["spearman"] <= 1
    check_page((tmp_path / "out" / "report.html").read_text())
    assert main(study) == 2
    assert "--force" in capsys.readouterr().err


def test_the_command(tmp_path, capsys):
    """Other families: tests/nightly/test_every_family.py."""
    check_command("vae", tmp_path, capsys)


@pytest.mark.slow
def test_disentanglement_is_measured_where_factors_are_known(tmp_path):
    recordings = Recordings.open("toy:additive?size=1200", samples=SAMPLES)
    result = latent(linear_codec(44_100), recordings, tmp_path / "out", pairs=2, points=3, **QUIET)
    found = result["disentanglement"]
    assert len(found["factors"]) == 4
    assert "Whether dimensions are factors" in (tmp_path / "out" / "report.html").read_text()
    assert {row["measure"] for row in result["groups"][0]["neighbours"]} == {"R2"}
