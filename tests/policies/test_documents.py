"""Documents that tell the truth: what README names exists, and nothing in the project points outside it."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import re
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import pytest

from gateway.__main__ import COMMANDS

ROOT = Path(__file__).parents[2]
DOCUMENTS = ("README.md", "CHANGELOG.md", "policies/README.md", "gateway/DECISIONS.md")
LONGEST_RECORD_LINES = 15


@cache
def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def code(name: str) -> list[str]:
    """Every line of a fenced block, and every inline piece of code."""
    fenced = re.findall(r"```\w*\n(.*?)```", text(name), re.DOTALL)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text(name), flags=re.DOTALL))
    return [line for block in fenced for line in block.splitlines()] + inline


def tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode != 0:  # a source archive has no index
        return [path for folder in ("gateway", "policies", "tests") for path in (ROOT / folder).rglob("*.*")]
    return [ROOT / name for name in listed.stdout.decode().split("\0") if name]


def parser_of(command: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=command)
    importlib.import_module(COMMANDS[command][0]).add_arguments(parser)
    return parser


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    """Options of a command and of the commands below it."""
    known = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            known = known.union(*map(options_of, action.choices.values()))
    return known


def named_commands(name: str) -> list[tuple[str, list[str]]]:
    found = []
    for line in code(name):
        for words in re.findall(r"(?:^|/|\s|\()farebox ([a-z]+\b[^|&#`;]*)", line):
            command, *options = words.split()
            found.append((command, [option for option in options if option.startswith("--")]))
    return found


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_command_and_option_that_a_document_names_exists(name: str) -> None:
    for command, options in named_commands(name):
        assert command in COMMANDS, command
        known = options_of(parser_of(command))
        assert [option for option in options if option not in known] == []


def test_readme_names_every_command_that_there_is() -> None:
    there = {name for name, (module, _) in COMMANDS.items() if importlib.util.find_spec(module) is not None}
    assert there <= {command for command, _ in named_commands("README.md")}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_make_target_that_a_document_names_exists(name: str) -> None:
    targets = set(re.findall(r"^([a-z]+):", text("Makefile"), re.MULTILINE))
    named = {target for line in code(name) for target in re.findall(r"(?:^|\s)make ([a-z]+)", line)}
    assert named <= targets


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_file_that_a_document_names_exists(name: str) -> None:
    folders = (ROOT, ROOT / "policies", ROOT / name.rpartition("/")[0])
    for piece in code(name):
        if re.fullmatch(r"[\w.-][\w./-]*\.(?:md|py|yaml|toml|lock)", piece):
            assert any((folder / piece).exists() for folder in folders), piece


def test_python_in_readme_compiles_and_names_what_the_client_exports() -> None:
    blocks = re.findall(r"```python\n(.*?)```", text("README.md"), re.DOTALL)
    assert blocks
    client = importlib.import_module("gateway.client")
    for block in blocks:
        compile(block, "README.md", "exec")
        for names in re.findall(r"from gateway\.client import (.*)", block):
            assert [name for name in names.split(", ") if name not in client.__all__] == []


def test_records_of_decisions_are_short_and_whole() -> None:
    records = text("gateway/DECISIONS.md").split("\n## ")[1:]
    assert [record.split(".")[0] for record in records] == [str(number + 1) for number in range(len(records))]
    for record in records:
        assert len(record.strip().splitlines()) <= LONGEST_RECORD_LINES, record[:40]
        for part in ("Context:", "Decision:", "Consequences:", "Alternatives:"):
            assert part in record, record[:40]


def test_the_lock_file_has_names_and_versions_only() -> None:
    lines = [line for line in text("requirements.lock").splitlines() if line and not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line)] == []
    names = [re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower() for line in lines]
    assert len(names) == len(set(names))
    project = text("pyproject.toml")
    wanted = re.findall(
        r'^    "([A-Za-z0-9._-]+?)(?:[<>=!~].*)?",$', project[: project.index("[project.scripts]")], re.MULTILINE
    )
    assert {re.sub(r"[-_.]+", "-", name).lower() for name in wanted} <= set(names)


def test_every_shipped_policy_goes_into_an_installation() -> None:
    data_files = tomllib.loads(text("pyproject.toml"))["tool"]["setuptools"]["data-files"]
    installed = {path for patterns in data_files.values() for pattern in patterns for path in ROOT.glob(pattern)}
    assert {path for path in (ROOT / "policies").rglob("*") if path.is_file()} <= installed


def test_no_file_names_a_path_of_somebodys_machine_or_a_package_index() -> None:
    outside = re.compile(
        rb"(?<![\w./{}-])/(?:work|home|root|Users)/(?!lnd/)[\w.]|index-url|/simple/?[\"'\s]|--find-links"
    )
    found = [
        f"{path.relative_to(ROOT)}: {hit.group().decode()}"
        for path in tracked()
        if path.is_file() and path != Path(__file__)
        for hit in [outside.search(path.read_bytes())]
        if hit
    ]
    assert found == []


def test_documents_inside_the_project_are_the_only_ones_named() -> None:
    here = {path.name for path in tracked() if path.suffix == ".md"}
    named = {
        found.decode()
        for path in tracked()
        if path.suffix in (".py", ".lua", ".yaml", ".toml") and path.is_file() and path != Path(__file__)
        for found in re.findall(rb"\b[A-Z]{3,}\.md\b", path.read_bytes())
    }
    assert named <= here
