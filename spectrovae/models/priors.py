"""What the learned priors share: conditions, the loss, and how they are drawn from.

A prior is a distribution of the latents of one segment, learned from real sounds once encoder and decoder are. It is a
Keras model in a file of its own, and needs neither of them.
"""

import math
from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from spectrovae.errors import InputError
from spectrovae.models import base


class Prior(base.OwnLoss):
    """A distribution of latents, given conditions or none; kinds override ``nll`` and ``draw``.

    Trained on ``{"latent": ..., NAME: int32 (batch,), ...}``. Each condition has one class more than its names, for
    "none given": a row takes that class where the condition is left out, and in training with a probability of
    ``condition_dropout`` (classifier-free).

    Args:
        latent_shape: of one segment's latent, without batch and segments: (height, width) or (height, width, stages)
            of codes, (dimensions,) of a vector.
        classes: number of codes; 0 for latents that are no codes.
        conditions: names of the conditions' classes, as ``{"label": ("0", "1"), "speaker": ("ann", "bob")}``.
        condition_dropout: probability that a training example loses its conditions, each on its own.
        seed: of what is random in training.

    Metrics: ``bits`` a code, or ``nats`` an example where latents are no codes.
    """

    codes = False  # whether it is of integer codes
    draws_codes = False  # whether it draws one of several at a time, so that top_k, top_p and guidance mean something
    ranks: tuple[int, ...] | None = None  # of the axes that latent_shape may have; None: any

    def __init__(
        self,
        latent_shape,
        classes: int = 0,
        *,
        conditions: Mapping[str, Any] | None = None,
        condition_dropout: float = 0.1,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.latent_shape = tuple(int(n) for n in latent_shape)
        self.classes = int(classes)
        self.conditions = {name: tuple(map(str, names)) for name, names in (conditions or {}).items()}
        self.condition_dropout = condition_dropout
        self.seed = seed
        if not self.latent_shape or any(n < 1 for n in self.latent_shape):
            raise InputError(f"latent_shape must be positive numbers, received {latent_shape!r}")
        if self.ranks and len(self.latent_shape) not in self.ranks:
            raise InputError(
                f"latent_shape must have {' or '.join(map(str, self.ranks))} axes, received {self.latent_shape}"
            )
        if self.codes and self.classes < 2:
            raise InputError(f"a prior of codes needs two classes at least, received {classes}")
        if not 0.0 <= condition_dropout < 1.0:
            raise InputError(f"condition_dropout must be at least 0 and less than 1, received {condition_dropout}")
        for name, names in self.conditions.items():
            if name == "latent" or len(set(names)) != len(names) or not names:
                raise InputError(f"condition {name!r} must have one or more different names, received {names}")
        self.dropout_seed = keras.random.SeedGenerator(seed)
        self.tracker = keras.metrics.Mean(name="bits" if self.codes else "nats")

    def build(self, input_shape=None):
        self.built = True  # kinds make their layers' weights when they are made

    @property
    def size(self) -> int:
        """Numbers in a latent."""
        return math.prod(self.latent_shape)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Of the numbers in [0, 1) that a draw takes, without the batch."""
        return (self.size,)

    def nll(self, latent, conditions: Mapping[str, Any], training: bool = False):
        """Negative log-likelihood in nats [shape=(batch,)] of latents (batch, *latent_shape).

        Args:
            conditions: classes as int32 (batch,) by name, all of ``self.conditions``.
        """
        raise NotImplementedError

    def draw(self, uniform, conditions, temperature=1.0, top_k: int = 0, top_p: float = 1.0, known=None, mask=None):
        """Latents (batch, *latent_shape), one for each row of noise; a row does not depend on the others.

        Args:
            uniform: in [0, 1) [shape=(batch, *noise_shape)].
            conditions: as for :meth:`nll`.
            temperature: a number or one for each row; 0 is greedy (codes) or the middle of the distribution.
            top_k, top_p: of codes, see :func:`spectrovae.sampling.choose`.
            known, mask: latents to keep where the mask is true, [shape=(batch, *latent_shape)]; None for none. Where a
                kind is causal, what it draws follows only the kept codes that come before.
        """
        raise NotImplementedError

    def call(self, inputs, training=False):
        conditions = {name: inputs[name] for name in self.conditions}
        if training and self.condition_dropout:
            conditions = {name: self._dropped(name, index) for name, index in conditions.items()}
        return self.nll(inputs["latent"], conditions, training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        self.refuse_weights(sample_weight)
        self.tracker.update_state(y_pred / (self.size * math.log(2.0)) if self.codes else y_pred)
        return ops.mean(y_pred)

    def none_given(self, name: str) -> int:
        """The class of a condition that stands for "none given"."""
        return len(self.conditions[name])

    def _dropped(self, name, index):
        uniform = keras.random.uniform(ops.shape(index), seed=self.dropout_seed)
        return ops.where(uniform < self.condition_dropout, self.none_given(name), ops.cast(index, "int32"))

    def get_config(self):
        return {
            **super().get_config(),
            "latent_shape": self.latent_shape,
            "classes": self.classes,
            "conditions": {name: list(names) for name, names in self.conditions.items()},
            "condition_dropout": self.condition_dropout,
            "seed": self.seed,
        }
