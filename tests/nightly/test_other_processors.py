"""The numerical tests again, with the kernels of other processors: what holds on one machine alone is no result."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT

PROCESSORS = {
    "AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "OPENBLAS_CORETYPE": "Haswell"},
    "no oneDNN": {"TF_ENABLE_ONEDNN_OPTS": "0"},
}
NUMERICAL = (
    "augment", "blocks", "code_priors", "codec", "conversion", "corrupt", "discriminators", "dsp", "export",
    "fit_prior", "hierarchical_vae", "latent_wavenet", "layers", "log_mel", "losses", "magnitude_phase", "mdct",
    "mdct_representation", "mel", "models", "networks", "phase", "pipeline", "pqmf", "priors", "quantisers", "rave",
    "reduced_weights", "representations", "sampling", "served_families", "speakers", "spectral_losses", "spectrum",
    "streaming", "streaming_layers", "training", "transfer", "waveform_representations", "waveform_vae", "worst_case",
)  # fmt: skip


@pytest.mark.parametrize("name", NUMERICAL)
@pytest.mark.parametrize("processor", PROCESSORS)
def test_the_numerical_tests_pass(processor, name):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--durations=0", f"tests/test_{name}.py"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment | PROCESSORS[processor], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
