"""The worst case where it is known, and the drift of latents that move by a known distance."""

import keras
import numpy as np
import pytest

from spectrovae import models
from spectrovae.codec import Codec
from spectrovae.evaluation.baselines import PCA, Identity, Mean
from spectrovae.evaluation.drift import LatentDrift
from spectrovae.evaluation.perturbations import perturb
from spectrovae.evaluation.systems import System
from spectrovae.evaluation.worst_case import WorstCase, gradient_path
from spectrovae.representations import LogSTFT

SAMPLES = 992
SHAPE = (32, 32, 1)


@pytest.fixture(scope="module")
def representation():
    return LogSTFT(8000, n_fft=64, hop_length=32)


@pytest.fixture(scope="module")
def db():
    return np.random.default_rng(0).uniform(-60, -20, (5, *SHAPE)).astype(np.float32)


def codec(family, representation, **options):
    trainer = models.FAMILIES[family](SHAPE, preset="tiny", db_per_unit=80.0, **options)
    return Codec(representation, trainer.encoder, trainer.decoder, family=family)


def system(reconstructor, representation):
    return System("it", "model", reconstructor, representation, 0, {})


def errors(found, db, noisy):
    return np.square(found.reconstruct(noisy).astype(np.float64) - db).sum(axis=(1, 2, 3))


def test_of_a_linear_system_it_is_the_corner_that_the_leading_component_points_to(representation, db):
    """f(x) = c c' x, about 0: the error of x + d is largest where |c' d| and its sign against c' x are."""
    component = np.random.default_rng(1).standard_normal((1, 1024))
    component /= np.linalg.norm(component)
    mean = np.full(SHAPE, 0.5, np.float32)
    pca = system(PCA(mean, component), representation)
    clean = np.full_like(db, -40.0)  # the mean itself: f(x) = x
    worst = WorstCase(pca, steps=20)(clean, 2.0, range(5))
    assert np.abs(worst - clean).max() <= 2.0 + 1e-4
    # f(x + d) - x = c (c' d), of square |c' d|^2, at most (2 |c|_1)^2
    found = errors(pca, clean, worst)
    np.testing.assert_allclose(found, (2.0 * np.abs(component).sum()) ** 2, rtol=2e-3)
    drawn = errors(pca, clean, perturb(clean, 2.0, range(5), name="signs"))
    assert (found > 50 * drawn).all()


def test_of_the_identity_every_corner_and_of_the_mean_nothing(representation, db):
    identity, mean = (system(r, representation) for r in (Identity(), Mean(np.zeros(SHAPE, np.float32))))
    worst = WorstCase(identity, steps=5)(db, 3.0, range(5))
    np.testing.assert_allclose(np.abs(worst - db), 3.0, atol=1e-4)
    worst = WorstCase(mean, steps=5)(db, 3.0, range(5))
    np.testing.assert_allclose(errors(mean, db, worst), errors(mean, db, db))


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("vae", {"latent_dim": 4, "linear": "learned"}),
        ("unet", {}),
        ("hierarchical-vae", {}),
        ("vq-vae", {"codebook_size": 16}),
        ("vq-vae", {"quantiser": "scalar"}),
    ],
)
def test_it_is_worse_than_what_is_drawn_in_every_family(family, options, representation, db):
    found = system(codec(family, representation, **options), representation)
    attack = WorstCase(found, steps=8)
    assert attack.possible
    assert bool(attack.note) == (family == "vq-vae")
    features = np.asarray(representation.from_db(db))
    path = np.asarray(gradient_path(found.reconstructor)(features))
    np.testing.assert_allclose(path, found.reconstructor.reconstruct_features(features), atol=1e-4)
    worst = attack(db, 5.0, range(5))
    assert np.abs(worst - db).max() <= 5.0 + 1e-4
    drawn = errors(found, db, perturb(db, 5.0, range(5), name="signs"))
    assert (errors(found, db, worst) >= 0.999 * drawn).all()
    assert errors(found, db, worst).sum() > drawn.sum()
    alone = attack(db[3:4], 5.0, [3])
    np.testing.assert_allclose(errors(found, db[3:4], alone), errors(found, db, worst)[3:4], rtol=0.02)


def test_codes_that_no_gradient_passes_are_said_so(representation):
    inputs, codes = keras.Input(SHAPE), keras.Input((32, 32, 1), dtype="int32")
    encoder = keras.Model(inputs, keras.ops.cast(8.0 * inputs, "int32"))
    decoder = keras.Model(codes, keras.ops.cast(codes, "float32") / 8.0)
    attack = WorstCase(system(Codec(representation, encoder, decoder), representation))
    assert not attack.possible
    assert "no gradient" in attack.note


def test_drift_in_spreads_and_posterior_deviations(representation, db):
    """An encoder that returns the features: a gain of g dB moves every latent by g / 80."""
    inputs, latent = keras.Input(SHAPE), keras.Input(SHAPE)
    identity = Codec(
        representation,
        keras.Model(inputs, keras.layers.Rescaling(1.0)(inputs)),
        keras.Model(latent, keras.layers.Rescaling(1.0, name="out")(latent)),
    )
    drift = LatentDrift(identity)
    for part in (db[:2], db[2:]):
        drift.clean(part)
        drift.add("gain", [part + 6.0, part - 6.0])
    (found,) = drift.result("gain", resamples=20)
    expected = 6.0 / np.sqrt(np.mean(np.var(db.astype(np.float64), axis=0)))
    assert found.value == pytest.approx(expected, rel=1e-4)

    vae = codec("vae", representation, latent_dim=4, linear="learned")
    drift = LatentDrift(vae)
    drift.clean(db)
    drift.add("gain", [db + 6.0])
    posterior = keras.Model(vae.encoder.input, vae.encoder.get_layer("posterior").output)
    (before, log_variance), (after, _) = (
        [np.asarray(x) for x in posterior(representation.from_db(x))] for x in (db, db + 6.0)
    )
    expected = np.sqrt(np.mean(np.square(after - before) / np.exp(log_variance)))
    assert drift.kind == "posterior"
    assert drift.result("gain", resamples=20)[0].value == pytest.approx(expected, rel=1e-4)
    assert np.isnan(drift.result("never")[0].value)


def test_drift_of_codes_is_the_share_changed(representation, db):
    found = codec("vq-vae", representation, codebook_size=16)
    drift = LatentDrift(found)
    assert drift.kind == "codes"
    drift.clean(db)
    drift.add("same", [db])
    drift.add("noisy", [perturb(db, 20.0, range(5))])
    before, after = (np.asarray(found.encoder(representation.from_db(x))) for x in (db, perturb(db, 20.0, range(5))))
    assert drift.result("same", resamples=20)[0].value == 0.0
    assert drift.result("noisy", resamples=20)[0].value == pytest.approx(np.mean(before != after), abs=1e-6)
    assert np.mean(before != after) > 0
