"""Import code of the user's own: a file by its path or a module by its name, with a digest of what was imported.

A file is read once; what is digested is what is executed. Modules beside it that it imports count in the digest too,
so that a changed helper is noticed. Every error of the user's code is reported with its file and line.
"""

from __future__ import annotations

import ast
import hashlib
import site
import sys
import sysconfig
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from fedlama.errors import ConfigError, cut

_CONTENT = "__fedlama_content__"
_PACKAGE = Path(__file__).parents[1]


@dataclass(frozen=True)
class Loaded:
    """A module of the user's own.

    Attributes:
        module: The imported module.
        file: Its file; None for a module without one.
        digest: SHA-256 of the file, and of the modules beside it that it imports, in hexadecimal.
    """

    module: ModuleType
    file: Path | None
    digest: str


def load_file(path: Path, given: str, expected: str | None = None, remedy: str = "") -> Loaded:
    """Execute a Python file as a module.

    Args:
        path: The file.
        given: How the user wrote it, for messages; two spellings of one file are two modules.
        expected: The digest that the file must have; it is compared before anything is executed.
        remedy: What to do when the file is missing or has changed; by default to correct the path, or to restore the
            code.

    Raises:
        ConfigError: The file cannot be read, has another content than expected, or cannot be imported.
    """
    path = path.resolve()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{given} cannot be read: {error.strerror} ({path}); {remedy or _remedy(path, given)}"
        ) from error
    helpers = dict(_helpers(content, path.parent))
    digest = _digest(content, helpers, path.parent)
    covered = f" (the digest covers what it imports: {', '.join(helpers)})" if helpers else ""
    check_digest(given, digest, expected, remedy, covered)
    identity = hashlib.sha256("\n".join([str(path), given, digest]).encode()).hexdigest()
    name = f"fedlama_plugin_{identity[:16]}_{path.stem}"
    if name not in sys.modules:
        _check_helpers(given, helpers)
        _forget_changed(helpers)
        if str(path.parent) not in sys.path:
            sys.path.append(str(path.parent))  # last, so that a helper never hides an installed module
        module = ModuleType(name)
        module.__file__ = str(path)
        sys.modules[name] = module  # dataclasses and type hints look their module up there
        try:
            exec(compile(content, str(path), "exec"), module.__dict__)
        except BaseException as error:
            del sys.modules[name]
            raise _import_error(given, error, path) from error
        for helper, file in helpers.items():
            vars(sys.modules[helper])[_CONTENT] = _content(file)
    return Loaded(sys.modules[name], path, digest)


def load_module(name: str, folder: Path, expected: str | None = None) -> Loaded:
    """Import an installed module.

    Args:
        name: Its dotted name.
        folder: Where a file of that name may be instead, for the message.
        expected: The digest that the module's file must have; it is compared before the module is imported.

    Raises:
        ConfigError: There is no such module, its file has another content than expected, or it cannot be imported.
    """
    try:
        spec = find_spec(name)
        if spec is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        file = Path(spec.origin) if spec.has_location and spec.origin else None
        digest = hashlib.sha256(b"" if file is None else file.read_bytes()).hexdigest()
        check_digest(name, digest, expected)
        return Loaded(import_module(name), file, digest)
    except ConfigError:
        raise
    except BaseException as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and (name == missing or name.startswith(f"{missing}.")):
            raise ConfigError(_no_module(name, folder)) from error
        raise _import_error(name, error, None) from error


def check_digest(given: str, digest: str, expected: str | None, remedy: str = "", covered: str = "") -> None:
    """Refuse code that changed since a configuration was written.

    Raises:
        ConfigError: The digests differ.
    """
    if expected is not None and digest != expected:
        raise ConfigError(
            f"{given} has changed: the configuration was written with SHA-256 {expected[:12]}..., the code here has "
            f"{digest[:12]}... and may give other results{covered}; "
            f"{remedy or 'restore the code of that time, or start a new run'}"
        )


