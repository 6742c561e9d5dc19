"""The project's budgets: lengths of files and functions, the number of public names, what `import dqk` loads."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import dqk

PACKAGE = Path(dqk.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_PUBLIC_NAMES = 20

# Not loaded by `import dqk`: optional dependencies, and modules that would make it slow.
NOT_IMPORTED = {"ray", "mpi4py", "cuquantum", "qiskit", "fastapi", "matplotlib", "pandas", "pennylane", "sklearn"}
# Imported only in files whose name starts with an underscore.
OPTIONAL = {"ray", "mpi4py", "cuquantum", "qiskit", "pennylane", "cupy", "triton", "sklearn"}

per_source = pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))


def parse(source: Path) -> ast.Module:
    return ast.parse(source.read_text(encoding="utf-8"), filename=str(source))


def imported_packages(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield (line, top-level package) for every absolute import, and for import_module("...") with a literal name."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                for name in names:
                    yield node.lineno, name.name.partition(".")[0]
            case ast.ImportFrom(module=str(module), level=0):
                yield node.lineno, module.partition(".")[0]
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(module)), *_],
            ):
                yield node.lineno, module.partition(".")[0]


@per_source
def test_file_length(source: Path) -> None:
    n_lines = len(source.read_text(encoding="utf-8").splitlines())
    assert n_lines <= MAX_FILE_LINES, f"{source} has {n_lines} lines, the budget is {MAX_FILE_LINES}: split it"


@per_source
def test_function_length(source: Path) -> None:
    too_long = [
        f"{source}:{node.lineno} {node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES
    ]
    assert not too_long, f"the budget of a function is {MAX_FUNCTION_LINES} lines: " + "; ".join(too_long)


@per_source
def test_optional_dependencies_stay_in_private_files(source: Path) -> None:
    if source.name.startswith("_") and not source.name.startswith("__"):
        return
    found = [f"{source}:{line} {name}" for line, name in imported_packages(parse(source)) if name in OPTIONAL]
    assert not found, "optional dependencies belong in files whose name starts with an underscore: " + "; ".join(found)


def test_number_of_public_names() -> None:
    assert len(dqk.__all__) <= MAX_PUBLIC_NAMES
    missing = [name for name in dqk.__all__ if not hasattr(dqk, name)]
    assert not missing, f"dqk.__all__ lists names that dqk does not have: {missing}"


def test_import_loads_no_optional_dependency() -> None:
    code = f"import sys, dqk; print(*sorted({NOT_IMPORTED!r} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert loaded == [], f"`import dqk` loads {loaded}"


@pytest.mark.parametrize("name", [name for name in dqk.__all__ if name != "__version__"])
def test_every_public_name_is_loaded_on_first_use(name: str) -> None:
    """From nothing but `import dqk`, and a kernel evaluates although nobody asked for `gram`."""
    code = (
        "import sys, dqk; assert 'torch' not in sys.modules; import numpy as np\n"
        f"public = dqk.{name}\n"
        "from dqk.kernels.feature_maps import zz_feature_map\n"
        "if public.__name__ in ('FidelityKernel', 'ProjectedKernel'):\n"
        "    assert 'dqk._gram' not in sys.modules\n"
        "    public(zz_feature_map(1), backend='reference')(np.zeros((1, 1)))\n"
        "print(public.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == name
