"""A registration that is baked into an image, and what goes on starting hosts with it. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from haltuun.model import Finding, Host, Severity, StageName, Unknown
from haltuun.stages.base import View
from haltuun.stages.discover.facts import DiscoverAccount, DiscoverFacts, RegionFacts, ScalingGroup, Template
from haltuun.stages.repair.facts import RepairAccount, RepairFacts

Registration = tuple[str, str]  # region, mi-…
BAKE = (
    "Make the image anew from a repaired host: stop the agent, run 'amazon-ssm-agent -register -clear' as"
    " root, remove registration, mi-*, Vault/EC2Manifest and Vault/Store/EC2RegistrationKey below"
    " /var/lib/amazon/ssm, then create the image; give it to what starts hosts, refresh the groups,"
    " deregister the old image."
)


def judge_fleet(view: View) -> Iterator[Finding]:
    """One finding for each registration that several hosts carry, or that an image goes on handing out."""
    for registration, carriers in sorted(_carriers(view).items()):
        images = _images(view, carriers)
        kin = [host for host in _of_images(view, images) if host.instance_id not in carriers]
        sources = [source for image in sorted(images) for source in _sources(view, image)]
        groups = sorted({*_groups_of(view, images), *_memberships(view, [*carriers, *_ids(kin)])})
        if len(carriers) > 1 or sources or groups:
            yield _baked(view, registration, carriers, images, kin, sources, groups)


def _baked(
    view: View,
    registration: Registration,
    carriers: Sequence[str],
    images: set[tuple[str, str]],
    kin: Sequence[Host],
    sources: Sequence[str],
    groups: Sequence[str],
) -> Finding:
    region, node_id = registration
    where = ", ".join(_named(view, image) for image in sorted(images)) or "an image that is not known"
    producers = [*(f"Auto Scaling group {name}" for name in groups), *sources]
    going_on = f" New hosts go on coming from it: {'; '.join(producers)}." if producers else ""
    evidence = [f"carries or carried it: {view.hosts[host].label}" for host in carriers]
    evidence += [f"of the same image, its vault was not seen: {host.label}" for host in kin]
    return Finding(
        code="BAKED_REGISTRATION",
        severity=Severity.high,
        message=f"{len(carriers)} host(s) have the hybrid registration {node_id} ({region}) from {where}."
        + going_on,
        evidence=tuple(evidence),
        remedy=BAKE,
    )


def _carriers(view: View) -> dict[Registration, list[str]]:
    """Registration → the hosts that have it in their vault, or were cleared of it by Haltuun."""
    found: defaultdict[Registration, set[str]] = defaultdict(set)
    for host, facts in view.facts.get(StageName.repair, {}).items():
        if not isinstance(facts, RepairFacts):
            continue
        node_id, region = facts.vault_instance_id, facts.vault_region
        stale = not isinstance(facts.causes, Unknown) and "STALE_HYBRID" in facts.causes
        if stale and isinstance(node_id, str) and isinstance(region, str):
            found[region, node_id].add(host)
    account = view.account_facts.get(StageName.repair)
    if isinstance(account, RepairAccount):
        for cleared in account.cleared:
            found[cleared.region, cleared.node_id].update(cleared.hosts)
    there = {key: sorted(host for host in hosts if host in view.hosts) for key, hosts in found.items()}
    return {key: hosts for key, hosts in there.items() if hosts}


def _images(view: View, hosts: Sequence[str]) -> set[tuple[str, str]]:
    """(region, image id) of the hosts."""
    found = set()
    for host in hosts:
        facts = view.facts.get(StageName.discover, {}).get(host)
        if isinstance(facts, DiscoverFacts) and isinstance(facts.image_id, str):
            found.add((view.hosts[host].region, facts.image_id))
    return found


def _of_images(view: View, images: set[tuple[str, str]]) -> list[Host]:
    """Hosts of these images whose vault nobody has seen."""
    seen = view.facts.get(StageName.repair, {})
    kin = []
    for instance_id, facts in view.facts.get(StageName.discover, {}).items():
        host, repair = view.hosts.get(instance_id), seen.get(instance_id)
        if host is None or not isinstance(facts, DiscoverFacts):
            continue
        unseen = isinstance(repair, RepairFacts) and isinstance(repair.vault_instance_id, Unknown)
        if unseen and (host.region, facts.image_id) in images:
            kin.append(host)
    return sorted(kin, key=lambda host: host.instance_id)


def _ids(hosts: Sequence[Host]) -> list[str]:
    return [host.instance_id for host in hosts]


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


def _templates(view: View, image: tuple[str, str]) -> list[Template]:
    region, image_id = image
    templates = _region(view, region).templates
    return [] if isinstance(templates, Unknown) else [one for one in templates if one.image_id == image_id]


def _sources(view: View, image: tuple[str, str]) -> list[str]:
    return sorted({one.label for one in _templates(view, image)})


def _groups_of(view: View, images: set[tuple[str, str]]) -> set[str]:
    """Auto Scaling groups that start hosts of the images."""
    found: set[str] = set()
    for image in images:
        names = {name for one in _templates(view, image) for name in (one.template_id, one.name) if name}
        groups = _region(view, image[0]).groups
        known: Sequence[ScalingGroup] = () if isinstance(groups, Unknown) else groups
        found.update(group.name for group in known if names & set(group.starts_from))
    return found


def _named(view: View, image: tuple[str, str]) -> str:
    region, image_id = image
    images = _region(view, region).images
    known = () if isinstance(images, Unknown) else images
    name = next((row.name for row in known if row.image_id == image_id), "")
    return f"image {image_id} ({name})" if name else f"image {image_id}"
