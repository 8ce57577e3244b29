"""Who approves is known by name: a deployment's run approves nothing without."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

from flows.retry import retry_hosts
from flows.takeover import take_over_account
from flows.undo import undo_run
from haltuun.approver import approver
from haltuun.errors import ConfigError

APPROVING = [
    (take_over_account, {"account": "acme", "plan_hash": "0123456789abcdef"}),
    (take_over_account, {"account": "acme", "approve_all": True}),
    (retry_hosts, {"account": "acme", "plan_hash": "0123456789abcdef"}),
    (retry_hosts, {"account": "acme", "approve_all": True}),
    (undo_run, {"run": "20261125T020000-abcdef", "approve": True}),
]
NOTHING_APPROVED = [
    (take_over_account, {"account": "acme"}),
    (take_over_account, {"account": "acme", "mode": "plan", "approve_all": True}),
    (retry_hosts, {"account": "acme"}),
    (undo_run, {"run": "20261125T020000-abcdef"}),
]


def code_of(flow: Any, given: dict[str, Any]) -> str:
    """What the flow's body ends with; there is no configuration, so nothing can be done beyond that."""
    with pytest.raises(ConfigError) as raised:
        inspect.unwrap(flow.fn)(**given)
    return raised.value.code


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HALTUUN_CONFIG", str(tmp_path / "none.yaml"))


@pytest.fixture
def deployed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "a-deployment")


@pytest.mark.usefixtures("deployed")
@pytest.mark.parametrize(("flow", "given"), APPROVING)
def test_a_deployment_approves_nothing_without_a_name(flow: Any, given: dict[str, Any]) -> None:
    for name in ("", " \t", "\x00\u202e"):
        assert code_of(flow, {**given, "approved_by": name}) == "APPROVER_UNKNOWN"
    assert code_of(flow, {**given, "approved_by": "Jane Doe"}) == "CONFIG"


@pytest.mark.usefixtures("deployed")
@pytest.mark.parametrize(("flow", "given"), NOTHING_APPROVED)
def test_a_deployment_that_approves_nothing_needs_no_name(flow: Any, given: dict[str, Any]) -> None:
    assert code_of(flow, given) == "CONFIG"


@pytest.mark.parametrize(("flow", "given"), APPROVING)
def test_the_command_line_approves_as_the_user_it_runs_as(flow: Any, given: dict[str, Any]) -> None:
    assert code_of(flow, given) == "CONFIG"


@pytest.mark.parametrize("flow", [take_over_account, retry_hosts, undo_run])
def test_the_form_asks_for_the_name(flow: Any) -> None:
    field = flow.parameters.properties["approved_by"]
    assert (field["type"], field["default"]) == ("string", "") and "Your name" in field["description"]


def test_a_name_is_recorded_as_it_was_given_and_harmless() -> None:
    def told(name: str, *, deployed: bool = True) -> str:
        return approver(name, deployed=deployed, user="root")

    assert told("Jane Doe") == "Jane Doe (as given to the deployment)"
    assert told("", deployed=False) == "root"
    assert told("Jane", deployed=False) == "Jane (as given by root)"
    assert told(" Jane\x1b[31m\nDoe\u202e\x00 ") == "Jane[31m Doe (as given to the deployment)"
    assert "s3cret" not in told("jane:s3cret@example.com")
    assert told("J" * 100).startswith("J" * 100)
    with pytest.raises(ConfigError, match="at most 100 characters, this has 101") as raised:
        told("J" * 101)
    assert raised.value.code == "APPROVER_UNKNOWN"
