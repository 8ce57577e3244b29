"""What is under way, while a run lasts: a live table on a terminal, lines elsewhere. On stderr."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from haltuun.cli.server import answers
from haltuun.cli.tables import codes, grid, names_of, short, verdict_cell
from haltuun.engine import LOOKING, Takeover, current
from haltuun.model import StageName, Verdict
from haltuun.report.render import count_sentence

REFRESH_S = 0.5
# Without a terminal a line says that the run is alive at least this often.
ALIVE_S = 30.0
DOING_LINES = 3
# How often the Prefect server is asked whether it is there.
SERVER_S = 10.0
# Of the terminal's height for title, head, lines and margins.
AROUND_ROWS = 8


@contextmanager
def watched(url: str) -> Iterator[None]:
    """Says when the Prefect server at `url` stops answering: its client waits for it for minutes, mute."""
    done = threading.Event()
    quiet, logging.raiseExceptions = logging.raiseExceptions, False  # its log thread writes to stderr itself

    def watch() -> None:
        missed = 0
        while not done.wait(SERVER_S):
            missed = 0 if answers(url) else missed + 1
            if missed == 2:
                sys.stderr.write(
                    f"haltuun: the Prefect server at {url} does not answer. The run waits some minutes"
                    " for it, then ends; what was done is in the ledger.\n"
                )

    threading.Thread(target=watch, name="server", daemon=True).start()
    try:
        yield
    finally:
        done.set()
        logging.raiseExceptions = quiet


class Progress:
    """Shows the running takeover of this process until the block ends."""

    def __init__(self, *, shown: bool) -> None:
        self._console = Console(stderr=True)
        self._shown = shown
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="progress", daemon=True)
        self._told: set[tuple[str, StageName, str]] = set()
        self._began = self._spoke = time.monotonic()

    def __enter__(self) -> Progress:
        if self._shown:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        if self._shown:
            self._thread.join()

    def _watch(self) -> None:
        if not self._console.is_terminal:
            while not self._done.wait(REFRESH_S):
                self._tell_lines()
            self._tell_lines()
            return
        with Live(console=self._console, auto_refresh=False, transient=True) as live:
            while not self._done.wait(REFRESH_S):
                takeover = current()
                if takeover is not None:
                    live.update(self._picture(takeover), refresh=True)

    # -- lines ---------------------------------------------------------------------------------

    def _tell_lines(self) -> None:
        takeover = current()
        if takeover is None:
            return
        for name in takeover.stages:
            word, said = _step(takeover, name)
            if word and (takeover.run.id, name, word) not in self._told:
                self._told.add((takeover.run.id, name, word))
                self._say(f"{name.value:9} {said}")
        if time.monotonic() - self._spoke > ALIVE_S:
            self._say(f"{self._elapsed():>9} {_doing(takeover)[0]}")

    def _say(self, line: str) -> None:
        self._spoke = time.monotonic()
        self._console.print(Text(line), soft_wrap=True)

    # -- table ---------------------------------------------------------------------------------

    def _picture(self, takeover: Takeover) -> RenderableType:
        run = takeover.run
        title = f"{run.account.named}  {run.mode}  run {run.id}  {self._elapsed()}"
        room = max(3, self._console.height - AROUND_ROWS - DOING_LINES)
        table, left = _table(takeover, room, self._console.width)
        below = [Text(line, style="dim") for line in ([left] if left else [])]
        below += [Text(short(line, self._console.width - 1), style="blue") for line in _doing(takeover)]
        return Group(Text(short(title, self._console.width - 1)), table, *below)

    def _elapsed(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
        return f"{minutes}:{seconds:02}"


def _step(takeover: Takeover, name: StageName) -> tuple[str, str]:
    """What a stage is at, as one word, and as a line that is told once for each word."""
    progress = takeover.progress[name]
    if progress.statuses:
        return "gate", f"gate: {count_sentence(list(progress.statuses.values()))}"
    doing = list(progress.doing.items())
    changing = [(host, short_name) for host, (short_name, _) in doing if short_name != LOOKING]
    if changing:
        host, short_name = changing[0]
        more = f" and {len(changing) - 1} more" if len(changing) > 1 else ""
        return short_name, f"{short_name}: {short(takeover.hosts[host].label, 60)}{more}"
    return (LOOKING, "looking at the hosts") if doing else ("", "")


def _doing(takeover: Takeover) -> list[str]:
    """What is under way, changes before looks; a few lines."""
    names = names_of(takeover.hosts)
    lines = [
        (word == LOOKING, f"{name.value}  {summary if word != LOOKING else 'looking at ' + names[host]}")
        for name, progress in takeover.progress.items()
        for host, (word, summary) in list(progress.doing.items())
    ]
    told = [line for _, line in sorted(lines, key=lambda line: line[0])]
    if not told:
        stage = next((n.value for n in takeover.sequence() if not takeover.progress[n].statuses), "the end")
        told = ["looking at the account, planning" if takeover.plan is None else f"{stage}  waiting for AWS"]
    if len(told) > DOING_LINES:
        told = [*told[: DOING_LINES - 1], f"and {len(told) - DOING_LINES + 1} more at the same time"]
    return told


def _table(takeover: Takeover, room: int, width: int) -> tuple[Table, str]:
    """The table, and what of it did not fit: the hosts under way and those in trouble come first."""
    hosts = takeover.hosts
    left = ""
    if len(hosts) > room:
        chosen = sorted(hosts, key=lambda host: _urgency(takeover, host))[:room]
        hosts = {host: takeover.hosts[host] for host in takeover.hosts if host in set(chosen)}
        left = f"and {len(takeover.hosts) - room} more hosts"

    def cell(name: StageName, host: str) -> Text:
        progress = takeover.progress[name]
        status = progress.statuses.get(host)
        if status is not None:
            return verdict_cell(status)
        doing = progress.doing.get(host)
        return Text("" if doing is None else "look…" if doing[0] == LOOKING else "work…", style="blue")

    def why(host: str) -> str:
        return codes({n: p.statuses[host] for n, p in takeover.progress.items() if host in p.statuses})

    return grid(hosts, takeover.stages, cell, why, width=width), left


def _urgency(takeover: Takeover, host: str) -> int:
    if any(host in progress.doing for progress in takeover.progress.values()):
        return 0
    bad = (Verdict.held, Verdict.unknown, Verdict.waiting)
    found = [p.statuses[host].verdict for p in takeover.progress.values() if host in p.statuses]
    return 1 if any(verdict in bad for verdict in found) else 2
