"""Job files of upstart, /etc/init/*.conf with their .override files."""

from __future__ import annotations

import glob
import os
import re

from service import TIME_SCALE, Definition

FOLDER = "/etc/init"
BLOCK = re.compile(
    r"^(script|pre-start script|post-start script|pre-stop script|post-stop script)\s*\n(.*?)^end script\s*$",
    re.MULTILINE | re.DOTALL,
)


def load(name: str) -> Definition | None:
    path = f"{FOLDER}/{name}.conf"
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            text = stream.read()
    except OSError:
        return None
    try:
        with open(f"{FOLDER}/{name}.override", encoding="utf-8", errors="replace") as stream:
            text += "\n" + stream.read()
    except FileNotFoundError:
        pass
    blocks = {match[1]: match[2] for match in BLOCK.finditer(text)}
    plain = BLOCK.sub("", text).replace("\\\n", " ")
    stanzas: list[tuple[str, str]] = []
    for line in _joined(plain).splitlines():
        word, _, rest = line.strip().partition(" ")
        if word and not word.startswith("#"):
            stanzas.append((word, rest.strip()))
    given = dict(stanzas)
    env = dict(row.partition("=")[::2] for word, row in stanzas if word == "env")
    before = [blocks["pre-start script"]] if "pre-start script" in blocks else []
    before += [
        row.partition("exec ")[2] for word, row in stanzas if word == "pre-start" and row.startswith("exec ")
    ]
    main = f"exec {given['exec']}" if "exec" in given else blocks.get("script", "")
    start_on = "start" in given and not any(word == "manual" for word, _ in stanzas)
    return Definition(
        name=name,
        path=path,
        text=text,
        description=given.get("description", "").strip("\"'"),
        kind="forking" if given.get("expect") in ("fork", "daemon") else ("simple" if main else "oneshot"),
        commands=[main] if main else [],
        before=before,
        env={key: value.strip("\"'") for key, value in env.items()},
        user=given.get("setuid", ""),
        directory=given.get("chdir", "/"),
        restart="respawn" if "respawn" in given else "no",
        restart_s=0.1 / TIME_SCALE,
        kill_mode="group",
        stop_timeout_s=float(given.get("kill", "timeout 5").split()[-1]),
        remain=not main,
        boot=start_on,
        scripts=True,
        log=f"/var/log/upstart/{name}.log",
    )


def _joined(text: str) -> str:
    """Conditions may go over several lines inside brackets."""
    out, depth = [], 0
    for character in text:
        depth += (character == "(") - (character == ")")
        out.append(" " if character == "\n" and depth > 0 else character)
    return "".join(out)


def all_names() -> list[str]:
    return sorted(os.path.basename(path)[: -len(".conf")] for path in glob.glob(f"{FOLDER}/*.conf"))
