# SPDX-License-Identifier: LGPL-2.1-only
"""Makes the storage manager's own XAPI plugins and drivers know the SR type luksext.

Plugins such as on-slave (is_open) and coalesce-leaf import a fixed list of drivers and the garbage
collector, each in a process of its own where our driver is not loaded. Drivers that make an SR wipe
the disk that they get. luksext.pth has Python import this module when it starts. In a process that
is neither it does no more than look at the command line; in one of them it teaches the modules
concerned, once they were imported.

Nothing is imported here but sys, which is there already: every Python of the host pays for it.
"""
import sys

_PLUGINS = b"/etc/xapi.d/plugins/"
_MODULES = "/opt/xensource/sm"

# Where XAPI has its drivers: XCP-ng 9 brings the second folder.
_DRIVERS = (b"/opt/xensource/sm/", b"/usr/libexec/sm/drivers/")

# XAPI gives a driver its command as XML.
_CREATE = b"<methodName>sr_create<"

# Which function of luksext_types a module is given to: in a plugin, in a driver that makes an SR.
_IN_PLUGINS = {
    "SR": "teach_sr",
    "sm.SR": "teach_sr",
    "cleanup": "teach_gc",
    "sm.cleanup": "teach_gc",
}
_IN_CREATE = {
    "lvutil": "teach_lvutil",
    "sm.lvutil": "teach_lvutil",
}


def _teachers():
    # sys.argv does not exist yet when .pth files run on Python 3.6.
    try:
        with open("/proc/self/cmdline", "rb") as command_line:
            words = command_line.read().split(b"\0")
    except OSError:
        return {}
    if any(word.startswith(_PLUGINS) for word in words):
        return _IN_PLUGINS
    is_driver = any(word.startswith(_DRIVERS) for word in words)
    return _IN_CREATE if is_driver and any(_CREATE in word for word in words) else {}


def _teach(module, teacher):
    if _MODULES not in sys.path:
        sys.path.append(_MODULES)
    try:
        import luksext_types
    except ImportError:
        return  # a removal that left this file behind must not break the plugins of others
    getattr(luksext_types, teacher)(module)


class _Loader:
    """Loads as `loader` does, then teaches the module."""

    def __init__(self, loader, teacher):
        self._loader = loader
        self._teacher = teacher

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module):
        self._loader.exec_module(module)
        _teach(module, self._teacher)


class _Finder:
    """Finds what the finders after it find; modules that have a teacher get our loader."""

    def __init__(self, teachers):
        self._teachers = teachers

    def find_spec(self, name, path, target=None):
        if name not in self._teachers:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        for finder in others:
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                spec.loader = _Loader(spec.loader, self._teachers[name])
                return spec
        return None


_found = _teachers()
if _found:
    sys.meta_path.insert(0, _Finder(_found))
