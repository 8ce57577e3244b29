"""Whether a process is known to be gone: what decides over leases and over runs told as crashed."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from haltuun.processes import is_gone, is_here, machine, process

OWN = process(os.getpid())


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def ended() -> int:
    """The pid of a process that was waited for."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_one_that_runs_is_here_and_one_that_was_waited_for_is_gone(ended: int) -> None:
    here = machine()
    assert (is_here(here, OWN), is_gone(here, OWN)) == (True, False)
    assert (is_here(here, f"{ended} 5"), is_gone(here, f"{ended} 5")) == (False, True)
    assert (is_here("elsewhere", OWN), is_gone("elsewhere", f"{ended} 5")) == (False, False)


def test_another_process_of_the_same_pid_is_not_it() -> None:
    assert is_gone(machine(), f"{os.getpid()} 1")


def test_a_living_one_whose_start_cannot_be_read_is_not_gone() -> None:
    here = machine()
    with no_descriptor_left():
        with pytest.raises(OSError, match="Too many open files"):
            Path("/proc/self/stat").read_text()
        assert not is_gone(here, OWN)
        assert is_here(here, OWN)


def test_one_whose_start_was_never_read_is_gone_only_with_its_pid(ended: int) -> None:
    assert not is_gone(machine(), f"{os.getpid()} 0")
    assert is_gone(machine(), f"{ended} 0")
