"""Remotes as users have them, on the loopback interface: git over https with a token, git over ssh with a key."""

from __future__ import annotations

import base64
import datetime
import getpass
import ipaddress
import os
import pwd
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.processes import free_port
from tests.repositories import ENVIRONMENT
from tests.servers import Handler, serving

SSHD = shutil.which("sshd", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))


@dataclass
class HttpsRemote:
    """Where it listens, who is let in, and what came. `tokens` may be changed while it runs."""

    url: str
    ca_file: Path
    tokens: set[str]
    user: str = "git"
    seen: list[str] = field(default_factory=list)
    silent: threading.Event = field(default_factory=threading.Event)
    """While it is set, requests are accepted and not answered."""

    def lets_in(self, header: str) -> bool:
        pairs = {base64.b64encode(f"{self.user}:{token}".encode()).decode() for token in self.tokens}
        return header.removeprefix("Basic ") in pairs


@contextmanager
def https_remote(folder: Path, root: Path, token: str) -> Iterator[HttpsRemote]:
    """Serve the bare repositories in `root` by `git http-backend` under TLS; certificates are made in `folder`."""
    ca_file, chain = certificates(folder)
    remote = HttpsRemote("", ca_file, {token})
    stopped = threading.Event()

    class Backend(Handler):
        def do_GET(self) -> None:  # noqa: N802  http.server calls it so
            self._serve()

        def do_POST(self) -> None:  # noqa: N802  http.server calls it so
            self._serve()

        def _serve(self) -> None:
            body = self.body()
            header = self.headers.get("Authorization", "")
            remote.seen.append(f"{self.command} {self.path}")
            while remote.silent.is_set() and not stopped.is_set():
                time.sleep(0.02)
            if not remote.lets_in(header):
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="git"')
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            path, _, query = self.path.partition("?")
            variables = {
                **ENVIRONMENT,
                "GIT_PROJECT_ROOT": str(root),
                "GIT_HTTP_EXPORT_ALL": "1",
                "REQUEST_METHOD": self.command,
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "CONTENT_LENGTH": str(len(body)),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
                "REMOTE_USER": remote.user,
                "REMOTE_ADDR": "127.0.0.1",
            }
            done = subprocess.run(["git", "http-backend"], input=body, capture_output=True, env=variables, check=False)
            head, _, content = done.stdout.partition(b"\r\n\r\n")
            headers = dict(line.split(": ", 1) for line in head.decode().splitlines())
            self.send_response(int(headers.pop("Status", "200").split()[0]))
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    with serving(Backend, chain) as remote.url:
        try:
            yield remote
        finally:
            stopped.set()


def accept_pushes(repository: Path) -> None:
    """Let a bare repository be pushed to over http."""
    subprocess.run(["git", "-C", str(repository), "config", "http.receivepack", "true"], check=True, env=ENVIRONMENT)


def certificates(folder: Path) -> tuple[Path, Path]:
    """Make an authority and a certificate of it for 127.0.0.1. Gives the authority's, and the server's with its key."""
    now = datetime.datetime.now(datetime.UTC)

    def begin(name: str, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
        )

    authority = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca = begin("test authority", authority, ca_key).add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
    leaf = begin("127.0.0.1", authority, key).add_extension(
        x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
    )
    ca_file, chain = folder / "ca.pem", folder / "server.pem"
    ca_file.write_bytes(ca.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    chain.write_bytes(secret + leaf.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    return ca_file, chain


@contextmanager
def silent_listener() -> Iterator[int]:
    """Accept connections on a port of the loopback interface, and never say a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield int(listener.getsockname()[1])


@dataclass(frozen=True)
class SshRemote:
    """Where it listens, the key that is let in, and what it is known by."""

    url: str
    key_file: Path
    known_hosts_file: Path


def why_no_sshd() -> str | None:
    """Say what keeps an sshd from being started here; None where nothing does."""
    if SSHD is None:
        return "there is no sshd on this machine (Debian and Ubuntu: apt install openssh-server)"
    if os.getuid() == 0:
        try:
            pwd.getpwnam("sshd")
        except KeyError:
            return "root can start sshd only where there is an account `sshd`"
    return None


@contextmanager
def ssh_remote(folder: Path, root: Path) -> Iterator[SshRemote]:
    """Run an sshd of one's own, which lets one key of one's own in."""
    assert SSHD is not None
    folder.mkdir()
    for name in ("host", "user key"):  # a blank, for paths have some
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True, capture_output=True
        )
    port = free_port()
    host, authorized = folder / "host", folder / "authorized"
    authorized.write_bytes((folder / "user key.pub").read_bytes())
    host_key = (folder / "host.pub").read_text().split()
    (folder / "known hosts").write_text(f"[127.0.0.1]:{port} {host_key[0]} {host_key[1]}\n")
    lines = [
        f"Port {port}",
        "ListenAddress 127.0.0.1",
        f'HostKey "{host}"',
        f'AuthorizedKeysFile "{authorized}"',
        f'PidFile "{folder}/pid"',
        "UsePAM no",
        "StrictModes no",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "PermitRootLogin prohibit-password",
    ]
    (folder / "config").write_text("\n".join(lines) + "\n")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(folder / "config")], stderr=log, env=ENVIRONMENT)
        try:
            deadline = time.monotonic() + 20
            while b"Server listening" not in (folder / "log").read_bytes():
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.02)
            url = f"ssh://{getpass.getuser()}@127.0.0.1:{port}{root}"
            yield SshRemote(url, folder / "user key", folder / "known hosts")
        finally:
            process.terminate()
            process.wait(10)
