"""How to train: the options of a fit, checked."""

import dataclasses
import math
import numbers
import re
from typing import Any

from spectrovae.errors import InputError
from spectrovae.training import augment
from spectrovae.training.corrupt import canonical
from spectrovae.training.precision import PRECISIONS

LATER = ("corrupt", "augment", "adversarial_from")  # options that older runs do not have; left out where they are None
_MINUTES = {"s": 1.0 / 60.0, "m": 1.0, "h": 60.0, "": 1.0}


@dataclasses.dataclass(frozen=True)
class FitOptions:
    """How to train.

    Attributes:
        epochs: passes over the training split; the learning rate falls to zero over them along a half cosine.
        batch_size: examples a step.
        learning_rate: at the start, of Adam.
        patience: epochs without a lower validation loss after which training stops; 0 never stops, and a family of two
            stages does not either.
        seed: of weights, noise and order.
        precision: ``"auto"``, ``"float32"``, ``"mixed_bfloat16"`` or ``"mixed_float16"``; what is saved is float32.
        corrupt: perturbation of the inputs, which the model learns to undo: ``NAME:SEVERITY``, see
            :mod:`spectrovae.evaluation.perturbations`; None for clean inputs.
        augment: random changes of each training clip, new every epoch, applied to input and target alike:
            ``NAME:STRENGTH,...``, see :mod:`spectrovae.training.augment`; None for none.
        adversarial_from: of a family of two stages, the epochs of the first, after which the adversary joins; two
            thirds of ``epochs`` by default, and with as many as those it never does.
        checkpoint_every: minutes between two states that are saved within an epoch, a number or text such as
            ``"10m"``, ``"30s"``, ``"1h"``; 0 saves at the end of each epoch only.

    Raises:
        InputError: an option of another type or out of range.
    """

    epochs: int = 30
    batch_size: int = 32
    learning_rate: float = 1e-3
    patience: int = 10
    seed: int = 0
    precision: str = "auto"
    corrupt: str | None = None
    augment: str | None = None
    adversarial_from: int | None = None
    checkpoint_every: float | str = 10.0

    def __post_init__(self):
        for name, least in (("epochs", 1), ("batch_size", 1), ("patience", 0), ("seed", 0), ("adversarial_from", 0)):
            value = getattr(self, name)
            if name == "adversarial_from" and value is None:
                continue
            if not isinstance(value, numbers.Integral) or isinstance(value, bool):
                raise InputError(f"{name} must be a whole number, received {value!r}")
            if not least <= int(value) < 2**31:
                raise InputError(f"{name} must be at least {least} and below 2^31, received {value!r}")
            object.__setattr__(self, name, int(value))
        if not isinstance(self.learning_rate, numbers.Real) or not 0.0 < self.learning_rate < 1.0:
            raise InputError(f"learning_rate must lie between 0 and 1, received {self.learning_rate!r}")
        object.__setattr__(self, "learning_rate", float(self.learning_rate))
        if self.precision not in PRECISIONS:
            raise InputError(f"precision must be one of {', '.join(PRECISIONS)}, received {self.precision!r}")
        object.__setattr__(self, "checkpoint_every", minutes(self.checkpoint_every))
        for name, checked in (("corrupt", canonical), ("augment", augment.canonical)):
            value = getattr(self, name)
            if not isinstance(value, str | None):
                raise InputError(f"{name} must be text such as NAME:NUMBER, received {value!r}")
            object.__setattr__(self, name, checked(value))
        if self.corrupt and self.augment:
            raise InputError(
                "corrupt (--corrupt) and augment (--augment) cannot be trained together: what is undone would be "
                "changed too; leave one of them out"
            )

    def kept(self) -> dict[str, Any]:
        """The options that decide what is trained, for ``run/config.json``."""
        options = dataclasses.asdict(self)
        del options["checkpoint_every"]
        return {name: value for name, value in options.items() if name not in LATER or value is not None}


def minutes(value: float | str) -> float:
    """Minutes of a number, or of text such as ``"10m"``, ``"30s"``, ``"1h"``.

    Raises:
        InputError: neither, or negative.
    """
    if isinstance(value, str):
        found = re.fullmatch(r"(\d+\.?\d*|\.\d+)\s*(s|m|h|)", value.strip(), re.ASCII)
        length = float(found[1]) * _MINUTES[found[2]] if found else math.nan
    else:
        sound = isinstance(value, numbers.Real) and not isinstance(value, bool)
        length = float(value) if sound else math.nan
    if not 0.0 <= length < math.inf:
        raise InputError(f"checkpoint_every must be minutes, or such as 10m, 30s, 1h, or 0 for never, got {value!r}")
    return length
