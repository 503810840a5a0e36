"""Diagnostics against closed forms and naive recomputation, on encoders and decoders whose latent is known exactly."""

import json

import keras
import numpy as np
import pytest
from families import shapes
from keras import ops
from scipy import stats

from spectrovae.errors import InputError
from spectrovae.evaluation import diagnostics
from spectrovae.layers import GaussianParameters
from spectrovae.models import FAMILIES, UNet
from spectrovae.quantisers import Quantiser

BINS, FRAMES = 4, 2
CELLS = BINS * FRAMES


def raw_log_variance(log_variance):
    """What GaussianParameters bounds to ``log_variance``."""
    return 9.0 * np.arctanh((np.asarray(log_variance) + 3.0) / 9.0) - 3.0


def affine(x, matrix, bias, name=None):
    layer = keras.layers.Dense(len(bias), name=name)
    x = layer(x)
    layer.set_weights([np.asarray(matrix, np.float32), np.asarray(bias, np.float32)])
    return x


def gaussian_encoder(groups):
    """Posteriors N(scale * cells, exp(log_variance)), for groups of (cells, scale, log_variance)."""
    inputs = keras.Input((BINS, FRAMES, 1))
    cells = keras.layers.Flatten()(inputs)
    means = []
    for index, (chosen, scale, log_variance) in enumerate(groups):
        d = len(chosen)
        matrix = np.zeros((CELLS, 2 * d))
        matrix[chosen, np.arange(d)] = scale
        bias = np.concatenate([np.zeros(d), np.broadcast_to(raw_log_variance(log_variance), d)])
        name = "posterior" if len(groups) == 1 else f"posterior_{index}"
        means.append(GaussianParameters(name=name)(affine(cells, matrix, bias))[0])
    return keras.Model(inputs, means if len(means) > 1 else means[0])


def linear_decoder(groups):
    """Puts group values back where :func:`gaussian_encoder` took them; the other cells are 0."""
    inputs = [keras.Input((len(chosen),), name=f"group_{index}") for index, (chosen, *_) in enumerate(groups)]
    parts = []
    for x, (chosen, scale, _) in zip(inputs, groups):
        matrix = np.zeros((len(chosen), CELLS))
        matrix[np.arange(len(chosen)), chosen] = 1.0 / scale if scale else 1.0
        parts.append(affine(x, matrix, np.zeros(CELLS)))
    x = parts[0] if len(parts) == 1 else keras.layers.Add()(parts)
    outputs = keras.layers.Reshape((BINS, FRAMES, 1))(x)
    return keras.Model(inputs if len(inputs) > 1 else inputs[0], outputs)


def decibels(per_unit):
    """Levels of which a unit of a feature is worth so many dB, a number or one a bin."""
    return lambda features, _: np.asarray(features)[..., :1] * np.reshape(per_unit, (-1, 1, 1))


def normal(clips, seed=0, scale=1.0):
    return np.random.default_rng(seed).normal(0.0, scale, (clips, BINS, FRAMES, 1)).astype(np.float32)


def measured(groups, features, **options):
    return diagnostics.diagnose(gaussian_encoder(groups), linear_decoder(groups), features, **options)


@pytest.mark.parametrize("noise", [1.0, 0.3])
def test_mutual_information_of_a_linear_gaussian_channel(noise):
    """x ~ N(0, 1), z | x ~ N(a x, v): I(x; z) = 1/2 log(1 + a^2 / v) a dimension; both divergences in closed form."""
    a, d = 0.6, 3
    (group,) = measured([(range(d), a, np.log(noise))], normal(2000))["groups"]
    information = 0.5 * d * np.log(1.0 + a**2 / noise)
    total = a**2 + noise
    assert group["mutual_information_nats"] == pytest.approx(information, abs=0.06)
    assert group["kl_nats"] == pytest.approx(0.5 * d * (total - 1.0 - np.log(noise)), rel=0.05)
    assert group["aggregate_kl_nats"] == pytest.approx(0.5 * d * (total - 1.0 - np.log(total)), abs=0.08)
    assert not group["at_bound"]
    assert group["bound_nats"] == pytest.approx(np.log(2000))


def test_mutual_information_says_when_it_is_at_its_bound():
    """Posteriors so narrow that no two overlap tell every clip apart: log(clips), whatever the truth."""
    (group,) = measured([(range(CELLS), 1.0, -10.0)], normal(100))["groups"]
    assert group["mutual_information_nats"] == pytest.approx(np.log(100), abs=1e-3)
    assert group["at_bound"] is True


