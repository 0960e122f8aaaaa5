"""What holds for the sources of all kernels: names of their code on disk, sizes, rounding, and untyped pointers."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedlama import kernels
from fedlama.kernels.kernel import remove_outdated

FOLDER = Path(kernels.__file__).parent


def _functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    for file in sorted(FOLDER.glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef):
                yield f"{file.name}:{node.lineno} {node.name}", node


def test_functions_have_at_most_eight_arguments_and_sixty_lines() -> None:
    for name, function in _functions():
        arguments = [a.arg for a in (*function.args.args, *function.args.kwonlyargs) if a.arg not in ("self", "cls")]
        assert len(arguments) <= 8, name
        assert (function.end_lineno or 0) - function.lineno < 60, name


def test_pointers_have_no_type() -> None:
    """The next llvmlite has opaque pointers only: what is read, and what indices count, is said where it is used."""
    for file in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute):
                assert node.attr not in {"as_pointer", "pointee"}, f"{file.name}:{node.lineno}"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                name, given = ast.unparse(node.func), {keyword.arg for keyword in node.keywords}
                assert not name.endswith("builder.gep") or "source_etype" in given, f"{file.name}:{node.lineno}"
                assert not name.endswith("builder.load") or "typ" in given, f"{file.name}:{node.lineno}"
                if name == "ir.PointerType":
                    assert not node.args, f"{file.name}:{node.lineno}"


def test_memory_is_an_opaque_pointer() -> None:
    pytest.importorskip("numba", reason="the extra 'fast' is not installed")
    from llvmlite import ir

    from fedlama.kernels.memory import FLOAT, Code

    module = ir.Module()
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [ir.PointerType(), ir.IntType(64)]), "f")
    builder = ir.IRBuilder(function.append_basic_block())
    code = Code(None, builder)
    memory = code.memory(function.args[0], function.args[1])
    assert code.pointer(code.moved(memory, function.args[1], FLOAT)).type.is_opaque
    assert code.unchecked(memory, function.args[1]).type.is_opaque
    builder.ret_void()
    assert "*" not in str(module)


def test_shared_products_are_rounded_alike_however_functions_are_inlined() -> None:
    """LLVM may contract a product and a sum that are marked; it does not if it finds the product a second time."""
    marked = [file.name for file in FOLDER.glob("*.py") if '"contract"' in file.read_text()]
    assert marked == ["memory.py"]
    assert "multiply_add(" not in (FOLDER / "transforms.py").read_text()


def test_machine_code_is_named_after_the_sources(tmp_path: Path) -> None:
    pytest.importorskip("numba", reason="the extra 'fast' is not installed")
    from fedlama.kernels import kernel as compiling
    from fedlama.kernels.loss import cross_entropy

    digest = compiling._digest()
    assert digest in cross_entropy.py_func.__qualname__  # type: ignore[attr-defined]
    names = [f"loss.cross_entropy_{digest}-5.py311.nbi", "loss.cross_entropy_0123456789ab-5.py311.nbi", "loss.pyc"]
    names += [f"loss.cross_entropy_{digest}-5.py311.1.nbc", "lanes.store-9.py311.1.nbc"]
    for name in names:
        (tmp_path / name).touch()
    remove_outdated(tmp_path, digest)
    assert {file.name for file in tmp_path.iterdir()} == {names[0], names[2], names[3]}
    remove_outdated(tmp_path / "missing", digest)
