"""Every other pair of a family and a representation, as in tests/test_served_families.py."""

import pytest
from families import OTHER_PAIRS
from served import check_rows, check_served, serve

every_pair = pytest.mark.parametrize(("family", "name"), OTHER_PAIRS, ids=map("-".join, OTHER_PAIRS))


@pytest.fixture(scope="session")
def folder(built_once):
    return built_once("served-pairs", lambda folder: serve(OTHER_PAIRS, folder))


@every_pair
def test_a_served_model_gives_what_keras_gives(folder, family, name):
    check_served(folder, family, name)


@every_pair
def test_a_result_does_not_depend_on_the_others_in_the_batch(folder, family, name):
    check_rows(folder, family, name)
