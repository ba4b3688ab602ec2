#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-only
"""The garbage collector: removes what was deleted, and shortens the chains of snapshots.

SMGC@.service runs ``cleanup.py -g -u SR`` in a process of its own. An SR type that normalizeType
does not know is an error everywhere but in ``abort``.
"""
import argparse
import errno
import os
import time

import blktap2
import lock
import util
import vhdutil

LOCK_TYPE_GC_ACTIVE = "gc_active"

#: Seconds between tries, and tries, to get a running collector out of the way.
LOCK_RETRY_INTERVAL = 0.2
LOCK_RETRY_ATTEMPTS = 300

#: The types whose VDIs are files, as the real SM lists them.
FILE_TYPES = ("file", "ext", "nfs", "ocfsoiscsi", "ocfsohba", "smb", "cephfs", "glusterfs",
              "moosefs", "xfs", "zfs", "largeblock")


def normalizeType(type):
    """How VDIs of an SR type are kept; raises SMException for a type that is not listed."""
    if type in FILE_TYPES:
        return "file"
    raise util.SMException("Unsupported SR type: %s" % type)


class SR:
    """An SR as the collector sees it: a folder of images and their records in XAPI."""

    @staticmethod
    def getInstance(uuid, xapiSession, createLock=True, force=False):
        """Raises SMException for an unknown SR type."""
        return SR(uuid, xapiSession or util.get_localAPI_session())

    def __init__(self, uuid, session):
        import SR as sr_module
        self.uuid = uuid
        self.session = session
        self.ref = session.xenapi.SR.get_by_uuid(uuid)
        normalizeType(session.xenapi.SR.get_type(self.ref))
        self.path = os.path.join(sr_module.MOUNT_BASE, uuid)
        self.lock = lock.Lock(lock.LOCK_TYPE_SR, uuid)
        self.images = {}

    def scan(self):
        self.images = vhdutil.get_all(self.path)

    def children(self, uuid):
        """The images directly above one."""
        return [image for image in self.images.values() if image.parent == uuid]

    def leaves(self, uuid):
        """The UUIDs of the VDIs that VMs could use above an image, or the image itself."""
        children = self.children(uuid)
        return [leaf for child in children for leaf in self.leaves(child.uuid)] or [uuid]

    # ---- garbage: hidden images that nothing depends on

    def collect_garbage(self):
        """Delete all garbage; an image becomes garbage when its last child was."""
        self.scan()
        garbage = [image for image in self.images.values()
                   if image.hidden and not self.children(image.uuid)]
        for image in garbage:
            self._delete(image)
        if garbage:
            self.collect_garbage()

    def _delete(self, image):
        util.SMlog("GC: deleting %s" % image.uuid)
        os.unlink(image.path)
        self._forget(image.uuid)

    def _forget(self, vdi_uuid):
        # db_forget is for the sessions of drivers only.
        query = 'field "uuid" = "%s"' % vdi_uuid
        for ref in self.session.xenapi.VDI.get_all_records_where(query):
            self.session.xenapi.VDI.forget(ref)

    # ---- chains: a hidden image that is its parent's only child is merged into it

    def coalesce_one(self):
        """Merge one image into its parent; False when there is none to merge."""
        self.scan()
        for image in self.images.values():
            if not self._is_only_child(image):
                continue
            if image.hidden:
                self._coalesce(image)
                return True
            if self.images[image.parent].hidden and not self._is_attached(image.uuid):
                self._coalesce_leaf(image)
                return True
        return False

    def _is_only_child(self, image):
        return image.parent in self.images and len(self.children(image.parent)) == 1

    def _coalesce(self, image):
        """Merge, then hang the children below; VMs go on using them, but for that moment."""
        parent = self.images[image.parent]
        util.SMlog("GC: coalescing %s into %s" % (image.uuid, parent.uuid))
        vhdutil.coalesce(image.path)
        self.lock.acquire()
        try:
            # VDIs may have come and gone meanwhile.
            self.scan()
            children = self.children(image.uuid)
            paused = [leaf for child in children for leaf in self.leaves(child.uuid)
                      if not self.images[leaf].hidden]
            for leaf in paused:
                blktap2.VDI.tap_pause(self.session, self.uuid, leaf)
            for child in children:
                vhdutil.set_parent(child.path, parent.path)
            for leaf in paused:
                blktap2.VDI.tap_unpause(self.session, self.uuid, leaf)
            self._delete(image)
        finally:
            self.lock.release()

    def _coalesce_leaf(self, image):
        """Merge a VDI that is not in use, and give the result the VDI's name."""
        locks = [self.lock, lock.Lock("vdi", image.uuid)]
        for held in locks:
            held.acquire()
        try:
            self.scan()
            if self.images.get(image.uuid) != image or self._is_attached(image.uuid):
                return
            util.SMlog("GC: leaf-coalescing %s" % image.uuid)
            parent = self.images[image.parent]
            vhdutil.coalesce(image.path)
            vhdutil.set_hidden(parent.path, False)
            os.rename(parent.path, image.path)
            self._forget(parent.uuid)
        finally:
            for held in reversed(locks):
                held.release()

    def _is_attached(self, vdi_uuid):
        return blktap2.VDI.tap_status(self.session, vdi_uuid)


