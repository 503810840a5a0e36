"""Model families. Each file holds one: its presets, encoder, decoder and trainer, to be read top to bottom."""

from spectrovae.models.autoencoder import Autoencoder
from spectrovae.models.flow import Flow
from spectrovae.models.hierarchical_vae import HierarchicalVAE
from spectrovae.models.mixture import GaussianMixture
from spectrovae.models.pixelcnn import PixelCNN
from spectrovae.models.priors import Prior
from spectrovae.models.rave import RAVE
from spectrovae.models.unet import UNet
from spectrovae.models.vae import VAE
from spectrovae.models.vq_vae import VQVAE
from spectrovae.models.waveform_vae import WaveformVAE
from spectrovae.models.wavenet import LatentWaveNet, WaveNet

FAMILIES = {
    "autoencoder": Autoencoder,
    "vae": VAE,
    "hierarchical-vae": HierarchicalVAE,
    "vq-vae": VQVAE,
    "unet": UNet,
    "waveform-vae": WaveformVAE,
    "rave": RAVE,
}

# Distributions of a family's latents, learned once its encoder and decoder are.
PRIORS: dict[str, type[Prior]] = {
    "pixelcnn": PixelCNN,
    "wavenet": WaveNet,
    "mixture": GaussianMixture,
    "flow": Flow,
    "latent-wavenet": LatentWaveNet,
}

__all__ = [
    "FAMILIES",
    "PRIORS",
    "RAVE",
    "VAE",
    "VQVAE",
    "Autoencoder",
    "Flow",
    "GaussianMixture",
    "HierarchicalVAE",
    "LatentWaveNet",
    "PixelCNN",
    "Prior",
    "UNet",
    "WaveNet",
    "WaveformVAE",
]
