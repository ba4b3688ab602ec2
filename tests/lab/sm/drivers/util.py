# SPDX-License-Identifier: LGPL-2.1-only
"""What all of SM uses: programs, files, the log, and look-ups in XAPI."""
import contextlib
import copy
import errno
import os
import re
import subprocess
import syslog
import time
import traceback
import uuid
import xmlrpc.client

import XenAPI

import scsiutil
import xs_errors

LOG_INFO = syslog.LOG_INFO
LOG_WARNING = syslog.LOG_WARNING
LOG_ERR = syslog.LOG_ERR
LOG_DEBUG = syslog.LOG_DEBUG

INVENTORY = "/etc/xensource-inventory"
PASSWD_PROP_KEYS = ["password", "cifspassword", "chappassword", "incoming_chappassword"]


class SMException(Exception):
    """Base of SM's own errors, which SRCommand makes presentable."""


class CommandException(SMException):
    """A program failed: its exit code (or errno), what it was, what it said."""

    def __init__(self, code, cmd="", reason="exec failed"):
        SMException.__init__(self, os.strerror(abs(code)))
        self.code = code
        self.cmd = cmd
        self.reason = reason


# ---- the log

def SMlog(message, ident="SM", priority=LOG_INFO):
    """Write to /var/log/SMlog."""
    syslog.openlog(ident, syslog.LOG_PID, syslog.LOG_LOCAL2)
    for line in str(message).split("\n"):
        syslog.syslog(priority, "[%d] %s" % (os.getpid(), line))


def logException(tag):
    """Log the exception that is being handled."""
    SMlog("***** %s: EXCEPTION %s" % (tag, traceback.format_exc()))


def hidePasswdInParams(params, configProp):
    """Mask passwords in the map ``params[configProp]``; the map itself is replaced by a copy."""
    masked = copy.deepcopy(params[configProp])
    masked.update((key, "******") for key in PASSWD_PROP_KEYS if key in masked)
    params[configProp] = masked
    return params


# ---- programs

def doexec(args, inputtext=None, new_env=None, text=True):
    """Run a program; returns its exit code, output and errors."""
    env = dict(os.environ, **(new_env or {}))
    process = subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, close_fds=True, env=env,
                               universal_newlines=text)
    if inputtext is not None and not text:
        inputtext = inputtext.encode()
    stdout, stderr = process.communicate(inputtext)
    return process.returncode, stdout, stderr


def is_string(value):
    return isinstance(value, str)


def pread(cmdlist, close_stdin=False, scramble=None, expect_rc=0, quiet=False, new_env=None,
          text=True):
    """The output of a program; raises CommandException unless it exits with ``expect_rc``.

    A word of the command may be a pair: what is run, and what the log shows of it.
    """
    shown = [item if is_string(item) else item[1] for item in cmdlist]
    if scramble:
        shown = ["<filtered out>" if scramble in item else item for item in shown]
    if not quiet:
        SMlog(shown)
    argv = [item if is_string(item) else item[0] for item in cmdlist]
    code, stdout, stderr = doexec(argv, new_env=new_env, text=text)
    if code != expect_rc:
        SMlog("FAILED %s: rc %d, stdout '%s', stderr '%s'" % (shown, code, stdout, stderr))
        raise CommandException(code, str(cmdlist), (stderr or stdout).strip())
    return stdout


def pread2(cmdlist, quiet=False, text=True):
    """The output of a program that must succeed."""
    return pread(cmdlist, quiet=quiet, text=text)


def pread3(cmdlist, text):
    """The output of a program that is fed ``text``, which is not logged."""
    SMlog(cmdlist)
    code, stdout, stderr = doexec(cmdlist, text)
    if code:
        raise CommandException(code, str(cmdlist), (stderr or stdout).strip())
    return stdout


def ioretry(f, errlist=(errno.EIO,), maxretry=20, period=1.0, **ignored):
    """Call ``f`` until it fails with none of ``errlist``; OSError becomes CommandException."""
    for _ in range(maxretry):
        try:
            return f()
        except OSError as error:
            if error.errno not in errlist:
                raise CommandException(error.errno, str(f), "OSError")
        except CommandException as error:
            if error.code not in errlist:
                raise
        time.sleep(period)
    raise CommandException(errno.ETIMEDOUT, str(f), "Timeout")


# ---- files and devices

def gen_uuid():
    return str(uuid.uuid4())


