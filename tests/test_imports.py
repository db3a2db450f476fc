"""Who may import whom: a table, and the code's imports held against it."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fewstep

ROOT = Path(fewstep.__file__).parent

FLOORS = (
    ("types", "colours", "errors", "files", "text", "versions"),
    ("diffusion",),
    ("methods",),
    ("strict", "toml", "config", "images", "distributed", "console"),
    ("models",),
    ("world",),
    ("student",),
    ("data",),
    ("evaluation",),
    ("verify",),
    ("export",),
    ("training",),
    ("ui", "doctor", "quickstart", "options"),
    ("cli",),
)
"""The parts of fewstep, floor by floor: a part imports from the floors below it, and its own."""

TOGETHER = ("files", "text", "config", "images", "distributed", "console")
"""Those that may import from others on their own floor."""

STRICTER = {
    "diffusion": {"types"},
    "methods": {"types", "diffusion"},
    "config": {"errors", "strict", "toml"},
    "student.samplers": {"types", "diffusion", "methods"},
}
"""The parts that import less than their floor would allow."""

MATHS = ("types", "errors", "diffusion", "methods", "student.samplers")
"""The parts that need torch and nothing else."""

FOREIGN = {"diffusers", "peft", "transformers", "openvino"}
"""The libraries behind the border."""

BORDER = ("models", "evaluation.features", "student.scheduler", "export.programs")
"""Who knows them: the models, the feature extractors, diffusers' scheduler, what checks exports."""

AT_ONCE = ("config", "training.settings", "cli")
"""The modules that `fewstep --help` loads, so without torch."""

HEAVY = FOREIGN | {"torch", "torchvision", "accelerate", "numpy", "matplotlib", "PIL", "jaxtyping"}


def name_of(file: Path) -> str:
    """Return a file's module name below fewstep: "diffusion.grid", "methods", "" for itself."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(file): file for file in sorted(ROOT.rglob("*.py"))}


def inside(module: str, part: str) -> bool:
    """Return whether `module` is `part` or below it."""
    return module == part or module.startswith(part + ".")


def modules_of(part: str) -> list[str]:
    return [module for module in FILES if inside(module, part)]


def at_module_level(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes that run when the module is imported."""
    for child in ast.iter_child_nodes(node):
        is_for_checkers_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
        if not isinstance(child, ast.FunctionDef | ast.Lambda) and not is_for_checkers_only:
            yield child
            yield from at_module_level(child)


def imports(module: str, *, whole_file: bool = True) -> set[str]:
    """Return the dotted names that a module imports: in the whole file, or when it is loaded."""
    tree = ast.parse(FILES[module].read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree) if whole_file else at_module_level(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found.add(name if name.removeprefix("fewstep.") in FILES else str(node.module))
    return found


def within(names: set[str]) -> set[str]:
    """Return the parts of fewstep among the imported names, "config" for "fewstep.config"."""
    return {n.removeprefix("fewstep.") for n in names if n.startswith("fewstep.")}


def libraries(names: set[str]) -> set[str]:
    return {n.partition(".")[0] for n in names} - {"fewstep"}


def loaded_with(module: str) -> set[str]:
    """Return every module of fewstep that importing `module` loads, itself included."""
    seen, waiting = set(), [module]
    while waiting:
        name = waiting.pop()
        if name in FILES and name not in seen:
            seen.add(name)
            parents = {name.rpartition(".")[0]}
            waiting += within(imports(name, whole_file=False)) | parents
    return seen


FLOOR_OF = {part: number for number, parts in enumerate(FLOORS) for part in parts}


def part_of(module: str) -> str:
    return module.partition(".")[0]


def test_the_walk_finds_the_imports_that_are_there():
    assert "diffusion.schedule" in within(imports("methods.cd"))
    assert {"torch", "hashlib"} <= libraries(imports("diffusion.random"))
    assert {"methods", "diffusion.grid", "types", ""} <= loaded_with("student.contract")


def test_the_architecture_page_shows_these_floors():
    page = (ROOT.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = page.split("<!-- floors -->\n```text\n")[1].split("```")[0]
    shown = [re.split(r" {3,}", line)[0].split("  ") for line in table.splitlines()]
    assert shown == [list(parts) for parts in reversed(FLOORS)]


def test_every_folder_names_the_file_to_begin_at():
    for init in ROOT.rglob("__init__.py"):
        files = (ROOT, ROOT / "cli", ROOT / "evaluation" / "metrics")  # which are files themselves
        if init.parent not in files:
            begin = re.search(r"Begin at `(\w+\.py)`", init.read_text(encoding="utf-8"))
            assert begin, init
            assert (init.parent / begin[1]).is_file(), init


def test_every_part_is_on_a_floor():
    assert {part_of(module) for module in FILES} <= {"", "__main__", *FLOOR_OF}


@pytest.mark.parametrize("part", FLOOR_OF)
def test_no_import_goes_up(part):
    for module in modules_of(part):
        for imported in within(imports(module)):
            floor = FLOOR_OF[part_of(imported)]
            own_floor = FLOOR_OF[part] == floor and (part_of(imported) == part or part in TOGETHER)
            assert own_floor or floor < FLOOR_OF[part], f"{module} imports {imported}"


@pytest.mark.parametrize("part", STRICTER)
def test_a_part_imports_no_more_than_it_needs(part):
    allowed = STRICTER[part] | {part}
    for module in modules_of(part):
        for imported in within(imports(module)):
            assert any(inside(imported, other) for other in allowed), f"{module} imports {imported}"


@pytest.mark.parametrize("part", MATHS)
def test_the_maths_needs_torch_and_nothing_else(part):
    for module in modules_of(part):
        strangers = libraries(imports(module)) - {"torch", "jaxtyping"} - sys.stdlib_module_names
        assert not strangers, f"{module} imports {strangers}"


@pytest.mark.parametrize("part", ["diffusion", "methods"])
def test_the_maths_opens_no_file(part):
    for module in modules_of(part):
        tree = ast.parse(FILES[module].read_text(encoding="utf-8"))
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        assert not names & {"open", "Path"}, module
        assert not libraries(imports(module)) & {"pathlib", "os", "io", "shutil", "json"}, module


def test_only_the_border_knows_foreign_libraries():
    for module in FILES:
        if not any(inside(module, part) for part in BORDER):
            known = libraries(imports(module)) & FOREIGN
            assert not known, f"{module} imports {known}; it belongs behind models/"


@pytest.mark.parametrize("module", AT_ONCE)
def test_help_answers_without_loading_a_heavy_library(module):
    for loaded in loaded_with(module):
        heavy = libraries(imports(loaded, whole_file=False)) & HEAVY
        assert not heavy, f"importing {module} loads {heavy}, through {loaded or 'fewstep'}"
