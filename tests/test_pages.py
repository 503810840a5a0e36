"""Every kind of page in headless Chromium: no complaint, sortable, audible, legible by night and on a phone."""

import csv
import functools

import keras
import numpy as np
import pytest
from browser import DESK, PHONE, contrast, overflow, plays

from spectrovae.codec import Codec
from spectrovae.data import Recordings
from spectrovae.evaluation import compare, robustness
from spectrovae.evaluation.draws import draws_page, examine_draws
from spectrovae.evaluation.latent import latent
from spectrovae.evaluation.report import Card, Cell, Report, Row, sound_cards
from spectrovae.models import VAE
from spectrovae.representations import LogSTFT
from spectrovae.study import Trial, study

SAMPLES = 992
LONG = "a-name-that-does-not-end-" * 4
KINDS = ("compare", "robustness", "study", "latent", "draws")
QUICK = {"resamples": 50, "components": (2,), "log": lambda message: None}


def codec(name, seed=0):
    representation = LogSTFT(8000, n_fft=64, hop_length=32, phase_iterations=2)
    vae = VAE(representation.feature_shape(SAMPLES), preset="tiny", seed=seed, db_per_unit=80.0)
    return Codec(representation, vae.encoder, vae.decoder, family="vae", prior=vae.prior, name=name)


def saved(name, path):
    codec(name).save(path)
    return codec(name)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A page of each kind."""
    folder = tmp_path_factory.mktemp("pages")
    recordings = Recordings.open("toy:harmonic?size=60", sample_rate=8000, samples=SAMPLES)
    models = [codec("one"), codec(LONG, seed=1)]
    compare(models, recordings, folder / "compare", samples=2, limit=4, **QUICK)
    robustness(models, recordings, folder / "robustness", limit=4, perturbations=["uniform:0,10"], seeds=1, **QUICK)
    trials = [Trial(name, "vae", 0, functools.partial(saved, name)) for name in ("one", LONG)]
    study(trials, recordings, folder / "study", log=lambda message: None)
    latent(models[1], recordings, folder / "latent", pairs=2, points=3, log=lambda message: None)
    sounds = models[1].generate(3)
    result = examine_draws(sounds, models[1], asked={"label": LONG}, recordings=recordings)
    (folder / "draws").mkdir()
    draws_page(f"Drawn: {LONG}", LONG, result, sounds, models[1]).save(folder / "draws" / "report.html")
    return {name: folder / name / "report.html" for name in KINDS}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("width", "dark"), [(DESK, False), (PHONE, True)])
def test_a_page_is_legible(browser, pages, kind, width, dark):
    with browser.open(pages[kind], width=width, dark=dark) as page:
        assert overflow(page) <= 0
        assert page.locator("table").count() >= 1
        for selector in ("p", "td", "th button", "caption", ".notes", "a"):
            assert contrast(page, selector) > 4.5, selector
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(22, 21, 19)") == dark
        pictures = page.evaluate("Array.from(document.images, (image) => image.complete && image.naturalWidth > 0)")
        assert all(pictures)
        assert page.evaluate("Array.from(document.images).every((image) => image.alt)")


@pytest.mark.parametrize("kind", ["compare", "robustness", "latent"])
def test_sounds_of_a_page_play(browser, pages, kind):
    with browser.open(pages[kind]) as page:
        assert plays(page, "audio")


@pytest.fixture
def table(tmp_path):
    """A page with one table, whose figures are out of order, and a sound."""
    report = Report("a table")
    figures = [(name, value) for name, value in zip(("PCA-8", "PCA-32", "mean", "none"), (3.0, -1.0, 20.0, None))]
    report.table("c", ["name", "dB"], [Row([Cell(n), Cell("–" if v is None else f"{v}", "", v)]) for n, v in figures])
    db = np.linspace(-80, 0, 64).reshape(8, 8, 1)
    report.cards("", sound_cards([("tone", db, 0.1 * np.sin(np.arange(8000)))], LogSTFT(8000, n_fft=16, hop_length=8)))
    report.cards("", [Card(LONG)])
    report.save(tmp_path / "report.html")
    return tmp_path / "report.html"


def test_tables_sort_by_click_and_by_keyboard(browser, table):
    names = "Array.from(document.querySelectorAll('td:first-child'), (cell) => cell.textContent)"
    with browser.open(table) as page:
        head = page.locator("th").nth(1)
        head.locator("button").click()
        assert page.evaluate(names) == ["PCA-32", "PCA-8", "mean", "none"]
        assert head.get_attribute("aria-sort") == "ascending"
        page.keyboard.press("Enter")
        assert page.evaluate(names) == ["mean", "PCA-8", "PCA-32", "none"]
        assert head.get_attribute("aria-sort") == "descending"
        page.keyboard.press("Shift+Tab")
        page.keyboard.press("Space")
        assert page.evaluate(names) == ["mean", "none", "PCA-8", "PCA-32"]  # text, its numbers as numbers
        assert head.get_attribute("aria-sort") is None


def test_the_links_of_a_table_give_it(browser, table):
    with browser.open(table) as page:
        for ending in ("CSV", "JSON"):
            with page.expect_download() as download:
                page.get_by_role("link", name=ending, exact=True).click()
            written = table.parent / "tables" / download.value.suggested_filename
            with open(download.value.path(), encoding="utf-8") as stream:
                assert stream.read() == written.read_text(encoding="utf-8")
    rows = list(csv.reader((table.parent / "tables" / "01-c.csv").open()))
    assert rows == [["name", "dB"], ["PCA-8", "3.0"], ["PCA-32", "-1.0"], ["mean", "20.0"], ["none", ""]]


def test_a_players_time_goes_on(browser, table):
    with browser.open(table, width=PHONE) as page:
        assert plays(page, "audio")
        page.wait_for_timeout(300)
        assert page.evaluate("document.querySelector('audio').currentTime") > 0.1
        assert page.evaluate("document.querySelector('audio').duration") == pytest.approx(1.0, abs=0.01)
        assert overflow(page) <= 0


def test_a_page_that_complains_is_found(browser, tmp_path):
    (tmp_path / "page.html").write_text("<script>console.error('wrong')</script><img src='http://127.0.0.1:9/x.png'>")
    with pytest.raises(AssertionError, match="wrong"), browser.open(tmp_path / "page.html") as page:
        page.wait_for_timeout(200)
    keras.backend.clear_session()
