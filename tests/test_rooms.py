"""The law of the rooms (docs/architecture.md): each imports only rooms above it, without circles."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "clip4vla"
ROOMS = [  # from the ground up
    "common",
    "config",
    "metrics",
    "tracking",
    "launch",
    "datasets",
    "media",
    "cache",
    "loading",
    "models.common",
    "models.clip4vla",
    "models.coavt",
    "models.family",
    "checkpoints",
    "inference",
    "training",
    "evaluation",
    "results",
    "pages",
    "cost",
    "search",
    "mteb",
    "runs",
    "stages",
    "cli",
]


def name_of(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in PACKAGE.rglob("*.py")}


def room_of(module):
    """The room of a module; "" for the package itself, which belongs to all."""
    within = module.split(".")[1:]
    return ".".join(within[: 2 if within[:1] == ["models"] else 1])


def for_types_alone(node):
    """Whether a statement is `if TYPE_CHECKING:`, whose imports load nothing."""
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imports_of(module, source, types=True):
    """Modules of the package that a source imports, at its top and inside functions.

    types: those for types alone, too.
    """
    found, tree = set(), ast.parse(source)
    if not types:
        tree.body = [node for node in tree.body if not for_types_alone(node)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
    return {name for name in found if name.split(".")[0] == "clip4vla"} - {module}


IMPORTS = {module: imports_of(module, path.read_text()) for module, path in MODULES.items()}


def broken(module, imported):
    """Whether an import goes down the list of rooms."""
    room, other = room_of(module), room_of(imported)
    if other in ("", "common", room):
        return False
    return room == "common" or ROOMS.index(other) > ROOMS.index(room)


def test_every_module_is_in_a_room():
    whole = {"", "__main__", "models"}
    assert {room_of(module) for module in MODULES} - whole == set(ROOMS)


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"clip4vla", "clip4vla.__main__"}))
def test_a_room_imports_only_rooms_above_it(module):
    assert [name for name in sorted(IMPORTS[module]) if broken(module, name)] == []


FAMILIES = {"models.clip4vla", "models.coavt"}


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_family_is_imported_by_itself_alone(family):
    """Others know it through clip4vla.config.families and clip4vla.models.family."""
    assert {
        (module, name)
        for module, names in IMPORTS.items()
        for name in names
        if room_of(name) == family != room_of(module)
    } == set()


def test_an_import_that_goes_down_is_found():
    source = "def f():\n    from clip4vla.training import loop\nimport clip4vla.common.files\n"
    found = imports_of("clip4vla.metrics.recalls", source)
    assert {name for name in found if broken("clip4vla.metrics.recalls", name)} == {
        "clip4vla.training.loop"
    }


def test_the_map_of_the_rooms_is_true():
    """docs/architecture.md has every room, in this order, and names files that exist."""
    text = (PACKAGE.parent / "docs" / "architecture.md").read_text()
    table = re.findall(r"^\| `([\w/.]+)` \|", text, re.M)
    assert [name.removesuffix(".py").replace("/", ".") for name in table] == ROOMS
    files = re.findall(r"`(\w+(?:/\w+)*/\w+\.py)`", text)
    assert len(files) > 15 and [f for f in files if not (PACKAGE / f).is_file()] == []


def test_no_circles():
    loaded = {
        name: imports_of(name, path.read_text(), types=False) for name, path in MODULES.items()
    }
    TopologicalSorter(loaded).prepare()


LIGHT = {  # rooms -> libraries that they never load, not even through another room
    "config": {"torch", "numpy", "pandas", "open_clip", "mlflow"},
    "metrics": {"torch", "open_clip", "mlflow"},
    "results": {"torch", "open_clip", "mlflow"},
    "launch": {"torch", "numpy", "pandas", "open_clip", "mlflow"},
    "cli": {"torch", "numpy", "pandas", "open_clip", "mlflow"},
}


def loaded_by(module, found=None):
    """Libraries that importing a module loads, by imports at the top of modules."""
    found = set() if found is None else found
    if module in found or module not in MODULES:
        return found
    found.add(module)
    for node in ast.parse(MODULES[module].read_text()).body:
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else node.module for name in names]
        for name in names:
            if name.split(".")[0] == "clip4vla":
                loaded_by(name, found)
            else:
                found.add(name.split(".")[0])
    return found


@pytest.mark.parametrize("room", LIGHT)
def test_light_rooms_load_no_heavy_library(room):
    for module in MODULES:
        if room_of(module) == room:
            assert loaded_by(module) & LIGHT[room] == set(), module
