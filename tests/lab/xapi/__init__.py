# SPDX-License-Identifier: LGPL-2.1-only
"""An emulator of XAPI, as far as a storage driver of SMAPIv1 and its clients can see it.

It runs the real driver as xapi does and keeps the order of its calls, what it stores and what
it logs. Pools of several hosts: see pool.py. Sources of the behaviour: xapi-project/xen-api
(ocaml/xapi), version 26.1.4 (XCP-ng 8.3).
"""
