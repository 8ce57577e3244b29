"""Key pairs of the lab: the account's RSA key pair, and the hosts' own keys."""

from __future__ import annotations

import base64
from dataclasses import dataclass

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
HOST_KEY_KINDS = ("rsa", "ecdsa", "ed25519")


@dataclass(frozen=True)
class KeyPair:
    private: str
    public: str  # one line, as in authorized_keys

    @property
    def kind(self) -> str:
        return self.public.split()[0]


def _pair(key: PrivateKey, form: serialization.PrivateFormat, comment: str) -> KeyPair:
    private = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return KeyPair(private.decode(), f"{public.decode()} {comment}")


def make_key_pair(name: str) -> KeyPair:
    """An RSA key pair in the PEM form in which EC2 hands it out."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return _pair(key, serialization.PrivateFormat.TraditionalOpenSSL, name)


def make_host_keys(name: str) -> dict[str, KeyPair]:
    """One key of each kind that sshd looks for in /etc/ssh, by kind."""
    keys: dict[str, PrivateKey] = {
        "rsa": rsa.generate_private_key(public_exponent=65537, key_size=2048),
        "ecdsa": ec.generate_private_key(ec.SECP256R1()),
        "ed25519": ed25519.Ed25519PrivateKey.generate(),
    }
    form = serialization.PrivateFormat.OpenSSH
    return {kind: _pair(key, form, f"root@{name}") for kind, key in keys.items()}


def make_registration_key() -> str:
    """A private key as the agent's vault holds it: PKCS#1, base64 without lines."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    der = key.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    return base64.b64encode(der).decode()
