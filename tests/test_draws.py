"""Drawn sounds: the command line that makes them, what judges say of them, whether they are new."""

import json
import shutil

import numpy as np
import pytest
import soundfile
from page_check import check_page

from spectrovae.cli import main
from spectrovae.codec import Codec
from spectrovae.errors import InputError
from spectrovae.evaluation.memorisation import memorisation, nearest
from spectrovae.generation import between


@pytest.fixture(scope="module")
def folder(tones):
    return tones


@pytest.fixture(scope="module")
def bundles(folder, trained, tmp_path_factory):
    made = tmp_path_factory.mktemp("bundles")
    for family in ("vae", "vq-vae", "unet", "hierarchical-vae"):
        shutil.copytree(trained(family), made / family)
    fit = ["fit-prior", made / "vae", "--data", folder, "--preset", "tiny", "--epochs", "2", "--seed", "1"]
    assert main([*map(str, fit)]) == 0
    return made


@pytest.fixture(scope="module")
def judge(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("judges") / "pitches"
    assert main(["fit-judge", "label", "--data", str(folder), "--out", str(out), "--epochs", "2"]) == 0
    return out


def refused(capsys, *arguments, says):
    capsys.readouterr()
    assert main([str(part) for part in arguments]) == 2
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    assert says in printed.err.splitlines()[-1]


def test_fit_prior_says_what_it_saves(bundles, folder, capsys):
    arguments = ["fit-prior", str(bundles / "vae"), "--data", str(folder), "--kind", "flow", "--preset", "tiny"]
    assert main([*arguments, "--epochs", "1", "--conditions", "label", "--force", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["kind"] == "flow"
    assert result["figures"]["unit"] == "nats a vector"
    assert Codec.load(bundles / "vae").learned_prior.conditions == {"label": ("0", "1", "2")}
    refused(capsys, *arguments, says="--force")
    refused(capsys, *arguments[:-4], "--force", "--kind", "table", says="must be one of mixture, flow")
    refused(capsys, "fit-prior", bundles / "unet", "--data", folder, says="skips of a real sound")
    refused(capsys, "fit-prior", bundles / "hierarchical-vae", "--data", folder, says="hierarchy")
    assert main([*map(str, arguments[:4]), "--preset", "tiny", "--force"]) == 0
    assert "test: prior" in capsys.readouterr().out


def test_generate_makes_sounds_and_a_page(bundles, folder, judge, tmp_path, capsys):
    out = tmp_path / "drawn"
    arguments = ["generate", bundles / "vae", "-n", "4", "--label", "1", "--temperature", "0.7", "--out", out]
    arguments = [*map(str, arguments), "--judge", str(judge), "--data", str(folder)]
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [soundfile.info(file).samplerate for file in result["files"]] == [8000] * 4
    page = (out / "report.html").read_text()
    assert len(check_page(page).all("audio")) == 4
    assert page.count("label 1") >= 4
    assert "What judges heard" in page
    assert "Against real sounds" in page
    for sample in result["samples"]:
        heard = sample["judges"]["pitches"]
        assert heard["right"] == (heard["answer"] == "1")
        assert sample["nearest"]["pitches"]["clip"].endswith(".wav")
    (row,) = result["judges"]
    assert sum(row["answers"].values()) == 4
    (space,) = result["spaces"]
    assert space["mmd"] is not None
    assert space["ratio"] > 0
    refused(capsys, *arguments, says="--force")
    assert main([*arguments[:-4], "--force"]) == 0
    assert main([*arguments[:-4], "--force", "--data", str(folder)]) == 0
    assert "spectrogram: nearest training clip at" in capsys.readouterr().out


def test_what_cannot_be_drawn_is_refused(bundles, tmp_path, capsys):
    out = ["--out", tmp_path / "none"]
    refused(capsys, "generate", bundles / "vae", "--label", "9", *out, says="label must be one of 0, 1, 2")
    refused(capsys, "generate", bundles / "vae", "--temperature", "-1", *out, says="temperature must be 0 or more")
    refused(capsys, "generate", bundles / "vae", "--top-k", "3", *out, says="draws no codes")
    refused(capsys, "generate", bundles / "vq-vae", *out, says="fit-prior")
    refused(capsys, "generate", bundles / "hierarchical-vae", "--label", "1", *out, says="N(0, I)")
    refused(capsys, "generate", bundles / "vae", "--judge", tmp_path / "absent", *out, says="no judge")
    assert not (tmp_path / "none").exists()


def test_interpolate_takes_either_way(bundles, folder, tmp_path):
    pair = [str(folder / "0_reed_3.wav"), str(folder / "2_flute_4.wav")]
    for path in ("line", "sphere"):
        out = tmp_path / path
        assert main(["interpolate", str(bundles / "vae"), *pair, "-n", "3", "--path", path, "--out", str(out)]) == 0
        assert len(list(out.glob("*.wav"))) == 3
        assert len(check_page((out / "report.html").read_text()).all("audio")) == 3
    assert main(["interpolate", str(bundles / "vq-vae"), *pair, "--path", "sphere", "--out", str(tmp_path / "c")]) == 0


class Plain:
    quantiser = None


def test_the_way_on_a_sphere():
    random = np.random.default_rng(0)
    ends = [random.standard_normal((1, 2, 50)).astype(np.float32) for _ in range(2)]
    way = between(Plain(), *ends, 5, "sphere")
    np.testing.assert_allclose(way[0], ends[0][0], atol=1e-5)
    np.testing.assert_allclose(way[-1], ends[1][0], atol=1e-5)
    lengths = np.linalg.norm(way, axis=-1)
    np.testing.assert_allclose(lengths, np.linspace(lengths[0], lengths[-1], 5), rtol=1e-4)
    units = way / lengths[..., None]
    steps = np.sum(units[1:] * units[:-1], axis=-1)
    np.testing.assert_allclose(steps, np.tile(steps[:1], (4, 1)), atol=1e-5)  # even steps of the angle
    same = between(Plain(), ends[0], 2.0 * ends[0], 3, "sphere")
    np.testing.assert_allclose(same[1], 1.5 * ends[0][0], rtol=1e-4)
    with pytest.raises(InputError, match="line, sphere"):
        between(Plain(), *ends, 3, "detour")


def test_the_nearest_clip_and_copies_are_found():
    random = np.random.default_rng(0)
    training, held, new = (random.standard_normal((count, 8)) for count in (300, 200, 100))
    batches = (training[:100], training[100:])
    distances, places = nearest(training[[5, 150]] + 0.01, batches)
    np.testing.assert_allclose(distances, 0.01, rtol=1e-4)
    assert places.tolist() == [5, 150]
    usual = nearest(held, batches)[0]
    np.testing.assert_allclose(usual, np.sqrt(((held[:, None] - training) ** 2).mean(axis=2)).min(axis=1), rtol=1e-6)
    honest = memorisation(nearest(new, batches)[0], usual)
    assert honest["ratio"] == pytest.approx(1.0, abs=0.1)
    assert honest["near"] < 0.05
    copied = memorisation(nearest(training[:50] + 0.05, batches)[0], usual)
    assert copied["near"] == 1.0
    assert copied["ratio"] < 0.2
    for bad in ([], [training[:, :3]]):
        with pytest.raises(InputError):
            nearest(held, bad)
