# SPDX-License-Identifier: LGPL-2.1-only
"""cryptsetup and dmsetup on files with LUKS2 headers and a fake sysfs: SYSFS PROGRAM ARGUMENT…

Keys are not checked: a keyslot opens with whatever stdin holds, unless that is "wrong" or nothing.
"""
import json
import os
import shutil
import sys
import uuid

import headers


def main(sysfs, program, command, *words):
    """Does what the program would do; returns its exit status."""
    options, positions = split(words)
    if program == "dmsetup":
        print(table(sysfs, positions[0]))
    elif command == "--version":
        print("cryptsetup 2.6.1")
    elif command == "luksFormat":
        write(positions[0], headers.metadata(volume_key=str(uuid.uuid4())), options)
    elif command == "token":
        change(positions[1], lambda content: content["tokens"].update(
            {str(len(content["tokens"])): json.load(sys.stdin)}))
    elif command == "luksAddKey":
        change(positions[0], lambda content: content["keyslots"].update(
            {options["--key-slot"]: content["keyslots"]["0"]}))
    elif command == "erase":
        change(positions[0], lambda content: content["keyslots"].clear())
    elif command == "open":
        return open_mapping(sysfs, *positions)
    elif command == "close":
        close_mapping(sysfs, positions[0])
    return 0


def split(words):
    """Options with their values, and the other words."""
    flags = ("--batch-mode", "--use-urandom", "--allow-discards")
    options, positions, rest = {}, [], [word for word in words if word not in flags]
    while rest:
        word = rest.pop(0)
        if word.startswith("--"):
            options[word] = rest.pop(0)
        else:
            positions.append(word)
    return options, positions


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


def open_mapping(sysfs, device, name):
    if sys.stdin.read() in ("", "wrong"):
        return 2
    disk = os.path.basename(device)
    # A mapping is there or not, as the kernel's are, whenever somebody kills us.
    new = os.path.join(os.path.dirname(sysfs), "new-" + disk)
    shutil.rmtree(new, ignore_errors=True)
    for path in (new + "/dm", new + "/slaves/" + disk):
        os.makedirs(path)
    luks_uuid = name[len("luks-"):].replace("-", "")
    for attribute, value in (("name", name), ("uuid", "CRYPT-LUKS2-{}-{}".format(luks_uuid, name))):
        with open(os.path.join(new, "dm", attribute), "w") as file:
            file.write(value)
    os.makedirs(os.path.join(sysfs, disk, "holders", "dm-" + disk), exist_ok=True)
    os.rename(new, os.path.join(sysfs, "dm-" + disk))
    return 0


def find(sysfs, name):
    """The kernel name of the mapping, and that of its disk."""
    for entry in os.listdir(sysfs):
        path = os.path.join(sysfs, entry, "dm", "name")
        if entry.startswith("dm-") and os.path.exists(path):
            with open(path) as attribute:
                if attribute.read() == name:
                    return entry, entry[len("dm-"):]
    sys.exit(4)


def close_mapping(sysfs, name):
    mapping, disk = find(sysfs, name)
    shutil.rmtree(os.path.join(sysfs, mapping))
    os.rmdir(os.path.join(sysfs, disk, "holders", mapping))


def table(sysfs, name):
    with open(os.path.join(sysfs, find(sysfs, name)[1], "dev")) as number:
        return "0 1 crypt {} 0 0 {} {}".format(
            headers.CIPHER, number.read().strip(), headers.PAYLOAD // 512)


if __name__ == "__main__":
    if sys.argv[2] == "dmsetup":
        sys.argv[3:4] = ["table"]
    sys.exit(main(*sys.argv[1:]))
