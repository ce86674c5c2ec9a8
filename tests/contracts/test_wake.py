"""Waking up when something is written on the disk."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from reconciler.shell.wake import Wake, ring

NEVER_S, SOON_S = 3600.0, 10.0


def wakes(wake: Wake) -> bool:
    waits = threading.Thread(target=wake.wait, args=(NEVER_S,), daemon=True)
    waits.start()
    waits.join(SOON_S)
    return not waits.is_alive()


def test_a_file_that_is_written_replaced_or_removed_wakes(tmp_path: Path) -> None:
    wake = Wake([tmp_path])
    file = tmp_path / "file"
    file.write_text("")
    assert wakes(wake)
    file.rename(tmp_path / "other")
    assert wakes(wake)
    (tmp_path / "other").unlink()
    assert wakes(wake)
    wake.close()


def test_a_folder_that_comes_later_and_comes_again_is_followed(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    wake = Wake([folder])
    for _ in range(2):
        folder.mkdir()
        wake.wait(0)
        (folder / "file").write_text("x")
        assert wakes(wake)
        shutil.rmtree(folder)
        wake.wait(0)
    wake.close()


def test_nothing_wakes_before_the_time_is_up_where_nothing_happens(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    wake = Wake([tmp_path])
    (tmp_path / "file").read_text()
    waits = threading.Thread(target=wake.wait, args=(0.2,), daemon=True)
    waits.start()
    waits.join(0.02)
    assert waits.is_alive()
    waits.join(SOON_S)
    wake.close()


@pytest.mark.parametrize("there", [False, True])
def test_ringing_never_fails(tmp_path: Path, there: bool) -> None:
    if there:
        (tmp_path / "run" / "nudged").mkdir(parents=True)
    ring(tmp_path)