def location_of(error: BaseException, file: Path | None) -> str:
    """Return the place in the user's code where an error was raised, as ``(my.py, line 3)``; empty if unknown.

    Args:
        error: The error.
        file: The user's file; None takes the last place that is not in this package.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({error.filename}, line {error.lineno})"
    frames = _frames_outside(error, [_PACKAGE])
    return _place([frame for frame in frames if file is not None and frame.filename == str(file)] or frames)


def described(error: BaseException, file: Path | None = None) -> str:
    """Return an error of the user's code with its class and its place.

    Args:
        error: The error.
        file: As for :func:`location_of`.
    """
    return f"{type(error).__name__}: {cut(error)}{location_of(error, file)}"


def own_code(error: BaseException) -> str:
    """Return the last place in the user's own code where an error was raised, as ``(my.py, line 3)``; empty if none.

    Args:
        error: The error. Code of this package, of installed packages and of Python's library is not the user's.
    """
    installed = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return _place(_frames_outside(error, [_PACKAGE, site.getusersitepackages(), *installed]))


def _frames_outside(error: BaseException, folders: Sequence[str | Path]) -> list[traceback.FrameSummary]:
    """Return the frames of an error whose files are in none of some folders."""
    return [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<") and not any(Path(frame.filename).is_relative_to(f) for f in folders)
    ]


def _place(frames: Sequence[traceback.FrameSummary]) -> str:
    return f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""


def _import_error(given: str, error: BaseException, file: Path | None) -> BaseException:
    if isinstance(error, KeyboardInterrupt):
        return error
    reason = error.msg if isinstance(error, SyntaxError) else error
    return ConfigError(
        f"{given} cannot be imported: {type(error).__name__}: {cut(reason)}{location_of(error, file)}; correct it there"
    )


def _remedy(path: Path, given: str) -> str:
    """Say where the file was looked for, and where one of that name is."""
    parts = Path(given).parts
    counted = path.parent if ".." in parts or len(parts) > len(path.parents) else path.parents[len(parts) - 1]
    for here, folder in ((Path.cwd() / given, counted), (Path.cwd() / path.name, path.parent)):
        if here.exists() and here.resolve() != path:
            return f"a file of that name is in the current folder, but paths count from {folder}; correct the path"
    return "correct the path"


def _no_module(name: str, folder: Path) -> str:
    file = folder.joinpath(*name.split(".")).with_suffix(".py")
    if file.exists():
        return f"the module {name!r} is not installed; to name its file, write '{file.relative_to(folder)}:...'"
    return f"the module {name!r} is not installed; install it, or name a file such as 'my_options.py:MyClass'"


def _helpers(content: bytes, folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the modules of a folder that a source text imports, directly or through one another."""
    helpers: dict[str, Path] = {}
    waiting = [content]
    while waiting:
        for name in _imports(waiting.pop()):
            package = folder / name / "__init__.py"
            file = package if package.exists() else folder / f"{name}.py"
            if name in helpers or not file.exists():
                continue
            helpers[name] = file
            waiting += [part.read_bytes() for part in _files(file)]
    yield from sorted(helpers.items())


def _imports(content: bytes) -> Iterator[str]:
    """Yield the first part of every module name that a source text imports."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError):
        return  # importing it will say what is wrong
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def _files(file: Path) -> list[Path]:
    """Return the files of a module: one, or all of a package."""
    return sorted(file.parent.rglob("*.py")) if file.name == "__init__.py" else [file]


def _digest(content: bytes, helpers: dict[str, Path], folder: Path) -> str:
    """Return the SHA-256 of a file; the files that it imports follow, each behind its relative path."""
    digest = hashlib.sha256(content)
    for helper in helpers.values():
        for file in _files(helper):
            digest.update(f"\0{file.relative_to(folder).as_posix()}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def _content(helper: Path) -> list[bytes]:
    return [file.read_bytes() for file in _files(helper)]


def _forget_changed(helpers: dict[str, Path]) -> None:
    """Let helpers be imported again that changed since this process imported them."""
    for helper, file in helpers.items():
        known = getattr(sys.modules.get(helper), _CONTENT, None)
        if known is not None and known != _content(file):
            for name in [name for name in sys.modules if name == helper or name.startswith(f"{helper}.")]:
                del sys.modules[name]


def _check_helpers(given: str, helpers: dict[str, Path]) -> None:
    """Refuse a helper whose name another module has taken: Python would hand out that one.

    Raises:
        ConfigError: With the two files.
    """
    for name, file in helpers.items():
        other = getattr(sys.modules.get(name), "__file__", None)
        if other is not None and Path(other) != file:
            raise ConfigError(f"{given} imports {name!r} from {file}, but {other} has that name; rename one of them")
