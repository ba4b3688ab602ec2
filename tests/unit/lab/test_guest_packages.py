# SPDX-License-Identifier: LGPL-2.1-only
"""Which packages a guest is made of."""

import pytest

from tests.lab import debs
from tests.lab.debs import Package
from tests.lab.errors import LabError

SIMULATION = """\
NOTE: This is only a simulation!
Reading package lists...
Inst gcc-12-base (12.2.0-14+deb12u1 Debian:12.15/oldstable [amd64])
Inst libc6 (2.36-9+deb12u14 Debian:12.15/oldstable [amd64]) []
Inst udev [252.1] (2:252.39-1~deb12u2 Debian:12.15/oldstable, Debian-Security:12 [amd64])
Inst tpm-udev (0.6 Debian:12.15/oldstable [all])
Conf libc6 (2.36-9+deb12u14 Debian:12.15/oldstable [amd64])
"""


def test_reads_what_would_be_installed() -> None:
    assert debs.parse_simulation(SIMULATION) == [
        Package("gcc-12-base", "12.2.0-14+deb12u1", "amd64"),
        Package("libc6", "2.36-9+deb12u14", "amd64"),
        Package("udev", "2:252.39-1~deb12u2", "amd64"),
        Package("tpm-udev", "0.6", "all"),
    ]


def test_file_name_has_its_epoch_escaped() -> None:
    assert Package("udev", "2:252-1", "amd64").file_name == "udev_2%3a252-1_amd64.deb"


def test_kernel_is_the_one_that_the_metapackage_depends_on() -> None:
    text = "linux-image-amd64\n  Depends: linux-image-6.1.0-56-amd64\n"
    assert debs.parse_kernel_name(text) == "linux-image-6.1.0-56-amd64"


def test_no_kernel_says_what_to_do() -> None:
    with pytest.raises(LabError, match="apt-get update"):
        debs.parse_kernel_name("linux-image-amd64\n")


@pytest.mark.parametrize("name", ["perl", "libperl5.36", "perl-modules-5.36", "usrmerge", "dpkg"])
def test_leaves_out_what_only_maintainer_scripts_use(name: str) -> None:
    assert debs.UNUSED.fullmatch(name)


@pytest.mark.parametrize("name", [*debs.WANTED, "libc6", "libudev1"])
def test_leaves_out_nothing_else(name: str) -> None:
    assert not debs.UNUSED.fullmatch(name)
