"""The lab's certificate authority and the certificate of its TLS front."""

from __future__ import annotations

import datetime
import os
from dataclasses import dataclass
from pathlib import Path

import boto3
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

LIFETIME = datetime.timedelta(days=3650)


@dataclass(frozen=True)
class CaFiles:
    """PEM files; `authority` is what a host has to trust, `untrusted` what it must not."""

    authority: Path
    certificate: Path
    key: Path
    untrusted_certificate: Path
    untrusted_key: Path

    @property
    def authority_pem(self) -> str:
        return self.authority.read_text(encoding="ascii")


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _write(path: Path, data: bytes, mode: int) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(handle, "wb") as file:
        file.write(data)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def _builder(subject: str, issuer: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=400)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + LIFETIME)
    )


def names_of(regions: list[str]) -> list[str]:
    """The names that the front answers for."""
    found = ["sts.amazonaws.com", "s3.amazonaws.com", "*.s3.amazonaws.com"]
    for region in regions:
        found += [f"*.{region}.amazonaws.com", f"*.s3.{region}.amazonaws.com"]
    return found


def _authority(subject: str) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    builder = _builder(subject, subject, key).add_extension(
        x509.BasicConstraints(ca=True, path_length=0), True
    )
    certificate = builder.add_extension(usage, True).sign(key, hashes.SHA256())
    return certificate, key


def _leaf(
    authority: x509.Certificate, authority_key: ec.EllipticCurvePrivateKey, names: list[str], issuer: str
) -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    alternative = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
    builder = _builder("amazonaws.com", issuer, key).add_extension(alternative, False)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
    certificate = builder.sign(authority_key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    return certificate.public_bytes(pem) + authority.public_bytes(pem), _pem(key)


def ensure_ca(folder: Path) -> CaFiles:
    """The files in `folder`, made if they are not there; private keys are readable by root only."""
    files = CaFiles(
        authority=folder / "ca.pem",
        certificate=folder / "front.pem",
        key=folder / "front.key",
        untrusted_certificate=folder / "untrusted.pem",
        untrusted_key=folder / "untrusted.key",
    )
    if all(path.exists() for path in vars(files).values()):
        return files
    folder.mkdir(parents=True, exist_ok=True)
    names = names_of(boto3.Session().get_available_regions("ssm"))
    for subject, certificate, key in (
        ("Haltuun lab CA", files.certificate, files.key),
        ("Some other CA", files.untrusted_certificate, files.untrusted_key),
    ):
        authority, authority_key = _authority(subject)
        chain, secret = _leaf(authority, authority_key, names, subject)
        _write(certificate, chain, 0o644)
        _write(key, secret, 0o600)
        if certificate is files.certificate:
            _write(files.authority, authority.public_bytes(serialization.Encoding.PEM), 0o644)
    return files
