"""The autoregressive priors of codes: causal order, likelihoods, and draws that follow them."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from spectrovae.errors import InputError
from spectrovae.layers import inverse_mu_law, mu_law
from spectrovae.models import PRIORS, PixelCNN, WaveNet

CONDITIONS = {"label": ("a", "b", "c"), "speaker": ("x", "y")}

VARIANTS = {
    "pixelcnn": lambda shape, classes, **more: PixelCNN(shape, classes, preset="tiny", **more),
    "pixelcnn, attention": lambda shape, classes, **more: PixelCNN(
        shape, classes, preset="tiny", attention=True, **more
    ),
    "wavenet": lambda shape, classes, **more: WaveNet(shape, classes, preset="tiny", **more),
    "wavenet, kernel 3": lambda shape, classes, **more: WaveNet(
        shape, classes, preset="tiny", kernel=3, dilations=(1, 2, 3), **more
    ),
}
MAPS = {"map": (3, 4), "stages": (3, 4, 2)}

every_variant = pytest.mark.parametrize("make", VARIANTS.values(), ids=VARIANTS)
every_map = pytest.mark.parametrize("shape", MAPS.values(), ids=MAPS)


@pytest.fixture(params=VARIANTS)
def toy(request):
    """A prior of 2 x 2 codes of three classes, its logits drawn apart so that the distribution is far from even."""
    prior = VARIANTS[request.param]((2, 2), 3)
    for head in prior.heads:
        head.kernel.assign(4.0 * head.kernel)
        head.bias.assign([0.5, -0.5, 0.0])
    return prior


@pytest.fixture(scope="module")
def all_toy_latents():
    return np.array(list(itertools.product(range(3), repeat=4)), np.int32).reshape(-1, 2, 2)


def codes_of(shape, classes=5, batch=3, seed=0):
    return np.random.default_rng(seed).integers(0, classes, (batch, *shape)).astype(np.int32)


def classes_of(batch=3):
    """Conditions of a batch; the last row of each is "none given"."""
    return {name: np.arange(batch, dtype=np.int32) % (len(names) + 1) for name, names in CONDITIONS.items()}


def noise_of(prior, batch=3, seed=1):
    return np.random.default_rng(seed).random((batch, *prior.noise_shape), np.float32)


def time_major(x):
    """(batch, height, width, ...) -> (batch, codes), as the order is documented: frame, height, stage."""
    return np.moveaxis(np.asarray(x), 2, 1).reshape(len(x), -1)


def moved(logits, reference):
    """Whether logits differ by more than rounding, which depends on the processor and on how many rows are computed at
    once: a layer sums up to 500 float32 products of size 1 or less, off by at most 500 * 2 ** -24 = 3e-5. Untrained,
    what a code depends on moves its logits by more than 5e-4."""
    return np.abs(np.asarray(logits) - np.asarray(reference)).max(axis=-1) > 3e-5


def dependence(prior, shape, classes=5):
    """(codes, codes) matrix: whether the logits of a row's code change with a column's, both in causal order."""
    size = int(np.prod(shape))
    base = codes_of(shape, classes, batch=1)
    order = time_major(np.arange(size).reshape(1, *shape))[0]
    changed = np.repeat(base.reshape(1, -1), size, axis=0)
    changed[np.arange(size), order] = (changed[np.arange(size), order] + 1) % classes
    with_changes = np.asarray(prior.logits(changed.reshape(size, *shape), {})).reshape(size, size, classes)
    without = np.asarray(prior.logits(base, {})).reshape(1, size, classes)
    return moved(with_changes, without)[:, order].T


# Order


@every_variant
@every_map
def test_a_code_depends_on_those_before_it_alone(make, shape):
    seen = dependence(make(shape, 5), shape)
    assert not np.triu(seen).any()


@every_map
@pytest.mark.parametrize("options", [{"preset": "small"}, {"preset": "tiny", "attention": True}])
def test_pixelcnn_has_no_blind_spot(options, shape):
    seen = dependence(PixelCNN(shape, 5, **options), shape)
    np.testing.assert_array_equal(seen, np.tri(len(seen), k=-1, dtype=bool))


def test_small_pixelcnn_sees_a_whole_map_of_16_by_8():
    prior = PixelCNN((16, 8), 5, preset="small")
    for weight in prior.weights:  # so that what comes through many layers stands above their rounding
        if "kernel" in weight.path:
            weight.assign(2.0 * weight)
    base = codes_of((16, 8), batch=1)
    changed = np.repeat(base, 2, axis=0)
    changed[0, 0, 0] += 1  # the very first code, and the last bin of the first frame
    changed[1, -1, 0] += 1
    changed %= 5
    before = np.asarray(prior.logits(base, {}))
    peak = np.abs(before).max()
    assert moved(prior.logits(changed, {}) / peak, before / peak)[:, :, -1].all()


def test_attention_reaches_what_convolutions_do_not():
    shape = (2, 8)
    near, far = (dependence(PixelCNN(shape, 5, preset="tiny", attention=on), shape) for on in (False, True))
    assert not near[-1, 0]
    assert far[-1, 0]


@pytest.mark.parametrize("shape", [(12,), (3, 4), (2, 3, 2)])
@pytest.mark.parametrize("kernel", [2, 3])
def test_wavenet_sees_its_receptive_field(shape, kernel):
    prior = WaveNet(shape, 5, preset="tiny", dilations=(1, 2, 3), kernel=kernel)
    expected = 1 + (kernel - 1) * 6
    assert prior.receptive_field == expected
    size = int(np.prod(shape))
    if len(shape) == 1:
        base = codes_of(shape, batch=1)
        changed = (np.repeat(base, size, axis=0) + np.eye(size, dtype=np.int32)) % 5
        seen = moved(prior.logits(changed, {}), prior.logits(base, {})).T
    else:
        seen = dependence(prior, shape)
    np.testing.assert_array_equal(seen, np.tri(size, k=-1, dtype=bool) & ~np.tri(size, k=-expected - 1, dtype=bool))


# Kept states


@every_variant
@pytest.mark.parametrize("conditions", [None, CONDITIONS], ids=["free", "conditioned"])
@every_map
def test_kept_states_give_the_logits_of_the_full_pass(make, shape, conditions):
    prior = make(shape, 5, conditions=conditions)
    latent, given = codes_of(shape), classes_of() if conditions else {}
    full, cached = np.asarray(prior.logits(latent, given)), np.asarray(prior.cached_logits(latent, given))
    assert full.shape == (3, *shape, 5)
    np.testing.assert_allclose(cached, full, atol=1e-5)


def test_kept_states_of_a_waveform():
    prior = WaveNet((50,), 16, preset="tiny", dilations=(1, 2, 4, 8))
    latent = codes_of((50,), 16)
    np.testing.assert_allclose(prior.cached_logits(latent), prior.logits(latent), atol=1e-5)


# Likelihoods and draws


def test_likelihoods_sum_to_one(toy, all_toy_latents):
    nll = np.asarray(toy.nll(all_toy_latents, {}))
    assert nll.shape == (81,)
    assert nll.std() > 0.5
    np.testing.assert_allclose(np.exp(-nll).sum(), 1.0, rtol=1e-5)


def test_draws_come_as_often_as_their_likelihood_says(toy, all_toy_latents):
    count = 20_000
    drawn = np.asarray(tf.function(lambda noise: toy.draw(noise, {}))(noise_of(toy, count)))
    assert drawn.dtype == np.int32
    seen = np.bincount(drawn.reshape(count, 4) @ [27, 9, 3, 1], minlength=81)
    expected = count * np.exp(-np.asarray(toy.nll(all_toy_latents, {})))
    pooled = expected < 5.0  # too rare for the test, taken together
    seen, expected = (np.append(x[~pooled], x[pooled].sum()) for x in (seen, expected))
    statistic = np.sum((seen - expected) ** 2 / np.maximum(expected, 1e-9))
    # The mean of chi-square and six of its standard deviations.
    assert statistic < len(seen) + 6.0 * np.sqrt(2.0 * len(seen))


@every_variant
@every_map
def test_a_draw_is_a_function_of_its_row(make, shape):
    prior = make(shape, 5, conditions=CONDITIONS)
    noise, given = noise_of(prior), classes_of()
    drawn = np.asarray(prior.draw(noise, given))
    assert drawn.shape == (3, *shape)
    np.testing.assert_array_equal(prior.draw(noise, given), drawn)
    turned = prior.draw(noise[::-1], {name: index[::-1] for name, index in given.items()})
    np.testing.assert_array_equal(np.asarray(turned)[::-1], drawn)
    alone = prior.draw(noise[1:2], {name: index[1:2] for name, index in given.items()})
    np.testing.assert_array_equal(alone, drawn[1:2])


@every_variant
def test_a_temperature_of_zero_is_greedy(make):
    prior = make((3, 4), 5)
    drawn = np.asarray(prior.draw(noise_of(prior), {}, temperature=0.0))
    np.testing.assert_array_equal(drawn, np.asarray(prior.logits(drawn, {})).argmax(axis=-1))
    np.testing.assert_array_equal(prior.draw(noise_of(prior, seed=2), {}, top_k=1), drawn)
    mixed = np.asarray(prior.draw(noise_of(prior), {}, temperature=np.float32([0.0, 5.0, 0.0])))
    np.testing.assert_array_equal(mixed[[0, 2]], drawn[[0, 2]])
    assert (mixed[1] != drawn[1]).any()


@every_variant
@pytest.mark.parametrize("guidance", [0.0, 1.0, 2.5])
def test_guidance_weighs_what_conditions_change(make, guidance):
    prior = make((3, 4), 5, conditions=CONDITIONS)
    given = classes_of()
    drawn = prior.draw(noise_of(prior), given, temperature=0.0, guidance=guidance)
    free, told = (np.asarray(prior.logits(drawn, conditions)) for conditions in ({}, given))
    np.testing.assert_array_equal(drawn, np.argmax(free + guidance * (told - free), axis=-1))
    plain = prior.draw(noise_of(prior), {} if guidance == 0.0 else given, temperature=0.0)
    assert np.array_equal(drawn, plain) == (guidance != 2.5)


@every_variant
@every_map
def test_a_prefix_is_kept_and_continued(make, shape):
    prior = make(shape, 5)
    noise = noise_of(prior)
    whole = np.asarray(prior.draw(noise, {}))
    mask = np.zeros((3, *shape), bool)
    mask[:, :, :2] = True
    # A prefix that it drew itself is continued as it was.
    np.testing.assert_array_equal(prior.draw(noise, {}, known=whole, mask=mask), whole)
    # Greedily, what follows another prefix is the likeliest given that prefix.
    known = codes_of(shape, seed=7)
    drawn = np.asarray(prior.draw(noise, {}, temperature=0.0, known=known, mask=mask))
    np.testing.assert_array_equal(drawn[mask], known[mask])
    np.testing.assert_array_equal(drawn[~mask], np.asarray(prior.logits(drawn, {})).argmax(axis=-1)[~mask])


@every_variant
def test_scattered_codes_are_kept(make):
    prior = make((3, 4), 5)
    mask, known = codes_of((3, 4), 2).astype(bool), codes_of((3, 4), seed=3)
    drawn = np.asarray(prior.draw(noise_of(prior), {}, temperature=0.0, known=known, mask=mask))
    np.testing.assert_array_equal(drawn[mask], known[mask])
    np.testing.assert_array_equal(drawn[~mask], np.asarray(prior.logits(drawn, {})).argmax(axis=-1)[~mask])


@every_variant
@every_map
def test_a_graph_takes_any_batch(make, shape):
    prior = make(shape, 5, conditions=CONDITIONS)
    axes = [None, *shape]
    index = tf.TensorSpec([None], tf.int32)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, prior.size]), dict.fromkeys(CONDITIONS, index), tf.TensorSpec([None]),
            tf.TensorSpec(axes, tf.int32), tf.TensorSpec(axes, tf.bool),
        ]
    )  # fmt: skip
    def draw(noise, given, temperature, known, mask):
        return prior.draw(noise, given, temperature, known=known, mask=mask)

    for batch in (1, 3):
        given, noise = classes_of(batch), noise_of(prior, batch)
        known, mask = codes_of(shape, batch=batch), np.zeros((batch, *shape), bool)
        mask[:, :, 0] = True
        drawn = draw(noise, given, np.ones(batch, np.float32), known, mask)
        np.testing.assert_array_equal(drawn, prior.draw(noise, given, known=known, mask=mask))


# Conditions, training, files


@every_variant
def test_conditions_matter_and_may_be_left_out(make):
    prior = make((3, 4), 5, conditions=CONDITIONS)
    latent = codes_of((3, 4))
    none = {name: np.full(3, prior.none_given(name), np.int32) for name in CONDITIONS}
    np.testing.assert_allclose(prior.nll(latent, {}), prior.nll(latent, none), rtol=1e-6)
    one = {**none, "label": np.zeros(3, np.int32)}
    assert np.abs(np.asarray(prior.nll(latent, one)) - np.asarray(prior.nll(latent, none))).min() > 1e-4


@every_variant
def test_training_drops_conditions(make):
    latent, given = codes_of((3, 4)), classes_of()
    given = {name: np.zeros_like(index) for name, index in given.items()}
    without, some = (make((3, 4), 5, conditions=CONDITIONS, dropout=0.0, condition_dropout=p) for p in (0.0, 0.9))
    some.set_weights(without.get_weights())
    kept, dropped = (np.asarray(m({"latent": latent, **given}, training=True)) for m in (without, some))
    np.testing.assert_allclose(kept, without.nll(latent, given), rtol=1e-5)
    assert (np.abs(dropped - kept) > 1e-4).any()


@pytest.mark.parametrize(("variant", "shape"), zip(VARIANTS, itertools.cycle(MAPS)))
def test_training_beats_the_entropy_of_single_codes(variant, shape):
    """The other pairs: tests/nightly/test_learning.py."""
    check_training(VARIANTS[variant], MAPS[shape])


def check_training(make, shape):
    # Each code is the one below it, or of the frame before, and one more; the first is even: log 4 nats a map in truth.
    first = np.random.default_rng(0).integers(0, 4, 256)
    order = np.arange(int(np.prod(shape)))
    frames = (first[:, None] + order) % 4
    moved = np.moveaxis(frames.reshape(256, shape[1], shape[0], *shape[2:]), 1, 2)
    label = {"label": (first % 2).astype(np.int32)}
    prior = make(shape, 4, conditions={"label": ("even", "odd")})
    prior.compile(optimizer=keras.optimizers.Adam(0.01))
    prior.fit({"latent": moved.astype(np.int32), **label}, epochs=12, batch_size=32, verbose=0)
    score = prior.evaluate({"latent": moved.astype(np.int32), **label}, verbose=0, return_dict=True)
    assert score["bits"] < 1.0  # of 2, which is the entropy of a code
    drawn = time_major(prior.draw(noise_of(prior, 32), {"label": np.zeros(32, np.int32)}))
    assert np.mean(np.diff(drawn) % 4 == 1) > 0.8
    assert np.mean(drawn[:, 0] % 2 == 0) > 0.8


@every_variant
@every_map
def test_every_weight_is_trained(make, shape):
    prior = make(shape, 5, conditions=CONDITIONS)
    with tf.GradientTape() as tape:
        loss = ops.sum(prior({"latent": codes_of(shape), **classes_of()}, training=True))
    weights = [weight.value for weight in prior.trainable_variables]
    assert all(gradient is not None for gradient in tape.gradient(loss, weights))


def test_saved_and_loaded_in_a_fresh_process(tmp_path, fresh_process):
    latent = codes_of((3, 4, 2))
    np.save(tmp_path / "latent.npy", latent)
    priors = {}
    for name, options in (("pixelcnn", {"attention": True}), ("wavenet", {"kernel": 3, "dilations": (1, 3)})):
        prior = PRIORS[name]((3, 4, 2), 5, preset="tiny", conditions=CONDITIONS, dropout=0.2, **options)
        prior.compile(optimizer="adam", run_eagerly=True)
        prior.fit({"latent": latent, **classes_of()}, verbose=0)
        prior.save(tmp_path / f"{name}.keras")
        again = PRIORS[name].from_config(prior.get_config())
        assert again.get_config() == prior.get_config()
        assert [w.shape for w in again.weights] == [w.shape for w in prior.weights]
        priors[name] = prior
    fresh_process(
        """
