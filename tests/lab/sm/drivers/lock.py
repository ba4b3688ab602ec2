# SPDX-License-Identifier: LGPL-2.1-only
"""Locks between processes: a file per name, locked by fcntl and counted within the process."""
import fcntl
import os
import shutil

import util

LOCK_TYPE_GC_RUNNING = "running"
LOCK_TYPE_SR = "sr"


class Lock:
    """The one lock of this process with this name and namespace (an SR's UUID, say).

    A process that holds it may take it again, and must release it as often. As with every lock of
    fcntl, a forked child does not inherit it, and it is lost when the file is closed.
    """

    BASE_DIR = "/var/lock/sm"
    INSTANCES = {}

    def __new__(cls, name, ns=None):
        key = (ns or ".nil", name)
        if key not in cls.INSTANCES:
            cls.INSTANCES[key] = _FileLock(os.path.join(cls.BASE_DIR, *key))
        return cls.INSTANCES[key]

    @classmethod
    def cleanupAll(cls, ns=None):
        """Remove the lock files of a namespace."""
        shutil.rmtree(os.path.join(cls.BASE_DIR, ns or ".nil"), ignore_errors=True)

    @classmethod
    def clearAll(cls):
        """Forget all locks, in a child that was forked."""
        cls.INSTANCES = {}


class _FileLock:
    def __init__(self, path):
        self.path = path
        self.count = 0
        os.makedirs(os.path.dirname(path), exist_ok=True)
        self.file = open(path, "w")  # noqa: SIM115 - held as long as the lock exists

    def held(self):
        """Whether this process holds the lock."""
        return self.count > 0

    def acquire(self):
        """Take the lock, and wait for it as long as it takes."""
        if not self.held():
            fcntl.lockf(self.file, fcntl.LOCK_EX)
            util.SMlog("lock: acquired %s" % self.path)
        self.count += 1

    def acquireNoblock(self):
        """Take the lock; False when another process holds it."""
        if not self.held():
            try:
                fcntl.lockf(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return False
        self.count += 1
        return True

    def release(self):
        """Give the lock back once it was released as often as it was taken."""
        self.count = max(0, self.count - 1)
        if not self.held():
            fcntl.lockf(self.file, fcntl.LOCK_UN)
            util.SMlog("lock: released %s" % self.path)

    def cleanupAll(self, ns=None):
        """Remove the lock files of a namespace."""
        Lock.cleanupAll(ns)
