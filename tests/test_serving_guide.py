"""docs/serving.md; tests/nightly/test_guides.py executes it."""

import re

import pytest
from conftest import ROOT

pytest.importorskip("tensorflow_serving")

from spectrovae import models, representations
from spectrovae.codec import Codec

GUIDE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")


def test_the_table_of_the_guide_names_every_signature():
    from spectrovae.serving.endpoints import endpoints

    representation = representations.LogSTFT(4000, n_fft=64, hop_length=32)
    model = models.FAMILIES["vae"](representation.feature_shape(480), preset="tiny", speakers=("ann", "bob"))
    codec = Codec(representation, model.encoder, model.decoder, prior=model.prior)
    names = [endpoint.name for endpoint in endpoints(codec)]
    assert sorted(re.findall(r"^\| `(\w+)` \|", GUIDE, re.MULTILINE)) == sorted(names)
