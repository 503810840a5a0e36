"""Continuous priors: likelihoods against closed forms, a flow's inverse and Jacobian, the moments of draws."""

import keras
import numpy as np
import pytest
import scipy.stats
from sklearn.mixture import GaussianMixture as Reference

from spectrovae.errors import InputError
from spectrovae.models import PRIORS, Flow, GaussianMixture

CONDITIONS = {"label": ("a", "b"), "speaker": ("x", "y", "z")}
SIZE = 3


def vectors(count=400, seed=0):
    random = np.random.default_rng(seed)
    mix = np.array([[1.0, 0.4, 0.0], [0.0, 0.8, -0.5], [0.0, 0.0, 0.3]])
    centres = np.array([[0.0, 0.0, 0.0], [4.0, -2.0, 1.0]])
    return (random.standard_normal((count, SIZE)) @ mix + centres[random.integers(0, 2, count)]).astype(np.float32)


def uniform(rows, prior, seed=0):
    return np.random.default_rng(seed).random((rows, *prior.noise_shape), np.float32)


def nothing_given(prior, rows):
    return {name: np.full(rows, prior.none_given(name), np.int32) for name in prior.conditions}


def stirred_flow(**options):
    """A flow whose couplings do something, which at its start they do not."""
    flow = Flow((SIZE,), preset="tiny", couplings=4, **options)
    flow.initialise(vectors())
    random = np.random.default_rng(1)
    for weight in flow.trainable_weights:
        weight.assign(0.4 * random.standard_normal(weight.shape))
    return flow


@pytest.mark.parametrize(("covariance", "theirs"), [("full", "full"), ("diagonal", "diag")])
def test_a_mixture_has_scikit_learns_likelihood(covariance, theirs):
    x = vectors()
    reference = Reference(3, covariance_type=theirs, random_state=0).fit(x)
    prior = GaussianMixture((SIZE,), components=3, covariance=covariance)
    prior.set_mixture(reference.weights_, reference.means_, reference.covariances_)
    np.testing.assert_allclose(prior.nll(x, {}), -reference.score_samples(x), rtol=1e-4, atol=1e-4)


def test_a_condition_moves_the_mixing_weights():
    prior = GaussianMixture((1,), components=2, conditions=CONDITIONS)
    tables = {"label": [[0.9, 0.2], [0.1, 0.8]], "speaker": [[0.5, 0.5], [0.3, 0.1], [0.2, 0.4]]}
    prior.set_mixture([0.25, 0.75], [[-1.0], [2.0]], [[[0.5]], [[2.0]]], tables)
    x = np.linspace(-3, 3, 7, dtype=np.float32)[:, None]
    parts = np.stack([scipy.stats.norm(m, np.sqrt(v)).pdf(x[:, 0]) for m, v in ((-1.0, 0.5), (2.0, 2.0))])
    for label, speaker in ((0, 3), (1, 2), (2, 3), (2, 0)):
        weights = np.array([0.25, 0.75])
        for name, chosen in (("label", label), ("speaker", speaker)):
            if chosen < len(CONDITIONS[name]):
                weights = weights * np.array(tables[name][chosen])
        expected = -np.log((weights / weights.sum()) @ parts)
        given = {"label": np.full(7, label), "speaker": np.full(7, speaker)}
        np.testing.assert_allclose(prior.nll(x, given), expected, rtol=1e-4)


def test_draws_of_a_mixture_have_its_moments():
    reference = Reference(2, random_state=0).fit(vectors(4000))
    prior = GaussianMixture((SIZE,), components=2)
    prior.set_mixture(reference.weights_, reference.means_, reference.covariances_)
    drawn = np.asarray(prior.draw(uniform(20000, prior), {}))
    np.testing.assert_allclose(drawn.mean(axis=0), vectors(4000).mean(axis=0), atol=0.05)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(vectors(4000).T), atol=0.15)
    likeliest = reference.means_[reference.weights_.argmax()]
    np.testing.assert_allclose(prior.draw(uniform(2, prior), {}, 0.0), [likeliest] * 2, atol=1e-5)


def test_a_flow_starts_at_the_gaussian_of_the_data():
    x = vectors()
    flow = Flow((SIZE,), preset="tiny", conditions=CONDITIONS)
    flow.initialise(x, ridge=0.0)
    gaussian = scipy.stats.multivariate_normal(x.mean(axis=0), np.cov(x, rowvar=False))
    np.testing.assert_allclose(flow.nll(x, nothing_given(flow, len(x))), -gaussian.logpdf(x), rtol=1e-3, atol=1e-3)


def test_a_flow_starts_at_the_gaussians_of_the_classes():
    x = vectors(600)
    label = (x[:, 0] > 2.0).astype(np.int32)
    flow = Flow((SIZE,), preset="tiny", conditions={"label": ("a", "b")})
    flow.initialise(x, {"label": label})
    noise, _ = flow.forward(x, {"label": label})
    for place in (0, 1):
        own = np.asarray(noise)[label == place]
        np.testing.assert_allclose(own.mean(axis=0), 0.0, atol=1e-3)
        np.testing.assert_allclose(own.std(axis=0), 1.0, atol=0.3)
    assert np.mean(flow.nll(x, {"label": label})) < np.mean(flow.nll(x, nothing_given(flow, len(x)))) - 0.5


