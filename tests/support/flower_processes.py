"""Flower's own processes for tests: a SuperLink, SuperNodes, certificates, all on 127.0.0.1.

Every process is the leader of a session of its own and is ended with what it started, by its id.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "flower"
BIN = Path(sys.executable).parent
#: Nothing is reported, looked up or installed; our own folder stands for the user's.
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray takes an address of the machine unless it is told that it stays alone.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "NO_PROXY": "127.0.0.1,localhost",
    "PYTHONWARNINGS": "ignore",
}


def free_ports(number: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on."""
    held = [socket.socket() for _ in range(number)]
    try:
        for each in held:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in held]
    finally:
        for each in held:
            each.close()


def wait_for(what: str, test: Callable[[], Any], seconds: float = 240.0) -> Any:
    """What ``test`` returns, once it is true."""
    end = time.monotonic() + seconds
    while True:
        found = test()
        if found:
            return found
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not happen in {seconds:.0f} s")
        time.sleep(0.2)


def listens(port: int) -> bool:
    """Whether something answers at a port."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@dataclass
class Tasks:
    """Processes of one test, and their logs in ``folder``."""

    folder: Path
    env: dict[str, str]
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        """Start a program of this environment; its output goes to ``name.log``."""
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [str(BIN / command[0]), *command[1:]],
                env=self.env,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.running[name] = process
        return process

    def wait(self, what: str, test: Callable[[], Any], seconds: float = 240.0) -> Any:
        """As ``wait_for``; a server or node that ends meanwhile is an error with its log's end."""

        def still() -> Any:
            for name, process in self.running.items():
                if process.poll() is not None and name != "run":
                    raise RuntimeError(f"{name} ended:\n{self.log(name)[-2000:]}")
            return test()

        return wait_for(what, still, seconds)

    def log(self, name: str) -> str:
        """What a process has printed."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def kill(self, name: str) -> None:
        """SIGKILL for a process and everything that it started."""
        process = self.running.pop(name)
        for pid in family(process.pid):
            with_suppressed(pid, signal.SIGKILL)
        process.wait(timeout=30)

    def end(self) -> None:
        """End all that is left, politely first."""
        left = {pid for process in self.running.values() for pid in family(process.pid)}
        for process in self.running.values():
            with_suppressed(process.pid, signal.SIGTERM)
        for process in self.running.values():
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                left |= set(family(process.pid))
        for pid in left:
            with_suppressed(pid, signal.SIGKILL)
        for process in self.running.values():
            process.wait(timeout=30)
        self.running.clear()


def with_suppressed(pid: int, number: signal.Signals) -> None:
    """Signal a process that may be gone."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def family(pid: int) -> list[int]:
    """A process, all its descendants, and whatever is of the same session."""
    found = {pid}
    table = _processes()
    while True:
        more = {p for p, (parent, session) in table.items() if parent in found or session == pid}
        if more <= found:
            return sorted(found)
        found |= more


def all_gone(pids: set[int]) -> bool:
    """Whether none of these processes is Flower's any more, after a while. Another process may
    have got the id of one that ended."""

    def running(pid: int) -> bool:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False
        return state != "Z" and (b"flwr" in command or b"flower-" in command or b"ray" in command)

    return bool(wait_for("the end of all processes", lambda: not any(map(running, pids)), 60))


def _processes() -> dict[int, tuple[int, int]]:
    """Parent and session of every process."""
    table = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            table[int(entry.name)] = int(fields[1]), int(fields[3])
    return table


def listening(pids: list[int]) -> set[str]:
    """Addresses at which these processes listen (IPv4 and IPv6), in hexadecimal."""
    inodes = set()
    for pid in pids:
        try:
            links = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]
        except OSError:
            continue
        inodes |= {link[8:-1] for link in links if link.startswith("socket:[")}
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                found.add(fields[1].partition(":")[0])
    return found


#: 127.0.0.1, and the same within IPv6, and ::1.
LOOPBACK = {
    "0100007F",
    "0000000000000000FFFF00000100007F",
    "00000000000000000000000001000000",
}


@contextmanager
def processes(folder: Path, more: Mapping[str, str]) -> Iterator[Tasks]:
    """Processes that are gone afterwards, whatever happens."""
    home = folder / "flwr-home"
    home.mkdir()
    path = f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}"  # Flower starts its own programs
    env = {**os.environ, **QUIET, "PATH": path, "FLWR_HOME": str(home), **more}
    tasks = Tasks(folder, env)
    try:
        yield tasks
    finally:
        tasks.end()


def app_copy(folder: Path) -> Path:
    """The example's app, where a test may write beside it."""
    target = folder / "app"
    shutil.copytree(EXAMPLE, target, ignore=shutil.ignore_patterns("__pycache__", "run.py"))
    return target


def connection(home: Path, name: str, address: str, certificate: Path | None) -> None:
    """Tell ``flwr run`` where the SuperLink is."""
    how = f'root-certificates = "{certificate}"' if certificate else "insecure = true"
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "{name}"\n\n[superlink.{name}]\naddress = "{address}"\n{how}\n'
    )


def certificates(folder: Path) -> dict[str, Path]:
    """A certification authority and one certificate for localhost, valid for a day."""
    now = datetime.datetime.now(datetime.UTC)
    paths = {name: folder / f"{name}.pem" for name in ("ca", "key", "cert")}
    root, leaf = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))

    def name(common: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])

    def begin(subject: str, key: Any) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(name("test authority"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
        )

    use = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    authority = (
        begin("test authority", root)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(use, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(root.public_key()), critical=False)
        .sign(root, hashes.SHA256())
    )
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    server = (
        begin("localhost", leaf)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(root.public_key()), critical=False
        )
        .sign(root, hashes.SHA256())
    )
    paths["ca"].write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    paths["cert"].write_bytes(server.public_bytes(serialization.Encoding.PEM))
    paths["key"].write_bytes(
        leaf.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    paths["key"].chmod(0o600)
    return paths
