"""Building lnd: what the script says where it cannot, and that it does nothing where everything is there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from lnd.build import LND_VERSION, PROGRAMS, binaries_dir, missing

SCRIPT = Path(__file__).with_name("build.py")


def run(cache: Path, path: str) -> subprocess.CompletedProcess[str]:
    environment = {"XDG_CACHE_HOME": str(cache), "PATH": path, "HOME": str(cache)}
    return subprocess.run(
        [sys.executable, str(SCRIPT)], env=environment, capture_output=True, text=True, check=False, timeout=60
    )


def test_without_go_it_says_so_in_one_line(tmp_path: Path) -> None:
    done = run(tmp_path, str(tmp_path))
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "Go is not installed: lnd cannot be built, and the tests against real nodes are left out."
    ]
    assert done.stderr == ""


def test_an_old_go_is_named(tmp_path: Path) -> None:
    go = tmp_path / "go"
    go.write_text("#!/bin/sh\necho go1.19.2\n")
    go.chmod(0o755)
    done = run(tmp_path, str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "Go 1.24 or newer is needed to build lnd; this is go1.19.2.\n")


def test_what_is_built_already_needs_no_go(tmp_path: Path) -> None:
    directory = binaries_dir({"XDG_CACHE_HOME": str(tmp_path)})
    assert directory == tmp_path / "farebox" / f"lnd-{LND_VERSION}"
    assert missing(directory) == list(PROGRAMS)
    directory.mkdir(parents=True)
    for program in PROGRAMS:
        (directory / program.name).touch()
    assert missing(directory) == []
    done = run(tmp_path, str(tmp_path))
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 1
