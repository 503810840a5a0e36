"""A judge of pitches, trained on a handful of tones: accuracy, the folder, what is refused."""

import json
import shutil

import keras
import numpy as np
import pytest
from interrupts import interrupted
from tones import SAMPLES

from spectrovae.cli import main
from spectrovae.data import Recordings
from spectrovae.data.sources import Example
from spectrovae.errors import InputError
from spectrovae.evaluation.judges import Judge, build_network
from spectrovae.evaluation.mmd import squared_mmd
from spectrovae.representations import LogMel
from spectrovae.training import fit_judge


@pytest.fixture(scope="module")
def folder(tones):
    return tones


@pytest.fixture(scope="module")
def recordings(folder):
    return Recordings.open(folder, samples=SAMPLES)


@pytest.fixture(scope="module")
def bundle(trained_judge):
    return trained_judge


def heard(judge, recordings, split="test"):
    waveforms = np.concatenate([np.asarray(batch) for batch in recordings.waveforms(split)])
    return waveforms, *judge.hear(waveforms, recordings.sample_rate)


def test_it_tells_the_pitches(bundle, recordings):
    judge = Judge.load(bundle)
    _, answers, hidden = heard(judge, recordings)
    truth = judge.truth(recordings.examples("test"))
    assert judge.labels == ["0", "1", "2"]
    assert judge.name == "pitches"
    assert [judge.labels[place] for place in truth] == [example.label for example in recordings.examples("test")]
    assert np.mean(answers == truth) > 0.9
    assert judge.info["accuracy"]["test"] == pytest.approx(np.mean(answers == truth))
    assert hidden.shape == (len(truth), 64)
    _, _, training = heard(judge, recordings, "train")
    assert 0.3 < training.std() < 3.0


def test_it_hears_the_same_at_another_rate_and_length(bundle, recordings):
    judge = Judge.load(bundle)
    waveforms, answers, _ = heard(judge, recordings)
    faster = np.repeat(waveforms, 2, axis=1)  # crude, and enough for tones far below the images
    np.testing.assert_array_equal(judge.hear(faster, 16000)[0], answers)
    np.testing.assert_array_equal(judge.hear(np.pad(waveforms, ((0, 0), (0, 999))), 8000)[0], answers)


def test_mmd_of_what_it_hears_grows_with_the_damage(bundle, recordings):
    judge = Judge.load(bundle)
    waveforms, _, clean = heard(judge, recordings)
    random = np.random.default_rng(0)
    slight, heavy = (
        judge.hear(waveforms + level * random.standard_normal(waveforms.shape), 8000)[1] for level in (0.005, 1.0)
    )
    found = [squared_mmd(clean, other, resamples=10).value for other in (slight, heavy)]
    assert found[0] < 0.1 * found[1]


def test_the_folder_is_whole_or_refused(bundle, recordings, tmp_path):
    assert {path.name for path in bundle.iterdir()} == {"judge.json", "network.keras", "representation.keras"}
    with pytest.raises(InputError, match="force"):
        fit_judge("label", recordings, bundle)
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    with open(copy / "network.keras", "r+b") as file:
        file.seek(1000)
        file.write(b"damage")
    with pytest.raises(InputError, match="network.keras"):
        Judge.load(copy)
    kept = json.loads((bundle / "judge.json").read_text())
    for changed, said in (({"format_version": 99}, "upgrade"), ({"labels": None}, "damaged")):
        (copy / "judge.json").write_text(json.dumps(kept | changed))
        with pytest.raises(InputError, match=said):
            Judge.load(copy)
    with pytest.raises(InputError, match="fit-judge"):
        Judge.load(tmp_path)


def test_recordings_without_names_make_no_judge(recordings, tmp_path):
    toy = Recordings.open("toy:harmonic?size=60", samples=SAMPLES)
    with pytest.raises(InputError, match="speaker"):
        fit_judge("speaker", toy, tmp_path / "out")
    with pytest.raises(InputError, match="label or speaker"):
        fit_judge("mood", recordings, tmp_path / "out")
    representation = LogMel(8000, n_fft=256, n_mels=40)
    network = build_network(representation.feature_shape(SAMPLES), 3)
    with pytest.raises(InputError, match="2 labels"):
        Judge(representation, network, target="label", labels=["a", "b"], samples=SAMPLES)
    with pytest.raises(InputError, match="samples give"):
        Judge(representation, network, target="label", labels=["a", "b", "c"], samples=2 * SAMPLES)


def test_the_network_trains_on_any_backend():
    """Keras's own layers alone: nothing registered has to be imported to load it."""
    network = build_network((40, 32, 1), 3)
    assert {type(layer).__module__.split(".")[0] for layer in network.layers} == {"keras"}
    assert keras.Model.from_config(network.get_config()).count_params() == network.count_params()


def test_the_command(folder, tmp_path, capsys):
    out = tmp_path / "speakers"
    command = ["fit-judge", "speaker", "--data", str(folder), "--out", str(out), "--epochs", "1"]
    assert main(command) == 0
    assert Judge.load(out).labels == ["flute", "reed"]
    assert main(command) == 2
    assert "--force" in capsys.readouterr().err


def test_an_interrupted_judge_continues_exactly(recordings, tmp_path, monkeypatch):
    def fit(name):
        return fit_judge("speaker", recordings, tmp_path / name, epochs=2, batch_size=32)

    with monkeypatch.context() as patch:
        interrupted(patch, epoch=1)
        with pytest.raises(KeyboardInterrupt):
            fit("parts")
    assert (tmp_path / "parts.run" / "state.npz").is_file()
    parts, full = fit("parts"), fit("full")
    assert {path.name for path in tmp_path.iterdir()} == {"parts", "full"}
    for a, b in zip(parts.network.get_weights(), full.network.get_weights()):
        np.testing.assert_array_equal(a, b)
    assert parts.info["accuracy"] == full.info["accuracy"]


def test_a_clip_without_a_label_is_of_no_class():
    judge = Judge.__new__(Judge)
    judge.target, judge.labels = "label", ["None", "a"]
    examples = [Example("x.wav", label, None, None) for label in (None, "None", "a", "b")]
    assert judge.truth(examples).tolist() == [-1, 0, 1, -1]
