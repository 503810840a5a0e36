"""Losses and divergences, in ``keras.ops`` alone; sums run over an example's cells or dimensions, never the batch."""

import math
from collections.abc import Sequence

from keras import ops

from spectrovae.errors import InputError

LOUD_ENOUGH = 1e-5
"""Least power of a target's cells that :func:`spectral_distance` divides by: that of noise with an RMS of 0.005, 46 dB
below full scale. A tenth of spoken digits is softer, and 1 % of music; silence would divide by nothing."""
LEAST_SIGMA = 1e-7
"""Least calibrated sigma, in feature units: the rounding of features near 1 in float32."""
SMALL_LOG_SIGMA = math.log(1e-3)
"""Log of a sigma that is small where no running one is known: 0.08 dB of a range of 80."""


def kl_divergence(mean, log_variance):
    """KL(N(mean, exp(log_variance)) || N(0, 1)) of each dimension, in nats, same shape as ``mean``.

    0.5 (mean^2 + variance - 1 - log variance); Kingma and Welling (2014), appendix B.
    """
    return 0.5 * (ops.square(mean) + ops.exp(log_variance) - 1.0 - log_variance)


def channel_squared_error(target, prediction):
    """Mean squared error of each channel of each example [shape=(batch, channels)], in float32."""
    error = ops.cast(target, "float32") - ops.cast(prediction, "float32")
    return ops.mean(ops.square(error), axis=tuple(range(1, len(error.shape) - 1)))


def mean_squared_error(target, prediction):
    """Mean squared error of each example [shape=(batch,)], in float32."""
    error = ops.cast(target, "float32") - ops.cast(prediction, "float32")
    return ops.mean(ops.square(error), axis=tuple(range(1, len(error.shape))))


def root_mean_squared_error(target, prediction):
    """Root of :func:`mean_squared_error` of each example [shape=(batch,)]; its gradient is finite at zero error."""
    return ops.sqrt(mean_squared_error(target, prediction) + 1e-12)


def gaussian_nll(squared_error, log_sigma, cells: int):
    """Negative log-likelihood of an example under N(prediction, sigma^2) in every cell, in nats.

    Args:
        squared_error: mean squared error over the example's cells.
        log_sigma: log of the common standard deviation.
        cells: cells in an example.
    """
    return cells * (0.5 * squared_error * ops.exp(-2.0 * log_sigma) + log_sigma + 0.5 * math.log(2.0 * math.pi))


def optimal_log_sigma(squared_error):
    """Log of the sigma that maximises the likelihood of a batch: sigma is the root of the mean squared error.

    sigma-VAE (Rybkin, Daniilidis and Levine, 2021). It is not below ``LEAST_SIGMA``.

    Args:
        squared_error: of each example [shape=(batch,)], or of each channel of each [shape=(batch, channels)], for a
            sigma a channel.
    """
    return 0.5 * ops.log(ops.maximum(ops.mean(squared_error, axis=0), LEAST_SIGMA**2))


def calibrated_nll(target, prediction, log_sigma=None):
    """Negative log-likelihood of each example under a Gaussian of one sigma a channel, in nats [shape=(batch,)].

    A sigma a channel: phase, which nothing predicts, must not set the one of the level.

    Args:
        target, prediction: features (batch, bins, frames, channels).
        log_sigma: of each channel [shape=(channels,)]; by default the batch's own, :func:`optimal_log_sigma`.
    """
    if log_sigma is None:
        return optimal_nll(target, prediction)[0]
    return ops.sum(gaussian_nll(channel_squared_error(target, prediction), log_sigma, _cells(target)), axis=-1)


