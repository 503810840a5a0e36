"""The blind listening test: what it plays, what it counts and keeps; judged in Chromium by the sounds themselves."""

import base64
import csv
import io
import json

import keras
import numpy as np
import pytest
import soundfile
from browser import PHONE, contrast, overflow
from page_check import check_page
from scipy.stats import binomtest

from spectrovae.codec import Codec
from spectrovae.data import Recordings
from spectrovae.errors import InputError
from spectrovae.evaluation.listen import listen
from spectrovae.evaluation.players import loudness, match_levels
from spectrovae.representations import LogSTFT

SAMPLES = 4000
BYTES = """async () => {
    const buffer = await (await fetch(document.getElementById("sound").src)).arrayBuffer();
    return Array.from(new Uint8Array(buffer)).join(); }"""


def codec(name, scale):
    representation = LogSTFT(8000, n_fft=64, hop_length=32, phase_iterations=2)
    shape = representation.feature_shape(SAMPLES)
    inputs, latent = keras.Input(shape), keras.Input(shape)
    encoder = keras.Model(inputs, keras.layers.Rescaling(1.0)(inputs))
    return Codec(representation, encoder, keras.Model(latent, keras.layers.Rescaling(scale)(latent)), name=name)


QUIET = {"log": lambda message: None}


@pytest.fixture(scope="module")
def recordings():
    return Recordings.open("toy:harmonic?size=60", sample_rate=8000, samples=SAMPLES)


@pytest.fixture(scope="module")
def made(recordings, tmp_path_factory):
    out = tmp_path_factory.mktemp("listen") / "out"
    models = [codec("<b>half</b>", 0.5), codec("soft", 0.8)]
    return listen(models, recordings, out, clips=3, trials=12, **QUIET), out / "listen.html"


def expected_sounds(recordings):
    """By clip number and system the 16-bit samples that the page must play."""
    waveforms = np.concatenate([np.asarray(batch) for batch in recordings.waveforms("test")])
    chosen = waveforms[np.round(np.linspace(0, len(waveforms) - 1, 3)).astype(int)]
    found = {}
    for number, waveform in enumerate(chosen, start=1):
        outputs = [waveform, *(codec("", scale).reconstruct(waveform[None])[0] for scale in (0.5, 0.8))]
        for system, player in zip(("original", "<b>half</b>", "soft"), match_levels(outputs, 8000)):
            found[number, system] = player.waveform
    return found


def play(page, which):
    """Press a player's button, wait until it plays, and return the file it plays."""
    page.click(f"[data-play={which}]")
    page.wait_for_function(
        "() => document.getElementById('sound').currentTime > 0 || document.getElementById('sound').ended"
    )
    return page.evaluate(BYTES)


def samples(played):
    wav, rate = soundfile.read(io.BytesIO(bytes(map(int, played.split(",")))))
    assert rate == 8000
    return wav


def start(page, pair="all", count=None):
    page.select_option("#pair", pair)
    if count:
        page.fill("#count", str(count))
    page.click("#start")


def answer(page, right):
    """Listen to all three and answer rightly or wrongly; what was played as A and B."""
    a, b, x = (play(page, which) for which in "abx")
    assert a != b
    assert x in (a, b)
    page.keyboard.press("1" if (x == a) == right else "2")
    return a, b


def kept_answers(page, ending):
    with page.expect_download() as download:
        page.click(f"#{ending}")
    assert download.value.suggested_filename.endswith(f".{ending}")
    with open(download.value.path(), encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream)) if ending == "csv" else json.load(stream)


