"""Imports point one way: cli -> stages -> store and mixture -> the definition of a frame."""

import ast
from pathlib import Path

import pytest

import gmmpipe

PACKAGE = Path(gmmpipe.__file__).parent

OPTIONS = {"option_types", "options"}
BASE = {*OPTIONS, "errors", "files", "holder", "claim", "randomness", "features", "run"}
"""Rooms that any other may use; among themselves they import only those before them."""

MAY_IMPORT = {
    "errors": set(),
    "option_types": set(),
    "options": {"errors", "option_types"},
    "files": {"errors"},
    "holder": set(),
    "claim": {"errors", "files", "holder"},
    "randomness": set(),
    "run": {"errors", "files", "claim", *OPTIONS},
    "features": {"errors", "files", *OPTIONS},
    "sources": {"audio", "errors", "files", *OPTIONS},
    "audio": {"errors"},
    "store": {"errors", "files", "claim", "features", "randomness"},
    "mixture": {"errors", "files", "randomness"},
    "featurization": {"store", "sources", "audio", *BASE},
    "importing": {"store", "sources", *BASE},
    "tracking": {"errors"},
    "fitting": {"store", "mixture", "tracking", *BASE},
    "apply": {"store", "mixture", *BASE},
    "exporting": {"store", *BASE},
    "reporting": {"__init__", "apply", "fitting", "store", "mixture", *BASE},
    "jepa": {"apply", "store", "mixture", *BASE},
    "cli": {
        *("__init__", "apply", "exporting", "featurization", "fitting", "importing", "reporting"),
        *("sources", "store", "mixture", *BASE),
    },
    "__main__": {"cli"},
    "commands": {
        *("apply", "exporting", "featurization", "fitting", "importing", "reporting", "store"),
        *("mixture", *BASE),
    },
    # Names of the public interface, imported on first use.
    "__init__": {
        *("apply", "commands", "errors", "exporting", "features", "featurization", "fitting"),
        *("importing", "mixture", "reporting", "store"),
    },
}


def room_of(path: Path) -> str:
    """The folder of the package that a module is in, or the module itself."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    """The rooms that a module imports from, at its top or anywhere within."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module or ""]
            if node.module == "gmmpipe":
                names = [f"gmmpipe.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            if name.startswith("gmmpipe."):
                room = name.split(".")[1]
                rooms.add("__init__" if room == "__version__" else room)
    return rooms


MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_imports_only_what_its_room_may(path: Path) -> None:
    room = room_of(path)
    assert imported_rooms(path) - {room} <= MAY_IMPORT[room]


def test_every_room_has_its_rule() -> None:
    assert {room_of(path) for path in MODULES} == set(MAY_IMPORT)


def test_only_three_modules_touch_torch_distributed() -> None:
    users = {p.name for p in MODULES if "torch.distributed" in p.read_text(encoding="utf-8")}
    assert users == {"joining.py", "world.py", "repeated_sum.py"}


def test_public_names_can_be_imported() -> None:
    for name in gmmpipe.__all__:
        assert getattr(gmmpipe, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = gmmpipe.no_such_name
