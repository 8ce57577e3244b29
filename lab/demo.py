"""`make demo`: the practice account is taken over from beginning to end, on this machine.

Ends with 0 when every host came to the end that its scenario is meant for; some are meant to be held.
KEEP=1 leaves lab and server up.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import yaml

from haltuun.cli import server
from haltuun.cli.recorded import await_recorded
from haltuun.errors import HaltuunError
from lab import api
from lab.errors import LabError
from lab.expectation import surprises
from lab.scenario import load_scenario

STATE = Path(".haltuun")
OUT = STATE / "lab"
HALTUUN = str(Path(sys.executable).with_name("haltuun"))
EXPECTED_EXITS = (0, 3)  # 3: some hosts held, as they should be


def main() -> int:
    """Returns the exit code of `make demo`."""
    began = time.monotonic()
    keep = os.environ.get("KEEP") == "1"
    try:
        return _demo(began, keep)
    except (LabError, HaltuunError) as error:
        sys.stderr.write(f"demo: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("demo: stopped.\n")
        return 130
    finally:
        if not keep:
            _say("\nTaking the practice account down.")
            api.down()
            server.stop(STATE)


def _demo(began: float, keep: bool) -> int:
    _say("Starting the Prefect server (SQLite, in .haltuun/prefect) and the practice account ...")
    url = server.start(STATE)
    info = api.up(api.DEMO_SCENARIO, out=OUT, progress=lambda step: _say(f"  {step}"))
    config = _own_config(info.config_path)
    env = {**os.environ, **info.env, "PREFECT_API_URL": url, "HALTUUN_CONFIG": str(config)}
    account = load_scenario(api.DEMO_SCENARIO).alias
    _say(f"\nAn inherited account: {account} ({info.account_id}), {len(info.hosts)} hosts that nobody knows.")

    _say(f"\n$ haltuun plan {account}")
    code, text = _run([HALTUUN, "plan", account], env)
    found = re.search(r"--plan ([0-9a-f]{16})", text)
    if code != 0 or found is None:
        sys.stderr.write("demo: the plan was not made; see above.\n")
        return 1

    _say(f"\n$ haltuun takeover {account} --plan {found[1]}")
    code = subprocess.run([HALTUUN, "takeover", account, "--plan", found[1]], env=env).returncode
    wrong = _surprises(account, env) if code in EXPECTED_EXITS else [f"takeover ended with {code}"]
    subprocess.run(
        [HALTUUN, "report", account, "-o", str(STATE / "report")], env=env, stdout=subprocess.DEVNULL
    )
    _await_history(url)

    _say(f"\nThe demo took {time.monotonic() - began:.0f} s.")
    _say(f"  ledger       {STATE / 'ledger.db'}   ({_here(HALTUUN)} status --config {_here(config)})")
    _say(f"  report       {STATE / 'report' / 'report.html'}")
    _say("  run history  make ui")
    if keep:
        with (OUT / "env").open("a", encoding="utf-8") as file:
            for name, value in (("HALTUUN_CONFIG", str(config)), ("PATH", f"{Path(HALTUUN).parent}:$PATH")):
                file.write(f'export {name}="{value}"\n')
        _say(f"  still up     source {OUT / 'env'}; end it with 'haltuun lab down' and 'haltuun ui --stop'")
    for line in wrong:
        sys.stderr.write(f"demo: not as it should be: {line}\n")
    return 1 if wrong else 0


def _here(path: Path | str) -> Path:
    """As it is typed in this folder."""
    return Path(os.path.relpath(path))


def _own_config(lab_config: Path) -> Path:
    """A copy outside the lab's folder, so that `haltuun status` still works when the lab is down."""
    config = yaml.safe_load(lab_config.read_text(encoding="utf-8"))
    lab = OUT.relative_to(STATE)
    config["state_dir"] = "."
    for account in config["accounts"]:
        account["ssh"]["key_files"] = [str(lab / file) for file in account["ssh"]["key_files"]]
        account["ssh"]["known_hosts"] = str(lab / account["ssh"]["known_hosts"])
    config["agent"]["package_source"] = str(lab / config["agent"]["package_source"])
    path = (STATE / "demo.yaml").resolve()
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path


def _surprises(account: str, env: dict[str, str]) -> list[str]:
    answer = subprocess.run([HALTUUN, "status", account, "--json"], env=env, capture_output=True, text=True)
    return surprises(load_scenario(api.DEMO_SCENARIO), json.loads(answer.stdout))


def _await_history(url: str) -> None:
    """The server writes task runs down a little later than they happen: none may be lost by stopping it."""
    import urllib.request

    body = json.dumps({"sort": "START_TIME_DESC", "limit": 1, "flow_runs": {}}).encode()
    request = urllib.request.Request(
        f"{url}/flow_runs/filter", data=body, headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        for run in json.load(answer):
            await_recorded(url, run["id"])


def _run(command: list[str], env: dict[str, str]) -> tuple[int, str]:
    """Run and show, and keep what it printed."""
    width = str(shutil.get_terminal_size((140, 40)).columns)
    with subprocess.Popen(
        command, env={**env, "COLUMNS": width}, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            sys.stdout.write(line)
            sys.stdout.flush()
            lines.append(line)
    return process.returncode, "".join(lines)


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
