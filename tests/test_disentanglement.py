"""Disentanglement metrics: 1 on perfect codes, chance on random ones, known values between, scikit-learn beside."""

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import mutual_info_score

from spectrovae.errors import InputError
from spectrovae.evaluation import disentanglement as dis

LEVELS = (8, 10, 5)
QUICK = {"train": 600, "test": 300}


@pytest.fixture(scope="module")
def factors():
    """All combinations, five times, values unevenly spaced."""
    grid = np.stack(np.meshgrid(*map(np.arange, LEVELS), indexing="ij"), axis=-1).reshape(-1, 3)
    return np.tile(np.geomspace(1.0, 100.0, 10)[grid], (5, 1))


@pytest.fixture(scope="module")
def noise(factors):
    return np.random.default_rng(1).standard_normal((len(factors), 4))


def every(codes, factors, seed=0):
    return {
        "beta_vae": dis.beta_vae(codes, factors, seed=seed, **QUICK),
        "factor_vae": dis.factor_vae(codes, factors, seed=seed, **QUICK),
        "mig": dis.mig(codes, factors),
        "sap": dis.sap(codes, factors),
        **dis.dci(codes, factors, seed=seed),
    }


@pytest.mark.parametrize("units", [(1.0, 1.0, 1.0), (1e-4, 1.0, -1e4)])
def test_perfect_codes_score_one(factors, units):
    assert dis.scores(np.log(factors) * units, factors) == pytest.approx(dict.fromkeys(dis.METRICS, 1.0), abs=1e-3)


@pytest.mark.parametrize("width", [1, 2])
def test_what_more_dimensions_that_say_nothing_change(factors, noise, width):
    """Active noise beside perfect codes: nothing, but that a trace of it enters predictions."""
    codes = np.concatenate([np.log(factors), noise[:, :width]], axis=1)
    found = every(codes, factors)
    assert found == pytest.approx(dict.fromkeys(dis.METRICS, 1.0), abs=0.03)
    collapsed = np.concatenate([np.log(factors), 1e-3 * noise[:, :width]], axis=1)
    assert every(collapsed, factors)["factor_vae"] == 1.0


def test_codes_that_know_nothing_are_at_chance(factors, noise):
    found = every(noise, factors)
    assert found["beta_vae"] == pytest.approx(1 / 3, abs=0.1)
    # four dimensions, the best of three factors for each: little above a third
    assert 0.25 < found["factor_vae"] < 0.45
    assert found["mig"] < 0.02
    assert found["sap"] < 0.01
    assert found["informativeness"] < 0.02
    assert found["disentanglement"] < 0.4
    shuffled = dis.chance(np.log(factors), factors)
    assert shuffled["mig"] < 0.02
    assert shuffled["informativeness"] < 0.02
    assert shuffled["beta_vae"] < 0.42


def test_places_signs_and_scales_of_dimensions_do_not_matter(factors, noise):
    codes = np.log(factors) @ np.array([[1.0, 0.3, 0.0], [0.0, 1.0, 0.2], [0.4, 0.0, 1.0]]) + 0.1 * noise[:, :3]
    plain = every(codes, factors)
    moved = every(codes[:, [2, 0, 1]] * [-3.0, 1e-4, -1e5], factors)
    assert 0.1 < plain["mig"] < 0.9
    for name in dis.METRICS:
        # quantiles and splits lie on the other side of a value when the sign changes
        assert moved[name] == pytest.approx(plain[name], abs=0.02), name


def test_every_factor_twice(factors):
    """Two equal dimensions a factor: no gap, but nothing entangled; completeness 1 - log 2 / log 6 if shared evenly."""
    codes = np.repeat(np.log(factors), 2, axis=1)
    found = every(codes, factors)
    assert found["mig"] == pytest.approx(0.0, abs=1e-12)
    assert found["sap"] == pytest.approx(0.0, abs=1e-12)
    assert found["factor_vae"] == 1.0
    assert found["beta_vae"] == 1.0
    assert found["disentanglement"] == pytest.approx(1.0, abs=1e-6)
    halved = dis._concentration(np.repeat(np.eye(3), 2, axis=0).T)
    np.testing.assert_allclose(halved, 1.0 - np.log(2) / np.log(6))


