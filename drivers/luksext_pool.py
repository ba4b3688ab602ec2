# SPDX-License-Identifier: LGPL-2.1-only
"""Asks every host of the pool through its plugin, all at once."""
import contextlib
import json
import queue
import re
import threading
import time

import XenAPI

PLUGIN = "luksext"

# Seconds to wait for another host: one status of 24 disks, with reserve.
_HOST_DEADLINE = 120

# Failures of XAPI whose parameters tell nobody anything: references.
_SENTENCES = {
    "CANNOT_CONTACT_HOST": "The pool's master cannot reach it: it is down, or the network is.",
    "HOST_OFFLINE": "It is down, or its XAPI is: start it, or run xe-toolstack-restart on it.",
    "XENAPI_MISSING_PLUGIN":
        "The package luksext is not installed on this host: install it on every host.",
}


def ask(session, function):
    """What each host answers to `function`, ordered by the hosts' names, as a list of dictionaries.

    One that cannot be asked has the error in words, and the code of XAPI's error ("" for none).
    """
    hosts = session.xenapi.host.get_all_records()
    answers = queue.Queue()
    for ref in hosts:
        # Daemons: a host that never answers must not keep this process.
        threading.Thread(target=_ask, args=(session, ref, function, answers), daemon=True).start()
    told = {}
    end = time.monotonic() + _HOST_DEADLINE
    with contextlib.suppress(queue.Empty):
        while len(told) < len(hosts):
            ref, answer = answers.get(timeout=max(0, end - time.monotonic()))
            told[ref] = answer
    late = {"error": "It did not answer within {} seconds.".format(_HOST_DEADLINE), "code": ""}
    return [dict({"host_uuid": host["uuid"], "host": host["name_label"]}, **told.get(ref, late))
            for ref, host in sorted(hosts.items(), key=lambda item: item[1]["name_label"])]


def _ask(session, host, function, answers):
    # A session object speaks with one caller at a time.
    own = XenAPI.xapi_local()
    own._session = session._session
    try:
        answers.put((host, json.loads(own.xenapi.host.call_plugin(host, PLUGIN, function, {}))))
    except XenAPI.Failure as error:
        answers.put((host, {"error": _why(error), "code": str(error.details[0])}))
    except (OSError, ValueError) as error:
        answers.put((host, {"error": "Its answer cannot be read: {}.".format(error), "code": ""}))


def _why(error):
    code, *params = map(str, error.details)
    if code in _SENTENCES:
        return _SENTENCES[code]
    told = " ".join(re.sub(r"OpaqueRef:[\w-]+", "", " ".join(params)).split())
    return "XAPI answers {}{}".format(code, ": " + told if told else ".")
