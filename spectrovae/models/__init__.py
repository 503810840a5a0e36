"""Model families. Each file holds one: its presets, encoder, decoder and trainer, to be read top to bottom."""

from spectrovae.models.autoencoder import Autoencoder
from spectrovae.models.hierarchical_vae import HierarchicalVAE
from spectrovae.models.unet import UNet
from spectrovae.models.vae import VAE
from spectrovae.models.vq_vae import VQVAE

FAMILIES = {
    "autoencoder": Autoencoder,
    "vae": VAE,
    "hierarchical-vae": HierarchicalVAE,
    "vq-vae": VQVAE,
    "unet": UNet,
}

__all__ = ["FAMILIES", "VAE", "VQVAE", "Autoencoder", "HierarchicalVAE", "UNet"]
