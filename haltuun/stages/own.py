"""Things that bear Haltuun's names in an account: absent, ours, or somebody else's.

Names are deterministic, so a thing is found by its name; it is touched only when it is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from haltuun.errors import AwsError, NotFound
from haltuun.model import (
    Barred,
    Change,
    Cost,
    Finding,
    Frozen,
    Json,
    Reach,
    Severity,
    StageName,
    Undo,
    Unknown,
    Verdict,
    canonical,
)
from haltuun.run import Run
from haltuun.stages.tags import MANAGED

# Where tags cannot be read (or the API takes none) the description tells.
MADE_BY = "Made by Haltuun."


class Own(Frozen):
    """What stands under one of our names. `value` holds only what Haltuun sets, in a change's terms."""

    state: Literal["absent", "ours", "foreign"]
    id: str = ""
    value: Json = None


ABSENT = Own(state="absent")


def is_ours(tags: Mapping[str, str] | Unknown, description: str = "") -> bool | Unknown:
    """By our tag or our words; where the tags cannot be read and no words tell, it is unknown."""
    if description.startswith(MADE_BY):
        return True
    return tags if isinstance(tags, Unknown) else MANAGED in tags


def first_own(seen: Sequence[Own | Unknown]) -> Own | Unknown:
    """Of several things of one name: ours, else the doubt, else somebody else's, else none."""
    for one in seen:
        if isinstance(one, Own) and one.state == "ours":
            return one
    for one in seen:
        if isinstance(one, Unknown):
            return one
    return seen[0] if seen else ABSENT


def get_own(run: Run, question: Callable[[], Own | Unknown]) -> Own | Unknown:
    """The answer; a NotFound is `absent`, any other refusal Unknown."""

    def asked() -> Own | Unknown:
        try:
            return question()
        except NotFound:
            return ABSENT

    return run.aws.ask(asked)


def get_ssm_tags(run: Run, region: str, resource_type: str, resource_id: str) -> dict[str, str] | Unknown:
    def tags() -> dict[str, str]:
        answer = run.aws.call(
            "ssm", "ListTagsForResource", region, ResourceType=resource_type, ResourceId=resource_id
        )
        return {tag["Key"]: tag["Value"] for tag in answer.get("TagList") or ()}

    return run.aws.ask(tags)


def surely(seen: Own | Unknown, target: str) -> Own:
    """What is about to be changed. Raises AwsError where it cannot be seen: nothing is made beside it then,
    and nothing is said to be gone.
    """
    if isinstance(seen, Unknown):
        raise unseen("whether it is there", seen, target)
    return seen


def unseen(what: str, seen: Unknown, target: str, remedy: str = "Plan again.") -> AwsError:
    return AwsError(
        f"{what} could not be read ({seen.unknown}).",
        subject=target,
        remedy=remedy,
        code="UNSEEN",
        unchanged=True,
    )


def as_value(seen: Own | Unknown) -> Json | Unknown:
    """What a Kind's `look` returns of it."""
    if isinstance(seen, Unknown):
        return seen
    if seen.state == "foreign":
        return {"not_ours": seen.id}
    return seen.value


@dataclass
class Draft:
    """A stage's plan in the making: what is wanted is compared with what is seen."""

    stage: StageName
    changes: list[Change] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)
    barred: list[Barred] = field(default_factory=list)

    def want(
        self,
        seen: Own | Unknown,
        after: Json,
        *,
        kind: str,
        region: str,
        target: str,
        hosts: Sequence[str],
        summary: str,
        permissions: tuple[str, ...],
        needs: Sequence[tuple[str, ...]] = (),
        reach: Reach = Reach.account,
        undo: bool = True,
        no_undo: str = "",
        concerns: Sequence[str] = (),
        detail: Json = None,
        monthly_cost: Cost | Unknown | None = None,
        made_anew: bool = False,
    ) -> tuple[str, ...] | None:
        """The ids that what builds on this depends on: none when it stands, None when it cannot stand.

        `needs` are the answers of earlier calls. `made_anew`: no call changes one that is there; taking it
        away and making it are two changes, so that an undo has it again whatever came in between.
        """
        if isinstance(seen, Unknown):
            why = seen.unknown.rstrip(".")
            self._cannot(
                "UNSEEN",
                f"Whether '{target}' is in {region} could not be read ({why}); it is not planned.",
                "Allow the call it names, or use an endpoint that knows it, and plan again.",
                hosts,
                Verdict.unknown,
            )
            return None
        if seen.state == "foreign":
            self._cannot(
                "NAME_TAKEN",
                f"'{target}' in {region} ({seen.id}) was not made by Haltuun: it is left as it is.",
                f"Rename or remove it, or tag it {MANAGED}=true if Haltuun may have it.",
                hosts,
                Verdict.held,
            )
            return None
        if seen.state == "ours" and canonical(seen.value) == canonical(after):
            return ()
        change = Change(
            stage=self.stage,
            kind=kind,
            region=region,
            target=target,
            hosts=tuple(sorted(hosts)),
            before=seen.value,
            after=after,
            reach=reach,
            summary=summary,
            permissions=permissions,
            undo=Undo(kind=kind, after=seen.value) if undo else None,
            no_undo=no_undo,
            concerns=tuple(concerns),
            depends_on=tuple(sorted({i for need in needs for i in need})),
            detail=detail,
            monthly_cost=monthly_cost,
        )
        if made_anew and seen.state == "ours":
            gone = change.model_copy(
                update={
                    "after": None,
                    "summary": f"Take {kind} '{target}' away, as it was set otherwise ({region}); it is made"
                    " again right after.",
                    "monthly_cost": None,
                }
            )
            self.changes.append(gone)
            change = change.model_copy(
                update={
                    "before": None,
                    "undo": Undo(kind=kind, after=None),
                    "depends_on": tuple(sorted({*change.depends_on, gone.id})),
                }
            )
        self.changes.append(change)
        return (change.id,)

    def _cannot(self, code: str, message: str, remedy: str, hosts: Sequence[str], verdict: Verdict) -> None:
        self.notes.append(Finding(code=code, severity=Severity.high, message=message, remedy=remedy))
        already = {barred.host for barred in self.barred}
        self.barred.extend(
            Barred(host=host, code=code, message=message, remedy=remedy, verdict=verdict)
            for host in sorted(hosts)
            if host not in already
        )
