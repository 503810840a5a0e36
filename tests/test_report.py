"""The page: one well-formed file that asks for nothing outside itself and shows strings as they are."""

import base64
import csv
import io
import json

import numpy as np
import pytest
import soundfile
from page_check import check_page
from PIL import Image

from spectrovae import plots
from spectrovae.errors import InputError
from spectrovae.evaluation.report import (
    Card,
    Cell,
    Report,
    Row,
    count_text,
    duration_text,
    interval_text,
    number_text,
    signed_text,
    sound_cards,
)
from spectrovae.representations import LogSTFT

NASTY = '<script>alert("1")</script>&'


def test_every_string_is_escaped():
    report = Report(NASTY, NASTY)
    report.section(NASTY, NASTY)
    report.text(NASTY)
    report.notes([NASTY])
    report.table(NASTY, [NASTY], [Row([Cell(NASTY, NASTY)], NASTY)])
    report.cards(NASTY, [Card(NASTY, b"png", NASTY, b"wav", b"dark", NASTY)])
    page = check_page(report.html())
    assert len(page.all("script")) == 1
    assert "".join(page.words).count(NASTY) == 14
    assert all("<" not in link["download"] for link in page.all("a"))
    assert page.all("audio")[0]["aria-label"] == page.all("img")[0]["alt"] == NASTY


def test_table_cells_carry_the_numbers_they_sort_by():
    report = Report("t")
    report.table(
        "c",
        ["model", "RMSE"],
        [Row([Cell("a"), Cell("1.23", "1.1–1.3", 1.23456)]), Row([Cell("b"), Cell("–")])],
    )
    cells = check_page(report.html()).all("td")
    assert [cell.get("data-order") for cell in cells] == [None, "1.23456", None, None]
    with pytest.raises(InputError, match="2 cells"):
        report.table("c", ["model", "RMSE"], [Row([Cell("a")])])


