"""transform and invert, through the command line: files, figures against naive ones, sounds, refusals."""

import json

import librosa
import numpy as np
import pytest
import soundfile
from PIL import Image

from spectrovae import audio, representations
from spectrovae.cli import main
from spectrovae.evaluation import ceiling


@pytest.fixture
def digit(fsdd_folder):
    return fsdd_folder / "3_theo_7.wav"


@pytest.fixture
def stereo(tmp_path):
    """A second and a half of two channels at 44.1 kHz."""
    time = np.arange(66150) / 44100
    channels = np.stack([0.5 * np.sin(2 * np.pi * 440 * time), 0.3 * np.sin(2 * np.pi * 1000 * time)], axis=1)
    soundfile.write(tmp_path / "stereo.wav", channels, 44100)
    return tmp_path / "stereo.wav"


def run(capsys, *arguments):
    """What the command prints as JSON."""
    capsys.readouterr()
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys, *arguments):
    """The one line with which the command exits with 2."""
    capsys.readouterr()
    assert main([*map(str, arguments)]) == 2
    printed = capsys.readouterr()
    assert not printed.out
    (line,) = [line for line in printed.err.splitlines() if line.startswith("spectrovae: error:")]
    return line


def noise(reference, estimate):
    """Signal to noise in dB."""
    return 10 * np.log10(np.square(reference).sum() / np.square(reference - estimate).sum())


@pytest.mark.parametrize(
    ("representation", "bins", "options"),
    [
        ("log-stft", 256, ["--n-fft", "512", "--hop-length", "128"]),
        ("log-stft", 256, ["--normalisation", "per_bin"]),
        ("magnitude-phase", 256, ["--dynamic-range", "120"]),
        ("magnitude-phase", 256, ["--phase", "instantaneous_frequency", "--normalisation", "per_example"]),
        ("mdct", 128, []),
        ("mdct", 128, ["--normalisation", "per_example"]),
    ],
)
def test_a_sound_is_transformed_measured_and_inverted(representation, bins, options, digit, tmp_path, capsys):
    out = tmp_path / "out"
    found = run(capsys, "transform", digit, "--representation", representation, "--out", out, *options)
    names = {"features.npy", "representation.keras", "spectrogram.png", "reconstruction.wav", "ceiling.json"}
    assert {path.name for path in out.iterdir()} == names

    waveform, rate = soundfile.read(digit, dtype="float32")
    features = np.load(out / "features.npy")
    assert list(features.shape) == found["feature_shape"]
    assert features.shape[0] == bins
    again, again_rate = soundfile.read(out / "reconstruction.wav", dtype="float32")
    assert (again.shape, again_rate) == (waveform.shape, rate)
    again = again * max(1.0, found["peak"])
    assert found["peak"] == pytest.approx(np.abs(again).max(), abs=1e-4)

    if representation == "log-stft":
        # Sixteen bits are coarse beside what is 60 dB below the peak: the sound before them.
        exact = representations.load(out / "representation.keras").inverse(features[None], len(waveform)).numpy()[0]
        np.testing.assert_allclose(again, exact, atol=1e-4)
        before, after = (np.abs(librosa.stft(x, n_fft=512, hop_length=128))[:-1] for x in (waveform, exact))
        floor = before.max() * 1e-4
        before, after = (np.clip(x, floor, before.max()) for x in (before, after))
        convergence = 20 * np.log10(np.linalg.norm(after - before) / np.linalg.norm(before))
        assert found["spectral_convergence_db"] == pytest.approx(convergence, abs=0.05)
        distance = np.sqrt(np.mean((20 * np.log10(after / before)) ** 2, axis=0)).mean()
        assert found["log_spectral_distance_db"] == pytest.approx(distance, abs=0.01)
        assert convergence < -15
    else:
        # Sixteen bits are coarser than the inverse, so its own figure may only be better.
        assert found["snr_db"] > noise(waveform, again) - 0.1
        assert noise(waveform, again) > 30

    file = tmp_path / "again.wav"
    assert run(capsys, "invert", out / "features.npy", "--out", file)["file"] == str(file)
    np.testing.assert_allclose(soundfile.read(file)[0] * max(1.0, found["peak"]), again, atol=2 / 32768)


def test_the_signal_to_noise_is_that_of_the_samples(tmp_path, speech):
    from spectrovae.representations import MDCT

    estimate = speech[0] + 0.01 * np.random.default_rng(0).standard_normal(8064).astype(np.float32)
    found = ceiling.measure(MDCT(8000), lambda: np.split(speech[0], [100, 5000]), lambda: np.split(estimate, [4000]))
    assert found["snr_db"] == pytest.approx(noise(speech[0], estimate), abs=1e-3)


