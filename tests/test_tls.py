"""HTTPS with a certificate of one's own: what is checked before, what clients meet, and how it is renewed."""

import itertools
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Generator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from shutil import copytree

import pytest
from cryptography.x509 import load_pem_x509_certificate

from examples.demo.waiting import free_port
from tests.certificates import HERE, Authority, place
from tests.running_gate import Gate, result_of, running, say, wait_until
from tests.shell import document, replace, run
from toolgate.backends.tls_files import TlsFiles, TlsFindings, examine_tls
from toolgate.cli.listening import listen
from toolgate.core.errors import Misconfigured
from toolgate.main import now
from toolgate.settings import read_settings

REPO = Path(__file__).resolve().parents[1]
SAID = 'tls_certificate = "tls.pem"\ntls_key = "tls.key"'


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.new(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def gate(starter: Path, authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Generator[Gate]:
    root = Path(copytree(starter, tmp_path_factory.mktemp("tls") / "root"))
    place(root, authority.issue())
    with running(root, say(root, SAID), trusts=authority.trusting()) as served:
        yield served


# --- before it is served


def found_in(folder: Path, host: str = "localhost") -> TlsFindings:
    return examine_tls(TlsFiles(certificate=folder / "tls.pem", key=folder / "tls.key", host=host), now())


def problem_in(folder: Path) -> str:
    found = found_in(folder)
    assert all(fault.remedy for fault in found.faults)
    return " / ".join(fault.problem for fault in found.faults)


def test_a_good_certificate_has_no_fault_and_no_warning(authority: Authority, tmp_path: Path) -> None:
    place(tmp_path, authority.issue((*HERE, "*.example.com", "::1")))

    for host in ("localhost", "LOCALHOST", "127.0.0.1", "::1", "gate.example.com"):
        assert found_in(tmp_path, host).faults == []
        assert found_in(tmp_path, host).warnings == [], host


@pytest.mark.parametrize("host", ["example.com", "a.b.example.com", "127.0.0.2", "gate.example.org"])
def test_a_certificate_that_does_not_stand_for_the_public_name_is_a_warning(
    authority: Authority, tmp_path: Path, host: str
) -> None:
    place(tmp_path, authority.issue((*HERE, "*.example.com")))

    assert found_in(tmp_path, host).faults == []
    assert [warning.problem for warning in found_in(tmp_path, host).warnings] == [
        f"it does not stand for {host!r}, so clients will not trust it there"
    ]


def test_a_certificate_without_names_stands_for_nobody(authority: Authority, tmp_path: Path) -> None:
    place(tmp_path, authority.issue(()))

    assert len(found_in(tmp_path).warnings) == 1


def test_a_certificate_that_expires_soon_is_a_warning_and_one_that_has_is_a_fault(
    authority: Authority, tmp_path: Path
) -> None:
    place(tmp_path, authority.issue(lasts=timedelta(days=13)))
    assert "in 12 days" in found_in(tmp_path).warnings[0].problem
    place(tmp_path, authority.issue(lasts=timedelta(days=15)))
    assert found_in(tmp_path).warnings == []
    place(tmp_path, authority.issue(lasts=timedelta(minutes=59)))
    assert "it has expired on" in problem_in(tmp_path)
    place(tmp_path, authority.issue(begins=now() + timedelta(hours=1)))
    assert "it is not valid before" in problem_in(tmp_path)


def test_files_that_cannot_be_used_are_faults(authority: Authority, tmp_path: Path) -> None:
    assert problem_in(tmp_path).count("it cannot be read (No such file or directory)") == 2

    certificate, key = place(tmp_path, authority.issue())
    key.write_bytes(authority.issue()[1])
    assert "it is not the key of the first certificate" in problem_in(tmp_path)
    key.write_bytes(authority.issue(passphrase=b"secret")[1])
    assert "it is behind a passphrase" in problem_in(tmp_path)
    key.write_bytes(b"nonsense")
    certificate.write_bytes(b"nonsense")
    assert "it holds no certificate" in problem_in(tmp_path)
    assert "it holds no private key" in problem_in(tmp_path)


def test_a_key_that_everybody_may_read_is_a_fault_and_one_for_a_group_is_none(
    authority: Authority, tmp_path: Path
) -> None:
    _, key = place(tmp_path, authority.issue())
    key.chmod(0o644)
    assert problem_in(tmp_path) == "everybody on this machine may read it"
    key.chmod(0o640)
    assert found_in(tmp_path).faults == []


def test_check_tells_faults_and_warnings(
    root: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    place(root, authority.issue(lasts=timedelta(days=2)))
    say(root, SAID)
    assert [warning["file"] for warning in document("check")["warnings"]] == ["tls.pem"]

    (root / "tls.key").chmod(0o604)
    refused = run("check")
    assert refused.exit_code == 1
    assert "run: chmod o= tls.key" in refused.stderr


@pytest.mark.parametrize(
    ("said", "place_of_it"),
    [
        ('tls_certificate = "tls.pem"', "tls_certificate, tls_key"),
        ('tls_key = "tls.key"', "tls_certificate, tls_key"),
        (f'{SAID}\npublic_url = "http://gate.example.com/mcp"', "public_url"),
    ],
)
def test_settings_of_tls_that_do_not_agree_are_refused(root: Path, said: str, place_of_it: str) -> None:
    say(root, said)

    with pytest.raises(Misconfigured) as refused:
        read_settings(root)
    assert [fault.place for fault in refused.value.faults] == [place_of_it]


def test_with_a_certificate_the_address_is_https(root: Path) -> None:
    port = say(root, SAID)

    assert read_settings(root).resource == f"https://127.0.0.1:{port}/mcp"


PRODUCTION = 'mode = "production"\nhost = "0.0.0.0"\npublic_url = "https://gate.example.com/mcp"'
ISSUER = (
    '\n[[issuers]]\nissuer = "https://id.example"\njwks_uri = "https://id.example/jwks"\ntenant = "home"\n'
)


@pytest.mark.parametrize(
    ("said", "open_to_readers"),
    [
        ("", True),
        (SAID, False),
        ('forwarded_allow_ips = ["10.0.0.0/8"]', False),
    ],
)
def test_in_production_tokens_do_not_travel_in_the_clear(
    root: Path, said: str, *, open_to_readers: bool
) -> None:
    (root / "toolgate.toml").write_text(f"{PRODUCTION}\n{said}\n{ISSUER}", "utf-8")
    settings = read_settings(root)  # which commands need that do not listen

    found = _faults_of_host(root)
    assert bool(found) is open_to_readers
    if open_to_readers:
        assert "could read tokens" in found[0]["problem"]
        assert "tls_certificate" in found[0]["remedy"]
        anywhere = settings.model_copy(update={"port": free_port()})
        with pytest.raises(Misconfigured, match="could read tokens"), listen(anywhere):
            pass
        replace(str(root / "toolgate.toml"), "0.0.0.0", "127.0.0.1")  # noqa: S104 - it is refused
        assert not _faults_of_host(root)


def _faults_of_host(root: Path) -> list[dict[str, str]]:
    faults: list[dict[str, str]] = json.loads(run("check", "--json", "--root", str(root)).stdout)["faults"]
    return [fault for fault in faults if fault["place"] == "host"]


# --- as clients meet it


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_call_over_tls_is_answered(gate: Gate, authority: Authority, version: ssl.TLSVersion) -> None:
    context = authority.trusting()
    context.minimum_version = context.maximum_version = version
    client = Gate(gate.root, gate.port, gate.process, context)

    assert client.call("notes_add", text=f"over {version.name}")["isError"] is False


def test_older_versions_weak_ciphers_and_http2_are_not_spoken(gate: Gate, authority: Authority) -> None:
    old = authority.trusting()
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    weak = authority.trusting()
    weak.maximum_version = ssl.TLSVersion.TLSv1_2
    weak.set_ciphers("ECDHE-ECDSA-AES128-SHA")
    for context in (old, weak):
        with pytest.raises((ssl.SSLError, ConnectionResetError)), closing(_shaken(gate, context)):
            pass

    modern = authority.trusting()
    modern.set_alpn_protocols(["h2", "http/1.1"])
    with closing(_shaken(gate, modern)) as connection:
        assert connection.selected_alpn_protocol() == "http/1.1"


def test_plain_http_is_not_answered_and_the_gate_goes_on(gate: Gate) -> None:
    with closing(socket.create_connection(("127.0.0.1", gate.port), timeout=30)) as plain:
        plain.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert not plain.recv(1000).startswith(b"HTTP/"), "no answer in the clear"

    assert gate.get("/healthz").status == 200
    assert "Traceback" not in gate.log()


def test_the_metadata_and_the_challenge_name_the_https_address(gate: Gate) -> None:
    with closing(gate.connect()) as connection:
        connection.request("POST", "/mcp", b"{}", {"Content-Type": "application/json"})
        refused = connection.getresponse()
        refused.read()

    assert refused.status == 401
    assert f'resource_metadata="https://127.0.0.1:{gate.port}/' in str(refused.headers["WWW-Authenticate"])


def test_a_new_certificate_is_shown_to_new_connections_and_old_ones_go_on(
    gate: Gate, authority: Authority
) -> None:
    with closing(gate.connect()) as old:
        before = _shown(gate, authority)
        pair = authority.issue()
        place(gate.root, pair)
        gate.process.send_signal(signal.SIGHUP)
        fresh = load_pem_x509_certificate(pair[0]).serial_number
        wait_until(lambda: _shown(gate, authority) == fresh, "the new certificate is shown")
        assert before != fresh
        assert _shown(gate, authority, name=None) == fresh, "to a client that names no host, too"
        gate.ask(old, "notes_add", text="over the old connection")
        assert result_of(old.getresponse())["isError"] is False
        wait_until(lambda: "the certificate that was read is valid until" in gate.log(), "the log says so")


def test_a_bad_new_certificate_is_refused_and_the_old_one_stays(gate: Gate, authority: Authority) -> None:
    before = _shown(gate, authority)
    place(gate.root, (authority.issue()[0], authority.issue()[1]))
    gate.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "the certificate is not taken up" in gate.log(), "the log says so")

    assert "it is not the key of the first certificate" in gate.log()
    assert _shown(gate, authority) == before
    assert gate.call("notes_add", text="after the bad certificate")["isError"] is False


def test_the_health_check_of_the_image_passes_over_tls_and_fails_where_nothing_answers(gate: Gate) -> None:
    written = (REPO / "Dockerfile").read_text("utf-8").replace("\\\n", "")
    (check,) = re.findall(r"^HEALTHCHECK .*? CMD (\[.*\])$", written, re.MULTILINE)
    command = [sys.executable, *json.loads(check)[1:]]

    said = os.environ | {"TOOLGATE_PORT": str(gate.port)}
    assert subprocess.run(command, env=said, capture_output=True, check=False).returncode == 0
    said = os.environ | {"TOOLGATE_PORT": str(free_port())}
    assert subprocess.run(command, env=said, capture_output=True, check=False).returncode == 1


def test_probes_are_answered_without_a_token_whatever_the_host_and_with_head(gate: Gate) -> None:
    with closing(gate.connect()) as connection:
        for method, path in itertools.product(("GET", "HEAD"), ("/healthz", "/readyz")):
            connection.request(method, path, headers={"Host": "10.42.0.17:8443"})
            response = connection.getresponse()
            body = response.read().decode()
            assert response.status == 200, (method, path)
            assert (body == "") is (method == "HEAD")
            assert not re.search(r"127\.0\.0\.1|localhost|/tmp|BEGIN", body)


def test_readiness_tells_how_long_the_certificate_is_valid(gate: Gate) -> None:
    with closing(gate.connect()) as connection:
        connection.request("GET", "/readyz")
        said = connection.getresponse().read()

    assert b'"certificate_until":"20' in said


def _shaken(gate: Gate, context: ssl.SSLContext, name: str | None = "localhost") -> ssl.SSLSocket:
    plain = socket.create_connection(("127.0.0.1", gate.port), timeout=30)
    return context.wrap_socket(plain, server_hostname=name)


def _shown(gate: Gate, authority: Authority, name: str | None = "localhost") -> int:
    """Give the serial number of the certificate that a new connection is shown."""
    context = authority.trusting()
    context.check_hostname = name is not None
    with closing(_shaken(gate, context, name)) as connection:
        return int(str((connection.getpeercert() or {})["serialNumber"]), 16)
