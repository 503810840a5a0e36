"""The client: both protocols, long files in chunks, retries, what is wrong with a request or a server."""

import http.server
import json
import socket
import threading

import numpy as np
import pytest
import soundfile
from serving_models import Server

pytest.importorskip("tensorflow_serving")

from spectrovae import cli, models, representations, serving  # noqa: E402
from spectrovae.codec import Codec  # noqa: E402
from spectrovae.errors import InputError, ServerError  # noqa: E402
from spectrovae.serving.client import Client  # noqa: E402

RATE = 4000
PROTOCOLS = ["http", "grpc"]


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return (0.2 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


@pytest.fixture(scope="module")
def codec():
    """A U-Net on a representation that keeps the phase: blocks of a long sound meet without a search."""
    representation = representations.MDCT(RATE, frame_length=64)
    model = models.FAMILIES["unet"](representation.feature_shape(480), preset="tiny")
    return Codec(representation, model.encoder, model.decoder, family="unet", name="sound")


@pytest.fixture(scope="module")
def url(codec, tmp_path_factory):
    """Of the model by protocol, on a running server."""
    folder = tmp_path_factory.mktemp("served")
    serving.export(codec, folder, check=False)
    server = Server(folder)
    yield {"http": f"http://127.0.0.1:{server.rest_port}/v1/models/sound", "grpc": f"grpc://{server.grpc}/sound"}
    server.stop()


@pytest.fixture
def tone(tmp_path):
    """A stereo file at another rate than the model's."""
    time = np.arange(3 * 11025) / 11025
    path = tmp_path / "tone.wav"
    soundfile.write(path, 0.2 * np.sin(2 * np.pi * 440 * time)[:, None] * [1.0, 0.5], 11025)
    return path


@pytest.fixture(params=PROTOCOLS)
def client(request, url):
    with Client(url[request.param], retries=0) as client:
        yield client


def test_a_waveform_comes_back_as_the_codec_gives_it(client, codec):
    waveform = noise(1234)
    expected = codec.reconstruct(waveform[None])[0]
    np.testing.assert_allclose(client.reconstruct(waveform, RATE), expected, atol=1e-5)


def test_latents_travel(client, codec):
    waveform = np.stack([noise(700, 1), noise(700, 2)])
    latents = client.predict("encode", waveform=waveform)
    expected = codec.encode(waveform)
    for name, part in zip(sorted(latents), expected, strict=True):
        np.testing.assert_allclose(latents[name], part, atol=1e-5)
    sound = client.predict("decode", **latents)["waveform"]
    np.testing.assert_allclose(sound, codec.decode(expected), atol=1e-5)


def test_the_model_says_what_it_is(client):
    assert client.sample_rate == RATE
    assert client.description["family"] == "unet"


def test_one_sample(client):
    assert client.reconstruct(np.array([0.5], np.float32), RATE).shape == (1,)


@pytest.mark.parametrize("samples", [4 * RATE, 4 * RATE + 1, int(10.7 * RATE)])
def test_long_sound_goes_in_chunks_as_long_as_it_was(url, codec, samples):
    waveform = noise(samples)
    with Client(url["grpc"], chunk=2.0) as client:
        requests = []
        client.predict = lambda *a, ask=client.predict, **inputs: requests.append(inputs) or ask(*a, **inputs)
        pieces = np.array_split(waveform, 7)
        found = np.concatenate(list(client.stream(pieces)))
    sizes = [inputs["waveform"].shape[1] for inputs in requests if "waveform" in inputs]
    assert len(found) == samples
    assert len(sizes) == -(-(samples - RATE // 2) // (2 * RATE))
    assert max(sizes) <= 2.5 * RATE
    # Away from the seams each chunk is what the model makes of it alone.
    alone = codec.reconstruct(waveform[None, : int(2.5 * RATE)])[0]
    np.testing.assert_allclose(found[: 2 * RATE], alone[: 2 * RATE], atol=1e-5)


def test_what_passes_unchanged_has_no_seams(url):
    time = np.arange(9 * RATE) / RATE
    waveform = np.float32(0.3 * np.sin(2 * np.pi * (100 + 50 * time) * time))
    with Client(url["grpc"], chunk=2.0) as client:
        client.predict = lambda ask=client.predict, **inputs: inputs if "waveform" in inputs else ask(**inputs)
        client.__dict__["description"] = {"sample_rate": RATE}
        np.testing.assert_allclose(np.concatenate(list(client.stream([waveform]))), waveform, atol=1e-5)


def test_call_takes_files_of_any_rate(url, codec, tone, tmp_path, capsys):
    assert cli.main(["call", url["http"], str(tone), "--out", str(tmp_path / "out"), "--json"]) == 0
    (written,) = json.loads(capsys.readouterr().out)["files"]
    sound, rate = soundfile.read(written)
    assert (rate, len(sound)) == (RATE, 3 * RATE)
    assert cli.main(["call", url["http"], str(tone), "--out", str(tmp_path / "out")]) == 2
    assert "--force" in capsys.readouterr().err


def test_call_without_files_prints_the_description(url, capsys):
    assert cli.main(["call", url["grpc"]]) == 0
    assert json.loads(capsys.readouterr().out)["sample_rate"] == RATE


def test_another_rate_is_refused(client):
    with pytest.raises(InputError, match="takes 4000 Hz, received 8000 Hz; use spectrovae.audio.resample"):
        client.reconstruct(noise(100), 8000)


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({"waveform": np.zeros((1, 0), np.float32)}, "empty"),
        ({"waveform": np.zeros(8, np.float32)}, "shape"),
        ({"sound": np.zeros((1, 8), np.float32)}, "unknown: sound"),
    ],
)
def test_what_the_server_refuses_is_passed_on(client, inputs, says):
    with pytest.raises(ServerError, match=says):
        client.predict(**inputs)


def test_a_signature_that_is_not_there(client):
    with pytest.raises(ServerError, match="dream"):
        client.predict("dream", waveform=np.zeros((1, 8), np.float32))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("path", "says"), [("absent", "absent"), ("sound/versions/9", "9"), ("sound/labels/x", "x")])
