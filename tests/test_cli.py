"""The command line as a new user meets it: what works, and one clear line and exit code 2 where it does not."""

import json

import numpy as np
import pytest
import soundfile

from spectrovae import audio
from spectrovae.cli import main

TOY = "toy:harmonic?size=40"
FIT = ["--preset", "tiny", "--epochs", "1", "--precision", "float32"]


@pytest.fixture(scope="module")
def bundles(trained):
    """A VAE and a U-Net of the command line's making, at 8 kHz."""
    return {family: trained(family) for family in ("vae", "unet")}


@pytest.fixture
def sounds(tmp_path):
    """A folder with every kind of file a user has."""
    folder = tmp_path / "sounds"
    folder.mkdir()
    time = np.arange(44100) / 44100
    tone = 0.5 * np.sin(2 * np.pi * 440 * time)
    soundfile.write(folder / "stereo.wav", np.stack([tone, tone], axis=1), 44100, subtype="PCM_16")
    soundfile.write(folder / "pcm24.wav", tone[:8000], 8000, subtype="PCM_24")
    soundfile.write(folder / "float.wav", tone[:8000], 8000, subtype="FLOAT")
    soundfile.write(folder / "silence.wav", np.zeros(8000), 8000, subtype="PCM_16")
    soundfile.write(folder / "one.wav", tone[100:101], 8000, subtype="PCM_16")
    soundfile.write(folder / "long.flac", np.tile(tone, 3), 44100)
    soundfile.write(folder / "nan.wav", np.where(time < 0.5, tone, np.nan), 44100, subtype="FLOAT")
    (folder / "text.wav").write_text("this is no sound")
    (folder / "empty.wav").touch()
    whole = (folder / "stereo.wav").read_bytes()
    (folder / "truncated.wav").write_bytes(whole[: len(whole) // 2])
    return folder


GOOD = ("stereo.wav", "pcm24.wav", "float.wav", "silence.wav", "one.wav", "long.flac")
BAD = ("nan.wav", "text.wav", "empty.wav", "truncated.wav", "absent.wav", ".")


def refused(capsys, *arguments, says=""):
    """The command exits with 2 and one line that says what is wrong."""
    capsys.readouterr()
    assert main([str(part) for part in arguments]) == 2
    printed = capsys.readouterr()
    lines = [line for line in printed.err.splitlines() if line.startswith("spectrovae: error:")]
    assert len(lines) == 1
    assert "Traceback" not in printed.err
    assert says in lines[0]
    assert not printed.out
    return lines[0]


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("family", ["vae", "unet"])
def test_any_sound_goes_through_a_model(family, name, sounds, bundles, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["reconstruct", str(bundles[family]), str(sounds / name), "--out", str(out), "--json"]) == 0
    (written,) = json.loads(capsys.readouterr().out)["files"]
    before, after = audio.info(sounds / name), audio.info(written)
    assert after.sample_rate == 8000
    assert after.channels == 1
    assert after.samples == pytest.approx(before.duration * 8000, abs=1)
    waveform, _ = audio.read(written)
    assert np.isfinite(waveform).all()


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_in_one_line(name, sounds, bundles, tmp_path, capsys):
    line = refused(capsys, "reconstruct", bundles["vae"], sounds / name, "--out", tmp_path / "out")
    assert name.rstrip(".") in line
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True


def test_scan_accounts_for_every_file(sounds, tmp_path, capsys):
    manifest = tmp_path / "manifest.jsonl"
    assert main(["data", "scan", str(sounds), "--out", str(manifest), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["accepted"] == len(GOOD)
    assert set(result["reasons"]) == {"nan.wav", "text.wav", "empty.wav", "truncated.wav"}
    assert all(result["reasons"].values())
    assert sum(result["splits"].values()) == len(GOOD)
    assert manifest.is_file()
    assert main(["data", "scan", str(sounds)]) == 0
    assert "rejected  text.wav" in capsys.readouterr().out


def test_a_mixed_folder_trains(sounds, tmp_path, capsys):
    """Stereo, 44.1 kHz, 24 bit, float, silent, one sample, bad ones beside them."""
    for index in range(8):
        tone = 0.3 * np.sin(2 * np.pi * (200 + 50 * index) * np.arange(8000) / 8000)
        soundfile.write(sounds / f"tone{index}.wav", tone, 8000)
    out = tmp_path / "model"
    arguments = ["--data", str(sounds), "--sample-rate", "8000", "--long", "chunk", "--overlap", "0.25"]
    assert main(["fit", "unet", *arguments, "--out", str(out), *FIT]) == 0
    assert main(["verify", str(out)]) == 0
    opened = json.loads((out / "run" / "config.json").read_text())["data"]["open"]
    assert (opened["long"], opened["overlap"]) == ("chunk", 0.25)
    assert json.loads((out / "codec.json").read_text())["info"]["labels"] == []


def test_a_hierarchy_by_its_options(tmp_path, capsys):
    out = tmp_path / "model"
    own = ["--groups", "2", "--latent-dim", "3", "--free-bits", "0.1", "--no-balancing"]
    assert main(["fit", "hierarchical-vae", "--data", TOY, "--out", str(out), *FIT, *own]) == 0
    model = json.loads((out / "run" / "config.json").read_text())["model"]
    found = [model[name] for name in ("groups", "latent_dim", "free_bits", "balancing", "warmup_steps")]
    assert found == [2, 3, 0.1, False, 3]  # a step is an epoch here
    assert main(["verify", str(out)]) == 0
    assert main(["generate", str(out), "-n", "2", "--out", str(tmp_path / "drawn")]) == 0
    refused(capsys, "fit", "vae", "--data", TOY, "--groups", 2, "--out", tmp_path / "vae", says="--groups")


def test_the_options_of_a_model_reach_it(tmp_path):
    def model(family, *arguments):
        out = tmp_path / f"{family}{len(arguments)}"
        assert main(["fit", family, "--data", TOY, "--out", str(out), *FIT, *arguments]) == 0
        return json.loads((out / "run" / "config.json").read_text())["model"]

    found = model("autoencoder", "--network", "dense", "--hidden", "12", "--latent-dim", "3", "--time-stretch", "0.1")
    assert [found[name] for name in ("network", "hidden", "latent_dim", "time_stretch")] == ["dense", 12, 3, 0.1]
    assert (found["linear"], found["latent_norm"]) == ("principal", False)
    likelihood = ("--likelihood", "fixed_sigma", "--sigma", "0.2", "--head", "pool", "--latent-norm")
    found = model("vae", *likelihood, "--warmup", "log", "--warmup-epochs", "2", "--free-bits", "0.1")
    names = ("likelihood", "sigma", "head", "latent_norm", "warmup", "warmup_steps", "free_bits")
    assert [found[name] for name in names] == ["fixed_sigma", 0.2, "pool", True, "log", 2, 0.1]


def test_wrong_paths_and_folders(bundles, tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    out = tmp_path / "out"
    refused(capsys, "fit", "vae", "--data", tmp_path / "absent", "--out", out, says="does not exist")
    refused(capsys, "fit", "vae", "--data", empty, "--out", out, says="empty")
    (empty / "a.wav").write_text("no sound")
    refused(capsys, "fit", "vae", "--data", empty, "--out", out, says="a.wav")
    refused(capsys, "fit", "vae", "--data", "toy:absent", "--out", out, says="harmonic")
    refused(capsys, "fit", "vae", "--out", out, says="--data")
    refused(capsys, "fit", "--config", tmp_path / "absent.json", "--out", out, says="absent.json")
    refused(capsys, "fit", "unet", "--data", TOY, "--latent-dim", 4, "--out", out, says="--latent-dim")
    refused(capsys, "fit", "autoencoder", "--data", TOY, "--beta", 2, "--out", out, says="--beta is no option of")
    refused(capsys, "fit", "unet", "--data", TOY, "--warmup-epochs", 2, "--out", out, says="--warmup-epochs")
    for command in (["verify"], ["export"], ["reconstruct"], ["compare"]):
        tail = {"verify": [], "export": [out]}.get(command[0], ["x.wav", "--out", out])
        if command == ["compare"]:
            tail = ["--data", TOY, "--out", out]
        refused(capsys, *command, empty, *tail, says="no model bundle")
    assert not out.exists()


def test_unwritable_and_existing_output(sounds, bundles, tmp_path, capsys):
    below_a_file = sounds / "text.wav" / "out"
    vae, good = bundles["vae"], sounds / "pcm24.wav"
    refused(capsys, "fit", "vae", "--data", TOY, "--out", below_a_file, *FIT, says="cannot write")
    refused(capsys, "reconstruct", vae, good, "--out", below_a_file, says="cannot write")
    refused(capsys, "generate", vae, "-n", 1, "--out", below_a_file, says="cannot write")
    refused(capsys, "data", "scan", sounds, "--out", below_a_file, says="cannot write")
    refused(capsys, "compare", vae, "--data", TOY, "--out", below_a_file)
    refused(capsys, "export", vae, below_a_file)

    out = tmp_path / "out"
    assert main(["reconstruct", str(vae), str(good), "--out", str(out)]) == 0
    before = (out / "pcm24.wav").read_bytes()
    refused(capsys, "reconstruct", vae, good, "--out", out, says="--force")
    assert main(["reconstruct", str(bundles["unet"]), str(good), "--out", str(out), "--force"]) == 0
    assert (out / "pcm24.wav").read_bytes() != before
    refused(capsys, "fit", "vae", "--data", TOY, "--out", vae, *FIT, says="--force")


def test_damaged_bundles(bundles, sounds, tmp_path, capsys):
    import shutil

    for name, damage, says in (
        ("cut", lambda path: (path / "encoder.keras").write_bytes(b"PK"), "damaged"),
        ("gone", lambda path: (path / "decoder.keras").unlink(), "lacks decoder.keras"),
        ("json", lambda path: (path / "codec.json").write_text("{"), "damaged"),
    ):
        copy = tmp_path / name
        shutil.copytree(bundles["vae"], copy)
        damage(copy)
        refused(capsys, "verify", copy, says=says)


def test_generate_and_interpolate(bundles, sounds, tmp_path, capsys):
    vae, unet = bundles["vae"], bundles["unet"]
    assert main(["generate", str(vae), "-n", "3", "--out", str(tmp_path / "new"), "--json"]) == 0
    files = json.loads(capsys.readouterr().out)["files"]
    first = [audio.read(file)[0] for file in files]
    assert len(first) == 3
    assert not np.array_equal(first[0], first[1])
    assert main(["generate", str(vae), "-n", "3", "--out", str(tmp_path / "new"), "--force"]) == 0
    np.testing.assert_array_equal(first[0], audio.read(files[0])[0])
    refused(capsys, "generate", unet, "--out", tmp_path / "none", says="cannot generate")
    pair = [str(sounds / "pcm24.wav"), str(sounds / "silence.wav")]
    assert main(["interpolate", str(unet), *pair, "-n", "3", "--out", str(tmp_path / "between")]) == 0
    assert len(list((tmp_path / "between").glob("*.wav"))) == 3


def test_compare_robustness_and_export(bundles, tmp_path, capsys):
    models = [str(bundles["vae"]), str(bundles["unet"])]
    out = tmp_path / "compare"
    arguments = ["compare", *models, "--data", TOY, "--limit", "4", "--samples", "1", "--out", str(out)]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert str(out / "report.html") in text
    for name in ("vae", "unet", "mean", "identity", "ceiling"):
        assert name in text
    assert (out / "report.html").is_file()
    refused(capsys, *arguments, says="--force")
    arguments = [
        "robustness",
        *models,
        "--data",
        TOY,
        "--limit",
        "4",
        "--perturbation",
        "uniform:0,10",
        "gain",
        "--seeds",
        "1",
    ]
    assert main([*arguments, "--out", str(tmp_path / "robustness"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"]
    assert main(["export", models[0], str(tmp_path / "served"), "--name", "toy"]) == 0
    assert (tmp_path / "served" / "toy" / "1" / "saved_model.pb").is_file()
    refused(capsys, "export", models[0], tmp_path / "served", "--name", "toy", "--version", 1, says="--force")


def test_doctor(capsys):
    assert main(["doctor", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert "soundfile" in result["decoders"]
    assert result["packages"]["keras"]
    assert result["warnings"] == []


@pytest.mark.parametrize(
    ("version", "safe"),
    [("3.8.0", False), ("3.12.3", False), ("3.12.4", True), ("3.13.0", False), ("3.14.1", True), ("4.0.0", True)],
)
def test_doctor_warns_of_a_keras_with_known_holes(monkeypatch, capsys, version, safe):
    import importlib.metadata

    original = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version if name == "keras" else original(name))
    assert main(["doctor"]) == 0
    assert ("known holes" in capsys.readouterr().out) == (not safe)


def test_wrong_use_exits_with_2(capsys):
    for arguments in ([], ["fit", "gan"], ["generate", "x", "-n", "0", "--out", "y"], ["levitate"]):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2
