# SPDX-License-Identifier: LGPL-2.1-only
"""Sessions: the clients' own, and the one a driver gets for one call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from . import clock
from .db import Database
from .errors import ApiError
from .schema import NULL

#: Key of session.other_config that lets a driver write what belongs to its SR (xapi_globs.ml).
SM_SESSION = "_sm_session"


class Sessions:
    """Opens, checks and ends sessions."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def login(self, originator: str = "", other_config: dict[str, str] | None = None) -> str:
        """A new session; credentials are not checked, the lab has no users."""
        return self._db.create(
            "session",
            {
                "originator": originator,
                "other_config": other_config or {},
                "last_active": clock.now(),
                "is_local_superuser": True,
            },
        )

    def logout(self, session: str) -> None:
        """End a session; one that has ended already is no error."""
        if self._db.exists("session", session):
            self._db.destroy("session", session)

    def check(self, session: str) -> None:
        """Raises SESSION_INVALID."""
        if not isinstance(session, str) or not self._db.exists("session", session):
            raise ApiError("SESSION_INVALID", str(session))

    @contextmanager
    def for_driver(self, sr: str | None) -> Iterator[str]:
        """A session for one call of a driver; marked with its SR, if there is one.

        Source: Xapi_session.SM.with_session.
        """
        session = self.login("__sm__backend", {SM_SESSION: sr} if sr else {})
        try:
            yield session
        finally:
            self.logout(session)

    def assert_driver_of(self, session: str, sr: str) -> None:
        """Raises PERMISSION_DENIED unless this is the session of the driver of that SR.

        Source: Sm.assert_session_has_internal_sr_access.
        """
        marked = self._db.get("session", session, "other_config").get(SM_SESSION, NULL)
        if marked != sr:
            raise ApiError("PERMISSION_DENIED", "")
