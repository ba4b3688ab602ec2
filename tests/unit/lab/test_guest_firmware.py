# SPDX-License-Identifier: LGPL-2.1-only
"""UEFI firmware of guests: its file of variables, its options, what is written to its variables."""

import struct
from pathlib import Path

import pytest

from tests.lab import uefi
from tests.lab.errors import LabError


def test_a_machine_keeps_its_own_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = tmp_path / "fresh.fd"
    fresh.write_bytes(b"fresh")
    monkeypatch.setattr(uefi, "_VARIABLES", fresh)
    file = uefi.variables(tmp_path / "machine")
    assert file.read_bytes() == b"fresh"
    file.write_bytes(b"used")
    assert uefi.variables(tmp_path / "machine").read_bytes() == b"used"
    assert uefi.variables(tmp_path / "other").read_bytes() == b"fresh"


def test_missing_firmware_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uefi, "_VARIABLES", tmp_path / "none.fd")
    with pytest.raises(LabError, match="apt-get install ovmf"):
        uefi.variables(tmp_path / "machine")


def test_only_the_variables_are_writable() -> None:
    options = uefi.flash(Path("/a,b/variables.fd"))
    code, variables = (word for word in options if word.startswith("if=pflash"))
    assert "readonly=on" in code
    assert variables == "if=pflash,format=raw,unit=1,file=/a,,b/variables.fd"


def test_a_list_of_hashes() -> None:
    content = uefi.signature_list([b"a" * 32, b"b" * 32])
    size, head, entry = struct.unpack("<III", content[16:28])
    assert (size, head, entry) == (len(content), 0, 48)
    assert [content[28 + 48 * n + 16 : 28 + 48 * (n + 1)] for n in range(2)] == [
        b"a" * 32,
        b"b" * 32,
    ]


def test_a_variable_for_setup_mode_has_an_empty_signature() -> None:
    written = uefi.authenticated(b"content")
    assert written[:4] == b"\x27\0\0\0"
    assert struct.unpack("<H", written[4:6]) == (2026,)
    # The size of WIN_CERTIFICATE_UEFI_GUID is that of its head alone.
    assert struct.unpack("<IHH", written[20:28]) == (24, 0x0200, 0x0EF1)
    assert written[44:] == b"content"