import sys, numpy as np, keras, spectrovae.models
folder, *names = sys.argv[1:]
for name in names:
    prior = keras.models.load_model(f"{folder}/{name}.keras")
    np.save(f"{folder}/{name}.npy", prior.logits(np.load(folder + "/latent.npy"), {}))
""",
        tmp_path,
        *priors,
    )
    for name, prior in priors.items():
        np.testing.assert_allclose(np.load(tmp_path / f"{name}.npy"), prior.logits(latent, {}), atol=3e-5)


# Bad input


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: PixelCNN((4,), 5), "axes"),
        (lambda: PixelCNN((2, 3, 4, 5), 5), "axes"),
        (lambda: WaveNet((2, 3, 4, 5), 5), "axes"),
        (lambda: PixelCNN((0, 3), 5), "positive"),
        (lambda: PixelCNN((2, 3), 1), "two classes"),
        (lambda: WaveNet((2, 3), 0), "two classes"),
        (lambda: PixelCNN((2, 3), 5, preset="huge"), "preset"),
        (lambda: WaveNet((2, 3), 5, kernel=4), "kernel"),
        (lambda: WaveNet((2, 3), 5, dilations=()), "dilations"),
        (lambda: PixelCNN((2, 3), 5, preset="tiny", dropout=1.0), "dropout"),
    ],
)
def test_bad_input_is_refused(make, says):
    with pytest.raises(InputError, match=says):
        make()


def test_what_is_kept_needs_its_mask():
    prior = PixelCNN((2, 3), 5, preset="tiny")
    with pytest.raises(InputError, match="known and mask"):
        prior.draw(noise_of(prior), {}, known=codes_of((2, 3)))


# Mu-law


@pytest.mark.parametrize("classes", [16, 255, 256])
def test_mu_law_codes_come_back(classes):
    codes = np.arange(classes, dtype=np.int32)
    np.testing.assert_array_equal(mu_law(inverse_mu_law(codes, classes), classes), codes)
    waveform = np.linspace(-1.2, 1.2, 1001, dtype=np.float32)
    found = ops.convert_to_numpy(mu_law(waveform, classes))
    assert (found.min(), found.max()) == (0, classes - 1)
    assert (np.diff(found) >= 0).all()


def test_mu_law_is_the_companding_of_the_mdct():
    from spectrovae.dsp.mdct import mu_law_compress

    waveform = np.linspace(-1.0, 1.0, 101, dtype=np.float32)
    expected = np.floor(0.5 * (np.asarray(mu_law_compress(waveform, 255.0)) + 1.0) * 255.0 + 0.5)
    np.testing.assert_allclose(mu_law(waveform), expected, atol=1)