@pytest.mark.parametrize("conditions", [{}, CONDITIONS])
def test_a_flow_is_undone_exactly(conditions):
    flow, x = stirred_flow(conditions=conditions), vectors(50)
    given = {name: np.arange(50) % (len(names) + 1) for name, names in conditions.items()}
    noise, _ = flow.forward(x, given)
    assert np.abs(np.asarray(noise) - (x - x.mean(axis=0))).max() > 0.1
    np.testing.assert_allclose(flow.inverse(noise, given), x, atol=1e-4)


def test_a_flows_log_determinant_is_that_of_its_jacobian():
    flow, x = stirred_flow(), vectors(5)
    _, found = flow.forward(x, {})
    step = 1e-2
    for row in range(5):
        moved = np.concatenate([x[row] + sign * step * np.eye(SIZE, dtype=np.float32) for sign in (1, -1)])
        noise = np.asarray(flow.forward(moved, {})[0], np.float64)
        jacobian = (noise[:SIZE] - noise[SIZE:]) / (2.0 * step)
        assert np.log(abs(np.linalg.det(jacobian))) == pytest.approx(float(found[row]), abs=2e-2)


def test_training_brings_a_flow_nearer_to_two_clusters():
    x = vectors(1000)
    flow = Flow((SIZE,), preset="tiny", hidden=32, couplings=4, dropout=0.0)
    flow.initialise(x)
    before = float(np.mean(flow.nll(x, {})))
    flow.compile(keras.optimizers.Adam(5e-3))
    flow.fit({"latent": x}, epochs=15, batch_size=100, verbose=0)
    assert float(np.mean(flow.nll(x, {}))) < before - 0.2
    drawn = np.asarray(flow.draw(uniform(5000, flow), {}))
    np.testing.assert_allclose(drawn.mean(axis=0), x.mean(axis=0), atol=0.3)


@pytest.mark.parametrize("kind", ["mixture", "flow"])
def test_draws_of_a_row_depend_on_it_alone_and_survive_saving(kind, tmp_path):
    prior = PRIORS[kind]((SIZE,), preset="tiny", conditions=CONDITIONS)
    if kind == "flow":
        prior.initialise(vectors())
    else:
        tables = {"label": np.full((2, 2), 0.5), "speaker": np.full((3, 2), 1 / 3)}
        prior.set_mixture([0.5, 0.5], vectors(2), np.tile(np.eye(SIZE), (2, 1, 1)), tables)
    given = {"label": np.array([0, 1, 2]), "speaker": np.array([3, 0, 1])}
    noise, temperature = uniform(3, prior), np.array([1.0, 0.5, 0.0], np.float32)
    drawn = np.asarray(prior.draw(noise, given, temperature))
    alone = prior.draw(noise[1:2], {name: value[1:2] for name, value in given.items()}, temperature[1:2])
    np.testing.assert_allclose(alone, drawn[1:2], atol=1e-6)
    mask = np.full((3, SIZE), True)
    np.testing.assert_array_equal(prior.draw(noise, given, known=drawn + 1, mask=mask), drawn + 1)
    prior.save(tmp_path / "prior.keras")
    again = keras.saving.load_model(tmp_path / "prior.keras", compile=False)
    assert again.conditions == prior.conditions
    np.testing.assert_array_equal(again.draw(noise, given, temperature), drawn)


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
@pytest.mark.parametrize("variance", [0.0, -1.0, np.nan, np.inf])
def test_a_mixture_of_any_variance_that_is_not_positive_is_refused(covariance, variance):
    mixture = GaussianMixture((2,), components=2, covariance=covariance)
    variances = np.array([[1.0, 1.0], [1.0, variance]])
    covariances = np.stack([np.diag(row) for row in variances]) if covariance == "full" else variances
    with pytest.raises(InputError, match="not positive definite"):
        mixture.set_mixture([0.5, 0.5], np.zeros((2, 2)), covariances)


def test_a_prior_refuses_another_loss():
    with pytest.raises(InputError, match="has its own loss and metrics"):
        GaussianMixture((2,)).compile(loss="mse")


def test_what_is_no_prior_is_refused():
    for make in (
        lambda: GaussianMixture((3,), preset="huge"),
        lambda: GaussianMixture((3,), components=0),
        lambda: GaussianMixture((3,), covariance="round"),
        lambda: GaussianMixture((1,), components=1).set_mixture([1.0], [[0.0]], [[[-1.0]]]),
        lambda: GaussianMixture((1,), components=1).set_mixture([1.0], [0.0], [[[1.0]]]),
        lambda: Flow((1,)),
        lambda: Flow((3,), preset="huge"),
    ):
        with pytest.raises(InputError):
            make()
