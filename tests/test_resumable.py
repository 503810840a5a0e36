"""Trainings of priors and judges that are interrupted and continued."""

import json
import zipfile

import keras
import numpy as np
import pytest
from interrupts import interrupt, stopping

from spectrovae import archives
from spectrovae.data.order import shuffled
from spectrovae.errors import InputError, TrainingError
from spectrovae.training import state
from spectrovae.training.resumable import Resumable

EPOCHS, ROWS, BATCH = 4, 20, 8


def trained(folder, settings=("a",), rate=0.05, loss="mse"):
    """A network with dropout, trained on rows in an order of their own each epoch; its weights and its run."""
    random = np.random.default_rng(0)
    x, y = random.normal(size=(ROWS, 3)).astype("float32"), random.normal(size=(ROWS, 1)).astype("float32")
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dropout(0.5, seed=1), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(rate), loss)
    model.optimizer.build(model.trainable_variables)
    run = Resumable(folder, {"settings": settings})
    run.load(model)
    if run.epoch < EPOCHS:
        model.fit(
            shuffled((x, y), ROWS, BATCH, seed=0, first_epoch=run.epoch), initial_epoch=run.epoch, epochs=EPOCHS,
            steps_per_epoch=3, validation_data=(x, y), callbacks=[run], verbose=0, shuffle=False,
        )  # fmt: skip
    last = model.get_weights()
    run.put_back(model)
    return [*last, *model.get_weights()], run


@pytest.mark.parametrize("epoch", [0, 2])
def test_it_continues_exactly(epoch, tmp_path, monkeypatch, capsys):
    expected, full = trained(tmp_path / "full")
    with monkeypatch.context() as patch:
        stopping(patch, epoch, 1, interrupt)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "parts")
    weights, run = trained(tmp_path / "parts")
    assert ("continuing after epoch 2" in capsys.readouterr().err) == (epoch == 2)
    assert (run.best_epoch, run.best) == (full.best_epoch, full.best)
    for a, b in zip(weights, expected):
        np.testing.assert_array_equal(a, b)
    run.clear()
    assert not list((tmp_path / "parts").iterdir())


def test_other_settings_and_damage_start_over(tmp_path, capsys):
    trained(tmp_path)
    trained(tmp_path, settings=("b",))
    assert "other settings: starting over" in capsys.readouterr().err
    file = tmp_path / "state.npz"
    with np.load(file) as kept:
        arrays = dict(kept)
    progress = json.loads(str(arrays["progress"])) | {"epoch": "4"}
    for damage in (b"PK", None):
        if damage is None:
            np.savez(file, **(arrays | {"progress": np.array(json.dumps(progress))}))
        else:
            file.write_bytes(damage)
        _, run = trained(tmp_path, settings=("b",))
        assert "is damaged" in capsys.readouterr().err
        assert run.epoch == EPOCHS


def test_one_that_diverges_says_so(tmp_path):
    with pytest.raises(TrainingError, match="diverged in epoch 1: .*lower the learning rate"):
        trained(tmp_path, loss=lambda y, prediction: prediction * float("nan"))
    assert not list(tmp_path.iterdir())


def test_a_state_that_would_fill_the_memory_is_not_read(tmp_path):
    path = tmp_path / "state.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("progress.npy", bytes(archives.SPARE_BYTES + (1 << 24)))
    with pytest.raises(InputError, match=r"state\.npz is damaged \(.* would unpack to .*--force starts over$"):
        state.read_progress(path)
