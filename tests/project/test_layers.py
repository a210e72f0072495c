"""The shape of the tree: layers depend one way, suites read like requirements."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: Lowest first. A package may import from its own rank or a lower one. Packages of one rank do not know each
#: other unless they are the same package.
RANKS: tuple[tuple[str, ...], ...] = (
    ("conditions", "errors", "verdicts", "timing", "redaction", "jsontext", "garbage"),
    ("recording", "build", "seeding", "hazards", "image"),
    ("bochs",),
    ("guest",),
    ("inventory", "transport"),
    ("hosts",),
    ("bhyve",),
    ("subjects",),
    ("cases", "expect"),
    ("catalogue",),
    ("results",),
    ("lab",),
    ("report",),
    ("plugin",),
    ("bench", "contract", "coverage", "matrix", "oracle", "premerge", "sensitivity"),
    ("bisect", "nightly", "trouble"),
    ("cli",),
)
#: The emulated host is a process of its own: it may use the toolchain and the emulator, and nobody imports it.
EMULATED_MAY_USE = {"errors", "garbage", "timing", "build", "bochs", "emulated"}
#: The process behind a virtual host, likewise.
VIRTUAL_MAY_USE = {"errors", "timing", "bochs", "inventory", "virtual"}
#: Importable from anywhere at or above their rank although they share it with others.
SHARED = {"errors", "verdicts", "timing", "recording", "redaction", "jsontext", "garbage"}

FORBIDDEN_IN_SUITES = {"paramiko", "subprocess", "allure", "allure_commons", "socket", "os"}


def modules(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "harness":
                yield from (f"harness.{alias.name}" for alias in node.names if not alias.name.startswith("_"))
            else:
                yield node.module


def rank_of(package: str) -> int | None:
    return next((rank for rank, names in enumerate(RANKS) if package in names), None)


@pytest.mark.parametrize("path", modules(ROOT / "harness"), ids=lambda path: str(path.relative_to(ROOT)))
def test_layers_depend_one_way(path: Path) -> None:
    parts = path.relative_to(ROOT / "harness").with_suffix("").parts
    package = parts[0]
    if package == "__init__":
        return
    used = {name.split(".")[1] for name in imports(path) if name.startswith("harness.")}
    if package == "emulated":
        assert used <= EMULATED_MAY_USE, f"the emulated host imports {sorted(used - EMULATED_MAY_USE)}"
        return
    if package == "virtual":
        assert used <= VIRTUAL_MAY_USE, f"the process of a virtual host imports {sorted(used - VIRTUAL_MAY_USE)}"
        return
    rank = rank_of(package)
    assert rank is not None, f"harness/{package} has no place in the layers (tests/project/test_layers.py)"
    for other in used - {package}:
        other_rank = rank_of(other)
        assert other_rank is not None, f"{package} imports harness.{other}, which has no place in the layers"
        allowed = other_rank < rank or (other_rank == rank and other in SHARED)
        assert allowed, f"harness.{package} may not import harness.{other}: it stands above or beside it"


@pytest.mark.parametrize("path", modules(ROOT / "suites"), ids=lambda path: str(path.relative_to(ROOT)))
def test_suites_read_like_requirements(path: Path) -> None:
    used = {name.split(".")[0] for name in imports(path)}
    assert not used & FORBIDDEN_IN_SUITES, f"{path.name} imports {sorted(used & FORBIDDEN_IN_SUITES)}"


def test_only_the_transport_knows_paramiko() -> None:
    for path in modules(ROOT / "harness"):
        package = path.relative_to(ROOT / "harness").parts[0]
        if "paramiko" in {name.split(".")[0] for name in imports(path)}:
            assert package in ("transport", "emulated"), f"{path} imports paramiko"
