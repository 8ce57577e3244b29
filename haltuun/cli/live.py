"""The table hosts × stages while a run is under way."""

from __future__ import annotations

import threading
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table

from haltuun.engine import LOOKING, Takeover, current
from haltuun.model import StageName, Verdict
from haltuun.report.render import plain

STYLE = {
    Verdict.passed: ("passed", "green"),
    Verdict.held: ("HELD", "bold red"),
    Verdict.unknown: ("unknown", "magenta"),
    Verdict.waiting: ("waiting", "yellow"),
    Verdict.pending: ("pending", "dim"),
    Verdict.excluded: ("excluded", "dim"),
    Verdict.waived: ("waived", "cyan"),
}
REFRESH_S = 0.5


class Progress:
    """Shows the running takeover of this process until the block ends; on a terminal as a live table."""

    def __init__(self, *, shown: bool) -> None:
        self._console = Console(stderr=True)
        self._shown = shown
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="progress", daemon=True)
        self._told: set[tuple[StageName, str]] = set()

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
        with Live(console=self._console, refresh_per_second=2, transient=True) as live:
            while not self._done.wait(REFRESH_S):
                takeover = current()
                if takeover is not None:
                    live.update(_table(takeover))

    def _tell_lines(self) -> None:
        takeover = current()
        if takeover is None:
            return
        for name in takeover.progress:
            said = _step(takeover, name)
            if said and (name, said) not in self._told:
                self._told.add((name, said))
                self._console.print(f"{name.value:9} {said}", highlight=False)


def _step(takeover: Takeover, name: StageName) -> str:
    progress = takeover.progress[name]
    if progress.statuses:
        passed = sum(1 for s in progress.statuses.values() if s.verdict is Verdict.passed)
        return f"gate: {passed} of {len(takeover.hosts)} hosts passed"
    doing = list(progress.doing.items())
    changing = [(host, short) for host, (short, _) in doing if short != LOOKING]
    if changing:
        host, short = changing[0]
        more = f" and {len(changing) - 1} more" if len(changing) > 1 else ""
        return f"{short}: {plain(takeover.hosts[host].label)}{more}"
    return "looking at the hosts" if doing else ""


def _table(takeover: Takeover) -> Table:
    run = takeover.run
    table = Table(
        title=f"{run.account.label} ({run.account.id}) · {run.mode} · run {run.id}", title_justify="left"
    )
    table.add_column("host")
    table.add_column("name")
    for name in takeover.stages:
        table.add_column(name.value, min_width=9)
    for instance_id, host in takeover.hosts.items():
        cells = [_cell(takeover, name, instance_id) for name in takeover.stages]
        table.add_row(instance_id, plain(host.name)[:24], *cells)
    return table


def _cell(takeover: Takeover, name: StageName, instance_id: str) -> str:
    progress = takeover.progress[name]
    status = progress.statuses.get(instance_id)
    if status is not None:
        text, style = STYLE[status.verdict]
        return f"[{style}]{text}[/]"
    doing = progress.doing.get(instance_id)
    return f"[blue]{doing[0]}…[/]" if doing else ""
