"""Principal directions of a latent against scikit-learn, and what is decoded without the last of them."""

import csv
import json

import numpy as np
import pytest
from seamless import seamless, sound
from sklearn.decomposition import PCA

from spectrovae import audio, cli, losses
from spectrovae.data import Recordings
from spectrovae.errors import InputError
from spectrovae.evaluation.fidelity import Directions, fidelity
from spectrovae.models import UNet


def vectors(count=400, seed=0):
    random = np.random.default_rng(seed)
    return 0.5 + random.standard_normal((count, 5)) @ np.diag([3.0, 2.0, 1.0, 0.1, 0.0]) @ random.standard_normal(
        (5, 5)
    )


def test_directions_are_scikit_learn_s():
    x = vectors()
    found, expected = Directions.fit(x), PCA().fit(x)
    np.testing.assert_allclose(found.fidelity, np.cumsum(expected.explained_variance_ratio_), atol=1e-9)
    for share in (0.5, 0.9, 0.95, 0.999, 1.0):
        with_these = np.flatnonzero(np.cumsum(expected.explained_variance_ratio_) >= share - 1e-9)[0] + 1
        assert found.needed(share) == with_these
    np.testing.assert_allclose(np.abs(found.axes[:4] @ expected.components_[:4].T), np.eye(4), atol=1e-6)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_the_rest_is_cut_or_drawn(count):
    x = vectors()
    directions, pca = Directions.fit(x), PCA(count).fit(x)
    np.testing.assert_allclose(directions.kept(x, count), pca.inverse_transform(pca.transform(x)), atol=1e-4)
    drawn = directions.kept(np.repeat(x[:1], 4000, axis=0), count, np.random.default_rng(0).normal(size=(4000, 5)))
    rest = (drawn - directions.mean) @ directions.axes[count:].T
    if count < 5:
        assert np.abs(rest.mean(axis=0)).max() < 0.1
        np.testing.assert_allclose(rest.std(axis=0), 1.0, atol=0.1)


def test_few_vectors_and_one_that_never_moves():
    few = Directions.fit(vectors(2))
    assert few.axes.shape == (5, 5)
    assert few.needed(0.99) == 1
    still = Directions.fit(np.ones((10, 5)))
    np.testing.assert_array_equal(still.fidelity, np.ones(5))


def test_many_vectors_need_no_matrix_of_each_with_each():
    many = Directions.fit(np.tile(vectors(1000), (200, 1)))  # that of 200 000 would have 320 GB
    np.testing.assert_allclose(many.fidelity, Directions.fit(vectors(1000)).fidelity, atol=1e-9)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sounds")
    for index in range(20):
        audio.write(folder / f"{index}.wav", sound(256, index), 8000)
    return folder


def test_the_study(folder, tmp_path):
    codec = seamless()
    recordings = Recordings.open(folder, sample_rate=8000, samples=codec.segment_samples)
    result = fidelity(codec, recordings, tmp_path / "out", split="train", fidelities=(0.5, 1.0), log=lambda _: None)
    assert result["needed"]["1"] == 3
    assert json.loads((tmp_path / "out" / "fidelity.json").read_text())["rows"] == result["rows"]
    with open(tmp_path / "out" / "fidelity.csv", newline="") as stream:
        assert [int(row["directions"]) for row in csv.DictReader(stream)] == [
            row["directions"] for row in result["rows"]
        ]
    # With all directions nothing is left out: the distance is the codec's own.
    waveforms = np.concatenate(list(recordings.waveforms("train")))
    own = np.median(losses.spectral_distance(waveforms, codec.reconstruct(waveforms)))
    assert result["rows"][-1]["cut"] == pytest.approx(own, rel=1e-3)
    assert result["rows"][-1]["drawn"] == pytest.approx(own, rel=1e-3)
    # Two clips: the recording, all directions, and each smaller number cut and drawn.
    smaller = len(result["rows"]) - 1
    assert len(list((tmp_path / "out" / "samples").glob("*.wav"))) == 2 * (2 + 2 * smaller)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Directions needed" in page
    assert page.count("<audio") == 2 * (2 + 2 * smaller)


def test_what_it_cannot_study(folder, tmp_path):
    recordings = Recordings.open(folder, sample_rate=8000, samples=256)
    with pytest.raises(InputError, match="above 0 and at most 1"):
        fidelity(seamless(), recordings, tmp_path / "out", fidelities=(1.5,))
    from spectrovae.codec import Codec
    from spectrovae.representations import LogSTFT

    unet = UNet((32, 17, 1), preset="tiny")
    codec = Codec(LogSTFT(8000, n_fft=64, hop_length=16), unet.encoder, unet.decoder, family="unet")
    with pytest.raises(InputError, match="one tensor of numbers"):
        fidelity(codec, recordings, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command(folder, tmp_path, capsys):
    seamless().save(tmp_path / "bundle")
    arguments = ["fidelity", str(tmp_path / "bundle"), "--data", str(folder), "--out", str(tmp_path / "out")]
    assert cli.main([*arguments, "--fidelities", "0.6,0.95", "--split", "train"]) == 0
    assert "fidelity 0.95:" in capsys.readouterr().out
    assert cli.main(arguments) == 2


def test_clips_are_spread_and_batches_change_nothing(folder, tmp_path, capsys):
    """A limit takes evenly spaced clips, not the first; draws belong to a clip; progress is no result."""
    codec = seamless()
    recordings = Recordings.open(folder, sample_rate=8000, samples=codec.segment_samples)
    options = {"split": "train", "fidelities": (0.5,), "samples": 0}
    found = [
        fidelity(codec, recordings, tmp_path / str(size), limit=5, batch_size=size, **options)["rows"]
        for size in (2, 16)
    ]
    for one, other in zip(*found):
        assert one == pytest.approx(other, rel=1e-4)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "directions" in captured.err
    waveforms = np.concatenate(list(recordings.waveforms("train")))
    chosen = waveforms[np.linspace(0, len(waveforms) - 1, 5).round().astype(int)]
    own = np.median(losses.spectral_distance(chosen, codec.reconstruct(chosen)))
    assert found[0][-1]["cut"] == pytest.approx(own, rel=1e-3)


def test_directions_of_batches_are_those_of_all():
    x = 1e3 + vectors(400)
    whole, parts = Directions.fit(x), Directions.fit(np.array_split(x, 7))
    np.testing.assert_allclose(parts.fidelity, whole.fidelity, atol=1e-9)
    np.testing.assert_allclose(parts.mean, x.mean(axis=0))
    with pytest.raises(InputError, match="at least one vector"):
        Directions.fit([])
