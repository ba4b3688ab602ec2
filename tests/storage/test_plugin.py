# SPDX-License-Identifier: LGPL-2.1-only
"""The administrator's verbs, through XAPI's plugin and on the console: keys for a disk's life."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.disks import Disk
from tests.lab.machine import Machine
from tests.storage.pool import Host, Sr, XeError
from tests.storage.test_keys import jose


def call(sr: Sr, verb: str, **arguments: str) -> dict[str, Any]:
    """Calls a verb of the plugin for the SR; `key` goes by a file, as an administrator gives it."""
    return json.loads(call_host(sr.host, verb, sr_uuid=sr.uuid, **arguments))


def call_host(host: Host, verb: str, **arguments: str) -> str:
    given = {f"args:{name.replace('_', '-')}": value for name, value in arguments.items()}
    with tempfile.NamedTemporaryFile("w", encoding="utf-8") as file:
        if "args:key" in given:
            file.write(given.pop("args:key"))
            file.flush()
            given["args:key:file"] = file.name
        return host.xe("host-call-plugin", host_uuid=host.uuid, plugin="luksext", fn=verb, **given)


def console(sr: Sr, verb: str, *options: str, key: str | None = None) -> dict[str, Any]:
    """The same on the console, which is told the key on stdin."""
    argv = ["luksext", verb, "--json", f"--sr-uuid={sr.uuid}", *options]
    argv += ["--key-stdin"] if key else []
    result = sr.host.machine.run(argv, input=key, check=False)
    assert result.rc in (0, 3), result.err
    return json.loads(result.out)


def slots(sr: Sr) -> list[dict[str, Any]]:
    return call(sr, "status")["disks"][0]["slots"]


def serials(sr: Sr) -> set[int]:
    """Of the header backups on the host."""
    return {backup["serial"] for backup in call(sr, "header-list")["backups"]}


def alerts(sr: Sr) -> set[str]:
    """The alerts that XAPI has of the SR."""
    names = sr.host.xe("message-list", obj_uuid=sr.uuid, params="name", minimal=True)
    return {name for name in names.split(",") if name.startswith("LUKS-")}


@pytest.fixture(params=[pytest.param("1", marks=pytest.mark.slow), "2"], ids=["luks1", "luks2"],
                scope="module")
def luks_version(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def sr(host: Host, machine: Machine, luks_version: str) -> Iterator[Sr]:
    sr = host.create_sr(machine.add_disk(f"plugin{luks_version}", "256M"),
                        luks_version=luks_version, pin_config=json.dumps({"pcr_ids": "16"}))
    yield sr
    if not sr.attached:
        sr.plug()
    sr.destroy()


@pytest.fixture(scope="module")
def key(sr: Sr) -> str:
    """A recovery key, added and confirmed."""
    assert "LUKS-W001" in alerts(sr)
    added = call(sr, "recovery-add", name="safe")
    assert call(sr, "status")["recovery"] == "unconfirmed"
    assert "LUKS-W002" in alerts(sr)
    assert call(sr, "recovery-confirm", key=added["recovery_key"].lower())["name"] == "safe"
    return added["recovery_key"]


def test_a_recovery_key_is_confirmed_by_typing_it(sr: Sr, key: str) -> None:
    status = call(sr, "status")
    assert status["schema"] == 1
    assert status["recovery"] == "confirmed"
    assert sr.config("sm-config", "luks_recovery_key") == "confirmed"
    assert not {"LUKS-W001", "LUKS-W002"} & alerts(sr)
    assert console(sr, "recovery-test", key=key.replace("-", " "))["name"] == "safe"


def test_a_mistyped_key_is_refused_before_the_disk_is_asked(sr: Sr, key: str) -> None:
    wrong = key[:-1] + ("A" if key[-1] != "A" else "B")
    with pytest.raises(XeError) as caught:
        call(sr, "recovery-test", key=wrong)
    assert caught.value.code == 6250
    assert wrong not in caught.value.text


def test_unlock_by_the_recovery_key_when_the_tpm_refuses(sr: Sr, key: str) -> None:
    sr.unplug()
    sr.host.machine.extend_pcr(16)
    assert sr.refused().code == 6234
    call(sr, "unlock", key=key)
    sr.plug()
    assert call(sr, "prove")["ok"] is False
    assert "LUKS-W003" in alerts(sr)
    call(sr, "rebind", key=key)
    assert call(sr, "prove")["ok"] is True
    assert "LUKS-W003" not in alerts(sr)
    sr.unplug()
    sr.plug()


def test_rebind_without_need_is_refused(sr: Sr, key: str) -> None:
    before = [slot["slot"] for slot in slots(sr)]
    with pytest.raises(XeError) as caught:
        call(sr, "rebind")
    assert "force" in caught.value.text
    assert [slot["slot"] for slot in slots(sr)] == before


def test_rotate_and_revoke(sr: Sr, key: str) -> None:
    new = call(sr, "recovery-rotate", name="safe", new_name="safe.2")["recovery_key"]
    assert call(sr, "recovery-test", key=key)["name"] == "safe"
    call(sr, "recovery-confirm", key=new)
    spare = call(sr, "recovery-add", name="spare")["recovery_key"]
    call(sr, "recovery-revoke", name="spare")
    with pytest.raises(XeError) as caught:
        call(sr, "recovery-test", key=spare)
    assert caught.value.code == 6251
    call(sr, "recovery-revoke", name="safe.2")
    with pytest.raises(XeError) as caught:
        call(sr, "recovery-revoke", name="safe")
    assert caught.value.code == 6252


def test_suspension_ends_with_the_next_plug(sr: Sr, key: str) -> None:
    call(sr, "suspend", hours="2")
    assert "LUKS-W006" in alerts(sr)
    sr.host.check_srs()
    assert "LUKS-W006" in alerts(sr)
    with_it = serials(sr)
    sr.unplug()
    sr.host.machine.extend_pcr(16)
    sr.plug()
    assert "suspend" not in [slot["role"] for slot in slots(sr)]
    assert "LUKS-W006" not in alerts(sr)
    assert serials(sr) and not with_it & serials(sr)
    assert call(sr, "prove")["ok"] is True


def test_every_change_is_backed_up_and_audited(sr: Sr, key: str) -> None:
    disk = call(sr, "status")["disks"][0]
    assert disk["header_backup_fresh"] is True
    log = sr.host.sh("cat /var/log/messages /var/log/auth.log /var/log/secure 2>/dev/null || true")
    assert 'verb="rebind"' in log
    for verb in ("sr-create", "rebind", "resume"):
        assert f'verb="{verb}" sr="{sr.uuid}" who="driver" result="ok"' in log
    assert key not in log


def test_the_pool_and_its_inventory(sr: Sr, key: str) -> None:
    pool = json.loads(call_host(sr.host, "pool-status"))
    told = {one["sr_uuid"]: one for host in pool["hosts"] for one in host["srs"]}
    assert told[sr.uuid]["encrypted"] is True
    assert told[sr.uuid]["attached"] is True
    rows = list(csv.DictReader(io.StringIO(json.loads(call_host(sr.host, "pool-csv"))["csv"])))
    assert [row["recovery"] for row in rows if row["sr_uuid"] == sr.uuid] == ["confirmed"]


def test_an_exported_header_brings_a_lost_one_back(sr: Sr, key: str) -> None:
    host = sr.host
    exported = call(sr, "header-export", to="/run")["backups"][0]["file"]
    sr.unplug()
    before = host.sh(f"sha256sum {sr.device}")
    host.sh(f"dd if=/dev/zero of={sr.device} bs=1M count=16 conv=fsync status=none")
    host.sh("rm -r /var/lib/luksext/*")
    assert call(sr, "status")["disks"][0]["error"]["code"] == 6220
    assert "LUKS-W012" in alerts(sr)
    call(sr, "header-restore", device=sr.device, content_file=exported)
    assert host.sh(f"sha256sum {sr.device}") == before
    sr.plug()
    assert "LUKS-W012" not in alerts(sr)


def test_a_recovery_key_opens_all_disks_of_an_sr(
    host: Host, new_disk: Callable[..., Disk], luks_version: str
) -> None:
    sr = host.create_unbound_sr(new_disk(), new_disk(), luks_version=luks_version)
    added = call(sr, "recovery-add")
    assert len(added["slots"]) == 2
    sr.unplug()
    assert len(call(sr, "unlock", key=added["recovery_key"])["opened"]) == 2
    sr.plug()
    first = sr.device.split(",")[0]
    host.sh(f"cryptsetup luksKillSlot -q {first} {added['slots'][0]}")
    assert "LUKS-W008" in call(sr, "status")["alerts"]
    sr.destroy()


def test_an_escrowed_key_opens_where_the_private_key_is(sr: Sr, key: str, tmp_path: Path) -> None:
    private = jose("jwk", "gen", "-i", '{"alg":"ECDH-ES+A256KW"}')
    (tmp_path / "private.jwk").write_text(private)
    added = call(sr, "recovery-add", name="escrowed",
                 escrow_jwk=jose("jwk", "pub", "-i", "-", input=private))
    (sealed,) = [slot["escrow"] for slot in slots(sr) if slot.get("name") == "escrowed"]
    assert sealed == added["escrow"]
    opened = jose("jwe", "dec", "-i", "-", "-k", str(tmp_path / "private.jwk"), input=sealed)
    assert call(sr, "recovery-test", key=opened)["name"] == "escrowed"
    call(sr, "recovery-revoke", name="escrowed")


def test_an_unknown_argument_is_named_and_not_repeated(sr: Sr) -> None:
    with pytest.raises(XeError) as caught:
        call(sr, "unlock", passwort="geheim-geheim")
    assert "passwort" in caught.value.text
    assert "geheim" not in caught.value.text


def test_the_console_explains(sr: Sr) -> None:
    text = sr.host.sh("luksext explain LUKS-W003")
    assert "rebind" in text
