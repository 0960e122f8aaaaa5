"""The rules that docs/architecture.md draws: they hold for every file of the package."""

from __future__ import annotations

import ast
import re

import pytest

from tests.structure.drawing import PAGE, drawn
from tests.structure.source import SRC, cycles, floors, functions, imported_packages, imports, modules, room_of

ROOT_FILES = {"__init__.py", "__main__.py", "errors.py", "py.typed"}


def test_the_picture_names_every_room_once() -> None:
    drawn = [room for floor in floors() for room in floor]
    folders = {path.name for path in SRC.iterdir() if path.is_dir() and (path / "__init__.py").exists()}
    assert sorted(drawn) == sorted(folders | {"errors"})


def test_the_picture_is_drawn_from_the_list() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert "│                            core                            │" in page
    assert page == drawn(page), "run `python -m tests.structure.drawing`"


@pytest.mark.parametrize("room", [room for floor in floors() for room in floor])
def test_a_room_says_in_one_sentence_what_the_page_says(room: str) -> None:
    file = SRC / room / "__init__.py" if (SRC / room).is_dir() else SRC / f"{room}.py"
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    section = re.search(rf"^### {room}\n\n(.*?)\n\n", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert section is not None
    assert docstring.split("\n\n")[0] == section[1]


def test_the_package_root_holds_rooms_and_the_public_face_only() -> None:
    assert {path.name for path in SRC.iterdir() if path.is_file()} == ROOT_FILES
    folders = {path.name for path in SRC.iterdir() if path.is_dir()} - {"__pycache__"}
    assert folders | {"errors"} == {room for floor in floors() for room in floor}


def test_imports_point_down() -> None:
    level = {room: number for number, floor in enumerate(floors()) for room in floor}
    level |= {"": level["reporting"], "__main__": level["cli"] + 1}  # only the command line imports the package itself
    upward = [
        f"{item.file}:{item.line}: {room_of(item.importer)} imports {item.imported}"
        for item in imports()
        if room_of(item.importer)
        and room_of(item.importer) != room_of(item.imported)
        and level[room_of(item.imported)] >= level[room_of(item.importer)]
    ]
    assert upward == []


def test_kernels_stand_alone() -> None:
    assert imported_packages(SRC / "kernels").isdisjoint({"torch", "pydantic", "safetensors"})
    beside = {room_of(item.imported) for item in imports() if room_of(item.importer) == "kernels"}
    assert beside <= {"kernels", "core", "errors"}


def test_few_files_are_so_small_that_they_belong_to_their_caller() -> None:
    files = list(modules().values())
    small = [
        file.relative_to(SRC).as_posix()
        for file in files
        if file.name != "__init__.py" and len(file.read_text(encoding="utf-8").splitlines()) < 40
    ]
    assert len(small) <= 0.08 * len(files), small


def test_few_functions_take_more_than_five_arguments() -> None:
    outside = [function for function in functions() if function.file.parts[0] != "kernels"]
    many = [function for function in outside if function.arguments > 5]
    assert len(many) <= 0.025 * len(outside), many


def test_no_modules_import_each_other_in_a_cycle() -> None:
    assert cycles() == []


def test_no_function_is_longer_than_a_screen() -> None:
    assert [function for function in functions() if function.lines > 60] == []


def test_no_kernel_takes_more_than_eight_arguments() -> None:
    inside = [function for function in functions() if function.file.parts[0] == "kernels"]
    assert [function for function in inside if function.arguments > 8] == []
