# SPDX-License-Identifier: LGPL-2.1-only
"""Makes the storage manager's own XAPI plugins know the SR type luksext.

Plugins such as on-slave (is_open) and coalesce-leaf import a fixed list of drivers and the garbage
collector, each in a process of its own where our driver is not loaded. luksext.pth has Python
import this module when it starts. In a process that is not such a plugin it does no more than look
at the command line; in a plugin it teaches the modules concerned, once they were imported.

Nothing is imported here but sys, which is there already: every Python of the host pays for it.
"""
import sys

_PLUGINS = b"/etc/xapi.d/plugins/"
_DRIVERS = "/opt/xensource/sm"

# Which function of luksext_types a module is given to.
_TEACHERS = {
    "SR": "teach_sr",
    "sm.SR": "teach_sr",
    "cleanup": "teach_gc",
    "sm.cleanup": "teach_gc",
}


def _in_plugin():
    # sys.argv does not exist yet when .pth files run on Python 3.6.
    try:
        with open("/proc/self/cmdline", "rb") as command_line:
            return any(word.startswith(_PLUGINS) for word in command_line.read().split(b"\0"))
    except OSError:
        return False


def _teach(module):
    if _DRIVERS not in sys.path:
        sys.path.append(_DRIVERS)
    try:
        import luksext_types
    except ImportError:
        return  # a removal that left this file behind must not break the plugins of others
    getattr(luksext_types, _TEACHERS[module.__name__])(module)


class _Loader:
    """Loads as `loader` does, then teaches the module."""

    def __init__(self, loader):
        self._loader = loader

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module):
        self._loader.exec_module(module)
        _teach(module)


class _Finder:
    """Finds what the finders after it find; the modules of `_TEACHERS` get our loader."""

    def find_spec(self, name, path, target=None):
        if name not in _TEACHERS:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        for finder in others:
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                spec.loader = _Loader(spec.loader)
                return spec
        return None


if _in_plugin():
    sys.meta_path.insert(0, _Finder())
