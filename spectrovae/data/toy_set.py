"""What every toy set is: numbered sounds with known factors."""

import hashlib
from collections.abc import Mapping

import numpy as np

from spectrovae.data.splits import SPLITS, split_by_hash
from spectrovae.errors import InputError


class ToySet:
    """Sounds 0 to ``size - 1``, each decided by its number and the set's parameters alone.

    Subclasses set ``sample_rate`` (Hz), ``samples`` and ``size``, and give ``factors`` and ``waveforms``.
    """

    name: str
    factor_names: tuple[str, ...]
    sample_rate: int
    samples: int
    size: int
    seed: int

    def __len__(self) -> int:
        return self.size

    def factors(self, indices: np.ndarray) -> np.ndarray:
        """The factors of these sounds: float64 ``(sounds, factors)``."""
        raise NotImplementedError

    def waveforms(self, indices: np.ndarray) -> np.ndarray:
        """These sounds: float32 ``(sounds, samples)``."""
        raise NotImplementedError

    def sample(self, count: int, random: np.random.Generator, fixed: Mapping[str, float] | None = None) -> np.ndarray:
        """Draw the numbers of ``count`` sounds, with replacement, from those whose ``fixed`` factors are as given.

        Args:
            fixed: values by the factor's name, as ``{"cutoff": 200.0}``.

        Raises:
            InputError: no such factor, or no sound of the set has these values.
        """
        rows = np.arange(self.size)
        factors = self.factors(rows)
        for name, value in (fixed or {}).items():
            if name not in self.factor_names:
                raise InputError(f"toy:{self.name} has the factors {', '.join(self.factor_names)}; received {name!r}")
            rows = rows[np.isclose(factors[rows, self.factor_names.index(name)], value)]
        if not len(rows):
            raise InputError(f"no sound of toy:{self.name} has {dict(fixed or {})}; fix factors at values of the set")
        return random.choice(rows, count)

    @property
    def identities(self) -> np.ndarray:
        """A whole number for each sound, which decides its split."""
        return np.arange(self.size)

    def splits(self) -> dict[str, np.ndarray]:
        """Indices of "train", "validation" and "test" (80, 10, 10 %), by the hash of the sounds' identities."""
        keys = [f"{self.name}:{identity}" for identity in self.identities]
        chosen = split_by_hash(keys)
        split_of = np.array([chosen[key] for key in keys])
        return {split: np.flatnonzero(split_of == split) for split in SPLITS}

    @property
    def parameters(self) -> tuple:
        """What decides the sounds."""
        return (self.sample_rate, self.samples, self.size, self.seed)

    def contents(self, indices: np.ndarray) -> list[str]:
        """What tells each of these sounds from every other, of this set or another: 16 hexadecimal digits."""
        keys = (":".join(map(str, (self.name, *self.sounding, self.identities[index]))) for index in indices)
        return [hashlib.sha256(key.encode()).hexdigest()[:16] for key in keys]

    @property
    def sounding(self) -> tuple:
        """The parameters that decide how a sound of a given identity sounds."""
        return self.parameters

    @property
    def fingerprint(self) -> str:
        """A hash over everything that decides the sounds."""
        return hashlib.sha256(":".join(map(str, (self.name, *self.parameters))).encode()).hexdigest()
