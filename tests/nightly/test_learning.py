"""Trainings long enough to show what a model learns."""

import itertools

import keras
import numpy as np
import pytest
from test_code_priors import MAPS, VARIANTS, check_training
from test_models import code_use, make
from test_verdict import run, vae

from spectrovae import training
from spectrovae.data import Recordings
from spectrovae.evaluation.perturbations import perturb
from spectrovae.models import UNet
from spectrovae.models.hierarchical_vae import resample_group
from spectrovae.representations import LogSTFT


def test_more_beta_means_less_kl(speech_features):
    kl = {}
    for beta in (0.1, 100.0):
        keras.utils.set_random_seed(0)
        model = make("vae", beta=beta)
        model.compile(optimizer=keras.optimizers.Adam(2e-3))
        model.fit(speech_features, epochs=5, batch_size=24, verbose=0)
        kl[beta] = model.evaluate(speech_features, verbose=0, return_dict=True)["kl"]
    assert kl[100.0] < 0.5 * kl[0.1]


def test_unet_learns_a_few_clips_by_heart(speech_features):
    clips = speech_features[12:24]
    model = UNet((64, 16, 1), preset="tiny", db_per_unit=80.0)
    model.compile(optimizer=keras.optimizers.Adam(1e-2))
    model.fit(np.repeat(clips, 10, axis=0), epochs=25, batch_size=12, verbose=0)
    assert model.evaluate(clips, verbose=0, return_dict=True)["rmse_db"] < 1.5


def test_a_codebook_without_its_cures_collapses(speech_features):
    found = {}
    for name, options in (
        ("cured", {}),
        ("bare", {"restart": 0.0, "kmeans_steps": 0, "diversity_weight": 0.0}),
    ):
        keras.utils.set_random_seed(0)
        model = make("vq-vae", codebook_size=64, **options)
        model.compile(optimizer=keras.optimizers.Adam(2e-3))
        model.fit(speech_features, epochs=40, batch_size=8, verbose=0)
        found[name] = code_use(model, speech_features)
    assert found["cured"][0] >= 0.95
    assert found["cured"][1] >= 32.0
    assert found["bare"][0] < 0.7
    assert found["bare"][1] < 0.5 * found["cured"][1]


def test_every_group_is_used_on_speech(speech_features):
    features = speech_features
    model = make("hierarchical-vae", db_per_unit=80.0, warmup_steps=30)
    model.compile(optimizer=keras.optimizers.Adam(3e-3))
    model.fit(features, epochs=60, batch_size=12, verbose=0)
    latents = model.encoder(features)

    def rmse_db(z):
        return 80.0 * np.sqrt(np.mean((np.asarray(model.decoder(z)) - features) ** 2))

    for group in range(3):
        assert rmse_db(resample_group(latents, group)) > rmse_db(latents) + 0.1, f"group {group} is not used"


def test_a_denoising_fit_denoises_better_on_speech(fsdd_folder, tmp_path):
    recordings = Recordings.open(fsdd_folder, duration=0.256, long="crop")
    representation = LogSTFT(8000, n_fft=128, hop_length=64)
    waveforms = next(iter(recordings.waveforms("test", 64)))
    clean = np.asarray(representation.decibels(waveforms))
    noisy = perturb(clean, 10.0, range(len(clean)))
    errors = {}
    for corrupt in (None, "uniform:10"):
        settings = training.FitOptions(epochs=3, learning_rate=3e-3, corrupt=corrupt, precision="float32")
        codec = training.fit("unet", recordings, representation, tmp_path / str(corrupt), settings, preset="tiny")
        output = representation.to_db(codec.reconstruct_features(representation.from_db(noisy)))
        errors[corrupt] = np.sqrt(np.mean((output - clean) ** 2))
    assert errors["uniform:10"] < 0.9 * errors[None]
    assert errors["uniform:10"] < 0.8 * 10.0 / np.sqrt(3)  # of what was added


def test_a_run_left_long_enough_has_converged(recordings, representation):
    trainer = vae(recordings, representation, latent_dim=2, linear="learned")  # PCA's error is not where it starts
    found = run(trainer, recordings, representation, 400)
    assert "converged" in found
    assert not {"still_improving", "diverged", "collapsed"} & set(found)


@pytest.mark.parametrize(("variant", "shape"), zip(VARIANTS, itertools.cycle(reversed(MAPS))))
def test_training_beats_the_entropy_of_single_codes(variant, shape):
    check_training(VARIANTS[variant], MAPS[shape])
