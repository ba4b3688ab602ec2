# SPDX-License-Identifier: LGPL-2.1-only
"""The command `xe`: parameters, output and errors as xapi's (xen-api: ocaml/xapi-cli-server)."""
