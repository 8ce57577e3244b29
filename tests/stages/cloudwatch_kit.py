"""The CloudWatch agent of a host that is a folder: its control, which does what AWS's does to files, and what
its package brings. See packaging/dependencies/amazon-cloudwatch-agent-ctl in aws/amazon-cloudwatch-agent."""

from __future__ import annotations

import hashlib
from pathlib import Path

HOME = "opt/aws/amazon-cloudwatch-agent"
CONTROL = f"{HOME}/bin/amazon-cloudwatch-agent-ctl"
CONFIGURATIONS = f"{HOME}/etc/amazon-cloudwatch-agent.d"
TOML = f"{HOME}/etc/amazon-cloudwatch-agent.toml"
JSON = f"{HOME}/etc/amazon-cloudwatch-agent.json"
RUNS = "run/agent-runs"
CALLED = "run/called"  # with what, a line a call
_UNIT = "etc/systemd/system/amazon-cloudwatch-agent.service"
_CONFFILE = f"{HOME}/etc/common-config.toml"
_VERSION = f"{HOME}/bin/CWAGENT_VERSION"
_CONTROL = f"""#!/bin/sh
cd "$HALTUUN_ROOT" || exit 1
while getopts :a:m:c:s word; do
    case $word in
        a) action=$OPTARG ;;
        c) name=${{OPTARG#ssm:}} ;;
        s) restart=yes ;;
    esac
done
mkdir -p run
[ "$action" = status ] || echo "$action ${{name:-}}" >>{CALLED}
case $action in
    fetch-config) rm -f {JSON} {CONFIGURATIONS}/* && echo "$name" >"{CONFIGURATIONS}/ssm_$name" ;;
    append-config) echo "$name" >"{CONFIGURATIONS}/ssm_$name" ;;
    remove-config) rm "{CONFIGURATIONS}/ssm_$name" || exit 1 ;;
    stop) rm -f {RUNS} ;;
    start) restart=yes ;;
    status) if [ -e {RUNS} ]; then echo '  "status": "running",'; else echo '  "status": "stopped",'; fi ;;
esac
case $action in
    *-config)
        cat {CONFIGURATIONS}/* >/dev/null 2>&1 && cat {JSON} {CONFIGURATIONS}/* >{TOML} 2>/dev/null
        cat {CONFIGURATIONS}/* >/dev/null 2>&1 || rm -f {TOML}
        echo '{{}}' >{HOME}/etc/env-config.json
        ;;
esac
if [ "${{restart:-}}" = yes ]; then
    [ -e {TOML} ] || {{ rm -f {JSON} && echo default >{TOML}; }}
    echo started >>{HOME}/logs/amazon-cloudwatch-agent.log
    : >{RUNS}
    : >run/enabled
fi
exit 0
"""


def put_agent(root: Path, version: str = "1.300049.1") -> None:
    """As its package does."""
    for folder in (CONFIGURATIONS, f"{HOME}/bin", f"{HOME}/logs", f"{HOME}/var", "etc/systemd/system"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for path, text in {CONTROL: _CONTROL, _VERSION: version, _UNIT: "[Unit]\n", _CONFFILE: "#\n"}.items():
        (root / path).write_text(text)
    (root / CONTROL).chmod(0o755)


def take_agent(root: Path) -> None:
    """As rpm removes it: what was made since stays."""
    for path in (CONTROL, _VERSION, _UNIT, _CONFFILE, RUNS, "run/enabled"):
        (root / path).unlink(missing_ok=True)


def tree(root: Path) -> dict[str, str]:
    """Every path of the host with mode, owner and content; /run and /proc are not kept."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if name.split("/")[0] in ("run", "proc"):
            continue
        about = path.lstat()
        what = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[name] = f"{about.st_mode:o} {about.st_uid}:{about.st_gid} {what}"
    return found
