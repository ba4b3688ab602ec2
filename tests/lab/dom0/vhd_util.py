#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-only
"""Stand-in for blktap's ``vhd-util``: the commands and options that SM's vhdutil module uses.

The exit code is an errno value, as SM expects; messages go to stderr.
"""

from __future__ import annotations

import argparse
import errno
import glob
import os
import sys
from collections.abc import Callable
from pathlib import Path

import vhd


def create(options: argparse.Namespace) -> None:
    """``create -n PATH -s MIB``: an empty dynamic disk."""
    vhd.create(options.name, int(options.size) * vhd.MIB)


def snapshot(options: argparse.Namespace) -> None:
    """``snapshot -n PATH -p PARENT [-m] [-e]``: an empty child; -m tells that PARENT is raw.

    An empty differencing parent is skipped in favour of its own parent, unless -e is given.
    """
    parent = Path(os.path.realpath(options.parent))
    if options.flag_m:
        vhd.create(options.name, parent.stat().st_size)
        _set_raw_parent(options.name, parent)
        return
    with vhd.open_vhd(parent) as image:
        grandparent = image.parent_path()
        if grandparent and not image.allocated() and not options.flag_e:
            parent = grandparent
        size = image.footer.size
    vhd.create(options.name, size)
    _set_vhd_parent(options.name, parent)