def test_the_page_tells_nothing(made):
    result, path = made
    text = path.read_text()
    page = check_page(text)
    assert len(page.all("script")) == 4
    shown, script = text.split('<section id="abx"')[1].split("<h2>")[0], "sounds"
    assert "half" not in shown  # neither a name nor an attribute: of files there are none
    assert "original" not in shown.split(f'id="{script}"')[1]
    assert result["systems"] == ["original", "<b>half</b>", "soft"]
    sounds = json.loads(text.split('id="sounds">')[1].split("</script>")[0])
    assert len(sounds) == 9
    decoded = [soundfile.read(io.BytesIO(base64.b64decode(sound)))[0] for sound in sounds]
    assert {len(sound) for sound in decoded} == {SAMPLES}
    assert sorted(path.name for path in path.parent.iterdir()) == ["listen.html", "listen.json", "tables"]


def test_all_sounds_of_a_clip_are_equally_loud(made, recordings):
    result, _ = made
    assert json.loads((made[1].parent / "listen.json").read_text()) == result
    found = expected_sounds(recordings)
    for number, clip in enumerate(result["clips"], start=1):
        levels = [loudness(found[number, system], 8000) for system in result["systems"]]
        np.testing.assert_allclose(levels, levels[0], atol=0.02)
        assert clip["gain_db"]["<b>half</b>"] > clip["gain_db"]["original"]


@pytest.mark.parametrize(("count", "wrong"), [(9, (2, 7)), (5, ())])
def test_the_score_is_right_and_survives_a_reload(browser, made, recordings, count, wrong):
    with browser.open(made[1]) as page:
        start(page, count=count)
        played = []
        for trial in range(count):
            assert f"Trial {trial + 1} of {count}" in page.inner_text("#progress")
            assert page.is_hidden("#result")
            played.append(answer(page, trial not in wrong))
            if trial == 2:  # in the middle, without a word about the score
                page.reload()
        right = count - len(wrong)
        p = binomtest(right, count, alternative="greater").pvalue
        for _ in range(2):
            assert page.inner_text("#score") == f"{right} of {count} right, p = {p:.3f}"
            assert page.is_hidden("#trial")
            page.reload()
        rows, whole = kept_answers(page, "csv"), kept_answers(page, "json")
        scores = page.evaluate(
            "Array.from(document.querySelector('#pairs tbody').rows, (row) => [...row.cells].map((c) => c.innerText))"
        )
    assert whole["score"] == {"right": right, "trials": count, "planned": count, "p": pytest.approx(p, rel=1e-9)}
    assert [row["right"] == "true" for row in rows] == [trial not in wrong for trial in range(count)]
    assert [answer["x"] for answer in whole["answers"]] == [row["x"] for row in rows]
    # what the answers call A and B is what was played
    found = expected_sounds(recordings)
    for row, sounds in zip(rows, played):
        for name, sound in zip("ab", sounds):
            np.testing.assert_allclose(samples(sound), found[int(row["clip"]), row[name]], atol=2**-14)
    # every pair has its own score; each came as often as any other
    assert {name for name, *_ in scores} <= {"original / <b>half</b>", "original / soft", "<b>half</b> / soft"}
    assert sum(int(own) for _, own, _, _ in scores) == right
    trials = [int(number) for *_, number, _ in scores]
    assert sum(trials) == count
    assert max(trials) - min(trials) <= 1
    for _, own, number, text in scores:
        assert text == f"{binomtest(int(own), int(number), alternative='greater').pvalue:.3f}"


def test_trials_are_drawn_by_fair_coins(browser, made):
    """Of 400 trials about half have X = A, and half the original as A (within four standard deviations)."""
    with browser.open(made[1]) as page:
        start(page, pair="0", count=400)
        page.evaluate(
            """async () => { // press all three and answer, as quickly as the page allows
              HTMLMediaElement.prototype.play = () => Promise.resolve();
              for (let trial = 0; trial < 400; trial += 1) {
                for (const key of "abx1") {
                  await null;
                  document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
                }
              } }"""
        )
        answers = kept_answers(page, "json")["answers"]
    assert len(answers) == 400
    assert {(answer["a"], answer["b"]) for answer in answers} == {
        ("original", "<b>half</b>"),
        ("<b>half</b>", "original"),
    }
    for share in (sum(answer["x"] == "A" for answer in answers), sum(answer["a"] == "original" for answer in answers)):
        assert 160 < share < 240


