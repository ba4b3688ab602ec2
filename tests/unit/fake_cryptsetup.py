# SPDX-License-Identifier: LGPL-2.1-only
"""cryptsetup and dmsetup on files with LUKS2 headers and a fake sysfs: SYSFS PROGRAM ARGUMENT…

Keys are not checked: a keyslot opens with whatever stdin holds, unless that is "wrong" or nothing.
"""
import os
import sys


def main(sysfs, program, command, *words):
    """Does what the program would do; returns its exit status."""
    options, positions = split(words)
    if program == "dmsetup":
        print(table(sysfs, positions[0]))
    elif command == "--version":
        print("cryptsetup 2.6.1")
    elif command == "open":
        return open_mapping(sysfs, *positions)
    elif command == "close":
        close_mapping(sysfs, positions[0])
    else:
        # Loaded here, since starting is most of what this program does.
        import fake_format
        fake_format.main(command, options, positions)
    return 0


def split(words):
    """Options with their values, and the other words."""
    flags = ("--batch-mode", "--use-urandom", "--allow-discards",
             "--perf-no_read_workqueue", "--perf-no_write_workqueue")
    options, positions, rest = {}, [], [word for word in words if word not in flags]
    while rest:
        word = rest.pop(0)
        if word.startswith("--"):
            options[word] = rest.pop(0)
        else:
            positions.append(word)
    return options, positions


def open_mapping(sysfs, device, name):
    if sys.stdin.read() in ("", "wrong"):
        return 2
    disk = os.path.basename(device)
    # A mapping is there or not, as the kernel's are, whenever somebody kills us.
    new = os.path.join(os.path.dirname(sysfs), "new-" + disk)
    remove(new)
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


def remove(tree):
    for folder, _, files in os.walk(tree, topdown=False):
        for name in files:
            os.unlink(os.path.join(folder, name))
        os.rmdir(folder)


def close_mapping(sysfs, name):
    mapping, disk = find(sysfs, name)
    remove(os.path.join(sysfs, mapping))
    os.rmdir(os.path.join(sysfs, disk, "holders", mapping))


def table(sysfs, name):
    with open(os.path.join(sysfs, find(sysfs, name)[1], "dev")) as number:
        return "0 1 crypt aes-xts-plain64 0 0 {} 32768".format(number.read().strip())


if __name__ == "__main__":
    if sys.argv[2] == "dmsetup":
        sys.argv[3:4] = ["table"]
    sys.exit(main(*sys.argv[1:]))
