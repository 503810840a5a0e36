"""Quantisers against naive NumPy: the moving averages, k-means, restarts, gradients, levels, residual stages."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from spectrovae import quantisers
from spectrovae.errors import InputError
from spectrovae.quantisers import FiniteScalarQuantiser, VectorQuantiser


def points(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def make(size=6, dim=3, *, entries=None, **options):
    """A quantiser long past its first steps, with these entries."""
    layer = VectorQuantiser(size, dim, **options)
    if entries is not None:
        layer.codebook.entries.assign(entries)
        layer.sums.assign(entries)
    layer.steps.assign(1e6)
    return layer


def state(layer):
    return [np.array(x) for x in (layer.codebook.entries, layer.use, layer.sums)]


# Codes


@pytest.mark.parametrize("normalise", [True, False])
def test_codes_are_the_nearest_entries(normalise):
    layer, x = make(17, 4, normalise=normalise), points(3, 5, 2, 4)
    entries = np.asarray(layer.codebook.entries[0])
    if normalise:
        np.testing.assert_allclose(np.linalg.norm(entries, axis=1), 1.0, rtol=1e-5)
    flat = (unit(x) if normalise else x).reshape(-1, 4)
    expected = cdist(flat, entries).argmin(axis=1).reshape(3, 5, 2)
    codes = np.asarray(layer(x))
    assert codes.dtype == np.int32
    np.testing.assert_array_equal(codes, expected)
    np.testing.assert_array_equal(layer.lookup(codes), entries[expected])
    np.testing.assert_array_equal(layer.nearest(layer.lookup(codes)), codes)


def test_each_stage_codes_what_is_left():
    layer, x = make(8, 3, stages=3), points(4, 5, 3)
    entries, rest = np.asarray(layer.codebook.entries), unit(x).reshape(-1, 3)
    expected, total = [], 0.0
    for stage in range(3):
        expected.append(cdist(rest, entries[stage]).argmin(axis=1))
        total = total + entries[stage][expected[-1]]
        rest = rest - entries[stage][expected[-1]]
    codes = layer(x)
    np.testing.assert_array_equal(codes, np.stack(expected, axis=-1).reshape(4, 5, 3))
    np.testing.assert_allclose(layer.lookup(codes), total.reshape(4, 5, 3), atol=1e-6)
    assert layer.bits == pytest.approx(9.0)


def test_stages_leave_less_and_less():
    x = points(8, 64, 4)
    errors = []
    for stages in (1, 2, 3):
        layer = VectorQuantiser(16, 4, stages, seed=1)
        for _ in range(3):
            layer.estimate(x, training=True)
        errors.append(np.mean((unit(x) - np.asarray(layer.lookup(layer(x)))) ** 2))
    assert errors[1] < 0.5 * errors[0]
    assert errors[2] < 0.5 * errors[1]


# The codebook follows its encodings


def naive_step(x, entries, use, sums, decay, normalise):
    """One step of the moving averages, code by code."""
    codes = [int(np.argmin([np.sum((row - entry) ** 2) for entry in entries])) for row in x]
    use, sums, entries = use.copy(), sums.copy(), entries.copy()
    for code in range(len(entries)):
        mine = x[[c == code for c in codes]]
        use[code] = decay * use[code] + (1 - decay) * len(mine)
        sums[code] = decay * sums[code] + (1 - decay) * mine.sum(axis=0)
    for code in range(len(entries)):
        smoothed = (use[code] + 1e-5) / (use.sum() + len(entries) * 1e-5) * use.sum()
        entries[code] = sums[code] / smoothed
        if normalise:
            entries[code] /= np.linalg.norm(entries[code])
    return entries, use, sums


@pytest.mark.parametrize("normalise", [True, False])
def test_moving_averages(normalise):
    layer = make(5, 3, normalise=normalise, decay=0.9, restart=0.0)
    expected = [x[0].astype(float) for x in state(layer)]
    for step in range(3):
        x = points(4, 6, 3, seed=step)
        estimate = layer.estimate(x, training=True)
        flat = (unit(x) if normalise else x).reshape(-1, 3).astype(float)
        before, expected = expected, naive_step(flat, *expected, 0.9, normalise)
        np.testing.assert_allclose(estimate.vectors, before[0][np.asarray(estimate.codes)], atol=1e-5)
        for found, wanted in zip(state(layer), expected):
            np.testing.assert_allclose(found[0], wanted, rtol=1e-4, atol=1e-5)


def test_averages_are_short_at_first():
    layer = make(5, 3, restart=0.0)
    for steps, decay in ((0, 0.1), (8, 0.5), (90, 0.91), (10_000, 0.99)):
        layer.use.assign(np.full((1, 5), 10.0))
        layer.kmeans_steps = 0  # the first step would place the codebook
        layer.steps.assign(steps)
        layer.estimate(points(1, 1, 3), training=True)
        assert np.max(layer.use) == pytest.approx(10.0 * decay + (1.0 - decay), rel=1e-4)
        assert np.min(layer.use) == pytest.approx(10.0 * decay, rel=1e-4)
        assert float(layer.steps) == steps + 1


def test_only_training_moves_the_codebook():
    layer = VectorQuantiser(6, 3)
    before = state(layer)
    layer.estimate(points(4, 6, 3), training=False)
    layer(points(4, 6, 3))
    for then, now in zip(before, state(layer)):
        np.testing.assert_array_equal(then, now)
    assert float(layer.steps) == 0.0


def test_a_dead_code_moves_and_stays_moved():
    """The published restart is undone by the next average; so look after one step, and after one more."""
    entries = np.full((1, 4, 2), [1.0, 0.0], np.float32)
    entries[0, 1] = [0.0, 1.0]
    entries[0, 2:] = [-1.0, 0.0]  # nothing will be near these
    layer = make(4, 2, entries=entries, restart=0.1, decay=0.5)
    layer.use.assign([[8.0, 8.0, 0.01, 8.0]])
    layer.sums.assign(layer.use[..., None] * entries)
    angles = np.random.default_rng(0).uniform(0.0, np.pi / 2, 32)
    x = np.stack([np.cos(angles), np.sin(angles)], axis=-1).astype(np.float32)[:, None]
    layer.estimate(x, training=True)
    moved, use, sums = (value[0] for value in state(layer))
    assert np.min(np.linalg.norm(moved[2] - x[:, 0], axis=1)) < 1e-6, "it starts at an encoding"
    share = (8.0 * 3 + 0.01 + 32) / 2 / 4
    np.testing.assert_allclose(use[2], share, rtol=1e-4)
    np.testing.assert_allclose(sums[2], share * moved[2], rtol=1e-4)
    np.testing.assert_allclose(moved[3], [-1.0, 0.0], atol=1e-6)  # used until lately: it stays
    chosen = np.asarray(layer(x)) == 2
    assert chosen.any(), "it is used at once"
    layer.estimate(x, training=True)
    again = state(layer)[0][0, 2]
    assert again[0] > 0.0, "it is still where the encodings are"
    assert again @ moved[2] > 0.9
    # And with nothing to choose it, it stays where it was put.
    layer.estimate(np.float32([[[-1.0, 0.0]]] * 8), training=True)
    np.testing.assert_allclose(state(layer)[0][0, 2], again, atol=1e-5)


def test_without_restarts_a_dead_code_stays_dead():
    entries = np.float32([[[1.0, 0.0], [-1.0, 0.0]]])
    layer = make(2, 2, entries=entries, restart=0.0)
    for _ in range(300):
        layer.estimate(np.float32([[[1.0, 0.1]]] * 8), training=True)
    np.testing.assert_allclose(state(layer)[0][0, 1], [-1.0, 0.0], atol=1e-5)


def test_the_first_step_finds_clusters():
    """Eight tight groups, as many codes: k-means gives each group its own."""
    random = np.random.default_rng(3)
    centres = unit(np.float32(list(itertools.product([-1, 1], repeat=3))))
    label = random.integers(0, 8, 400)
    x = centres[label] + 0.01 * random.normal(size=(400, 3))
    layer = VectorQuantiser(8, 3, kmeans_steps=20)
    layer.estimate(np.float32(x)[:, None], training=True)
    codes = np.asarray(layer(np.float32(x)))
    assert len(set(zip(label, codes))) == len(set(codes)) == 8
    assert float(layer.steps) == 1.0


def test_kmeans_is_a_fixed_point_of_lloyd():
    x, uniform = points(300, 2), np.random.default_rng(0).random((60, 5)).astype(np.float32)
    centres, count, total = (np.asarray(a) for a in quantisers.kmeans(x, uniform, spherical=False))
    nearest = cdist(x, centres).argmin(axis=1)
    np.testing.assert_array_equal(count, np.bincount(nearest, minlength=5))
    np.testing.assert_allclose(centres, total / count[:, None], atol=1e-3)
    np.testing.assert_allclose(centres, [x[nearest == c].mean(axis=0) for c in range(5)], atol=1e-3)


def test_points_are_drawn_in_proportion_to_their_weight():
    weights = np.float32([0.0, 1.0, 0.0, 3.0])
    uniform = np.random.default_rng(0).random(4000).astype(np.float32)
    drawn = np.asarray(quantisers.draw(np.float32([[0], [1], [2], [3]]), weights, uniform))[:, 0]
    assert set(drawn) == {1.0, 3.0}
    assert np.mean(drawn == 3.0) == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize("start", [1, 3])
def test_state_saved_in_the_middle_goes_on_exactly(start, tmp_path):
    """Also the noise, which draws where dead codes go."""
    inputs = keras.Input((4, 3))
    layer = VectorQuantiser(12, 3, restart=0.5, name="quantiser")
    model = keras.Model(inputs, layer(inputs))
    batches = [points(16, 4, 3, seed=seed) for seed in range(start + 3)]
    for batch in batches[:start]:
        layer.estimate(batch, training=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for batch in batches[start:]:
        layer.estimate(batch, training=True)
        loaded.get_layer("quantiser").estimate(batch, training=True)
    for one, other in zip(state(layer), state(loaded.get_layer("quantiser"))):
        np.testing.assert_array_equal(one, other)


# Gradients


def gradient(function, x, weights):
    """Of sum(weights * function(x)) with respect to x."""
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(weights * function(x))
    return tape.gradient(loss, x).numpy()


@given(st.integers(0, 10_000))
def test_rotation_trick_is_a_rotation_and_a_scaling(seed):
    e, q, g = (points(7, 5, seed=seed + i).astype(float) for i in range(3))
    found = gradient(lambda x: quantisers.rotation_trick(x, tf.constant(np.float32(q))), np.float32(e), np.float32(g))
    np.testing.assert_allclose(quantisers.rotation_trick(np.float32(e), np.float32(q)), q, atol=1e-4)
    for row in range(len(e)):
        u, v = unit(e[row]), unit(q[row])
        # The rotation in the plane of u and v, from its definition: by the angle between them, identity elsewhere.
        side = unit(v - (u @ v) * u)
        c, s = u @ v, np.sqrt(max(0.0, 1.0 - (u @ v) ** 2))
        plane = np.stack([u, side])
        rotation = np.eye(5) + plane.T @ (np.array([[c, -s], [s, c]]) - np.eye(2)) @ plane
        scale = np.linalg.norm(q[row]) / np.linalg.norm(e[row])
        np.testing.assert_allclose(scale * rotation @ e[row], q[row], atol=1e-8)
        np.testing.assert_allclose(found[row], scale * rotation.T @ g[row], atol=2e-3 * np.abs(found[row]).max())


@pytest.mark.parametrize("length", [0.0, 1e-9, 1e-4, 0.04])
def test_rotation_trick_of_next_to_nothing_is_the_code_and_passes_straight_through(length):
    e, q = np.float32(length * unit(points(4, 5))), unit(points(4, 5, seed=1))
    np.testing.assert_allclose(quantisers.rotation_trick(e, q), q, atol=1e-6)
    upstream = points(4, 5, seed=2)
    found = gradient(lambda x: quantisers.rotation_trick(x, tf.constant(q)), e, upstream)
    np.testing.assert_allclose(found, upstream, rtol=1e-6)


@pytest.mark.parametrize("length", [0.0, 1e-9, 1e-3, 1.0])
def test_unit_length_has_a_bounded_gradient(length):
    x, upstream = np.float32(length * unit(points(4, 5))), unit(points(4, 5, seed=1))
    found = gradient(quantisers.unit_length, x, np.float32(upstream))
    assert np.linalg.norm(found, axis=-1).max() <= 1.001 / max(length, quantisers.SHORT)
    np.testing.assert_allclose(quantisers.unit_length(x), x / max(length, quantisers.SHORT), atol=1e-6)


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("choice", ["rotation", "straight_through"])
def test_encodings_of_silence_have_a_bounded_gradient(choice, normalise):
    layer = make(entries=unit(points(1, 6, 3)), gradient=choice, normalise=normalise)
    silent = np.zeros((8, 3), np.float32)
    for encodings in (silent, np.concatenate([silent, points(8, 3)])):

        def loss(x):
            estimate = layer.estimate(x, training=False)
            return tf.reduce_sum(estimate.vectors) + tf.reduce_mean(estimate.commitment + estimate.unused)

        found = gradient(loss, encodings, np.float32(1.0))
        assert np.isfinite(found).all()
        # |points - codes| is 1, their variance no less than a tenth of a third, and both pass 1 / SHORT.
        assert np.abs(found).max() < (30.0 + 10.0) / quantisers.SHORT


def test_straight_through_passes_the_gradient_as_it_is():
    e, q, g = (points(7, 5, seed=i) for i in range(3))
    np.testing.assert_allclose(quantisers.straight_through(e, q), q, atol=1e-6)
    np.testing.assert_array_equal(gradient(lambda x: quantisers.straight_through(x, q), e, g), g)


@pytest.mark.parametrize("choice", quantisers.GRADIENTS)
def test_estimate_passes_a_gradient(choice):
    x, g = points(3, 4, 2), points(3, 4, 2, seed=1)
    layer = make(5, 2, gradient=choice, normalise=False)
    found = gradient(lambda z: layer.estimate(z, training=False).vectors, x, g)
    if choice == "straight_through":
        np.testing.assert_allclose(found, g, atol=1e-6)
    else:
        assert np.abs(found - g).max() > 0.1
        assert np.isfinite(found).all()


# Losses


def test_commitment_recomputed():
    x = points(3, 4, 2)
    for commitment, normalise in itertools.product(quantisers.COMMITMENTS, (True, False)):
        layer = make(5, 2, commitment=commitment, normalise=normalise)
        inside = unit(x) if normalise else x
        vectors = np.asarray(layer.lookup(layer(x)))
        variance = np.var(inside.reshape(-1, 2), axis=0).mean() if commitment == "adapted" else 1.0
        expected = np.sum((inside - vectors) ** 2, axis=(1, 2)) / (2 * variance)
        np.testing.assert_allclose(layer.estimate(x, training=False).commitment, expected, rtol=1e-4)


def test_adapted_commitment_does_not_depend_on_the_scale():
    x, entries = points(3, 4, 2), points(1, 5, 2, seed=1)
    found = [
        make(5, 2, entries=scale * entries, normalise=False).estimate(scale * x, training=False).commitment
        for scale in (1.0, 10.0)
    ]
    np.testing.assert_allclose(*found, rtol=1e-3)


def test_unused_capacity():
    """Everything on one code of K: log K of each position; spread evenly and tightly: nothing."""
    entries = np.eye(4, dtype=np.float32)[None]
    layer = make(4, 4, entries=entries)
    one = np.tile(entries[0, :1] + np.float32([[0, 0.01, 0, 0]]), (2, 8, 1))
    np.testing.assert_allclose(layer.estimate(one, training=False).unused, 8 * np.log(4), rtol=1e-3)
    even = np.tile(entries[0] + 0.01, (2, 2, 1))
    np.testing.assert_allclose(layer.estimate(even, training=False).unused, 0.0, atol=1e-3)


def test_unused_capacity_falls_along_its_gradient():
    x = unit(points(4, 16, 3) + [3.0, 0.0, 0.0]).astype(np.float32)
    layer = make(16, 3)

    def unused(z):
        return layer.estimate(z, training=False).unused

    for _ in range(20):
        slope = gradient(unused, x, np.ones(4, np.float32) / 4)
        x = unit(x - 0.05 * slope)
    assert np.mean(unused(x)) < 0.9 * np.mean(unused(unit(points(4, 16, 3) + [3.0, 0.0, 0.0]).astype(np.float32)))


# Finite scalar quantisation


def naive_scalar(z, levels):
    """(levels' numbers from 0, values in [-1, 1]) of one vector, by the paper's formulas."""
    digits, values = [], []
    for x, count in zip(z.astype(float), levels):
        half = (count - 1) * (1 + 1e-3) / 2
        offset = 0.5 if count % 2 == 0 else 0.0
        bounded = np.tanh(x + np.arctanh(offset / half)) * half - offset
        digits.append(int(np.rint(bounded)) + count // 2)
        values.append(np.rint(bounded) / (count // 2))
    return digits, values


@pytest.mark.parametrize("levels", [(8, 6, 5), (3,), (4, 4), (7, 5, 5, 5, 5)], ids=str)
def test_scalar_codes_against_the_paper(levels):
    layer, x = FiniteScalarQuantiser(levels), 2.0 * points(5, 6, len(levels))
    codes = np.asarray(layer(x))
    for place in np.ndindex(5, 6):
        digits, values = naive_scalar(x[place], levels)
        assert codes[place] == np.ravel_multi_index(digits[::-1], levels[::-1])
        np.testing.assert_allclose(layer.lookup(codes[place]), values, atol=1e-6)
    assert layer.bits == pytest.approx(np.log2(np.prod(levels)))
    np.testing.assert_allclose(layer.estimate(x, training=True).vectors, layer.lookup(codes), atol=1e-6)


@pytest.mark.parametrize("levels", [(8, 6, 5), (4, 3)], ids=str)
def test_every_scalar_code_is_reached_and_comes_back(levels):
    layer = FiniteScalarQuantiser(levels)
    every = np.arange(layer.codebook_size, dtype=np.int32)
    vectors = layer.lookup(every)
    assert len(np.unique(np.asarray(vectors), axis=0)) == len(every)
    np.testing.assert_array_equal(layer.nearest(vectors), every)
    spread = np.random.default_rng(0).uniform(-2.5, 2.5, (20_000, len(levels))).astype(np.float32)
    np.testing.assert_array_equal(np.unique(layer(spread)), every)


def test_scalar_gradient_is_that_of_the_squashing():
    layer, x = FiniteScalarQuantiser((8, 5)), points(4, 3, 2)
    found = gradient(lambda z: layer.estimate(z, training=True).vectors, x, np.ones_like(x))
    np.testing.assert_allclose(found, gradient(layer.prepare, x, np.ones_like(x)), rtol=1e-5)
    assert (found > 0).all()


# Bad arguments


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"codebook_size": 1}, "codebook_size must be a whole number from 2 up, received 1"),
        ({"stages": 0}, "stages must be"),
        ({"code_dim": 2.5}, "code_dim must be"),
        ({"gradient": "none"}, "gradient must be one of rotation, straight_through, received 'none'"),
        ({"commitment": 0.25}, "commitment must be one of"),
        ({"decay": 1.0}, "decay must be at least 0 and below 1"),
        ({"restart": -0.1}, "restart must be"),
        ({"kmeans_steps": -1}, "kmeans_steps must be"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        VectorQuantiser(**options)


@pytest.mark.parametrize("levels", [(), (8, 2)])
def test_bad_levels_are_refused(levels):
    with pytest.raises(InputError, match="levels must be whole numbers from 3 up"):
        FiniteScalarQuantiser(levels)