def test_nothing_can_be_answered_unheard(browser, made):
    with browser.open(made[1]) as page:
        start(page)
        assert page.is_disabled("[data-answer=a]")
        page.keyboard.press("1")
        play(page, "a")
        play(page, "x")
        page.keyboard.press("1")
        assert "Trial 1 of 12" in page.inner_text("#progress")
        page.keyboard.press("b")
        page.wait_for_selector("[data-answer=a]:enabled")
        page.keyboard.press("2")
        assert "Trial 2 of 12" in page.inner_text("#progress")
        assert page.is_disabled("[data-answer=a]")
        page.click("#finish")
        assert "of 1 right" in page.inner_text("#score")
        assert "ended early" in page.inner_text("#meaning")


def test_answers_are_erased_only_when_asked_twice(browser, made):
    with browser.open(made[1]) as page:
        start(page, count=1)
        answer(page, True)
        page.click("#reset")
        assert page.is_visible("#score")
        page.click("#reset")
        assert page.is_visible("#setup")
        page.reload()
        assert page.is_visible("#setup")
        assert page.evaluate("localStorage.length") == 0
        start(page, count=2)
        assert "Trial 1 of 2" in page.inner_text("#progress")
        page.click("#reset")  # nothing was answered yet
        assert page.is_visible("#setup")


def test_damaged_or_foreign_answers_do_no_harm(browser, made):
    with browser.open(made[1]) as page:
        start(page, count=2)
        name = page.evaluate("localStorage.key(0)")
        for value in ("", "rubbish", "e30="):
            page.evaluate("([name, value]) => localStorage.setItem(name, value)", [name, value])
            page.evaluate("(value) => history.replaceState(value, '')", value)
            page.reload()
            assert page.is_visible("#setup")


def test_a_store_found_empty_loses_nothing(browser, made):
    with browser.open(made[1]) as page:
        start(page, count=2)
        answer(page, True)
        page.evaluate("localStorage.clear()")
        page.reload()
        assert "Trial 2 of 2" in page.inner_text("#progress")


def test_by_night_on_a_phone(browser, made):
    with browser.open(made[1], width=PHONE, dark=True) as page:
        for step in ("setup", "trial", "result"):
            assert page.is_visible(f"#{step}")
            assert overflow(page) <= 0
            for selector in ("p", ".hint", "#abx button:enabled", "kbd"):
                assert contrast(page, selector) > 4.5, selector
            if step == "setup":
                start(page, count=1)
            elif step == "trial":
                answer(page, False)


def test_the_ceiling_is_a_system_of_its_own(recordings, tmp_path):
    models = [codec("a", 1.0), codec("a", 0.5)]
    result = listen(models, recordings, tmp_path / "out", clips=1, ceiling=True, **QUIET)
    assert result["systems"] == ["original", "a", "a (2)", "LogSTFT alone"]


def test_what_cannot_be_heard_is_refused(recordings, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="at least one model"):
        listen([], recordings, tmp_path / "out", **QUIET)
    with pytest.raises(InputError, match="one clip and one trial"):
        listen([codec("a", 1.0)], recordings, tmp_path / "out", clips=0, **QUIET)
    short = Recordings.open("toy:harmonic?size=60", sample_rate=8000, samples=500)
    with pytest.raises(InputError, match="4000 samples"):
        listen([codec("a", 1.0)], short, tmp_path / "out", **QUIET)
    monkeypatch.setattr("spectrovae.evaluation.listen.PAGE_BYTES", 1000)
    with pytest.raises(InputError, match="fewer --clips"):
        listen([codec("a", 1.0)], recordings, tmp_path / "out", **QUIET)
    monkeypatch.setattr("spectrovae.evaluation.listen.loudness", lambda waveform, rate: -np.inf)
    with pytest.raises(InputError, match="silent"):
        listen([codec("a", 1.0)], recordings, tmp_path / "out", **QUIET)
    assert list(tmp_path.iterdir()) == []
