"""One voice in another: the codec, its bundle in a fresh process, the commands, the report by judges, the export."""

import csv
import json

import numpy as np
import pytest
import soundfile
import tensorflow as tf
from page_check import check_page
from test_speakers import NAMES, make
from tones import SAMPLES, write_tones

from spectrovae import audio, cli, training
from spectrovae.cli import main
from spectrovae.codec import Codec
from spectrovae.conversion import GUIDANCE
from spectrovae.data import Recordings
from spectrovae.errors import InputError
from spectrovae.evaluation.conversion import convert_all
from spectrovae.representations import LogSTFT
from spectrovae.serving import saved_model

LENGTH = 1984
SYSTEMS = ("original", "reconstruction", "own voice")  # that are to sound like the clip's own speaker


def codec(family="vq-vae", names=NAMES, samples=LENGTH, **options):
    representation = LogSTFT(8000, n_fft=128, hop_length=64, phase_iterations=0, **options)
    model = make(family, representation.feature_shape(samples), speakers=names)
    return Codec(representation, model.encoder, model.decoder, family=family, prior=model.prior, name=f"my-{family}")


def sounds(batch=3, samples=LENGTH):
    return (0.1 * np.random.default_rng(0).standard_normal((batch, samples))).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tones(tmp_path_factory.mktemp("tones"))


