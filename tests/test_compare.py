"""The comparison on a toy set, with models whose figures are known beforehand."""

import csv
import json

import keras
import numpy as np
import pytest
import soundfile
from page_check import check_page

from spectrovae.codec import Codec
from spectrovae.data import Recordings
from spectrovae.errors import InputError
from spectrovae.evaluation import compare, format_comparison, measure, systems
from spectrovae.evaluation.perturbations import perturb
from spectrovae.models import VAE
from spectrovae.representations import Chunks, LogSTFT

SAMPLES = 992  # 32 frames


def codec(scale=1.0, name="copy", info=None, **options):
    """A codec that multiplies its features by ``scale``: features are 0 at the floor and 1 at the top."""
    representation = LogSTFT(8000, n_fft=64, hop_length=32, phase_iterations=4, **options)
    shape = representation.feature_shape(SAMPLES)
    inputs, latent = keras.Input(shape), keras.Input(shape)
    encoder = keras.Model(inputs, keras.layers.Rescaling(1.0)(inputs))
    decoder = keras.Model(latent, keras.layers.Rescaling(scale)(latent))
    return Codec(representation, encoder, decoder, name=name, info=info)


@pytest.fixture(scope="module")
def recordings():
    return Recordings.open("toy:harmonic?size=60", sample_rate=8000, samples=SAMPLES)


OPTIONS = {"resamples": 200, "components": (2, 500), "batch_size": 4, "log": lambda message: None}


@pytest.fixture(scope="module")
def made(recordings, tmp_path_factory):
    out = tmp_path_factory.mktemp("compare") / "out"
    info = {"training_seconds": 61.0}
    models = [codec(), codec(0.5, "<script>half</script>", info)]
    return compare(models, recordings, out, samples=3, **OPTIONS), out


def row(result, name):
    return next(row for row in result["rows"] if row["name"] == name)


def test_figures_of_known_models(made, recordings):
    result, _ = made
    names = [row["name"] for row in result["rows"]]
    assert names == ["copy", "<script>half</script>", "identity", "PCA-2", "mean", "ceiling"]
    waveforms = np.concatenate(list(recordings.waveforms("test")))
    features = np.asarray(codec().representation(waveforms), np.float64)
    half = row(result, "<script>half</script>")
    # half of a feature is 40 dB lower at the top of the 80 dB range, and 0 dB at the floor
    assert half["rmse_db"] == pytest.approx(80 * np.sqrt(np.mean((features / 2) ** 2)), rel=1e-5)
    assert half["rmse_db_low"] < half["rmse_db"] < half["rmse_db_high"]
    assert half["lsd_db"] == pytest.approx(80 * np.sqrt(np.mean((features / 2) ** 2, axis=1)).mean(), rel=1e-5)
    assert half["rmse_active_db"] >= half["rmse_db"]
    assert row(result, "copy")["rmse_db"] == pytest.approx(0, abs=1e-4)
    assert (half["training_seconds"], half["kl_nats"]) == (61.0, None)
    assert half["clips_per_second"] > 1
    assert result["settings"]["clips"] == len(recordings.examples("test"))


def test_kl_is_measured_on_the_clips_compared(recordings, tmp_path):
    representation = codec().representation
    vae = VAE(representation.feature_shape(SAMPLES), preset="tiny")
    model = Codec(representation, vae.encoder, vae.decoder, name="vae")
    result = compare([model], recordings, tmp_path / "out", samples=0, **OPTIONS)
    moments = vae.posteriors.predict(recordings.features("test", representation), verbose=0)
    mean, log_variance = (np.asarray(m, np.float64) for (m,) in moments)
    expected = np.sum(0.5 * (mean**2 + np.exp(log_variance) - log_variance - 1), axis=1).mean()
    assert row(result, "vae")["kl_nats"] == pytest.approx(expected, rel=1e-4)
    assert row(result, "mean")["kl_nats"] is None


def test_a_model_of_samples_stands_beside_one_of_spectrograms(recordings, tmp_path):
    """Its levels are those of a spectrogram of its sound; only it has figures of the sound's phase."""
    shape = (SAMPLES, 1, 1)
    inputs, latent = keras.Input(shape), keras.Input(shape)
    encoder = keras.Model(inputs, keras.layers.Rescaling(1.0)(inputs))
    decoder = keras.Model(latent, keras.layers.Rescaling(0.5)(latent))
    half = Codec(Chunks(8000, length=SAMPLES), encoder, decoder, name="half the samples")
    result = compare([codec(), half], recordings, tmp_path / "out", samples=1, **OPTIONS)
    assert len({tuple(row) for row in result["rows"]}) == 1
    found = row(result, "half the samples")
    assert found["rmse_active_db"] == pytest.approx(20 * np.log10(2.0), abs=0.3)
    assert found["si_sdr_db"] > 40.0
    assert row(result, "copy")["si_sdr_db"] is None
    text = format_comparison(result)
    assert "Chunks" in text
    assert "–" in next(line for line in text.splitlines()[::-1] if line.startswith("copy"))


