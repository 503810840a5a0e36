"""The sets of several factors: the sound is what filtering the formula's samples gives, and tells the factors."""

import numpy as np
import pytest
from scipy import signal
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.neighbors import KNeighborsRegressor

from spectrovae.data import Recordings, toy
from spectrovae.data.partials import biquad_low_pass, ladder_low_pass, sinusoids
from spectrovae.data.toy_grids import Additive, FrequencyModulation
from spectrovae.errors import InputError

RATE = 44_100
GRIDS = (Additive, FrequencyModulation)


def index_of(made, **factors):
    """Number of the sound with these factors, by their places among the values; 0 if not given."""
    places = [factors.get(name, 0) % len(values) for name, values in made.values.items()]
    return int(np.ravel_multi_index(places, [len(values) for values in made.values.values()]))


def spectrum(sounds):
    """dB of a windowed FFT, the largest at 0."""
    magnitude = np.abs(np.fft.rfft(sounds * signal.windows.blackmanharris(sounds.shape[-1]), axis=-1))
    return 20 * np.log10(magnitude / magnitude.max(axis=-1, keepdims=True) + 1e-9)


def biquad(cutoff, q):
    """Coefficients by SciPy's own bilinear transform of the analogue prototype."""
    warped = 2 * RATE * np.tan(np.pi * cutoff / RATE)
    return signal.bilinear([warped**2], [1, warped / q, warped**2], RATE)


def ladder(cutoff, k):
    warped = 2 * RATE * np.tan(np.pi * cutoff / RATE)
    loop = np.poly([-warped] * 4)
    loop[-1] += k * warped**4
    return signal.bilinear([(1 + k) * warped**4], loop, RATE)


@pytest.mark.parametrize("samples", [1, 2, 97, 2500])
def test_sums_of_sinusoids(samples):
    random = np.random.default_rng(0)
    amplitudes = random.standard_normal((3, 5)) + 1j * random.standard_normal((3, 5))
    frequencies = random.uniform(-0.5, 0.5, (3, 5))
    angles = 2 * np.pi * frequencies[..., None] * np.arange(samples)
    naive = np.sum(amplitudes[..., None] * np.exp(1j * angles), axis=1).real
    found = sinusoids(amplitudes, frequencies, samples)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, naive, atol=1e-5)


@pytest.mark.parametrize(("cutoff", "sharpness"), [(200.0, 0.7), (2000.0, 10.0), (9000.0, 3.2)])
def test_responses_are_scipys(cutoff, sharpness):
    frequencies = np.linspace(-20_000, 20_000, 401)
    for ours, (b, a) in (
        (biquad_low_pass(frequencies / RATE, cutoff / RATE, sharpness), biquad(cutoff, sharpness)),
        (ladder_low_pass(frequencies / RATE, cutoff / RATE, sharpness / 4), ladder(cutoff, sharpness / 4)),
    ):
        _, theirs = signal.freqz(b, a, frequencies, fs=RATE)
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert np.abs(biquad_low_pass(cutoff / RATE, cutoff / RATE, sharpness)) == pytest.approx(sharpness)


@pytest.mark.parametrize("places", [{}, {"inharmonicity": 4, "harmonics": 7, "q": 9, "cutoff": 5}, {"harmonics": -1}])
def test_an_additive_sound_is_its_partials_through_the_biquad(places):
    """Level of each partial, by least squares, against 1/n times SciPy's response; they spread as B says."""
    made = Additive(samples=8192)
    index = index_of(made, **places)
    inharmonicity, harmonics, q, cutoff = made.factors([index])[0]
    number = np.arange(1, int(harmonics) + 1)
    frequencies = 110 * number * np.sqrt(1 + inharmonicity * number**2)
    angles = 2 * np.pi * np.outer(np.arange(8192) / RATE, frequencies)
    basis = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    sound = made.waveforms([index])[0].astype(np.float64)
    weights, *_ = np.linalg.lstsq(basis, sound, rcond=None)
    found = np.hypot(weights[: len(number)], weights[len(number) :])
    expected = np.abs(signal.freqz(*biquad(cutoff, q), frequencies, fs=RATE)[1]) / number
    np.testing.assert_allclose(found / found[0], expected / expected[0], atol=1e-5)
    assert np.abs(basis @ weights - sound).max() < 1e-5  # and there is nothing else


