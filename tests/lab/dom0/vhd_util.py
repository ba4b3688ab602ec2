#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-only
"""Stand-in for blktap's ``vhd-util``: the commands and options that SM's vhdutil module uses.

The exit code is an errno value, as SM expects; messages go to stderr.
"""

from __future__ import annotations

import errno
import getopt
import glob
import os
import sys
from collections.abc import Callable
from pathlib import Path

import vhd

#: What getopt found: options like "-n", with their values.
Options = dict[str, str]


def create(path: Path, options: Options) -> None:
    """``create -n PATH -s MIB``: an empty dynamic disk."""
    vhd.create(path, int(options["-s"]) * vhd.MIB)


def snapshot(path: Path, options: Options) -> None:
    """``snapshot -n PATH -p PARENT [-m] [-e]``: an empty child; -m tells that PARENT is raw.

    An empty differencing parent is skipped in favour of its own parent, unless -e is given.
    """
    parent = Path(os.path.realpath(options["-p"]))
    if "-m" in options:
        vhd.create(path, parent.stat().st_size)
        _set_raw_parent(path, parent)
        return
    with vhd.open_vhd(parent) as image:
        grandparent = image.parent_path()
        if grandparent and not image.allocated() and "-e" not in options:
            parent = grandparent
        size = image.footer.size
    vhd.create(path, size)
    _set_vhd_parent(path, parent)


