"""Where a faulty platform lives: its state folder on a small disk of its own, and the switches that acts turn.

Nothing of this is in the product: `git` is found on PATH, the disk is a mount, and the rest comes in by
`seam/sitecustomize.py`.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
ROOT = HERE.parent
DISK_MB = 512
GIT_TIMEOUT_S = 10
LOAD_TIMEOUT_S = 90
"""How long an engine that loads may show no progress. One that loaded well on two cores with a load of 20 to 40 was
silent for 36 s at the longest."""

_GIT = """\
#!/bin/sh
# Git as the platform finds it: the real one, unless a switch says otherwise.
[ -e "{switches}/git-hangs" ] && exec sleep 3600
[ -e "{switches}/git-gone" ] && exit 127
exec "{git}" "$@"
"""


class House:
    """The folders of one run. `no_disk` and `no_clock` say why one of them is not to be had here."""

    def __init__(self, folder: Path, front: str) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.switches = folder / "switches"
        self.config = folder / "argus.yaml"
        self.no_disk: str | None = None
        self.no_clock: str | None = None
        for each in (self.home, self.switches, folder / "bin"):
            each.mkdir()
        self._clock = self.switches / "clock"
        self._clock.write_bytes(struct.pack("=q", 0))
        self.config.write_text(yaml.safe_dump(_configuration(front)), encoding="utf-8")
        self._wrap_git()
        self._shim = self._build_clock()

    @property
    def environ(self) -> dict[str, str]:
        """What `argus up` is started with."""
        inherited = os.environ.get("PYTHONPATH")
        path = [str(HERE / "seam"), str(ROOT), *([inherited] if inherited else [])]
        found = {
            "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(path),
            "FAULTS_SWITCHES": str(self.switches),
        }
        if self._shim:
            found |= {"FAULTS_CLOCK": str(self._shim), "FAULTS_CLOCK_FILE": str(self._clock)}
        return found

    def turn_on(self, switch: str) -> None:
        """Turn a switch on."""
        (self.switches / switch).touch()

    def is_on(self, switch: str) -> bool:
        """Say whether a switch is on (still, for one that turns itself off)."""
        return (self.switches / switch).exists()

    def move_clock(self, seconds: int) -> None:
        """Have the API's and the reconciler's clock differ from the machine's by so many seconds, from now on."""
        with self._clock.open("r+b") as file:
            file.write(struct.pack("=q", seconds))

    def all_off(self) -> None:
        """Turn every switch off, and put the clock right."""
        for switch in self.switches.iterdir():
            if switch != self._clock:
                switch.unlink()
        self.move_clock(0)

    @contextmanager
    def disk(self) -> Iterator[None]:
        """Have the state folder on a disk of its own for as long as the block lasts, where this machine lets us."""
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "faults", str(self.home)]
        done = subprocess.run(mount, capture_output=True, text=True, check=False) if os.getuid() == 0 else None
        if done is None or done.returncode != 0:
            self.no_disk = "mounting a small disk takes root"
            yield
            return
        try:
            yield
        finally:
            subprocess.run(["umount", "--lazy", str(self.home)], check=False)

    def _wrap_git(self) -> None:
        git = shutil.which("git")
        assert git is not None, "there is no git here"
        wrapper = self.folder / "bin" / "git"
        wrapper.write_text(_GIT.format(switches=self.switches, git=git), encoding="utf-8")
        wrapper.chmod(0o755)

    def _build_clock(self) -> Path | None:
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            self.no_clock = "moving a process's clock takes a C compiler"
            return None
        shim = self.folder / "clock.so"
        build = [compiler, "-O2", "-shared", "-fPIC", "-o", str(shim), str(HERE / "clock.c"), "-ldl"]
        done = subprocess.run(build, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            self.no_clock = f"the clock cannot be built: {done.stderr.strip()[:200]}"
            return None
        return shim


def build_model(target: Path) -> None:
    """Build the demo model."""
    target.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "argus.demo_model", str(target)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _configuration(front: str) -> dict[str, Any]:
    """Give dev.yaml's configuration with the front that was asked for; git and loads are given up on sooner."""
    read = yaml.safe_load((ROOT / "dev.yaml").read_text(encoding="utf-8"))
    assert isinstance(read, dict)
    read["serving"]["front"] = front
    read["spec_repo"]["timeout_s"] = GIT_TIMEOUT_S
    read["serving"]["llm"]["load_timeout_s"] = LOAD_TIMEOUT_S
    return read
