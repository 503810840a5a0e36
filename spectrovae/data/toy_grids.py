"""Toy sets of several factors: every combination of a few values of each, as steady filtered sounds.

The ATIAM studies of latent spaces (2017) used sets like these, of 20 000 and 44 800 sounds. The grids here are our own:
they have those sizes, and ranges in which the factors can be told from the sound.
"""

from collections.abc import Iterator

import numpy as np
from scipy.special import jv

from spectrovae.data.partials import biquad_low_pass, ladder_low_pass, sinusoids
from spectrovae.data.toy_set import ToySet
from spectrovae.errors import InputError

_TOGETHER = 32
"""Sounds computed at a time: their matrices stay in the cache."""


class Grid(ToySet):
    """All combinations of the values of several factors; with a smaller ``size`` a random part of them.

    Sounds are steady; their phases are random where that leaves the spectrum as it is. One gain for all of a set keeps
    every sound within [-0.9, 0.9] whatever the phases; noise may exceed that. Partials from half the sample rate up are
    left out, so nothing is aliased.

    Args:
        sample_rate: Hz.
        samples: of each sound.
        size: number of sounds; all by default.
        seed: of phases and noise, and of which sounds a smaller set has.
        noise_db: level of the white Gaussian noise added after the filter, in dB relative to the sound's own RMS (-40
            is a signal-to-noise ratio of 40 dB); by default there is none.

    Raises:
        InputError: a size, length, rate or level that leaves nothing to make.
    """

    values: dict[str, np.ndarray]

    def __init__(
        self,
        sample_rate: int = 44_100,
        samples: int = 32_256,
        size: int | None = None,
        seed: int = 0,
        noise_db: float | None = None,
    ):
        self.factor_names = tuple(self.values)
        self._shape = tuple(map(len, self.values.values()))
        whole = int(np.prod(self._shape))
        self.sample_rate, self.samples, self.seed, self.noise_db = sample_rate, samples, seed, noise_db
        self.size = whole if size is None else size
        lowest = 2 * self.values["cutoff"].max()
        if sample_rate <= lowest or samples < 1 or not 2 <= self.size <= whole or seed < 0:
            raise InputError(
                f"toy:{self.name} needs a rate above {lowest:g} Hz, samples >= 1, 2 <= size <= {whole} and seed >= 0; "
                f"received sample_rate={sample_rate}, samples={samples}, size={size}, seed={seed}"
            )
        if noise_db is not None and not -200 <= noise_db <= 100:
            raise InputError(f"noise_db must be from -200 to 100 dB relative to the sound, received {noise_db:g}")
        self._cells = np.arange(whole)
        if self.size < whole:
            self._cells = np.sort(np.random.default_rng(seed).permutation(whole)[: self.size])
        # of all the grid's sounds, so that a sound is the same in a smaller set
        loudest = max(np.abs(self._partials(factors)[0]).sum(axis=1).max() for factors in self._blocks(whole))
        self._gain = 0.9 / loudest

    @property
    def parameters(self) -> tuple:
        return (*super().parameters, self.noise_db)

    @property
    def sounding(self) -> tuple:
        return (self.sample_rate, self.samples, self.seed, self.noise_db)  # a smaller set has the same sounds

    @property
    def identities(self) -> np.ndarray:
        """Places in the whole grid: a sound keeps its split in a smaller set."""
        return self._cells

    def factors(self, indices: np.ndarray) -> np.ndarray:
        return self._factors_of(self._cells[np.asarray(indices)])

    def waveforms(self, indices: np.ndarray) -> np.ndarray:
        cells = self._cells[np.asarray(indices)]
        result = np.empty((len(cells), self.samples), np.float32)
        for start in range(0, len(cells), _TOGETHER):
            block = slice(start, start + _TOGETHER)
            randoms = [np.random.Generator(np.random.Philox(key=[self.seed, cell])) for cell in cells[block]]
            amplitudes, frequencies = self._partials(self._factors_of(cells[block]))
            amplitudes = self._gain * amplitudes * np.exp(2j * np.pi * self._phases(randoms, frequencies))
            result[block] = sinusoids(amplitudes, frequencies, self.samples)
            if self.noise_db is not None:
                for sound, random in zip(result[block], randoms):
                    level = 10.0 ** (self.noise_db / 20.0) * np.sqrt(np.mean(np.square(sound)))
                    sound += level * random.standard_normal(self.samples, np.float32)
        return result

    def _factors_of(self, cells: np.ndarray) -> np.ndarray:
        places = np.unravel_index(cells, self._shape)
        return np.stack([values[place] for values, place in zip(self.values.values(), places)], axis=-1)

    def _blocks(self, count: int) -> Iterator[np.ndarray]:
        return (self._factors_of(np.arange(start, min(start + 1024, count))) for start in range(0, count, 1024))

    def _partials(self, factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Complex amplitudes without random phases, and frequencies in cycles a sample: (sounds, partials) each."""
        raise NotImplementedError

    def _phases(self, randoms: list[np.random.Generator], cycles: np.ndarray) -> np.ndarray:
        """Of the partials in cycles, drawn by each sound's own generator."""
        raise NotImplementedError

    def _audible(self, frequencies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which frequencies (Hz) are below half the rate, and all in cycles a sample, the others put at 0."""
        audible = np.abs(frequencies) < self.sample_rate / 2
        return audible, np.where(audible, frequencies, 0.0) / self.sample_rate


class Additive(Grid):
    """20 000 sounds of four factors: a string's partials through a resonant low-pass.

    Partial n = 1 to N is at n f0 sqrt(1 + B n^2), f0 = 110 Hz (the stiff string of Fletcher, 1964), with amplitude 1/n,
    through a biquad. 10 x 20 x 10 x 10 values:

    - ``inharmonicity``: B, evenly from 0 to 0.003;
    - ``harmonics``: N, 11 to 30;
    - ``q``: of the biquad, geometrically from 0.7 to 10;
    - ``cutoff``: Hz, geometrically from 400 to 4 000.

    Arguments as of :class:`Grid`.
    """

    name = "additive"
    values = {
        "inharmonicity": np.linspace(0.0, 0.003, 10),
        "harmonics": np.arange(11.0, 31.0),
        "q": np.geomspace(0.7, 10.0, 10),
        "cutoff": np.geomspace(400.0, 4000.0, 10),
    }
    fundamental = 110.0

    def _partials(self, factors):
        inharmonicity, harmonics, q, cutoff = factors.T[..., None]
        number = np.arange(1, self.values["harmonics"].max() + 1)
        audible, cycles = self._audible(number * self.fundamental * np.sqrt(1.0 + inharmonicity * number**2))
        amplitudes = np.where(audible & (number <= harmonics), 1.0 / number, 0.0)
        return amplitudes * biquad_low_pass(cycles, cutoff / self.sample_rate, q), cycles

    def _phases(self, randoms, cycles):
        return np.stack([random.random(cycles.shape[1]) for random in randoms])


class FrequencyModulation(Grid):
    """44 800 sounds of five factors: frequency modulation through a ladder.

    sin(2 pi c t + I sin(2 pi r c t)) (Chowning, 1973), as its partials at c + k r c with amplitudes J_k(I), through
    :func:`spectrovae.data.partials.ladder_low_pass`. 8 x 7 x 8 x 10 x 10 values:

    - ``carrier``: c, 110 Hz and its multiples up to 880 Hz;
    - ``ratio``: r of the modulating frequency to the carrier, 0.5, 0.75, ... 2;
    - ``index``: I, 1 to 8;
    - ``resonance``: k of the ladder, evenly from 0 to 3.2; it would oscillate at 4;
    - ``cutoff``: Hz, geometrically from 400 to 4 000.

    Arguments as of :class:`Grid`.
    """

    name = "fm"
    values = {
        "carrier": 110.0 * np.arange(1, 9),
        "ratio": np.linspace(0.5, 2.0, 7),
        "index": np.arange(1.0, 9.0),
        "resonance": np.linspace(0.0, 3.2, 10),
        "cutoff": np.geomspace(400.0, 4000.0, 10),
    }
    orders = np.arange(-19, 20)
    """Sidebands: J_20(8) is 2e-6, below what float32 keeps of a sum."""

    def _partials(self, factors):
        carrier, ratio, index, resonance, cutoff = factors.T[..., None]
        audible, cycles = self._audible(carrier + self.orders * ratio * carrier)
        bessel = jv(self.orders, self.values["index"][:, None])[np.searchsorted(self.values["index"], index[:, 0])]
        # a negative frequency is filtered as one, with the conjugate response
        amplitudes = np.where(audible, -1j * bessel, 0.0)
        return amplitudes * ladder_low_pass(cycles, cutoff / self.sample_rate, resonance), cycles

    def _phases(self, randoms, cycles):
        # The sound from another moment on: phases of their own would change how partials of equal frequency add up.
        seconds = np.array([[random.random()] for random in randoms]) / 27.5
        return cycles * seconds * self.sample_rate
