"""`haltuun diagnose`: a host's files → causes, without host, account or ledger."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from haltuun.errors import EXIT_OK
from haltuun.model import Severity, Unknown
from haltuun.report.render import plain
from haltuun.stages.repair.bundle import read_bundle
from haltuun.stages.repair.diagnose import Diagnosis, diagnose
from haltuun.stages.repair.facts import Agent, LogLine
from haltuun.stages.repair.offline import read_agent
from haltuun.stages.repair.rules import VERSIONS
from haltuun.stages.repair.wording import WORDING

# What a folder or an archive can show of an agent.
PARTS = ("log", "vault", "registration_file", "identity_config", "config", "credentials", "packages")
UNEXPLAINED = (
    "Look at amazon-ssm-agent.log around that line, from the agent's last start on: errors.log leaves out the"
    " warnings, which tell a missing role from a refused one. A restart writes the reason anew."
)
STYLE = {Severity.critical: "bold red", Severity.high: "red", Severity.medium: "yellow", Severity.low: "dim"}


def diagnose_files(path: Path, as_json: bool) -> int:
    """Print what the files at `path` show.

    Raises:
        ConfigError: nothing is there to read, or the archive is hostile.
    """
    bundle = read_bundle(path)
    agent = read_agent(bundle)
    found = diagnose(agent)
    if as_json:
        print(json.dumps(document(agent, found, bundle.unread), indent=2))
    else:
        _print(agent, found, bundle.unread)
    return EXIT_OK


def document(agent: Agent, found: Diagnosis, unread: dict[str, str]) -> dict[str, Any]:
    """The stable form of `diagnose --json`. `unknown`: part → why the files do not show it;
    `unexplained`: a line of a fault whose cause they do not show; `unread`: file → why not, or not wholly."""
    return {
        "identity": found.identity,
        "instance_id": found.instance_id,
        "connected": found.connected,
        "findings": [
            {
                "code": cause.code,
                "severity": WORDING[cause.code].severity.value,
                "message": cause.message,
                "remedy": cause.remedy,
                "evidence": [line.model_dump() for line in cause.evidence],
                "versions": VERSIONS[cause.code],
            }
            for cause in found.causes
        ],
        "unexplained": found.unexplained.model_dump() if found.unexplained else None,
        "unknown": _unknown(agent),
        "unread": {f"/{name}": why for name, why in sorted(unread.items())},
    }


def _unknown(agent: Agent) -> dict[str, str]:
    """How it died is told only where a journal is at hand that leaves it open: few copies hold one."""
    parts = {name: getattr(agent, name) for name in PARTS}
    if isinstance(agent.died, Unknown) and agent.died.unknown.startswith("NOT_SHOWN"):
        parts["died"] = agent.died
    return {name: value.unknown for name, value in parts.items() if isinstance(value, Unknown)}


def _print(agent: Agent, found: Diagnosis, unread: dict[str, str]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    console.print(_headline(found))
    for cause in found.causes:
        severity = WORDING[cause.code].severity
        console.print()
        console.print(Text.assemble((cause.code, STYLE.get(severity, "")), f"  {severity.value}"))
        console.print(Text(f"  {plain(cause.message)}"))
        for line in cause.evidence:
            console.print(Text(f"  {_told(line)}", style="dim"))
        console.print(Text(f"  → {plain(cause.remedy)}"))
        console.print(
            Text(f"  docs/runbooks/{cause.code}.md · holds for {VERSIONS[cause.code]}", style="dim")
        )
    if found.unexplained:
        console.print()
        console.print(Text("A fault holds, and these files do not show its cause:", style="bold"))
        console.print(Text(f"  {_told(found.unexplained)}", style="dim"))
        console.print(Text(f"  → {UNEXPLAINED}"))
    elif not found.causes:
        console.print("These files show no fault that still holds.")
    for name, why in sorted(unread.items()):
        console.print(Text(f"Not read: /{plain(name)}: {why}.", style="yellow"))
    unknown = _unknown(agent)
    if unknown:
        console.print()
        console.print(Text("Not shown by these files, so nothing is said about it:", style="dim"))
        for why in sorted(set(unknown.values())):
            console.print(Text(f"  {plain(why.partition(': ')[2])}", style="dim"))


def _told(line: LogLine) -> str:
    return f"{line.file}:{line.line}: {plain(line.text)}"


def _headline(found: Diagnosis) -> Text:
    if found.identity is None and not found.shown:
        return Text("Identity: not shown by these files.", style="bold")
    taken = found.identity or "none: the last start took no identity"
    who = f" as {plain(found.instance_id)}" if found.instance_id else ""
    channel = ", channel open" if found.connected else ", no open channel shown"
    return Text(f"Identity: {taken}{who}{channel if found.identity else ''}.", style="bold")
