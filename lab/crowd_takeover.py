"""One takeover of a crowd as a flow run, in a process of its own: `python -m lab.crowd_takeover FOLDER MODE`.

FOLDER is what Crowd.write filled; MODE is plan, apply, or approve, which changes everything; the environment
names the account and the Prefect server. Prints one line of JSON: how it ended, and what it cost.
"""

from __future__ import annotations

import json
import os
import re
import resource
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path
from types import FrameType
from typing import Any

from flows import takeover as flow
from lab.crowd import ALIAS, CrowdDoor

TICK_S = 0.02
# The innermost frame of one of these says whose work it is; libraries count for who called them.
OWNERS = {"great_expectations": "GX", "prefect": "Prefect", "botocore": "AWS calls", "haltuun": "Haltuun"}
OWNERS |= {"tasks": "Haltuun", "flows": "Haltuun"}


class Shares:
    """Seconds of CPU of this process, by whose code a thread ran: sampled, with each thread's own clock."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._spent: dict[int, float] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Shares:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _sample(self) -> None:
        own = threading.get_ident()
        while not self._over.wait(TICK_S):
            for ident, frame in sys._current_frames().items():
                if ident != own:
                    self.seconds[_owner(frame)] += self._since(ident)

    def _since(self, ident: int) -> float:
        try:
            spent = time.clock_gettime(time.pthread_getcpuclockid(ident))
        except OSError:  # it has ended
            return 0.0
        before = self._spent.get(ident, 0.0)
        self._spent[ident] = spent
        return max(0.0, spent - before) if before else 0.0


def _owner(frame: FrameType | None) -> str:
    while frame is not None:
        name = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if name in OWNERS:
            return OWNERS[name]
        frame = frame.f_back
    return "other"


def main(folder: Path, mode: str) -> int:
    os.environ["HALTUUN_CONFIG"] = str(folder / "haltuun.yaml")
    flow.open_host = CrowdDoor(folder)  # type: ignore[attr-defined]
    began = time.monotonic()
    with Shares() as shares:
        state = flow.take_over_account(
            ALIAS,
            "plan" if mode == "plan" else "apply",
            approve_all=mode == "approve",
            return_state=True,
        )
    seconds = time.monotonic() - began
    print(json.dumps({"state": state.name, "seconds": seconds, **_cost(shares)}))
    return 0


def _cost(shares: Shares) -> dict[str, Any]:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = re.search(r"VmHWM:\s+(\d+) kB", status)
    return {
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "shares_s": dict(shares.seconds),
        "peak_mb": int(peak[1]) / 1024 if peak else 0.0,
    }


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
