"""Operating systems as Patch Manager knows them, and what Haltuun's baseline approves on each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from haltuun.model import Frozen


class Family(Frozen):
    """One of Patch Manager's operating systems."""

    slug: str  # in names: haltuun-<slug>
    operating_system: str  # botocore ssm OperatingSystem
    apt: bool = False

    @property
    def name(self) -> str:
        return f"haltuun-{self.slug}"


_FAMILIES = (
    Family(slug="ubuntu", operating_system="UBUNTU", apt=True),
    Family(slug="debian", operating_system="DEBIAN", apt=True),
    Family(slug="raspbian", operating_system="RASPBIAN", apt=True),
    Family(slug="amazon-linux", operating_system="AMAZON_LINUX"),
    Family(slug="amazon-linux-2", operating_system="AMAZON_LINUX_2"),
    Family(slug="amazon-linux-2023", operating_system="AMAZON_LINUX_2023"),
    Family(slug="rhel", operating_system="REDHAT_ENTERPRISE_LINUX"),
    Family(slug="centos", operating_system="CENTOS"),
    Family(slug="rocky", operating_system="ROCKY_LINUX"),
    Family(slug="almalinux", operating_system="ALMA_LINUX"),
    Family(slug="oracle-linux", operating_system="ORACLE_LINUX"),
    Family(slug="suse", operating_system="SUSE"),
    Family(slug="windows", operating_system="WINDOWS"),
)
FAMILIES: Mapping[str, Family] = {family.slug: family for family in _FAMILIES}

# ID of /etc/os-release → family.
_BY_OS_ID = {
    "ubuntu": "ubuntu",
    "debian": "debian",
    "raspbian": "raspbian",
    "rhel": "rhel",
    "centos": "centos",
    "rocky": "rocky",
    "almalinux": "almalinux",
    "ol": "oracle-linux",
    "sles": "suse",
    "sles_sap": "suse",
    "windows": "windows",
}
# PlatformName as the agent reports it (DescribeInstanceInformation), by its beginning.
_BY_PLATFORM = (
    ("ubuntu", "ubuntu"),
    ("debian", "debian"),
    ("raspbian", "raspbian"),
    ("red hat", "rhel"),
    ("centos", "centos"),
    ("rocky", "rocky"),
    ("almalinux", "almalinux"),
    ("oracle linux", "oracle-linux"),
    ("sles", "suse"),
    ("suse", "suse"),
    ("microsoft windows", "windows"),
)


def family_of(os_id: str, os_version: str, platform_name: str = "") -> Family | None:
    """The family, by /etc/os-release or else by what the agent reports; None: Patch Manager has none."""
    name = platform_name.lower()
    if os_id == "amzn" or name.startswith("amazon linux"):
        return FAMILIES[_amazon(os_version)]
    slug = _BY_OS_ID.get(os_id)
    if slug is None:
        slug = next((slug for start, slug in _BY_PLATFORM if name.startswith(start)), None)
    return FAMILIES[slug] if slug else None


def _amazon(version: str) -> str:
    if version.startswith("2023"):
        return "amazon-linux-2023"
    return "amazon-linux-2" if version == "2" or version.startswith("2.") else "amazon-linux"


def _rule(filters: Mapping[str, list[str]], *, after_days: int | None, non_security: bool = False) -> Any:
    rule: dict[str, Any] = {
        "PatchFilterGroup": {
            "PatchFilters": [{"Key": key, "Values": values} for key, values in filters.items()]
        },
        "ComplianceLevel": "HIGH",
    }
    if after_days is not None:
        rule["ApproveAfterDays"] = after_days
    if non_security:
        rule["EnableNonSecurity"] = True
    return {"PatchRules": [rule]}


def approval_rules(family: Family) -> Any:
    """CreatePatchBaseline's ApprovalRules: security updates, a week old where the repository dates them."""
    if family.apt:
        # "Not supported for Debian Server or Ubuntu Server": no ApproveAfterDays (botocore PatchRule).
        priorities = ["Required", "Important", "Standard", "Optional", "Extra"]
        return _rule({"PRODUCT": ["*"], "PRIORITY": priorities}, after_days=None)
    if family.slug == "windows":
        kinds = ["CriticalUpdates", "SecurityUpdates"]
        return _rule({"PRODUCT": ["*"], "CLASSIFICATION": kinds, "MSRC_SEVERITY": ["*"]}, after_days=7)
    if family.slug == "centos":
        # CentOS repositories do not say which update is for security: a security rule approves nothing.
        return _rule({"PRODUCT": ["*"]}, after_days=7, non_security=True)
    return _rule({"PRODUCT": ["*"], "CLASSIFICATION": ["Security"], "SEVERITY": ["*"]}, after_days=7)
