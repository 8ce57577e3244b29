"""Where a host finds its services: addresses that only its gateway has."""

from __future__ import annotations

IMDS = "imds"
DNS = "dns"
SERVICE_ADDRESSES: dict[str, tuple[str, int]] = {
    IMDS: ("169.254.169.254", 80),
    DNS: ("169.254.169.253", 53),
    "ssm": ("10.99.0.10", 443),
    "ssmmessages": ("10.99.0.11", 443),
    "ec2messages": ("10.99.0.12", 443),
    "s3": ("10.99.0.13", 443),
    "logs": ("10.99.0.14", 443),
    "monitoring": ("10.99.0.15", 443),
    "ec2": ("10.99.0.16", 443),
    "sts": ("10.99.0.17", 443),
    "kms": ("10.99.0.18", 443),
}
TLS_SERVICES = tuple(name for name in SERVICE_ADDRESSES if name not in (IMDS, DNS))
