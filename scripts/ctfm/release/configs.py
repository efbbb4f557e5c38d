"""A bundle's configs: they parse, and their names resolve.

Nothing of the bundle is executed: no expression is evaluated, no component built. Entry points are
JSON and stand alone; overlays are YAML and stand on an entry point.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Mapping
from filecmp import cmp
from pathlib import Path
from pydoc import ErrorDuringImport, locate
from typing import Any

import yaml
from monai.bundle import ComponentLocator, ConfigComponent, ConfigParser, ReferenceResolver

from ctfm.base.errors import UserError
from ctfm.release.files import Check

__all__ = ["CONFIG_CHECKS", "components", "config_paths", "parse_stack"]

PACKAGE = __name__.partition(".")[0]
#: A bundle has one of them at least; others stand on them.
ENTRY_POINTS = ("train.json", "inference.json")
#: What an overlay may stand on; evaluate and store are overlays that others build on.
BUILT_ON = ("evaluate.yaml", "store.yaml")
BASES = (("train.json",), ("inference.json",), *(("train.json", name) for name in BUILT_ON))
#: Overlays that say different things of the same dataset.
APART = ({"store.yaml", "few_shot.yaml"}, {"store.yaml", "evaluate.yaml"})
Parsers = dict[str, ConfigParser]
#: Files of `configs/` that are read together, such as an entry point and an overlay.
Stack = tuple[str, ...]


def config_paths(root: Path) -> list[Path]:
    """Every config of a bundle, in subfolders too, without metadata.json."""
    suffixes = (".json", ".yaml", ".yml")
    found = (path for path in (root / "configs").rglob("*") if path.suffix in suffixes)
    return sorted(path for path in found if path.name != "metadata.json")


def check_parse(root: Path) -> str:
    """Every config is read by MONAI's parser and holds an object; the entry points are there."""
    wrong, paths = [], config_paths(root)
    for path in paths:
        try:
            _load(path)
        except UserError as error:
            wrong.append(str(error))
    names = {path.relative_to(root / "configs").as_posix() for path in paths}
    if not names & set(ENTRY_POINTS):
        wrong.append(f"no entry point: configs/ needs {' or '.join(ENTRY_POINTS)}")
    if wrong:
        raise UserError("; ".join(wrong))
    return f"{len(paths)} configs"


def check_references(root: Path) -> str:
    """Every reference exists; an overlay's, in one of the stacks that it can be part of."""
    parsers, wrong = _stacks(root)
    if wrong:
        raise UserError("; ".join(wrong))
    return f"all exist in {len(parsers)} combinations of configs"


def check_targets(root: Path) -> str:
    """Every `_target_` is found, and takes the arguments that the config gives it."""
    locator = ComponentLocator()
    contents = [_load(path) for path in config_paths(root)]
    contents += [parser.get() for parser in _stacks(root)[0].values()]
    targets = list(components(contents))
    note = ""
    if _has_another_package(root):
        targets = [one for one in targets if not _is_own(str(one["_target_"]))]
        note = f"; those of the bundle's {PACKAGE} not looked at: it is another than the one here"
    wrong = {flaw for one in targets if (flaw := _flaw(one, locator))}
    if wrong:
        raise UserError("; ".join(sorted(wrong)))
    number = len({str(one["_target_"]) for one in targets})
    return f"{number} targets take their arguments{note}"


def check_package(root: Path) -> str:
    """The bundle's own copy of the package defines all that configs and the copy itself name."""
    folder = root / PACKAGE
    if not folder.is_dir():
        return f"no copy of {PACKAGE} here: it has to be installed, or the bundle packed"
    contents = [_load(path) for path in config_paths(root)]
    names = {str(one["_target_"]) for one in components(contents)}
    for path in sorted([*folder.rglob("*.py"), *folder.rglob("*.pyi")]):
        names |= _imported(path, root)
    own = sorted(filter(_is_own, names))
    if missing := [name for name in own if not _defined(root, name)]:
        raise UserError(f"the bundle's copy of {PACKAGE} lacks {', '.join(missing)}")
    return f"the copy of {PACKAGE} defines all {len(own)} names that are used"


def _load(path: Path) -> dict[str, Any]:
    try:
        content = ConfigParser.load_config_file(str(path))
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path.name}: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path.name} holds a {type(content).__name__}, not an object")
    return content


def parse_stack(root: Path, stack: Stack) -> ConfigParser:
    """Parse configs of a bundle that are read together, with its metadata.

    Raises:
        UserError: they do not parse.
    """
    parser = ConfigParser()
    try:
        parser.read_config([str(root / "configs" / name) for name in stack])
        parser.read_meta(str(root / "configs" / "metadata.json"))
        parser.parse()
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise UserError(f"{'+'.join(stack)}: {error}") from error
    return parser


