"""Which models may think where nobody sees it.

A hold below the ceiling is sound only where every billed token shows in the stream as it is made. Models that reason
bill tokens before the first visible one, so for them the whole ceiling is held. Names decide, conservatively: every
family that is known to reason, or to have members that do by default, counts as reasoning, even where a host shows the
thoughts; a name that no rule knows does not.
"""

from __future__ import annotations

import re
from functools import lru_cache

_REASONING = re.compile(
    r"""(?:^|[-_./:@~])(?:
        o[1-9](?![0-9a-z])                       # o1, o3-mini, o4-mini
      | gpt-(?!35)(?:[5-9]|\d\d)(?!\d)          # gpt-5 and what follows
      | gpt-oss | codex | computer-use
      | deepseek-(?:r\d|reasoner|v3[.-][1-9]|v[4-9])
      | qwq | qwen-?3 | qwen-?[4-9] | qvq
      | gemini-(?:2\.5|[3-9]|\d\d) | gemini-(?:flash|pro)(?:-lite)?-latest
      | claude-(?:fable|mythos|(?:opus|sonnet|haiku)-(?:[5-9]|\d\d)(?!\d)) | claude-3-7-sonnet-thinking
      | grok-(?:3-mini|[4-9]|code|build) | magistral | glm-(?:4\.[5-9]|[5-9]|z) | kimi-(?:k2-thinking|k2\.[5-9]|k[3-9])
      | minimax-m | sonar-(?:reasoning|deep) | nova-(?:[2-9]|premier) | phi-4-.*reasoning | compound | step-3
      | ernie-(?:x|5) | seed-(?:1\.[5-9]|[2-9]) | doubao | mimo | hunyuan | intellect | smollm3 | aion | r1
    )|thinking|reason""",
    re.VERBOSE | re.IGNORECASE,
)
_GEMINI_STILL = re.compile(r"gemini-2\.5-flash-lite|gemini-2\.5-flash-(?:image|preview-tts|native)", re.IGNORECASE)


@lru_cache(maxsize=4096)
def may_reason(model: str) -> bool:
    """Whether `model` may reason although the request does not ask for it."""
    if _GEMINI_STILL.search(model):
        return False  # these think only when asked to
    return _REASONING.search(model) is not None
