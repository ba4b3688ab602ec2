# SPDX-License-Identifier: LGPL-2.1-only
"""Makes the storage manager's own XAPI plugins know the SR type luksext.

Plugins such as on-slave (is_open) and coalesce-leaf import a fixed list of drivers and the garbage
collector, each in a process of their own where our driver is not loaded. luksext.pth has Python
import this module when it starts; in any process that is not such a plugin it does nothing more
than look at its command line. In a plugin it waits until the ext driver or the collector was
imported, and adds ours.
"""
import importlib
import importlib.abc
import importlib.util
import sys

_PLUGINS = b"/etc/xapi.d/plugins/"
_DRIVERS = "/opt/xensource/sm"


def _in_plugin():
    # sys.argv does not exist yet when .pth files run on Python 3.6.
    try:
        with open("/proc/self/cmdline", "rb") as command_line:
            return any(word.startswith(_PLUGINS) for word in command_line.read().split(b"\0"))
    except OSError:
        return False


def _add_driver(module):  # pylint: disable=unused-argument
    importlib.import_module("LUKSEXTSR")


def _teach_gc(module):
    importlib.import_module("luksext_sm").teach_gc(module)


_AFTER_IMPORT = {
    "EXTSR": _add_driver,
    "sm.drivers.EXTSR": _add_driver,
    "cleanup": _teach_gc,
    "sm.cleanup": _teach_gc,
}


class _Loader(importlib.abc.Loader):
    """Loads as `loader` does, then runs `action` with the module."""

    def __init__(self, loader, action):
        self._loader = loader
        self._action = action

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module):
        self._loader.exec_module(module)
        if _DRIVERS not in sys.path:
            sys.path.append(_DRIVERS)
        self._action(module)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds what the other finders find, and adds an action to the modules of `_AFTER_IMPORT`."""

    def find_spec(self, name, path, target=None):
        action = _AFTER_IMPORT.pop(name, None)
        if action is None:
            return None
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, action)
        return spec


if _in_plugin():
    sys.meta_path.insert(0, _Finder())