def optimal_nll(target, prediction, least_log_sigma=SMALL_LOG_SIGMA):
    """:func:`calibrated_nll` under the batch's own sigma, with a bounded gradient.

    That likelihood is ``cells / 2 * log(mean squared error)``, whose gradient is in proportion to 1 / sigma.
    A batch of near silence, which is predicted far better than others, would outweigh them all, and Adam, which
    remembers the squares of gradients, would stand still for thousands of steps. Where sigma is less than
    ``least_log_sigma``, the gradient is that of the squared error at that sigma. The value is not changed.

    Args:
        target, prediction: features (batch, bins, frames, channels).
        least_log_sigma: log of the sigma below which the gradient does not grow, a number or one a channel.

    Returns:
        The negative log-likelihood of each example [shape=(batch,)] and the log of sigma [shape=(channels,)], which
        has no gradient: at the optimum the likelihood does not depend on it.
    """
    squared_error = channel_squared_error(target, prediction)
    log_sigma = ops.stop_gradient(optimal_log_sigma(squared_error))
    nll = gaussian_nll(squared_error, log_sigma, _cells(target))
    share = ops.exp(2.0 * ops.minimum(log_sigma - least_log_sigma, 0.0))
    return ops.sum(share * nll + ops.stop_gradient((1.0 - share) * nll), axis=-1), log_sigma


def _cells(features) -> int:
    """Cells of one channel of an example."""
    return features.shape[1] * features.shape[2]


def gaussian_nll_of_cells(target, mean, log_variance):
    """Negative log-likelihood of each example where each cell has a variance of its own, in nats [shape=(batch,)]."""
    error = ops.cast(target, "float32") - ops.cast(mean, "float32")
    log_variance = ops.cast(log_variance, "float32")
    nll = 0.5 * (ops.square(error) * ops.exp(-log_variance) + log_variance + math.log(2.0 * math.pi))
    return ops.sum(nll, axis=tuple(range(1, len(nll.shape))))


def bernoulli_nll(target, logits):
    """Binary cross-entropy of each example, summed over its cells, in nats [shape=(batch,)].

    Of targets between 0 and 1 it is no likelihood: exp(-loss) does not integrate to 1 over them (Loaiza-Ganem and
    Cunningham, 2019), and its least value is their entropy, not 0. Never compare it with a Gaussian's.
    """
    target, logits = ops.cast(target, "float32"), ops.cast(logits, "float32")
    nll = ops.softplus(logits) - target * logits
    return ops.sum(nll, axis=tuple(range(1, len(nll.shape))))


def free_bits(kl, least: float):
    """Sum over dimensions of max(least, batch mean of the KL divergence) (Kingma et al., 2016), in nats [shape=()].

    Below ``least`` nats a dimension costs the same whatever it carries, so that the KL divergence does not push it out.

    Args:
        kl: of each dimension of each example [shape=(batch, dimensions)].
    """
    return ops.sum(ops.maximum(ops.mean(kl, axis=0), least))


def spectral_distance(target, prediction, sizes: Sequence[int] = (2048, 1024, 512, 256, 128)):
    """Distance of magnitude spectrograms at several resolutions [shape=(batch,)], in float32; no unit.

    The sum over sizes of mean((X - Y)^2) / mean(X^2) + mean|log(X + 1e-7) - log(Y + 1e-7)|, means over all cells of an
    example (Caillon and Esling, 2021). X and Y are magnitudes divided by the root of the size, as in the authors' code:
    white noise then reads the same at all sizes, so that 1e-7 is as far below it. The window is Hann's, hops are a
    quarter of it, frames centred with the signal mirrored at its ends. mean(X^2) is taken as no less than
    ``LOUD_ENOUGH``, and magnitudes below 1e-10 give no gradient.

    Args:
        target, prediction: waveforms (batch, samples), or sub-bands (batch, bands, samples): one mean for all bands.
        sizes: of the transforms, in samples, multiples of four; those longer than the signal are left out.

    Raises:
        InputError: no size is left.
    """
    samples = target.shape[-1]
    fitting = [size for size in sizes if samples is None or size <= samples]
    if not fitting:
        least = min(sizes, default=1)
        raise InputError(f"a spectral distance needs {least} samples or more, received {samples}: give longer sounds")
    total = 0.0
    for size in fitting:
        x, y = _magnitudes(target, size), _magnitudes(prediction, size)
        axes = tuple(range(1, len(x.shape)))
        error, power = ops.mean(ops.square(x - y), axis=axes), ops.mean(ops.square(x), axis=axes)
        logs = ops.mean(ops.abs(ops.log(x + 1e-7) - ops.log(y + 1e-7)), axis=axes)
        total = total + error / ops.maximum(power, LOUD_ENOUGH) + logs
    return total


