# SPDX-License-Identifier: LGPL-2.1-only
"""What xapi does with passwords in a map: by the end of the key's name, and by nothing else.

Source: ocaml/xapi/xapi_secret.ml.
"""

from __future__ import annotations

from .db import Database
from .errors import ApiError
from .log import Log


class Secrets:
    """The table `secret`, and the maps that refer to it."""

    def __init__(self, db: Database, log: Log) -> None:
        self._db = db
        self._log = log

    def create(self, secret: str) -> str:
        """Store a value; returns its uuid."""
        return str(self._db.get("secret", self._db.create("secret", {"value": secret}), "uuid"))

    def move_passwords(self, pairs: dict[str, str]) -> dict[str, str]:
        """The map with each `…password` replaced by `…password_secret`. Its order is reversed."""
        moved = [self._moved(key, text) for key, text in pairs.items()]
        return dict(reversed(moved))

    def _moved(self, key: str, text: str) -> tuple[str, str]:
        if not key.endswith("password"):
            return key, text
        self._log.warn(
            "xapi_secret",
            f"Replacing deprecated {key} with {key}_secret, "
            f"please avoid using {key} in device-config!",
        )
        return f"{key}_secret", self.create(text)

    def duplicate_passwords(self, pairs: dict[str, str]) -> dict[str, str]:
        """The map with each `…password_secret` naming a copy. Raises UUID_INVALID."""
        return {
            key: self._copy(text) if key.endswith("password_secret") else text
            for key, text in pairs.items()
        }

    def _copy(self, uuid: str) -> str:
        return self.create(self._db.get("secret", self._db.by_uuid("secret", uuid), "value"))

    def clean_out(self, pairs: dict[str, str]) -> None:
        """Destroy the secrets that `…password_secret` keys name; missing ones are no error."""
        for key, uuid in pairs.items():
            if key.endswith("password_secret"):
                try:
                    self._db.destroy("secret", self._db.by_uuid("secret", uuid))
                except ApiError:
                    continue
