# SPDX-License-Identifier: LGPL-2.1-only
"""Names that several modules share."""
EXT_PREFIX = "XSLocalEXT-"