@pytest.mark.parametrize(
    "places", [{}, {"carrier": 3, "ratio": 2, "index": 7, "resonance": 9, "cutoff": 6}, {"ratio": 1, "index": 3}]
)
def test_an_fm_sound_is_chownings_formula_through_the_ladder(places):
    """Samples of the formula, filtered by SciPy until the transient is over; the moment at which it starts is free."""
    made = FrequencyModulation(samples=16_384)
    index = index_of(made, **places)
    carrier, ratio, depth, k, cutoff = made.factors([index])[0]
    period = RATE * 2 // 55  # a period is 1 / 27.5 s at most: 1603.6 samples
    time = np.arange(4 * period + 16_384) / RATE
    dry = np.sin(2 * np.pi * carrier * time + depth * np.sin(2 * np.pi * ratio * carrier * time))
    wet = signal.lfilter(*ladder(cutoff, k), dry)[2 * period :]
    sound = made.waveforms([index])[0].astype(np.float64)
    match = signal.correlate(wet, sound, "valid")
    energy = np.convolve(wet**2, np.ones(16_384), "valid")
    # the best whole-sample start; the rest of the shift costs what the highest partials turn in half a sample
    assert np.max(match / np.sqrt(energy)) / np.linalg.norm(sound) > 0.99
    found, expected = spectrum(sound[None])[0], spectrum(wet[None, -16_384:])[0]
    loud = expected > -50
    np.testing.assert_allclose(found[loud], expected[loud], atol=0.5)


