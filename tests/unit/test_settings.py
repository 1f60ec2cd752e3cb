# SPDX-License-Identifier: MIT
"""What settings come to on a host, and the configuration file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from uvmm.config import load
from uvmm.errors import BadInputError
from uvmm.settings import (
    Settings,
    Sizes,
    check_run_dir,
    http_port,
    idle_cost_permille,
    resolve,
    share_cpu_permille,
)

GIB = 1 << 30


def resolved(*, disk_gib: int = 100, **given: Any) -> Sizes:
    return resolve(
        Settings(run_dir="/run/uvmm", **given),
        ram_bytes=16 * GIB, free_disk_bytes=disk_gib * GIB,
    )


class TestSizes:
    def test_defaults_suit_a_laptop(self) -> None:
        sizes = resolved()
        assert (sizes.memory_bytes, sizes.swap_bytes) == (4 * GIB, 8 * GIB)
        assert str(sizes.swap_path).startswith("/var/tmp/uvmm-")

    def test_swap_takes_at_most_half_of_the_disk(self) -> None:
        assert resolved(disk_gib=2).swap_bytes == GIB

    def test_run_directories_have_different_swap_files(self) -> None:
        one, other = (
            resolve(Settings(run_dir=d), ram_bytes=GIB, free_disk_bytes=GIB).swap_path
            for d in ("/run/a", "/run/b")
        )
        assert one != other

    def test_percentages(self) -> None:
        sizes = resolved(memory="50%", swap_size="150%")
        assert (sizes.memory_bytes, sizes.swap_bytes) == (8 * GIB, 12 * GIB)

    def test_no_swap(self) -> None:
        assert resolved(swap_size="0") == Sizes(
            memory_bytes=4 * GIB, swap_bytes=0, swap_path=None
        )

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            ({"memory": "1M"}, "too small"),
            ({"memory": "0"}, "too small"),
            ({"memory": "17G"}, "more than this machine's RAM"),
            ({"memory": "101%"}, "more than this machine's RAM"),
            ({"memory": "much"}, "is no size"),
            ({"swap_size": "101G"}, "does not fit"),
        ],
    )
    def test_what_cannot_be_had_is_refused(self, given: dict[str, Any], words: str) -> None:
        with pytest.raises(BadInputError, match=words):
            resolved(**given)


class TestShares:
    @pytest.mark.parametrize(
        ("given", "permille"), [(None, 4), ("0", 0), ("0.2%", 2), (" 1 %", 10), ("100", 1000)]
    )
    def test_cost_of_idle_pages(self, given: str | None, permille: int) -> None:
        assert idle_cost_permille(Settings(run_dir="/run", idle_cost=given)) == permille

    @pytest.mark.parametrize("given", ["x", "", "-1", "101", "nan", "1e9", "1%%"])
    def test_no_percentages(self, given: str) -> None:
        with pytest.raises(BadInputError, match=r"--idle-cost .*, such as 0\.4%"):
            idle_cost_permille(Settings(run_dir="/run", idle_cost=given))
        with pytest.raises(BadInputError, match=r"--share-cpu .*, such as 5%"):
            share_cpu_permille(Settings(run_dir="/run", share_cpu=given))


@pytest.mark.parametrize("path", ["run", "/", "/" + "x" * 100, "/run/\udcff"])
def test_run_directories_that_cannot_be(path: str) -> None:
    with pytest.raises(BadInputError):
        check_run_dir(path)


class TestConfigFile:
    def config(self, directory: Path, text: str) -> dict[str, str]:
        file = directory / "uvmm.toml"
        file.write_text(text)
        return load(file)

    def test_all_keys(self, tmp_path: Path) -> None:
        got = self.config(tmp_path, 'memory = "2G"\nswap_size = 4096\nmemory_via = "fuse"\n')
        assert got == {"memory": "2G", "swap_size": "4096", "memory_via": "fuse"}

    def test_a_relative_swap_file_is_beside_the_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert self.config(tmp_path, 'swap = "a/b"') == {"swap": f"{tmp_path}/a/b"}
        assert self.config(tmp_path, 'swap = "/c"') == {"swap": "/c"}
        monkeypatch.chdir(tmp_path)
        assert load(Path("uvmm.toml")) == {"swap": "/c"}
        Path("uvmm.toml").write_text('swap = "d"')
        assert load(Path("uvmm.toml")) == {"swap": f"{tmp_path}/d"}

    def test_an_unknown_key_tells_what_was_expected(self, tmp_path: Path) -> None:
        with pytest.raises(BadInputError, match=r"unknown key 'memroy'; expected memory, swap"):
            self.config(tmp_path, 'memroy = "2G"')

    @pytest.mark.parametrize(
        "text", ["memory = [1]", "memory = true", "memory =", "\0", "memory_via = 'ftp'"]
    )
    def test_bad_values_are_refused_in_one_line(self, tmp_path: Path, text: str) -> None:
        with pytest.raises(BadInputError) as refused:
            self.config(tmp_path, text)
        assert "\n" not in str(refused.value)

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(BadInputError, match="No such file"):
            load(tmp_path / "none.toml")


class TestHttpPort:
    @pytest.mark.parametrize(
        ("given", "port"), [(None, None), ("0", 0), ("8080", 8080), ("65535", 65535)]
    )
    def test_ports(self, given: str | None, port: int | None) -> None:
        assert http_port(Settings(run_dir="/run", http=given)) == port

    @pytest.mark.parametrize(
        "given", ["-1", "65536", "http", "", "80 ", "\u0663", "9" * 30, "1e3", "0x50"]
    )
    def test_what_is_none(self, given: str) -> None:
        with pytest.raises(BadInputError, match="a port number is expected"):
            http_port(Settings(run_dir="/run", http=given))
