"""The certificate that the gate shows, and its key: two PEM files, judged before anybody meets them."""

import logging
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509 import (
    Certificate,
    DNSName,
    DuplicateExtension,
    ExtensionNotFound,
    IPAddress,
    SubjectAlternativeName,
    UnsupportedGeneralNameType,
    load_pem_x509_certificates,
)

from toolgate.core.errors import Fault, Misconfigured

log = logging.getLogger(__name__)

SOON: Final = timedelta(days=14)
"""So long before its end a certificate is worth a warning: one that is renewed by itself has been by then."""
_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2: forward secrecy and authenticated encryption only (RFC 9325, section 4.2)."""
_REPLACE: Final = "put a certificate there that is valid now, and send SIGHUP or start again"


@dataclass(frozen=True, kw_only=True)
class TlsFiles:
    """Where certificate and key are, and for whom they have to stand."""

    certificate: Path
    key: Path
    host: str
    """The name or address by which clients call this server."""


@dataclass(frozen=True, kw_only=True)
class TlsFindings:
    """What the files hold."""

    faults: Sequence[Fault] = ()
    """With one of these nothing can be served."""
    warnings: Sequence[Fault] = ()
    """These are most likely not meant, or will be faults soon."""
    until: datetime | None = None
    """When the certificate expires (UTC)."""


def examine_tls(files: TlsFiles, now: datetime) -> TlsFindings:
    """Look at certificate and key, and say everything that is wrong with them."""
    certificate, faults = _certificate_in(files.certificate)
    key, more = _key_in(files.key)
    faults += more
    if certificate is None:
        return TlsFindings(faults=faults)
    if key is not None and _spelled(key.public_key()) != _spelled(certificate.public_key()):
        problem = "it is not the key of the first certificate in tls_certificate"
        remedy = "name the key that belongs to it, and put the server's own certificate first"
        faults.append(Fault(files.key.name, "tls_key", problem, remedy))
    faults += _faults_of_time(files, certificate, now)
    until = certificate.not_valid_after_utc
    return TlsFindings(faults=faults, warnings=_warnings(files, certificate, now), until=until)


def context_of(files: TlsFiles) -> ssl.SSLContext:
    """Build what new connections are encrypted with: TLS 1.2 and 1.3, for HTTP/1.1.

    Raises:
        Misconfigured: OpenSSL does not take the files.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(files.certificate, files.key, password=_no_passphrase)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or "they do not fit"
        place, problem = "tls_certificate, tls_key", f"TLS does not take them: {reason}"
        raise Misconfigured([Fault(files.certificate.name, place, problem, _REPLACE)]) from error
    return context


class LiveCertificate:
    """The certificate that new connections are shown; one that replaces it is shown from then on.

    Connections that are there keep the one that they have seen. Each handshake is led by the newest context,
    which was built from the files as a whole: a pair that is being replaced is never shown half.

    Args:
        files: where it is.
        now: the clock (UTC).

    Raises:
        Misconfigured: with everything that is wrong with the files.
    """

    def __init__(self, files: TlsFiles, now: Callable[[], datetime]) -> None:
        self._files = files
        self._now = now
        self._told = ""
        self._newest, self.until = self._read()
        self.context = context_of(files)
        self.context.sni_callback = self._lead

    def renew(self) -> None:
        """Read the files again. With a fault the certificate of before is shown, and the log says why."""
        try:
            self._newest, self.until = self._read()
        except Misconfigured as error:
            told = f"the certificate is not taken up, the one of before is shown on: {error}"
        else:
            told = f"the certificate that was read is valid until {self.until:%Y-%m-%d %H:%M} UTC"
        if told != self._told:
            log.warning("%s", told)
        self._told = told

    def _read(self) -> tuple[ssl.SSLContext, datetime]:
        found = examine_tls(self._files, self._now())
        if found.faults or found.until is None:
            raise Misconfigured(list(found.faults))
        for warning in found.warnings:
            log.warning("%s", warning)
        return context_of(self._files), found.until

    def _lead(self, connection: ssl.SSLSocket | ssl.SSLObject, _host: str | None, _: ssl.SSLContext) -> None:
        """Let OpenSSL go on with the newest certificate; it asks at every handshake."""
        connection.context = self._newest


def _certificate_in(file: Path) -> tuple[Certificate | None, list[Fault]]:
    place, remedy = "tls_certificate", "name a PEM file with the server's certificate and those that sign it"
    try:
        return load_pem_x509_certificates(file.read_bytes())[0], []
    except OSError as error:
        return None, [Fault(file.name, place, f"it cannot be read ({error.strerror})", remedy)]
    except (ValueError, UnsupportedAlgorithm):
        return None, [Fault(file.name, place, "it holds no certificate that can be read", remedy)]


def _key_in(file: Path) -> tuple[PrivateKeyTypes | None, list[Fault]]:
    place, remedy = "tls_key", "name the PEM file of the certificate's private key"
    try:
        readable = file.stat().st_mode & 0o007
        key = load_pem_private_key(file.read_bytes(), password=None)
    except OSError as error:
        return None, [Fault(file.name, place, f"it cannot be read ({error.strerror})", remedy)]
    except TypeError:
        problem, remedy = "it is behind a passphrase, which nobody can type here", "write it without one"
        return None, [Fault(file.name, place, problem, f"{remedy}: openssl pkey -in KEY -out {file.name}")]
    except (ValueError, UnsupportedAlgorithm):
        return None, [Fault(file.name, place, "it holds no private key that can be read", remedy)]
    if readable:
        problem = "everybody on this machine may read it"
        return key, [Fault(file.name, place, problem, f"run: chmod o= {file.name}")]
    return key, []


def _spelled(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _faults_of_time(files: TlsFiles, certificate: Certificate, now: datetime) -> list[Fault]:
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < begins:
        problem = f"it is not valid before {begins:%Y-%m-%d %H:%M} UTC"
    elif now > ends:
        problem = f"it has expired on {ends:%Y-%m-%d %H:%M} UTC"
    else:
        return []
    return [Fault(files.certificate.name, "tls_certificate", problem, _REPLACE)]


def _warnings(files: TlsFiles, certificate: Certificate, now: datetime) -> list[Fault]:
    place, warnings = "tls_certificate", list[Fault]()
    ends = certificate.not_valid_after_utc
    if now <= ends < now + SOON:
        problem = f"it expires on {ends:%Y-%m-%d %H:%M} UTC, in {(ends - now).days} days"
        warnings.append(Fault(files.certificate.name, place, problem, _REPLACE))
    if not _stands_for(certificate, files.host):
        problem = f"it does not stand for {files.host!r}, so clients will not trust it there"
        remedy = "get one for that name, or correct public_url"
        warnings.append(Fault(files.certificate.name, place, problem, remedy))
    return warnings


def _stands_for(certificate: Certificate, host: str) -> bool:
    """Whether `host` is among its subject alternative names, which alone count (RFC 9525)."""
    try:
        names = certificate.extensions.get_extension_for_class(SubjectAlternativeName).value
    except (ExtensionNotFound, DuplicateExtension, UnsupportedGeneralNameType, ValueError):
        return False
    try:
        return ip_address(host) in names.get_values_for_type(IPAddress)
    except ValueError:
        host = host.lower()
    own = [name.lower() for name in names.get_values_for_type(DNSName)]
    return host in own or "*." + host.partition(".")[2] in own


def _no_passphrase() -> str:
    raise ValueError("a passphrase is asked for")