def test_mean_baseline_is_the_train_mean(made, recordings):
    result, _ = made
    representation = codec().representation
    train, test = (
        np.concatenate([np.asarray(representation(w)) for w in recordings.waveforms(split)])
        for split in ("train", "test")
    )
    expected = 80 * np.sqrt(np.mean((test - train.mean(axis=0)) ** 2))
    assert row(result, "mean")["rmse_db"] == pytest.approx(expected, rel=1e-4)
    assert 0 < row(result, "PCA-2")["rmse_db"] < expected


def test_ceiling_is_the_sound_of_the_identity(made, recordings):
    result, _ = made
    ceiling, identity, copy = (row(result, name) for name in ("ceiling", "identity", "copy"))
    representation = codec().representation
    waveforms = np.concatenate(list(recordings.waveforms("test")))
    again = representation.inverse(representation(waveforms), SAMPLES)
    before, after = (10 ** (np.asarray(representation.decibels(w), np.float64) / 20) for w in (waveforms, again))
    norms = np.sqrt(((after - before) ** 2).sum(axis=(1, 2, 3)) / (before**2).sum(axis=(1, 2, 3)))
    assert ceiling["convergence_db"] == pytest.approx(np.mean(20 * np.log10(norms)), abs=0.3)
    assert ceiling["convergence_db"] < -5
    assert ceiling["rmse_db"] is None
    assert ceiling["sound_lsd_db"] == identity["sound_lsd_db"]
    assert copy["convergence_db"] == pytest.approx(ceiling["convergence_db"], abs=0.05)
    assert row(result, "mean")["convergence_db"] > ceiling["convergence_db"]


