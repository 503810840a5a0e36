"""Damaged bundles: the same sounds, or one line that says what is wrong; never another model, a traceback or a hang."""

import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
import threading

import damage
import keras
import numpy as np
import pytest

from spectrovae import bundle, files
from spectrovae.codec import Codec
from spectrovae.commands.options import open_codec
from spectrovae.errors import InputError, StorageError
from spectrovae.models.mixture import GaussianMixture
from spectrovae.representations import LogSTFT

DAMAGES = 60


def make(seed: int = 0) -> Codec:
    """The smallest codec with weights in every part and a learned prior."""
    keras.utils.set_random_seed(seed)
    features = keras.Input((32, 4, 1))
    x = keras.layers.Dense(4, name="mean")(keras.layers.Flatten()(features))
    latent = keras.Input((4,))
    y = keras.layers.Reshape((32, 4, 1))(keras.layers.Dense(128, name="features")(latent))
    return Codec(
        LogSTFT(8000, n_fft=64, hop_length=16, phase_iterations=2),
        keras.Model(features, x),
        keras.Model(latent, y),
        prior="standard_normal",
        learned_prior=GaussianMixture((4,), components=2),
        info={"seed": seed},
        data={"source": "recordings", "seed": seed},
    )


@pytest.fixture(scope="module")
def sound():
    return make()


