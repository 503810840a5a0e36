"""What a codec keeps and what it must not keep: speakers, priors, counts, and graphs of parts that have changed."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from tones import write_tones

from spectrovae.codec import Codec
from spectrovae.data import Recordings
from spectrovae.errors import InputError
from spectrovae.models import FAMILIES, PRIORS
from spectrovae.models.base import posteriors_of
from spectrovae.models.mixture import GaussianMixture
from spectrovae.quantisers import Quantiser
from spectrovae.representations import LogSTFT, Subbands
from spectrovae.streaming import StreamingCodec
from spectrovae.training import fit_prior

SPEAKERS = ("flute", "reed")
SAMPLES = 1008


def make(family="vae", normalisation="range", **options):
    representation = LogSTFT(8000, n_fft=64, hop_length=16, phase_iterations=2, normalisation=normalisation)
    model = FAMILIES[family](representation.feature_shape(SAMPLES), preset="tiny", **options)
    return Codec(representation, model.encoder, model.decoder, family=family, prior=model.prior)


def noise(*shape, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


@pytest.fixture(scope="module", params=["vae", "vq-vae"])
def speakers(request):
    codec = make(request.param, speakers=SPEAKERS)
    for layer in codec.conditioned.layers:  # modulations begin at zero, where all voices are one
        layer.set_weights([weight + noise(*weight.shape) for weight in layer.get_weights()])
    return codec


@pytest.fixture(scope="module")
def vae():
    return make()


def test_a_prior_fitted_to_a_codec_with_speakers_keeps_them(tmp_path):
    """In memory, in the bundle, and after a second prior."""
    codec, waveform = make(speakers=SPEAKERS), noise(2, SAMPLES)
    codec.save(tmp_path / "model")
    expected = codec.convert(waveform, "reed")
    (tmp_path / "tones").mkdir()
    recordings = Recordings.open(write_tones(tmp_path / "tones", takes=8), samples=SAMPLES)
    for force in (False, True):
        fitted = fit_prior(tmp_path / "model", recordings, "mixture", preset="tiny", force=force)
        for found in (fitted, Codec.load(tmp_path / "model", verify=True)):
            assert found.speakers == SPEAKERS
            assert found.learned_prior is not None
            np.testing.assert_allclose(found.convert(waveform, "reed"), expected, atol=1e-4)
            assert found.generate(1, speaker="reed").shape == (1, SAMPLES)


def test_a_codec_of_a_codec_s_parts_is_the_same_codec(speakers):
    waveform = noise(1, SAMPLES)
    again = Codec(speakers.representation, speakers.encoder, speakers.decoder)
    for other in (again, again.replace(name="other"), speakers.replace()):
        assert other.speakers == SPEAKERS
        assert other.conditioned is speakers.conditioned
        assert other.decoder is speakers.decoder or other.decoder.count_params() == speakers.decoder.count_params()
        np.testing.assert_allclose(other.convert(waveform, "reed"), speakers.convert(waveform, "reed"), atol=1e-5)
        np.testing.assert_allclose(other.reconstruct(waveform), speakers.reconstruct(waveform), atol=1e-5)
        assert other.parameters == speakers.parameters


def test_replace_keeps_everything_but_what_is_replaced(vae):
    codec = vae.replace(info={"labels": ["a"]}, data={"seed": 1}, name="mine")
    prior = GaussianMixture((8,), components=2)
    found = codec.replace(learned_prior=prior, learned={"kind": "mixture", "figures": {}})
    names = ("representation", "encoder", "decoder", "family", "prior", "info", "data", "name", "feature_shape")
    for name in names:
        assert getattr(found, name) == getattr(codec, name)
    assert found.learned["kind"] == "mixture"
    assert codec.learned_prior is None
    assert found.replace(info={}).learned == found.learned
    assert found.replace(learned_prior=prior).learned == {"kind": "GaussianMixture"}
    assert found.replace(learned_prior=None).learned_prior is None


def test_parts_of_its_graphs_cannot_be_set(vae):
    for name in ("representation", "encoder", "decoder", "conditioned", "learned_prior", "segment_frames"):
        with pytest.raises(AttributeError, match="replace"):
            setattr(vae, name, getattr(vae, name))
    vae.info["note"] = "free"
    assert vae.info.pop("note") == "free"


# Priors


def vq_codec():
    codec = make("vq-vae", codebook_size=8)
    conditions = {"label": ("0", "1")}
    prior = PRIORS["wavenet"](codec.latent_shapes[0], 8, preset="tiny", conditions=conditions)
    return codec.replace(learned_prior=prior)


@pytest.fixture(scope="module")
def drawing():
    return vq_codec()


def test_another_prior_gives_other_sounds(vae):
    codecs = []
    for mean in (-3.0, 3.0):
        prior = GaussianMixture((8,), components=1)
        prior.means.assign(np.full((1, 8), mean, np.float32))
        codecs.append((codecs[0] if codecs else vae).replace(learned_prior=prior))
    latents = [codec.encode(codec.generate(1, temperature=0.0)) for codec in codecs]
    draws = [codec.decode(np.full((1, 1, 8), mean, np.float32)) for codec, mean in zip(codecs, (-3.0, 3.0))]
    for codec, expected in zip(codecs, draws):
        np.testing.assert_allclose(codec.generate(1, temperature=0.0), expected, atol=1e-4)
    assert np.abs(latents[0] - latents[1]).max() > 0.0


def test_a_sweep_of_guidance_makes_one_graph(drawing):
    sounds = [drawing.generate(1, label="1", guidance=guidance) for guidance in (0.0, 0.5, 1.5, 2.0, 1.0)]
    assert len(drawing.draw_functions) == 2  # guided and not
    functions = [f.experimental_get_tracing_count() for f in drawing.draw_functions.values()]
    assert functions == [1, 1]
    assert np.isfinite(sounds).all()


def test_guidance_as_a_tensor_is_guidance_as_a_number():
    prior = PRIORS["pixelcnn"]((2, 2), 4, preset="tiny", conditions={"label": ("0", "1")})
    uniform = np.random.default_rng(0).random((4, *prior.noise_shape))
    conditions = {"label": np.array([0, 1, 0, 1], np.int32)}
    for layer in prior.condition_vectors:
        layer.set_weights([weight + noise(*weight.shape) * 10 for weight in layer.get_weights()])
    for guidance in (0.0, 1.0, 3.0):
        given = [
            prior.draw(np.float32(uniform), conditions, guidance=kind) for kind in (guidance, tf.constant(guidance))
        ]
        np.testing.assert_array_equal(*map(np.asarray, given))


def test_a_sweep_of_top_k_keeps_few_graphs(drawing, monkeypatch):
    from spectrovae import generation

    monkeypatch.setattr(generation, "DRAW_FUNCTIONS", 2)
    for top_k in (1, 2, 3, 1):
        drawing.generate(1, top_k=top_k)
    assert [key[0] for key in drawing.draw_functions] == [3, 1]


# Counts, and layers by what they are


@pytest.mark.parametrize("family", ["hierarchical-vae", "vq-vae", "vae"])
def test_weights_of_a_layer_in_two_files_count_once(family, tmp_path):
    codec = make(family)
    weights = {id(weight): weight.shape for model in (codec.encoder, codec.decoder) for weight in model.weights}
    expected = sum(int(np.prod(shape)) for shape in weights.values())
    assert codec.parameters == expected
    for number, model in enumerate((codec.encoder, codec.decoder)):  # as after training: none is zero
        values = np.random.default_rng(number)
        for weight in model.weights:
            weight.assign(values.standard_normal(weight.shape) if weight.dtype == "float32" else weight)
    codec.save(tmp_path / "model")
    assert Codec.load(tmp_path / "model").parameters == expected
    sizes = codec.encoder.count_params() + codec.decoder.count_params()
    assert (sizes > expected) == (family != "vae")


def renamed(model, prefix="other_"):
    """A copy of a functional model whose layers have other names, with the same weights."""

    def clone(layer):
        return type(layer).from_config(layer.get_config() | {"name": prefix + layer.name})

    copy = keras.models.clone_model(model, clone_function=clone)
    copy.set_weights(model.get_weights())
    return copy


def test_layers_are_known_by_their_class_and_not_by_their_name():
    vae, codes = make(), make("vq-vae")
    features = noise(2, *vae.feature_shape)
    expected, found = (posteriors_of(encoder)(features) for encoder in (vae.encoder, renamed(vae.encoder)))
    for one, other in zip(tf.nest.flatten(expected), tf.nest.flatten(found)):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert codes.quantiser is codes.encoder.get_layer("quantiser")
    inputs = keras.Input(codes.feature_shape)
    nested = keras.Model(inputs, codes.encoder(inputs))
    assert codes.replace(encoder=nested).quantiser is codes.quantiser
    assert isinstance(codes.quantiser, Quantiser)
    assert vae.quantiser is None


# Graphs follow weights


def test_results_follow_the_weights_and_the_statistics():
    codec = make(normalisation="per_bin")
    waveform = noise(1, SAMPLES)
    before = codec.reconstruct(waveform)
    features = np.asarray(codec.features_graph(waveform))
    codec.representation.adapt([noise(4, SAMPLES, seed=1)])
    after = codec.encode(waveform)
    latent = codec.encoder(codec.features_graph(waveform))
    np.testing.assert_allclose(after[:, 0], latent, atol=1e-4)
    assert np.abs(np.asarray(codec.features_graph(waveform)) - features).max() > 0.1
    codec.decoder.set_weights([0.0 * weight for weight in codec.decoder.get_weights()])
    assert np.abs(codec.reconstruct(waveform) - before).max() > 1e-3


def test_a_stream_follows_the_weights():
    representation = Subbands(8000, bands=4)
    model = FAMILIES["rave"]((4, 128, 1), preset="tiny", causal=True)
    codec = Codec(representation, model.encoder, model.decoder, family="rave", segment_frames=128)
    stream = StreamingCodec(codec)
    block = noise(1, 4 * stream.ratio)
    for weight in (*codec.encoder.weights, *codec.decoder.weights):
        weight.assign(weight + noise(*weight.shape))
    found, expected = stream.process(block), StreamingCodec(codec).process(block)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    for bad in (np.int16(block * 1000), np.full_like(block, np.nan)):
        with pytest.raises(InputError, match="floating-point"):
            stream.process(bad)
    again = StreamingCodec(codec)
    again.process(block)
    np.testing.assert_allclose(stream.process(block), again.process(block), atol=1e-6)  # its state is as it was


# Wrong input


@given(st.sampled_from(["int16", "uint8", "int32", "bool"]), st.integers(0, 1))
def test_integer_samples_are_refused_everywhere(vae, drawing, kind, place):
    sounds = [noise(SAMPLES), noise(SAMPLES)]
    sounds[place] = (1000 * sounds[place]).astype(kind)
    with pytest.raises(InputError, match="floating point"):
        vae.interpolate(*sounds, 3)
    with pytest.raises(InputError, match="floating point"):
        drawing.generate(1, prefix=sounds[place][: SAMPLES // 2])
    for method in (vae.encode, vae.reconstruct):
        with pytest.raises(InputError, match="floating point"):
            method(sounds[place][None])


@pytest.mark.parametrize(
    ("latent", "length"),
    [
        (np.zeros((1, 0, 8), np.float32), None),
        (np.zeros((0, 0, 8), np.float32), None),
        (np.zeros((1, 8), np.float32), None),
        (np.zeros((1, 1, 9), np.float32), None),
        (np.zeros(8, np.float32), None),
        (np.float32(0), None),
        ([], None),
        (np.full((1, 1, 8), np.nan, np.float32), None),
        (np.full((1, 1, 8), np.inf), None),
        (np.zeros((1, 1, 8), complex), None),
        (np.full((1, 1, 8), "0"), None),
        (np.full((1, 1, 8), None), None),
        (np.zeros((1, 1, 8), np.float32), -1),
        (np.zeros((1, 1, 8), np.float32), 1.5),
        (np.zeros((1, 1, 8), np.float32), True),
    ],
)
def test_what_is_no_latent_or_length_is_one_line(vae, latent, length):
    with pytest.raises(InputError) as refused:
        vae.decode(latent, length)
    assert len(str(refused.value).splitlines()) == 1


def test_groups_of_other_batches_are_one_line():
    codec = make("hierarchical-vae")
    parts = codec.encode(noise(2, SAMPLES))
    for broken in ([parts[0], *(z[:1] for z in parts[1:])], [z[:, :0] for z in parts]):
        with pytest.raises(InputError, match="latent must be shaped"):
            codec.decode(broken)


@pytest.mark.parametrize(
    "options",
    [{"count": 0}, {"count": 1.5}, {"segments": 0}, {"segments": "1"}, {"seed": -1}, {"seed": 0.5}, {"top_k": -1},
     {"top_p": 0.0}, {"temperature": -1.0}, {"temperature": np.nan}, {"guidance": -1.0}, {"label": "2"}, {"label": 2},
     {"label": ["0", "1"]}, {"speaker": "ann"}],
)  # fmt: skip
def test_a_draw_out_of_range_is_one_line(drawing, options):
    with pytest.raises(InputError) as refused:
        drawing.generate(**{"count": 1} | options)
    assert len(str(refused.value).splitlines()) == 1


def test_a_label_may_be_a_number(drawing):
    np.testing.assert_array_equal(drawing.generate(1, label=1), drawing.generate(1, label="1"))


@pytest.mark.parametrize("info", [{"loss": np.nan}, {"x": {1, 2}}])
def test_what_json_lacks_is_one_line_and_leaves_the_bundle(vae, tmp_path, info):
    path = tmp_path / "model"
    with pytest.raises(InputError, match="cannot write"):
        vae.replace(info=info).save(path)
    assert not path.exists()
    vae.save(path)
    names = sorted(file.name for file in path.iterdir())
    for broken in (vae.replace(info=info), vae.replace(data=info)):
        with pytest.raises(InputError, match="cannot write"):
            broken.save(path)
        assert sorted(file.name for file in path.iterdir()) == names
    vae.verify(path)


def test_any_json_comes_back_from_a_bundle(vae, tmp_path):
    info = {10: "ten", 9: (1, 2), "é\udce9": None, "big": 2**80, "small": 5e-324, "deep": [[[{}]]]}
    vae.replace(info=info).save(tmp_path / "model")
    expected = {str(key): value for key, value in info.items()} | {"9": [1, 2]}
    assert Codec.load(tmp_path / "model").info == expected


def test_a_folder_where_a_file_is_to_be_written_is_refused_before_anything_is(vae, tmp_path):
    (tmp_path / "model" / "encoder.keras").mkdir(parents=True)
    (tmp_path / "model" / "encoder.keras" / "mine").write_text("mine")
    with pytest.raises(InputError, match="is a folder"):
        vae.save(tmp_path / "model")
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["encoder.keras"]
