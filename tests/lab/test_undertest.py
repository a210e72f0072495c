"""The module under test: files that are none, builds that fail, sources that are never written."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest

from harness.errors import ConfigError, InventoryInvalid
from harness.inventory.load import check_inventory
from harness.inventory.model import Builder, FreebsdHost
from harness.lab.undertest import build, module_of

KEY = "SHA256:" + "A" * 43
ELF = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 1, 62)
CPU = {"vendor": "AuthenticAMD", "family": 25, "model": 17, "stepping": 1, "class": "zen4"}
COMMON = {"kind": "freebsd", "address": "a", "cpu": CPU, "identity": {"agent": True}, "host_keys": [KEY]}


def host(**more: object) -> FreebsdHost:
    return FreebsdHost.model_validate({**COMMON, **more})


def builder(source: Path, command: str, **more: object) -> Builder:
    return Builder.model_validate({"command": ["sh", "-c", command], "source": str(source), **more})


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "src"
    folder.mkdir()
    (folder / "vmm.c").write_text("one\ntwo\n")
    return folder


def test_the_stock_module_is_used_where_nothing_is_said(tmp_path: Path) -> None:
    found = module_of(host(), "/root/.vmmcheck", tmp_path)
    assert (found.path, found.data, found.origin) == ("/boot/kernel/vmm.ko", None, "stock")


def test_a_file_here_is_uploaded_into_our_folder(tmp_path: Path) -> None:
    file = tmp_path / "vmm.ko"
    file.write_bytes(ELF + b".SUNW_ctf\0")
    found = module_of(host(module_file=str(file)), "/root/.vmmcheck", tmp_path)
    assert (found.path, found.data) == ("/root/.vmmcheck/vmm.ko", file.read_bytes())
    assert found.as_dict()["module_ctf"] == "yes"


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"#!/bin/sh\n", ELF[:16] + struct.pack("<H", 2) + ELF[18:]])
def test_what_is_no_module_is_never_uploaded(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "vmm.ko"
    file.write_bytes(data)
    with pytest.raises(ConfigError, match="is no kernel module"):
        module_of(host(module_file=str(file)), "/root/.vmmcheck", tmp_path)


def test_a_build_works_on_a_patched_copy(tmp_path: Path, source: Path) -> None:
    patch = tmp_path / "x.patch"
    patch.write_text("--- a/vmm.c\n+++ b/vmm.c\n@@ -1,2 +1,2 @@\n one\n-two\n+three\n")
    command = "cp {source}/vmm.c {output}"
    built = build(builder(source, command, patches=[str(patch)]), tmp_path / "work")
    assert built.read_text() == "one\nthree\n"
    assert (source / "vmm.c").read_text() == "one\ntwo\n"


def test_a_git_ref_is_what_is_built(tmp_path: Path, source: Path) -> None:
    def git(*words: str) -> None:
        subprocess.run(["git", "-c", "user.name=x", "-c", "user.email=x@x", *words], cwd=source, check=True)

    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "one")
    git("tag", "before")
    (source / "vmm.c").write_text("changed\n")
    built = build(builder(source, "cp {source}/vmm.c {output}", ref="before"), tmp_path / "work")
    assert built.read_text() == "one\ntwo\n"
    with pytest.raises(ConfigError, match="'nosuch' cannot be taken out of"):
        build(builder(source, "cp {source}/vmm.c {output}", ref="nosuch"), tmp_path / "work")


def test_a_build_that_fails_says_what_it_said(tmp_path: Path, source: Path) -> None:
    with pytest.raises(ConfigError, match=r"The build of the module failed: status 3: no such header"):
        build(builder(source, "echo no such header; : {source} {output}; exit 3"), tmp_path / "work")
    with pytest.raises(ConfigError, match=r"wrote no 'vmm.ko'"):
        build(builder(source, ": {source} {output}"), tmp_path / "work")


def test_a_patch_that_does_not_apply_is_named(tmp_path: Path, source: Path) -> None:
    patch = tmp_path / "bad.patch"
    patch.write_text("--- a/vmm.c\n+++ b/vmm.c\n@@ -1,2 +1,2 @@\n none\n-of\n+this\n")
    with pytest.raises(ConfigError, match=r"The patch 'bad\.patch' does not apply"):
        build(builder(source, "true {source} {output}", patches=[str(patch)]), tmp_path / "work")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"module": "/root/vmm.ko", "module_file": "vmm.ko"}, "module and module_file all name the vmm.ko under test"),
        ({"builder": {"command": ["make"], "source": "x"}}, "'command' must hold {source}"),
        ({"tunables": {"hw.other": "1"}}, "only tunables below hw.vmm are set here"),
        ({"witness": "/root/w", "witness_file": "w.ko"}, "both name the witness module"),
    ],
)
def test_what_contradicts_itself_is_refused(more: dict[str, object], said: str) -> None:
    with pytest.raises(InventoryInvalid, match=said.replace("{", r"\{").replace("}", r"\}")):
        check_inventory({"schema": 1, "lab": "x", "host": {"a": {**COMMON, **more}}}, "lab.toml")
