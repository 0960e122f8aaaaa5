"""End each text file with exactly one newline, and no line with spaces: a hook of .pre-commit-config.yaml.

    python .ci/text_files.py README.md docs/index.md

Files are rewritten in place. The exit code is 1 if one of them was changed.
"""

import sys
from pathlib import Path


def tidy(text: str) -> str:
    r"""Return the text without spaces at the ends of lines and with one newline at its end.

    >>> tidy("first  \nsecond\n\n")
    'first\nsecond\n'
    """
    return "\n".join(line.rstrip(" \t") for line in text.split("\n")).rstrip("\n") + "\n" if text else ""


def main(names: list[str]) -> int:
    """Tidy the files of these names; return how many were changed, at most 1."""
    changed = False
    for file in map(Path, names):
        before = file.read_bytes().decode("utf-8")
        after = tidy(before)
        if after != before:
            file.write_bytes(after.encode("utf-8"))
            print(f"tidied {file}")
            changed = True
    return int(changed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
