"""The house: floors, rooms and what they export, read off the source.

`FLOORS` is the plan. A room imports rooms of lower floors only, and rooms of one floor do not know
each other, so that a change is felt upwards and nowhere else.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from support import ROOT

SCRIPTS = ROOT / "scripts"
PACKAGE = SCRIPTS / "ctfm"

#: From the top floor down.
FLOORS: list[set[str]] = [
    {"commands"},
    {"protocols"},
    {"search"},
    {"embedding", "auto3dseg"},
    {"loading", "inference", "triage"},
    {"phantoms", "datalists", "pictures", "evaluation"},
    {"release", "weights", "imaging"},
    {"training", "networks"},
    {"contract"},
    {"base"},
]
FLOOR = {room: floor for floor, rooms in enumerate(reversed(FLOORS)) for room in rooms}
#: The command line answers at once: these need neither torch nor monai when they are imported.
LIGHT = (
    "base",
    "commands",
    "contract",
    "datalists",
    "evaluation.classification",
    "evaluation.comparison",
    "release.packing",
)
HEAVY = {"ignite", "matplotlib", "monai", "nibabel", "numpy", "scipy", "torch"}
OPTIONAL = {"dcm2niix", "duckdb", "idc_index_data", "lancedb", "nvidia", "pyarrow", "pydicom"}
LARGEST_ROOM, LONGEST_MODULE, LONGEST_BODY, MOST_PARAMETERS = 4000, 300, 40, 10
#: Above the limit until their options are objects; the list may only get shorter. `commands` is
#: left out: there a signature is the interface.
MANY_PARAMETERS = {
    "ctfm.datalists.datasets.archive.archive",
    "ctfm.datalists.datasets.table.classification",
    "ctfm.datalists.datasets.totalsegmentator.totalsegmentator",
    "ctfm.evaluation.classification.rescoring.score_predictions",
    "ctfm.inference.inferers.label_map.__init__",
    "ctfm.loading.store.sampling.__init__",
}


def name_of(path: Path) -> str:
    parts = path.relative_to(SCRIPTS).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def room_of(module: str) -> str:
    """The room that a module stands in; the package itself and its `__main__` stand in none."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] != "__main__" else ""


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


