# SPDX-License-Identifier: LGPL-2.1-only
"""Encrypted storage in xsconsole, the menu on a host's own screen: state, unlock by recovery key.

xsconsole loads every file of its folder plugins-extras; methods that it calls are named as it
wants them. The work is done by the programs `luksext` and `xe`: disks open while XAPI is down.
"""
import json
import subprocess

import XSConsoleStandard as xs

Lang = xs.Lang

# Statuses of luksext: done; done, and something needs attention.
_DONE = (0, 3)


class Failed(Exception):
    """A program failed; the text is what it said."""


def call(argv, stdin="", accept=(0,)):
    """What the program `argv` prints. stdin: what it reads, such as a key. accept: the statuses
    that are no failure. Raises Failed."""
    try:
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE)
    except OSError as error:
        raise Failed("{}: {}".format(argv[0], error.strerror)) from error
    out, err = process.communicate(stdin.encode("utf-8"))
    if process.returncode not in accept:
        raise Failed((err or out).decode("utf-8", "replace").strip() or
                     "{} ended with status {}".format(argv[0], process.returncode))
    return out.decode("utf-8", "replace")


def read_srs():
    """The encrypted SRs that have disks in this host, as `luksext status` tells of them."""
    return json.loads(call(["luksext", "status", "--json"], accept=_DONE))["srs"]


def is_locked(sr):
    """Whether a disk of the SR is not open."""
    return not all(disk.get("open") for disk in sr["disks"])


def describe(sr):
    """An SR in a few lines."""
    lines = ["Recovery key: " + sr["recovery"]]
    for disk in sr["disks"]:
        lines.append(disk["error"]["text"] if "error" in disk else "{}: {}".format(
            disk["device"], "open" if disk["open"] else "locked"))
    if sr["alerts"]:
        lines.append("Needs attention (luksext explain CODE): " + ", ".join(sr["alerts"]))
    return lines


def unlock(sr_uuid, key):
    """Opens the disks of the SR by a recovery key."""
    call(["luksext", "unlock", "--sr-uuid=" + sr_uuid, "--key-stdin"], key + "\n", accept=_DONE)


def plug(sr_uuid):
    """Has XAPI use the SR whose disks are open."""
    pbd = call(["xe", "pbd-list", "sr-uuid=" + sr_uuid, "params=uuid", "--minimal"]).strip()
    if not pbd:
        raise Failed("XAPI does not know the SR: xe sr-introduce, xe pbd-create")
    call(["xe", "pbd-plug", "uuid=" + pbd])


class EncryptedStorageDialogue(xs.Dialogue):
    """The SRs to choose from. Raises Failed where the disks cannot be read."""

    def __init__(self):
        xs.Dialogue.__init__(self)
        self.Read()

    def Read(self):
        """Shows the SRs as they are now."""
        xs.Layout.Inst().TransientBanner(Lang("Reading the disks..."))
        choices = [xs.ChoiceDef(
            "{} {}".format(sr["sr_uuid"], Lang("locked") if is_locked(sr) else Lang("open")),
            lambda sr=sr: self.HandleChoice(sr)) for sr in read_srs()]
        if not choices:
            choices = [xs.ChoiceDef(Lang("<No encrypted SR has a disk in this host>"))]
        self.menu = xs.Menu(self, None, Lang("Encrypted Storage"), choices)
        pane = self.NewPane(xs.DialoguePane(self.parent))
        pane.TitleSet(Lang("Encrypted Storage"))
        pane.AddBox()
        self.UpdateFields()

    def UpdateFields(self):
        pane = self.Pane()
        pane.ResetFields()
        pane.AddTitleField(Lang("Select a Storage Repository"))
        pane.AddMenuField(self.menu)
        pane.AddKeyHelpField({Lang("<Enter>"): Lang("OK"), Lang("<Esc>"): Lang("Cancel")})

    def HandleChoice(self, sr):
        if is_locked(sr):
            dialogue = UnlockDialogue(self, sr)
        else:
            dialogue = xs.InfoDialogue("SR " + sr["sr_uuid"], "\n".join(describe(sr)))
        xs.Layout.Inst().PushDialogue(dialogue)

    def HandleKey(self, key):
        handled = self.menu.HandleKey(key)
        if not handled and key == "KEY_ESCAPE":
            xs.Layout.Inst().PopDialogue()
            handled = True
        return handled


class UnlockDialogue(xs.InputDialogue):
    """Asks for a recovery key; opens the disks by it, and plugs the SR."""

    def __init__(self, owner, sr):
        self.owner, self.sr = owner, sr
        self.custom = {"title": Lang("Unlock by Recovery Key")}
        xs.InputDialogue.__init__(self)

    def UpdateFields(self):
        pane = self.Pane()
        pane.ResetFields()
        pane.AddTitleField("SR " + self.sr["sr_uuid"])
        for line in describe(self.sr):
            pane.AddWrappedTextField(line)
        pane.NewLine()
        pane.AddPasswordField(Lang("Recovery key", 14), "", "key")
        pane.AddKeyHelpField({Lang("<Enter>"): Lang("Unlock"), Lang("<Esc>"): Lang("Cancel")})

    def HandleCommit(self, values):
        """What to show after the attempt, as (title, text)."""
        sr_uuid = self.sr["sr_uuid"]
        xs.Layout.Inst().TransientBanner(Lang("Unlocking..."))
        try:
            unlock(sr_uuid, values["key"])
        except Failed as error:
            return Lang("Not Unlocked"), str(error)
        try:
            plug(sr_uuid)
        except Failed as error:
            told = Lang("Unlocked, Not Plugged"), "The disks are open. {}".format(error)
        else:
            told = Lang("Unlocked and Plugged"), (
                "If the TPM was cleared, replaced or its PCRs changed, bind the SR to it as it is "
                "now, in the local command shell: luksext rebind --key-stdin --sr-uuid=" + sr_uuid)
        self.owner.Read()
        return told


class XSFeatureLuksExt:
    """The entry in xsconsole's menu of disks."""

    @classmethod
    def StatusUpdateHandler(cls, pane):
        # Called every few seconds: the disks are read when it is entered.
        pane.AddTitleField(Lang("Encrypted Storage"))
        pane.AddWrappedTextField(Lang(
            "Press <Enter> to see the encrypted Storage Repositories of this host, and to unlock "
            "one by its recovery key when the TPM does not."))
        pane.AddKeyHelpField({Lang("<Enter>"): Lang("Encrypted Storage")})

    @classmethod
    def Enter(cls):
        try:
            dialogue = EncryptedStorageDialogue()
        except Failed as error:
            dialogue = xs.InfoDialogue(Lang("Encrypted Storage"), str(error))
        xs.Layout.Inst().PushDialogue(dialogue)

    @classmethod
    def ActivateHandler(cls):
        xs.DialogueUtils.AuthenticatedOnly(cls.Enter)

    def Register(self):
        xs.Importer.RegisterNamedPlugIn(self, "LUKSEXT", {
            "menuname": "MENU_DISK",
            "menupriority": 250,
            "menutext": Lang("Encrypted Storage"),
            "statusupdatehandler": self.StatusUpdateHandler,
            "activatehandler": self.ActivateHandler})


XSFeatureLuksExt().Register()
