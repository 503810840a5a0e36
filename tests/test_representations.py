"""Representations against librosa and scikit-learn, and round trips that each must survive."""

import itertools
import warnings

import keras
import librosa
import numpy as np
import pytest
import sklearn.preprocessing
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from spectrovae import representations
from spectrovae.audio import example_length
from spectrovae.dsp.phase import METHODS
from spectrovae.errors import InputError
from spectrovae.representations import NORMALISATIONS, REPRESENTATIONS, LogSTFT
from spectrovae.representations.normalise import bin_statistics

KINDS = [(name, normalisation) for name, kind in REPRESENTATIONS.items() for normalisation in kind.normalisations]


def noise(*shape, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def small(normalisation="range", **options):
    """64 bins at 8 kHz: fast."""
    return LogSTFT(8000, n_fft=128, hop_length=32, normalisation=normalisation, **options)


def librosa_db(waveform, n_fft, hop_length):
    """Level in dB under a full-scale sine, floored at -80, in double precision: (batch, bins, frames, 1)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # short signals
        spectrum = librosa.stft(waveform.astype(float), n_fft=n_fft, hop_length=hop_length, pad_mode="constant")
    full_scale = librosa.filters.get_window("hann", n_fft).sum() / 2.0
    db = librosa.amplitude_to_db(np.abs(spectrum), ref=full_scale, amin=1e-4 * full_scale, top_db=None)
    return db[:, :-1, :, None]


def convergence(wanted, found):
    return 20.0 * np.log10(np.linalg.norm(wanted - found) / np.linalg.norm(wanted))


# Levels


@pytest.mark.parametrize(("n_fft", "hop_length"), [(512, 128), (512, 256), (400, 160), (64, 20)])
@pytest.mark.parametrize("samples", [1, 500, 8064])
def test_level_equals_librosa(speech, n_fft, hop_length, samples):
    waveform = speech[:, 1000 : 1000 + samples] if samples < 8064 else speech
    found = LogSTFT(8000, n_fft=n_fft, hop_length=hop_length).decibels(waveform).numpy()
    expected = librosa_db(waveform, n_fft, hop_length)
    assert found.shape == expected.shape
    # Rounding in single precision is relative to the loudest bins, so only faint cells may differ by more.
    loud = expected > expected.max(axis=(1, 2, 3), keepdims=True) - 40.0
    np.testing.assert_allclose(found[loud], expected[loud], atol=1e-4)
    np.testing.assert_allclose(found, expected, atol=0.02)


@pytest.mark.parametrize("bin_index", [3, 17, 40])
def test_full_scale_sine_reads_0_db(bin_index):
    sine = np.sin(2.0 * np.pi * bin_index / 128.0 * np.arange(4000)).astype(np.float32)[None]
    level = small(max_db=6.0).decibels(sine).numpy()[0, :, 10:-10, 0]
    assert level[bin_index] == pytest.approx(0.0, abs=1e-3)
    assert np.all(level.argmax(axis=0) == bin_index)


def test_levels_stay_in_the_range(speech):
    representation = small(max_db=-20.0, dynamic_range=30.0)
    features = representation(speech).numpy()
    assert (representation.min_db, representation.max_db) == (-50.0, -20.0)
    assert (features.min(), features.max()) == (0.0, 1.0)


def test_shapes():
    assert LogSTFT(8000, n_fft=512, hop_length=128).feature_shape(8064) == (256, 64, 1)
    representation = small()
    for samples in (1, 31, 32, 33, 1000):
        shape = representation.feature_shape(samples)
        assert representation(noise(2, samples)).shape == (2, *shape)
        assert representation.compute_output_shape((2, samples)) == (2, *shape)
    assert representation.compute_output_shape((None, None)) == (None, 64, None, 1)
    assert representation.feature_shape(representation.samples_of(9))[1] == 9
    assert representation.feature_shape(representation.samples_of(9) - 1)[1] == 8


# Normalisation


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@given(max_db=st.floats(-40.0, 20.0), dynamic_range=st.floats(10.0, 120.0), seed=st.integers(0, 99))
def test_to_db_inverts_from_db(normalisation, max_db, dynamic_range, seed):
    representation = small(normalisation, max_db=max_db, dynamic_range=dynamic_range)
    if normalisation == "per_bin":
        representation.adapt([noise(4, 600, seed=seed + 100)])
    # Levels outside the range too: a perturbation in dB must survive.
    db = np.float32(max_db + dynamic_range * np.random.default_rng(seed).uniform(-1.5, 0.5, (2, 64, 9, 1)))
    features = representation.from_db(db)
    statistics = representation.statistics(db) if normalisation == "per_example" else None
    np.testing.assert_allclose(representation.to_db(features, statistics).numpy(), db, atol=1e-3)


def test_where_a_unit_is_worth_no_one_number_of_db_there_is_none():
    """Under one's own range for each clip, of samples, of linear magnitudes and of signed coefficients."""
    kinds = representations.REPRESENTATIONS
    for made in (
        small("per_example"), kinds["mdct"](8000), kinds["spectrum"](8000, scale="linear"),
        kinds["spectrum"](8000, scale="linear", normalisation="per_bin"),
        kinds["spectrum"](8000, normalisation="per_example"), kinds["chunks"](8000), kinds["subbands"](8000),
    ):  # fmt: skip
        assert made.db_per_unit is None
    assert kinds["magnitude-phase"](8000).db_per_unit == kinds["mdct"](8000, companding="sign_log").db_per_unit == 80.0


@pytest.mark.parametrize("normalisation", ["range", "per_bin"])
def test_db_per_unit_is_the_slope_of_to_db(normalisation):
    representation = small(normalisation)
    representation.adapt([noise(4, 600)])
    features = noise(1, 64, 5, 1)
    step = (representation.to_db(features + 1.0) - representation.to_db(features)).numpy()
    expected = np.broadcast_to(np.reshape(representation.db_per_unit, (-1, 1)), (64, 5))
    np.testing.assert_allclose(step[0, ..., 0], expected, rtol=1e-4)


def test_range_maps_the_fixed_range_to_0_1():
    representation = small(max_db=-10.0, dynamic_range=60.0)
    found = representation.from_db(np.float32([-70.0, -40.0, -10.0])[:, None]).numpy().ravel()
    assert found == pytest.approx([0.0, 0.5, 1.0], abs=1e-6)


def test_per_bin_equals_scikit_learn(speech):
    representation = small("per_bin")
    representation.adapt(tf.data.Dataset.from_tensor_slices(speech).batch(5))
    columns = librosa_db(speech, 128, 32)[..., 0].transpose(0, 2, 1).reshape(-1, 64)
    scaler = sklearn.preprocessing.StandardScaler().fit(columns)
    assert representation.bin_mean.numpy() == pytest.approx(scaler.mean_, abs=1e-2)
    assert representation.bin_std.numpy() == pytest.approx(scaler.scale_, rel=1e-3)
    found = representation(speech).numpy()[..., 0].transpose(0, 2, 1).reshape(-1, 64)
    np.testing.assert_allclose(found, scaler.transform(columns), atol=1e-2)


def test_per_bin_leaves_a_constant_bin_finite():
    representation = small("per_bin")
    representation.adapt([np.zeros((2, 500), np.float32)])
    np.testing.assert_allclose(representation(np.zeros((1, 500), np.float32)).numpy(), 0.0, atol=1e-4)


def kinds(**options):
    """(name, representation) of every kind, scale and companding, small."""
    search = {"phase_iterations": 2, **options}
    yield "log-stft", LogSTFT(8000, n_fft=128, hop_length=32, **search)
    yield "log-mel", representations.LogMel(8000, n_fft=256, hop_length=64, n_mels=12, inversion_iterations=9, **search)
    for phase in ("cos_sin", "instantaneous_frequency"):
        yield phase, representations.MagnitudePhase(8000, n_fft=128, hop_length=32, phase=phase, **options)
    for companding in ("asinh", "mu_law", "linear", "sign_log"):
        yield f"mdct, {companding}", representations.MDCT(8000, frame_length=64, companding=companding, **options)
    for content, scale in itertools.product(("magnitude", "magnitude_phase", "mdct"), ("db", "linear")):
        yield f"{content}, {scale}", representations.Spectrum(8000, n_fft=64, content=content, scale=scale, **options)


PER_BIN = dict(kinds(normalisation="per_bin", dynamic_range=140.0))
PER_EXAMPLE = dict(kinds(normalisation="per_example", dynamic_range=140.0, max_db=-30.0))
ALL = dict(kinds()) | {f"{name}, per_example": kind for name, kind in PER_EXAMPLE.items()}
ALL |= {f"{name}, per_bin": kind for name, kind in PER_BIN.items()}
ALL |= {
    "subbands": representations.Subbands(8000), "one band": representations.Subbands(8000, bands=1, peak=0.1),
    "chunks": representations.Chunks(8000, length=64),
}  # fmt: skip


@pytest.mark.parametrize("level", [0.3, 0.003, 1e-4])
@pytest.mark.parametrize("name", PER_BIN)
def test_per_bin_gives_every_bin_unit_variance(name, level):
    """Of noise, at any level, on any scale; bins of a coloured spectrum too."""
    random = np.random.default_rng(0)
    waveform = np.cumsum(random.standard_normal((300, 640)), axis=1) + 0.1 * random.standard_normal((300, 640))
    waveform = (level * waveform / np.abs(waveform).max()).astype(np.float32)
    representation = PER_BIN[name]
    representation.adapt([waveform[:200], waveform[200:]])
    features = representation(waveform).numpy()[:, : representation.bins, :, 0]
    np.testing.assert_allclose(np.sqrt(np.mean(np.square(features), axis=(0, 2))), 1.0, atol=2e-3)
    if not representation.about_zero:
        np.testing.assert_allclose(features.mean(axis=(0, 2)), 0.0, atol=2e-3)


@pytest.mark.parametrize("amplitude", [0.9, 0.01, 1e-5, 4.0])
@pytest.mark.parametrize("name", PER_EXAMPLE)
def test_per_example_keeps_the_level_of_any_clip(name, amplitude):
    """The peak of the range is -30 dB and its floor -170 dB; a clip may be louder than the one."""
    representation = PER_EXAMPLE[name]
    waveform = np.float32(amplitude) * np.sin(np.arange(640) * np.float32([[0.3], [0.9]])).astype(np.float32)
    statistics = representation.statistics(representation.decibels(waveform))
    features = representation(waveform)
    level = representation.analyse(waveform, representation.min_db).numpy()[..., 0]
    again = representation.to_db(features, statistics).numpy()[..., 0]
    np.testing.assert_allclose(again, level, atol=0.05)
    if representation.keeps_phase:
        found = representation.inverse(features, 640, statistics).numpy()
        np.testing.assert_allclose(found, waveform, atol=2e-3 * amplitude)


def test_a_clip_below_the_floor_is_not_raised_to_it():
    """Its features are divided by the floor's value, not by their own."""
    representation = representations.MDCT(8000, frame_length=64, normalisation="per_example", dynamic_range=60.0)
    waveform = (1e-5 * noise(1, 640)).astype(np.float32)
    statistics = representation.statistics(representation.decibels(waveform))
    found = representation.inverse(representation(waveform), 640, statistics).numpy()
    np.testing.assert_allclose(found, waveform, atol=1e-9)


def test_a_constant_bin_is_divided_by_what_others_vary_by():
    values = np.zeros((2, 3, 100, 1))
    values[:, 0, :, 0], values[:, 1, :, 0] = 1e-4 * noise(2, 100), 1e-2 * noise(2, 100)
    values[:, 2] = -80.0
    _, std = bin_statistics([values])
    assert std[2] == pytest.approx(np.sqrt(std[0] * std[1]))
    assert bin_statistics([np.full((1, 2, 5, 1), -80.0)])[1].tolist() == [1.0, 1.0]


# What a decoder may answer


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("size", [1e3, np.inf])
def test_any_features_give_a_finite_and_bounded_waveform(name, size):
    representation = ALL[name]
    if representation.normalisation == "per_bin":
        representation.adapt([noise(4, 640)])
    shape = (2, *representation.feature_shape(640))
    random = np.random.default_rng(0)
    features = np.where(random.random(shape) < 0.5, -size, size) if size == np.inf else size * random.normal(size=shape)
    statistics = np.float32([[-60.0, -10.0]] * 2) if representation.normalisation == "per_example" else None
    waveform = representation.inverse(features.astype(np.float32), 640, statistics).numpy()
    assert waveform.shape == (2, 640)
    assert np.isfinite(waveform).all()
    # 20 dB above full scale in each of 64 bins or 128 samples at most.
    assert np.abs(waveform).max() < 1e4


@pytest.mark.parametrize("name", ["log-stft", "cos_sin", "mdct, asinh", "subbands"])
def test_features_that_are_no_number_stay_visible(name):
    features = np.full((1, *ALL[name].feature_shape(640)), np.nan, np.float32)
    assert np.isnan(ALL[name].inverse(features, 640).numpy()).any()


# Defaults


@pytest.mark.parametrize(
    "rate", [8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000, 192000, 1000]
)
def test_an_example_of_the_default_length_has_64_frames(rate):
    samples = example_length(rate)
    assert 0.5 <= samples / rate <= 1.01
    for name in ("log-stft", "log-mel", "magnitude-phase", "mdct"):
        options = {"n_mels": 4} if name == "log-mel" else {}
        representation = REPRESENTATIONS[name](rate, **options)
        assert representation.feature_shape(samples)[1] == 64, name
        assert representation.hop_length / rate <= 0.016


def test_per_example_spans_0_1_and_ignores_the_others(speech):
    representation = small("per_example")
    features = representation(speech).numpy()
    assert features.min(axis=(1, 2, 3)) == pytest.approx(np.zeros(12))
    assert features.max(axis=(1, 2, 3)) == pytest.approx(np.ones(12))
    scaler = sklearn.preprocessing.MinMaxScaler().fit(representation.decibels(speech[:1]).numpy().reshape(-1, 1))
    expected = scaler.transform(representation.decibels(speech[:1]).numpy().reshape(-1, 1)).reshape(64, -1)
    np.testing.assert_allclose(features[0, ..., 0], expected, atol=1e-5)


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_silence_is_finite(normalisation):
    representation = small(normalisation)
    silence = np.zeros((2, 400), np.float32)
    features = representation(silence)
    assert np.all(np.isfinite(features.numpy()))
    assert np.max(np.abs(representation.inverse(features, 400).numpy())) < 1e-2


@pytest.mark.parametrize(
    "dataset", [[], tf.data.Dataset.from_tensor_slices(noise(0, 100)).batch(2)], ids=["list", "tf.data"]
)
def test_adapt_on_nothing_is_refused(dataset):
    with pytest.raises(InputError, match="empty data set"):
        small("per_bin").adapt(dataset)
    small("range").adapt(dataset)  # nothing to fit


def test_peak_db(speech):
    expected = max(librosa_db(row[None], 128, 32).max() for row in speech)
    batches = tf.data.Dataset.from_tensor_slices(speech).batch(5)
    assert small(max_db=-40.0).peak_db(batches) == pytest.approx(expected, abs=1e-3)
    for silent in ([], [np.zeros((2, 300), np.float32)]):
        with pytest.raises(InputError, match="silent"):
            small().peak_db(silent)


# The way back


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_inverse_keeps_level_and_spectrum(speech, normalisation):
    representation = LogSTFT(8000, n_fft=512, hop_length=128, normalisation=normalisation)
    representation.adapt([speech])
    statistics = representation.statistics(representation.decibels(speech)) if normalisation == "per_example" else None
    found = representation.inverse(representation(speech), 8064, statistics).numpy()
    assert found.shape == speech.shape
    rms = [np.sqrt(np.mean(np.square(x), axis=1)) for x in (speech, found)]
    assert 20.0 * np.log10(rms[1] / rms[0]) == pytest.approx(np.zeros(12), abs=1.0)
    wanted, rebuilt = (np.abs(librosa.stft(x, n_fft=512, hop_length=128, pad_mode="constant")) for x in (speech, found))
    assert np.mean([convergence(w, r) for w, r in zip(wanted, rebuilt)]) < -20.0


@pytest.mark.parametrize("method", METHODS)
def test_every_phase_search_is_in_reach(speech, method):
    """Spectral convergence in dB of real speech: what each method is worth, and that it is the one used."""
    floors = {"accelerated_griffin_lim": -24, "griffin_lim": -17, "fast_griffin_lim": -22, "admm": -22}
    floors |= {"pghi": -15, "pghi_fast_griffin_lim": -27}
    representation = LogSTFT(
        8000, n_fft=512, hop_length=128, dynamic_range=120.0, phase_search=method, phase_iterations=32
    )
    found = representation.inverse(representation(speech), 8064).numpy()
    wanted, rebuilt = (np.abs(librosa.stft(x, n_fft=512, hop_length=128, pad_mode="constant")) for x in (speech, found))
    assert np.mean([convergence(w, r) for w, r in zip(wanted, rebuilt)]) < floors[method]
    with pytest.raises(InputError, match="method must be one of .*, received 'magic'"):
        LogSTFT(8000, phase_search="magic")


@given(samples=st.integers(1, 700))
def test_inverse_gives_the_length_asked_for(samples):
    representation = small(phase_iterations=1)
    features = representation(noise(2, samples))
    assert representation.inverse(features, samples).shape == (2, samples)
    assert representation.inverse(features).shape == (2, representation.samples_of(features.shape[2]))


# Bad input


@pytest.mark.parametrize(
    ("waveform", "message"),
    [
        (np.zeros((2, 100), np.int16), "floating point"),
        (np.zeros((2, 100), np.complex64), "floating point"),
        (np.zeros(100, np.float32), r"\(batch, samples\)"),
        (np.zeros((2, 100, 1), np.float32), r"\(batch, samples\)"),
        (np.float32(0.5), r"\(batch, samples\)"),
    ],
    ids=["integer", "complex", "rank 1", "rank 3", "scalar"],
)
@pytest.mark.parametrize("name", REPRESENTATIONS)
def test_bad_waveforms_are_refused(name, waveform, message):
    with pytest.raises(InputError, match=message) as caught:
        REPRESENTATIONS[name](8000)(waveform)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", REPRESENTATIONS)
@pytest.mark.parametrize(
    "options",
    [
        {"sample_rate": 0},
        {"sample_rate": 44100.5},
        {"dynamic_range": 0.0},
        {"dynamic_range": float("nan")},
        {"normalisation": "minmax"},
    ],
    ids=str,
)
def test_bad_arguments_are_refused(name, options):
    with pytest.raises(InputError, match=f"{next(iter(options))} must be .*, received"):
        REPRESENTATIONS[name](**{"sample_rate": 8000, **options})


@pytest.mark.parametrize("options", [
    {"max_db": float("nan")}, {"max_db": float("inf")}, {"max_db": -250.0}, {"dynamic_range": float("inf")},
    {"dynamic_range": 400.0},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("name", REPRESENTATIONS)
def test_levels_whose_squares_float32_does_not_hold_are_refused(name, options):
    with pytest.raises(InputError, match="must lie between -300 and 300 dB, received"):
        REPRESENTATIONS[name](8000, **options)


@pytest.mark.parametrize(
    "options", [{"n_fft": 511}, {"n_fft": 2}, {"hop_length": 0}, {"n_fft": 512, "hop_length": 257}], ids=str
)
def test_bad_stft_arguments_are_refused(options):
    with pytest.raises(InputError, match=f"{list(options)[-1]} must .*, received"):
        LogSTFT(8000, **options)


def test_load_refuses_what_is_not_a_representation(tmp_path):
    with pytest.raises(InputError, match="cannot read .*missing.keras: No such file"):
        representations.load(tmp_path / "missing.keras")
    (tmp_path / "text.keras").write_text("hello")
    with pytest.raises(InputError, match="text.keras is damaged"):
        representations.load(tmp_path / "text.keras")
    inputs = keras.Input((3,))
    keras.Model(inputs, keras.layers.Dense(2)(inputs)).save(tmp_path / "dense.keras")
    with pytest.raises(InputError, match="holds 0 representations"):
        representations.load(tmp_path / "dense.keras")


def test_load_refuses_a_damaged_file(tmp_path):
    small("per_bin").save(tmp_path / "whole.keras")
    whole = (tmp_path / "whole.keras").read_bytes()
    damaged = {f"cut-{part}": whole[: len(whole) * part // 10] for part in (0, 1, 5, 9)}
    damaged["overwritten"] = whole[:70] + bytes(40) + whole[110:]
    for name, content in damaged.items():
        (tmp_path / f"{name}.keras").write_bytes(content)
        with pytest.raises(InputError, match="is damaged") as caught:
            representations.load(tmp_path / f"{name}.keras")
        assert "\n" not in str(caught.value)


# One round trip for all: every entry of REPRESENTATIONS must pass, new ones too


@pytest.fixture(scope="module")
def waveform():
    time = np.arange(2000) / 8000.0
    loud = 0.5 * np.sin(2.0 * np.pi * 440.0 * time) * np.exp(-4.0 * time)
    return np.stack([loud, 0.1 * loud[::-1], np.zeros(2000)]).astype(np.float32) + noise(3, 2000) * [
        [1],
        [0.1],
        [0],
    ]


@pytest.fixture(scope="module", params=KINDS, ids="-".join)
def representation(request, waveform):
    """An adapted one of each kind."""
    name, normalisation = request.param
    layer = REPRESENTATIONS[name](8000, normalisation=normalisation)
    layer.adapt([waveform])
    return layer


@pytest.fixture
def features(representation, waveform):
    waveform = waveform.astype(np.float32)
    return representation(waveform).numpy()


def test_features_are_laid_out_as_announced(representation, waveform, features):
    assert features.dtype == np.float32
    assert features.shape == (3, *representation.feature_shape(2000))
    assert np.all(np.isfinite(features))


def test_batch_invariance(representation, waveform, features):
    alone = np.concatenate([representation(row[None]).numpy() for row in waveform])
    np.testing.assert_allclose(alone, features, atol=1e-5)
    np.testing.assert_allclose(representation(waveform[::-1]).numpy()[::-1], features, atol=1e-5)


def test_from_config(representation, waveform, features):
    twin = type(representation).from_config(representation.get_config())
    assert twin.get_config() == representation.get_config()
    twin.adapt([waveform])
    np.testing.assert_array_equal(twin(waveform).numpy(), features)


def test_in_a_tf_data_map(representation, waveform, features):
    dataset = tf.data.Dataset.from_tensor_slices(waveform.astype(np.float32)).batch(2).map(representation)
    np.testing.assert_allclose(np.concatenate(list(dataset.as_numpy_iterator())), features, atol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_any_precision_policy_computes_in_float32(representation, waveform, features, policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        twin = type(representation).from_config(representation.get_config())
        twin.adapt([waveform])
        found = twin(waveform)
    finally:
        keras.config.set_dtype_policy(before)
    assert found.dtype == tf.float32
    np.testing.assert_array_equal(found.numpy(), features)


def test_graph_and_saved_model(representation, waveform, features, tmp_path):
    module = tf.Module()
    module.layer = representation
    module.analyse = tf.function(representation.call, input_signature=[tf.TensorSpec([None, None], tf.float32)])
    module.synthesise = tf.function(
        representation.inverse,
        input_signature=[tf.TensorSpec([None, *features.shape[1:2], None, features.shape[3]], tf.float32)],
    )
    tf.saved_model.save(module, str(tmp_path))
    loaded = tf.saved_model.load(str(tmp_path))
    waveform = tf.cast(waveform, tf.float32)
    np.testing.assert_allclose(loaded.analyse(waveform).numpy(), features, atol=1e-5)
    rebuilt = representation.inverse(features).numpy()
    assert rebuilt.shape == (3, representation.samples_of(features.shape[2]))
    np.testing.assert_allclose(loaded.synthesise(features).numpy(), rebuilt, atol=1e-3)


def test_compiled_by_xla(representation, waveform, features):
    compiled = tf.function(representation.call, jit_compile=True)(tf.cast(waveform, tf.float32))
    np.testing.assert_allclose(compiled.numpy(), features, atol=1e-3)
    rebuilt = tf.function(representation.inverse, jit_compile=True)(features)
    # A phase search makes more of another order of rounding than an inverse without one.
    tolerance = 1e-3 if representation.keeps_phase else 1e-2
    np.testing.assert_allclose(rebuilt.numpy(), representation.inverse(features).numpy(), atol=tolerance)


def test_saved_and_loaded_in_a_fresh_process(waveform, tmp_path, fresh_process):
    waveform = waveform.astype(np.float32)
    expected = {}
    for name, normalisation in KINDS:
        layer = REPRESENTATIONS[name](8000, normalisation=normalisation, max_db=-3.0)
        layer.adapt([waveform])
        layer.save(tmp_path / f"{name}-{normalisation}.keras")
        features = layer(waveform)
        expected |= {
            f"{name}-{normalisation}": features,
            f"{name}-{normalisation}-back": layer.inverse(features),
        }
    np.savez(tmp_path / "waveform.npz", waveform=waveform)
    fresh_process(
        """
import pathlib, sys
import numpy as np
from spectrovae import representations
folder = pathlib.Path(sys.argv[1])
waveform = np.load(folder / "waveform.npz")["waveform"]
found = {}
for file in folder.glob("*.keras"):
    layer = representations.load(file)
    features = layer(waveform)
    found |= {file.stem: features, file.stem + "-back": layer.inverse(features)}
np.savez(folder / "found.npz", **found)
""",
        tmp_path,
    )
    with np.load(tmp_path / "found.npz") as found:
        assert set(found.files) == set(expected)
        for key, value in expected.items():
            np.testing.assert_allclose(found[key], np.asarray(value), atol=1e-4, err_msg=key)
