"""A prior learned from a tiny bundle's latents: kept in the bundle, read in a fresh process, drawn from, refused."""

import json
import os
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from families import SPECTROGRAM_FAMILIES
from interrupts import interrupt, interrupted
from keras import ops
from tones import write_tones

from spectrovae import models
from spectrovae.bundle import load_part
from spectrovae.codec import Codec
from spectrovae.data import Recordings
from spectrovae.errors import InputError
from spectrovae.models.priors import Prior
from spectrovae.representations import LogSTFT
from spectrovae.sampling import choose
from spectrovae.serving import export
from spectrovae.serving.saved_model import read_export
from spectrovae.training import fit_prior


@keras.saving.register_keras_serializable(package="spectrovae-tests")
class Table(Prior):
    """Codes independent of each other, each by a table of its position and the conditions: the simplest prior."""

    codes = True

    def __init__(self, latent_shape, classes, *, preset="small", **kwargs):
        super().__init__(latent_shape, classes, **kwargs)
        self.preset = preset
        shape = (self.size, self.classes)
        self.logits = self.add_weight(name="logits", shape=shape, initializer="zeros")
        self.shifts = {
            name: self.add_weight(name=name, shape=(len(names) + 1, *shape), initializer="zeros")
            for name, names in self.conditions.items()
        }
        self.built = True

    def given(self, conditions, rows):
        logits = ops.broadcast_to(self.logits, (rows, self.size, self.classes))
        for name, shift in self.shifts.items():
            logits = logits + ops.take(shift, ops.cast(conditions[name], "int32"), axis=0)
        return logits

    def nll(self, latent, conditions, training=False):
        flat = ops.reshape(ops.cast(latent, "int32"), (-1, self.size))
        chances = ops.log_softmax(self.given(conditions, ops.shape(flat)[0]), axis=-1)
        return -ops.sum(ops.squeeze(ops.take_along_axis(chances, flat[..., None], axis=-1), -1), axis=1)

    def draw(self, uniform, conditions, temperature=1.0, top_k=0, top_p=1.0, known=None, mask=None):
        rows = ops.shape(uniform)[0]
        logits = ops.reshape(self.given(conditions, rows), (-1, self.classes))
        heat = ops.repeat(ops.broadcast_to(ops.reshape(temperature, (-1,)), (rows,)), self.size)
        drawn = choose(logits, ops.reshape(uniform, (-1,)), heat, top_k, top_p)
        drawn = ops.reshape(drawn, (-1, *self.latent_shape))
        return drawn if mask is None else ops.where(mask, ops.cast(known, "int32"), drawn)

    def get_config(self):
        return {**super().get_config(), "preset": self.preset}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tones(tmp_path_factory.mktemp("tones"), takes=20)


@pytest.fixture(scope="module")
def recordings(folder):
    return Recordings.open(folder, samples=1008)


@pytest.fixture(scope="module", autouse=True)
def table():
    models.PRIORS["table"] = Table
    yield
    del models.PRIORS["table"]


def write_bundle(family, recordings, path):
    keras.utils.set_random_seed(0)
    representation = LogSTFT(8000, n_fft=128, hop_length=32, phase_iterations=2, max_db=0.0)
    shape = representation.feature_shape(recordings.samples)
    trainer = models.FAMILIES[family](shape, preset="tiny", db_per_unit=representation.db_per_unit)
    trainer.initialise(recordings.features("train", representation))
    trainer.compile(optimizer="adam", run_eagerly=True)  # a few steps are not worth a graph
    trainer.fit(recordings.features("train", representation, shuffle=True), epochs=1, verbose=0)
    Codec(
        representation, trainer.encoder, trainer.decoder, family=family, prior=trainer.prior, name=family
    ).save(path)  # fmt: skip
    return path


