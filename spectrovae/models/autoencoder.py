"""Autoencoder: deterministic, with a vector latent and no prior over it.

The linear one spans the subspace of PCA; what the others do better is what is not linear in the data. The encoders and
decoders, and the presets, are those of :mod:`spectrovae.models.networks`.
"""

import keras
from keras import ops

from spectrovae import losses
from spectrovae.models import networks


def build_encoder(options: networks.Trainer) -> keras.Model:
    """Features (batch, bins, frames, channels) -> latent (batch, latent_dim)."""
    inputs = keras.Input(options.feature_shape, name="features")
    _, latent = networks.encode(inputs, options)
    return keras.Model(
        inputs, keras.layers.Activation("linear", dtype="float32", name="latent")(latent), name="encoder"
    )


@keras.saving.register_keras_serializable("spectrovae")
class Autoencoder(networks.Trainer):
    """Autoencoder trainer: holds ``encoder`` and ``decoder``, each of them usable and saved apart.

    Its loss is that of the VAE without the KL divergence, in nats per example: cells / 2 * log(mean squared error) of
    the batch, up to a constant, for each channel. It is least where the mean squared error is; on features with phase
    beside the level, the log keeps the channel that nothing predicts from ruling the other. The sigma is the batch's
    own in evaluation too: what is asked of a model without a density is its error, not how well it knew it. It is 0.001
    or more (0.08 dB of 80), or a batch of silence would outweigh all others.

    Args:
        **options: those of :class:`spectrovae.models.networks.Trainer`. ``linear`` is ``"principal"`` by default: call
            :meth:`initialise` with the training features before training, as ``spectrovae.training`` does.

    Metrics: ``rmse_db``, in dB.
    """

    def __init__(self, feature_shape, latent_dim: int | None = None, *, linear: str = "principal", **options):
        super().__init__(feature_shape, latent_dim, linear=linear, **options)
        self.encoder = build_encoder(self)
        self.decoder = networks.build_decoder(self)

    def call(self, features, training=False):
        target = self.augment(features, training)
        prediction = self.decoder(self.encoder(target, training=training), training=training)
        return {"features": prediction} | ({"target": target} if target is not features else {})

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        target = y_pred.get("target", self.target_of(x, y, sample_weight))
        self.track_error(target, y_pred["features"])
        error = losses.channel_squared_error(target, y_pred["features"])
        log_sigma = ops.maximum(losses.optimal_log_sigma(error), losses.SMALL_LOG_SIGMA)
        return ops.mean(losses.calibrated_nll(target, y_pred["features"], ops.stop_gradient(log_sigma)))
