"""Which module may import which, read off the source: arrows point down only.

From the bottom: the foundation (what CT-FM expects, errors, files); data lists beside it; weights,
networks and transforms; stores; losses, metrics and handlers; the command line and packing on top.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from support import ROOT

SCRIPTS = ROOT / "scripts"
PACKAGE = SCRIPTS / "ctfm"

FOUNDATION = {
    "ctfm", "ctfm.classes", "ctfm.columns", "ctfm.contract", "ctfm.errors", "ctfm.files",
    "ctfm.grids", "ctfm.hounsfield", "ctfm.intervals", "ctfm.sharding", "ctfm.snomed",
    "ctfm.switches", "ctfm.tables", "ctfm.workers",
}  # fmt: skip
HEAVY = {"ignite", "matplotlib", "monai", "nibabel", "numpy", "scipy", "torch"}
#: Packing, checking and the command line: they use everything and nothing uses them.
TOP = {
    "ctfm.__main__", "ctfm.bundle_checks", "ctfm.commands", "ctfm.commands.auto3dseg",
    "ctfm.commands.calling", "ctfm.commands.data", "ctfm.commands.evaluation",
    "ctfm.commands.locating", "ctfm.commands.protocols", "ctfm.commands.retrieval",
    "ctfm.commands.segmentation", "ctfm.commands.viewing", "ctfm.commands.weights",
    "ctfm.config_checks",
    "ctfm.config_contract", "ctfm.release", "ctfm.task_overlays",
}  # fmt: skip


def name_of(path: Path) -> str:
    parts = path.relative_to(SCRIPTS).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


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
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES.keys()
            found |= inner or {str(node.module)}
    return frozenset(found)


def own(module: str, lazy: bool = True) -> set[str]:
    """Modules of the package that a module imports, and the packages that they lie in."""
    direct = imports(module, lazy) & MODULES.keys()
    return {".".join(m.split(".")[:n]) for m in direct for n in range(1, m.count(".") + 2)}


def reachable(module: str) -> set[str]:
    """Everything that importing a module imports, by way of this package; top-level names."""
    seen, queue = set(), [module]
    while queue:
        current = queue.pop()
        if current not in seen:
            seen.add(current)
            queue += own(current, lazy=False)
    return {name.split(".")[0] for m in seen for name in imports(m, lazy=False)}


def of(*packages: str) -> list[str]:
    return [m for m in MODULES if any(m == p or m.startswith(f"{p}.") for p in packages)]


def test_reader_of_imports_sees_what_there_is() -> None:
    """The other tests hold nothing if this one fails."""
    assert {"torch", "ctfm.batchnorm", "ctfm.errors"} <= imports("ctfm.handlers")
    assert "ctfm.config_checks" in imports("ctfm.release")
    assert "ctfm.config_checks" not in imports("ctfm.release", lazy=False)
    assert "ctfm.weights" in imports("ctfm.commands.weights")
    assert {"torch", "monai"} <= reachable("ctfm.segmentation")
    assert "ctfm.datalists" in own("ctfm.commands.data")


class TestArrows:
    @pytest.mark.parametrize("module", sorted(FOUNDATION))
    def test_foundation_rests_on_nothing_else(self, module: str) -> None:
        assert own(module) <= FOUNDATION

    @pytest.mark.parametrize("module", of("ctfm.datalists"))
    def test_data_lists_rest_on_the_foundation(self, module: str) -> None:
        """And on headers of DICOM, which need no torch either."""
        headers = {"ctfm.dicom", "ctfm.dicom.headers"}
        assert own(module) <= FOUNDATION | headers | set(of("ctfm.datalists"))

    @pytest.mark.parametrize("module", of("ctfm.weights"))
    def test_weights_rest_on_the_foundation(self, module: str) -> None:
        assert own(module) <= FOUNDATION | set(of("ctfm.weights"))

    @pytest.mark.parametrize("module", of("ctfm.dicom"))
    def test_reading_dicom_rests_on_the_foundation(self, module: str) -> None:
        assert own(module) <= FOUNDATION | set(of("ctfm.dicom"))

    @pytest.mark.parametrize("module", of("ctfm.store"))
    def test_stores_rest_on_reading_scans(self, module: str) -> None:
        """They know no network and no training: what reads them is above."""
        reading = {
            "ctfm.datalists", "ctfm.datalists.datalist", "ctfm.dicom", "ctfm.scan_checks",
            "ctfm.scans", "ctfm.transforms",
        }  # fmt: skip
        assert own(module) <= FOUNDATION | reading | set(of("ctfm.store"))

    @pytest.mark.parametrize(
        "module", of("ctfm.datalists", "ctfm.weights", "ctfm.scans", "ctfm.transforms")
    )
    def test_nothing_that_stores_rest_on_knows_them(self, module: str) -> None:
        assert not own(module) & set(of("ctfm.store"))

    @pytest.mark.parametrize("module", of("ctfm.embedding"))
    def test_embeddings_rest_on_scans_weights_and_inferers(self, module: str) -> None:
        """They know no training and no segmentation."""
        assert own(module) <= FOUNDATION | {
            "ctfm.hounsfield", "ctfm.inferers", "ctfm.networks", "ctfm.scans", "ctfm.transforms",
            *of("ctfm.embedding", "ctfm.weights"),
        }  # fmt: skip

    @pytest.mark.parametrize("module", of("ctfm.inferers"))
    def test_inferers_rest_on_the_foundation(self, module: str) -> None:
        """Configs and other packages put networks into them, and read what they return."""
        assert own(module) <= FOUNDATION | {
            "ctfm.precision", *of("ctfm.inferers", "ctfm.inversion"),
        }  # fmt: skip

    @pytest.mark.parametrize("module", of("ctfm.inversion"))
    def test_inverting_rests_on_the_foundation(self, module: str) -> None:
        """It knows grids, whoever labels them."""
        assert own(module) <= FOUNDATION | set(of("ctfm.inversion"))

    @pytest.mark.parametrize("module", of("ctfm.probing"))
    def test_the_probe_rests_on_embeddings(self, module: str) -> None:
        """It compares encoders, however they were trained."""
        assert own(module) <= FOUNDATION | {
            "ctfm.datalists", "ctfm.datalists.reading", "ctfm.inferers", "ctfm.networks",
            "ctfm.scan_checks", "ctfm.transforms",
            *of("ctfm.embedding", "ctfm.probing", "ctfm.weights"),
        }  # fmt: skip

    @pytest.mark.parametrize("module", of("ctfm.locating"))
    def test_locating_rests_on_embeddings(self, module: str) -> None:
        """And on what reads, checks and draws scans."""
        assert own(module) <= FOUNDATION | {
            "ctfm.planes", "ctfm.scan_checks", "ctfm.transforms",
            *of("ctfm.embedding", "ctfm.locating"),
        }  # fmt: skip

    @pytest.mark.parametrize("module", of("ctfm.comparison"))
    def test_comparing_runs_rests_on_the_foundation(self, module: str) -> None:
        """It reads tables: neither scans nor networks, and no torch."""
        assert own(module) <= FOUNDATION | set(of("ctfm.comparison"))
        assert not reachable(module) & {"ignite", "monai", "torch"}

    @pytest.mark.parametrize("module", of("ctfm.classification"))
    def test_scoring_classifiers_rests_on_the_foundation(self, module: str) -> None:
        """It knows labels and scores: neither scans nor networks, and no torch."""
        assert own(module) <= FOUNDATION | set(of("ctfm.classification"))
        assert not reachable(module) & {"ignite", "monai", "torch"}

    @pytest.mark.parametrize("module", of("ctfm.lesions"))
    def test_lesions_rest_on_label_maps(self, module: str) -> None:
        assert own(module) <= FOUNDATION | {"ctfm.label_maps", *of("ctfm.lesions")}

    @pytest.mark.parametrize("module", of("ctfm.auto3dseg"))
    def test_auto3dseg_rests_on_what_bundles_name(self, module: str) -> None:
        """It composes what configs compose; the command line alone is above it."""
        assert own(module) <= FOUNDATION | {
            "ctfm.batchnorm", "ctfm.checkpointing", "ctfm.class_scores", "ctfm.evaluators",
            "ctfm.handlers", "ctfm.inferers", "ctfm.metrics", "ctfm.networks", "ctfm.scans",
            "ctfm.saving", "ctfm.transforms",
            *of("ctfm.auto3dseg", "ctfm.dali", "ctfm.loading", "ctfm.store", "ctfm.weights"),
        }  # fmt: skip

    @pytest.mark.parametrize("module", sorted(MODULES.keys() - TOP - {*of("ctfm.auto3dseg")}))
    def test_nothing_below_knows_auto3dseg(self, module: str) -> None:
        assert not own(module) & set(of("ctfm.auto3dseg"))

    @pytest.mark.parametrize("module", of("ctfm.networks", "ctfm.inferers", "ctfm.transforms"))
    def test_building_blocks_know_no_training(self, module: str) -> None:
        higher = {"ctfm.handlers", "ctfm.checkpointing", "ctfm.metrics", "ctfm.saving"}
        assert not own(module) & higher

    @pytest.mark.parametrize("module", sorted(MODULES.keys() - TOP))
    def test_nothing_below_imports_the_top(self, module: str) -> None:
        assert not own(module) & TOP

    def test_nothing_imports_the_command_line(self) -> None:
        assert [m for m in MODULES if "ctfm.__main__" in own(m)] == []

    @pytest.mark.parametrize("module", MODULES)
    def test_optional_packages_are_imported_where_they_are_used(self, module: str) -> None:
        """The room of DALI is entered, and its package imported, only on request."""
        optional = {"dcm2niix", "duckdb", "idc_index_data", "nvidia", "pydicom"}
        assert not optional & {name.split(".")[0] for name in imports(module, lazy=False)}
        if not module.startswith("ctfm.dali"):
            assert not own(module, lazy=False) & set(of("ctfm.dali"))

    def test_no_cycles(self) -> None:
        """A package counts as itself: its ``__init__`` imports its modules, not they it."""
        graph = {m: (imports(m) & MODULES.keys()) - {m} for m in MODULES}
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            pytest.fail(f"imports go in a circle: {' -> '.join(error.args[1])}")


class TestLightness:
    @pytest.mark.parametrize(
        "module",
        [
            *sorted(FOUNDATION),
            *of("ctfm.commands", "ctfm.datalists"),
            "ctfm.__main__",
            "ctfm.release",
        ],
    )
    def test_needs_neither_torch_nor_monai(self, module: str) -> None:
        assert not reachable(module) & {"ignite", "monai", "torch"}

    def test_so_it_is_when_imported(self) -> None:
        """First the package, which needs nothing at all; then all that needs no network."""
        light = ["ctfm.contract", "ctfm.__main__", "ctfm.release", *of("ctfm.datalists")]
        heavy = f"print(*sorted(set(sys.modules) & {HEAVY!r}))"
        code = f"import sys, ctfm; {heavy}; import {', '.join(light)}; {heavy}"
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True
        )
        first, second = done.stdout.splitlines()
        assert first == ""
        assert set(second.split()) <= {"nibabel", "numpy", "scipy"}


def test_source_root_holds_the_package_alone() -> None:
    """A regular package there, or a second module, breaks other bundles run from our root."""
    here = {path.name for path in SCRIPTS.iterdir() if path.name != "__pycache__"}
    assert {name for name in here if not name.endswith(".egg-info")} == {"ctfm"}


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
    bundles = sorted(path.parent.parent.name for path in ROOT.glob("bundles/*/configs/train.json"))
    assert bundles, "no bundles were found"
    named = {
        (module, bundle)
        for module in MODULES
        for text in literals(module)
        for bundle in bundles
        if bundle in text
    }
    assert named == set()


@pytest.mark.parametrize("module", MODULES)
class TestEachModule:
    def test_says_what_it_is_for(self, module: str) -> None:
        assert ast.get_docstring(tree(module))

    def test_lists_what_it_offers(self, module: str) -> None:
        """By ``__all__``, each name once and in the module; what starts with "_" offers nothing."""
        if module.split(".")[-1].startswith("_"):
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
        assert len(source.splitlines()) <= 300
        for node in ast.walk(tree(module)):
            if isinstance(node, ast.FunctionDef):
                assert body_lines(node) <= 40, node.name


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
