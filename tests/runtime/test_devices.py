"""rlresearch/runtime/devices.py: what is settled before TensorFlow starts."""

import errno
import os
from pathlib import Path

import pytest
from support.failing_disks import read_only

from rlresearch.runtime import devices
from rlresearch.runtime.devices import XLA_FLAGS, with_own_flags


def test_xla_gets_the_flags_that_make_programs_faster():
    assert with_own_flags("").split() == list(XLA_FLAGS)


@pytest.mark.parametrize("given", ["--xla_cpu_prefer_vector_width=256", "--xla_dump_to=folder --xla_dump_hlo_as_text"])
def test_what_the_user_gives_xla_stays_and_wins(given):
    flags = with_own_flags(given).split()
    assert set(given.split()) <= set(flags)
    names = [flag.partition("=")[0] for flag in flags]
    assert len(names) == len(set(names))
    assert {flag.partition("=")[0] for flag in XLA_FLAGS} <= set(names)


def test_a_second_preparation_adds_nothing():
    once = with_own_flags("--xla_cpu_max_isa=AVX2")
    assert with_own_flags(once) == once


def test_the_oldest_compiled_programs_go_when_there_are_too_many(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = devices.cache_folder()
    for age in range(10):
        (folder / str(age)).write_bytes(bytes(100))
        os.utime(folder / str(age), (1000 - age, 1000 - age))
    monkeypatch.setattr(devices, "MOST_CACHED", 1000)
    devices.cache_folder()
    assert len(list(folder.iterdir())) == 10
    (folder / "new").write_bytes(bytes(1))
    devices.cache_folder()
    assert {each.name for each in folder.iterdir()} == {"new", "0", "1", "2", "3"}


def _full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _without_home():
    raise RuntimeError("Could not determine home directory.")


@pytest.mark.parametrize("trouble", ["read-only", "full", "a file", "no home"])
def test_without_a_place_for_compiled_programs_none_is_named_and_that_is_said_once(
    trouble, tmp_path, monkeypatch, caplog
):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    if trouble == "full":
        monkeypatch.setattr(os, "posix_fallocate", _full)
    elif trouble == "a file":
        (tmp_path / ".cache").write_text("")
    elif trouble == "no home":
        monkeypatch.setattr(Path, "home", _without_home)
    with monkeypatch.context() as patch:
        patch.setattr(devices, "warned", set())
        if trouble == "read-only":
            with read_only(tmp_path):
                found = [devices.cache_folder() for _ in range(3)]
        else:
            found = [devices.cache_folder() for _ in range(3)]
    assert found == [None] * 3
    (said,) = caplog.messages
    assert said.startswith("compiled programs are not kept (") and "XDG_CACHE_HOME" in said


def test_tensorflow_is_told_of_no_cache_where_there_is_none(monkeypatch):
    monkeypatch.setattr(devices, "cache_folder", lambda: None)
    monkeypatch.setenv("TF_XLA_FLAGS", "")
    devices.prepare("cpu", None, False, compile_cache=True)
    assert "cache" not in os.environ["TF_XLA_FLAGS"]
