"""The robustness curves of models and baselines whose answers to a disturbance are known."""

import csv
import json

import keras
import numpy as np
import pytest
from page_check import check_page

from spectrovae import cli
from spectrovae.codec import Codec
from spectrovae.data import Recordings
from spectrovae.errors import InputError
from spectrovae.evaluation import format_robustness, robustness
from spectrovae.evaluation.disturbed import courses_of
from spectrovae.evaluation.perturbations import PERTURBATIONS, perturb
from spectrovae.representations import LogSTFT

SAMPLES = 992
OPTIONS = {"resamples": 200, "components": (2,), "batch_size": 4, "log": lambda message: None}
LEVELS = (0, 2, 10)
UNIFORM = ("uniform:0,2,10", "white-noise:inf,20")


def codec():
    """A codec with a vector latent that answers with a third of its features' mean: its gain is known."""
    representation = LogSTFT(8000, n_fft=64, hop_length=32, phase_iterations=4)
    shape = representation.feature_shape(SAMPLES)
    inputs, latent = keras.Input(shape), keras.Input((3,))
    pooled = keras.layers.Flatten()(keras.layers.AveragePooling2D(shape[:2])(inputs))
    encoder = keras.Model(inputs, keras.layers.Concatenate()([pooled, pooled, pooled]))
    spread = keras.layers.Dense(1, use_bias=False, kernel_initializer=keras.initializers.Constant(1 / 9))(latent)
    flat = keras.layers.RepeatVector(shape[0] * shape[1])(spread)
    return Codec(representation, encoder, keras.Model(latent, keras.layers.Reshape(shape)(flat)), name="third")


def halving():
    representation = LogSTFT(8000, n_fft=64, hop_length=32, phase_iterations=4)
    shape = representation.feature_shape(SAMPLES)
    inputs, latent = keras.Input(shape), keras.Input(shape)
    encoder = keras.Model(inputs, keras.layers.Rescaling(1.0)(inputs))
    return Codec(representation, encoder, keras.Model(latent, keras.layers.Rescaling(0.5)(latent)), name="half")


@pytest.fixture(scope="module")
def recordings():
    return Recordings.open("toy:harmonic?size=60", sample_rate=8000, samples=SAMPLES)


@pytest.fixture(scope="module")
def made(recordings, tmp_path_factory):
    out = tmp_path_factory.mktemp("robustness") / "out"
    return robustness([codec(), halving()], recordings, out, perturbations=UNIFORM, samples=2, seeds=2, **OPTIONS), out


def rows(result, name, perturbation="uniform"):
    own = [row for row in result["rows"] if (row["name"], row["perturbation"]) == (name, perturbation)]
    return {row["severity"]: row for row in own}


def test_a_system_for_each_row_and_a_pca_of_the_latents_size(made):
    names = list(dict.fromkeys(row["name"] for row in made[0]["rows"]))
    assert names == ["third", "half", "identity", "PCA-3", "PCA-2", "mean"]
    assert len(made[0]["rows"]) == len(names) * (1 + len(LEVELS) + 1)
    for name in names:
        clean, level_0 = rows(made[0], name, "none")[0], rows(made[0], name)[0]
        assert clean["fidelity_db"] == level_0["fidelity_db"]
        assert (clean["consistency_db"], clean["gain"]) == (0, None)


def test_identity_passes_everything(made):
    found = rows(made[0], "identity")
    assert found[0]["consistency_db"] == 0
    assert found[0]["gain"] is None
    assert found[0]["fidelity_db"] == pytest.approx(0, abs=1e-4)
    for level in (2, 10):
        row = found[level]
        assert row["gain"] == pytest.approx(1, abs=1e-4)
        assert row["fidelity_db"] == pytest.approx(row["input_distance_db"], rel=1e-4)
        assert row["expected_input_distance_db"] == pytest.approx(level / np.sqrt(3))
        assert row["input_distance_db"] == pytest.approx(level / np.sqrt(3), rel=0.02)


def test_mean_passes_nothing(made):
    found = rows(made[0], "mean")
    assert {row["consistency_db"] for row in found.values()} == {0}
    assert [found[level]["gain"] for level in LEVELS] == [None, 0, 0]
    assert len({row["fidelity_db"] for row in found.values()}) == 1
    assert found[0]["fidelity_db"] > 1


def test_a_scaling_model_has_its_scale_as_gain(made, recordings):
    found = rows(made[0], "half")
    assert [found[level]["gain"] for level in (2, 10)] == pytest.approx([0.5, 0.5], abs=1e-4)
    representation = halving().representation
    clean = np.concatenate([np.asarray(representation.decibels(w)) for w in recordings.waveforms("test")])
    squares = []
    for seed in (0, 1):
        noisy = perturb(clean, 10, range(len(clean)), seed=seed).astype(np.float64)
        squares.append(((noisy + 80) / 2 - 80 - clean) ** 2)
    assert found[10]["fidelity_db"] == pytest.approx(np.sqrt(np.mean(squares)), rel=1e-5)
    assert found[10]["fidelity_db_low"] < found[10]["fidelity_db"] < found[10]["fidelity_db_high"]


