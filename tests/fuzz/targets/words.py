"""Tokens that mean something to the readers of TOML."""

from __future__ import annotations

from fedlama.experiment.sections import SECTIONS, options

CHOICES = sorted({name for section in SECTIONS for name in options(section)})
KEYS = sorted(
    {key for section in SECTIONS for choice in options(section).values() for key in choice.__dataclass_fields__}
)
TOML = [
    b"=", b"[", b"]", b"{", b"}", b",", b".", b'"', b"'", b"\n", b"#", b'"""', b"\\", b"[[", b"name", b"\x00", b"\xff",
    b"0", b"-1", b"1", b"2", b"1.5", b"1e400", b"nan", b"inf", b"-inf", b"true", b"false", b"1979-05-27T07:32:00Z",
    b"99999999999999999999", b"9" * 5000, b"0x" + b"f" * 5000, b"[" * 3000, b"{a=" * 3000, b"a." * 2000, b'""',
    b"[1, 2]", b"{a = 1}", b'"\\u0000"', b'"../../x"', b"1_0", b"07:32:00",
    *(f'"{name}"'.encode() for name in CHOICES), *(key.encode() for key in KEYS),
    *(f"\n[{section}]\n".encode() for section in SECTIONS),
]  # fmt: skip
