"""The local half of docs/serving.md, executed as it stands."""

import os
import re
import socket
import subprocess
import sys

import numpy as np
import soundfile
from conftest import ROOT
from test_serving_guide import GUIDE

from spectrovae import models, representations
from spectrovae.codec import Codec


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def test_the_local_half_of_the_guide(tmp_path, monkeypatch):
    (commands,) = re.findall(r"```bash\n(.*?)```", GUIDE, re.DOTALL)
    (python,) = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    rest, grpc = free_ports(2)
    replaced = {
        "8501": str(rest),
        "8500": str(grpc),
        "serve served": f"serve served --rest-port {rest} --grpc-port {grpc}",
    }
    for old, new in replaced.items():
        assert old in commands
        commands, python = commands.replace(old, new), python.replace(old, new)

    representation = representations.LogSTFT(4000, n_fft=64, hop_length=32)
    model = models.FAMILIES["vae"](representation.feature_shape(2048), preset="tiny")
    Codec(representation, model.encoder, model.decoder, family="vae").save(tmp_path / "saved_models" / "digits")
    sound = (0.1 * np.random.default_rng(0).standard_normal((6000, 2))).astype(np.float32)
    soundfile.write(tmp_path / "recording.wav", sound, 8000)

    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "spectrovae").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m spectrovae "$@"\n')
    (programs / "spectrovae").chmod(0o755)
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    script = f'set -e\n{commands}\n{sys.executable} -c "$PYTHON"\nkill %1\nwait %1\n'
    done = subprocess.run(
        ["bash", "-mc", script], cwd=tmp_path, env={**environment, "PYTHON": python}, capture_output=True, text=True
    )
    log = (tmp_path / "server.log").read_text() if (tmp_path / "server.log").exists() else ""
    assert done.returncode == 0, done.stderr + log
    assert '"sample_rate": 4000' in done.stdout
    heard = [soundfile.read(tmp_path / folder / "recording.wav") for folder in ("heard", "heard-by-grpc")]
    assert [rate for _, rate in heard] == [4000, 4000]
    assert len(heard[0][0]) == 3000
    np.testing.assert_allclose(heard[0][0], heard[1][0], atol=2 / 2**15)
