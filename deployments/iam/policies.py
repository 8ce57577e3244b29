"""actions.yaml read, and what is made of it: the role's two policies and a CloudFormation template; and the
policy of the instances, as the code has it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import jinja2
import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from haltuun.stages.verify.needs import own_policy

HERE = Path(__file__).parent
TEMPLATE = HERE.parents[1] / "haltuun" / "cli" / "templates" / "haltuun-role.yaml"

Access = Literal["read", "write"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Action(_Strict):
    """`use`: called in the course of a takeover, or only to take it back, or shown by no call."""

    action: str = Field(pattern=r"^[a-z0-9-]+:[A-Z][A-Za-z]+$")
    use: Literal["call", "undo", "dependent"] = "call"
    source: str = ""

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"action": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _sourced(self) -> Action:
        if self.use == "dependent" and not self.source:
            raise ValueError(f"{self.action}: what no call shows needs a source")
        return self


class Statement(_Strict):
    """One statement of a policy. `parameter` takes the place of its resources in the template."""

    sid: str
    access: Access
    why: str
    resources: tuple[str, ...]
    actions: tuple[Action, ...]
    effect: Literal["Allow", "Deny"] = "Allow"
    condition: dict[str, dict[str, Any]] | None = None
    parameter: str | None = None

    def as_policy(self) -> dict[str, Any]:
        made: dict[str, Any] = {
            "Sid": self.sid,
            "Effect": self.effect,
            "Action": [action.action for action in self.actions],
            "Resource": list(self.resources),
        }
        return made | ({"Condition": self.condition} if self.condition else {})


class Declared(_Strict):
    free: tuple[Action, ...]
    statements: tuple[Statement, ...]

    def actions(self, *uses: str) -> set[str]:
        """The allowed actions of these uses (of all without any), beside those that are free."""
        return {
            action.action
            for statement in self.statements
            if statement.effect == "Allow"
            for action in statement.actions
            if not uses or action.use in uses
        }

    def policy(self, access: Access) -> dict[str, Any]:
        chosen = [s.as_policy() for s in self.statements if s.access == access]
        return {"Version": "2012-10-17", "Statement": chosen}


def declared() -> Declared:
    return Declared.model_validate(yaml.safe_load((HERE / "actions.yaml").read_text(encoding="utf-8")))


def files() -> dict[Path, str]:
    """Path → the text that belongs there."""
    known = declared()
    accesses: tuple[Access, ...] = ("read", "write")
    documents = {one: known.policy(one) for one in accesses}
    instance = own_policy("${AWS::Partition}", "${AWS::AccountId}")
    made = {
        HERE / f"{name}.json": json.dumps(document, indent=2) + "\n"
        for name, document in {**documents, "instance": instance}.items()
    }
    template = jinja2.Template(
        (HERE / "haltuun-role.yaml.j2").read_text(encoding="utf-8"), keep_trailing_newline=True
    )
    made[TEMPLATE] = template.render(read=_as_template(known, "read"), write=_as_template(known, "write"))
    return made


# -- CloudFormation's short forms ------------------------------------------------------------------


class _Sub(str):
    """A string with pseudo parameters in it."""


class _Ref(str):
    """The name of a parameter."""


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        return super().increase_indent(flow, False)


_Dumper.add_representer(_Sub, lambda dumper, value: dumper.represent_scalar("!Sub", str(value)))
_Dumper.add_representer(_Ref, lambda dumper, value: dumper.represent_scalar("!Ref", str(value)))


def _as_template(known: Declared, access: Access) -> str:
    chosen = []
    for statement in known.statements:
        if statement.access == access:
            made = _substituted(statement.as_policy())
            if statement.parameter:
                made["Resource"] = _Ref(statement.parameter)
            chosen.append(made)
    return yaml.dump(chosen, Dumper=_Dumper, sort_keys=False, width=200).rstrip("\n")


def _substituted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _substituted(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_substituted(part) for part in value]
    return _Sub(value) if isinstance(value, str) and "${" in value else value