def query(path: Path, options: Options) -> None:
    """``query -n PATH``: one line for each of -v -s -p -f -m -d -S -a that is given."""
    with vhd.open_vhd(path, backup_footer="-b" in options) as image:
        if "-v" in options:
            print(image.footer.size // vhd.MIB)
        if "-s" in options:
            print(image.file.size)
        if "-p" in options:
            print(_parent_text(image, check="-u" not in options))
        if "-f" in options:
            print(f"hidden: {int(image.footer.hidden)}")
        if "-d" in options:
            print(f"chain depth: {_depth(image)}")
        if "-S" in options:
            print(image.header.entries * image.header.block_size // vhd.MIB)
        if "-a" in options:
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


def set_field(path: Path, options: Options) -> None:
    """``set -n PATH -f hidden -v 0|1``."""
    if options["-f"] != "hidden":
        raise vhd.VhdError(errno.EINVAL, f"the field {options['-f']} cannot be set")
    with vhd.open_vhd(path, writable=True) as image:
        image.footer.hidden = bool(int(options["-v"]))
        image.save()


def modify(path: Path, options: Options) -> None:
    """``modify -n PATH``: -p PARENT [-m] relinks, -z forgets the data."""
    if "-p" in options:
        set_parent = _set_raw_parent if "-m" in options else _set_vhd_parent
        set_parent(path, Path(options["-p"]))
    if "-z" in options:
        with vhd.open_vhd(path, writable=True) as image:
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


def scan(path: Path, options: Options) -> None:
    """``scan -f -m PATTERN [-a] [-c]``: a line for each image, -a with all its parents.

    ``path`` is not used.

    A broken image has a line that says so, and fails the scan unless -c is given.
    """
    if "-l" in options:
        raise vhd.VhdError(errno.ENOSYS, "images in logical volumes are not supported")
    paths = [Path(path) for path in sorted(glob.glob(options["-m"]))]
    broken = 0
    for path in paths:
        try:
            parent = _scan_one(path)
            if "-a" in options and parent is not None and parent not in paths:
                paths.append(parent)
        except OSError as error:
            broken = error.errno or errno.EIO
            print(f"vhd={path} scan-error={broken} error-message='{error.strerror}'")
    if broken and "-c" not in options:
        raise vhd.VhdError(broken, "scan failed")


def _scan_one(path: Path) -> Path | None:
    with vhd.open_vhd(path, backup_footer=True) as image:
        parent = image.parent_path()
        print(f"vhd={path} capacity={image.footer.size} size={image.file.size} "
              f"hidden={int(image.footer.hidden)} parent={parent or 'none'}")
        return parent


def coalesce(path: Path, options: Options) -> None:
    """``coalesce -n PATH``: write this image's own sectors into its parent."""
    with vhd.open_vhd(path) as image:
        parent = image.parent_path()
        if parent is None:
            raise vhd.VhdError(errno.EINVAL, "the image has no parent", str(path))
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
    present, data = image.read_own(number, 0, image.sectors_per_block)
    write_sectors(number, present, data)
    return len(present)


def resize(path: Path, options: Options) -> None:
    """``resize -n PATH -s MIB``: -j JOURNAL as the undo log, or -f within the table's room."""
    size = int(options["-s"]) * vhd.MIB
    journal = Path(options["-j"]) if "-j" in options else None
    with vhd.open_vhd(path, writable=True) as image:
        if "-f" in options and size > image.header.entries * image.header.block_size:
            raise vhd.VhdError(errno.EINVAL, "no room for a fast resize", str(path))
        if journal:
            journal.write_bytes(image.footer.pack() + image.header.pack())
        image.resize(size)
    if journal:
        journal.unlink()


def revert(path: Path, options: Options) -> None:
    """``revert -n PATH -j JOURNAL``: undo an interrupted resize; nothing without a journal."""
    journal = Path(options["-j"])
    if not journal.exists():
        return
    saved = journal.read_bytes()
    with vhd.open_vhd(path, writable=True, backup_footer=True) as image:
        image.footer = vhd.Footer.unpack(saved[:vhd.SECTOR])
        image.header = vhd.Header.unpack(saved[vhd.SECTOR:])
        image.table = image.table[:image.header.entries]
        image.save()
    journal.unlink()


def check(path: Path, options: Options) -> None:
    """``check -n PATH [-i]``: fails unless footer, header and table fit; -i spares the footer."""
    with vhd.open_vhd(path, backup_footer="-i" in options) as image:
        if image.end_of_data() > image.file.size:
            raise vhd.VhdError(errno.EINVAL, "a block lies behind the end", str(path))
        if image.header.entries * image.header.block_size < image.footer.size:
            raise vhd.VhdError(errno.EINVAL, "the table is too small", str(path))
    print(f"{path} is valid")


def repair(path: Path, options: Options) -> None:
    """``repair -n PATH``: write the last footer anew."""
    vhd.repair(path)


def read(path: Path, options: Options) -> None:
    """``read -n PATH``: -p prints the metadata, -B the bitmap of allocated blocks, in binary."""
    with vhd.open_vhd(path) as image:
        if "-B" in options:
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


def key(path: Path, options: Options) -> None:
    """``key -n PATH -p``: encrypted images are not supported, so there is never a key."""
    if "-p" not in options:
        raise vhd.VhdError(errno.ENOSYS, "encrypted images are not supported")
    print("none")


#: Of each command: the function, and its options but -n as getopt takes them.
COMMANDS = {
    "create": (create, "s:S:"),
    "snapshot": (snapshot, "p:S:me"),
    "query": (query, "vspfdSabu"),
    "set": (set_field, "f:v:"),
    "modify": (modify, "p:mz"),
    "scan": (scan, "m:l:fac"),
    "coalesce": (coalesce, ""),
    "resize": (resize, "s:j:f"),
    "revert": (revert, "j:"),
    "check": (check, "iB"),
    "repair": (repair, ""),
    "read": (read, "pB"),
    "key": (key, "p"),
}


def main(arguments: list[str]) -> int:
    """Run one command line; returns 0 or an errno value."""
    try:
        run, known = COMMANDS[arguments[0]]
        pairs, _ = getopt.gnu_getopt(arguments[1:], f"n:{known}", ["debug"])
        options = dict(pairs)
        run(Path(options.get("-n", "")), options)
    except (IndexError, KeyError, getopt.GetoptError) as error:
        print(f"vhd-util: a command or an option is missing or unknown: {error}", file=sys.stderr)
        return errno.EINVAL
    except OSError as error:
        print(f"vhd-util: {error}", file=sys.stderr)
        return error.errno or errno.EIO
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
