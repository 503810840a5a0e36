"""PCA against scikit-learn's."""

import tracemalloc

import numpy as np
import pytest
from sklearn.decomposition import PCA as Reference

from spectrovae.errors import InputError
from spectrovae.evaluation.baselines import fit_baselines
from spectrovae.pca import principal_components


@pytest.fixture
def features():
    random = np.random.default_rng(0)
    scales = 0.8 ** np.arange(48)
    return (random.normal(size=(90, 48)) * scales).reshape(90, 8, 6, 1).astype(np.float32)


def by_name(features, components, **options):
    return {b.name: b for b in fit_baselines(np.array_split(features, 7), components, **options)}


@pytest.mark.parametrize("clips", [90, 30])  # more clips than dimensions, and fewer
def test_pca_equals_scikit_learn(features, clips):
    train, test = features[:clips], features[60:]
    found = by_name(train, (2, 10))
    for k in (2, 10):
        reference = Reference(k, svd_solver="full").fit(train.reshape(clips, -1))
        expected = reference.inverse_transform(reference.transform(test.reshape(len(test), -1)))
        np.testing.assert_allclose(
            found[f"PCA-{k}"].reconstruct_features(test).reshape(len(test), -1), expected, atol=2e-5
        )
        basis = found[f"PCA-{k}"].components
        np.testing.assert_allclose(basis @ basis.T, np.eye(k), atol=1e-4)


def test_mean_and_identity(features):
    found = by_name(features, ())
    assert list(found) == ["identity", "mean"]
    np.testing.assert_array_equal(found["identity"].reconstruct_features(features), features)
    np.testing.assert_allclose(
        found["mean"].reconstruct_features(features[:3]), np.stack([features.mean(axis=0)] * 3), atol=1e-6
    )


def test_error_falls_with_the_number_of_components(features):
    found = fit_baselines([features], (1, 4, 16, 4))
    assert [b.name for b in found] == ["identity", "PCA-16", "PCA-4", "PCA-1", "mean"]
    errors = [np.square(b.reconstruct_features(features) - features).sum() for b in found]
    assert errors == sorted(errors)
    assert errors[1] < errors[2] < errors[3] < errors[4]


def test_sizes_that_the_clips_cannot_span_are_left_out(features):
    assert [b.name for b in fit_baselines([features[:9]], (8, 9, 32))] == ["identity", "PCA-8", "mean"]
    flat = np.repeat(features[:2], 10, axis=0)  # one direction of variance
    names = [b.name for b in fit_baselines([flat], (1, 4))]
    assert names == ["identity", "PCA-1", "mean"]


def test_more_clips_than_the_cap_are_sampled_but_all_averaged(features):
    capped = by_name(features, (4,), max_clips=40, seed=1)
    np.testing.assert_allclose(capped["mean"].mean, features.mean(axis=0), atol=1e-6)
    pca = capped["PCA-4"]
    clips = features.reshape(90, -1)
    projected = pca.reconstruct_features(features).reshape(90, -1)
    best = Reference(4).fit(clips)
    least = np.square(best.inverse_transform(best.transform(clips)) - clips).sum()
    error = np.square(projected - clips).sum()
    assert 1.0001 < error / least < 1.5  # a sample fits a little worse, but not by much
    again = by_name(features, (4,), max_clips=40, seed=1)["PCA-4"]
    np.testing.assert_array_equal(pca.components, again.components)


def test_principal_components_keep_no_more_clips_than_they_are_to():
    """A clip that is kept is a copy: a view would keep the rest of its batch in memory."""
    tracemalloc.start()
    batches = (np.random.default_rng(n).standard_normal((64, 500)).astype(np.float32) for n in range(100))
    principal_components(batches, 2, max_clips=50)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # The clips kept, three times over (kept, stacked, centred), a batch in two types, and what a reservoir of views
    # would keep is 50 batches: 6.4 MB.
    assert peak < 2e6


def test_no_clip_is_an_error():
    with pytest.raises(InputError, match="at least one"):
        fit_baselines([], (8,))
