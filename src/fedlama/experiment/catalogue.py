"""Every option that an experiment can name: ours, and the user's own by file, import path, plug-in file or entry point.

=========================================  ==========================================================================
``section.name``                           what it names
=========================================  ==========================================================================
``"fedlama"``                              an option of this package; these names always come first
``"my_options.py:Mine"``                   a class or function in a file, whose path counts from the folder of the
                                           TOML file, or from the current folder where there is none
``"mypackage.mymodule:Mine"``              a class or function in an installed module
``"mine"``                                 an option that :func:`fedlama.core.registry.register` marks in a file given
                                           with ``--plugin``, or in an entry point of the group ``fedlama.plugins``
=========================================  ==========================================================================

Naming code means running it. Only what a person names is imported: a configuration that was read from a run folder is
resolved with ``trusted_only``, which imports nothing but the files and modules given as plug-ins.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from fedlama.core.paths import expanded
from fedlama.core.registry import is_ours, options_of
from fedlama.core.validation import refuse
from fedlama.engines import ENGINES, Engine, EngineFactory, EngineSetup, make_factory
from fedlama.errors import ConfigError, FedlamaError, did_you_mean, shown
from fedlama.experiment.contracts import adapt
from fedlama.experiment.loading import Loaded, check_digest, described, load_file, load_module, location_of
from fedlama.experiment.options import ORIGIN, Origin, options

GROUP = "fedlama.plugins"
"""Group of the entry points: each names a module with registered options, or one such option."""

_NAME = re.compile(r"[\w-][\w.-]{0,99}")


@dataclass(frozen=True)
class OwnEngine:
    """An engine of the user's own.

    Args:
        factory: Makes the engine.
        origin: Where it comes from.
    """

    factory: EngineFactory
    origin: Origin

    def __call__(self, setup: EngineSetup) -> Engine:
        """Return the engine for a federation's fixed parts.

        Raises:
            ConfigError: It cannot be made, or is none.
        """
        try:
            engine: object = self.factory(setup)
        except FedlamaError:
            raise
        except Exception as error:  # whatever the user's code raises
            raise ConfigError(
                f"engine {self.origin.reference!r} cannot be made: {described(error, self.origin.file)}; correct it"
            ) from error
        if not hasattr(engine, "run_round"):
            raise ConfigError(
                f"engine {self.origin.reference!r} returned {shown(engine)}, expected a fedlama.engines.Engine; "
                "return one"
            )
        return cast("Engine", engine)


@dataclass(frozen=True)
class Catalogue:
    """Finds options by name.

    Args:
        folder: The folder from which paths of files count.
        plugins: Files or modules with registered options, as given with ``--plugin``.
        digests: Digests that the code must have, by section; from a configuration that was written earlier.
        trusted_only: Import nothing but `plugins`: the names come from a file that is not trusted to run code.
        confined: Refuse files outside of `folder`: the names arrived over a network.
        remedy: What to do when a file is missing or has changed, where correcting the path is not the answer.
    """

    folder: Path = field(default_factory=Path)
    plugins: Sequence[str] = ()
    digests: Mapping[str, str] = field(default_factory=dict)
    trusted_only: bool = False
    confined: bool = False
    remedy: str = ""

    def __post_init__(self) -> None:
        """Refuse plug-ins whose files do not exist; modules are looked up when one is needed.

        Raises:
            ConfigError: With each of them.
        """
        missing = [name for name in self.plugins if name.endswith(".py") and not expanded(name).exists()]
        refuse([f"the plug-in {name} does not exist; correct the path behind --plugin" for name in missing])

    def find(self, section: str, name: str) -> type[Any]:
        """Return the dataclass that a name stands for.

        Args:
            section: A section with a choice.
            name: What ``section.name`` is set to.

        Raises:
            ConfigError: There is no such option, or it does not meet the section's contract.
        """
        known = options(section)
        if name in known:
            return known[name]
        option, origin = self._own(section, f"{section}.name", name, known)
        if any(option is ours for ours in known.values()):  # one of ours by its import path
            return next(ours for ours in known.values() if option is ours)
        choice = adapt(section, name, option)
        if "name" not in vars(choice):
            choice.name = _kebab(choice.__name__)
        if not isinstance(choice.name, str) or not _NAME.fullmatch(choice.name):
            raise ConfigError(
                f"{name}: the attribute name is {shown(choice.name)}, but it names a folder; use up to 100 letters, "
                "digits, '-', '_' and '.'"
            )
        setattr(choice, ORIGIN, origin)
        return choice

    def known(self, section: str, name: object) -> type[Any] | None:
        """Return the dataclass that a name stands for, or None where :meth:`find` raises."""
        try:
            return self.find(section, name) if isinstance(name, str) else None
        except ConfigError:
            return None

    def find_engine(self, name: str) -> OwnEngine | None:
        """Return an engine of the user's own; None for the name of one of ours.

        Args:
            name: What ``engine`` is set to.

        Raises:
            ConfigError: There is no such engine.
        """
        if name in ENGINES:
            return None
        option, origin = self._own("engine", "engine", name, ENGINES)
        try:
            factory = make_factory(option) if isinstance(option, type) else option
        except Exception as error:  # whatever the user's class raises
            raise ConfigError(f"engine {name!r} cannot be made: {error}{location_of(error, origin.file)}") from error
        if not callable(factory):
            raise ConfigError(
                f"engine is {name!r}, which cannot be called; it must be a function, or a class, that takes a "
                "fedlama.engines.EngineSetup and returns an engine"
            )
        return OwnEngine(factory, origin)

    def _own(self, section: str, key: str, name: str, known: Mapping[str, object]) -> tuple[object, Origin]:
        """Find an option that is not ours, with its origin."""
        left, colon, right = name.rpartition(":")
        if ".py:" in left:
            raise ConfigError(f"{key} is {shown(name)}, expected one colon; use FILE.py:NAME")
        if colon and left and right:
            left = os.path.normpath(left) if left.endswith(".py") else left
            loaded = self._load(section, key, left)
            return _attribute(loaded, left, right), Origin(f"{left}:{right}", loaded.digest, loaded.file)
        if name.endswith((".py", ".py:")):
            file = name.removesuffix(":")
            raise ConfigError(f"{key} is {shown(name)}, a file without a class or function; use {file}:NAME")
        broken: list[str] = []
        registered = self._registered(section, broken)
        if name not in registered:
            raise ConfigError(f"{key} is {shown(name)}{self._advice(name, [*known, *registered], broken)}")
        option, loaded = registered[name]
        check_digest(f"{key} {name!r}", loaded.digest, self.digests.get(section))
        return option, Origin(name, loaded.digest, loaded.file)

    def _advice(self, name: str, known: Sequence[str], broken: Sequence[str]) -> str:
        """Word what to do about an unknown name."""
        if self.trusted_only and self.digests:
            return "; it was an option of the user's own: give the file or module that registers it with --plugin"
        advice = did_you_mean(name, known)
        return "; ".join([advice, *broken]) if broken else advice

    def _load(self, section: str, key: str, left: str) -> Loaded:
        """Import the file or module in front of a reference's colon."""
        expected = self.digests.get(section)
        is_file = left.endswith(".py")
        if self.trusted_only:
            plugin = self._plugin_for(left, is_file)
            if plugin is None:
                raise ConfigError(
                    f"{key} names code outside fedlama ({left}), which is not run because a run folder names it; "
                    f"read that code, and give it yourself with --plugin {left}"
                )
            return load_file(Path(plugin), left, expected) if is_file else load_module(left, self.folder, expected)
        if is_file and self.confined and is_outside(left):
            raise ConfigError(f"{key} names the file {left!r}, outside of {self.folder}; name a file inside of it")
        if is_file:
            return load_file(self.folder / expanded(left), left, expected, self.remedy)
        return load_module(left, self.folder, expected)

    def _plugin_for(self, left: str, is_file: bool) -> str | None:
        """Return the plug-in that the user gave for a file or module, if there is one."""
        if not is_file:
            return left if left in self.plugins else None
        return next((plugin for plugin in self.plugins if Path(plugin).name == Path(left).name), None)

    def _registered(self, section: str, broken: list[str]) -> dict[str, tuple[object, Loaded]]:
        """Return the options that plug-ins and entry points register for a section, by name.

        Args:
            section: The section.
            broken: Where the problems of entry points are added; they concern other packages than the one wanted.

        Raises:
            ConfigError: A plug-in cannot be imported, or two of them register one name.
        """
        registered: dict[str, tuple[object, Loaded]] = {}
        sources: dict[str, str] = {}
        for source, loaded, objects in [*self._plugged(), *self._entries(broken)]:
            for option in objects:
                for name in [name for marked, name in options_of(option) if marked == section]:
                    if name in (ENGINES if section == "engine" else options(section)):
                        raise ConfigError(f"{source} registers {section} {name!r}, a name of fedlama's own; rename it")
                    if sources.setdefault(name, source) != source:
                        raise ConfigError(
                            f"{section} {name!r} is registered by {sources[name]} and by {source}; use one of them"
                        )
                    registered[name] = option, loaded
        return registered

    def _plugged(self) -> Iterator[tuple[str, Loaded, list[object]]]:
        """Import the plug-ins; yield each one's description, module and objects."""
        for plugin in self.plugins:
            is_file = plugin.endswith(".py")
            loaded = load_file(expanded(plugin), plugin) if is_file else load_module(plugin, self.folder)
            yield plugin, loaded, _own_objects(loaded.module)

    def _entries(self, broken: list[str]) -> Iterator[tuple[str, Loaded, list[object]]]:
        """Import the entry points; yield each one's description, module and objects."""
        for entry in () if self.trusted_only else entry_points(group=GROUP):
            source = f"the entry point {entry.name!r}"
            try:
                loaded = load_module(entry.module, self.folder)
                objects = [_attribute(loaded, entry.module, entry.attr)] if entry.attr else _own_objects(loaded.module)
            except ConfigError as error:
                broken.append(f"{source} is broken: {error}")
            else:
                yield source, loaded, objects