def test_a_long_sound_goes_block_by_block(tmp_path, capsys, monkeypatch):
    """Blocks of 100 frames and a picture of 40 columns give what one block and all the frames give."""
    time = np.arange(40000) / 8000
    sweep = 0.5 * np.sin(2 * np.pi * (200 * time + 200 * time**2))
    soundfile.write(tmp_path / "sweep.flac", sweep, 8000)
    arguments = ["transform", tmp_path / "sweep.flac", "--representation", "mdct", "--out"]
    whole = run(capsys, *arguments, tmp_path / "whole")
    for name in ("forward", "inverse"):
        original = getattr(ceiling.blocks, name)
        monkeypatch.setattr(
            ceiling.blocks, name, lambda *a, original=original, **options: original(*a, **options, block_frames=100)
        )
    monkeypatch.setattr(ceiling, "PICTURE_FRAMES", 40)
    drawn = []
    monkeypatch.setattr(
        ceiling.plots,
        "spectrogram_figure",
        lambda levels, figure=ceiling.plots.spectrogram_figure, **options: (
            drawn.append(levels) or figure(levels, **options)
        ),
    )
    pieces = run(capsys, *arguments, tmp_path / "pieces")
    features = np.load(tmp_path / "whole" / "features.npy")
    np.testing.assert_allclose(np.load(tmp_path / "pieces" / "features.npy"), features, atol=1e-5)
    assert pieces["snr_db"] == pytest.approx(whole["snr_db"], abs=0.5)
    sounds = [soundfile.read(tmp_path / name / "reconstruction.wav")[0] for name in ("whole", "pieces")]
    np.testing.assert_allclose(*sounds, atol=2 / 32768)

    (levels,) = drawn
    db = representations.load(tmp_path / "whole" / "representation.keras").to_db(features[None])[0, ..., 0].numpy()
    expected = [db[:, start : start + 8].max(axis=1) for start in range(0, db.shape[1], 8)]  # 314 frames, 40 columns
    np.testing.assert_allclose(levels, np.stack(expected, axis=1), atol=1e-2)


def test_two_channels_at_another_rate(stereo, tmp_path, capsys):
    out = tmp_path / "out"
    found = run(capsys, "transform", stereo, "--representation", "magnitude-phase", "--sample-rate", 8000, "--out", out)
    expected, _ = audio.read(stereo, 8000)
    again, rate = soundfile.read(out / "reconstruction.wav", dtype="float32")
    assert (rate, len(again)) == (8000, 12000)
    assert noise(expected, again) > 40
    assert found["snr_db"] > 40
    with Image.open(out / "spectrogram.png") as picture:
        assert picture.width > 1000


@pytest.mark.parametrize("rate", [8000, 44100, 48000])
def test_a_streamed_file_is_the_file(rate, stereo):
    expected, _ = audio.read(stereo, rate)
    np.testing.assert_allclose(np.concatenate(list(audio.stream(stereo, rate))), expected, atol=1e-5)


def test_an_earlier_result_is_replaced_only_by_force(digit, stereo, tmp_path, capsys):
    out, file = tmp_path / "out", tmp_path / "again.wav"
    arguments = ["transform", digit, "--representation", "mdct", "--out", out]
    run(capsys, *arguments)
    before = (out / "features.npy").read_bytes()
    assert "--force" in refused(capsys, "transform", stereo, *arguments[2:])
    assert (out / "features.npy").read_bytes() == before
    run(capsys, "transform", stereo, *arguments[2:], "--force")
    assert (out / "features.npy").read_bytes() != before
    run(capsys, "invert", out / "features.npy", "--out", file)
    assert "--force" in refused(capsys, "invert", out / "features.npy", "--out", file)
    run(capsys, "invert", out / "features.npy", "--out", file, "--force")


def test_wrong_options_and_files_are_refused(digit, tmp_path, capsys):
    out = tmp_path / "out"
    assert "mdct" in refused(capsys, "transform", digit, "--representation", "absent", "--out", out)
    line = refused(capsys, "transform", digit, "--representation", "mdct", "--n-fft", 512, "--out", out)
    assert "--n-fft is no option of mdct" in line
    assert "does not exist" in refused(capsys, "transform", tmp_path / "absent.wav", "--out", out)
    soundfile.write(tmp_path / "silence.wav", np.zeros(8000), 8000)
    assert "silent" in refused(capsys, "transform", tmp_path / "silence.wav", "--out", out)
    samples = np.full(8000, 0.1)
    samples[7000] = np.nan
    soundfile.write(tmp_path / "nan.wav", samples, 8000, subtype="FLOAT")
    assert "NaN" in refused(capsys, "transform", tmp_path / "nan.wav", "--max-db", 0, "--out", out)
    assert not out.exists()

    run(capsys, "transform", digit, "--representation", "mdct", "--out", out)
    again = tmp_path / "again.wav"
    assert "name must end" in refused(capsys, "invert", out / "features.npy", "--out", tmp_path / "again.txt")
    assert "not features.npy" in refused(capsys, "invert", tmp_path / "absent.npy", "--out", again)
    assert "not features.npy" in refused(capsys, "invert", digit, "--out", again)
    features = np.load(out / "features.npy")
    np.save(out / "features.npy", features[:, 1:])
    assert "expected (128," in refused(capsys, "invert", out / "features.npy", "--out", again)
    for kind in (np.float64, np.complex64, "U4"):
        np.save(out / "features.npy", features.astype(kind))
        assert "expected float32" in refused(capsys, "invert", out / "features.npy", "--out", again)
    np.save(out / "features.npy", np.where(features == features.max(), np.nan, features))
    assert "NaN or infinite" in refused(capsys, "invert", out / "features.npy", "--out", again)
    np.save(out / "features.npy", features)
    figures = json.loads((out / "ceiling.json").read_text())
    for name, value in (("statistics", "x"), ("statistics", [1, 2, 3]), ("statistics", [[0, 1]]), ("samples", "1e999"),
                        ("samples", float("inf"))):  # fmt: skip
        (out / "ceiling.json").write_text(json.dumps(figures | {name: value}))
        line = refused(capsys, "invert", out / "features.npy", "--out", again)
        assert "not features.npy" in line or "not those of" in line
    (out / "ceiling.json").write_text("[]")
    assert "not features.npy" in refused(capsys, "invert", out / "features.npy", "--out", again)
    (out / "ceiling.json").unlink()
    assert "not features.npy" in refused(capsys, "invert", out / "features.npy", "--out", again)
    assert not again.exists()
