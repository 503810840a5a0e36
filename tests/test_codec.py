"""The codec and its bundle: shapes, seams, saving, crashes, damage."""

import itertools
import json
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from families import SPECTROGRAM_FAMILIES
from hypothesis import given, settings
from hypothesis import strategies as st
from killing import killed_at

from spectrovae.bundle import load_part
from spectrovae.codec import Codec, golden_waveforms
from spectrovae.errors import InputError
from spectrovae.models import FAMILIES
from spectrovae.representations import Chunks, LogSTFT, Subbands

SEGMENT = 240  # samples that an encoder of 16 frames spans
LENGTHS = [1, 100, SEGMENT, SEGMENT + 1, int(2.5 * SEGMENT), 1000]


def small_representation(**options):
    """32 bins, a hop of 16 samples."""
    return LogSTFT(8000, n_fft=64, hop_length=16, phase_iterations=8, **options)


def make_codec(family="vae", seed=0, **options):
    keras.utils.set_random_seed(seed)
    waveforms = {"rave": Subbands(8000, bands=4), "waveform-vae": Chunks(8000, length=SEGMENT)}
    representation = waveforms.get(family) or small_representation(**options)
    shape = {"rave": (4, 128, 1), "waveform-vae": (SEGMENT, 1, 1)}.get(family, (32, 16, 1))
    model = FAMILIES[family](shape, preset="tiny")
    return Codec(
        representation,
        model.encoder,
        model.decoder,
        family=family,
        prior=model.prior,
        segment_frames=shape[1],
        info={"seed": seed},
    )


def identity_codec(**options):
    """Nothing lost between features and features: what is left is the cutting and joining of segments."""
    parts = []
    for name in ("encoder", "decoder"):
        inputs = keras.Input((32, 16, 1))
        parts.append(keras.Model(inputs, keras.layers.Activation("linear")(inputs), name=name))
    return Codec(small_representation(**options), *parts)


def noise(*shape, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def arrays(structure):
    return [np.asarray(x) for x in tf.nest.flatten(structure)]


@pytest.fixture(scope="module", params=SPECTROGRAM_FAMILIES)
def codec(request):
    return make_codec(request.param)


@pytest.fixture(scope="module")
def vae():
    return make_codec("vae")


@pytest.fixture(scope="module")
def identity():
    return identity_codec()


@pytest.fixture(scope="module")
def saved(vae, tmp_path_factory):
    """A saved bundle, not to be changed: tests copy it."""
    path = tmp_path_factory.mktemp("saved") / "digits"
    vae.save(path)
    return path


@pytest.fixture
def bundle(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "digits")


def refused(call, *arguments, match, **options):
    """The call ends in an InputError of one line."""
    with pytest.raises(InputError, match=match) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)


# Waveforms of any length


def test_segment(codec):
    assert codec.segment_samples == SEGMENT
    assert codec.sample_rate == 8000


