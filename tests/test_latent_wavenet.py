"""A WaveNet over quantised latents: a density, its draws, and sequences that it learns."""

import keras
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from spectrovae.errors import InputError
from spectrovae.models import LatentWaveNet

CONDITIONS = {"label": ("a", "b")}


def correlated(count, frames=6, dimensions=3, seed=0):
    """Sequences whose frames move slowly, along directions of unequal weight."""
    random = np.random.default_rng(seed)
    x = np.zeros((count, frames, dimensions))
    x[:, 0] = random.standard_normal((count, dimensions))
    for frame in range(1, frames):
        x[:, frame] = 0.95 * x[:, frame - 1] + 0.3 * random.standard_normal((count, dimensions))
    mixing = np.array([[2.0, 0.5, 0.0], [0.0, 0.3, 0.1], [0.0, 0.0, 0.05]])
    return (x @ mixing + [1.0, 0.0, -2.0]).astype(np.float32)


def made(**options):
    return LatentWaveNet((6, 3), **{"preset": "tiny", "levels": 8, "directions": 2, "dropout": 0.0, **options})


def noise(rows, prior, seed=1):
    return np.random.default_rng(seed).random((rows, *prior.noise_shape)).astype(np.float32)


def test_it_is_a_density():
    """Of one number: what nll gives integrates to one, and is the level's probability times the normal's share."""
    prior = LatentWaveNet((1, 1), preset="tiny", levels=4, directions=1)
    prior.initialise(3.0 + 2.0 * np.random.default_rng(0).standard_normal((5000, 1, 1)))
    x = np.linspace(-20.0, 26.0, 20001, dtype=np.float32)
    density = np.exp(-np.asarray(prior.nll(x[:, None, None], {}), np.float64))
    assert scipy.integrate.trapezoid(density, x) == pytest.approx(1.0, abs=1e-3)
    middle, spread = float(prior.middle[0]), float(prior.spread[0])
    inside = scipy.stats.norm.cdf(x, middle, spread)
    logits = np.asarray(prior.wavenet.logits(np.zeros((1, 1, 1, 1), np.int32)))[0, 0, 0, 0]
    chances = np.exp(logits) / np.exp(logits).sum()
    expected = chances[np.minimum((inside * 4).astype(int), 3)] * 4 * scipy.stats.norm.pdf(x, middle, spread)
    away = np.abs(inside * 4 - np.round(inside * 4)) > 1e-3  # from the borders, where rounding decides
    np.testing.assert_allclose(density[away], expected[away], rtol=1e-3, atol=1e-9)


def test_likelihood_of_all_directions_is_the_naive_one():
    prior, x = made(), correlated(50)
    prior.initialise(x)
    flat = x.reshape(-1, 3).astype(np.float64)
    values, vectors = np.linalg.eigh(np.cov(flat, rowvar=False, bias=True))
    units = (flat - flat.mean(axis=0)) @ np.asarray(prior.axes, np.float64).T / np.sqrt(values[::-1])
    np.testing.assert_allclose(np.abs(np.asarray(prior.axes) @ vectors[:, ::-1]), np.eye(3), atol=1e-3)
    codes = np.floor(scipy.stats.norm.cdf(units[:, :2]) * 8).astype(int).reshape(50, 1, 6, 2)
    expected = np.asarray(prior.wavenet.nll(codes, {})) - 12 * np.log(8.0)
    expected = expected - scipy.stats.norm.logpdf(units).reshape(50, -1).sum(axis=1) + 3.0 * np.log(values).sum()
    found = np.asarray(prior.nll(x, {}))
    assert np.mean(np.isclose(found, expected, rtol=1e-3, atol=1e-2)) > 0.95  # a number may lie on a border


def test_draws_are_what_the_likelihood_says():
    """Untrained and without conditions levels are nearly alike, so draws are normal along each direction."""
    prior, x = made(), correlated(500)
    prior.initialise(x)
    for head in prior.wavenet.heads:
        head.kernel.assign(np.zeros(head.kernel.shape))
    drawn = np.asarray(prior.draw(noise(2000, prior), {})).reshape(-1, 3)
    np.testing.assert_allclose(drawn.mean(axis=0), x.reshape(-1, 3).mean(axis=0), atol=0.1)
    np.testing.assert_allclose(np.cov(drawn, rowvar=False), np.cov(x.reshape(-1, 3), rowvar=False), atol=0.15)


def test_it_learns_how_frames_follow_each_other():
    x, held = correlated(600), correlated(200, seed=1)
    prior = made()
    prior.initialise(x)
    before = float(np.mean(prior.nll(held, {})))
    prior.compile(keras.optimizers.Adam(1e-2))
    prior.fit({"latent": x}, epochs=15, batch_size=50, verbose=0)
    assert float(np.mean(prior.nll(held, {}))) < before - 3.0
    drawn = np.asarray(prior.draw(noise(500, prior), {}))
    steps = [np.std(np.diff(y[..., 0], axis=1)) for y in (x, drawn)]
    assert steps[1] < 1.6 * steps[0] < 0.6 * np.std(drawn[..., 0])  # independent frames would have 1.4 deviations


def test_a_row_depends_on_itself_alone_and_survives_saving(tmp_path):
    prior = made(conditions=CONDITIONS)
    prior.initialise(correlated(50))
    given, heat = {"label": np.array([0, 1, 2])}, np.array([1.0, 0.5, 0.0], np.float32)
    uniform = noise(3, prior)
    drawn = np.asarray(prior.draw(uniform, given, heat))
    alone = prior.draw(uniform[1:2], {"label": given["label"][1:2]}, heat[1:2])
    np.testing.assert_allclose(alone, drawn[1:2], atol=1e-5)
    greedy = prior.draw(noise(1, prior, 7), {"label": given["label"][2:]}, heat[2:])
    np.testing.assert_allclose(greedy, drawn[2:], atol=1e-5)
    prior.save(tmp_path / "prior.keras")
    again = keras.saving.load_model(tmp_path / "prior.keras", compile=False)
    np.testing.assert_array_equal(again.draw(uniform, given, heat), drawn)
    np.testing.assert_array_equal(again.nll(drawn, given), prior.nll(drawn, given))


def test_what_is_kept_is_followed():
    prior, x = made(), correlated(400)
    prior.initialise(x)
    prior.compile(keras.optimizers.Adam(1e-2))
    prior.fit({"latent": x}, epochs=10, batch_size=50, verbose=0)
    order = np.argsort(x[:, 2, 0])
    known = np.concatenate([x[order[:40]], x[order[-40:]]])  # low, then high
    mask = np.zeros(known.shape, bool)
    mask[:, :3] = True
    drawn = np.asarray(prior.draw(noise(80, prior), {}, known=known, mask=mask))
    np.testing.assert_array_equal(drawn[:, :3], known[:, :3])
    low, high = drawn[:40, 3, 0].mean(), drawn[40:, 3, 0].mean()
    assert high - low > 0.5 * (known[40:, 2, 0].mean() - known[:40, 2, 0].mean())


def test_what_is_refused():
    for make, says in (
        (lambda: LatentWaveNet((3,)), "latent_shape must have 2 axes"),
        (lambda: made(levels=1), "levels must be at least 2"),
        (lambda: made(directions=0), "directions 1"),
        (lambda: made(preset="huge"), "preset must be one of"),
    ):
        with pytest.raises(InputError, match=says):
            make()
    assert made(directions=9).directions == 3
