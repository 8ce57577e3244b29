"""What a predecessor left is shown as the change that a person would make, and no secret is in it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from haltuun.model import Change, Reach, StageName, Verdict
from haltuun.perform import Performer
from haltuun.stages.repair import STAGE
from haltuun.stages.repair.deregister import DEREGISTER
from haltuun.stages.repair.facts import LogLine, RootCredentials, Vault
from haltuun.stages.repair.leftovers import (
    LEFT,
    config_diff,
    digest_of,
    own_identities_cut,
    shown,
    sparing_metadata,
    without_proxies,
)
from haltuun.stages.repair.parse import parse_config, parse_proxy_line
from haltuun.stages.repair.probe import script
from tests.stages.repair.moved_kit import Moved
from tests.stages.repair.plan_kit import IID, MI, REGION, STALE_VAULT, TIME, agent, node, plan, stale

DROP_IN = "/etc/systemd/system/amazon-ssm-agent.service.d/proxy.conf"
CONFIG = {
    "Agent": {"Region": "us-east-1", "ContainerMode": False},
    "ssm": {"endpoint": "vpce-1.ssm.example", "HealthFrequencyMinutes": 5},
    "Mgs": {"Endpoint": "vpce-2.ssmmessages.example"},
    "Identity": {"ConsumptionOrder": ["OnPrem"], "CustomIdentities": [{"InstanceID": "mi-1"}]},
}


@pytest.mark.parametrize(
    ("code", "gone"),
    [
        ("ENDPOINT_OVERRIDE", ("vpce-1.ssm.example", "vpce-2.ssmmessages.example")),
        ("REGION_PINNED", ("us-east-1",)),
        ("IDENTITY_ORDER_OVERRIDE", ("OnPrem",)),
        ("CUSTOM_IDENTITY", ("mi-1",)),
    ],
)
def test_only_what_the_cause_names_goes(code: str, gone: tuple[str, ...]) -> None:
    text = json.dumps(CONFIG, indent=4)
    diff = shown(code, agent(config=parse_config(text)))
    assert diff == config_diff(text, LEFT[code]) and diff
    after = json.dumps(json.loads(patched(text, diff)))
    values = ("vpce-1.ssm.example", "vpce-2.ssmmessages.example", "us-east-1", "OnPrem", "mi-1")
    assert [value for value in values if value not in after] == sorted(gone, key=values.index)
    assert "ContainerMode" in after and "HealthFrequencyMinutes" in after


def patched(text: str, diff: Sequence[str]) -> str:
    """What patch(1) makes of the file, which not every machine has."""
    old, new, at = text.splitlines(), [], 0
    for line in diff[2:]:
        if line.startswith("@@"):
            start = int(line.split()[1].lstrip("-").partition(",")[0]) - 1
            new += old[at:start]
            at = start
        elif line.startswith("+"):
            new.append(line[1:])
        else:
            assert old[at] == line[1:]
            new += old[at : at + 1] if line.startswith(" ") else []
            at += 1
    return "\n".join([*new, *old[at:]])


def test_a_file_that_is_none_or_holds_nothing_of_it_has_no_diff() -> None:
    for text in ("", "[", "[]", "{}", '{"Agent": 7}', "[" * 100_000):
        assert config_diff(text, LEFT["REGION_PINNED"]) == ()
    assert shown("STALE_HYBRID", agent()) == ()


def test_the_whole_file_is_neither_in_the_ledger_nor_in_a_row() -> None:
    seen = agent(config=parse_config(json.dumps({"Agent": {"Region": "us-east-1"}, "Own": "words"})))
    assert "words" not in seen.model_dump_json()


SYSTEMD = ('Environment="https_proxy=http://proxy:3128"', 'Environment="http_proxy=http://proxy:3128"')


def lines(*texts: str, file: str = DROP_IN) -> tuple[LogLine, ...]:
    return tuple(LogLine(file=file, line=n, text=text) for n, text in enumerate(texts, 2))


def test_a_dead_proxy_is_taken_out_of_its_unit() -> None:
    diff = without_proxies(lines(*SYSTEMD))
    assert diff[:2] == (f"--- {DROP_IN}", f"+++ {DROP_IN}")
    assert [line for line in diff if line[0] == "-" and line[1] != "-"] == [f"-{text}" for text in SYSTEMD]
    assert not [line for line in diff if line[0] == "+" and line[1] != "+"]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ('Environment="http_proxy=http://p" "AWS_CA_BUNDLE=/x"', ['+Environment="AWS_CA_BUNDLE=/x"']),
        ("Environment=https_proxy=http://p no_proxy=a", []),
        ("env HTTPS_PROXY=http://p", []),
    ],
)
def test_what_else_a_line_sets_stays(text: str, left: list[str]) -> None:
    assert [one for one in without_proxies(lines(text)) if one[0] == "+" and one[1] != "+"] == left


UPSTART = "/etc/init/amazon-ssm-agent.override"


@pytest.mark.parametrize(
    ("texts", "file", "new"),
    [
        (SYSTEMD, DROP_IN, '+Environment="no_proxy=169.254.169.254"'),
        (("env http_proxy=http://proxy:3128",), UPSTART, "+env no_proxy=169.254.169.254"),
        (
            ("Environment=no_proxy=localhost,.corp", *SYSTEMD),
            DROP_IN,
            "+Environment=no_proxy=169.254.169.254,localhost,.corp",
        ),
        (
            ('Environment="http_proxy=http://p" "no_proxy=.corp"',),
            DROP_IN,
            '+Environment="http_proxy=http://p" "no_proxy=169.254.169.254,.corp"',
        ),
    ],
)
def test_a_proxy_that_takes_the_metadata_gets_an_exception(
    texts: tuple[str, ...], file: str, new: str
) -> None:
    added = [one for one in sparing_metadata(lines(*texts, file=file)) if one[0] == "+" and one[1] != "+"]
    assert added == [new]


def test_what_the_probe_prints_of_a_unit_has_no_password(tmp_path: Path) -> None:
    """The look itself, over a drop-in of this test."""
    drop_in = tmp_path / "amazon-ssm-agent.service.d" / "proxy.conf"
    drop_in.parent.mkdir()
    drop_in.write_text(
        '[Service]\n# Environment="http_proxy=http://old"\n'
        'Environment="HTTPS_PROXY=http://ops:s3cr3t@proxy:3128" "no_proxy=169.254.169.254"\n'
        "Environment=HTTP_PROXY=http://ops:s3cr3t@proxy:3128\n"
    )
    whole = script("host.sh", "probe.sh").replace("units=/etc/systemd/system", f"units={tmp_path}")
    functions = whole.partition("\nwait_for_job\nsay root")[0]
    done = subprocess.run(["sh", "-c", f"{functions}\nlook_at_proxy_files"], capture_output=True, text=True)
    assert "s3cr3t" not in done.stdout
    told = [parse_proxy_line(one.partition("=")[2]) for one in done.stdout.splitlines()]
    assert [(line.file, line.line) for line in told] == [(str(drop_in), 3), (str(drop_in), 4)]
    assert all(line.text.startswith("Environment=") and "proxy:3128" in line.text for line in told)


OWN = (
    "[default]\n"
    "aws_access_key_id     = ASIAHYBRID000000000\n"
    "aws_secret_access_key = wJalr/s3cr3t\n"
    "aws_session_token     = hy-t0k3n==\n"
)
MINE = "# mine\n[me]\naws_access_key_id = AKIAMINE\nregion = eu-west-1\n"


@pytest.mark.parametrize(
    ("text", "own", "rest"),
    [
        (f"{OWN}\n", True, ""),
        (f"{OWN}\n{MINE}", True, MINE),
        (f"{MINE}\n{OWN}\n[other]\nrole_arn = x\n", True, f"{MINE}\n[other]\nrole_arn = x\n"),
        (f"{OWN}region                = eu-west-1\n", False, None),
        (OWN.replace("     = ", " = "), False, None),  # `aws configure` writes so
        (OWN.replace("ASIA", "AKIA"), False, None),
        (OWN.replace("[default]", "[default]\n; from the portal"), False, None),
        (OWN.rpartition("aws_session")[0], False, None),
        (f"{OWN}\n{OWN}", False, None),
        (f"{OWN}{MINE}".rstrip(), False, None),
        (MINE, False, None),
        ("", False, None),
    ],
)
@pytest.mark.parametrize("shell", ["dash", "busybox sh"])
def test_only_what_the_agent_alone_writes_is_its_own(
    tmp_path: Path, text: str, own: bool, rest: str | None, shell: str
) -> None:
    (tmp_path / "credentials").write_text(text)
    (tmp_path / "agent.log").write_text(f"{TIME}{ONPREM}\n")
    said = of_token(tmp_path, "token_is_the_agents && echo own && without_token", shell)
    assert said == (f"own\n{rest}" if own else "")


def of_token(folder: Path, asked: str, shell: str = "dash") -> str:
    """What token.sh says of the `credentials`, `agent.log` and `identity.json` in the folder."""
    named = {"CREDENTIALS": "credentials", "AGENT_LOG": "agent.log", "IDENTITY_CONFIG": "identity.json"}
    named |= {"JOB_DIR": "job", "SAVED": "saved", "KEY_FILE": "key.json"}
    places = " ".join(f"{name}={folder}/{place}" for name, place in named.items())
    whole = f"{script('host.sh', 'saved.sh', 'token.sh')}\n{places}\n{asked}"
    env = {"TZ": "UTC", "PATH": os.defpath}
    return subprocess.run([*shell.split(), "-c", whole], capture_output=True, text=True, env=env).stdout


ONPREM, EC2 = "Agent will take identity from OnPrem", "Agent will take identity from EC2"
EARLY, LATE = "2026-11-23 10:00:00.0000 INFO ", "2026-11-23 12:00:00.0000 INFO "


@pytest.mark.parametrize(
    ("log", "identity", "own"),
    [
        (f"{EARLY}{ONPREM}\n{LATE}{EC2}\n", "EC2", True),
        (f"{LATE}{EC2}\n{LATE}{EC2}\n", "EC2", True),
        (f"{EARLY}{ONPREM}\n", "OnPrem", True),
        (f"{EARLY}{EC2}\n{LATE}{EC2}\n", "EC2", False),  # somebody's, written while it was EC2
        (f"{EARLY}[instanceID=i-0abc1234] x\n", "", False),
        (f"{EARLY}[instanceID=mi-0abc1234] x\n{LATE}[instanceID=i-0abc1234] x\n", "", True),
        ("", "OnPrem", True),
        ("", "EC2", False),
        ("", "registered", True),
        ("", "", False),
        (f"no time {EC2}\n", "OnPrem", False),
    ],
)
@pytest.mark.parametrize("shell", ["dash", "busybox sh"])
def test_what_was_written_while_the_agent_was_ec2_is_not_its_own(
    tmp_path: Path, log: str, identity: str, own: bool, shell: str
) -> None:
    (tmp_path / "credentials").write_text(OWN)
    written = datetime(2026, 11, 23, 11, tzinfo=UTC).timestamp()
    os.utime(tmp_path / "credentials", (written, written))
    (tmp_path / "agent.log").write_text(log)
    if identity == "registered":
        (tmp_path / "key.json").write_text(f'{{"instanceID":"{MI}"}}')
    elif identity:
        (tmp_path / "identity.json").write_text(f'{{"IdentityType":"{identity}"}}')
    assert of_token(tmp_path, "token_is_the_agents && echo own", shell) == ("own\n" if own else "")


@pytest.mark.parametrize(("text", "left"), [(OWN, ""), (f"{OWN}\n{MINE}", MINE)])
def test_what_is_left_is_noted_before_the_token_goes(tmp_path: Path, text: str, left: str) -> None:
    """Killed in between, an undo still knows the file; and no copy of a secret stays beside it."""
    (tmp_path / "credentials").write_text(text)
    for name in ("job", "saved"):
        (tmp_path / name).mkdir()
    (tmp_path / "saved/restore").touch()
    of_token(tmp_path, "mv() { exit 137; }\ntake_token_out")
    assert (tmp_path / "saved/left").read_text().strip() == (digest_of(left) if left else "none")
    beside = [path for path in tmp_path.iterdir() if path.is_file() and path.name != "credentials"]
    assert not [path for path in beside if "s3cr3t" in path.read_text() or "t0k3n" in path.read_text()]


def test_a_link_to_the_file_is_a_persons(tmp_path: Path) -> None:
    (tmp_path / "there").write_text(OWN)
    (tmp_path / "credentials").symlink_to("there")
    (tmp_path / "agent.log").write_text(f"{TIME}{ONPREM}\n")
    assert of_token(tmp_path, "token_is_the_agents || echo no") == "no\n"


def test_the_agents_token_is_shown_without_its_values() -> None:
    credentials = RootCredentials(
        present=True, sections=("default",), default_kind="temporary", of_agent=True
    )
    diff = shown("CREDENTIALS_SHADOWED", agent(credentials=credentials))
    assert diff[:2] == ("--- /root/.aws/credentials", "+++ /root/.aws/credentials")
    assert diff[4:] == (
        "-aws_access_key_id = ***",
        "-aws_secret_access_key = ***",
        "-aws_session_token = ***",
    )
    of_a_person = credentials.model_copy(update={"of_agent": False})
    assert shown("CREDENTIALS_SHADOWED", agent(credentials=of_a_person)) == ()


TWICE = {"Agent": {"ContainerMode": False}, "Identity": {"CustomIdentities": [{"InstanceID": MI}]}}


def twice(text: str, shown_as: str = "", vault: Vault = STALE_VAULT) -> str | None:
    config = parse_config(shown_as or text)
    return own_identities_cut(config.model_copy(update={"digest": digest_of(text)}), vault)


def test_the_registration_named_a_second_time_is_cut_and_nothing_else() -> None:
    for text in (json.dumps(TWICE), json.dumps(TWICE, indent=2) + "\n"):
        cut = twice(text, text.removesuffix("\n"))
        assert cut is not None and json.loads(cut) == {"Agent": {"ContainerMode": False}}


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"Identity": {"CustomIdentities": [{"InstanceID": MI}, {"InstanceID": "mi-other"}]}}),
        json.dumps({"Identity": {"CustomIdentities": [{"InstanceID": "mi-other"}]}}),
        json.dumps({"Identity": {"ConsumptionOrder": ["EC2"]}}),
        f'{{"Identity": {{"CustomIdentities": [{{"InstanceID": "{MI}"}}]}}, "identity": {{}}}}',
    ],
)
def test_what_may_be_meant_is_not_cut(text: str) -> None:
    assert twice(text) is None


def test_what_is_no_text_or_no_number_fails_nobody() -> None:
    half = {**TWICE, "Own": "\ud800", "Agent": {"Region": "\ud800"}}
    text = json.dumps(half)
    cut = twice(text)
    assert (
        cut is not None and digest_of(cut) and json.loads(cut) == {key: half[key] for key in ("Agent", "Own")}
    )
    config = parse_config(text)
    assert config.model_dump_json()
    assert "\n".join(shown("REGION_PINNED", agent(config=config))).encode()
    assert twice(json.dumps({**TWICE, "Own": 7}).replace("7", "1e999")) is None


def test_a_host_that_cannot_be_planned_is_no_matter_of_the_others() -> None:
    (barred,) = plan(stale().model_copy(update={"state_kb": "many"})).barred
    assert (barred.code, barred.verdict) == ("INTERNAL", Verdict.unknown)


def test_the_sum_of_what_may_hold_a_password_is_not_recorded() -> None:
    config = parse_config('{"Proxy": "***"}').model_copy(update={"digest": digest_of("s3cr3t")})
    assert digest_of("s3cr3t") not in agent(config=config).model_dump_json()


@pytest.mark.parametrize("why", ["another owner's", "deregistered"])
def test_a_name_of_what_stays_off_is_not_put_back(tmp_path: Path, why: str) -> None:
    run = Moved(tmp_path / "root").run([], tmp_path)
    text = json.dumps(TWICE)
    seen = stale(config=parse_config(text).model_copy(update={"digest": digest_of(text)}))
    change = plan(seen, nodes=() if why == "another owner's" else (node(MI),)).changes[0]
    assert change.kind == "agent.config" and change.undo is not None
    inverse = change.model_copy(update={"before": change.after, "after": change.undo.after})
    keeps = STAGE.kinds[change.undo.kind].keeps
    assert keeps is not None
    if why == "deregistered":
        assert keeps(run, inverse) == ""
        run.journal(inverse.model_copy(update={"kind": DEREGISTER.name, "target": MI}), "confirmed")
    assert why in keeps(run, inverse)


def test_an_undo_that_leaves_the_token_says_so(tmp_path: Path) -> None:
    moved = Moved(tmp_path / "root")
    key = moved.registered()
    saved = moved.root / "var/lib/haltuun/saved/x"
    (saved / "files").mkdir(parents=True)
    (saved / "SHA256SUMS").touch()
    (saved / "left").write_text(f"{digest_of('as it was left')}\n")
    places = (moved.root / "root/.aws/credentials", key)
    (saved / "restore").write_text("".join(f"{place}\n" for place in places))
    run = moved.run([], tmp_path)
    restore = Change(
        stage=StageName.repair,
        kind="agent.restore",
        region=REGION,
        target=IID,
        hosts=(IID,),
        before={"running": True},
        after={"running": False, "saved": str(saved)},
        reach=Reach.host,
        summary="",
    )
    moved.systemctl("start", "amazon-ssm-agent")
    outcome = Performer(run, {StageName.repair: STAGE}).perform(restore)
    assert outcome.status == "done" and "The token is not put back" in outcome.message


def test_a_section_of_a_like_name_is_none_of_the_agents(tmp_path: Path) -> None:
    moved = Moved(tmp_path / "root")
    file = moved.root / "root/.aws/credentials"
    file.parent.mkdir(parents=True)
    file.write_text("[default-eu]\naws_access_key_id = AKIAMINE\n")
    token = RootCredentials(present=True, sections=("default",), default_kind="temporary", of_agent=True)
    (aside,) = plan(agent(credentials=token, hybrid_dirs=(MI,))).changes
    note = STAGE.kinds[aside.kind].apply(moved.run([], tmp_path), aside)
    assert (note["result"], note["changed"]) == ("done", "no") and "default-eu" in file.read_text()


def test_a_configuration_that_was_not_shown_whole_is_not_cut() -> None:
    text = json.dumps({**TWICE, "Password": "s3cr3t"})
    assert twice(text, text.replace("s3cr3t", "***")) is None


@pytest.mark.parametrize(
    ("config", "kinds", "code"),
    [
        (TWICE, ["agent.config", "agent.clear", "agent.vault_aside"], ""),
        ({"Identity": {"CustomIdentities": [{"InstanceID": "mi-other"}]}}, [], "CUSTOM_IDENTITY"),
        (
            {"Identity": {**TWICE["Identity"], "ConsumptionOrder": ["OnPrem", "CustomIdentity"]}},
            [],
            "IDENTITY_ORDER_OVERRIDE",
        ),
    ],
)
def test_it_goes_before_the_registration(config: dict[str, object], kinds: list[str], code: str) -> None:
    text = json.dumps(config)
    seen = stale(config=parse_config(text).model_copy(update={"digest": digest_of(text)}))
    made = plan(seen)
    assert [change.kind for change in made.changes] == kinds
    assert [barred.code for barred in made.barred] == ([code] if code else [])
    if kinds:
        assert all(made.changes[0].id in change.depends_on for change in made.changes[1:])
