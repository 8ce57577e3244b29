"""A registration that is baked into an image, and what goes on starting hosts with it. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC

from haltuun.model import Finding, Host, Severity, StageName, Unknown
from haltuun.stages.base import View
from haltuun.stages.discover.facts import (
    DiscoverAccount,
    DiscoverFacts,
    ImageFacts,
    RegionFacts,
    ScalingGroup,
    Template,
)
from haltuun.stages.repair import activations
from haltuun.stages.repair.facts import NodeRow, RepairAccount, RepairFacts

Registration = tuple[str, str]  # region, mi-…
Image = tuple[str, str]  # region, ami-…
BAKE = (
    "Make the image anew from a repaired host: stop the agent, run 'amazon-ssm-agent -register -clear' as"
    " root, remove registration, mi-*, Vault/EC2Manifest and Vault/Store/EC2RegistrationKey below"
    " /var/lib/amazon/ssm, then create the image; give it to what starts hosts, refresh the groups,"
    " deregister the old image."
)


def judge_fleet(view: View) -> Iterator[Finding]:
    """One finding for each registration that came to its hosts with their image: several of one image have
    it, or it is older than the image, or the image was made of one that has it. One that a single host got
    later is that host's alone.
    """
    for registration, carriers in sorted(_carriers(view).items()):
        by_image = _by_image(view, carriers)
        for image, some in sorted(by_image.items()):
            older = _is_older(view, registration, image)
            if len(some) < 2 and not older and not _descends(view, image, carriers, set(by_image)):
                continue
            stale = [host for host in some if _has(view, host, registration)]
            producers = _producers(view, image)
            if stale or producers:
                yield _baked(view, registration, image, set(by_image), some, stale, producers)


def _baked(
    view: View,
    registration: Registration,
    image: Image,
    images: set[Image],
    carriers: Sequence[str],
    stale: Sequence[str],
    producers: Sequence[str],
) -> Finding:
    region, node_id = registration
    going_on = f" New hosts go on coming from it: {'; '.join(producers)}." if producers else ""
    if unknown := _unknown_producers(view, image[0]):
        going_on += f" What else starts hosts of it is not known: {'; '.join(unknown)}."
    row = _row_of(view, image)
    made_of = row.source_instance or row.source_image if row else ""
    had = [host for host in carriers if host not in stale]
    kin = [host for host in _of_image(view, image) if host.instance_id not in carriers]
    evidence = [f"the image was made of {made_of}"] if made_of else []
    evidence += _further_back(row, images)
    evidence += [f"has it: {view.hosts[host].label}" for host in stale]
    evidence += [f"had it, and was cleared: {view.hosts[host].label}" for host in had]
    evidence += [f"of the same image, its vault was not seen: {host.label}" for host in kin]
    members = sorted(_memberships(view, [*carriers, *(host.instance_id for host in kin)]))
    evidence += [f"some of them are members of the Auto Scaling group {name}" for name in members]
    node = _node(view, registration)
    evidence += activations.told(node) if node else ()
    return Finding(
        code="BAKED_REGISTRATION",
        severity=Severity.high,
        message=f"The hybrid registration {node_id} ({region}) is baked into {_named(view, image)}:"
        f" {len(carriers)} host(s) came up with it, {len(stale)} of them still have it." + going_on,
        evidence=tuple(evidence),
        remedy=BAKE + (activations.remedy(node) if node else ""),
    )


def _carriers(view: View) -> dict[Registration, list[str]]:
    """Registration → the hosts that have it in their vault, or were cleared of it by Haltuun."""
    found: defaultdict[Registration, set[str]] = defaultdict(set)
    for host, facts in view.facts.get(StageName.repair, {}).items():
        registration = _registration_of(facts)
        if registration is not None:
            found[registration].add(host)
    account = view.account_facts.get(StageName.repair)
    if isinstance(account, RepairAccount):
        for cleared in account.cleared:
            found[cleared.region, cleared.node_id].update(cleared.hosts)
    return {key: sorted(host for host in hosts if host in view.hosts) for key, hosts in found.items()}


def _registration_of(facts: object) -> Registration | None:
    """The one by which the host's agent runs, or would."""
    if not isinstance(facts, RepairFacts) or isinstance(facts.causes, Unknown):
        return None
    node_id, region = facts.vault_instance_id, facts.vault_region
    stale = "STALE_HYBRID" in facts.causes and isinstance(node_id, str) and isinstance(region, str)
    return (str(region), str(node_id)) if stale else None


def _has(view: View, host: str, registration: Registration) -> bool:
    return _registration_of(view.facts.get(StageName.repair, {}).get(host)) == registration


def _by_image(view: View, hosts: Sequence[str]) -> dict[Image, list[str]]:
    found: defaultdict[Image, list[str]] = defaultdict(list)
    for host in hosts:
        facts = view.facts.get(StageName.discover, {}).get(host)
        if isinstance(facts, DiscoverFacts) and isinstance(facts.image_id, str):
            found[view.hosts[host].region, facts.image_id].append(host)
    return found