def test_factors_can_be_read_off_an_additive_sound():
    made = Additive()
    for harmonics in (0, 11, 19):
        for b in (0, 9):
            sound = made.waveforms([index_of(made, harmonics=harmonics, inharmonicity=b, cutoff=9)])
            peaks, _ = signal.find_peaks(spectrum(sound)[0], height=-100, distance=40)
            assert len(peaks) == made.values["harmonics"][harmonics]
            top = peaks[-1] * RATE / sound.shape[1] / (110 * len(peaks))
            measured = (top**2 - 1) / len(peaks) ** 2
            assert measured == pytest.approx(made.values["inharmonicity"][b], abs=5e-5)
    resonant = made.waveforms([index_of(made, harmonics=19, q=9, cutoff=place) for place in (2, 5, 8)])
    frequencies = np.arange(resonant.shape[1] // 2 + 1) * RATE / resonant.shape[1]
    for levels, cutoff in zip(spectrum(resonant), made.values["cutoff"][[2, 5, 8]]):
        number = np.round(frequencies / 110).clip(1)
        assert frequencies[np.argmax(levels + 20 * np.log10(number))] == pytest.approx(cutoff, abs=70)


def levels_in_bands(made, rows):
    """dB in bands of 16 Hz up to 10 kHz, down to -60: (sounds, 600)."""
    spectra = (spectrum(made.waveforms(part)) for part in np.array_split(rows, -(-len(rows) // 256)))
    return np.concatenate([np.maximum(x[:, :1800].reshape(len(x), 600, 3).max(axis=2), -60) for x in spectra])


def places(made, rows):
    """Factors by their place among the values."""
    columns = zip(made.values.values(), made.factors(rows).T)
    return np.stack([np.argmin(np.abs(values - column[:, None]), axis=1) for values, column in columns], axis=1)


def explained(found, truth):
    return 1 - np.mean((found - truth) ** 2, axis=0) / np.var(truth, axis=0)


@pytest.mark.slow
@pytest.mark.parametrize("grid", GRIDS)
def test_the_nearest_clean_spectrum_tells_the_factors_of_a_noisy_sound(grid):
    """Noise at -50 dB and other phases; among all values of the last three factors."""
    clean, noisy = (grid(samples=8192, seed=seed, noise_db=level) for seed, level in ((0, None), (1, -50)))
    rows = np.arange(2000) + (4000 if grid is Additive else 19_200)
    nearest = KNeighborsRegressor(1).fit(levels_in_bands(clean, rows), places(clean, rows))
    chosen = rows[::7]
    truth = places(noisy, chosen)
    varying = truth.std(axis=0) > 0
    assert varying[-3:].all()
    found = nearest.predict(levels_in_bands(noisy, chosen))
    assert explained(found[:, varying], truth[:, varying]).min() > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("grid", GRIDS)
def test_regression_on_spectra_finds_the_factors_of_new_sounds(grid):
    made = grid(size=3000, samples=8192)
    rows = np.random.default_rng(0).permutation(3000)
    levels, truth = levels_in_bands(made, rows), places(made, rows)
    model = ExtraTreesRegressor(60, max_features=0.2, min_samples_leaf=2, random_state=0)
    found = explained(model.fit(levels[:2400], truth[:2400]).predict(levels[2400:]), truth[2400:])
    # What resonance does depends on where the cut-off is; that takes more sounds, or the nearest one, as above.
    told = [name not in ("q", "resonance") for name in made.factor_names]
    assert found[told].min() > 0.5


@pytest.mark.parametrize(("grid", "size"), [(Additive, 20_000), (FrequencyModulation, 44_800)])
def test_every_combination_once(grid, size):
    made = grid(samples=1)
    factors = made.factors(np.arange(size))
    assert (len(made), made.sample_rate) == (size, RATE)
    assert len(np.unique(factors, axis=0)) == size
    for column, values in zip(factors.T, made.values.values()):
        np.testing.assert_array_equal(np.unique(column), values)
        assert len(set(np.unique(column, return_counts=True)[1])) == 1
    part = grid(samples=1, size=500)
    assert len(np.unique(part.factors(np.arange(500)), axis=0)) == 500
    assert all(len(np.unique(column)) > 5 for column in part.factors(np.arange(500)).T)


@pytest.mark.parametrize("grid", GRIDS)
def test_a_sound_depends_on_seed_and_factors_alone(grid):
    made = grid(samples=300, noise_db=-30)
    together = made.waveforms(np.arange(100))
    np.testing.assert_allclose(made.waveforms([77, 3]), together[[77, 3]], atol=1e-6)
    part = grid(samples=300, noise_db=-30, size=50)
    where = np.flatnonzero((made.factors(np.arange(len(made))) == part.factors([20])).all(axis=1))
    np.testing.assert_allclose(part.waveforms([20]), made.waveforms(where), atol=1e-6)
    assert np.abs(grid(samples=300, noise_db=-30, seed=1).waveforms([7]) - together[7]).max() > 1e-3
    assert np.abs(together).max() < 1


@pytest.mark.parametrize("grid", GRIDS)
def test_noise_has_its_level_and_clipping_is_far(grid):
    rows = np.arange(0, 200, 7)
    clean, noisy = (grid(samples=4096, noise_db=level).waveforms(rows) for level in (None, -20))
    rms = [np.sqrt(np.mean(x**2, axis=1)) for x in (noisy - clean, clean)]
    np.testing.assert_allclose(20 * np.log10(rms[0] / rms[1]), -20, atol=0.4)
    assert np.abs(clean).max() <= 0.9


def test_nothing_is_aliased_at_a_low_rate():
    """At 8.8 kHz, carrier and modulator at 880 Hz, partials are multiples of 880 Hz below 4.4 kHz, as at 44.1 kHz."""
    places = {"carrier": 7, "ratio": 2, "index": 7, "cutoff": 9}
    made = FrequencyModulation(sample_rate=8820, samples=8820)
    magnitudes = np.abs(np.fft.rfft(made.waveforms([index_of(made, **places)])[0]))
    assert magnitudes[[880, 1760, 2640, 3520]].min() > 1e-3 * magnitudes.max()
    magnitudes[::880] = 0
    assert magnitudes.max() < 1e-2  # of thousands


def test_a_smaller_set_tests_on_nothing_that_the_whole_set_trains_on():
    whole, part = Additive(samples=1), Additive(samples=1, size=700)
    factors = {made: {name: set(map(tuple, made.factors(rows))) for name, rows in made.splits().items()}
               for made in (whole, part)}  # fmt: skip
    for split in ("train", "validation", "test"):
        assert factors[part][split] < factors[whole][split]


def test_the_sampler_holds_factors_fixed():
    made = FrequencyModulation(samples=1, size=5000)
    random = np.random.default_rng(0)
    rows = made.sample(400, random, {"ratio": 1.25, "index": 3})
    factors = made.factors(rows)
    assert set(factors[:, 1]) == {1.25}
    assert set(factors[:, 2]) == {3.0}
    assert all(len(np.unique(factors[:, place])) > 4 for place in (0, 3, 4))
    assert len(np.unique(made.sample(400, random))) > 300
    with pytest.raises(InputError, match="no sound of toy:fm has"):
        made.sample(4, random, {"ratio": 1.3})
    with pytest.raises(InputError, match="has the factors carrier, ratio"):
        made.sample(4, random, {"q": 1})


def test_they_are_opened_by_name_and_plug_into_recordings():
    made = toy.open_toy("toy:additive?size=90&noise_db=-12.5")
    assert (made.size, made.noise_db, made.sample_rate, made.samples) == (90, -12.5, RATE, 32_256)
    assert made.fingerprint != toy.open_toy("toy:additive?size=90").fingerprint
    recordings = Recordings.open("toy:fm?size=60", samples=500)
    assert recordings.sample_rate == RATE
    assert recordings.factor_names == ("carrier", "ratio", "index", "resonance", "cutoff")
    rows = [np.asarray(batch) for batch in recordings.waveforms("train", batch_size=16)]
    assert np.concatenate(rows).shape == (len(recordings.examples("train")), 500)
    factors = recordings.factors("train")
    carrier, *_ = factors[0]
    assert recordings.examples("train")[0].label.startswith(f"carrier={carrier:g} ratio=")
    assert recordings.summary()["factors"] == list(recordings.factor_names)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("toy:additive?size=20001", "size <= 20000"),
        ("toy:additive?size=1", "2 <= size"),
        ("toy:fm?sample_rate=8000", "rate above 8000 Hz"),
        ("toy:fm?noise_db=loud", "received noise_db=loud"),
        ("toy:fm?noise_db=nan", "received noise_db=nan"),
        ("toy:fm?noise_db=400", "from -200 to 100 dB"),
        ("toy:harmonic?noise_db=-40", "received noise_db=-40"),
    ],
)
def test_impossible_sets_are_refused(name, reason):
    with pytest.raises(InputError, match=reason):
        toy.open_toy(name)
