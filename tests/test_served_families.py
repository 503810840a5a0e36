"""Every family and every representation once: exported, and served without Keras or spectrovae."""

import pytest
from families import ONE_OF_EACH
from served import check_rows, check_served, serve

every_pair = pytest.mark.parametrize(("family", "name"), ONE_OF_EACH, ids=map("-".join, ONE_OF_EACH))


@pytest.fixture(scope="session")
def folder(built_once):
    return built_once("served", lambda folder: serve(ONE_OF_EACH, folder))


@every_pair
def test_a_served_model_gives_what_keras_gives(folder, family, name):
    check_served(folder, family, name)


@every_pair
def test_a_result_does_not_depend_on_the_others_in_the_batch(folder, family, name):
    check_rows(folder, family, name)
