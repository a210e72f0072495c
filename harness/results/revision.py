"""Which vmmcheck a run was made with."""

from __future__ import annotations

import hashlib
import subprocess
from functools import cache
from pathlib import Path

from harness.build.toolchain import ROOT

#: What decides a verdict, beside the packages that run.json lists.
_SOURCES = ("harness", "suites", "guests", "kernel", "conftest.py", "pyproject.toml", "constraints.txt")


@cache
def revision(root: Path = ROOT) -> str:
    """The commit of this tree (12 digits), ``+`` and a hash of the sources where they differ from it; outside of a
    repository ``sources-`` and that hash."""
    head = _git(root, "rev-parse", "--short=12", "HEAD")
    if head is None:
        return f"sources-{_hash(root)}"
    changed = _git(root, "status", "--porcelain", "--", *(name for name in _SOURCES if (root / name).exists()))
    return head if changed == "" else f"{head}+{_hash(root)}"


def _git(root: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _hash(root: Path) -> str:
    """SHA-256 (12 digits) over names and contents of the sources, in the order of the names."""
    digest = hashlib.sha256()
    tops = [root / name for name in _SOURCES]
    for path in sorted(path for top in tops for path in (top.rglob("*") if top.is_dir() else [top])):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]
