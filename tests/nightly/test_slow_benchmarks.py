"""Benchmarks of half a minute or more, at their smallest size."""

import re

import pytest
from test_benchmarks import SLOW, run

assert run  # a fixture


@pytest.mark.parametrize(("name", "command"), [(name, command) for name, forms in SLOW.items() for command in forms])
def test_a_benchmark_runs(name, command, run, capfd):
    run(name, command)
    assert re.search(r"\d", capfd.readouterr().out)