@pytest.fixture(scope="module")
def judges(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("judges")
    recordings = Recordings.open(folder, samples=SAMPLES)
    for target in ("label", "speaker"):
        training.fit_judge(target, recordings, out / target, epochs=3, batch_size=16)
    return out


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    path = tmp_path_factory.mktemp("bundle") / "voices"
    codec(names=("flute", "reed"), samples=SAMPLES).save(path)
    return path


@pytest.fixture(scope="module")
def wav(tmp_path_factory):
    """Two and a half segments, at another rate and in stereo."""
    path = tmp_path_factory.mktemp("sound") / "long.wav"
    soundfile.write(path, np.repeat(sounds(1, 20000)[0][:, None], 2, axis=1), 16000)
    return path


# The codec


@pytest.mark.parametrize("family", ["vae", "vq-vae"])
@pytest.mark.parametrize("samples", [100, LENGTH, 3 * LENGTH + 7])
def test_the_voice_changes_and_the_shape_does_not(family, samples):
    model, waveform = codec(family), sounds(3, samples)
    spoken = {name: model.convert(waveform, name, sample_rate=8000) for name in NAMES}
    plain = model.reconstruct(waveform)
    for name, found in spoken.items():
        assert found.shape == waveform.shape
        assert np.isfinite(found).all()
        assert np.abs(found - plain).max() > 1e-3, name
    mixed = model.convert(waveform, ["bob", "ann", "bob"])
    for row, name in enumerate(["bob", "ann", "bob"]):
        np.testing.assert_allclose(mixed[row], spoken[name][row], atol=1e-5)
    nobody = model.reconstruct_graph(tf.constant(waveform), tf.fill([3], len(NAMES)), tf.constant([0.0, 1.0, 3.0]))
    np.testing.assert_allclose(nobody, plain, atol=1e-3 * np.abs(plain).max())
    decoded = model.decode(model.encode(waveform), samples, speaker="cyd")
    np.testing.assert_allclose(decoded, spoken["cyd"], atol=1e-3 * np.abs(decoded).max())


@pytest.mark.parametrize("family", ["vae", "vq-vae"])
def test_guidance_weighs_what_sets_a_voice_apart(family):
    model, waveform = codec(family), sounds(2, 3 * LENGTH)
    latent = model.encode(waveform)
    flat = tf.reshape(latent, [-1, *latent.shape[2:]])
    place = NAMES.index("bob")
    told = model.conditioned([flat, tf.fill([len(flat)], place)]).numpy()
    nobody = model.decoder(flat).numpy()
    assert np.abs(told - nobody).max() > 1e-3
    for guidance in (0.0, 1.0, 1.1, 2.5):
        rows = model._decode_features(latent, tf.fill([2], place), tf.fill([2], guidance))
        expected = nobody + guidance * (told - nobody)
        expected = np.concatenate(expected.reshape(2, -1, *expected.shape[1:]).swapaxes(0, 1), axis=2)
        np.testing.assert_allclose(rows, expected, atol=1e-5)
    mixed = model.reconstruct_graph(tf.constant(waveform), tf.fill([2], place), tf.constant([0.0, 2.0]))
    peak = 1e-3 * np.abs(mixed).max()
    np.testing.assert_allclose(mixed[0], model.reconstruct(waveform)[0], atol=peak)
    np.testing.assert_allclose(mixed[1], model.convert(waveform, "bob", guidance=2.0)[1], atol=peak)
    np.testing.assert_array_equal(model.convert(waveform, "bob"), model.convert(waveform, "bob", guidance=GUIDANCE))
    for use in (
        lambda weight: model.convert(waveform, "bob", guidance=weight),
        lambda weight: model.decode(latent, speaker="bob", guidance=weight),
    ):
        for weight in (-0.5, float("nan"), float("inf")):
            with pytest.raises(InputError, match="guidance must be 0 or more, received"):
                use(weight)


def test_scaling_by_example_is_kept():
    model, waveform = codec(normalisation="per_example"), sounds()
    loud = np.sqrt(np.mean(np.square(model.convert(8.0 * waveform, "ann")))) / np.sqrt(
        np.mean(np.square(model.convert(waveform, "ann")))
    )
    assert 4.0 < loud < 16.0


def test_who_is_not_known_is_refused():
    model, waveform = codec(), sounds()
    with pytest.raises(InputError, match="speaker must be one of ann, bob, cyd, received 'eve'"):
        model.convert(waveform, "eve")
    with pytest.raises(InputError, match="one for each of 3 sounds, received 2"):
        model.decode(model.encode(waveform), speaker=["ann", "bob"])
    with pytest.raises(InputError, match="8000 Hz, received 16000"):
        model.convert(waveform, "ann", sample_rate=16000)
    plain = codec(names=())
    assert plain.speakers == ()
    for use in (lambda: plain.convert(waveform, "ann"), lambda: plain.decode(plain.encode(waveform), speaker="ann")):
        with pytest.raises(InputError, match="spectrovae fit vq-vae --speakers"):
            use()


def test_a_bundle_speaks_alike_in_a_fresh_process(tmp_path, fresh_process):
    models, waveform = {family: codec(family) for family in ("vae", "vq-vae")}, sounds()
    for family, model in models.items():
        model.save(tmp_path / family)
    np.save(tmp_path / "in.npy", waveform)
    found = fresh_process(
        """
import sys
import numpy as np
from spectrovae.codec import Codec
folder, *families = sys.argv[1:]
waveform = np.load(f"{folder}/in.npy")
for family in families:
    codec = Codec.load(f"{folder}/{family}", verify=True)
    np.savez(f"{folder}/{family}.npz", spoken=codec.convert(waveform, "bob"), plain=codec.reconstruct(waveform))
    print(*codec.speakers, *codec.info["speakers"])
""",
        tmp_path,
        *models,
    )
    assert found.split() == 4 * [*NAMES]
    for family, model in models.items():
        with np.load(tmp_path / f"{family}.npz") as out:
            np.testing.assert_allclose(out["spoken"], model.convert(waveform, "bob"), atol=1e-4)
            np.testing.assert_allclose(out["plain"], model.reconstruct(waveform), atol=1e-4)


# The commands


def refused(capsys, *arguments):
    assert main([str(argument) for argument in arguments]) == 2
    return capsys.readouterr().err


def test_fit_and_convert(folder, wav, tmp_path, capsys):
    out = tmp_path / "model"
    command = ["fit", "vq-vae", "--data", str(folder), "--duration", "0.5", "--preset", "tiny", "--epochs", "1"]
    own = ["--speakers", "--speaker-adversary", "10", "--speaker-dropout", "0.2", "--code-map", "4,8"]
    assert main([*command, *own, "--out", str(out)]) == 0
    model = json.loads((out / "run" / "config.json").read_text())["model"]
    assert model["speakers"] == ["flute", "reed"]
    assert (model["speaker_adversary"], model["speaker_dropout"], model["code_map"]) == (10.0, 0.2, [4, 8])
    info = json.loads((out / "codec.json").read_text())["info"]
    assert info["speakers"] == ["flute", "reed"]
    assert {"speaker_leak_accuracy", "speaker_leak_chance"} <= set(info["metrics"])
    capsys.readouterr()

    folder_out, file_out = tmp_path / "out", tmp_path / "one.wav"
    convert = ["convert", str(out), str(wav), "--speaker", "reed", "--out"]
    assert main([*convert, str(folder_out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"] == [str(folder_out / "long-reed.wav")]
    assert main([*convert, str(file_out)]) == 0
    for path in (folder_out / "long-reed.wav", file_out):
        found = audio.info(path)
        assert (found.sample_rate, found.channels, found.samples) == (8000, 1, 10000)
    assert "--force" in refused(capsys, *convert, file_out)
    assert "give a folder" in refused(capsys, *convert[:3], wav, *convert[3:], tmp_path / "two.wav")
    assert "flute, reed" in refused(capsys, *convert[:4], "eve", "--out", tmp_path / "eve")
    assert "guidance must be 0 or more" in refused(capsys, *convert, tmp_path / "less", "--guidance", -1)

    nobody, twice = tmp_path / "nobody.wav", tmp_path / "twice.wav"
    assert main([*convert, str(nobody), "--guidance", "0"]) == 0
    assert main([*convert, str(twice), "--guidance", "2"]) == 0
    model = Codec.load(out)
    waveform = audio.read(wav, model.sample_rate)[0][None]
    for path, expected in (
        (nobody, model.reconstruct(waveform)),
        (file_out, model.convert(waveform, "reed")),
        (twice, model.convert(waveform, "reed", guidance=2.0)),
    ):
        np.testing.assert_allclose(audio.read(path)[0], expected[0], atol=1e-3)


def test_what_has_no_speakers_says_how_to_have_some(folder, wav, tmp_path, capsys):
    bare = ["--preset", "tiny", "--epochs", "1", "--speakers", "--out", tmp_path / "model"]
    assert "pattern" in refused(capsys, "fit", "vae", "--data", "toy:harmonic?size=40", *bare)
    assert "--speakers is no option of unet" in refused(capsys, "fit", "unet", "--data", folder, *bare)
    codec(names=()).save(tmp_path / "plain")
    line = refused(capsys, "convert", tmp_path / "plain", wav, "--speaker", "ann", "--out", tmp_path / "out")
    assert "spectrovae fit vq-vae --speakers" in line


def test_judges_hear_the_conversions(bundle, folder, judges, tmp_path, capsys):
    out = tmp_path / "report"
    command = ["judge-conversion", str(bundle), "--data", str(folder), "--limit", "10", "--samples", "2"]
    command += ["--resamples", "100", "--judge", str(judges / "label"), "--judge", str(judges / "speaker")]
    assert main([*command, "--out", str(out), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    kept = json.loads((out / "conversion.json").read_text())
    assert kept == {key: value for key, value in result.items() if key != "report"}
    rows = {(row["system"], row["judge"], row["asked"]): row["accuracy"] for row in kept["rows"]}
    assert set(rows) == {
        *((system, judge, "own") for system in SYSTEMS for judge in ("label", "speaker")),
        ("converted", "label", "own"), ("converted", "speaker", "target"), ("converted", "speaker", "source"),
    }  # fmt: skip
    assert kept["leak"]["chance"] == pytest.approx(0.5, abs=0.1)
    assert kept["settings"]["guidance"] == cli.GUIDANCE == GUIDANCE

    # The same by hand.
    model, recordings = Codec.load(bundle), Recordings.open(folder, samples=SAMPLES)
    from spectrovae.evaluation.judges import Judge
    from spectrovae.evaluation.systems import chosen_clips

    chosen = chosen_clips(recordings, "test", 10)
    waveforms = np.concatenate(list(recordings.waveforms("test")))[chosen]
    examples = [recordings.examples("test")[index] for index in chosen]
    asked = [{"flute": "reed", "reed": "flute"}[example.speaker] for example in examples]
    heard = {name: Judge.load(judges / name) for name in ("label", "speaker")}
    converted = model.convert(waveforms, asked)
    answers = [heard["speaker"].labels[place] for place in heard["speaker"].hear(converted, 8000)[0]]
    assert rows["converted", "speaker", "target"] == pytest.approx(np.mean(np.array(answers) == asked), abs=0.101)
    words = [heard["label"].labels[place] for place in heard["label"].hear(waveforms, 8000)[0]]
    assert rows["original", "label", "own"] == pytest.approx(np.mean([w == e.label for w, e in zip(words, examples)]))

    with open(out / "pairs.csv", newline="") as stream:
        pairs = list(csv.DictReader(stream))
    assert [(pair["source"], pair["target"]) for pair in pairs] == [("flute", "reed"), ("reed", "flute")]
    assert sum(int(pair["clips"]) for pair in pairs) == 10
    with open(out / "conversion.csv", newline="") as stream:
        assert len(list(csv.DictReader(stream))) == len(rows)
    page = check_page((out / "report.html").read_text())
    assert len(page.all("audio")) == 2 * 4
    assert len(list((out / "samples").glob("*.wav"))) == 2 * 4
    assert main([*command, "--out", str(out)]) == 2


def test_conversions_that_nobody_can_judge(bundle, folder, judges, tmp_path):
    from spectrovae.evaluation.judges import Judge

    recordings = Recordings.open(folder, samples=SAMPLES)
    with pytest.raises(InputError, match="fit-judge"):
        convert_all(Codec.load(bundle), recordings, [], tmp_path / "out")
    others = codec(names=("ann", "bob"), samples=SAMPLES)
    with pytest.raises(InputError, match="flute, reed, and my-vq-vae speaks as ann, bob"):
        convert_all(others, recordings, [Judge.load(judges / "speaker")], tmp_path / "out")
    with pytest.raises(InputError, match="--speakers"):
        convert_all(codec(names=(), samples=SAMPLES), recordings, [], tmp_path / "out")
    # Clips of strangers are converted to everyone; whose they are nobody knows.
    found = convert_all(
        others, recordings, [Judge.load(judges / "label")], tmp_path / "out", limit=4, samples=0, resamples=10,
        log=lambda message: None,
    )  # fmt: skip
    assert found["leak"] == {}
    assert {(pair["source"], pair["target"]) for pair in found["pairs"]} == {("others", "ann"), ("others", "bob")}


# The export


@pytest.mark.parametrize("family", ["vae", "vq-vae"])
@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_an_export_converts(family, weights, tmp_path):
    model, waveform = codec(family), sounds()
    path = saved_model.export(model, tmp_path, name="voices", weights=weights)
    kept = saved_model.read_export(path)
    assert kept["speakers"] == list(NAMES)
    assert all("convert" in of_loader for of_loader in kept["parity"].values())
    served = tf.saved_model.load(str(path))
    found = served.signatures["convert"](
        waveform=tf.constant(waveform), speaker=tf.constant([1, 0, 3]), guidance=tf.constant([1.0, 2.0, 1.0])
    )["waveform"]
    described = json.loads(served.signatures["describe"](request=tf.constant([""]))["description"].numpy()[0])
    assert described["speakers"] == list(NAMES)
    if weights == "float32":
        expected = [
            model.convert(waveform[:1], "bob", guidance=1.0),
            model.convert(waveform[1:2], "ann", guidance=2.0),
        ]
        expected.append(model.reconstruct(waveform[2:]))
        np.testing.assert_allclose(found, np.concatenate(expected), atol=1e-4)


def test_without_speakers_nothing_is_served_for_them(tmp_path):
    path = saved_model.export(codec(names=()), tmp_path, name="plain", check=False)
    assert "convert" not in tf.saved_model.load(str(path)).signatures
    assert "speakers" not in saved_model.read_export(path)
