"""The guide's words for why a caller does not come in are the gate's own, all of them."""

import ast
import re
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
BACKENDS = REPO / "server" / "toolgate" / "backends"
SAYING = ("token_claims", "jwt_callers", "jwks", "introspection", "token_callers")
REASON = re.compile(r"(it|its|the keys of its) [^{}]+")


def test_every_reason_is_in_the_guide_and_the_guide_makes_none_up() -> None:
    page = (REPO / "docs" / "how-to" / "authorization.md").read_text("utf-8")
    told = set(re.findall(r"^\| `(it[^`]+|the keys[^`]+)` \|", page, re.MULTILINE))
    said: set[str] = set()
    for name in SAYING:
        tree = ast.parse((BACKENDS / f"{name}.py").read_text("utf-8"))
        texts = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
        said |= {text for text in texts if isinstance(text, str) and REASON.fullmatch(text)}

    assert len(said) >= 15
    assert told == said
