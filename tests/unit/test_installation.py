# SPDX-License-Identifier: LGPL-2.1-only
"""installation: the UUID of this host, as dom0's inventory has it."""
import pytest

from luksext import installation
from luksext.errors import HostUnknown


@pytest.fixture
def inventory(tmp_path, monkeypatch):
    path = tmp_path / "inventory"
    monkeypatch.setattr(installation, "INVENTORY", str(path))
    return path


@pytest.mark.parametrize("line", ["INSTALLATION_UUID='the-uuid'", "INSTALLATION_UUID=the-uuid"])
def test_the_uuid_is_read(inventory, line):
    inventory.write_text("PRODUCT_BRAND='XCP-ng'\n{}\nOTHER='x'\n".format(line))
    assert installation.uuid() == "the-uuid"


@pytest.mark.parametrize("text", [None, "", "CONTROL_DOMAIN_UUID='other'\n"])
def test_an_inventory_without_it_is_told(inventory, text):
    if text is not None:
        inventory.write_text(text)
    with pytest.raises(HostUnknown, match="INSTALLATION_UUID"):
        installation.uuid()