@pytest.fixture(scope="module")
def bundles(recordings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    return {family: write_bundle(family, recordings, folder / family) for family in SPECTROGRAM_FAMILIES}


@pytest.fixture(scope="module")
def fitted(bundles, recordings, tmp_path_factory):
    """Bundles with priors, by kind."""
    made = {}
    for kind, family in (("mixture", "vae"), ("flow", "autoencoder"), ("table", "vq-vae")):
        path = tmp_path_factory.mktemp("fitted") / kind
        shutil.copytree(bundles[family], path)
        options = {"epochs": 4, "learning_rate": 0.05} if kind == "table" else {"epochs": 2}
        fit_prior(path, recordings, kind, preset="tiny", **options)
        made[kind] = path
    return made


@pytest.mark.parametrize("kind", ["mixture", "flow", "table"])
def test_a_prior_is_kept_with_its_figures(fitted, kind):
    codec = Codec.load(fitted[kind], verify=True)
    assert codec.learned["kind"] == kind
    assert codec.learned_prior.conditions == {"label": ("0", "1", "2"), "speaker": ("flute", "reed")}
    figures = codec.learned["figures"]
    assert set(figures) >= {"train", "validation", "test", "unit"}
    test = figures["test"]
    if kind == "table":
        assert test["prior"] < test["unigram"] < figures["uniform"] + 1.0
        assert test["saved"] == pytest.approx(1.0 - test["prior"] / test["unigram"])
    else:
        assert test["prior"] < test["standard_normal"]
        assert all(np.isfinite(value) for value in test.values())
    assert isinstance(load_part(fitted[kind], "prior"), Prior)


def test_a_mixture_chosen_on_validation_beats_the_gaussian_of_all(fitted):
    figures = Codec.load(fitted["mixture"]).learned["figures"]
    assert figures["validation"]["prior"] < figures["validation"]["gaussian"]


def test_a_fresh_process_draws_the_same(fitted, fresh_process, tmp_path):
    kinds = ("mixture", "flow")
    code = """
import sys, numpy as np
from spectrovae.codec import Codec
for bundle in sys.argv[2:]:
    codec = Codec.load(bundle)
    np.save(f"{sys.argv[1]}/{codec.learned['kind']}.npy", codec.generate(3, label="1", seed=5))
"""
    fresh_process(code, tmp_path, *(fitted[kind] for kind in kinds))
    for kind in kinds:
        codec = Codec.load(fitted[kind])
        here = codec.generate(3, label="1", seed=5)
        np.testing.assert_allclose(np.load(tmp_path / f"{kind}.npy"), here, atol=1e-4)
        assert here.shape == (3, codec.segment_samples)


def test_conditions_choose_what_is_drawn(fitted):
    codec = Codec.load(fitted["mixture"])
    names = ["0", "1", "2"] * 4
    drawn = codec.generate(12, label=names, speaker="flute", temperature=0.3, segments=2)
    spectra = np.abs(np.fft.rfft(drawn, axis=1))
    peaks = spectra.argmax(axis=1) * 8000 / drawn.shape[1]
    means = [np.median(peaks[place::3]) for place in range(3)]
    assert means[0] < means[1] < means[2]  # 300, 600 and 1200 Hz
    codes = Codec.load(fitted["table"])
    assert not np.array_equal(codes.generate(1, label="0", seed=1), codes.generate(1, label="2", seed=1))


def test_draws_repeat_and_temperature_nought_is_greedy(fitted):
    for path in fitted.values():
        codec = Codec.load(path)
        np.testing.assert_array_equal(codec.generate(2, seed=3), codec.generate(2, seed=3))
        assert not np.array_equal(codec.generate(2, seed=3), codec.generate(2, seed=4))
        greedy = codec.generate(2, temperature=0.0, label="0", speaker="reed")
        np.testing.assert_allclose(greedy[0], greedy[1], atol=1e-5)
        # More rows than are drawn at a time, and each as it would be alone.
        assert codec.generate(1, segments=70).shape[0] == 1


def test_a_beginning_is_kept_and_continued(fitted, recordings):
    codec = Codec.load(fitted["table"])
    sound = np.asarray(next(iter(recordings.waveforms("test", 1))))[0]
    columns = codec.latent_shapes[0][1]
    half = sound[: codec.segment_samples // 2]
    drawn = {}
    codec.decode = lambda latent, *rest, **more: drawn.setdefault("latent", latent)  # codes, not what they sound
    codec.generate(3, segments=2, prefix=half)
    kept = columns * len(half) // codec.segment_samples
    assert 0 < kept < columns
    np.testing.assert_array_equal(drawn["latent"][1, 0, :, :kept], codec.encode(half[None])[0, 0, :, :kept])
    assert np.ptp(drawn["latent"][:, 0, :, kept:], axis=0).any()
    whole = sound[: codec.segment_samples]
    for bad, says in ((whole, "less than that"), (sound[:2], "give more"), (sound[None], "one waveform")):
        with pytest.raises(InputError, match=says):
            codec.generate(1, prefix=bad)


def test_bad_draws_are_refused(fitted, bundles):
    codec = Codec.load(fitted["mixture"])
    for options, says in (
        ({"label": "9"}, "label must be one of 0, 1, 2, received '9'"),
        ({"speaker": ["flute", "reed"]}, "one for each of 3"),
        ({"temperature": -1.0}, "temperature must be 0 or more"),
        ({"top_k": 5}, "draws no codes"),
        ({"guidance": 2.0}, "draws no codes"),
        ({"guidance": -1.0}, "guidance must be 0 or more"),
        ({"prefix": np.zeros(10)}, "draws no codes"),
        ({"segments": 0}, "at least 1"),
        ({"top_p": 0.0}, "top_p"),
    ):
        with pytest.raises(InputError, match=says):
            codec.generate(3, **options)
    with pytest.raises(InputError, match=r"N\(0, I\), which knows no label"):
        Codec.load(bundles["vae"]).generate(1, label="0")
    for family in ("autoencoder", "vq-vae"):
        with pytest.raises(InputError, match="cannot generate: .* prior.*fit-prior"):
            Codec.load(bundles[family]).generate(1)


def test_what_cannot_have_a_prior_is_refused(bundles, fitted, recordings):
    for family, says in (("hierarchical-vae", "priors of its own"), ("unet", "skips of a real sound")):
        with pytest.raises(InputError, match=says):
            fit_prior(bundles[family], recordings)
    with pytest.raises(InputError, match="--force"):
        fit_prior(fitted["mixture"], recordings)
    with pytest.raises(InputError, match="must be one of mixture, flow"):
        fit_prior(bundles["vae"], recordings, "table")
    with pytest.raises(InputError, match="received 'mixture'"):
        fit_prior(bundles["vq-vae"], recordings, "mixture")
    with pytest.raises(InputError, match="conditions must be of"):
        fit_prior(bundles["vae"], recordings, conditions=["mood"])
    with pytest.raises(InputError, match="no learned prior"):
        load_part(bundles["vae"], "prior")


def test_a_prior_of_another_encoder_is_refused(fitted, bundles, recordings, tmp_path):
    mixed = shutil.copytree(fitted["mixture"], tmp_path / "mixed")
    description = json.loads((mixed / "codec.json").read_text())
    description["learned_prior"]["encoder"] = "0" * 64
    del description["digest"]
    (mixed / "codec.json").write_text(json.dumps(description))
    with pytest.raises(InputError, match="another encoder"):
        Codec.load(mixed)
    assert fit_prior(mixed, recordings, preset="tiny", force=True).learned["encoder"] != "0" * 64
    assert Codec.load(mixed).learned_prior is not None
    codec, other = Codec.load(bundles["autoencoder"]), Codec.load(fitted["table"])
    with pytest.raises(InputError, match="fit a prior to this codec"):
        Codec(codec.representation, codec.encoder, codec.decoder, learned_prior=other.learned_prior)


def test_a_damaged_or_missing_prior_is_found(fitted, tmp_path):
    for name, damage in (("cut", lambda file: file.write_bytes(b"PK")), ("gone", lambda file: file.unlink())):
        copy = shutil.copytree(fitted["mixture"], tmp_path / name)
        damage(copy / "prior.keras")
        with pytest.raises(InputError, match=r"prior\.keras"):
            Codec.load(copy)


def test_the_bundle_changes_in_one_step(bundles, recordings, tmp_path, monkeypatch):
    """Killed before the moment of change it is the old bundle; after it, the new one with its prior."""
    path = shutil.copytree(bundles["vae"], tmp_path / "vae")
    real = os.rename

    def killed(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        fit_prior(path, recordings, preset="tiny")
    assert Codec.load(path, verify=True).learned_prior is None
    monkeypatch.setattr(os, "rename", real)
    monkeypatch.setattr(os, "replace", killed_replace(os.replace))
    with pytest.raises(KeyboardInterrupt):
        fit_prior(path, recordings, preset="tiny")
    assert (path / ".saved").is_dir()
    assert Codec.load(path, verify=True).learned_prior is not None


def killed_replace(real):  # while parts are moved to their places
    def replace(source, target):
        if ".saved" in str(source) and str(source).endswith("encoder.keras"):
            raise KeyboardInterrupt
        real(source, target)

    return replace


def test_a_codec_saved_without_its_prior_leaves_none(fitted, tmp_path):
    path = shutil.copytree(fitted["mixture"], tmp_path / "codec")
    codec = Codec.load(path)
    Codec(codec.representation, codec.encoder, codec.decoder, family="vae", prior=codec.prior).save(path)
    assert not (path / "prior.keras").exists()
    assert Codec.load(path).learned_prior is None


def test_export_draws_as_keras_does(fitted, tmp_path):
    """The gate compares every signature in another process, through both loaders."""
    for kind, weights in (("table", "float32"), ("mixture", "int8")):
        folder = export(fitted[kind], tmp_path, name=kind, weights=weights)
        assert "generate" in read_export(folder)["parity"]["python"]
        assert read_export(folder)["learned_prior"]["conditions"]["speaker"] == ["flute", "reed"]
        if kind == "table":
            served = tf.saved_model.load(str(folder)).signatures["generate"]

            def drawn(seed, label, served=served, temperature=1.0):
                rows = len(seed)
                given = {"seed": seed, "label": label, "speaker": [2] * rows}
                tensors = {name: tf.constant(values, tf.int32) for name, values in given.items()}
                return served(temperature=tf.fill([rows], temperature), **tensors)["waveform"].numpy()

            both = drawn([7, 8], [0, 3])
            assert both.shape == (2, Codec.load(fitted[kind]).segment_samples)
            np.testing.assert_allclose(drawn([8], [3]), both[1:], atol=1e-5)
            np.testing.assert_array_equal(drawn([7, 8], [0, 99]), both)  # beyond the last is none given, too
            assert not np.array_equal(drawn([9], [3]), both[1:])


def test_an_interrupted_prior_continues_exactly(bundles, recordings, tmp_path, monkeypatch):
    paths = {name: shutil.copytree(bundles["autoencoder"], tmp_path / name) for name in ("parts", "full")}

    def fit(name):
        return fit_prior(paths[name], recordings, "flow", preset="tiny", epochs=2)

    before = (paths["parts"] / "codec.json").read_bytes()
    with monkeypatch.context() as patch:
        interrupted(patch, epoch=1)
        with pytest.raises(KeyboardInterrupt):
            fit("parts")
    assert (paths["parts"] / "codec.json").read_bytes() == before
    assert (paths["parts"] / "run-prior" / "state.npz").is_file()
    parts, full = fit("parts"), fit("full")
    assert not (paths["parts"] / "run-prior").exists()
    for a, b in zip(parts.learned_prior.get_weights(), full.learned_prior.get_weights()):
        np.testing.assert_array_equal(a, b)
    assert parts.learned["figures"] == full.learned["figures"]


@pytest.mark.parametrize(("family", "kind"), [("autoencoder", "flow"), ("vq-vae", "wavenet"), ("vq-vae", "pixelcnn")])
def test_a_prior_interrupted_after_its_last_epoch_is_finished(family, kind, bundles, recordings, tmp_path, monkeypatch):
    paths = {name: shutil.copytree(bundles[family], tmp_path / name) for name in ("parts", "full")}

    def fit(name):
        return fit_prior(paths[name], recordings, kind, preset="tiny", epochs=1)

    with monkeypatch.context() as patch:
        patch.setattr(Codec, "save", lambda *_: interrupt())
        with pytest.raises(KeyboardInterrupt):
            fit("parts")
    parts, full = fit("parts"), fit("full")
    for a, b in zip(parts.learned_prior.get_weights(), full.learned_prior.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert parts.learned["figures"] == full.learned["figures"]
