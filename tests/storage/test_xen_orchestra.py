# SPDX-License-Identifier: LGPL-2.1-only
"""Xen Orchestra and an encrypted SR, through XO's own client library from npm: what stock XO does,
and what our plugin adds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.lab.disks import Disk
from tests.lab.machine import Machine
from tests.storage.orchestra import Node, XoError
from tests.storage.pool import NOTHING, Host, Sr

# Minutes of a guest: not in `make test` yet.
pytestmark = pytest.mark.slow

REST = "/rest/v0/plugins/luksext"


@pytest.fixture(scope="module")
def xo(machine: Machine) -> Iterator[Node]:
    with Node("client.mjs", machine.http_port) as xo:
        yield xo


@pytest.fixture(scope="module")
def sr(xo: Node, host: Host, machine: Machine) -> Sr:
    """An SR made as XO's createExt makes one, with the option that its form adds.

    The last test destroys it.
    """
    device = machine.add_disk("xo", "256M").by_id
    config = {"device": device, "pin": "null", "preferred-image-formats": "vhd"}
    return Sr(host, xo.ask("create", type="luksext", device_config=config, name="local"), device)


def seen(xo: Node, sr: Sr) -> Any:
    """What XO shows of the SR, None where it shows none."""
    return xo.ask("seen", uuid=sr.uuid)


@pytest.fixture
def disconnected(xo: Node, sr: Sr) -> Iterator[Sr]:
    """The SR while XO has it disconnected; it must connect again."""
    xo.ask("disconnectAllPbds", uuid=sr.uuid)
    yield sr
    xo.ask("connectAllPbds", uuid=sr.uuid)
    assert seen(xo, sr)["attached"] == [True]


# Stock XO -----------------------------------------------------------------------------------------


def test_the_type_is_offered(xo: Node) -> None:
    assert "luksext" in xo.ask("types")


def test_a_created_sr_is_shown_connected_and_writable(xo: Node, sr: Sr) -> None:
    shown = seen(xo, sr)
    assert (shown["type"], shown["content_type"], shown["shared"]) == ("luksext", "user", False)
    assert shown["attached"] == [True]
    assert shown["other_config"]["auto-scan"] == "true"
    # Without sizes XO's pickers leave an SR out.
    assert int(shown["physical_size"]) > 0
    assert int(shown["physical_utilisation"]) > 0


def test_a_refused_creation_leaves_nothing_to_see(xo: Node, host: Host) -> None:
    before = host.xe("sr-list", params="uuid", minimal=True)
    with pytest.raises(XoError) as caught:
        xo.ask("create", type="luksext", name="x", device_config={"device": "/dev/disk/none"})
    assert caught.value.code == "SR_BACKEND_FAILURE_6210"
    assert "/dev/disk/none" in caught.value.params[1]
    assert host.xe("sr-list", params="uuid", minimal=True) == before


def test_scan_finds_the_disks(xo: Node, sr: Sr) -> None:
    vdi = sr.create_vdi()
    xo.ask("scan", uuid=sr.uuid)
    assert len(seen(xo, sr)["VDIs"]) == 1
    sr.host.xe("vdi-destroy", uuid=vdi)


def test_connecting_what_is_connected_changes_nothing(xo: Node, sr: Sr) -> None:
    xo.ask("connectAllPbds", uuid=sr.uuid)
    assert seen(xo, sr)["attached"] == [True]


def test_disconnected_it_is_closed_and_fails_readably(xo: Node, disconnected: Sr) -> None:
    sr, host = disconnected, disconnected.host
    assert seen(xo, sr)["attached"] == [False]
    assert host.left_open() == NOTHING
    xo.ask("disconnectAllPbds", uuid=sr.uuid)

    begin = time.monotonic()
    with pytest.raises(XoError) as caught:
        xo.ask("scan", uuid=sr.uuid)
    assert time.monotonic() - begin < 10
    assert caught.value.code == "SR_NO_PBDS"

    host.sh(f"dd if={sr.device} of=/tmp/header bs=4096 count=8 status=none")
    host.sh(f"dd if=/dev/zero of={sr.device} bs=4096 count=8 conv=fsync status=none")
    try:
        with pytest.raises(XoError) as caught:
            xo.ask("connectAllPbds", uuid=sr.uuid)
    finally:
        host.sh(f"dd if=/tmp/header of={sr.device} bs=4096 conv=fsync status=none")
    error = caught.value
    assert error.code == "SR_BACKEND_FAILURE_6220"
    _, sentence, _ = error.params
    assert sr.uuid in sentence and "header" in sentence
    # The notification is `CODE(parameters)`: the sentence must stand in it whole.
    assert error.message == f"SR_BACKEND_FAILURE_6220(, {sentence}, )"
    assert seen(xo, sr)["attached"] == [False]


def test_maintenance_mode_closes_the_disks_and_opens_them_again(xo: Node, sr: Sr) -> None:
    xo.ask("enableMaintenanceMode", uuid=sr.uuid)
    assert seen(xo, sr)["attached"] == [False]
    assert sr.host.left_open() == NOTHING
    xo.ask("disableMaintenanceMode", uuid=sr.uuid)
    shown = seen(xo, sr)
    assert shown["attached"] == [True]
    assert "xo:maintenanceState" not in shown["other_config"]


def test_forget_keeps_the_data(xo: Node, sr: Sr) -> None:
    xo.ask("forget", uuid=sr.uuid)
    assert seen(xo, sr) is None
    assert "crypto_LUKS" in sr.host.sh(f"blkid -p {sr.device}")
    sr.host.introduce(sr, sr.device)
    xo.ask("connectAllPbds", uuid=sr.uuid)
    assert seen(xo, sr)["attached"] == [True]


# Our plugin ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plugin(machine: Machine) -> Iterator[Node]:
    with Node("plugin.mjs", machine.http_port) as plugin:
        yield plugin


def get(plugin: Node, path: str) -> Any:
    return plugin.ask("rest", method="GET", path=REST + path)


def call(plugin: Node, method: str, **params: Any) -> Any:
    """A JSON-RPC method."""
    return plugin.ask("call", method=method, params=params)


def shown(plugin: Node, sr: Sr) -> Any:
    """The SR in the plugin's status of all pools."""
    (pool,) = call(plugin, "luksext.status")
    (host,) = pool["hosts"]
    (told,) = [told for told in host["srs"] if told["sr_uuid"] == sr.uuid]
    return told


