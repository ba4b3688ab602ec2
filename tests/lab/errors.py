# SPDX-License-Identifier: LGPL-2.1-only
"""What goes wrong in the lab, as sentences that say what to do."""


class LabError(Exception):
    """The lab itself cannot go on: something of the host is missing, or a guest did not answer."""


class CommandFailed(LabError):
    """A command in a guest failed, and the caller had not allowed for it."""


class CommandTimeout(LabError):
    """A command in a guest did not end in the time that it was given; it has been killed."""