@pytest.mark.parametrize("samples", LENGTHS)
def test_shapes_of_every_family(codec, samples):
    waveform = noise(3, samples)
    latent = codec.encode(waveform)
    segments = -(-(1 + samples // 16) // 16)
    assert [z.shape for z in arrays(latent)] == [(3, segments, *shape) for shape in codec.latent_shapes]
    assert codec.decode(latent, samples).shape == waveform.shape
    assert codec.decode(latent).shape == (3, (16 * segments - 1) * 16)
    found = codec.reconstruct(waveform)
    assert found.shape == waveform.shape
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, codec.decode(latent, samples), atol=1e-5)


def test_rows_do_not_depend_on_each_other(codec):
    waveform = noise(3, 600)
    alone = np.concatenate([codec.reconstruct(row[None]) for row in waveform])
    np.testing.assert_allclose(codec.reconstruct(waveform), alone, atol=1e-4)


def test_segments_are_what_the_encoder_gives_for_each_cut(codec):
    waveform = noise(2, 1000)
    features = np.zeros((2, 32, 64, 1), np.float32)  # silence after the end
    whole = codec.representation(np.pad(waveform, ((0, 0), (0, 8)))).numpy()
    features[:, :, : whole.shape[2]] = whole
    latent = arrays(codec.encode(waveform))
    for segment in range(4):
        expected = arrays(codec.encoder(features[:, :, 16 * segment : 16 * segment + 16]))
        for z, e in zip(latent, expected):
            np.testing.assert_allclose(z[:, segment], e, atol=1e-4)


@settings(max_examples=8)
@given(samples=st.integers(1, 1100))
def test_no_seams(identity, samples):
    waveform = noise(2, samples)
    representation = identity.representation
    padded = np.pad(waveform, ((0, 0), (0, 256 - samples % 256)))  # the silence that fills the last segment
    expected = representation.inverse(representation(padded)[:, :, : -(-(1 + samples // 16) // 16) * 16], samples)
    np.testing.assert_allclose(identity.reconstruct(waveform), expected, atol=1e-4)


@pytest.mark.parametrize("normalisation", ["range", "per_bin", "per_example"])
@pytest.mark.parametrize("samples", [90, 600])
def test_only_phase_is_lost_when_the_model_is_perfect(normalisation, samples):
    codec = identity_codec(normalisation=normalisation)
    codec.representation.adapt([noise(8, 600, seed=1)])
    waveform = noise(2, samples)
    found = codec.representation.decibels(codec.reconstruct(waveform)).numpy()
    wanted = codec.representation.decibels(waveform).numpy()
    magnitudes = [10.0 ** (db / 20.0) for db in (wanted, found)]
    error = np.linalg.norm(magnitudes[0] - magnitudes[1]) / np.linalg.norm(magnitudes[0])
    assert 20.0 * np.log10(error) < -12.0


def test_reconstruct_features(codec):
    features = np.random.default_rng(0).uniform(0.0, 1.0, (5, 32, 16, 1)).astype(np.float32)
    found = codec.reconstruct_features(features)
    np.testing.assert_allclose(found, codec.decoder(codec.encoder(features)), atol=1e-6)
    np.testing.assert_array_equal(codec.reconstruct_features(features), found)
    np.testing.assert_allclose(codec.reconstruct_features(features[2:3]), found[2:3], atol=1e-5)


def between(codec, first, second, weight):
    """A latent on the line from one to another; of codes, the codes nearest to the line between their vectors."""
    if codec.quantiser is None:
        return first + weight * (second - first)
    entries = np.asarray(codec.quantiser.codebook.entries)[0]
    vectors = entries[first] + weight * (entries[second] - entries[first])
    return np.linalg.norm(vectors[..., None, :] - entries, axis=-1).argmin(axis=-1)


def test_interpolation_runs_from_one_sound_to_the_other(codec):
    first, second = noise(500), noise(300, seed=1)
    found = codec.interpolate(first, second, 4)
    assert found.shape == (4, 500)
    np.testing.assert_allclose(found[0], codec.reconstruct(first[None])[0], atol=1e-4)
    np.testing.assert_allclose(found[-1], codec.reconstruct(np.pad(second, (0, 200))[None])[0], atol=1e-4)
    ends = [arrays(codec.encode(x[None])) for x in (first, np.pad(second, (0, 200)))]
    third = codec.pack([between(codec, a, b, 1.0 / 3.0) for a, b in zip(*ends)])
    np.testing.assert_allclose(found[1], codec.decode(third, 500)[0], atol=1e-3)


def test_vae_generates(vae):
    found = vae.generate(3, segments=2, seed=1)
    assert found.shape == (3, 31 * 16)
    assert np.all(np.isfinite(found))
    np.testing.assert_array_equal(vae.generate(3, segments=2, seed=1), found)
    assert not np.allclose(vae.generate(3, segments=2, seed=2), found)
    origin = vae.decode(np.zeros((1, 1, 8), np.float32))
    np.testing.assert_allclose(vae.generate(1, temperature=0.0), origin, atol=1e-5)


def test_unet_cannot_generate():
    refused(make_codec("unet").generate, 1, match="cannot generate")


def test_codes_cannot_be_drawn_without_a_prior():
    refused(make_codec("vq-vae").generate, 1, match="cannot generate: its codes need a prior")


def test_codes_out_of_range_are_refused():
    codec = make_codec("vq-vae")
    codes = codec.encode(noise(2, 300)).copy()
    assert codes.dtype == np.int32
    for bad in (-1, 256):
        codes[1, 0, 1, 0] = bad
        refused(codec.decode, codes, match=f"codes from 0 to 255, received .*{bad}")
    refused(codec.decode, codes.astype(np.float32), match="integer codes")


def test_interpolating_residual_codes_keeps_the_ends():
    model = FAMILIES["vq-vae"]((32, 16, 1), preset="tiny", stages=2)
    codec = Codec(small_representation(), model.encoder, model.decoder, family="vq-vae")
    pair = noise(2, 300)
    found = codec.interpolate(*pair, 3)
    np.testing.assert_allclose(found[[0, 2]], codec.reconstruct(pair), atol=1e-4)


# Bad input


def test_bad_waveforms_are_refused(codec):
    for verb in (codec.encode, codec.reconstruct):
        refused(verb, noise(1, 300), 44100, match="8000 Hz, received 44100 Hz; resample first")
        for bad in (np.nan, np.inf):
            waveform = noise(2, 300)
            waveform[1, 7] = bad
            refused(verb, waveform, match="NaN or infinite")
        refused(verb, noise(300), match=r"shaped \(batch, samples\)")
        refused(verb, np.zeros((1, 300), np.int16), match="floating point")
        verb(noise(1, 300), 8000)


def test_bad_latents_are_refused(codec):
    latent = arrays(codec.encode(noise(2, 300)))
    for bad in (
        [z[..., :-1] for z in latent],
        [z[:, 0] for z in latent],
        [*latent, latent[0]],
        [np.float32(1.0)],
    ):
        refused(codec.decode, bad, match="latent must be shaped")


def test_parts_that_do_not_fit_are_refused():
    vae, unet = (FAMILIES[name]((32, 16, 1), preset="tiny") for name in ("vae", "unet"))
    refused(Codec, small_representation(), vae.encoder, unet.decoder, match="the decoder takes")
    refused(
        Codec,
        LogSTFT(8000, n_fft=128, hop_length=32),
        vae.encoder,
        vae.decoder,
        match="the representation gives",
    )


# The bundle


def test_bundle_survives_in_a_fresh_process(tmp_path, fresh_process):
    waveform, expected = noise(2, 600), {}
    for family, normalisation in [
        *zip(SPECTROGRAM_FAMILIES, itertools.cycle(["per_bin", "range"])),
        *((family, "range") for family in FAMILIES if family not in SPECTROGRAM_FAMILIES),
        ("vae", "per_example"),
    ]:
        codec = make_codec(family, normalisation=normalisation)
        if normalisation == "per_bin":
            codec.representation.adapt([noise(8, 600, seed=1)])
        codec.save(tmp_path / f"{family}-{normalisation}")
        expected[f"{family}-{normalisation}"] = codec.reconstruct(waveform)
    np.save(tmp_path / "waveform.npy", waveform)
    fresh_process(
        """
import pathlib, sys
import numpy as np
from spectrovae.bundle import load_part
from spectrovae.codec import Codec
folder = pathlib.Path(sys.argv[1])
waveform = np.load(folder / "waveform.npy")
found = {}
for path in sorted(p.parent for p in folder.glob("*/codec.json")):
    codec = Codec.load(path, verify=True)
    assert codec.name == path.name and codec.family == path.name.rsplit("-", 1)[0]
    assert codec.info == {"seed": 0} and codec.sample_rate == 8000
    latent = codec.encode(waveform)
    features = codec.features_graph(waveform)
    alone = load_part(path, "encoder")(features if codec.whole else features[:, :, : codec.segment_frames])
    first = latent[0] if isinstance(latent, list) else latent
    alone = alone[0] if isinstance(alone, list) else alone
    alone = alone[:, : first.shape[2]] if codec.whole else alone
    np.testing.assert_allclose(np.asarray(alone), first[:, 0], atol=1e-4)
    found[path.name] = codec.reconstruct(waveform)
np.savez(folder / "found.npz", **found)
""",
        tmp_path,
    )
    with np.load(tmp_path / "found.npz") as found:
        assert set(found.files) == set(expected)
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, atol=1e-3, err_msg=name)


def test_bundle_describes_itself(vae, saved):
    described = json.loads((saved / "codec.json").read_text())
    assert described["family"] == "vae"
    assert described["sample_rate"] == 8000
    assert described["feature_shape"] == [32, 16, 1]
    assert described["latent_shapes"] == [[8]]
    assert described["parameters"] == {
        "encoder": vae.encoder.count_params(),
        "decoder": vae.decoder.count_params(),
    }
    assert described["parameters"]["encoder"] + described["parameters"]["decoder"] == vae.parameters
    assert described["info"] == {"seed": 0}
    assert sorted(path.name for path in saved.iterdir()) == [
        "codec.json",
        "decoder.keras",
        "encoder.keras",
        "golden.npz",
        "representation.keras",
    ]


def test_golden_waveforms_are_sound():
    found = golden_waveforms(SEGMENT, 8000)
    assert found.shape == (4, SEGMENT)
    assert found.dtype == np.float32
    assert np.abs(found).max() <= 1.0
    assert not np.any(found[3])
    assert np.all(np.isfinite(golden_waveforms(1, 8000)))


def test_a_codec_of_one_frame_can_be_saved(tmp_path):
    model = FAMILIES["vae"]((32, 1, 1), preset="tiny")
    Codec(small_representation(), model.encoder, model.decoder).save(tmp_path / "one")
    assert Codec.load(tmp_path / "one", verify=True).segment_frames == 1


def test_verify_accepts_what_was_saved_and_nothing_else(vae, saved):
    assert max(vae.verify(saved).values()) < 1e-4
    refused(make_codec("vae", seed=1).verify, saved, match="does not give what it gave when saved")
    refused(make_codec("vae", max_db=3.0).verify, saved, match="does not give what it gave when saved")


def test_verify_refuses_nan(saved):
    broken = make_codec("vae")
    broken.decoder.set_weights([w * np.nan for w in broken.decoder.get_weights()])
    refused(broken.verify, saved, match="does not give what it gave when saved")


@pytest.mark.parametrize("part", ["representation", "encoder", "decoder"])
def test_a_missing_truncated_or_swapped_part_is_refused(bundle, part, tmp_path):
    file = bundle / f"{part}.keras"
    whole = file.read_bytes()
    make_codec("vae", seed=1, max_db=1.0).save(tmp_path / "other")
    damages = {"truncated": whole[: len(whole) // 2], "empty": b"", "flipped": whole[:-40] + bytes(40)}
    damages["swapped"] = (tmp_path / "other" / file.name).read_bytes()
    for content in damages.values():
        file.write_bytes(content)
        refused(Codec.load, bundle, match=f"{part}.keras is damaged")
        refused(load_part, bundle, part, match=f"{part}.keras is damaged")
    file.unlink()
    refused(Codec.load, bundle, match=f"lacks {part}.keras")
    file.write_bytes(whole)
    Codec.load(bundle, verify=True)


def test_missing_truncated_or_altered_golden_vectors_are_refused(bundle):
    file = bundle / "golden.npz"
    whole = file.read_bytes()
    with np.load(file) as kept:
        altered = {name: kept[name] for name in kept.files}
    altered["latent_0"] = altered["latent_0"] + 1.0
    for content in (whole[: len(whole) // 2], b"", b"text"):
        file.write_bytes(content)
        Codec.load(bundle)  # playing needs no golden vectors
        refused(Codec.load, bundle, verify=True, match="golden.npz is damaged")
    np.savez(file, **altered)
    refused(Codec.load, bundle, verify=True, match="golden.npz is damaged")
    file.unlink()
    refused(Codec.load, bundle, verify=True, match="lacks golden.npz")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        "{}",
        '{"format_version": "x"}',
        '{"format_version": 1}',
        '{"format_version": null}',
    ],
)
def test_a_damaged_description_is_refused(bundle, text):
    (bundle / "codec.json").write_text(text)
    refused(Codec.load, bundle, match="codec.json is damaged")
    refused(load_part, bundle, "encoder", match="codec.json is damaged")


def test_a_description_that_is_not_text_is_refused(bundle):
    (bundle / "codec.json").write_bytes(bytes(range(256)))
    refused(Codec.load, bundle, match="codec.json is damaged")


def test_a_newer_format_is_refused(bundle):
    described = json.loads((bundle / "codec.json").read_text())
    (bundle / "codec.json").write_text(json.dumps(described | {"format_version": 2}))
    refused(Codec.load, bundle, match="has format version 2, .* reads up to 1; upgrade")


def test_what_is_no_bundle_is_refused(tmp_path):
    (tmp_path / "file").write_text("hello")
    (tmp_path / "folder").mkdir()
    (tmp_path / "started" / "run").mkdir(parents=True)
    (tmp_path / "started" / "run" / "config.json").write_text("{}")
    for name in ("missing", "file", "folder"):
        refused(Codec.load, tmp_path / name, match="no model bundle at .*: expected a folder with codec.json")
    refused(Codec.load, tmp_path / "started", match="has not finished an epoch")
    refused(load_part, tmp_path / "folder", "window", match="part must be one of representation, encoder, decoder")


def test_what_cannot_be_written_is_refused(vae, tmp_path):
    (tmp_path / "file").write_text("hello")
    for path in (tmp_path / "file", tmp_path / "file" / "below", "/proc/spectrovae"):
        refused(vae.save, path, match=f"cannot write {path}")
    assert (tmp_path / "file").read_text() == "hello"


# A save that is killed


def save_killed_at(codec, path, call: int) -> bool:
    """Save, and die before file operation number ``call``; whether it came to that."""
    with killed_at(call, path) as state:
        codec.save(path)
    return state.killed


@pytest.fixture(scope="module")
def old_and_new(tmp_path_factory):
    """Two codecs that differ in every part, and the old one's bundle."""
    old, new = make_codec("vae", seed=0, max_db=0.0), make_codec("vae", seed=1, max_db=1.0)
    path = tmp_path_factory.mktemp("old") / "digits"
    old.save(path)
    return old, new, path


def version_of(path) -> int:
    """0 for the old bundle, 1 for the new: the same from every part, and proved by the golden vectors."""
    codec = Codec.load(path, verify=True)
    assert codec.representation.max_db == codec.info["seed"]
    return codec.info["seed"]


def test_a_killed_save_leaves_the_old_bundle_or_the_new(old_and_new, tmp_path):
    old, new, kept = old_and_new
    seen, call, killed = [], 0, True
    while killed:
        path = shutil.copytree(kept, tmp_path / f"{call:02d}")
        killed = save_killed_at(new, path, call)
        seen.append(version_of(path))
        call += 1
    assert seen == sorted(seen)  # old until the moment of change, new from then on
    assert seen.count(0) >= 2
    assert seen.count(1) >= 5
    assert not [p.name for p in path.iterdir() if p.name.startswith(".")]


def test_the_save_after_a_killed_one_succeeds(old_and_new, tmp_path):
    old, new, kept = old_and_new
    call, killed = 0, True
    while killed:
        path = shutil.copytree(kept, tmp_path / f"{call:02d}")
        killed = save_killed_at(new, path, call)
        if call % 3 == 0:  # every operation leaves a state already loaded above; every third is enough here
            old.save(path)
            assert version_of(path) == 0
            assert sorted(p.name for p in path.iterdir()) == sorted(p.name for p in kept.iterdir())
        call += 1


def test_a_killed_first_save_leaves_a_whole_bundle_or_none(vae, tmp_path):
    call, killed, found = 0, True, []
    while killed:
        path = tmp_path / f"{call:02d}"
        killed = save_killed_at(vae, path, call)
        if (path / ".saved").is_dir() or (path / "codec.json").is_file():
            Codec.load(path, verify=True)
            found.append(True)
        else:
            refused(Codec.load, path, match="no model bundle")
            found.append(False)
        call += 1
    assert found == sorted(found)
    assert found[0] is False
    assert found[-1] is True


def test_half_written_parts_of_a_killed_save_are_ignored(bundle, vae):
    (bundle / ".saving").mkdir()
    (bundle / ".saving" / "codec.json").write_text("{")
    (bundle / ".saving" / "encoder.keras").write_bytes(b"half")
    Codec.load(bundle, verify=True)
    vae.save(bundle)
    assert not (bundle / ".saving").exists()