def test_tables_are_files_too(tmp_path):
    report = Report("t")
    cells = [Cell('1,5 "a"'), Cell("1.23", "1.1–1.3", np.float64(1.23456)), Cell("7", "", 7)]
    report.table(
        "Figures: all!",
        ["model", "RMSE\ndB", "model"],
        [Row(cells), Row([Cell("b"), Cell("–"), Cell("nan", "", np.nan)])],
    )
    report.table("Figures: all!", ["x"], [])
    report.save(tmp_path / "report.html")
    names = [f"{name}.{ending}" for name in ("01-figures-all", "02-figures-all") for ending in ("csv", "json")]
    assert sorted(path.name for path in (tmp_path / "tables").iterdir()) == names
    with open(tmp_path / "tables" / names[0], newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert rows == [
        {"model": '1,5 "a"', "RMSE dB": "1.23456", "RMSE dB, note": "1.1–1.3", "model (2)": "7"},
        {"model": "b", "RMSE dB": "", "RMSE dB, note": "", "model (2)": "nan"},
    ]
    table = json.loads((tmp_path / "tables" / names[1]).read_text(encoding="utf-8"))
    assert table["rows"][0] == {"model": '1,5 "a"', "RMSE dB": 1.23456, "RMSE dB, note": "1.1–1.3", "model (2)": 7}
    assert table["columns"] == list(table["rows"][1])
    assert table["caption"] == "Figures: all!"
    page = check_page((tmp_path / "report.html").read_text())
    links = {link["download"]: link["href"] for link in page.all("a")}
    for name in names:
        assert base64.b64decode(links[name].split(",")[1]) == (tmp_path / "tables" / name).read_bytes()


def test_cards_hold_a_picture_and_a_sound():
    db = np.linspace(-80, 0, 64).reshape(8, 8, 1)
    tone = 0.1 * np.sin(np.arange(800))
    sounds = [("original", db, tone), ("model", db, 2 * tone)]
    cards = sound_cards(sounds, LogSTFT(8000, n_fft=16, hop_length=8))
    report = Report("t")
    report.cards("clip", cards)
    page = check_page(report.html())
    for image, audio in zip(page.all("img"), page.all("audio")):
        assert Image.open(io.BytesIO(base64.b64decode(image["src"].split(",")[1]))).width > 200
        samples, _ = soundfile.read(io.BytesIO(base64.b64decode(audio["src"].split(",")[1])))
        np.testing.assert_allclose(samples, tone, atol=2**-14)
    assert [card.caption for card in cards] == ["gain 0.0 dB", "gain −6.0 dB"]
    assert "0.10 s, 0 to 4000 Hz, -80 to 0 dB" in page.all("img")[0]["alt"]


def test_the_page_stays_under_its_size_and_says_what_it_leaves_out(monkeypatch):
    monkeypatch.setattr("spectrovae.evaluation.report.PAGE_BYTES", 60_000)
    clip = [("original", np.random.default_rng(0).uniform(-80, 0, (32, 16, 1)), np.full(8000, 0.1))]
    report = Report("t")
    report.clips({f"clip {n}": clip for n in range(9)}, LogSTFT(8000, n_fft=64, hop_length=32))
    page = check_page(report.html())
    shown = len(page.all("img"))
    assert 1 <= shown < 9
    assert f"{shown} of 9 clips are on this page" in "".join(page.words)


def test_spectrogram_axes_are_in_hertz_seconds_and_decibels():
    db = np.zeros((4, 6))
    db[1, 3] = 5.0
    frequencies = np.array([0.0, 1000.0, 2000.0, 3000.0])
    figure = plots.spectrogram_figure(db, frequencies=frequencies, duration=0.75, min_db=-80, max_db=0)
    axes, bar = figure.axes
    image = axes.images[0]
    assert tuple(image.get_extent()) == (0, 0.75, -0.5, 3.5)
    for position, text in zip(axes.get_yticks(), axes.get_yticklabels()):
        assert float(text.get_text()) == pytest.approx(1000.0 * position, rel=0.05)
    assert image.origin == "lower"
    assert tuple(image.get_clim()) == (-80, 0)
    assert (axes.get_xlabel(), axes.get_ylabel(), bar.get_ylabel()) == (
        "time (s)",
        "frequency (Hz)",
        "level (dB)",
    )
    with pytest.raises(InputError, match="one clip"):
        plots.spectrogram_figure(np.zeros((2, 4, 6, 1)), frequencies=frequencies, duration=1, min_db=0, max_db=1)


def test_loss_curves_are_written_whole(tmp_path):
    history = {"loss": [3.0, 2.0, np.nan], "val_loss": [3.1, 2.2, 2.1], "kl": [1.0, 2.0, 3.0]}
    plots.plot_loss_curves(history, tmp_path / "loss.png")
    image = Image.open(tmp_path / "loss.png").convert("RGB")
    colours = {colour for _, colour in image.getcolors(1 << 20)}
    assert image.width > 600
    assert any(abs(r - 0x2F) + abs(g - 0x74) + abs(b - 0xC0) < 24 for r, g, b in colours)  # the training curve
    assert [path.name for path in tmp_path.iterdir()] == ["loss.png"]
    with pytest.raises(InputError, match="no epoch"):
        plots.plot_loss_curves({"loss": []}, tmp_path / "empty.png")


def test_numbers_for_people():
    assert [number_text(x) for x in (None, -1.005, 3.14159)] == ["–", "−1.00", "3.14"]
    row = {"cosine_low": 0.99861, "cosine_high": 0.99889, "si_sdr_low": -1.26, "si_sdr_high": 3.04}
    assert interval_text(row, "cosine", 4) == "0.9986–0.9989"  # as many digits as its figure, so that it holds it
    assert interval_text(row, "si_sdr", 1) == "−1.3 to 3.0"
    assert interval_text({"x_low": None, "x_high": None}, "x") == ""
    assert [signed_text(x) for x in (1.25, -0.04, -3.44)] == ["+1.2", "0.0", "−3.4"]
    assert [count_text(x) for x in (None, 12, 999, 1234, 999_950, 2_110_000)] == [
        "–",
        "12",
        "999",
        "1.23 k",
        "1 M",
        "2.11 M",
    ]
    assert [duration_text(x) for x in (None, 42.4, 552, 3725)] == ["–", "42 s", "9m 12s", "1h 02m"]