def roundup(divisor, value):
    """The next multiple of ``divisor``, at least one."""
    return max(1, -(-int(value) // divisor)) * divisor


def pathexists(path):
    return os.path.lexists(path)


def makedirs(name, mode=0o777):
    os.makedirs(name, mode, exist_ok=True)


def listdir(path, quiet=False):
    return sorted(os.listdir(path))


def force_unlink(path):
    """Remove a file that may be missing."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def ismount(path):
    return os.path.ismount(path)


def get_fs_size(path):
    """Bytes of the filesystem."""
    stat = os.statvfs(path)
    return stat.f_blocks * stat.f_frsize


def get_fs_utilisation(path):
    """Bytes in use on the filesystem."""
    stat = os.statvfs(path)
    return (stat.f_blocks - stat.f_bfree) * stat.f_frsize


def wipefs(blockdev):
    pread2(["/usr/sbin/wipefs", "-a", blockdev])


def diskFromPartition(partition):
    """The disk's name of a partition's; a device of device-mapper is its own disk."""
    if re.match(r"(/dev/)?(dm-|mapper/)", partition):
        return os.path.basename(partition)
    return re.sub(r"p?\d+$", "", partition)


def dom0_disks():
    """The disks that hold the host's root filesystem."""
    with open("/etc/mtab") as mounts:
        fields = [line.split(" ") for line in mounts]
    return [diskFromPartition(field[0]) for field in fields if field[1] == "/"]


def set_scheduler(dev, schedulers=("none", "noop")):
    """Set the first of the I/O schedulers that the kernel knows for a device's disk."""
    path = "/sys/block/%s/queue/scheduler" % diskFromPartition(dev).replace("/", "!")
    for scheduler in schedulers if os.path.exists(path) else ():
        try:
            with open(path, "w") as node:
                node.write(scheduler)
            return
        except OSError:
            continue


# ---- this host

def _inventory(key):
    with open(INVENTORY) as inventory:
        for line in inventory:
            if line.startswith(key + "="):
                return line.split("'")[1]
    raise xs_errors.XenError("EIO", opterr="%s is missing in %s" % (key, INVENTORY))


def getrootdev():
    return _inventory("PRIMARY_DISK")


def get_this_host():
    """The host's UUID."""
    return _inventory("INSTALLATION_UUID")


def get_localhost_ref(session):
    """The host that the control domain runs on."""
    query = 'field "uuid" = "%s"' % _inventory("CONTROL_DOMAIN_UUID")
    for record in session.xenapi.VM.get_all_records_where(query).values():
        return record["resident_on"]
    raise xs_errors.XenError("SMGeneral", opterr="the control domain is unknown")


def get_this_host_ref(session):
    return session.xenapi.host.get_by_uuid(get_this_host())


def get_localAPI_session():
    """A session of one's own, to be logged out of."""
    session = XenAPI.xapi_local()
    session.xenapi.login_with_password("root", "", "", "SM")
    return session


# ---- XAPI

def find_my_pbd_record(session, host_ref, sr_ref):
    """The reference and record of an SR's PBD on a host, None without one."""
    for ref, record in session.xenapi.PBD.get_all_records().items():
        if record["host"] == host_ref and record["SR"] == sr_ref:
            return [ref, record]
    return None


def find_my_pbd(session, host_ref, sr_ref):
    found = find_my_pbd_record(session, host_ref, sr_ref)
    return found[0] if found else None


def test_hostPBD_devs(session, sr_uuid, devs):
    """Whether another SR of this host has one of the devices."""
    host = get_localhost_ref(session)
    sr_ref = session.xenapi.SR.get_by_uuid(sr_uuid)
    wanted = {os.path.realpath(dev) for dev in devs.split(",")}
    for record in session.xenapi.PBD.get_all_records().values():
        if record["SR"] == sr_ref:
            # As the real one: PBDs that come after our own are not looked at.
            break
        taken = record["device_config"].get("device", "").split(",")
        if record["host"] == host and wanted & {os.path.realpath(dev) for dev in taken if dev}:
            return True
    return False


def test_scsiserial(session, device):
    """Whether an SR of the pool has recorded the device's SCSI id as one of its own."""
    device = os.path.realpath(device)
    if not scsiutil._isSCSIdev(device):
        return False
    try:
        identity = scsiutil.getSCSIid(device)
    except CommandException:
        return False
    records = session.xenapi.SR.get_all_records().values()
    return bool(identity) and any("scsi-" + identity in record["sm_config"].get(
        "devserial", "").split(",") for record in records)


def list_VDI_records_in_sr(sr):
    sr_ref = sr.session.xenapi.SR.get_by_uuid(sr.uuid)
    return sr.session.xenapi.VDI.get_all_records_where('field "SR" = "%s"' % sr_ref)


def set_dirty(session, sr):
    """Have XAPI scan the SR soon."""
    try:
        session.xenapi.SR.add_to_other_config(sr, "dirty", "")
    except XenAPI.Failure:
        SMlog("set_dirty %s failed (flag already set?)" % sr)


def create_secret(session, secret):
    """Keep a text in XAPI; returns the UUID to find it by."""
    return session.xenapi.secret.get_uuid(session.xenapi.secret.create({"value": secret}))


def get_secret(session, uuid):
    try:
        return session.xenapi.secret.get_value(session.xenapi.secret.get_by_uuid(uuid))
    except XenAPI.Failure:
        raise xs_errors.XenError("InvalidSecret", opterr="Unable to look up secret [%s]" % uuid)


def read_caching_is_restricted(session):
    """Whether the pool's licence forbids read caching."""
    if session is None:
        return True
    pool = next(iter(session.xenapi.pool.get_all_records().values()))
    return pool.get("restrictions", {}).get("restrict_read_caching") == "true"


def sr_get_capability(sr_uuid, session):
    """The capabilities in the SM row of the SR's type, none without a row."""
    sr_type = session.xenapi.SR.get_type(session.xenapi.SR.get_by_uuid(sr_uuid))
    rows = session.xenapi.SM.get_all_records_where('field "type" = "%s"' % sr_type)
    return next(iter(rows.values()))["capabilities"] if rows else []


def sr_get_driver_info(driver_info):
    """The answer to sr_get_driver_info."""
    info = {key: driver_info[key] for key in ("name", "description", "vendor", "copyright",
                                              "driver_version", "required_api_version")}
    info["capabilities"] = driver_info["capabilities"]
    info["configuration"] = [{"key": key, "description": description}
                             for key, description in driver_info["configuration"]]
    return xmlrpc.client.dumps((info,), "", True)


def return_nil():
    return xmlrpc.client.dumps((None,), "", True, allow_none=True)


def default(self, field, thunk):
    """The attribute, or what ``thunk`` returns when there is none."""
    return getattr(self, field) if hasattr(self, field) else thunk()