def is_outside(path: str) -> bool:
    """Return whether a relative path of a file leaves the folder that it counts from.

    >>> is_outside("options/mine.py"), is_outside("../mine.py"), is_outside("/home/me/mine.py"), is_outside("~/mine.py")
    (False, True, True, True)
    """
    parts = Path(os.path.normpath(path)).parts
    return Path(path).is_absolute() or parts[0] in ("..", "~")


def _own_objects(module: ModuleType) -> list[object]:
    """Return what a module offers, without what it imported from this package."""
    return [value for value in vars(module).values() if not is_ours(value)]


def _attribute(loaded: Loaded, left: str, right: str) -> object:
    """Return what a module has under a name.

    Raises:
        ConfigError: It has nothing of that name.
    """
    value: object = loaded.module
    for part in right.split("."):
        names = [name for name in vars(value) if not name.startswith("_")] if hasattr(value, "__dict__") else []
        if part not in names:
            offered = [name for name in names if _is_offered(getattr(value, name), loaded.module)]
            raise ConfigError(f"{left} has no {part!r}{did_you_mean(part, offered)}")
        value = getattr(value, part)
    return value


def _is_offered(value: object, module: ModuleType) -> bool:
    """Return whether a module's attribute is a class or function of its own."""
    return isinstance(value, Callable) and getattr(value, "__module__", None) == module.__name__  # type: ignore[arg-type]


def _kebab(name: str) -> str:
    """Return a class's name as the names of options are written.

    >>> _kebab("LargestWaits"), _kebab("MLP"), _kebab("MyCNN2")
    ('largest-waits', 'mlp', 'my-cnn2')
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", name).lower().strip("_")
