"""What tests/ does with one family, with the others."""

import pytest
from test_latent import check_command
from test_models import check_xla
from test_reduced_weights import check_reduced
from test_study import check_families

from spectrovae.models import FAMILIES


@pytest.mark.parametrize("family", ["hierarchical-vae", "vq-vae", "unet"])
def test_the_latent_command(family, tmp_path, capsys):
    check_command(family, tmp_path, capsys)


@pytest.mark.parametrize(("family", "kind"), [("vae", "int8"), ("vq-vae", "float16")])
def test_reduced_weights(family, kind, tmp_path):
    check_reduced(family, kind, tmp_path)


def test_a_study_of_waveforms_and_spectrograms(tmp_path, capsys):
    check_families(["rave", "vae", "waveform-vae"], tmp_path, capsys)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "vae"])
def test_a_step_compiled_by_xla_equals_one_that_is_not(family):
    check_xla(family)