def test_a_model_that_is_not_there(url, protocol, path, says):
    with (
        Client(url[protocol].removesuffix("sound") + path, retries=0) as client,
        pytest.raises(ServerError, match=says),
    ):
        client.predict(waveform=np.zeros((1, 8), np.float32))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_version_by_number(url, protocol):
    with Client(url[protocol] + "/versions/1") as client:
        assert client.sample_rate == RATE


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_server(protocol, capsys):
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        url = f"{protocol}://127.0.0.1:{taken.getsockname()[1]}/sound"
        assert cli.main(["call", url, "--retries", "1"]) == 1
    message = capsys.readouterr().err
    assert "no server answers" in message
    assert "spectrovae serve" in message
    assert "2 attempts" in message


@pytest.fixture
def failing():
    """A server that answers as told: (status, body, perhaps the length it claims) by turns, the last one for ever."""
    answers, asked = [], []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            asked.append(self.path)
            status, body, *length = answers.pop(0) if len(answers) > 1 else answers[0]
            self.send_response(status)
            self.send_header("Content-Length", str(*length or [len(body)]))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1/models/sound", answers, asked
        server.shutdown()


@pytest.fixture
def no_wait(monkeypatch):
    waited = []
    monkeypatch.setattr("spectrovae.serving.client.time.sleep", waited.append)
    return waited


def test_a_busy_server_is_asked_again_ever_later(failing, no_wait):
    url, answers, asked = failing
    answers += [(503, b'{"error": "busy"}')] * 3 + [(200, b'{"outputs": {"a": [1.5], "b": [2]}}')]
    with Client(url) as client:
        outputs = client.predict(waveform=np.zeros((1, 2), np.float32))
    assert len(asked) == 4
    assert outputs["a"].dtype == np.float32
    assert outputs["b"].dtype == np.int32
    for wait, least in zip(no_wait, (0.2, 0.4, 0.8), strict=True):
        assert least <= wait <= 1.5 * least


def test_an_answer_that_is_cut_off_is_asked_for_again(failing, no_wait):
    url, answers, asked = failing
    answers += [(200, b'{"outp', 100), (200, b'{"outputs": {"a": [1.5, null], "b": [true]}}')]
    with Client(url) as client:
        outputs = client.predict(waveform=np.zeros((1, 2), np.float32))
    assert len(asked) == 2
    np.testing.assert_array_equal(outputs["a"], np.float32([1.5, np.nan]))


@pytest.mark.parametrize("text", ["[]", "3", '["{}"]', '["[]"]', '["x"]', '["{\\"sample_rate\\": null}"]'])
def test_a_model_that_does_not_describe_itself(failing, no_wait, text):
    url, answers, _ = failing
    answers.append((200, b'{"outputs": {"description": ' + text.encode() + b', "more": 1}}'))
    with Client(url) as client, pytest.raises(ServerError, match="no model that spectrovae exported"):
        _ = client.description


def test_patience_ends(failing, no_wait):
    url, answers, asked = failing
    answers.append((429, b'{"error": "too many"}'))
    with Client(url, retries=2) as client, pytest.raises(ServerError, match="too many .3 attempts"):
        client.predict(waveform=np.zeros((1, 2), np.float32))
    assert len(asked) == 3


@pytest.mark.parametrize(
    ("answer", "says"), [((400, b'{"error": "no"}'), "400, no"), ((200, b"<html>"), "does not answer as TensorFlow")]
)
def test_a_refusal_is_not_asked_again(failing, no_wait, answer, says):
    url, answers, asked = failing
    answers.append(answer)
    with Client(url) as client, pytest.raises(ServerError, match=says):
        client.predict(waveform=np.zeros((1, 2), np.float32))
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["127.0.0.1:8501/v1/models/a"], "expected the URL of a model"),
        (["http://127.0.0.1:8501"], "expected the URL of a model"),
        (["http://[bad/v1/models/a"], "expected the URL of a model"),
        (["http://[::1]:99999/v1/models/a"], "expected the URL of a model"),
        (["grpcs://[bad"], "without encryption"),
        (["http://127.0.0.1:8501/v1/models/a", "x.wav"], "--out"),
        (["http://127.0.0.1:8501/v1/models/a", "--timeout", "0"], "timeout must be above 0 s"),
        (["http://127.0.0.1:8501/v1/models/a", "--chunk", "1"], "chunk must be above 1 s"),
        (["http://127.0.0.1:8501/v1/models/a", "--retries", "-1"], "retries must not be negative"),
    ],
)
def test_wrong_use(arguments, says, capsys):
    assert cli.main(["call", *arguments]) == 2
    assert says in capsys.readouterr().err
