"""A causal codec block after block against the same codec over the whole sound."""

import json

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from seamless import seamless

from spectrovae.codec import Codec
from spectrovae.errors import InputError
from spectrovae.models import RAVE
from spectrovae.representations import Subbands
from spectrovae.serving import export
from spectrovae.streaming import Steps, StreamingCodec, can_stream

VARIANTS = [("v1", 4, "leaky_relu"), ("v2", 4, "snake"), ("v1", 1, "leaky_relu")]
LONGEST = 4096  # samples


def made(version="v1", bands=4, activation="leaky_relu", causal=True):
    """A small codec whose noise is heard, and whose weights are not those of the start."""
    trainer = RAVE((bands, 256, 1), 5, preset="tiny", version=version, causal=causal, activation=activation)
    trainer.enter(2)
    random = np.random.default_rng(0)
    for weight in [*trainer.encoder.weights, *trainer.decoder.weights]:
        if "gamma" in weight.path or "moving_variance" in weight.path or "frequency" in weight.path:
            weight.assign(random.uniform(0.5, 1.5, weight.shape))
        elif "bias" in weight.path:
            weight.assign(0.3 * random.standard_normal(weight.shape))
    representation = Subbands(8000, bands=bands, peak=0.5)
    return Codec(representation, trainer.encoder, trainer.decoder, family="rave", segment_frames=256)


@pytest.fixture(scope="module", params=VARIANTS, ids=str)
def codec(request):
    return made(*request.param)


@pytest.fixture(scope="module")
def stream(codec):
    return StreamingCodec(codec)


@pytest.fixture(scope="module")
def offline(codec):
    """Samples -> latents of the whole sound after the filter bank's delay, and the waveform decoded from them."""
    delay, ratio = Steps(codec).delay, Steps(codec).ratio

    @tf.function(input_signature=[tf.TensorSpec((None, LONGEST))])
    def both(waveform):
        latent = codec.encoder(codec.representation(waveform))
        return latent, codec.representation.inverse(codec.decoder(latent))

    def run(x):
        padded = np.zeros((len(x), LONGEST), np.float32)
        padded[:, delay : delay + x.shape[1]] = x
        latent, waveform = both(padded)
        frames = x.shape[1] // ratio
        # The last samples of the filter bank's delay hear latents after these.
        return latent.numpy()[:, :frames], waveform.numpy()[:, : max(frames * ratio - delay, 0)]

    return run


def sound(samples, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal((1, samples))).astype(np.float32)


def cut(x, sizes):
    """Blocks of these sizes in turn, until all is used."""
    blocks, start, turn = [], 0, 0
    while start < x.shape[1]:
        blocks.append(x[:, start : start + sizes[turn % len(sizes)]])
        start, turn = start + blocks[-1].shape[1], turn + 1
    return blocks