def _magnitudes(signal, size: int):
    """(batch, ..., samples) -> (batch, ..., frames, bins), in float32."""
    shape = ops.shape(signal)
    rows = ops.reshape(ops.cast(signal, "float32"), (-1, shape[-1])) / math.sqrt(size)
    real, imaginary = ops.stft(rows, size, size // 4, size)
    # The root has no derivative at 0.
    magnitudes = ops.sqrt(ops.maximum(ops.square(real) + ops.square(imaginary), 1e-20))
    return ops.reshape(magnitudes, (*shape[:-1], *ops.shape(magnitudes)[1:]))


# Adversarial training. ``real`` and ``fake`` are what discriminators (``models.discriminators``) make of sounds: a list
# for each, of its feature maps, the last being its logits. Losses are means over cells, examples, layers and
# discriminators, in float32 [shape=()], so that weights hold whatever the number and size of discriminators.

ADVERSARIES = ("hinge", "least_squares")


def discriminator_loss(real, fake, adversary: str = "hinge"):
    """What the discriminators lower; 2 for the hinge and 1 for least squares where all logits are 0.

    Hinge (Lim and Ye, 2017): max(0, 1 - real) + max(0, 1 + fake). Least squares (Mao et al., 2017): (1 - real)^2 +
    fake^2.
    """
    if _check_adversary(adversary) == "hinge":
        of_real, of_fake = (lambda logits: ops.relu(1.0 - logits)), (lambda logits: ops.relu(1.0 + logits))
    else:
        of_real, of_fake = (lambda logits: ops.square(1.0 - logits)), ops.square
    return _mean_of_logits(of_real, real) + _mean_of_logits(of_fake, fake)


def generator_loss(fake, adversary: str = "hinge"):
    """What the generator lowers against the discriminators: -fake of the hinge, (1 - fake)^2 of least squares."""
    if _check_adversary(adversary) == "hinge":
        return -mean_score(fake)
    return _mean_of_logits(lambda logits: ops.square(1.0 - logits), fake)


def mean_score(judged):
    """Mean logit; the same for discriminators of few and of many logits."""
    return _mean_of_logits(lambda logits: logits, judged)


def feature_matching(real, fake, relative: bool = False, skip: int = 0):
    """Mean absolute difference of feature maps, logits left out (Larsen et al., 2016; Kumar et al., 2019).

    Args:
        relative: divide by the real map's mean magnitude, taken as 0.001 or more, so that all layers weigh the same.
        skip: layers left out of each discriminator, from the first on; RAVE's second version leaves out one.

    Raises:
        InputError: no layer is left.
    """
    terms = []
    for real_maps, fake_maps in zip(real, fake):
        pairs = list(zip(real_maps[:-1], fake_maps[:-1]))[skip:]
        if not pairs:
            raise InputError(f"skip must be below the {len(real_maps) - 1} layers before the logits, received {skip}")
        for x, y in pairs:
            x, y = ops.cast(x, "float32"), ops.cast(y, "float32")
            difference = ops.mean(ops.abs(x - y))
            if relative:
                difference = difference / ops.maximum(ops.mean(ops.abs(x)), 1e-3)
            terms.append(difference / len(pairs))
    return sum(terms) / len(real)


def _mean_of_logits(function, judged):
    return sum(ops.mean(function(ops.cast(maps[-1], "float32"))) for maps in judged) / len(judged)


def _check_adversary(adversary: str) -> str:
    if adversary not in ADVERSARIES:
        raise InputError(f"adversary must be one of {', '.join(ADVERSARIES)}, received {adversary!r}")
    return adversary