# ---- one collector at a time

def _active_lock(sr_uuid):
    return lock.Lock(LOCK_TYPE_GC_ACTIVE, sr_uuid)


def _run_gc(session, sr_uuid):
    """Collect until nothing is left to do; the process's exit code."""
    try:
        sr = SR.getInstance(sr_uuid, session)
        if not os.path.ismount(sr.path) or not _active_lock(sr_uuid).acquireNoblock():
            util.SMlog("GC: SR %s is detached or being collected" % sr_uuid)
            return 0
        busy = True
        while busy:
            sr.lock.acquire()
            try:
                sr.collect_garbage()
            finally:
                sr.lock.release()
            busy = sr.coalesce_one()
        return 0
    except Exception:
        util.logException("gc")
        return 1


def gc(session, srUuid, inBackground, dryRun=False):
    """Collect, and end the process; ``inBackground`` a child does so, and this returns."""
    if not inBackground:
        os._exit(_run_gc(session, srUuid))
    if os.fork() == 0:
        lock.Lock.clearAll()
        os._exit(_run_gc(None, srUuid))


def gc_force(session, srUuid, force=False, dryRun=False, lockSR=False):
    """Delete garbage now, in this process; a running collector is aborted."""
    sr = SR.getInstance(srUuid, session, lockSR, True)
    abort(srUuid)
    sr.collect_garbage()


def abort(srUuid, soft=False):
    """End a running collector. Raises CommandException (ETIMEDOUT) when it does not end."""
    active = _active_lock(srUuid)
    for _ in range(LOCK_RETRY_ATTEMPTS):
        if active.acquireNoblock():
            active.release()
            return True
        stop_gc_service(srUuid)
        time.sleep(LOCK_RETRY_INTERVAL)
    raise util.CommandException(errno.ETIMEDOUT, reason="SR %s: GC does not end" % srUuid)


# ---- the service

def _systemctl(sr_uuid, *words):
    unit = "SMGC@" + sr_uuid.replace("-", "\\x2d")
    return util.doexec(["/usr/bin/systemctl", *words, unit])


def start_gc_service(sr_uuid, wait=False):
    """Have the collector run on an SR; ``wait`` until it ended."""
    util.SMlog("Kicking SMGC@%s..." % sr_uuid)
    _systemctl(sr_uuid, "--quiet", *(["start"] if wait else ["--no-block", "start"]))


def stop_gc_service(sr_uuid):
    _systemctl(sr_uuid, "--quiet", "stop")


def get_state(srUuid):
    """Whether the collector's service runs on an SR."""
    return _systemctl(srUuid, "is-active")[1].strip() in ("activating", "active")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("-u", "--uuid", required=True)
    parser.add_argument("-b", "--background", action="store_true")
    parser.add_argument("-f", "--force", action="store_true")
    actions = parser.add_mutually_exclusive_group(required=True)
    actions.add_argument("-g", "--gc", action="store_true")
    actions.add_argument("-G", "--gc_force", action="store_true")
    actions.add_argument("-a", "--abort", action="store_true")
    actions.add_argument("-q", "--query", action="store_true")
    options = parser.parse_args()
    if options.gc:
        gc(None, options.uuid, options.background)
    elif options.gc_force:
        gc_force(None, options.uuid, options.force)
    elif options.abort:
        abort(options.uuid)
    else:
        print("Currently running: %s" % get_state(options.uuid))


if __name__ == "__main__":
    main()