def _is_older(view: View, registration: Registration, image: Image) -> bool:
    """Made before the image was: then the image was made of a machine that had it."""
    node, row = _node(view, registration), _row_of(view, image)
    if node is None or node.registered_at is None or row is None or row.created_at is None:
        return False
    made = row.created_at if row.created_at.tzinfo else row.created_at.replace(tzinfo=UTC)
    return node.registered_at < made


def _node(view: View, registration: Registration) -> NodeRow | None:
    account = view.account_facts.get(StageName.repair)
    node = account.node(*registration) if isinstance(account, RepairAccount) else None
    return node if isinstance(node, NodeRow) else None


def _descends(view: View, image: Image, carriers: Sequence[str], images: set[Image]) -> bool:
    """Made of a host that has it; or of the image of another that has it, be it over others, or the other way
    round: but not because a host of it, on which it may have been registered, became the other's image."""
    row = _row_of(view, image)
    if row is not None and row.source_instance in carriers:
        return True
    others = {one: _row_of(view, one) for one in images - {image}}
    made_of = _ancestors(row)
    return any(
        ami in made_of
        or (other is not None and other.source_image == image[1] and other.source_instance not in carriers)
        for (_, ami), other in others.items()
    )


def _ancestors(row: ImageFacts | None) -> tuple[str, ...]:
    """As far as they are known."""
    if row is None:
        return ()
    return (row.source_image, *(() if isinstance(row.lineage, Unknown) else row.lineage))


def _further_back(row: ImageFacts | None, images: set[Image]) -> list[str]:
    """The images of other carriers from which it comes by way of others."""
    if row is not None and isinstance(row.lineage, Unknown):
        return (
            [f"what its source image was made of is unknown ({row.lineage.unknown})"]
            if row.source_image
            else []
        )
    kin = [ami for _, ami in images if ami in _ancestors(row)[2:]]
    return [f"and goes back to {ami}, of which other hosts with it are" for ami in sorted(kin)]


def _of_image(view: View, image: Image) -> list[Host]:
    """Hosts of the image whose vault nobody has seen."""
    seen = view.facts.get(StageName.repair, {})
    kin = []
    for instance_id, facts in view.facts.get(StageName.discover, {}).items():
        host, repair = view.hosts.get(instance_id), seen.get(instance_id)
        if host is None or not isinstance(facts, DiscoverFacts):
            continue
        unseen = isinstance(repair, RepairFacts) and isinstance(repair.vault_instance_id, Unknown)
        if unseen and (host.region, facts.image_id) == image:
            kin.append(host)
    return sorted(kin, key=lambda host: host.instance_id)


def _memberships(view: View, hosts: Sequence[str]) -> set[str]:
    found = set()
    for host in hosts:
        facts = view.facts.get(StageName.discover, {}).get(host)
        if isinstance(facts, DiscoverFacts) and isinstance(facts.asg, str):
            found.add(facts.asg)
    return found


def _region(view: View, region: str) -> RegionFacts:
    account = view.account_facts.get(StageName.discover)
    facts = account.regions.get(region) if isinstance(account, DiscoverAccount) else None
    return facts or RegionFacts()


def _producers(view: View, image: Image) -> list[str]:
    """Templates that start hosts of the image, and the groups that start from just these versions."""
    facts = _region(view, image[0])
    every: Sequence[Template] = () if isinstance(facts.templates, Unknown) else facts.templates
    templates = [one for one in every if one.image_id == image[1]]
    called = {name for one in templates for name in one.called}
    groups: Sequence[ScalingGroup] = () if isinstance(facts.groups, Unknown) else facts.groups
    starting = sorted(group.name for group in groups if called & set(group.starts_from))
    return [*(f"Auto Scaling group {name}" for name in starting), *sorted(one.label for one in templates)]


# AWS's own images, which nobody's registration is baked into.
_PARAMETER, _OF_AWS = "resolve:ssm:", "resolve:ssm:/aws/service/"


def _unknown_producers(view: View, region: str) -> list[str]:
    """What could not be asked, and the templates that look their image up at each start."""
    facts = _region(view, region)
    said = [
        f"{what} could not be asked ({part.unknown})"
        for what, part in (("launch templates", facts.templates), ("Auto Scaling groups", facts.groups))
        if isinstance(part, Unknown)
    ]
    templates: Sequence[Template] = () if isinstance(facts.templates, Unknown) else facts.templates
    for one in templates:
        if one.image_id.startswith(_PARAMETER) and not one.image_id.startswith(_OF_AWS):
            parameter = one.image_id.removeprefix(_PARAMETER)
            called = set(one.called)
            groups: Sequence[ScalingGroup] = () if isinstance(facts.groups, Unknown) else facts.groups
            by = sorted(group.name for group in groups if called & set(group.starts_from))
            used = f", used by the Auto Scaling group {', '.join(by)}," if by else ""
            said.append(
                f"{one.label}{used} takes its image from the parameter {parameter}, which is not read"
            )
    return sorted(said)


def _named(view: View, image: Image) -> str:
    row = _row_of(view, image)
    return f"image {image[1]} ({row.name})" if row and row.name else f"image {image[1]}"


def _row_of(view: View, image: Image) -> ImageFacts | None:
    """None: it no longer exists, or is not shared."""
    images = _region(view, image[0]).images
    known = () if isinstance(images, Unknown) else images
    return next((row for row in known if row.image_id == image[1]), None)
