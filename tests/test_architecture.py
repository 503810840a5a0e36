"""The floors of the architecture: imports only go down, and never from one model family to another."""

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "spectrovae"

FLOORS = [
    {"errors", "files", "archives", "environment", "containers", "reader", "audio", "overlap", "pca", "dsp", "plots"},
    {"data", "representations", "layers", "streaming_layers", "losses", "quantisers", "sampling"},
    {"models"},
    {"bundle", "generation", "conversion", "transfer", "streaming", "codec"},
    {"training", "evaluation", "serving"},
    {"study"},
    {"commands"},
    {"cli"},
    {"__main__"},
]
FLOOR = {part: floor for floor, parts in enumerate(FLOORS) for part in parts}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
KERAS_OPS_ALONE = [
    p
    for p in FILES
    if p.stem in ("layers", "streaming_layers", "losses", "quantisers", "sampling", "pqmf") or p.parent.name == "models"
]


def module_name(path: Path) -> str:
    """``spectrovae.models.vae`` of its file; of a package, the package."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path) for path in FILES}


def imports(tree: ast.AST, path: Path) -> Iterator[str]:
    """Full names of the modules that a file imports anywhere, in functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = path.relative_to(PACKAGE.parent).parent.parts
                base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])
            names = [f"{base}.{alias.name}" for alias in node.names]
            # What is imported from a package may be a module of it or a name in it.
            yield from (name if name in MODULES else base for name in names)


def imported_by(path: Path) -> list[str]:
    return list(imports(ast.parse(path.read_text(encoding="utf-8")), path))


def part_of(module: str) -> str:
    return module.split(".")[1]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import spectrovae.codec", {"spectrovae.codec"}),
        ("def f():\n    from spectrovae import training", {"spectrovae.training"}),
        ("from spectrovae.models import vae", {"spectrovae.models.vae"}),
        ("from spectrovae.models.vae import VAE", {"spectrovae.models.vae"}),
        ("from . import vae", {"spectrovae.models.vae"}),
        ("from .vae import VAE", {"spectrovae.models.vae"}),
        ("from .. import codec", {"spectrovae.codec"}),
        ("import tensorflow.nn as nn", {"tensorflow.nn"}),
    ],
)
def test_every_kind_of_import_is_seen(code, expected):
    assert set(imports(ast.parse(code), PACKAGE / "models" / "unet.py")) == expected


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_only_go_down(path):
    here = part_of(module_name(path))
    assert here in FLOOR, f"{here} has no floor: give it one in FLOORS and in docs/architecture.md"
    for imported in imported_by(path):
        if imported.startswith("spectrovae."):
            there = part_of(imported)
            assert FLOOR[there] <= FLOOR[here], f"{path} imports {imported}, a floor above its own"


@pytest.mark.parametrize("path", [p for p in FILES if p.parent.name == "models"], ids=module_name)
def test_no_family_imports_another(path):
    parts = ("base", "networks", "priors", "autoregressive", "conditioning", "discriminators")
    shared = {f"spectrovae.models.{name}" for name in parts}
    if path.stem in ("__init__", *parts):
        return
    siblings = {name for name in imported_by(path) if name.startswith("spectrovae.models")}
    assert siblings <= shared, f"{path} imports {siblings - shared}; what families share sinks to layers or losses"


@pytest.mark.parametrize("path", KERAS_OPS_ALONE, ids=module_name)
def test_models_layers_and_losses_know_no_tensorflow(path):
    roots = {name.split(".")[0] for name in imported_by(path)}
    assert not roots & {"tensorflow", "tensorflow_io", "jax", "torch"}
    with_tensorflow = {"dsp", "data", "representations", "codec"}
    here = {name for name in imported_by(path) if name.startswith("spectrovae.")} - {"spectrovae.dsp.pqmf"}
    assert not {part_of(name) for name in here} & with_tensorflow


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_nothing_unpickles(path):
    assert not {name.split(".")[0] for name in imported_by(path)} & {
        "pickle",
        "cloudpickle",
        "joblib",
        "dill",
    }
    tree = ast.parse(path.read_text(encoding="utf-8"))
    allowed = [
        word.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for word in node.keywords
        if word.arg == "allow_pickle" and not (isinstance(word.value, ast.Constant) and word.value.value is False)
    ]
    assert not allowed


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed")
def test_models_import_where_tensorflow_is_absent(fresh_process):
    found = fresh_process(
        """
import sys
sys.modules["tensorflow"] = None
import spectrovae.models, spectrovae.layers, spectrovae.losses
import keras
print(keras.backend.backend(), *spectrovae.models.FAMILIES)
""",
        KERAS_BACKEND="jax",
    ).split()
    assert found[0] == "jax"
    assert len(found) > 1


def test_the_package_imports_nothing_heavy(fresh_process):
    heavy = fresh_process(
        "import sys, spectrovae; print(*{'tensorflow', 'keras', 'librosa', 'matplotlib'} & set(sys.modules))"
    )
    assert not heavy.split()
