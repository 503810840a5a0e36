"""Drawing from categorical distributions, in ``keras.ops`` alone: noise comes in as numbers in [0, 1).

So a draw is a function: the same on every backend, in a graph and out of it, and a row's draw does not depend on its
place in a batch.
"""

from keras import ops

FAINT = -1e9  # a logit that is never drawn


def choose(logits, uniform, temperature=1.0, top_k: int = 0, top_p: float = 1.0):
    """One class of each row, by inverting its cumulated probabilities.

    Logits are divided by the temperature, then kept to the ``top_k`` highest, then to the fewest that hold ``top_p`` of
    the probability that is left (Holtzman et al., 2020).

    Args:
        logits: [shape=(batch, classes)].
        uniform: in [0, 1) [shape=(batch,)].
        temperature: a number, or one for each row [shape=(batch,)]; 0 takes the likeliest class.
        top_k: classes kept; 0 for all.
        top_p: probability kept; 1 for all.

    Returns:
        int32 [shape=(batch,)].
    """
    logits = ops.cast(logits, "float32")
    temperature = ops.reshape(ops.convert_to_tensor(temperature, dtype="float32"), (-1, 1))
    best = ops.cast(ops.argmax(logits, axis=-1), "int32")
    scaled = (logits - ops.max(logits, axis=-1, keepdims=True)) / ops.maximum(temperature, 1e-6)
    if top_k and top_k < logits.shape[-1]:
        least = ops.top_k(scaled, k=top_k)[0][:, -1:]
        scaled = ops.where(scaled >= least, scaled, FAINT)
    probabilities = ops.softmax(scaled, axis=-1)
    if top_p < 1.0:
        falling = ops.flip(ops.sort(probabilities, axis=-1), axis=-1)
        before = ops.cumsum(falling, axis=-1) - falling  # held by those that are likelier
        least = ops.min(ops.where(before < top_p, falling, 2.0), axis=-1, keepdims=True)
        probabilities = ops.where(probabilities >= least, probabilities, 0.0)
    cumulated = ops.cumsum(probabilities, axis=-1)
    threshold = ops.reshape(uniform, (-1, 1)) * cumulated[:, -1:]
    drawn = ops.sum(ops.cast(cumulated <= threshold, "int32"), axis=-1)
    # Rounding may leave the threshold at the very end, past the last class that has any probability.
    last = ops.sum(ops.cast(cumulated < cumulated[:, -1:], "int32"), axis=-1)
    drawn = ops.minimum(drawn, last)
    return ops.where(ops.reshape(temperature, (-1,)) > 0.0, drawn, best)


def normal(uniform):
    """Standard normal numbers of numbers in [0, 1), by the inverse of the distribution function."""
    inside = ops.clip(uniform, 1e-7, 1.0 - 1e-7)
    return 1.4142135623730951 * ops.erfinv(2.0 * inside - 1.0)
