"""Certificates made on the spot: an authority per purpose, and what it signs for servers and for users."""

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_VALID_FOR = timedelta(days=30)
_CLOCK_SKEW = timedelta(minutes=5)


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, both PEM files."""

    certificate: Path
    key: Path


class Authority:
    """A certificate authority in a directory: `NAME.crt` and `NAME.key`, made at the first use."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self.pair = Pair(directory / f"{name}.crt", directory / f"{name}.key")
        if not self.pair.key.exists():
            self._make(name)

    def issue(self, name: str, user: str, groups: Iterable[str] = (), hosts: Sequence[str] = ()) -> Pair:
        """Sign a certificate for a client (`user` and `groups` are what RBAC sees) that is also a server on `hosts`."""
        key = ec.generate_private_key(ec.SECP256R1())
        organizations = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
        subject = x509.Name([*organizations, x509.NameAttribute(NameOID.COMMON_NAME, user)])
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if hosts else [])]
        builder = _builder(subject, key).add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        if hosts:
            builder = builder.add_extension(x509.SubjectAlternativeName([_alternative(host) for host in hosts]), critical=False)
        own = serialization.load_pem_private_key(self.pair.key.read_bytes(), None)
        assert isinstance(own, ec.EllipticCurvePrivateKey)
        issuer = x509.load_pem_x509_certificate(self.pair.certificate.read_bytes()).subject
        pair = Pair(self._directory / f"{name}.crt", self._directory / f"{name}.key")
        _write(pair, builder.issuer_name(issuer).sign(own, hashes.SHA256()), key)
        return pair

    def _make(self, name: str) -> None:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = _builder(subject, key).add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        _write(self.pair, builder.issuer_name(subject).sign(key, hashes.SHA256()), key)


def make_signing_key(path: Path) -> Path:
    """The key that service-account tokens are signed with; Kubernetes takes RSA there."""
    _write_key(path, rsa.generate_private_key(public_exponent=65537, key_size=2048))
    return path


def _builder(subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(subject).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(now - _CLOCK_SKEW).not_valid_after(now + _VALID_FOR)


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write(pair: Pair, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    pair.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    _write_key(pair.key, key)


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> None:
    path.touch(mode=0o600)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(key.private_bytes(*form))
