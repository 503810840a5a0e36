"""Recordings as people have them, through the whole way: scan, fit, compare and export give sound or one clear line.

The recordings come from scripts that take a folder, in the folder that ``SPECTROVAE_CASES`` names, by default ``cases``
beside ``SPECTROVAE_DATA``.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from spectrovae import cli

HELPERS = ("wavlib", "two_fits")  # no generators of recordings
SEVERAL = ("layouts", "more_wav", "names", "odd_places", "failed_then_mended")  # a folder of recordings each


def cases() -> Path | None:
    folder = os.environ.get("SPECTROVAE_CASES")
    beside = Path(os.environ.get("SPECTROVAE_DATA", "")).parent / "cases"
    return Path(folder) if folder else beside if "SPECTROVAE_DATA" in os.environ and beside.is_dir() else None


SCRIPTS = sorted(path for path in cases().glob("*.py") if path.stem not in HELPERS) if cases() else []


def command(capsys, *arguments) -> int:
    """Exit code of a command; an error is one line."""
    try:
        code = cli.main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = stop.code
    errors = [line for line in capsys.readouterr().err.splitlines() if "error" in line or "Traceback" in line]
    assert code in (0, 2), (arguments, code, errors)
    if code:
        assert len(errors) == 1, errors
        assert errors[0].startswith("spectrovae: error: ")
        assert "a fault of spectrovae" not in errors[0]
    return code


@pytest.mark.skipif(not SCRIPTS, reason="needs generators: set SPECTROVAE_CASES, or SPECTROVAE_DATA beside them")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_recordings_as_people_have_them(script, tmp_path, capsys):
    data = tmp_path / "data"
    subprocess.run([sys.executable, str(script), str(data)], check=True, cwd=script.parent)
    folders = sorted(path for path in data.iterdir() if path.is_dir()) if script.stem in SEVERAL else [data]
    trained = 0
    for number, folder in enumerate(folders):
        bundle = tmp_path / f"model{number}"
        code = command(capsys, "data", "scan", folder, "--out", tmp_path / f"{number}.jsonl")
        fitted = command(
            capsys, "fit", "vae", "--preset", "tiny", "--epochs", 1, "--data", folder, "--out", bundle,
            "--latent-dim", 4,
        )  # fmt: skip
        if fitted:
            assert not bundle.exists(), folder
            continue
        assert code == 0
        trained += 1
        command(capsys, "compare", bundle, "--limit", 2, "--resamples", 100, "--out", tmp_path / f"report{number}")
        assert command(capsys, "export", bundle, tmp_path / "served") == 0
    assert trained