@pytest.fixture(scope="module")
def saved(sound, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "model"
    sound.save(path)
    return path


@pytest.fixture
def copied(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "home" / "model")


def test_what_is_not_damaged_is_the_same(sound, copied):
    assert damage.outcome(copied, sound) == "same"
    damage.seal(copied)
    assert damage.outcome(copied, sound) == "same"


@pytest.mark.parametrize("kind", damage.KINDS, ids=lambda kind: kind.__name__)
def test_damaged_bundles_give_the_same_or_one_line(sound, saved, tmp_path, kind):
    seen, failed = set(), []
    own = (change for name, change in damage.damages() if name == kind.__name__)
    for number, change in enumerate(itertools.islice(own, DAMAGES // len(damage.KINDS))):
        path = shutil.copytree(saved, tmp_path / str(number) / "model")
        change(path)
        try:
            seen.add(damage.outcome(path, sound))
        except Exception as error:  # of any kind: all of them are listed
            failed.append(f"{number}: {type(error).__name__} {error}"[:500])
        shutil.rmtree(path)
    assert not failed
    assert "refused" in seen


def change_description(path, **changes):
    file = path / "codec.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    "changes",
    [{"prior": None}, {"family": "unet"}, {"info": {}}, {"sample_rate": 44100}, {"feature_shape": [32, 8, 1]}],
)
def test_a_changed_description_is_refused(copied, changes):
    change_description(copied, **changes)
    with pytest.raises(InputError, match="was changed"):
        Codec.load(copied)


def test_a_description_of_other_parts_is_refused_even_with_its_digest(copied):
    change_description(copied, feature_shape=[32, 8, 1])
    damage.seal(copied)
    with pytest.raises(InputError, match="feature_shape is"):
        Codec.load(copied)


def test_a_bundle_from_before_the_digest_is_read(sound, copied):
    file = copied / "codec.json"
    description = json.loads(file.read_text())
    del description["digest"]
    file.write_text(json.dumps(description))
    assert damage.outcome(copied, sound) == "same"


@pytest.mark.parametrize("order", [("encoder", "decoder"), ("prior", "encoder"), ("representation", "decoder")])
def test_exchanged_parts_are_one_line(copied, order):
    first, second = (copied / f"{part}.keras" for part in order)
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(kept)
    damage.seal(copied)
    with pytest.raises(InputError) as refused:
        Codec.load(copied)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("name", [".saved", ".saving"])
@pytest.mark.parametrize("kind", ["link", "file", "fifo"])
def test_a_save_takes_nothing_from_a_folder_that_is_not_its_own(sound, copied, name, kind):
    mine = copied.parent / "mine"
    mine.mkdir()
    (mine / "encoder.keras").write_text("years of work")
    if kind == "link":
        (copied / name).symlink_to(mine)
    elif kind == "file":
        (copied / name).write_text("mine")
    else:
        os.mkfifo(copied / name)
    assert damage.outcome(copied, sound) == "same"
    with pytest.raises(InputError, match="move it away"):
        sound.save(copied)
    assert (mine / "encoder.keras").read_text() == "years of work"
    assert damage.outcome(copied, sound) == "same"


def test_a_save_leaves_files_that_no_save_wrote(sound, copied):
    (copied / ".saved").mkdir()
    (copied / ".saved" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"notes.txt is not of a save"):
        sound.save(copied)
    assert (copied / ".saved" / "notes.txt").read_text() == "mine"
    assert damage.outcome(copied, sound) == "same"


@pytest.mark.parametrize("name", ["data.json", "prior.keras", "encoder.keras"])
def test_a_save_replaces_and_removes_nothing_where_there_is_no_bundle(sound, tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match=f"holds {name} and no codec.json"):
        sound.replace(data=None).save(tmp_path)
    assert os.listdir(tmp_path) == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_a_pipe_in_place_of_the_run_is_not_read(sound, tmp_path):
    sound.save(tmp_path)
    (tmp_path / "run").mkdir()
    os.mkfifo(tmp_path / "run" / "config.json")
    assert open_codec(tmp_path).data == sound.data


# Readers and writers at the same time


@pytest.mark.parametrize("part", ["representation", "encoder", "decoder", "prior"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_save_between_two_parts_is_noticed(copied, monkeypatch, part, moment):
    """The load begins anew, and gives the new bundle from every part."""
    new, original, saves = make(1), bundle.Bundle.part, []

    def interrupted(self, name):
        if name == part and not saves and moment == "before":
            saves.append(new.save(copied))
        found = original(self, name)
        if name == part and not saves:
            saves.append(new.save(copied))
        return found

    monkeypatch.setattr(bundle.Bundle, "part", interrupted)
    codec = Codec.load(copied)
    assert len(saves) == 1
    assert codec.info["seed"] == codec.data["seed"] == 1
    for ours, theirs in ((codec.encoder, new.encoder), (codec.decoder, new.decoder)):
        assert bundle.weights_digest(ours) == bundle.weights_digest(theirs)


def test_one_part_alone_is_of_one_version(copied, monkeypatch):
    """The hash is checked, then the file replaced, then read: the new file has to go with the new description."""
    new, original, saves = make(1), bundle.Bundle.file, []

    def interrupted(self, name):
        found = original(self, name)
        if not saves:
            saves.append(new.save(copied))
        return found

    monkeypatch.setattr(bundle.Bundle, "file", interrupted)
    assert bundle.weights_digest(bundle.load_part(copied, "encoder")) == bundle.weights_digest(new.encoder)


WRITERS = """
import sys
sys.path.insert(0, sys.argv[2])
from test_damage import make
codecs = [make(seed) for seed in (0, 1)]
print("ready", flush=True)
for number in range(10_000):
    codecs[number % 2].save(sys.argv[1])
"""


def test_two_writers_and_a_reader_never_mix_two_bundles(copied):
    """One writer is another process, one a thread; the process is killed at some moment."""
    digests = {seed: [bundle.weights_digest(x) for x in (make(seed).encoder, make(seed).decoder)] for seed in (0, 1)}
    mine, failures, stop = make(0), [], threading.Event()
    command = [sys.executable, "-c", WRITERS, str(copied), os.path.dirname(__file__)]

    def write():
        while not stop.is_set():
            try:
                mine.save(copied)
            except Exception as error:
                failures.append(error)
            stop.wait(0.2)

    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout.readline() == "ready\n"
            writer = threading.Thread(target=write)
            writer.start()
            for _ in range(12):
                codec = Codec.load(copied)
                seed = codec.info["seed"]
                assert codec.data["seed"] == seed
                assert [bundle.weights_digest(x) for x in (codec.encoder, codec.decoder)] == digests[seed]
        finally:
            stop.set()
            writer.join()
            other.kill()
    assert not failures
    mine.save(copied)
    assert Codec.load(copied, verify=True).info["seed"] == 0
    assert not [name for name in os.listdir(copied) if name.startswith(".")]


def test_a_reader_that_is_never_in_time_keeps_writers_out(copied):
    take = "import sys\nfrom spectrovae import files\nwith files.locked(sys.argv[1], 'spectrovae fit'): pass"
    with bundle._without_writers(copied):
        refused = subprocess.run([sys.executable, "-c", take, str(copied)], stderr=subprocess.PIPE, text=True)
    assert "in use by a command that reads it, process" in refused.stderr


def test_a_save_waits_for_another_and_says_who_writes(sound, copied, monkeypatch):
    monkeypatch.setattr(bundle, "WAIT", 0.1)
    hold = "import sys\nfrom spectrovae import files\nwith files.locked(sys.argv[1], 'spectrovae fit'):\n"
    hold += "    print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", hold, str(copied)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="in use by spectrovae fit, process"):
            sound.save(copied)
        Codec.load(copied)  # readers need no lock
        with bundle._without_writers(copied):
            pass
        other.stdin.close()
    with files.locked(copied, "spectrovae fit"):
        sound.save(copied)  # of one thread, which holds it
    np.testing.assert_array_equal(sorted(os.listdir(copied)), sorted([*bundle.FILES, *bundle.OPTIONAL, "codec.json"]))


@pytest.mark.parametrize("limit", [100, 9_000, 17_000])
def test_a_disk_that_fills_during_a_save_leaves_the_old_bundle(sound, copied, limit):
    """A limit of file sizes stands for the disk; each one is met by another file."""
    sizes = sorted(os.path.getsize(copied / name) for name in os.listdir(copied))
    assert limit < sizes[-1]
    before, names = resource.getrlimit(resource.RLIMIT_FSIZE), sorted(os.listdir(copied))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises((StorageError, InputError)) as refused:
            make(1).save(copied)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(str(refused.value).splitlines()) == 1
    assert sorted(os.listdir(copied)) == names
    assert damage.outcome(copied, sound) == "same"
    make(1).save(copied)
    assert Codec.load(copied).info["seed"] == 1
