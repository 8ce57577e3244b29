"""Boxes without a lab around them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from lab.box.base import ensure_base
from lab.box.box import Box
from lab.box.keys import KeyPair, make_host_keys, make_key_pair
from lab.box.layers import build_common_layer
from lab.box.machine import Machine
from lab.scenario import OPERATING_SYSTEMS

KEY: KeyPair = make_key_pair("test")


@contextlib.contextmanager
def running_box(
    folder: Path, os_name: str, address: str = "10.20.0.5", before: Callable[[Box], None] = lambda box: None
) -> Iterator[Box]:
    system = OPERATING_SYSTEMS[os_name]
    base = ensure_base(print)
    machine = Machine(
        name=f"box-{system.codename}",
        private_ip=address,
        os_release=system.os_release,
        init=system.init,
        openssh=system.openssh,
        user=system.user,
        authorized_key=KEY.public,
        host_keys=make_host_keys("box"),
    )
    box = Box(machine, folder / machine.name, [build_common_layer(folder / "common", base), base])
    try:
        box.prepare()
        before(box)
        box.start()
        yield box
    finally:
        box.stop()