def test_averaging_over_cells_removes_the_noise(made):
    cells = 32 * 32
    found = rows(made[0], "third")
    assert 0 < found[10]["gain"] < 3 * (1 / 3) / np.sqrt(cells)


def test_files_agree_with_the_result(made):
    result, out = made
    assert json.loads((out / "robustness.json").read_text()) == result
    with open(out / "robustness.csv", newline="") as stream:
        written = list(csv.DictReader(stream))
    for line, row in zip(written, result["rows"], strict=True):
        assert line == {k: "" if v is None else v if isinstance(v, str) else repr(v) for k, v in row.items()}


def test_page_and_sounds(made):
    _, out = made
    page = check_page((out / "report.html").read_text())
    assert len(page.all("picture")) == 2 * 3
    assert len(page.all("audio")) == 2 * (1 + 2 * (1 + 2))
    counts = {folder.name: len(list(folder.iterdir())) for folder in (out / "samples").iterdir()}
    assert counts == {"original": 2, "perturbed": 4, "reconstructed": 8}


def test_terminal_table(made):
    table = format_robustness(made[0])
    assert "gain d(f(x~), f(x)) / d(x~, x), ratio" in table
    assert "uniform noise of ±N dB" in table
    gains = table[table.index("gain") :].splitlines()
    assert next(line for line in gains if line.startswith("identity")).split()[1:] == ["–", "1.00", "1.00"]


def test_batch_size_changes_nothing(recordings, tmp_path):
    options = {
        **OPTIONS,
        "perturbations": ("uniform:5", "tilt:3", "worst-case:2"),
        "seeds": 1,
        "samples": 0,
        "steps": 3,
    }
    one = robustness([halving()], recordings, tmp_path / "a", **{**options, "batch_size": 1})
    three = robustness([halving()], recordings, tmp_path / "b", **{**options, "batch_size": 3})
    for a, b in zip(one["rows"], three["rows"], strict=True):
        assert [*map(type, a.values())] == [*map(type, b.values())]
        for key, value in a.items():
            assert b[key] == (pytest.approx(value, rel=1e-4, abs=1e-4) if isinstance(value, float) else value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"perturbations": ("uniform:0,-1,10",)}, "0 or more"),
        ({"perturbations": ("uniform:",)}, "SEVERITY"),
        ({"perturbations": ("white-noise:inf",)}, "disturbs nothing"),
        ({"perturbations": ("gain", "gain:3")}, "twice"),
        ({"perturbations": ()}, "at least one"),
        ({"perturbations": ("worst-case:-1",)}, "0 or more"),
        ({"seeds": 0}, "seeds"),
        ({"steps": 0}, "steps"),
        ({"perturbations": ("gremlins",)}, "unknown perturbation"),
    ],
)
def test_wrong_options(options, message, tmp_path):
    with pytest.raises(InputError, match=message):
        robustness([], None, tmp_path / "out", **{**OPTIONS, **options})
    assert list(tmp_path.iterdir()) == []


def test_an_existing_result_is_refused_before_any_work(tmp_path):
    (tmp_path / "robustness.json").write_text("{}")
    with pytest.raises(InputError, match="force"):
        robustness([], None, tmp_path, **OPTIONS)


def test_names_on_the_command_line():
    assert cli.PERTURBATIONS.split(", ") == list(PERTURBATIONS)


def test_the_worst_case_brings_the_corners_of_its_ball_along():
    found = {course.name: course for course in courses_of(["worst-case:1,5"])}
    assert list(found) == ["worst-case", "signs"]
    assert found["signs"].severities == found["worst-case"].severities == (1, 5)
    assert len(courses_of(["signs:3", "worst-case:1"])) == 2


def test_a_single_clip_has_figures_and_no_intervals(recordings, tmp_path):
    out = tmp_path / "out"
    result = robustness([codec()], recordings, out, perturbations=["uniform:2"], samples=0, limit=1, seeds=1, **OPTIONS)
    found = rows(result, "third")[2]
    assert found["fidelity_db"] > 0
    assert (found["fidelity_db_low"], found["fidelity_db_high"]) == (None, None)
    check_page((out / "report.html").read_text())
    with pytest.raises(InputError, match="bootstrap resamples must be at least 1; received 0"):
        robustness([codec()], recordings, tmp_path / "x", **OPTIONS | {"resamples": 0})
