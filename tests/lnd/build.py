"""Builds btcd and lnd from the Go module proxy, so that the Lightning adapter can be tried against the real thing.

Run as `python tests/lnd/build.py`: needs Go and nothing else (standard library only, so that it runs before anything is
installed). The binaries are kept in the user's cache directory under lnd's version and a second run does nothing.
`go install MODULE@VERSION` refuses modules with `replace` lines, and lnd has some: hence download first, then build
in place. A binary gets its final name only once it is whole: an interrupted build is never taken for a finished one.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

LND_VERSION = "v0.20.1-beta"
BTCD_VERSION = "v0.24.2"
# The RPC services that the adapter uses (invoicesrpc, routerrpc); lnd's own client wants the others.
LND_TAGS = "signrpc walletrpc chainrpc invoicesrpc routerrpc"
OLDEST_GO = (1, 24)


@dataclass(frozen=True, slots=True)
class Program:
    """One Go package and the binary that it becomes."""

    name: str
    module: str
    version: str
    package: str
    flags: tuple[str, ...]


PROGRAMS = (
    Program("btcd", "github.com/btcsuite/btcd", BTCD_VERSION, ".", ("-mod=mod",)),
    Program("btcctl", "github.com/btcsuite/btcd", BTCD_VERSION, "./cmd/btcctl", ("-mod=mod",)),
    Program("lnd", "github.com/lightningnetwork/lnd", LND_VERSION, "./cmd/lnd", ("-tags", LND_TAGS)),
    Program("lncli", "github.com/lightningnetwork/lnd", LND_VERSION, "./cmd/lncli", ("-tags", LND_TAGS)),
)


def binaries_dir(environment: Mapping[str, str]) -> Path:
    """Where the binaries are kept: `$XDG_CACHE_HOME/farebox/lnd-VERSION`, else under `~/.cache`."""
    cache = environment.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "farebox" / f"lnd-{LND_VERSION}"


def missing(directory: Path) -> list[Program]:
    """The programs that are not built yet."""
    return [program for program in PROGRAMS if not (directory / program.name).is_file()]


def go_problem() -> str | None:
    """Why Go cannot be used, in one line, or None."""
    if shutil.which("go") is None:
        return "Go is not installed: lnd cannot be built, and the tests against real nodes are left out."
    said = subprocess.run(["go", "env", "GOVERSION"], capture_output=True, text=True, check=False).stdout.strip()
    numbers = said.removeprefix("go").split("-")[0].split(".")
    if (
        len(numbers) >= 2
        and numbers[0].isdigit()
        and numbers[1].isdigit()
        and (int(numbers[0]), int(numbers[1])) >= OLDEST_GO
    ):
        return None
    return f"Go {OLDEST_GO[0]}.{OLDEST_GO[1]} or newer is needed to build lnd; this is {said or 'unknown'}."


def module_dir(program: Program) -> Path:
    """Downloads the module and gives the directory where its source lies."""
    done = subprocess.run(
        ["go", "mod", "download", "-json", f"{program.module}@{program.version}"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tempfile.gettempdir(),
    )
    answer = json.loads(done.stdout or "{}")
    if done.returncode != 0 or "Dir" not in answer:
        raise SystemExit(f"Could not download {program.module}: {answer.get('Error') or done.stderr.strip()}")
    return Path(answer["Dir"])


def build(program: Program, directory: Path) -> None:
    """Builds one program into `directory`; source files of the module cache are read-only and stay as they are."""
    with tempfile.TemporaryDirectory(dir=directory, prefix=".building-") as scratch:
        unfinished = Path(scratch) / program.name
        command = ["go", "build", "-buildvcs=false", *program.flags, "-o", str(unfinished), program.package]
        done = subprocess.run(command, cwd=module_dir(program), check=False)
        if done.returncode != 0:
            raise SystemExit(f"Could not build {program.name}.")
        os.replace(unfinished, directory / program.name)


def main() -> int:
    """Builds what is missing and says where it lies."""
    directory = binaries_dir(os.environ)
    todo = missing(directory)
    if todo and (problem := go_problem()):
        print(problem)
        return 1
    directory.mkdir(parents=True, exist_ok=True)
    for program in todo:
        print(f"building {program.name} {program.version}", flush=True)
        build(program, directory)
    print(f"lnd {LND_VERSION} and btcd {BTCD_VERSION} are in {directory}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