@settings(deadline=None, max_examples=25)
@given(sizes=st.lists(st.integers(1, 700), min_size=1, max_size=5), samples=st.integers(1, 3000))
def test_blocks_of_any_size_are_the_whole(stream, offline, sizes, samples):
    x = sound(samples)
    latent, waveform = offline(x)
    stream.reset()
    found = np.concatenate([stream.encode(block) for block in cut(x, sizes)], axis=1)
    np.testing.assert_allclose(found, latent, atol=1e-5)
    decoded = stream.decode(found)
    assert decoded.shape == (1, samples // stream.ratio * stream.ratio)
    np.testing.assert_allclose(decoded[:, stream.steps.delay :], waveform, atol=1e-5)
    # Live: as many samples as came, late by what is stated.
    stream.reset()
    live = np.concatenate([stream.process(block) for block in cut(x, sizes)], axis=1)
    assert live.shape == x.shape
    heard = live[:, stream.latency - stream.steps.delay :]
    assert heard.shape[1] <= waveform.shape[1]
    np.testing.assert_allclose(heard, waveform[:, : heard.shape[1]], atol=1e-5)
    np.testing.assert_array_equal(live[:, : stream.latency - 2 * stream.steps.delay], 0.0)


def test_latency_is_stated(codec, stream):
    delay, ratio = Steps(codec).delay, stream.ratio
    assert delay == (0 if codec.representation.hop_length == 1 else 40)
    assert stream.latency == 2 * delay + ratio - 1
    assert stream.latency_ms == pytest.approx(stream.latency / 8.0)


def test_latency_of_blocks_of_a_known_size():
    codec = made()
    delay, ratio = Steps(codec).delay, Steps(codec).ratio
    assert StreamingCodec(codec, block_size=ratio).latency == 2 * delay
    assert StreamingCodec(codec, block_size=ratio // 2).latency == 2 * delay + ratio // 2


def test_blocks_of_a_known_size_wait_for_less(codec, offline):
    ratio = Steps(codec).ratio
    stream = StreamingCodec(codec, batch=2, block_size=ratio // 2)
    x = np.concatenate([sound(8 * ratio), sound(8 * ratio, 1)])
    out = np.empty_like(x)
    for start in range(0, x.shape[1], ratio // 2):
        piece = slice(start, start + ratio // 2)
        stream.process(x[:, piece], out[:, piece])
    heard = out[:, stream.latency - stream.steps.delay :]
    np.testing.assert_allclose(heard, offline(x)[1][:, : heard.shape[1]], atol=1e-5)


def test_a_stream_begins_anew(codec, stream):
    x = sound(1000)
    stream.reset()
    first = stream.process(x)
    stream.process(sound(333, 5))
    stream.reset()
    np.testing.assert_array_equal(stream.process(x), first)


def test_what_cannot_stream_says_why():
    late = made(causal=False)
    assert not can_stream(late)
    with pytest.raises(InputError, match="its convolutions see later samples .*--causal"):
        StreamingCodec(late)
    with pytest.raises(InputError, match="that takes a rave"):
        Steps(seamless())


def test_bad_blocks_are_refused():
    stream = StreamingCodec(made(), block_size=64)
    for block, says in (
        (np.zeros(64), r"a block must be \(1, samples\), received \(64,\)"),
        (np.zeros((2, 64)), r"a block must be \(1, samples\)"),
        (np.zeros((1, 65)), "blocks must have 64 samples"),
    ):
        with pytest.raises(InputError, match=says):
            stream.process(block)
    with pytest.raises(InputError, match=r"latent must be \(1, frames, 5\), received \(1, 2, 4\)"):
        stream.decode(np.zeros((1, 2, 4)))
    with pytest.raises(InputError, match="out must be shaped as the block"):
        stream.process(np.zeros((1, 64)), np.zeros((1, 60), np.float32))
    with pytest.raises(InputError, match="at least 1"):
        StreamingCodec(made(), batch=0)


def test_a_server_is_told_what_a_block_is(tmp_path):
    """The signatures of the export, driven by what ``describe`` says: the state goes round, and the whole comes out."""
    codec = made()
    codec.save(tmp_path / "bundle")
    export(tmp_path / "bundle", tmp_path / "served")
    (version,) = (tmp_path / "served" / "bundle").iterdir()
    signatures = tf.saved_model.load(str(version)).signatures
    described = signatures["describe"](request=tf.constant(["?"]))["description"].numpy()[0]
    told = json.loads(described)["stream"]
    steps = Steps(codec)
    assert told == {"samples": steps.ratio, "delay": steps.delay}
    x = sound(6 * told["samples"])
    states = {
        part: {spec.name: tf.zeros([1, *spec.shape[1:]], spec.dtype) for spec in specs}
        for part, specs in (("encode", steps.encode_specs), ("decode", steps.decode_specs))
    }
    heard = []
    for block in cut(x, [2 * told["samples"]]):
        found = signatures["stream_encode"](waveform=tf.constant(block), **states["encode"])
        latent, states["encode"] = found.pop("latent"), found
        found = signatures["stream_decode"](latent=latent, **states["decode"])
        heard.append(found.pop("waveform").numpy())
        states["decode"] = found
    live = StreamingCodec(codec, block_size=steps.ratio)
    expected = np.concatenate([live.process(block) for block in cut(x, [steps.ratio])], axis=1)
    np.testing.assert_allclose(np.concatenate(heard, axis=1), expected, atol=1e-5)
