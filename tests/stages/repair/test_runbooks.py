"""Promise 10: every code of this stage has its page."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from haltuun.stages.repair import CHECKS
from haltuun.stages.repair.bundle import read_bundle
from haltuun.stages.repair.diagnose import diagnose
from haltuun.stages.repair.offline import read_agent
from haltuun.stages.repair.wording import WORDING

ROOT = Path(__file__).parents[3]
STAGE = ROOT / "haltuun" / "stages" / "repair"
_BARRED = re.compile(r'barred\(\s*"([A-Z_]+)"')
_RAISED = re.compile(r'code="([A-Z_]+)"')


def _codes() -> set[str]:
    barred = _BARRED.findall((STAGE / "guards.py").read_text() + (STAGE / "plan.py").read_text())
    raised = _RAISED.findall("".join(file.read_text() for file in STAGE.glob("*.py")))
    return {*WORDING, *barred, *raised, *(check.code for check in CHECKS), "NOT_PROVEN", "PROBE_UNREADABLE"}


@pytest.mark.parametrize("code", sorted(_codes()))
def test_has_a_page(code: str) -> None:
    page = (ROOT / "docs" / "runbooks" / f"{code}.md").read_text()
    assert page.startswith(f"# {code}\n")


DEBUG_LOG = """\
2026-11-23 06:00:00.1000 INFO Proxy environment variables:
2026-11-23 06:00:00.2000 INFO https_proxy: http://bob:hunter2@10.0.0.8:3128
2026-11-23 06:00:01.1000 INFO Agent will take identity from EC2
2026-11-23 06:00:02.1000 DEBUG [ssm-session-worker] [jane] output: $ mysql -phunter2
ERROR hunter2 is not the password
2026-11-23 06:00:02.2000 DEBUG [ssm-agent-worker] agent message Payload: {"commands": ["echo hunter2"]}
2026-11-23 06:00:03.1000 INFO [ssm-agent-worker] [MGSInteractor] Set up control channel successfully
"""


def test_the_bundle_for_support_holds_no_session_and_can_be_diagnosed(tmp_path: Path) -> None:
    """The page's own commands, on a host's files under another root."""
    logs, state = tmp_path / "var/log/amazon/ssm", tmp_path / "var/lib/amazon/ssm"
    for folder in (logs, state / "runtimeconfig", state / "Vault/Store", tmp_path / "root", tmp_path / "etc"):
        folder.mkdir(parents=True)
    (logs / "amazon-ssm-agent.log").write_text(DEBUG_LOG)
    (state / "runtimeconfig/identity_config.json").write_text('{"IdentityType": "EC2"}')
    (state / "Vault/Store/RegistrationKey").write_text('{"privateKey": "hunter2"}')
    page = (ROOT / "docs" / "runbooks" / "WAITING_LIMIT.md").read_text()
    bundling = "".join(re.findall(r"^```sh\n(.*?)^```$", page.partition("### Bundle")[2], re.S | re.M))
    script = re.sub(r"(?<![\w$])/(root|var|etc)/", rf"{tmp_path}/\1/", bundling)
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"})
    assert (done.returncode, done.stderr) == (0, "")
    bundle = read_bundle(tmp_path / "root/ssm-support.tgz")
    agent = read_agent(bundle)
    found = diagnose(agent)
    assert (found.identity, found.connected, found.causes) == ("EC2", True, ())
    kept = [path for path in (tmp_path / "root/ssm-support").rglob("*") if path.is_file()]
    assert sorted(path.name for path in kept) == ["amazon-ssm-agent.log", "identity_config.json"]
    assert [path for path in kept if "hunter2" in path.read_text()] == []
