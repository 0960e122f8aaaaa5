"""Shows the doctests of docstrings as code: a Griffe extension for the reference pages."""

from __future__ import annotations

import griffe


class Doctests(griffe.Extension):
    """Puts fences around examples that stand outside any section."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        """Change an object's docstring when it has been read."""
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(text: str) -> str:
    """Fence every block that starts with ``>>>`` at the margin and ends with a blank line, and name sections alike."""
    lines: list[str] = []
    inside = False
    for line in text.replace("\nExample:\n", "\nExamples:\n").splitlines():
        if not inside and line.startswith(">>>"):
            lines += ["", "```pycon"]
            inside = True
        elif inside and not line.strip():
            lines.append("```")
            inside = False
        lines.append(line)
    return "\n".join([*lines, "```"] if inside else lines)
