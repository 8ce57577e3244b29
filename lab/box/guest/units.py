"""Unit files of systemd: found, merged with their drop-ins, read, enabled and disabled."""

from __future__ import annotations

import glob
import os

from service import TIME_SCALE, Definition

FOLDERS = ("/etc/systemd/system", "/run/systemd/system", "/lib/systemd/system", "/usr/lib/systemd/system")
SUFFIXES = (".service", ".timer", ".socket", ".target", ".path", ".mount", ".slice", ".scope")
Sections = dict[tuple[str, str], list[str]]


def full_name(name: str) -> str:
    return name if name.endswith(SUFFIXES) else f"{name}.service"


def find(name: str) -> str:
    for folder in FOLDERS:
        path = f"{folder}/{name}"
        if os.path.lexists(path):
            return path
    return ""


def is_masked(path: str) -> bool:
    return bool(path) and (os.path.realpath(path) == "/dev/null" or os.path.getsize(path) == 0)


def real_name(name: str) -> str:
    """An alias such as sshd.service is a symlink to the unit that it stands for."""
    path = find(name)
    target = os.path.basename(os.path.realpath(path)) if path and os.path.islink(path) else name
    return target if target.endswith(SUFFIXES) else name


def files_of(name: str) -> list[str]:
    path = find(name)
    drops: dict[str, str] = {}
    for folder in reversed(FOLDERS):
        for drop in glob.glob(f"{folder}/{name}.d/*.conf"):
            drops[os.path.basename(drop)] = drop
    return ([path] if path else []) + [drops[key] for key in sorted(drops)]


def read_sections(files: list[str]) -> tuple[Sections, str]:
    """Values in order; an empty assignment forgets what stood before, as systemd has it."""
    values: Sections = {}
    texts = []
    for path in files:
        try:
            with open(path, encoding="utf-8", errors="replace") as stream:
                text = stream.read()
        except OSError:
            continue
        texts.append(f"# {path}\n{text}")
        section = ""
        for line in text.replace("\\\n", " ").splitlines():
            line = line.strip()
            if line.startswith("["):
                section = line.strip("[]")
            elif line and line[0] not in "#;" and "=" in line:
                key, _, value = line.partition("=")
                row = values.setdefault((section, key.strip()), [])
                row.append(value.strip()) if value.strip() else row.clear()
    return values, "\n".join(texts)


def seconds(text: str) -> float:
    """`1min 30s`, `500ms`, `90` in seconds; infinity is a long time."""
    units = {"ms": 0.001, "s": 1.0, "sec": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "hr": 3600.0}
    total = 0.0
    for part in text.split():
        number = part.rstrip("abcdefghijklmnopqrstuvwxyz")
        if not number:
            return 1e9
        total += float(number) * units.get(part[len(number) :] or "s", 1.0)
    return total


def environment(values: Sections) -> dict[str, str]:
    import shlex

    env: dict[str, str] = {}
    for row in values.get(("Service", "Environment"), []):
        for word in shlex.split(row):
            key, _, value = word.partition("=")
            env[key] = value
    for row in values.get(("Service", "EnvironmentFile"), []):
        try:
            with open(row.lstrip("-"), encoding="utf-8", errors="replace") as stream:
                lines = stream.read().splitlines()
        except OSError:
            continue
        for line in lines:
            if "=" in line and not line.lstrip().startswith(("#", ";")):
                key, _, value = line.strip().partition("=")
                env[key] = value.strip("\"'")
    return env


