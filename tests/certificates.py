"""Certificates as an authority of the test's own makes them."""

import os
import ssl
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from toolgate.main import now

HERE = ("localhost", "127.0.0.1")


@dataclass(frozen=True)
class Authority:
    """Signs certificates; `folder` holds its own."""

    folder: Path
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def new(cls, folder: Path) -> "Authority":
        """Make one, whose certificate lies in `folder` as `ca.pem`."""
        key, name = ec.generate_private_key(ec.SECP256R1()), _named("Test CA")
        certificate = (
            _builder(name, name, now() - timedelta(days=1), timedelta(days=400))
            .public_key(key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(_USAGE_OF_AN_AUTHORITY, critical=True)
            .sign(key, hashes.SHA256())
        )
        (folder / "ca.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return cls(folder, key, certificate)

    def trusting(self) -> ssl.SSLContext:
        """Give a client's context that trusts this authority and nobody else."""
        return ssl.create_default_context(cafile=str(self.folder / "ca.pem"))

    def issue(
        self,
        names: tuple[str, ...] = HERE,
        begins: datetime | None = None,
        lasts: timedelta = timedelta(days=90),
        passphrase: bytes | None = None,
    ) -> tuple[bytes, bytes]:
        """Give a certificate and its key, as PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        public = self.certificate.public_key()
        assert isinstance(public, ec.EllipticCurvePublicKey)
        builder = (
            _builder(_named("gate"), self.certificate.subject, begins or now() - timedelta(hours=1), lasts)
            .public_key(key.public_key())
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        )
        if names:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_alternative(name) for name in names]), critical=False
            )
        sealed = (
            serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
        )
        return (
            builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM),
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, sealed),
        )


def place(folder: Path, pair: tuple[bytes, bytes]) -> tuple[Path, Path]:
    """Put certificate and key there, as a renewal does, the key for its owner's eyes."""
    certificate, key = folder / "tls.pem", folder / "tls.key"
    certificate.write_bytes(pair[0])
    with os.fdopen(os.open(key, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(pair[1])
    return certificate, key


def _builder(
    subject: x509.Name, issuer: x509.Name, begins: datetime, lasts: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(begins + lasts)
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


_USAGE_OF_AN_AUTHORITY = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)
