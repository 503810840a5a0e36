"""Find the first tensor that was not finite in a training that diverged, by training on its last steps again."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from spectrovae.errors import TrainingError
from spectrovae.models.base import Trainer


class Diverged(TrainingError):
    """A loss or a weight is not finite.

    Args:
        epoch: from 1.
        reason: what was seen.
        step: of the epoch, from 1, after which it was seen.
    """

    def __init__(self, epoch: int, reason: str, step: int):
        kept = "; the best model before is kept" if epoch > 1 else ""
        super().__init__(f"training diverged in epoch {epoch}: {reason}{kept}. Lower --learning-rate")
        self.epoch, self.step = epoch, step


class Snapshot:
    """The values of a trainer's variables and its optimizer's, to be put back."""

    def __init__(self, trainer: Trainer):
        optimizer: Any = trainer.optimizer
        self.variables = [*trainer.trainable_variables, *trainer.non_trainable_variables, *optimizer.variables]
        self.values = [np.array(variable) for variable in self.variables]

    def put_back(self) -> None:
        for variable, value in zip(self.variables, self.values):
            variable.assign(value)


def first_non_finite(
    trainer: Trainer, restore: Callable[[], None], batches: Iterable, *, done: int = 0, seen: int = 0
) -> dict[str, Any] | None:
    """Train on the batches of an epoch again, and say what is the first tensor that is not finite.

    Args:
        restore: puts the trainer back to where the first batch was trained on.
        batches: the epoch's features, or pairs of them with their targets, in its order.
        done: steps of the epoch before the first batch.
        seen: step, from 1, after which a loss or weight was not finite: its cause is in that step or the one before,
            and only those are looked into. 0 looks into all.

    Returns:
        ``step`` (from 1), ``kind`` (features, weight, layer, output, loss term, gradient or update) and ``name``; None
        where all stays finite this time.
    """
    restore()
    trainer.reset_metrics()
    for step, batch in enumerate(batches, done + 1):
        x, y = batch if isinstance(batch, tuple) else (batch, None)
        before = Snapshot(trainer) if step >= seen - 1 else None
        loss = trainer.train_on_batch(x, y, return_dict=True)["loss"]
        if before is None:
            continue
        spoilt = [name for name, weight in _named(trainer, trainer.weights) if _bad(weight)]
        if np.isfinite(loss) and not spoilt:
            continue
        before.put_back()
        # Where all is finite up to the gradients, the optimizer's step made the first weight that is not.
        kind, name = next(_non_finite(trainer, x, y), ("update", (spoilt or ["of the weights"])[0]))
        return {"step": step, "kind": kind, "name": name}
    return None


def _non_finite(trainer: Trainer, batch, target) -> Iterator[tuple[str, str]]:
    """(kind, name) of the tensors of a training step that are not finite, in the order of computing."""
    features = batch["features"] if isinstance(batch, Mapping) else batch
    if _bad(features):
        yield "features", "the batch itself"
    yield from (("weight", name) for name, weight in _named(trainer, trainer.weights) if _bad(weight))
    latent = features
    for part in (trainer.encoder, trainer.decoder):
        layers = [layer for layer in part.layers if not isinstance(layer, keras.layers.InputLayer)]
        probe = keras.Model(part.input, [layer.output for layer in layers], name="probe")
        outputs = probe(latent, training=True)
        for layer, output in zip(layers, outputs if len(layers) > 1 else [outputs]):
            if any(_bad(tensor) for tensor in keras.tree.flatten(output)):
                yield "layer", f"{part.name}/{layer.name}"
        latent = part(latent, training=True)
        if isinstance(batch, Mapping):
            latent = [latent, keras.ops.convert_to_tensor(batch["speaker"])]  # what the decoder takes
    trainer.reset_metrics()
    with tf.GradientTape() as tape:
        outputs = trainer(batch, training=True)
        loss = trainer.compute_loss(x=batch, y=target, y_pred=outputs)
    yield from (("output", name) for name, value in outputs.items() if any(map(_bad, keras.tree.flatten(value))))
    yield from (
        ("loss term", metric.name) for metric in trainer.metrics if metric.name != "loss" and _bad(metric.result())
    )
    if _bad(loss):
        yield "loss term", "loss"
    gradients = tape.gradient(loss, [weight.value for weight in trainer.trainable_variables])
    pairs = list(zip(_named(trainer, trainer.trainable_variables), gradients))
    # backwards, as they are computed
    yield from (("gradient", name) for (name, _), g in reversed(pairs) if g is not None and _bad(g))


def _named(trainer: Trainer, weights: list) -> list[tuple[str, Any]]:
    """Weights with their paths, behind the part that holds them: both may have a layer of one name."""
    parts = {id(weight): f"{part.name}/" for part in (trainer.encoder, trainer.decoder) for weight in part.weights}
    return [(parts.get(id(weight), "") + weight.path, weight) for weight in weights]


def _bad(tensor) -> bool:
    values = np.asarray(keras.ops.convert_to_numpy(tensor))
    return values.dtype.kind not in "iub" and not np.isfinite(values.astype(np.float32)).all()