def _stacks(root: Path) -> tuple[Parsers, list[str]]:
    """The stacks whose references all exist, and what is wrong with the others."""
    names = [path.relative_to(root / "configs").as_posix() for path in config_paths(root)]
    bases = [base for base in BASES if set(base) <= set(names)]
    parsers: Parsers = {}
    wrong = []
    for name in names:
        alone = name.endswith(".json")
        stacks = [(name,)] if alone else [(*base, name) for base in bases if name not in base]
        stacks = [stack for stack in stacks if not any(pair <= set(stack) for pair in APART)]
        flaws = {stack: _add(parsers, root, stack) for stack in stacks}
        if all(flaws.values()):
            wrong.append(next(iter(flaws.values()), f"{name}: no entry point to stand on"))
    return parsers, wrong


def _add(parsers: Parsers, root: Path, stack: Stack) -> str:
    """Parse a stack and keep it if it is sound; else say what is wrong with it."""
    label = "+".join(stack)
    try:
        parser = parse_stack(root, stack)
    except UserError as error:
        return str(error)
    items = parser.ref_resolver.items
    for item_id, item in items.items():
        value = item.get_config()
        if isinstance(value, str) and value.startswith(("@", "$")):
            for reference in ReferenceResolver.match_refs_pattern(value):
                if reference not in items:
                    return f"{label}: {item_id} refers to @{reference}, which does not exist"
    parsers[label] = parser
    return ""


def components(node: Any) -> Iterator[Mapping[str, Any]]:
    """Every object with a `_target_`, at any depth."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield node
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from components(child)


def _flaw(component: Mapping[str, Any], locator: ComponentLocator) -> str | None:
    target = component["_target_"]
    if not isinstance(target, str):
        return f"_target_ is {target!r}; it should be a name"
    if target.startswith(("$", "@")):
        return None  # known at run time alone
    try:
        found = locate(ConfigComponent(component, locator=locator).resolve_module_name())
    except ErrorDuringImport as error:
        return f"{target} cannot be imported: {error}"
    if not callable(found):
        return f"{target} cannot be found" if found is None else f"{target} cannot be called"
    signature = inspect.signature(found)
    partial = component.get("_mode_") == "callable"
    arguments = set(component) - ConfigComponent.non_arg_keys
    try:
        (signature.bind_partial if partial else signature.bind)(**dict.fromkeys(arguments))
    except TypeError as error:
        return f"{target}: {error}"
    return None


def _is_own(name: str) -> bool:
    return name.startswith(f"{PACKAGE}.")


def _has_another_package(root: Path) -> bool:
    """Whether the bundle carries a copy of the package that differs from the running one."""
    here, copy = Path(__file__).parents[1], root / PACKAGE
    if not copy.is_dir():
        return False
    files = {p.relative_to(f) for f in (here, copy) for p in f.rglob("*.py")}
    pairs = ((here / name, copy / name) for name in files)
    return any(not a.is_file() or not b.is_file() or not cmp(a, b, False) for a, b in pairs)


def _imported(path: Path, root: Path) -> set[str]:
    """Dotted names that a file of the package takes from its siblings.

    Only the stubs that list what a room exports are relative.
    """
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError) as error:
        raise UserError(f"{path.name} of the bundle's copy is no Python: {error}") from error
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    room = ".".join(path.parent.relative_to(root).parts)
    return {
        f"{room}.{node.module}.{alias.name}" if node.level else f"{node.module}.{alias.name}"
        for node in nodes
        for alias in node.names
    }


def _defined(root: Path, name: str) -> bool:
    """Whether a dotted name is a module below `root`, or is bound at the top of one."""
    module, _, attribute = name.rpartition(".")
    if _source(root, name) is not None:
        return True
    source = _source(root, module)
    if source is None:
        return False
    return any(attribute in _bound(node) for node in ast.parse(source.read_bytes()).body)


def _source(root: Path, module: str) -> Path | None:
    base = root.joinpath(*module.split("."))
    candidates = (base.with_suffix(".py"), base / "__init__.pyi", base / "__init__.py")
    return next((path for path in candidates if path.is_file()), None)


def _bound(node: ast.AST) -> set[str]:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return {node.name}
    if isinstance(node, (ast.ImportFrom, ast.Import)):
        return {alias.asname or alias.name for alias in node.names}
    return {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}


CONFIG_CHECKS: dict[str, Check] = {
    "configs": check_parse,
    "references": check_references,
    "targets": check_targets,
    "package": check_package,
}
