"""The ledger's scripts, as files with a header contract, loaded once and composed at load time.

Why: every movement of money is one of these scripts. A script's second line, `-- uses: prelude
...`, names the shared pieces that are put between its shebang and its body; there is no other way to share text, so
what the server runs is exactly shebang + pieces + body, and its SHA-1 is fixed by the files.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources

_USES = "-- uses:"


@dataclass(frozen=True, slots=True)
class Script:
    """A script as the server gets it. `sha1` is hex, as EVALSHA wants it."""

    name: str
    text: str
    sha1: str


def load(name: str) -> Script:
    """Compose the script `name` from its file and the pieces that it uses.

    Errors: ValueError when the file has no shebang or no `-- uses:` line.
    """
    shebang, uses, body = _read(name).split("\n", 2)
    if not shebang.startswith("#!lua") or not uses.startswith(_USES):
        message = f"script {name}: the first line is a #!lua shebang, the second one `{_USES} ...`"
        raise ValueError(message)
    pieces = [_read(piece) for piece in uses.removeprefix(_USES).split()]
    text = "\n".join([shebang, *pieces, body])
    return Script(name=name, text=text, sha1=hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


def _read(name: str) -> str:
    return resources.files(__package__).joinpath(f"{name}.lua").read_text(encoding="utf-8")
