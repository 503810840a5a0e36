"""The unbiased MMD against scikit-learn's kernels, known distributions and a loop over resamples."""

import numpy as np
import pytest
from sklearn.metrics.pairwise import polynomial_kernel

from spectrovae.errors import InputError
from spectrovae.evaluation import mmd
from spectrovae.evaluation.mmd import squared_mmd


def naive(x, y):
    """The mean over pairs of different clips."""
    options = {"degree": 3, "gamma": 1 / x.shape[1], "coef0": 1}
    xx, yy, xy = (polynomial_kernel(a, b, **options) for a, b in ((x, x), (y, y), (x, y)))
    apart = ~np.eye(len(x), dtype=bool)
    return (xx + yy - xy - xy.T)[apart].mean()


def test_equals_the_mean_over_pairs():
    random = np.random.default_rng(0)
    x = random.normal(size=(40, 8))
    y = x + random.normal(0.3, 0.5, x.shape)
    found = squared_mmd(x, y, resamples=200)
    assert found.value == pytest.approx(naive(x, y), rel=1e-4)
    assert found.low < found.value < found.high


def test_is_unbiased_though_the_pairs_depend_on_each_other():
    """Both sides N(0, I) and strongly correlated: the mean over draws is 0, which the usual estimate misses."""
    random = np.random.default_rng(1)
    values, usual = [], []
    for _ in range(400):
        x = random.normal(size=(20, 4))
        y = 0.9 * x + np.sqrt(1 - 0.81) * random.normal(size=x.shape)
        values.append(squared_mmd(x, y, resamples=1).value)
        cross = polynomial_kernel(x, y, degree=3, gamma=1 / 4, coef0=1)
        usual.append(values[-1] + 2 * (cross.sum() - np.trace(cross)) / (20 * 19) - 2 * cross.mean())
    assert abs(np.mean(values)) < 3 * np.std(values) / 20
    assert np.mean(usual) < -3 * np.std(usual) / 20


def test_blocks_change_the_estimate_by_chance_alone(monkeypatch):
    random = np.random.default_rng(2)
    x = random.normal(size=(600, 6))
    y = random.normal(0.5, 1.0, x.shape)
    whole = squared_mmd(x, y, resamples=100)
    monkeypatch.setattr(mmd, "BLOCK_CLIPS", 100)
    parts = squared_mmd(x, y, resamples=100)
    assert parts.value == pytest.approx(whole.value, rel=0.15)
    assert whole.low < parts.value < whole.high


def test_the_same_sounds_are_no_distance_apart():
    x = np.random.default_rng(3).normal(size=(30, 5))
    assert squared_mmd(x, x, resamples=50) == pytest.approx((0, 0, 0), abs=1e-6)
    assert np.isnan(squared_mmd(x[:1], x[:1]).value)
    with pytest.raises(InputError, match="one shape"):
        squared_mmd(x, x[:5])


def test_speakers_make_the_interval_wider():
    random = np.random.default_rng(4)
    speakers = np.repeat(np.arange(6), 20)
    x = random.normal(size=(120, 5)) + random.normal(size=(6, 5))[speakers]
    y = x + random.normal(size=(6, 5))[speakers]
    by_clip, by_speaker = squared_mmd(x, y, resamples=500), squared_mmd(x, y, clusters=speakers, resamples=500)
    assert by_clip.value == by_speaker.value
    assert by_speaker.high - by_speaker.low > by_clip.high - by_clip.low


@pytest.mark.parametrize(("clips", "shift"), [(40, 0.0), (120, 0.0), (60, 0.5)])
def test_the_interval_holds_the_truth_at_nought_and_far_from_it(clips, shift):
    """95 % of 150 intervals, less four standard errors (0.018); at 0 it is wider than it need be, not without end."""
    random = np.random.default_rng(5)
    truth = 0.0
    if shift:
        pairs = [(random.normal(size=(1000, 4)), random.normal(shift, 1.0, (1000, 4))) for _ in range(40)]
        truth = np.mean([squared_mmd(x, y, resamples=1).value for x, y in pairs])
    found = [
        squared_mmd(random.normal(size=(clips, 4)), random.normal(shift, 1.0, (clips, 4)), resamples=400, seed=seed)
        for seed in range(150)
    ]
    assert np.mean([one.low <= truth <= one.high for one in found]) >= 0.95 - 4 * 0.018
    width = np.mean([one.high - one.low for one in found])
    assert width < 10.0 * np.std([one.value for one in found])


def test_clusters_of_one_clip_are_clips_and_one_cluster_tells_nothing():
    random = np.random.default_rng(6)
    x, y = random.normal(size=(30, 4)), random.normal(0.5, 1.0, (30, 4))
    alone = squared_mmd(x, y, resamples=300)
    assert squared_mmd(x, y, clusters=list(range(30)), resamples=300) == pytest.approx(alone)
    one = squared_mmd(x, y, clusters=["a"] * 30)
    assert one.value == alone.value
    assert np.isnan(one.low)