@pytest.fixture(scope="module")
def key(plugin: Node, sr: Sr) -> str:
    """A recovery key, made by REST and confirmed."""
    made = plugin.ask("rest", method="POST", path=f"{REST}/srs/{sr.uuid}/actions/recovery-add",
                      body={"name": "safe"})
    call(plugin, "luksext.recoveryConfirm", sr=sr.uuid, passphrase=made["recovery_key"])
    return made["recovery_key"]


def named(host: Host, device: str) -> str:
    """A disk as lsblk calls it."""
    return host.sh(f"realpath {device}").strip()


def test_a_disk_is_offered_while_it_is_free(plugin: Node, sr: Sr,
                                            new_disk: Callable[..., Disk]) -> None:
    host = sr.host
    device, used = named(host, new_disk().by_id), named(host, sr.device)
    (known,) = get(plugin, "/hosts")
    assert (known["id"], known["ready"]) == (host.uuid, True)
    free = {disk["path"]: disk["size"] for disk in get(plugin, f"/hosts/{host.uuid}/devices")}
    assert free[device] == 256 << 20
    assert used not in free
    plugin.ask("test", host=host.uuid, device=device)
    with pytest.raises(XoError, match="no free disk"):
        plugin.ask("test", host=host.uuid, device=used)


@pytest.mark.slow
def test_creation_by_the_plugin(plugin: Node, xo: Node, host: Host,
                                new_disk: Callable[..., Disk]) -> None:
    config = {"host": host.uuid, "nameLabel": "local", "device": named(host, new_disk().by_id),
              "pin": "null", "keySize": "256"}
    sr = Sr(host, call(plugin, "sr.createLuksExt", **config), config["device"])
    assert sr.attached
    assert shown(plugin, sr)["disks"][0]["key_bits"] == 256
    with pytest.raises(XoError) as caught:
        call(plugin, "sr.createLuksExt", **config)
    assert sr.device in caught.value.message
    xo.ask("destroy", uuid=sr.uuid)


def test_the_status_tells_what_is_missing_until_it_is_there(
        plugin: Node, sr: Sr, request: pytest.FixtureRequest) -> None:
    assert "no recovery key" in [found["text"] for found in shown(plugin, sr)["attention"]]
    request.getfixturevalue("key")
    call(plugin, "luksext.prove", sr=sr.uuid)
    told = shown(plugin, sr)
    assert told["recovery"] == "confirmed"
    assert told["attention"] == []


def test_unlock_by_the_recovery_key_connects(plugin: Node, key: str, disconnected: Sr) -> None:
    call(plugin, "luksext.unlock", sr=disconnected.uuid, passphrase=key.lower())
    assert disconnected.attached


def test_a_wrong_key_is_refused_readably_and_told_to_nobody(plugin: Node, sr: Sr,
                                                            key: str) -> None:
    wrong = key[:-1] + ("A" if key[-1] != "A" else "B")
    with pytest.raises(XoError) as caught:
        call(plugin, "luksext.recoveryTest", sr=sr.uuid, passphrase=wrong)
    error = caught.value
    assert error.code == "SR_BACKEND_FAILURE_6250"
    assert error.message == f"{error.params[1]} ({error.code})"
    assert wrong not in f"{error.message} {error.params}"


def test_destroy_erases_the_keys(xo: Node, sr: Sr) -> None:
    xo.ask("destroy", uuid=sr.uuid)
    assert seen(xo, sr) is None
    assert "crypto_LUKS" not in sr.host.sh(f"blkid -p {sr.device} || true")
    assert sr.host.left_open() == NOTHING
