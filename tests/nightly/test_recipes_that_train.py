"""Every recipe in scripts/ that trains runs as it stands."""

from conftest import ROOT
from test_recipes import TOY, run

assert run  # a fixture


def test_every_recipe_that_trains(run, tones, tmp_path):
    assert "drawn from its prior" in run("fit_hierarchical_vae.py", TOY, tmp_path / "hierarchy", "--epochs", 1)
    assert (tmp_path / "hierarchy" / "groups-1.wav").is_file()
    assert "PCA-8" in run("fit_autoencoder.py", TOY, tmp_path / "autoencoder", "--epochs", 1, "--latent-dim", 8)
    assert "bottleneck" in run("fit_unet.py", TOY, tmp_path / "unet", "--epochs", 1)
    assert "of 1024 bits" in run("fit_vq_vae.py", TOY, tmp_path / "vq-vae", "--epochs", 1)
    assert "test clips" in run("fit_judge.py", "label", tones, tmp_path / "judge", "--epochs", 1)
    voices = run("fit_converter.py", tones, tmp_path / "voices", "--epochs", 1, "--preset", "tiny")
    assert "reed.wav" in voices
    assert {path.name for path in (tmp_path / "voices" / "voices").iterdir()} == {"flute.wav", "reed.wav"}
    drawn = run("fit_waveform_vae.py", TOY, tmp_path / "waveform-vae", "--epochs", 1, "--preset", "tiny")
    assert "validation_distance" in drawn
    assert (tmp_path / "waveform-vae" / "drawn-2.wav").is_file()
    live = run("fit_rave.py", TOY, tmp_path / "rave", "--epochs", 2, "--adversarial-from", 1, "--preset", "tiny")
    assert "samples late" in live
    assert (tmp_path / "rave" / "live.wav").is_file()
    recipes = {path.name for path in (ROOT / "scripts").glob("*.py")}
    models = ("autoencoder", "vae", "hierarchical_vae", "vq_vae", "unet", "judge", "converter", "waveform_vae", "rave")
    fits = {f"fit_{name}.py" for name in models}
    assert recipes == fits | {"compare.py", "evaluate_robustness.py", "export.py"}
