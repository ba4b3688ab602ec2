# SPDX-License-Identifier: LGPL-2.1-only
"""Which drivers the hosts have, and the table SM (sm_exec.ml, storage_access.ml, xapi_sm.ml)."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

from . import conf, wire
from .db import Database
from .driver import Driver
from .errors import ApiError
from .log import Log
from .nodes import Nodes

#: ocaml/xapi/smint.ml, string_to_capability_table.
KNOWN_FEATURES = frozenset(
    [
        "SR_CREATE",
        "SR_DELETE",
        "SR_ATTACH",
        "SR_DETACH",
        "SR_SCAN",
        "SR_PROBE",
        "SR_UPDATE",
        "SR_SUPPORTS_LOCAL_CACHING",
        "SR_METADATA",
        "SR_TRIM",
        "SR_MULTIPATH",
        "SR_CACHING",
        "SR_STATS",
        "VDI_CREATE",
        "VDI_DELETE",
        "VDI_ATTACH",
        "VDI_DETACH",
        "VDI_MIRROR",
        "VDI_MIRROR_IN",
        "VDI_RESIZE",
        "VDI_RESIZE_ONLINE",
        "VDI_CLONE",
        "VDI_SNAPSHOT",
        "VDI_ACTIVATE",
        "VDI_ACTIVATE_READONLY",
        "VDI_DEACTIVATE",
        "VDI_UPDATE",
        "VDI_INTRODUCE",
        "VDI_GENERATE_CONFIG",
        "VDI_ATTACH_OFFLINE",
        "VDI_RESET_ON_BOOT",
        "VDI_CONFIG_CBT",
        "VDI_COMPOSE",
        "LARGE_VDI",
        "THIN_PROVISIONING",
        "VDI_READ_CACHING",
        "VDI_REVERT",
    ]
)


@dataclass(frozen=True)
class DriverInfo:
    """What a driver said of itself, as a row of SM."""

    executable: Path
    type: str
    fields: dict[str, str]
    configuration: dict[str, str]
    features: dict[str, str]
    supported_image_formats: list[str]

    def row(self) -> dict[str, object]:
        """The fields of the SM record."""
        return {
            "type": self.type,
            "name_label": self.fields["name"],
            "name_description": self.fields["description"],
            "vendor": self.fields["vendor"],
            "copyright": self.fields["copyright"],
            "version": self.fields["driver_version"],
            "required_api_version": self.fields["required_api_version"],
            "configuration": self.configuration,
            "capabilities": sorted(self.features),
            "features": self.features,
            "driver_filename": str(self.executable),
            "supported_image_formats": self.supported_image_formats,
        }


def parse_driver_info(executable: Path, answer: ET.Element) -> DriverInfo:
    """Read sr_get_driver_info strictly. Raises WireError or KeyError: the driver is rejected."""
    struct = wire.as_struct(answer)
    names = ["name", "description", "vendor", "copyright", "driver_version", "required_api_version"]
    options = [
        (wire.as_string(option["key"]), wire.as_string(option["description"]))
        for option in wire.as_array(struct["configuration"], wire.as_struct)
    ]
    formats = struct.get("supported_image_formats")
    return DriverInfo(
        executable,
        executable.name.removesuffix("SR").lower(),
        {name: wire.as_string(struct[name]) for name in names},
        dict(options),
        _features(wire.as_array(struct["capabilities"], wire.as_string)),
        [] if formats is None else wire.as_array(formats, wire.as_string),
    )


def _features(capabilities: list[str]) -> dict[str, str]:
    """NAME or NAME/version; unknown names are dropped, a bad version is 1."""
    features: dict[str, str] = {}
    for capability in capabilities:
        name, _, version = capability.partition("/")
        if name in KNOWN_FEATURES:
            features.setdefault(name, version if version.isdigit() and version != "0" else "1")
    return dict(sorted(features.items()))


class Registry:
    """The drivers found when each host started; nothing looks for them later."""

    def __init__(self, db: Database, log: Log, driver: Driver, nodes: Nodes) -> None:
        self._db = db
        self._log = log
        self._driver = driver
        self._nodes = nodes
        #: By host and type.
        self._found: dict[str, dict[str, DriverInfo]] = {}

    def register(self, host: str) -> None:
        """What the start of a host does: look for its drivers, bring the table SM in line."""
        self._synchronise(host, self.look(host))

    def look(self, host: str) -> set[str]:
        """Ask each of a host's drivers for its description; the names of all that is there."""
        node = self._nodes.of(host)
        settings = node.settings()
        folder = Path(settings["sm-dir"])
        self._log.info("xapi", "Registering SMAPIv1 plugins")
        self._found[host] = {}
        programs = node.programs(str(folder))
        if programs is not None:
            self._log.debug("sm_exec", f"Scanning directory {folder} for SM plugins")
            for name, executable in programs.items():
                if name.endswith("SR"):
                    self._consider(host, folder / name, executable, settings)
        else:
            self._log.error(
                "sm_exec", f"Not scanning {folder} for SM backends: directory does not exist"
            )
        return set(programs or {})

    def forget(self, host: str) -> None:
        """A host has left the pool."""
        self._found.pop(host, None)

    def _consider(
        self, host: str, path: Path, executable: bool, settings: dict[str, str]
    ) -> None:
        name = path.name.removesuffix("SR")
        if not conf.accepts(settings, name):
            self._log.info(
                "sm_exec",
                f"Skipping SMAPIv1 plugin {name}: "
                "not in sm-plugins whitelist in configuration file",
            )
            return
        try:
            if not executable:
                raise PermissionError(f"{path} is not executable")
            info = parse_driver_info(path, self._driver.query(host, path))
        except Exception as problem:  # pylint: disable=broad-except
            # As in xapi: whatever is wrong with a driver, xapi starts without it.
            self._log.error(
                "sm_exec",
                f"Rejecting SM plugin: {name} because of exception: "
                f"{_reason(problem)} (executable)",
            )
            return
        self._found[host][info.type] = info

    def _synchronise(self, host: str, names: set[str]) -> None:
        """Rows for what was found on a host; rows whose file it has not go, though other hosts may
        have it (xapi 25.21 and later)."""
        found = self._found[host]
        for ref, row in self._db.records("SM").items():
            needed = row["type"] in found or self._type_in_use(row["type"])
            if not needed or Path(row["driver_filename"]).name not in names:
                self._db.destroy("SM", ref)
        rows = {row["type"]: ref for ref, row in self._db.records("SM").items()}
        for info in found.values():
            if info.type in rows:
                self._update(rows[info.type], info)
            else:
                self._db.create("SM", info.row())
        self._db.flush()

    def _type_in_use(self, driver_type: str) -> bool:
        return any(record["type"] == driver_type for record in self._db.records("SR").values())

    def _update(self, ref: str, info: DriverInfo) -> None:
        """Renew a row; features are only ever added (until xapi 26.12), and not before every host
        has offered them (host_pending_features)."""
        offers = [self._found.get(host, {}).get(info.type) for host in self._db.refs("host")]
        agreed = {
            name: version
            for name, version in info.features.items()
            if all(offer is not None and name in offer.features for offer in offers)
        }
        features = {**self._db.get("SM", ref, "features"), **agreed}
        for field, value in info.row().items():
            self._db.set("SM", ref, field, value)
        self._db.set("SM", ref, "features", features)
        self._db.set("SM", ref, "capabilities", sorted(features))

    def types(self, host: str) -> list[str]:
        """SR types that a driver was found for on a host."""
        return sorted(self._found[host])

    def driver_of(self, host: str, sr_type: str) -> DriverInfo:
        """A host's driver of a type. Raises SR_UNKNOWN_DRIVER."""
        try:
            return self._found.get(host, {})[sr_type]
        except KeyError:
            raise ApiError("SR_UNKNOWN_DRIVER", sr_type) from None

    def row_features(self, sr_type: str) -> dict[str, str]:
        """Features in the SM row of the type: none when the row is missing."""
        for row in self._db.records("SM").values():
            if row["type"] == sr_type:
                return dict(row["features"])
        return {}


def _reason(problem: Exception) -> str:
    return str(problem) if isinstance(problem, ApiError) else f"{type(problem).__name__}({problem})"
