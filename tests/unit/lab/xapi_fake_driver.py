# SPDX-License-Identifier: LGPL-2.1-only
"""A storage driver that keeps nothing, notes every call and does as `behaviour.json` tells it.

The sandbox copies it as <NAME>SR next to the socket of its emulator. It talks XML-RPC by itself, to
start quickly. behaviour.json: command -> {"fault": [code, text], "raw": text, "exit": code,
"signal": number, "stderr": text, "api": [[method, arguments…]…], "wait_for": a file to come}.
"""

import http.client
import json
import os
import signal
import socket
import sys
import time
import uuid
import xmlrpc.client
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent.parent

INFO = {
    "name": "Fake",
    "description": "A driver for tests",
    "vendor": "lab",
    "copyright": "none",
    "driver_version": "1.0",
    "required_api_version": "1.0",
    "capabilities": [
        *["SR_PROBE", "SR_UPDATE", "VDI_CREATE", "VDI_DELETE", "VDI_ATTACH", "VDI_DETACH"],
        *["VDI_CLONE", "VDI_SNAPSHOT", "VDI_RESIZE", "VDI_RESET_ON_BOOT/2", "ATOMIC_PAUSE"],
        *["VDI_ACTIVATE", "VDI_DEACTIVATE"],
    ],
    "configuration": [{"key": "device", "description": "the device"}],
}


class Connection(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(str(ROOT / "xapi"))


class Transport(xmlrpc.client.Transport):
    def make_connection(self, host):
        return Connection("localhost")


class Api:
    """Calls as the session of this call of the driver."""

    def __init__(self, session):
        self._proxy = xmlrpc.client.ServerProxy("http://localhost/", Transport(), allow_none=True)
        self._session = session

    def __call__(self, method, *arguments):
        answer = getattr(self._proxy, method)(self._session, *arguments)
        if answer["Status"] != "Success":
            return answer["ErrorDescription"]
        return answer["Value"]


def respond(value):
    print(xmlrpc.client.dumps((value,), "", True, allow_none=True))


def introduce(api, params, vdi, size, sm_config, snapshot=False):
    api(
        "VDI.db_introduce",
        *(vdi, "label", "description", params["sr_ref"], "user", False, False, {}, vdi, {}),
        *(sm_config, True, str(size), "4096", "OpaqueRef:NULL", snapshot),
        *(xmlrpc.client.DateTime("19700101T00:00:00Z"), "OpaqueRef:NULL", False),
    )
    return {"uuid": vdi, "location": vdi}


def answer_vdi(command, params, api):
    image = ROOT / "disk"
    if command == "vdi_create":
        vdi = str(uuid.uuid4())
        respond(introduce(api, params, vdi, params["args"][0], {"image-format": "vhd"}))
    elif command in ("vdi_snapshot", "vdi_clone"):
        respond(introduce(api, params, str(uuid.uuid4()), 1 << 20, {}, command == "vdi_snapshot"))
    elif command == "vdi_resize":
        api("VDI.set_virtual_size", params["vdi_ref"], params["args"][0])
        respond({"uuid": params["vdi_uuid"], "location": params["vdi_location"]})
    elif command == "vdi_attach":
        respond(
            {"params": str(image), "params_nbd": "", "o_direct": True, "o_direct_reason": "WHY"}
        )
    else:
        if command == "vdi_delete":
            api("VDI.db_forget", params["vdi_ref"])
        respond(None)


def answer(command, params, api):
    if command == "sr_get_driver_info":
        respond(INFO)
    elif command == "sr_probe":
        respond("<SRlist><SR><UUID>1</UUID></SR></SRlist>")
    elif command.startswith("vdi_"):
        answer_vdi(command, params, api)
    else:
        if command == "sr_update":
            api("SR.set_physical_size", params["sr_ref"], "1000000")
            api("SR.set_physical_utilisation", params["sr_ref"], "1000")
        respond(None)


def main():
    (params,), command = xmlrpc.client.loads(sys.argv[1])
    behaviours = json.loads((HERE / "behaviour.json").read_text())
    behaviour = behaviours.get(command, {})
    api = Api(params.get("session_ref", ""))

    def filled(argument):
        """$name is a member of the request, $pbd the SR's PBD."""
        if argument == "$pbd":
            return next(iter(api("SR.get_PBDs", params["sr_ref"])))
        return params.get(argument[1:]) if str(argument).startswith("$") else argument

    note = {
        "command": command,
        "params": params,
        "xml": sys.argv[1],
        "argc": len(sys.argv),
        "environment": dict(os.environ),
        "cwd": str(Path.cwd()),
        "stdin": os.readlink("/proc/self/fd/0"),
        "leader": os.getsid(0) == os.getpid(),
        "results": [
            api(method, *map(filled, arguments)) for method, *arguments in behaviour.get("api", [])
        ],
    }
    with (HERE / "calls").open("a") as calls:
        calls.write(json.dumps(note, default=str) + "\n")
    while "wait_for" in behaviour and not Path(behaviour["wait_for"]).exists():
        time.sleep(0.01)
    sys.stderr.write(behaviour.get("stderr", ""))
    sys.stderr.flush()
    if "signal" in behaviour:
        os.kill(os.getpid(), getattr(signal, behaviour["signal"]))
    if "fault" in behaviour:
        print(xmlrpc.client.dumps(xmlrpc.client.Fault(*behaviour["fault"]), "", True))
    elif "raw" in behaviour:
        print(behaviour["raw"])
    else:
        answer(command, params, api)
    sys.exit(behaviour.get("exit", 0))


if __name__ == "__main__":
    main()