def test_files_agree_with_the_result(made):
    result, out = made
    assert json.loads((out / "compare.json").read_text()) == result
    with open(out / "compare.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(result["rows"])
    for written, held in zip(rows, result["rows"]):
        assert list(written) == list(held)
        for key, value in held.items():
            text = "" if value is None else value if isinstance(value, str) else repr(value)
            assert written[key] == text


def test_page(made):
    result, out = made
    page = check_page((out / "report.html").read_text())
    assert len(page.all("script")) == 1
    assert "<script>half</script>" in "".join(page.words)
    orders = [cell["data-order"] for cell in page.all("td") if "data-order" in cell]
    assert repr(row(result, "PCA-2")["lsd_db"]) in orders
    assert len(page.all("audio")) == 3 * (1 + 1 + 2 + 1 + 2)


def test_sounds(made, recordings):
    _, out = made
    files = {folder.name: sorted(folder.iterdir()) for folder in (out / "samples").iterdir()}
    assert {name: len(found) for name, found in files.items()} == {
        "original": 3,
        "generated": 9,
        "modified": 9,
    }
    first = np.concatenate(list(recordings.waveforms("test")))[0]
    samples, rate = soundfile.read(files["original"][0])
    assert rate == 8000
    np.testing.assert_allclose(samples, first, atol=2**-14)
    levels = {path.name: np.std(soundfile.read(path)[0]) for path in files["generated"][:3]}
    quiet, *others = (level for _, level in sorted(levels.items(), key=lambda item: item[1]))
    assert quiet < 0.5 * min(others)  # half the features is far softer, and the files keep their level


def test_terminal_table(made):
    table = format_comparison(made[0])
    assert max(map(len, table.splitlines())) <= 120
    lower, higher = table.splitlines()[-2:]
    assert lower.endswith("KL in nats: lower is better.")
    assert "SI-SDR, PESQ, STOI and answers that are right: higher is better" in higher
    line = next(line for line in table.splitlines() if line.startswith("PCA-2"))
    assert f"{row(made[0], 'PCA-2')['rmse_db']:.2f}" in line


def test_long_names_keep_their_ends(made):
    result = json.loads(json.dumps(made[0]).replace("<script>half</script>", "vae of speech, latent 16, beta 4"))
    assert "\nvae of s...6, beta 4 " in format_comparison(result)


def test_models_of_different_representations_have_their_own_baselines(recordings, tmp_path):
    models = [codec(0.9, "a"), codec(0.9, "a", dynamic_range=60.0), codec(0.8, "b")]
    result = compare(models, recordings, tmp_path / "out", samples=1, limit=2, **OPTIONS)
    assert [(row["name"], row["kind"]) for row in result["rows"]] == [
        ("a", "model"), ("b", "model"), ("identity", "baseline"), ("PCA-2", "baseline"), ("mean", "baseline"),
        ("ceiling", "ceiling"), ("a (2)", "model"), ("identity", "baseline"), ("PCA-2", "baseline"),
        ("mean", "baseline"), ("ceiling", "ceiling"),
    ]  # fmt: skip
    means = [row["rmse_db"] for row in result["rows"] if row["name"] == "mean"]
    assert means[1] < means[0]
    assert len(list((tmp_path / "out" / "samples" / "generated").iterdir())) == 3 + 2


def test_per_example_scaling_is_undone_with_the_clips_own_range(recordings, tmp_path):
    result = compare(
        [codec(1.0, "copy", normalisation="per_example")],
        recordings,
        tmp_path / "out",
        samples=0,
        limit=2,
        **OPTIONS,
    )
    assert row(result, "copy")["rmse_db"] == pytest.approx(0, abs=1e-3)
    assert not (tmp_path / "out" / "samples").exists()


def test_what_cannot_be_compared(recordings, tmp_path):
    with pytest.raises(InputError, match="at least one model"):
        compare([], recordings, tmp_path / "a", **OPTIONS)
    with pytest.raises(InputError, match="at least 1"):
        compare([codec()], recordings, tmp_path / "a", limit=0, **OPTIONS)
    short = Recordings.open("toy:harmonic?size=60", sample_rate=8000, samples=500)
    with pytest.raises(InputError, match="992 samples"):
        compare([codec()], short, tmp_path / "a", **OPTIONS)
    fast = Recordings.open("toy:harmonic?size=60", sample_rate=16000, samples=SAMPLES)
    with pytest.raises(InputError, match="8000 Hz"):
        compare([codec()], fast, tmp_path / "a", **OPTIONS)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_result_is_refused_before_any_work(tmp_path):
    (tmp_path / "compare.json").write_text("{}")
    with pytest.raises(InputError, match="force"):
        compare([], None, tmp_path, **OPTIONS)


def test_perturbation_depends_on_clip_and_seed_alone():
    db = np.random.default_rng(0).uniform(-80, 0, (3, 40, 50, 1)).astype(np.float32)
    noisy = perturb(db, 10.0, [4, 5, 6], seed=1)
    np.testing.assert_array_equal(noisy[1:2], perturb(db[1:2], 10.0, [5], seed=1))
    np.testing.assert_allclose((noisy - db) / 2, perturb(db, 5.0, [4, 5, 6], seed=1) - db, atol=2e-5)
    noise = noisy - db
    assert np.abs(noise).max() <= 10.001
    assert np.std(noise) == pytest.approx(10 / np.sqrt(3), rel=0.02)
    assert abs(noise.mean()) < 0.25
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.1
    assert noisy.min() < -80  # not clipped
    with pytest.raises(InputError, match="unknown perturbation"):
        perturb(db, 1.0, [0, 1, 2], name="gremlins")
    with pytest.raises(InputError, match="0 or more"):
        perturb(db, -1.0, [0, 1, 2])


def test_a_model_that_is_not_finite_on_a_clip_has_no_figures(recordings):
    """Means over its other clips would flatter it."""
    codecs = [codec(0.5), codec(0.5, "broken")]
    groups = systems.gather(codecs, recordings, (2,), seed=0, log=lambda _: None)
    model = next(system for system in groups[0].systems if system.name == "broken")
    inside, seen = model.reconstructor.reconstruct_features, []

    def spoilt(features):
        output = np.array(inside(features))
        if not seen:
            output[0, 0, 0] = np.nan
        seen.append(len(features))
        return output

    model.reconstructor.reconstruct_features = spoilt
    logged: list[str] = []
    measured = measure.measure(groups[0], recordings, "test", [0, 1, 2, 3], 2, {}, logged.append)
    rows = measure.figures(measured, speakers=None, resamples=20, seed=0)
    assert rows["broken"]["not_finite"] == 1
    assert {value for name, value in rows["broken"].items() if name != "not_finite"} == {None}
    assert rows["copy"]["rmse_db"] > 0
    assert rows["copy"]["not_finite"] == 0
    assert any("broken has no figures: 1 clip" in message for message in logged)


def test_speed_is_measured_on_as_many_clips_however_many_there_are():
    sizes = []

    class Counting:
        def reconstruct_features(self, features):
            sizes.append(len(features))
            return features

    class Affine:
        def from_db(self, db):
            return db

    system = systems.System("it", "model", Counting(), Affine(), 0, {})
    for clips in (1, 5, 100):
        assert system.clips_per_second(np.zeros((clips, 4, 4, 1), np.float32), seconds=0.0) > 0
    assert set(sizes) == {systems.SPEED_CLIPS}


def test_chosen_clips_come_in_full_batches(recordings):
    chosen = [0, 2, 3, 5]
    found = list(systems.batches(recordings, "test", chosen, 3))
    assert [indices for indices, _ in found] == [[0, 2, 3], [5]]
    waveforms = np.concatenate(list(recordings.waveforms("test")))
    np.testing.assert_array_equal(np.concatenate([batch for _, batch in found]), waveforms[chosen])
