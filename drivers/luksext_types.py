# SPDX-License-Identifier: LGPL-2.1-only
"""Makes modules of the storage manager know the SR type luksext.

The storage manager knows SR types by lists in its own code, and takes for empty what LVM does not
know. These functions take a module of it that was imported, and add what it has to know of our
type, without a change to its files. Nothing of the storage manager
is imported here: its modules import each other in circles, in which this is called half way.
"""
import importlib

SR_TYPE = "luksext"

# luksext.errors.DeviceIsOurs, and how a LUKS header begins (luksext.header).
_IS_OURS = 6214
_LUKS = b"LUKS\xba\xbe"


def teach_gc(cleanup) -> None:
    """Makes the garbage collector `cleanup` treat our type as the file-based ext.

    `normalizeType` raises for types that it does not list; the collector then neither removes
    hidden VDIs nor coalesces, and sr-destroy fails. It is looked up at each call, so replacing it
    in the module is enough. Teaching twice does nothing.
    """
    stock = cleanup.normalizeType
    if getattr(stock, "knows_luksext", False):
        return

    def normalize_type(sr_type):
        return stock("ext" if sr_type == SR_TYPE else sr_type)

    normalize_type.knows_luksext = True  # type: ignore[attr-defined]
    cleanup.normalizeType = normalize_type


def teach_sr(sr_module) -> None:
    """Makes `SR.driver` load our driver when it is first asked for our type.

    SM's plugins, such as on-slave, import a fixed list of drivers before they ask.
    """
    stock = sr_module.driver

    def driver(sr_type):
        if sr_type == SR_TYPE and not any(known.handles(SR_TYPE) for known in sr_module.backends):
            importlib.import_module("LUKSEXTSR")
        return stock(sr_type)

    sr_module.driver = driver


def teach_lvutil(lvutil) -> None:
    """Makes SM's drivers refuse to make an SR on a disk of an encrypted SR.

    They wipe whatever is on a disk unless the kernel has it in use, or XAPI has a PBD or a serial
    number of it: nothing of that is true of an SR that is locked and was forgotten.
    """
    stock = lvutil.createVG

    def create_vg(root, vgname):
        for device in root.split(","):
            _refuse_ours(lvutil, device)
        return stock(root, vgname)

    lvutil.createVG = create_vg


def _refuse_ours(lvutil, device):
    refusal = _refusal(lvutil, device)
    if refusal is not None:
        raise lvutil.xs_errors.SROSError(*refusal)


def _refusal(lvutil, device):
    """The code and the text of the error where `device` is ours, or may be; else None."""
    try:
        # Here, since this module is loaded for every command of our driver.
        from luksext import container
        from luksext.errors import DeviceIsOurs
        try:
            container.check_formattable(device, force=True)
        except DeviceIsOurs as error:
            return error.code, str(error)
    except Exception as error:  # pylint: disable=broad-except
        lvutil.util.SMlog("luksext: cannot tell whether {} is a disk of an encrypted SR: {}".format(
            device, error))
        # Whatever else is wrong with us must not keep SM from its own work.
        if _has_luks(device):
            return _IS_OURS, (
                "{0} carries a LUKS header, and whether it is of an encrypted SR cannot be told: "
                "{1}. Nothing was changed. If it is not, remove the header (`wipefs -a {0}`), then "
                "run the command again.".format(device, error))
    return None


def _has_luks(device):
    try:
        with open(device, "rb") as disk:
            return disk.read(len(_LUKS)) == _LUKS
    except OSError:
        return False