@cache
def imports(module: str, lazy: bool = True) -> frozenset[str]:
    """Full names that a module imports; without `lazy`, those that importing it imports."""
    nodes = list(ast.walk(tree(module)))
    if not lazy:
        functions = [n for n in nodes if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
        inside = {id(node) for function in functions for node in ast.walk(function)}
        nodes = [node for node in nodes if id(node) not in inside]
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= inner & MODULES.keys() or {str(node.module)}
    return frozenset(names)


def reachable(module: str) -> set[str]:
    """Everything that importing a module imports, by way of this package; top-level names."""
    seen: set[str] = set()
    queue = [module]
    while queue:
        current = queue.pop()
        if current not in seen:
            seen.add(current)
            queue += imports(current, lazy=False) & MODULES.keys()
    return {name.split(".")[0] for m in seen for name in imports(m, lazy=False)}


@cache
def exports(room: str) -> dict[str, str]:
    """Public names of a room, each with the module below the room that defines it."""
    stub = (PACKAGE / room / "__init__.pyi").read_text(encoding="utf-8")
    nodes = [node for node in ast.parse(stub).body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in nodes for alias in node.names}


def of(*packages: str) -> list[str]:
    return [m for m in MODULES if any(m == p or m.startswith(f"{p}.") for p in packages)]


def test_reader_of_imports_sees_what_there_is() -> None:
    """The other tests hold nothing if this one fails."""
    assert {"torch", "ctfm.training.batchnorm"} <= imports("ctfm.training.handlers")
    assert "ctfm.release.configs" in imports("ctfm.release.packing")
    assert "ctfm.release.configs" not in imports("ctfm.release.packing", lazy=False)
    assert {"torch", "monai"} <= reachable("ctfm.evaluation.handlers")
    assert exports("weights")["load_encoder"] == "loading"


class TestRooms:
    def test_the_top_holds_rooms_and_nothing_loose(self) -> None:
        here = {path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"}
        assert here == {*FLOOR, "__init__.py", "__init__.pyi", "__main__.py", "py.typed"}
        assert len(FLOOR) <= 22

    def test_source_root_holds_the_package_alone(self) -> None:
        """A regular package there, or a second module, breaks other bundles run from our root."""
        here = {path.name for path in SCRIPTS.iterdir() if path.name != "__pycache__"}
        assert {n for n in here if not n.endswith(".egg-info")} == {"ctfm", "README.md"}

    @pytest.mark.parametrize("room", sorted(FLOOR))
    def test_no_room_is_a_house(self, room: str) -> None:
        lines = sum(len(MODULES[m].read_text().splitlines()) for m in of(f"ctfm.{room}"))
        assert lines <= LARGEST_ROOM

    @pytest.mark.parametrize("module", MODULES)
    def test_arrows_point_down(self, module: str) -> None:
        """From a room to lower floors; within a room anywhere. The front door may name any."""
        room = room_of(module)
        if not room:
            return
        named = {room_of(name) for name in imports(module) if name.startswith("ctfm.")} - {room, ""}
        assert {name for name in named if FLOOR[name] >= FLOOR[room]} == set()

    def test_no_cycles(self) -> None:
        """A package counts as itself: its modules are not imported by its ``__init__``."""
        graph = {m: (imports(m) & MODULES.keys()) - {m} for m in MODULES}
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            pytest.fail(f"imports go in a circle: {' -> '.join(error.args[1])}")

    @pytest.mark.parametrize("module", MODULES)
    def test_optional_packages_are_imported_where_they_are_used(self, module: str) -> None:
        assert not OPTIONAL & {name.split(".")[0] for name in imports(module, lazy=False)}

    @pytest.mark.parametrize(
        "module", ["ctfm", "ctfm.__main__", *of(*(f"ctfm.{name}" for name in LIGHT))]
    )
    def test_needs_neither_torch_nor_monai(self, module: str) -> None:
        assert not reachable(module) & {"ignite", "monai", "torch"}

    def test_so_it_is_when_imported(self) -> None:
        """First the package, which needs nothing at all; then all that needs no network."""
        light = ["ctfm.contract.tasks", "ctfm.__main__", "ctfm.release.packing"]
        heavy = f"print(*sorted(set(sys.modules) & {HEAVY!r}))"
        code = f"import sys, ctfm; {heavy}; import {', '.join(light)}; {heavy}"
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True
        )
        first, second = done.stdout.splitlines()
        assert first == ""
        assert set(second.split()) <= {"nibabel", "numpy", "scipy"}


class TestExports:
    """Bundles, the template, examples and benchmarks name what rooms export, and nothing else."""

    @pytest.mark.parametrize("room", sorted(FLOOR.keys() - {"commands", "pictures"}))
    def test_exported_names_are_defined_where_the_stub_says(self, room: str) -> None:
        for name, module in exports(room).items():
            assert name in defined(f"ctfm.{room}.{module}")

    @pytest.mark.parametrize("room", sorted(FLOOR.keys() - {"commands", "pictures"}))
    def test_no_exported_name_hides_a_module(self, room: str) -> None:
        modules = {m.split(".")[2] for m in of(f"ctfm.{room}") if m.count(".") == 2}
        assert not modules & exports(room).keys()

    def test_configs_and_documents_name_them(self) -> None:
        wrong = []
        for path, text in outside("*.json", "*.yaml", "*.md"):
            for dotted in re.findall(r"(?<![\w./-])ctfm((?:\.\w+)+)", text):
                room, name, *_ = [*dotted[1:].split("."), ""]
                if room not in FLOOR or (name and name not in exports(room)):
                    wrong.append(f"{path}: ctfm{dotted}")
        assert wrong == []

    def test_templates_examples_and_benchmarks_import_them(self) -> None:
        wrong = []
        for path, text in outside("*.py"):
            for node in ast.walk(ast.parse(text)):
                if not isinstance(node, ast.ImportFrom) or not str(node.module).startswith("ctfm."):
                    continue
                room, *rest = str(node.module).split(".")[1:]
                names = {alias.name for alias in node.names}
                if rest or not names <= exports(room).keys():
                    wrong.append(f"{path}: {node.module} {names}")
        assert wrong == []


def outside(*patterns: str) -> Iterator[tuple[Path, str]]:
    """Files that use the library from outside: bundles, template, examples, benchmarks, docs."""
    for folder in ("algorithm_templates", "benchmarks", "bundles", "docs", "examples"):
        for pattern in patterns:
            for path in sorted((ROOT / folder).rglob(pattern)):
                # docs/decisions tells of names that are gone
                if not {"results", "models", "eval", "decisions"} & set(path.parts):
                    yield path.relative_to(ROOT), path.read_text(encoding="utf-8")


def literals(module: str) -> list[str]:
    """Strings of a module that are not documentation."""
    nodes = list(ast.walk(tree(module)))
    prose = {
        id(node.value)
        for node in nodes
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    return [
        node.value
        for node in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose
    ]


def test_no_module_names_a_bundle() -> None:
    """The library finds a bundle by the task that its metadata.json states."""
    paths = sorted(ROOT.glob("bundles/*/configs/metadata.json"))
    assert paths, "no bundles were found"
    assert all(json.loads(path.read_text())["task"] for path in paths)
    bundles = [path.parent.parent.name for path in paths]
    named = {
        (module, bundle)
        for module in MODULES
        for text in literals(module)
        for bundle in bundles
        if re.search(rf"(?<!project-lighter/){bundle}", text)
    }
    assert named == set()


@pytest.mark.parametrize("module", MODULES)
class TestEachModule:
    def test_says_what_it_is_for(self, module: str) -> None:
        assert ast.get_docstring(tree(module))

    def test_lists_what_it_offers(self, module: str) -> None:
        """By ``__all__``, each name once and in the module; a room lists it in its stub."""
        if MODULES[module].with_suffix(".pyi").is_file() or module == "ctfm.__main__":
            return
        offered = [
            ast.literal_eval(node.value)
            for node in tree(module).body
            if isinstance(node, ast.Assign)
            and [t.id for t in node.targets if isinstance(t, ast.Name)] == ["__all__"]
        ]
        assert len(offered) == 1
        assert len(set(offered[0])) == len(offered[0])
        assert set(offered[0]) <= defined(module)

    def test_takes_no_short_cuts(self, module: str) -> None:
        """Nothing that hides a wrong checkpoint, runs code from one, or bends the import path."""
        source = MODULES[module].read_text(encoding="utf-8")
        banned = r"sys\.path|weights_only\s*=\s*False|\bprint\s*=|\bTODO\b|\bFIXME\b|^\s*except:"
        assert re.findall(banned, source, re.MULTILINE) == []
        for node in ast.walk(tree(module)):
            if not isinstance(node, ast.Call):
                continue
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if called == "load_state_dict":
                assert "strict" not in given, "loading is strict"
                assert len(node.args) == 1, "loading is strict"
            if ast.unparse(node.func) == "torch.load":
                assert given.get("weights_only") == "True"

    def test_is_read_in_one_breath(self, module: str) -> None:
        source = MODULES[module].read_text(encoding="utf-8")
        assert len(source.splitlines()) <= LONGEST_MODULE
        for node in ast.walk(tree(module)):
            if isinstance(node, ast.FunctionDef):
                assert body_lines(node) <= LONGEST_BODY, node.name

    def test_takes_few_parameters(self, module: str) -> None:
        """`self` is none."""
        if room_of(module) == "commands" or module == "ctfm.__main__":
            return
        many = set()
        for node in ast.walk(tree(module)):
            if isinstance(node, ast.FunctionDef):
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                names = {argument.arg for argument in arguments} - {"self", "cls"}
                if len(names) > MOST_PARAMETERS:
                    many.add(f"{module}.{node.name}")
        assert many == {name for name in MANY_PARAMETERS if name.rpartition(".")[0] == module}


def defined(module: str) -> set[str]:
    """Names at the top level of a module."""
    names: set[str] = set()
    for node in tree(module).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            inside = [node for target in targets for node in ast.walk(target)]
            names |= {node.id for node in inside if isinstance(node, ast.Name)}
    return names


def body_lines(function: ast.FunctionDef) -> int:
    """Lines of a function without its signature and docstring."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return (function.end_lineno or 0) - body[0].lineno + 1 if body else 0