def test_rotation_entangles_and_keeps_the_information(factors):
    standard = dis.levels(factors[:, 0]), dis.levels(factors[:, 1])
    codes = np.stack([(level - level.mean()) / level.std() for level in standard], axis=1)
    angle = np.pi / 4
    turned = codes @ np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    found = every(turned, factors[:, :2])
    assert found["informativeness"] > 0.95
    assert found["mig"] < 0.05
    assert found["sap"] < 0.05
    assert found["disentanglement"] < 0.2
    assert found["completeness"] < 0.2
    # one dimension for one of two factors, and nothing of the other: half of everything
    half = every(codes[:, :1], factors[:, :2])
    assert half["mig"] == pytest.approx(0.5, abs=0.01)
    assert half["sap"] == pytest.approx(0.5, abs=0.01)
    assert half["informativeness"] == pytest.approx(0.5, abs=0.02)


def test_information_is_scikit_learns(factors, noise):
    binned = [dis.levels(dimension) for dimension in (noise[:, 0], noise[:, 0] + noise[:, 1], factors[:, 1])]
    for first in binned:
        for second in binned:
            assert dis.mutual_information(first, second) == pytest.approx(mutual_info_score(first, second), abs=1e-9)
    assert np.ptp(np.bincount(binned[0])) <= 1
    assert set(binned[2]) == set(range(10))


def test_correlations_are_scipys(factors, noise):
    codes = np.log(factors[:, :2]) + noise[:, :2]
    table = np.sort([[spearmanr(c, f).statistic ** 2 for c in codes.T] for f in factors.T], axis=1)
    assert dis.sap(codes, factors) == pytest.approx(np.mean(table[:, -1] - table[:, -2]), abs=1e-9)


def test_the_classifier_is_scikit_learns(noise):
    classes = np.argmax(noise[:, :3] + 0.5 * noise[:, [1, 2, 3]], axis=1)
    ours = dis.logistic_regression(noise, classes)(noise)
    theirs = LogisticRegression(max_iter=1000).fit(noise, classes).predict(noise)
    assert np.mean(ours == theirs) > 0.998


def test_boosting_is_scikit_learns(factors, noise):
    x = np.concatenate([factors, np.round(noise[:, :1])], axis=1)
    y = np.log(factors[:, 0]) ** 2 - np.sqrt(factors[:, 1]) + 0.3 * noise[:, 3]
    ours = dis.Stumps(x, y, rounds=30)
    theirs = GradientBoostingRegressor(max_depth=1, learning_rate=0.3, n_estimators=30, criterion="squared_error")
    theirs.fit(x, y)
    np.testing.assert_allclose(ours(x), theirs.predict(x), atol=1e-6)
    np.testing.assert_allclose(ours.importances, theirs.feature_importances_, atol=1e-6)


def test_pairs_share_one_factor_and_draw_the_others(factors):
    level = dis.levels(factors[:, 0])
    drawer = dis._Drawer(level, np.random.default_rng(0))
    first = drawer.any(4000)
    second = drawer.like(first)
    np.testing.assert_array_equal(level[first], level[second])
    assert np.bincount(level[first]).min() > 400
    others = dis.levels(factors[:, 1])
    assert dis.mutual_information(others[first], others[second]) < 0.02


@pytest.mark.parametrize(
    ("codes", "factors", "reason"),
    [
        (np.zeros((60, 2)), np.zeros((50, 2)), "of the same sounds"),
        (np.zeros(60), np.zeros((60, 2)), "of the same sounds"),
        (np.full((60, 2), np.nan), np.zeros((60, 2)), "finite"),
        (np.zeros((60, 2)), np.arange(60.0)[:, None], "two factors that vary"),
        (np.zeros((60, 2)), np.stack([np.arange(60.0), np.zeros(60)], axis=1), "two factors that vary, received 1"),
        (np.zeros((20, 2)), np.zeros((20, 2)), "at least 50 sounds"),
    ],
)
def test_what_cannot_be_measured_is_refused(codes, factors, reason):
    with pytest.raises(InputError, match=reason):
        dis.scores(codes, factors)


def test_collapsed_codes_score_nothing(factors):
    found = every(np.zeros((len(factors), 4)), factors)
    for name in ("mig", "sap", "disentanglement", "completeness", "informativeness"):
        assert found[name] == pytest.approx(0.0, abs=1e-12), name
    assert found["factor_vae"] < 0.4
    assert found["beta_vae"] < 0.4


def test_summary_of_runs():
    runs = [dict.fromkeys(dis.METRICS, value) for value in (0.25, 0.75)]
    assert dis.summary(runs)["sap"] == {"mean": 0.5, "deviation": pytest.approx(0.5**1.5), "runs": [0.25, 0.75]}
