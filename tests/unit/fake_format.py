# SPDX-License-Identifier: LGPL-2.1-only
"""What the fake cryptsetup does to LUKS2 headers."""
import json
import sys
import uuid

import headers


def main(command, options, positions):
    """Does what the command would do; nothing for one that changes no header."""
    if command == "luksFormat":
        write(positions[0], headers.metadata(volume_key=str(uuid.uuid4())), options)
    elif command == "token":
        change(positions[1], lambda content: content["tokens"].update(
            {str(len(content["tokens"])): json.load(sys.stdin)}))
    elif command == "luksAddKey":
        change(positions[0], lambda content: content["keyslots"].update(
            {options["--key-slot"]: content["keyslots"]["0"]}))
    elif command == "erase":
        change(positions[0], lambda content: content["keyslots"].clear())


def write(device, content, options):
    with open(device, "wb") as disk:
        disk.write(headers.luks2(content, uuid=options["--uuid"], label=options["--label"],
                                 subsystem=options["--subsystem"]))


def change(device, action):
    """Lets `action` change the metadata in the header of `device`."""
    with open(device, "rb") as disk:
        start = disk.read(0x4000)
    content = json.loads(text(start[4096:]))
    action(content)
    write(device, content, {"--uuid": text(start[168:208]), "--label": text(start[24:72]),
                            "--subsystem": text(start[208:256])})


def text(raw):
    return raw.split(b"\0", 1)[0].decode()
