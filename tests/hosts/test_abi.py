"""Versions and ioctls are read out of files: on programs, a library and a module that a real compiler made."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from harness.errors import ConfigError
from harness.hosts.abi import Ioctl, header_ioctls, library_ioctls, module_version, tool_version, undeclared
from tests.hosts.freebsd_files import HEADER, REGISTER, RUN, library, module, program


def test_a_module_tells_the_version_of_its_sources(tmp_path: Path) -> None:
    assert module_version(module(tmp_path, 1302001)) == 1302001
    assert module_version(module(tmp_path, 1500500)) == 1500500


def test_a_module_without_that_declaration_tells_none(tmp_path: Path) -> None:
    assert module_version(program(tmp_path, 1302001)) is None


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"\x7fELF\x02\x01\x01" + bytes(40)])
def test_a_damaged_module_is_told_by_its_name(data: bytes) -> None:
    with pytest.raises(ConfigError, match=r"'vmm\.ko' is damaged"):
        module_version(data)


def test_a_cut_module_is_never_taken_for_one_without_a_version(tmp_path: Path) -> None:
    whole = module(tmp_path, 1302001)
    # The table of sections is at the end: what is left names sections that are not there.
    with pytest.raises(ConfigError, match="is damaged"):
        module_version(whole[: len(whole) // 2])


def test_programs_and_libraries_name_their_release(tmp_path: Path) -> None:
    assert tool_version(program(tmp_path, 1201000), "bhyve") == 1201000
    assert tool_version(library(tmp_path, 1302001), "libvmmapi.so.5") == 1302001
    with pytest.raises(ConfigError, match=r"'bhyve' is no program of FreeBSD: it does not name the release"):
        tool_version(module(tmp_path, 1302001), "bhyve")
    with pytest.raises(ConfigError, match="'bhyve' cannot be read as a program"):
        tool_version(b"#!/bin/sh\n", "bhyve")


def test_ioctls_are_found_in_the_code_of_a_library_with_the_sizes_of_their_structures(tmp_path: Path) -> None:
    assert library_ioctls(library(tmp_path, 1302001)) == {RUN, REGISTER}
    larger = Ioctl(RUN.number, RUN.direction, RUN.size + 8)
    assert library_ioctls(library(tmp_path, 1302001, (larger,))) == {larger}


def test_a_header_declares_numbers_and_directions() -> None:
    known = header_ioctls(HEADER)
    assert known == {Ioctl(1, "_IOWR"), Ioctl(20, "_IOW"), Ioctl(5, "_IO")}
    assert undeclared(frozenset({RUN, REGISTER}), known) == []
    other = Ioctl(20, "_IOWR", 16)
    assert undeclared(frozenset({RUN, other, Ioctl(113, "_IOWR", 72)}), known) == [other, Ioctl(113, "_IOWR", 72)]
    assert str(other) == "_IOWR('v', 20, 16 bytes)"


def test_a_number_of_another_group_is_none_of_vmms() -> None:
    code = b"\xbe" + struct.pack("<I", 0xC0000000 | 16 << 16 | ord("V") << 8 | 1)
    assert library_ioctls(code) == frozenset()