def query(options: argparse.Namespace) -> None:
    """``query -n PATH``: one line for each of -v -s -p -f -m -d -S -a that is given."""
    with vhd.open_vhd(options.name, backup_footer=options.flag_b) as image:
        if options.flag_v:
            print(image.footer.size // vhd.MIB)
        if options.flag_s:
            print(image.file.size)
        if options.flag_p:
            print(_parent_text(image, check=not options.flag_u))
        if options.flag_f:
            print(f"hidden: {int(image.footer.hidden)}")
        if options.flag_d:
            print(f"chain depth: {_depth(image)}")
        if options.flag_S:
            print(image.header.entries * image.header.block_size // vhd.MIB)
        if options.flag_a:
            print(len(image.allocated()))


def _parent_text(image: vhd.Vhd, *, check: bool) -> str:
    parent = image.parent_path()
    if parent is None:
        return f"{image.path} has no parent"
    if check and not parent.exists():
        raise vhd.VhdError(errno.ENOENT, "query failed: the parent is missing", str(parent))
    return str(parent)


def _depth(image: vhd.Vhd) -> int:
    parent = image.parent_path()
    if parent is None:
        return 1
    try:
        with vhd.open_vhd(parent) as above:
            return 1 + _depth(above)
    except vhd.VhdError:
        # A raw parent ends the chain.
        return 2


def set_field(options: argparse.Namespace) -> None:
    """``set -n PATH -f hidden -v 0|1``."""
    if options.field != "hidden":
        raise vhd.VhdError(errno.EINVAL, f"the field {options.field} cannot be set")
    with vhd.open_vhd(options.name, writable=True) as image:
        image.footer.hidden = bool(int(options.value))
        image.save()


def modify(options: argparse.Namespace) -> None:
    """``modify -n PATH``: -p PARENT [-m] relinks, -z forgets the data."""
    if options.parent and options.flag_m:
        _set_raw_parent(options.name, options.parent)
    elif options.parent:
        _set_vhd_parent(options.name, options.parent)
    if options.flag_z:
        with vhd.open_vhd(options.name, writable=True) as image:
            image.kill_data()


def _set_vhd_parent(path: Path, parent: Path) -> None:
    with vhd.open_vhd(parent) as above:
        footer = above.footer
    with vhd.open_vhd(path, writable=True) as image:
        image.set_parent(parent, footer.identity, footer.timestamp)
        image.save()


def _set_raw_parent(path: Path, parent: Path) -> None:
    with vhd.open_vhd(path, writable=True) as image:
        image.set_parent(parent, bytes(16), 0)
        image.save()


def scan(options: argparse.Namespace) -> None:
    """``scan -f -m PATTERN [-a] [-c]``: a line for each image, -a with all its parents.

    A broken image has a line that says so, and fails the scan unless -c is given.
    """
    if options.volume_group:
        raise vhd.VhdError(errno.ENOSYS, "images in logical volumes are not supported")
    paths = [Path(path) for path in sorted(glob.glob(options.pattern))]
    broken = 0
    for path in paths:
        try:
            parent = _scan_one(path)
            if options.flag_a and parent is not None and parent not in paths:
                paths.append(parent)
        except OSError as error:
            broken = error.errno or errno.EIO
            print(f"vhd={path} scan-error={broken} error-message='{error.strerror}'")
    if broken and not options.flag_c:
        raise vhd.VhdError(broken, "scan failed")


def _scan_one(path: Path) -> Path | None:
    with vhd.open_vhd(path, backup_footer=True) as image:
        parent = image.parent_path()
        print(f"vhd={path} capacity={image.footer.size} size={image.file.size} "
              f"hidden={int(image.footer.hidden)} parent={parent or 'none'}")
        return parent


def coalesce(options: argparse.Namespace) -> None:
    """``coalesce -n PATH``: write this image's own sectors into its parent."""
    with vhd.open_vhd(options.name) as image:
        parent = image.parent_path()
        if parent is None:
            raise vhd.VhdError(errno.EINVAL, "the image has no parent", str(options.name))
        if image.header.parent_identity == bytes(16):
            count = _coalesce_raw(image, parent)
        else:
            count = _coalesce_vhd(image, parent)
    print(f"Coalesced {count} sectors")


def _coalesce_vhd(image: vhd.Vhd, parent: Path) -> int:
    with vhd.open_vhd(parent, writable=True) as above:
        if above.footer.size < image.footer.size:
            above.resize(image.footer.size)
        return sum(_merge_block(image, number, above.write_sectors) for number in image.allocated())


def _coalesce_raw(image: vhd.Vhd, parent: Path) -> int:
    file = vhd.DirectFile(parent, os.O_RDWR)

    def write_sectors(number: int, sectors: list[int], block: bytes) -> None:
        for first, end in vhd.runs(sectors):
            data = block[first * vhd.SECTOR:end * vhd.SECTOR]
            file.write(number * image.header.block_size + first * vhd.SECTOR, data)

    try:
        return sum(_merge_block(image, number, write_sectors) for number in image.allocated())
    finally:
        file.close()


def _merge_block(
    image: vhd.Vhd, number: int, write_sectors: Callable[[int, list[int], bytes], None]
) -> int:
    present, data = image.read_own(number)
    write_sectors(number, present, data)
    return len(present)


def resize(options: argparse.Namespace) -> None:
    """``resize -n PATH -s MIB``: -j JOURNAL as the undo log, or -f within the table's room."""
    size = int(options.size) * vhd.MIB
    with vhd.open_vhd(options.name, writable=True) as image:
        if options.flag_f and size > image.header.entries * image.header.block_size:
            raise vhd.VhdError(errno.EINVAL, "no room for a fast resize", str(options.name))
        if options.journal:
            options.journal.write_bytes(image.footer.pack() + image.header.pack())
        image.resize(size)
    if options.journal:
        options.journal.unlink()


def revert(options: argparse.Namespace) -> None:
    """``revert -n PATH -j JOURNAL``: undo an interrupted resize; nothing without a journal."""
    if not options.journal.exists():
        return
    saved = options.journal.read_bytes()
    with vhd.open_vhd(options.name, writable=True, backup_footer=True) as image:
        image.footer = vhd.Footer.unpack(saved[:vhd.SECTOR])
        image.header = vhd.Header.unpack(saved[vhd.SECTOR:])
        image.table = image.table[:image.header.entries]
        image.save()
    options.journal.unlink()


def check(options: argparse.Namespace) -> None:
    """``check -n PATH [-i]``: fails unless footer, header and table fit; -i spares the footer."""
    with vhd.open_vhd(options.name, backup_footer=options.flag_i) as image:
        if image.end_of_data() > image.file.size:
            raise vhd.VhdError(errno.EINVAL, "a block lies behind the end", str(options.name))
        if image.header.entries * image.header.block_size < image.footer.size:
            raise vhd.VhdError(errno.EINVAL, "the table is too small", str(options.name))
    print(f"{options.name} is valid")


def repair(options: argparse.Namespace) -> None:
    """``repair -n PATH``: write the last footer anew."""
    vhd.repair(options.name)


def read(options: argparse.Namespace) -> None:
    """``read -n PATH``: -p prints the metadata, -B the bitmap of allocated blocks, in binary."""
    with vhd.open_vhd(options.name) as image:
        if options.flag_B:
            bitmap = bytearray(-(-image.header.entries // 8))
            for number in image.allocated():
                bitmap[number // 8] |= 0x80 >> number % 8
            sys.stdout.buffer.write(bitmap)
            return
        kind = "Differencing" if image.footer.disk_type == vhd.DIFFERENCING else "Dynamic"
        print(f"Disk type           : {kind} hard disk")
        print(f"Current disk size   : {image.footer.size // vhd.MIB} MB")
        if kind == "Differencing":
            print(f"       decoded name : ./{image.header.parent_name}")


def key(options: argparse.Namespace) -> None:
    """``key -n PATH -p``: encrypted images are not supported, so there is never a key."""
    if not options.flag_p:
        raise vhd.VhdError(errno.ENOSYS, "encrypted images are not supported")
    print("none")


#: Of each command: the function, its options without a value, and its options with one.
COMMANDS = {
    "create": (create, "", {"s": "size", "S": "max_size"}),
    "snapshot": (snapshot, "me", {"p": "parent", "S": "max_size"}),
    "query": (query, "vspfdSabu", {}),
    "set": (set_field, "", {"f": "field", "v": "value"}),
    "modify": (modify, "mz", {"p": "parent"}),
    "scan": (scan, "fac", {"m": "pattern", "l": "volume_group"}),
    "coalesce": (coalesce, "", {}),
    "resize": (resize, "f", {"s": "size", "j": "journal"}),
    "revert": (revert, "", {"j": "journal"}),
    "check": (check, "iB", {}),
    "repair": (repair, "", {}),
    "read": (read, "pB", {}),
    "key": (key, "p", {}),
}


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse a command line; exits with 2 when it is wrong."""
    parser = argparse.ArgumentParser(prog="vhd-util")
    commands = parser.add_subparsers(required=True)
    for name, (function, flags, values) in COMMANDS.items():
        command = commands.add_parser(name, help=function.__doc__)
        command.set_defaults(run=function)
        command.add_argument("--debug", action="store_true", help="accepted, has no effect")
        if name != "scan":
            command.add_argument("-n", dest="name", type=Path, required=True)
        for flag in flags:
            command.add_argument(f"-{flag}", dest=f"flag_{flag}", action="store_true")
        for option, dest in values.items():
            kind = Path if dest in ("parent", "journal") else str
            command.add_argument(f"-{option}", dest=dest, type=kind)
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Run one command line; returns 0 or an errno value."""
    options = parse(arguments)
    try:
        options.run(options)
    except OSError as error:
        print(f"vhd-util: {error}", file=sys.stderr)
        return error.errno or errno.EIO
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