def test_mutual_information_equals_a_naive_sum():
    random = np.random.default_rng(3)
    mean, log_variance = random.normal(size=(40, 5)), random.normal(size=(40, 5))
    found = diagnostics.mutual_information(mean, log_variance, np.random.default_rng(7))
    noise = np.random.default_rng(7).standard_normal((40, 5))
    terms = []
    for i in range(40):
        z = mean[i] + np.exp(log_variance[i] / 2) * noise[i]
        density = [np.prod(stats.norm.pdf(z, mean[j], np.exp(log_variance[j] / 2))) for j in range(40)]
        terms.append(np.log(density[i]) - np.log(np.mean(density)))
    assert found["mutual_information_nats"] == pytest.approx(np.mean(terms), rel=1e-9)


def test_a_dimension_that_ignores_the_input_is_not_active():
    features = normal(300)
    result = measured([([0, 1], 1.0, -2.0), ([2], 0.0, 0.0), ([3], 0.09, 0.0), ([4], 0.12, 0.0)], features)
    assert [group["active_units"] for group in result["groups"]] == [2, 0, 0, 1]
    ignored = result["groups"][1]
    np.testing.assert_allclose(ignored["kl_per_dimension"], 0.0, atol=1e-6)
    assert ignored["mutual_information_nats"] == pytest.approx(0.0, abs=1e-6)
    assert result["latent"]["active_units"] == 3
    assert result["latent"]["dimensions"] == 5
    for group, cells in zip(result["groups"], ([0, 1], [2], [3], [4])):
        scale = {0: 1.0, 2: 0.0, 3: 0.09, 4: 0.12}[cells[0]]
        expected = np.var(scale * features.reshape(300, -1)[:, cells], axis=0)
        np.testing.assert_allclose(group["mean_variance"], expected, rtol=1e-4)


def test_the_cost_of_taking_a_group_away_in_closed_form():
    """Cells of variance s^2: another clip's value adds 2 s^2 of squared error, a draw from N(0, 1) adds s^2 + 1."""
    s, db = 2.0, 10.0
    groups = [([0, 1], 1.0, -2.0), ([2, 3, 4], 1.0, -2.0)]
    result = measured(groups, normal(256, scale=s), levels=decibels(db), batch_size=256)
    kept = CELLS - 5
    base = db * np.sqrt(kept * s**2 / CELLS)
    assert result["rmse_db"] == pytest.approx(base, rel=0.1)

    def rise(added):
        return db * np.sqrt((kept * s**2 + added) / CELLS) - base

    first, second = result["groups"]
    assert first["shuffle_rise_db"] == pytest.approx(rise(2 * 2 * s**2), rel=0.15)
    assert second["shuffle_rise_db"] == pytest.approx(rise(3 * 2 * s**2), rel=0.15)
    assert result["latent"]["shuffle_rise_db"] == pytest.approx(rise(5 * 2 * s**2), rel=0.15)
    assert first["prior_rise_db"] == pytest.approx(rise(2 * (s**2 + 1)), rel=0.15)
    assert second["prior_rise_db"] == pytest.approx(rise(3 * (s**2 + 1)), rel=0.15)


def test_errors_are_in_the_decibels_of_each_bin():
    features, db = normal(64), [1.0, 2.0, 3.0, 4.0]
    result = measured([([0], 1.0, -2.0)], features, levels=decibels(db))
    error = features.copy()
    error[:, 0, 0] = 0.0
    expected = np.sqrt(np.mean((error * np.reshape(db, (1, -1, 1, 1))) ** 2))
    assert result["rmse_db"] == pytest.approx(expected, rel=1e-5)