def load(name: str) -> Definition | None:
    """The definition of a unit, or None when there is no such file."""
    files = files_of(name)
    if not files or not find(name):
        return None
    values, text = read_sections(files)

    def last(section: str, key: str, default: str = "") -> str:
        row = values.get((section, key))
        return row[-1] if row else default

    kind = last("Service", "Type", "simple")
    return Definition(
        name=name,
        path=find(name),
        text=text,
        description=last("Unit", "Description", name),
        kind=kind if kind in ("forking", "oneshot") else "simple",
        commands=values.get(("Service", "ExecStart"), []),
        before=values.get(("Service", "ExecStartPre"), []),
        stop_commands=values.get(("Service", "ExecStop"), []),
        reload_commands=values.get(("Service", "ExecReload"), []),
        env=environment(values),
        user=last("Service", "User"),
        directory=last("Service", "WorkingDirectory", "/").lstrip("-"),
        runtime_directory=last("Service", "RuntimeDirectory"),
        pid_file=last("Service", "PIDFile"),
        restart=last("Service", "Restart", "no"),
        restart_s=seconds(last("Service", "RestartSec", "100ms")) / TIME_SCALE,
        restart_prevented_by={
            int(code) for code in last("Service", "RestartPreventExitStatus").split() if code.isdigit()
        },
        kill_mode=last("Service", "KillMode", "control-group"),
        stop_timeout_s=seconds(last("Service", "TimeoutStopSec", "90")),
        remain=last("Service", "RemainAfterExit", "no").lower() in ("yes", "true", "1", "on"),
        conditions=values.get(("Unit", "ConditionPathExists"), []),
        log=f"/run/lab/journal/{name}.log",
    )


def install_links(name: str) -> list[str]:
    """The symlinks that enabling makes, from the [Install] section."""
    values, _ = read_sections(files_of(name))
    links = []
    for key, suffix in (("WantedBy", "wants"), ("RequiredBy", "requires")):
        for row in values.get(("Install", key), []):
            links += [f"/etc/systemd/system/{target}.{suffix}/{name}" for target in row.split()]
    for row in values.get(("Install", "Alias"), []):
        links += [f"/etc/systemd/system/{alias}" for alias in row.split()]
    return links


def enablement(name: str) -> str:
    """What `systemctl is-enabled` says; empty when there is no such unit."""
    path = find(name)
    if not path:
        return ""
    if is_masked(path):
        return "masked"
    if os.path.basename(os.path.realpath(path)) != name:
        return "alias"
    wants = [
        p
        for folder in FOLDERS
        for p in glob.glob(f"{folder}/*.wants/{name}") + glob.glob(f"{folder}/*.requires/{name}")
    ]
    if any(path.startswith("/etc/") for path in wants):
        return "enabled"
    return "disabled" if install_links(name) else "static"


def enable(name: str) -> list[str]:
    made = []
    path = find(name)
    for link in install_links(name):
        if os.path.realpath(link) != os.path.realpath(path):
            os.makedirs(os.path.dirname(link), exist_ok=True)
            if os.path.lexists(link):
                os.unlink(link)
            os.symlink(path, link)
            made.append(f"Created symlink {link} → {path}.")
    return made


def disable(name: str) -> list[str]:
    removed = []
    aliases = [
        link
        for link in glob.glob("/etc/systemd/system/*")
        if os.path.islink(link) and link != find(name) and os.path.basename(os.path.realpath(link)) == name
    ]
    for link in (
        glob.glob(f"/etc/systemd/system/*.wants/{name}")
        + glob.glob(f"/etc/systemd/system/*.requires/{name}")
        + aliases
    ):
        os.unlink(link)
        removed.append(f"Removed {link}.")
    return removed


def all_names() -> list[str]:
    names = {
        os.path.basename(path)
        for folder in FOLDERS
        for path in glob.glob(f"{folder}/*.service")
        if "@" not in path and real_name(os.path.basename(path)) == os.path.basename(path)
    }
    return sorted(names)


def wanted_at_boot() -> list[str]:
    found = []
    for target in ("sysinit.target", "basic.target", "multi-user.target"):
        for folder in FOLDERS:
            found += [os.path.basename(path) for path in glob.glob(f"{folder}/{target}.wants/*.service")]
    return sorted(set(found))
