"""Verdicts on adversarial training: of courses made to fail in each way, of healthy ones, and of games played."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from spectrovae import losses
from spectrovae.models import discriminators
from spectrovae.training.adversarial_verdict import BLIND, judge_adversary, split_stages

MODEL = {"adversary": "hinge", "adversarial_weight": 1.0, "feature_weight": 10.0, "discriminator_rate": 0.1}


def course(epochs=8, **changed):
    """Four epochs alone, ``epochs`` with an adversary; healthy but for the columns ``changed`` from the middle on."""
    healthy = {
        "adversarial": (0.2, 0.3),
        "discriminator": (2.0, 1.5),
        "feature_matching": (0.3, 0.2),
        "distance": (5.0, 4.8),
        "reconstruction": (10.0, 9.5),
        "real_score": (0.1, 0.5),
        "fake_score": (-0.1, -0.3),
        "generator_norm": (0.95, 0.98),
    }
    history = {}
    for name, (first, last) in healthy.items():
        last = changed.get(name, last)
        alone = {"distance": [9.0, 7.0, 6.0, 5.0], "reconstruction": [18.0, 14.0, 12.0, 10.0]}.get(name, [np.nan] * 4)
        history[name] = [*alone, *np.interp(np.arange(epochs), [0, max(epochs // 2, 1)], [first, last])]
    return history


def names(history, **options):
    return [finding.name for finding in judge_adversary(history, MODEL | options)]


def test_a_healthy_course_has_no_findings():
    assert names(course()) == []
    assert names(course(epochs=1)) == []
    # A rise of the distance by a fifth is what detail costs; half the RMS may be noise that cannot be predicted.
    assert names(course(distance=6.0, generator_norm=0.5)) == []


def test_without_an_adversary_there_are_none():
    assert judge_adversary({}, MODEL) == []
    assert judge_adversary({"loss": [1.0, 0.5], "distance": [1.0, 20.0]}, MODEL) == []
    assert judge_adversary({name: column[:4] for name, column in course().items()}, MODEL) == []


@pytest.mark.parametrize(("adversary", "loss"), [("hinge", 0.19), ("least_squares", 0.049)])
def test_a_discriminator_that_wins(adversary, loss):
    found = judge_adversary(
        course(discriminator=loss, real_score=1.5, fake_score=-1.5, adversarial=1.5),
        MODEL | {"adversary": adversary},
    )
    assert [finding.name for finding in found] == ["discriminator_winning"]
    assert f"{BLIND[adversary]:g} for one that cannot tell" in found[0].text
    assert found[0].change == "--discriminator-rate 0.033."
    assert str(found[0]).startswith("discriminator winning: the discriminators' loss is 0.")
    assert names(course(discriminator=1.2 * loss, real_score=1.5, fake_score=-1.5), adversary=adversary) == []


def test_a_discriminator_that_is_being_caught_up_with_does_not_win():
    history = course(discriminator=0.0, real_score=2.0, fake_score=-2.0, epochs=8)
    assert names(history) == ["discriminator_winning"]
    history["fake_score"][4:] = [-1.0, -2.0, -3.0, -3.0, -2.5, -2.2, -2.0, -1.9]
    assert names(history) == []


@pytest.mark.parametrize(("norm", "text"), [(0.01, "40 dB below"), (0.0, "120 dB below")])
def test_a_generator_that_fell_silent(norm, text):
    # The discriminator wins against it too, which says nothing more.
    history = course(generator_norm=norm, discriminator=0.0, real_score=2.0, fake_score=-2.0, distance=20.0)
    (finding,) = judge_adversary(history, MODEL)
    assert finding.name == "generator_collapsed"
    assert text in finding.text
    assert finding.change.startswith("--adversarial-weight 0.1,")


@pytest.mark.parametrize("norm", [1.0, 30.0])
def test_a_generator_that_gives_the_same_whatever_it_hears(norm):
    (finding,) = judge_adversary(course(generator_norm=norm, distance=9.0), MODEL)
    assert finding.name == "generator_collapsed"
    assert "from 5 to 9;" in finding.text
    # Without a first stage, against the first epoch.
    alone = {name: column[4:] for name, column in course(distance=9.0).items()}
    assert names(alone) == ["generator_collapsed"]
    assert names({name: column[4:] for name, column in course(distance=7.0).items()}) == []


def test_feature_matching_that_dominates():
    (finding,) = judge_adversary(course(epochs=1) | {"feature_matching": [np.nan] * 4 + [4.0]}, MODEL)
    assert finding.name == "feature_matching_dominating"
    # 10 * 4 beside 10 + 0.2
    assert "80% of the generator's loss" in finding.text
    assert finding.change == "--feature-weight 2.5, with which it would be half."
    halved = course(epochs=1) | {"feature_matching": [np.nan] * 4 + [4.0]}
    assert names(halved, feature_weight=2.5) == []
    # A negative adversarial loss is no less of a part.
    assert names(halved | {"adversarial": [np.nan] * 4 + [-5.0]}) == []


def test_a_run_is_split_where_the_adversary_joined():
    history = course(epochs=3)
    before, after = split_stages(history)
    assert before["distance"] == history["distance"][:4]
    assert after["adversarial"] == history["adversarial"][4:]
    # columns that only begin in the second stage
    short = {name: column if name == "distance" else column[4:] for name, column in history.items()}
    assert split_stages(short)[1] == after


@pytest.mark.parametrize(
    ("generator_rate", "expected"), [(0.0, ["discriminator_winning"]), (0.05, [])], ids=["idle", "learning"]
)
def test_a_game_that_was_played(generator_rate, expected):
    """A generator of one gain, whose sounds are too soft: it is found out unless it may learn."""
    model = discriminators.Discriminators(capacity=4, periods=(), depth=2)
    model.build((None, 128))
    gain = keras.Variable(0.2, name="gain")
    adam = keras.optimizers.Adam(3e-3)
    ours = keras.optimizers.SGD(generator_rate or 1.0)

    @tf.function
    def step(real):
        weights = model.trainable_variables
        with tf.GradientTape() as tape:
            seen, judged = discriminators.players(model, real, gain * real[::-1])
            judging, fooling = losses.discriminator_loss(*judged), losses.generator_loss(seen[1])
            matching = losses.feature_matching(*seen)
            loss = judging + fooling + matching
        of_gain, *gradients = tape.gradient(loss, [gain.value, *[weight.value for weight in weights]])
        adam.apply(gradients, weights)
        if generator_rate:
            ours.apply([of_gain], [gain])
        distance = tf.reduce_mean(losses.spectral_distance(real, gain * real, (128,)))
        return (
            fooling,
            judging,
            matching,
            distance,
            losses.mean_score(judged[0]),
            losses.mean_score(judged[1]),
            gain.value,
        )

    columns = [*course()]
    columns.remove("reconstruction")
    history = {name: [] for name in columns}
    for epoch in range(8):
        rows = [
            step(np.float32(0.3 * np.random.default_rng(10 * epoch + n).standard_normal((16, 128)))) for n in range(30)
        ]
        for name, values in zip(columns, np.mean(rows, axis=0)):
            history[name].append(float(values))
    assert names(history, feature_weight=1.0) == expected