class Rounding(Quantiser):
    """Codes that are the first cell of each patch."""

    codebook_size, stages = 8, 2

    def build(self, input_shape):
        self.built = True

    def call(self, x):
        first = ops.cast(x[:, ::2, ::2, 0], "int32")
        return ops.stack([first, (first * 3) % self.codebook_size], axis=-1)

    def compute_output_spec(self, x):
        return keras.KerasTensor((None, x.shape[1] // 2, x.shape[2] // 2, 2), "int32")


def code_models(bins=8, frames=4, pad=False):
    inputs = keras.Input((bins, frames, 1))
    x = inputs
    if pad:
        x = keras.layers.ZeroPadding2D([(0, -bins % 2), (0, -frames % 2)], name="pad")(x)
    codes = Rounding(name="quantiser")(x)
    latent = keras.Input(codes.shape[1:], dtype="int32", name="codes")
    features = keras.layers.UpSampling2D(2)(ops.cast(latent[..., :1], "float32"))
    return keras.Model(inputs, codes), keras.Model(latent, features[:, :bins, :frames])


def test_codes_are_counted_over_the_whole_set_with_and_without_silence():
    random = np.random.default_rng(0)
    features = random.integers(0, 6, (50, 8, 4, 1)).astype(np.float32)
    features[:, 4:] = 0.0  # silence in half of the tokens, all of code 0
    features[0, :2, :2] = [[[0.0], [0.0]], [[0.0], [5.0]]]  # code 0, but something sounds
    result = diagnostics.diagnose(*code_models(), features, batch_size=7)["codes"]
    assert result["codebook_size"] == 8
    assert result["tokens_per_clip"] == 8
    assert result["nominal_bits_per_clip"] == 8 * 2 * 3
    chosen = features[:, ::2, ::2, 0].astype(int)
    sounding = np.zeros(chosen.shape, bool)
    for clip, row, column in np.ndindex(*chosen.shape):
        sounding[clip, row, column] = features[clip, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].max() > 0
    assert 0 < sounding.sum() < sounding.size
    for stage, codes in zip(result["stages"], (chosen, chosen * 3 % 8)):
        for name, values in (("all", codes.ravel()), ("active", codes[sounding])):
            counts = np.bincount(values, minlength=8)
            assert stage[name]["tokens"] == len(values)
            assert stage[name]["used"] == np.sum(counts > 0)
            assert stage[name]["usage"] == np.mean(counts > 0)
            assert stage[name]["bits"] == pytest.approx(stats.entropy(counts, base=2))
            assert stage[name]["perplexity"] == pytest.approx(np.exp(stats.entropy(counts)))


def test_tokens_of_a_padded_map_and_of_a_floor_that_is_not_zero():
    features = np.full((2, 7, 3, 1), -1.5, np.float32)
    features[1, 6, 2] = 1.0
    encoder, decoder = code_models(7, 3, pad=True)
    counts = diagnostics.CodeCounts.of(encoder, floor=-1.5)
    expected = np.zeros((2, 4, 2), bool)
    expected[1, 3, 1] = True
    np.testing.assert_array_equal(counts.active_tokens(features), expected)
    codes = diagnostics.diagnose(encoder, decoder, np.abs(features), floor=1.5)["codes"]
    assert codes["stages"][0]["active"]["tokens"] == 1
    assert codes["stages"][0]["all"]["tokens"] == 16


def test_exchanging_codes_costs_what_it_costs():
    features = np.zeros((2, 8, 4, 1), np.float32)
    features[1] = 4.0
    result = diagnostics.diagnose(*code_models(), features, levels=decibels(2.0))
    assert result["rmse_db"] == 0.0
    assert result["latent"]["shuffle_rise_db"] == pytest.approx(8.0)
    assert "kl_nats" not in result["latent"]


@pytest.mark.parametrize(("claimed", "true"), [(1.0, 1.0), (0.5, 1.0), (2.0, 1.0)])
def test_calibration_of_the_predicted_sigma(claimed, true):
    inputs = keras.Input((2,), name="latent")
    bias = np.concatenate([np.zeros(CELLS), np.full(CELLS, raw_log_variance(2 * np.log(claimed)))])
    x = affine(inputs, np.zeros((2, 2 * CELLS)), bias)
    x = keras.layers.Permute((2, 1))(keras.layers.Reshape((2, CELLS))(x))
    x = keras.layers.Reshape((BINS, FRAMES, 2))(x)
    decoder = keras.Model(inputs, GaussianParameters(name="likelihood")(x)[0])
    result = diagnostics.diagnose(gaussian_encoder([([0, 1], 1.0, 0.0)]), decoder, normal(256, scale=true))
    found, z = result["calibration"], claimed / true
    assert found["squared_z"] == pytest.approx(1.0 / z**2, rel=0.1)
    assert found["within_1_sigma"] == pytest.approx(stats.chi2.cdf(z**2, 1), abs=0.03)
    assert found["within_2_sigma"] == pytest.approx(stats.chi2.cdf(4 * z**2, 1), abs=0.03)
    assert found["sigma_rms"] == pytest.approx(claimed, rel=1e-3)


def test_the_skips_of_a_unet_are_told_from_its_bottleneck():
    model = UNet((16, 8, 1), preset="tiny")
    features = np.random.default_rng(0).uniform(size=(12, 16, 8, 1)).astype(np.float32)
    result = diagnostics.diagnose(model.encoder, model.decoder, features, levels=decibels(80.0), batch_size=12)
    assert [group["name"] for group in result["groups"]] == ["bottleneck", "skip_1", "skip_0"]

    def error(latents):
        return 80.0 * np.sqrt(np.mean((np.asarray(model.decoder(latents)) - features) ** 2))

    latents = [np.asarray(x) for x in model.encoder(features)]
    base = error(latents)
    assert result["rmse_db"] == pytest.approx(base, rel=1e-4)
    zeroed = [latents[0], *(np.zeros_like(skip) for skip in latents[1:])]
    assert result["skips"]["zero_rise_db"] == pytest.approx(error(zeroed) - base, rel=1e-3)
    for index, group in enumerate(result["groups"]):
        changed = [np.zeros_like(x) if i == index else x for i, x in enumerate(latents)]
        assert group["zero_rise_db"] == pytest.approx(error(changed) - base, rel=1e-2, abs=1e-3)
    assert "prior_rise_db" not in result["groups"][0]


def test_the_result_is_json_and_repeats():
    groups = [([0, 1], 1.0, -2.0), ([2], 1.0, -1.0)]
    first, again = (measured(groups, normal(30), seed=4) for _ in range(2))
    assert json.loads(json.dumps(first, allow_nan=False)) == again
    assert measured(groups, np.array_split(normal(30), 4))["clips"] == 30


def test_one_clip_and_none():
    result = measured([([0], 1.0, 0.0)], normal(1))
    assert "shuffle_rise_db" not in result["latent"]
    with pytest.raises(InputError, match="at least one clip"):
        measured([([0], 1.0, 0.0)], normal(0))


def test_live_columns_are_those_of_the_whole_diagnosis():
    groups = [([0, 1], 1.0, -2.0), ([2], 0.01, -1.0)]
    features = normal(600)
    columns = diagnostics.live_columns(diagnostics.Probe(gaussian_encoder(groups)), np.array_split(features, 3))
    result = measured(groups, features)
    assert columns["active_units"] == 2
    assert (columns["active_units_0"], columns["active_units_1"]) == (2, 0)
    expected = sum(group["mutual_information_nats"] for group in result["groups"])
    assert columns["mutual_information"] == pytest.approx(expected, abs=0.2)

    encoder, decoder = code_models()
    features = np.random.default_rng(1).integers(0, 8, (20, 8, 4, 1)).astype(np.float32)
    columns = diagnostics.live_columns(diagnostics.Probe(encoder), [features])
    stages = diagnostics.diagnose(encoder, decoder, features)["codes"]["stages"]
    for index, stage in enumerate(stages):
        assert columns[f"code_perplexity_{index}"] == pytest.approx(stage["active"]["perplexity"])
        assert columns[f"code_usage_{index}"] == stage["active"]["usage"]
    unet = UNet((16, 8, 1), preset="tiny")
    assert diagnostics.live_columns(diagnostics.Probe(unet.encoder), [np.zeros((2, 16, 8, 1))]) == {}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_can_be_diagnosed(family):
    shape = shapes(family)[0]
    model = FAMILIES[family](shape, preset="tiny")
    features = np.random.default_rng(0).uniform(size=(20, *shape)).astype(np.float32)
    result = diagnostics.diagnose(model.encoder, model.decoder, features, levels=decibels(80.0), batch_size=8)
    json.dumps(result, allow_nan=False)
    error = 80.0 * np.sqrt(np.mean((np.asarray(model.reconstruct(features)) - features) ** 2))
    assert result["rmse_db"] == pytest.approx(error, rel=1e-2)
    assert len(result["groups"]) == len(model.encoder.outputs)
    assert ("kl_nats" in result["latent"]) == (model.prior is not None)
    assert all(("prior_rise_db" in group) == (model.prior is not None) for group in result["groups"])
    assert ("codes" in result) == ("int" in str(model.encoder.outputs[0].dtype))
    columns = diagnostics.live_columns(diagnostics.Probe(model.encoder), [features])
    assert ("active_units" in columns) == (model.prior is not None)
    if model.prior is not None:
        assert columns["active_units"] == result["latent"]["active_units"]
