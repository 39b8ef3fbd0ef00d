"""The house rules that can be read off the source: who may import whom, sizes, names, and what is banned."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "nndiag"
FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
FRONT = ("__init__", "__main__")
"""The lazy list of public names, and ``python -m nndiag``: they stand before every room."""

FREE = "compat"
"""Private names of others: any room may ask for it, and it asks for none."""


def rooms_in_the_docs() -> dict[str, int]:
    """Rooms by number, as docs/architecture.md lists them: the backticked names before the colon."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = text.partition("## The rooms")[2].partition("\n## ")[0]
    rooms: dict[str, int] = {}
    for number, head in re.findall(r"^(\d+)\. ([^:]*):", section, flags=re.MULTILINE):
        names = (name.removesuffix("/").removesuffix(".py") for name in re.findall(r"`([\w./]+)`", head))
        rooms |= dict.fromkeys(names, int(number))
    return rooms


ROOMS = rooms_in_the_docs()


def room(path: str) -> str:
    """The room of a file, given relative to the package."""
    return path.partition("/")[0].removesuffix(".py")


def dotted(node: ast.expr) -> str:
    """``a.b.c``; empty for anything but names and their attributes."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names, node = [node.attr, *names], node.value
    return ".".join([node.id, *names]) if isinstance(node, ast.Name) else ""


def imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Every module imported anywhere in a file, functions included, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            for alias in node.names:
                is_room = node.module == "nndiag" and (PACKAGE / f"{alias.name}.py").exists()
                is_room |= node.module == "nndiag" and (PACKAGE / alias.name).is_dir()
                yield node.lineno, f"nndiag.{alias.name}" if is_room else str(node.module)


def own_imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Imports from nndiag, as rooms; the package itself is an empty name."""
    for line, module in imports(tree):
        if module.partition(".")[0] == "nndiag":
            yield line, module.partition(".")[2].partition(".")[0]


def calls(tree: ast.AST) -> Iterator[tuple[ast.Call, str]]:
    """Every call with the dotted name of what is called; for a method of an expression, the method alone."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            last = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            yield node, dotted(node.func) or last


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def test_the_docs_list_the_rooms():
    assert list(dict.fromkeys(ROOMS.values())) == list(range(1, 10))
    assert {
        "errors": 1,
        "layers": 2,
        "snapshot": 4,
        "measures": 5,
        "observe": 7,
        "integrations": 9,
    }.items() <= ROOMS.items()


def test_every_module_belongs_to_a_room():
    assert {room(path) for path in TREES} <= {*ROOMS, *FRONT, FREE}


def test_a_room_imports_from_its_own_and_from_earlier_ones():
    for path, tree in TREES.items():
        if room(path) in FRONT:
            continue
        own, limit = room(path), ROOMS.get(room(path), 0)
        for line, name in own_imports(tree):
            if name in ("", FREE):
                continue
            assert name == own or ROOMS[name] <= limit, f"{path}:{line} imports nndiag.{name}"


def test_inner_rooms_ask_the_package_for_its_version_only():
    for path, tree in TREES.items():
        if room(path) in FRONT or ROOMS.get(room(path), 0) == 9:
            continue
        asked = {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and dotted(node.value) == "nndiag"
        }
        assert asked <= {"__version__"}


APART = {
    "functional": {"errors", "functional"},  # pure mathematics
    "layers": {"errors", "layers", FREE},
    "statistics": {"errors", "functional", "statistics", FREE},  # no hooks
    "rules": {"findings", "layers", "errors"},  # a rule sees numbers only
    FREE: set(),
}


@pytest.mark.parametrize("name", APART)
def test_pure_rooms_import_little(name):
    used = {target for path, tree in TREES.items() if room(path) == name for _, target in own_imports(tree)}
    assert used <= APART[name]


@pytest.mark.parametrize(
    ("name", "stranger"),
    [
        ("sinks", "observe"),
        ("observe", "sinks"),
        ("observe", "diagnosis"),
        ("observe", "ledger"),
    ],
)
def test_left_and_right_of_a_snapshot_do_not_know_each_other(name, stranger):
    used = {target for path, tree in TREES.items() if room(path) == name for _, target in own_imports(tree)}
    assert used
    assert stranger not in used


def test_observers_know_what_measures_need_and_no_more():
    for path, tree in TREES.items():
        if room(path) != "observe":
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("nndiag.measures"):
                assert [alias.name for alias in node.names] == ["Need"], f"{path}:{node.lineno}"


def test_what_judges_does_not_touch_models():
    for path, tree in TREES.items():
        if room(path) in ("rules", "ledger", "findings", "report"):
            modules = {module.partition(".")[0] for _, module in imports(tree)}
            assert "torch" not in modules, path


def test_lightning_is_known_to_adapters_only():
    for path, tree in TREES.items():
        modules = {module.partition(".")[0] for _, module in imports(tree)}
        if modules & {"lightning", "pytorch_lightning", "transformers"}:
            assert room(path) in ("integrations", "demo"), path


def parts_of(module: str) -> set[str]:
    """Files of the package, without suffix, that a dotted name below it may stand for."""
    path = module.replace(".", "/")
    return {name for name in (f"{path}.py", f"{path}/__init__.py") if name in TREES}


def test_there_are_no_circles_of_imports():
    """At import time; an import inside a function, or for types alone, is no circle."""
    waiting: dict[str, set[str]] = {}
    for path, tree in TREES.items():
        targets = waiting.setdefault(path, set())
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("nndiag."):
                module = node.module.removeprefix("nndiag.")
                files = [parts_of(f"{module}.{alias.name}") or parts_of(module) for alias in node.names]
                targets |= set().union(*files)
    while waiting:
        ready = [path for path, targets in waiting.items() if not targets & (waiting.keys() - {path})]
        assert ready, f"a circle among {sorted(waiting)}"
        for path in ready:
            del waiting[path]


def test_files_and_functions_are_short():
    for path, tree in TREES.items():
        assert len((PACKAGE / path).read_text(encoding="utf-8").splitlines()) <= 400
        for function in functions(tree):
            body = function.body[1:] if ast.get_docstring(function) is not None else function.body
            lines = function.end_lineno - body[0].lineno + 1 if body else 0
            assert lines <= 60, f"{path}:{function.lineno} {function.name}: {lines} lines"


EMPTY_WORDS = re.compile(r"(^|_)(utils?|helpers?|managers?|misc|common)(_|$)")


def test_names_say_something():
    for path, tree in TREES.items():
        for part in path.removesuffix(".py").split("/"):
            assert not EMPTY_WORDS.search(part)
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                assert not node.name.endswith(("Utils", "Helper", "Helpers", "Manager")), node.name


def documented(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, ast.ClassDef | ast.FunctionDef]]:
    """Public classes, functions and methods; what is inside a function is its own affair."""
    for node in body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith("_"):
            yield f"{prefix}{node.name}", node
            if isinstance(node, ast.ClassDef):
                yield from documented(node.body, f"{node.name}.")


def test_every_public_name_is_explained():
    for path, tree in TREES.items():
        assert ast.get_docstring(tree)
        for name, node in documented(tree.body, ""):
            assert ast.get_docstring(node), f"{path}: {name}"


def test_everything_is_annotated():
    for path, tree in TREES.items():
        for function in functions(tree):
            arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
            bare = [a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls")]
            assert not bare, f"{path}:{function.lineno} {function.name}({', '.join(bare)})"
            assert function.returns is not None or function.name == "__init__", f"{path}:{function.lineno}"


BANNED = {
    "print": "logging, or a console",
    "deepcopy": "fails on locks, lazy modules and old weight norm, and copies datasets",
    "eval": "switch the flag, and put it back, in the sandbox",
    "train": "thaws what is frozen",
    "register_full_backward_hook": "breaks in-place models",
    "register_full_backward_pre_hook": "breaks in-place models",
    "register_backward_hook": "breaks in-place models",
    "register_module_full_backward_hook": "breaks in-place models",
    "register_module_forward_hook": "sees every model of the process",
    "retain_grad": "changes what is kept",
    "log_dict": "pollutes the user's metrics",
    "all_reduce": "a collective on one rank hangs the others",
    "all_gather": "a collective on one rank hangs the others",
    "all_gather_object": "a collective on one rank hangs the others",
    "broadcast_object_list": "a collective on one rank hangs the others",
    "barrier": "a collective on one rank hangs the others",
    "exec": "runs what others wrote",
}
IN_THE_DEMO = {"print", "train", "eval"}


def test_banned_calls():
    """What breaks a run that is watched."""
    for path, tree in TREES.items():
        for call, name in calls(tree):
            last = name.rpartition(".")[2]
            if last not in BANNED or (room(path) == "demo" and last in IN_THE_DEMO):
                continue
            is_console = last == "print" and name.endswith("console.print")
            assert is_console or (last == "print" and "Console" in ast.unparse(call.func)), (
                f"{path}:{call.lineno} calls {name}: {BANNED[last]}"
            )


BANNED_IMPORTS = ("pickle", "dill", "cloudpickle", "torch.distributed.checkpoint", "unittest", "pdb")


def test_banned_imports():
    for path, tree in TREES.items():
        for line, module in imports(tree):
            assert not module.startswith(tuple(f"{name}." for name in BANNED_IMPORTS)), f"{path}:{line}"
            assert module not in BANNED_IMPORTS, f"{path}:{line} imports {module}"


def test_files_are_unpickled_safely_only():
    for path, tree in TREES.items():
        for call, name in calls(tree):
            if name.endswith("torch.load"):
                safe = [k.value for k in call.keywords if k.arg == "weights_only"]
                assert [ast.unparse(value) for value in safe] == ["True"], f"{path}:{call.lineno}"


DRAWS = re.compile(
    r"^(torch\.(manual_seed|seed|set_rng_state|rand\w*|bernoulli|normal|multinomial|poisson)"
    r"|torch\.(cuda|random|mps)\.\w*(seed|rng)\w*|random\.\w+|(np|numpy)\.random\.(?!default_rng)\w+"
    r"|(\w+\.)*default_generators?\.\w+)$"
)
DRAWING_METHODS = (
    "uniform_",
    "normal_",
    "bernoulli_",
    "random_",
    "exponential_",
    "geometric_",
    "log_normal_",
    "cauchy_",
)
RESTORES = {"observe/sandbox.py", "observe/experiments.py", "session.py", "demo/stage.py"}
"""The sandbox and a visit put every generator back; experiments run inside; the demo is a program of its own."""


def test_no_random_number_is_taken_from_the_user():
    for path, tree in TREES.items():
        if path in RESTORES:
            continue
        for call, name in calls(tree):
            takes = DRAWS.match(name) or name.rpartition(".")[2] in DRAWING_METHODS
            owns = any(keyword.arg == "generator" for keyword in call.keywords)
            assert not takes or owns, f"{path}:{call.lineno} calls {name}"


WRITES = {"observe/barrier.py", "observe/state.py", "observe/sandbox.py"}
"""What puts tensors of the user's back as they were."""


def test_observers_write_to_no_tensor():
    """An in-place operation on a detached alias writes to what the user has, and stops the backward pass."""
    for path, tree in TREES.items():
        if room(path) != "observe" or path in WRITES:
            continue
        for call, name in calls(tree):
            last = name.rpartition(".")[2]
            is_inplace = last.endswith("_") and not last.startswith("_") and last != "requires_grad_"
            assert not is_inplace, f"{path}:{call.lineno} calls {name}"
            assert not any(keyword.arg == "out" for keyword in call.keywords), f"{path}:{call.lineno}"


def test_parameters_are_not_asked_for_as_attributes():
    """Reading ``.weight`` of a module with spectral norm moves its state."""
    for path, tree in TREES.items():
        if room(path) not in ("layers", "observe"):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in ("weight", "bias"):
                assert dotted(node.value) == "info", f"{path}:{node.lineno} reads {ast.unparse(node)}"
            if isinstance(node, ast.Call) and dotted(node.func) in ("getattr", "hasattr"):
                name = node.args[1]
                assert not (isinstance(name, ast.Constant) and name.value in ("weight", "bias")), (
                    f"{path}:{node.lineno}"
                )


HOOKS = re.compile(r"register_(forward_hook|forward_pre_hook|hook|optimizer_step_\w+|step_pre_hook)$")


def test_hooks_are_registered_in_few_places():
    places = {path for path, tree in TREES.items() for _, name in calls(tree) if HOOKS.search(name)}
    observers = {"observe/recorder.py", "observe/stream.py", "observe/watch.py"}
    assert places == {"monitor.py", "integrations/huggingface.py", *observers}


def test_interrupts_are_never_swallowed():
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.ExceptHandler):
                continue
            assert node.type is not None, f"{path}:{node.lineno} has a bare except"
            if "BaseException" in ast.unparse(node.type) or "KeyboardInterrupt" in ast.unparse(node.type):
                assert any(isinstance(inner, ast.Raise) for inner in ast.walk(node)), f"{path}:{node.lineno}"


ENTRY = re.compile(r"^(on_\w+|setup|teardown|state_dict|load_state_dict)$")
VALUES = {"state_dict", "load_state_dict"}


def test_every_entry_of_an_adapter_is_guarded():
    """Also for what Lightning hands in later: an unguarded hook that raises ends the user's run."""
    found = 0
    for path, tree in TREES.items():
        if room(path) != "integrations":
            continue
        for function in functions(tree):
            if not ENTRY.match(function.name) or function.name in VALUES:
                continue
            found += 1
            marks = {
                dotted(d.func) if isinstance(d, ast.Call) else dotted(d) for d in function.decorator_list
            }
            assert "guarded" in marks, f"{path}:{function.lineno} {function.name}"
            assert function.returns is not None
            assert ast.unparse(function.returns) == "None"
    assert found >= 8


def test_adapters_log_nothing_for_the_user():
    for path, tree in TREES.items():
        if room(path) != "integrations":
            continue
        assert not [name for _, name in calls(tree) if name.endswith((".log", ".log_dict"))], path
        taken = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert not taken & {"log", "log_dict"}, "the Trainer overwrites these"


def test_logging_goes_to_one_logger():
    names = {
        ast.unparse(call.args[0])
        for path, tree in TREES.items()
        for call, name in calls(tree)
        if name.endswith("getLogger") and room(path) != "demo"
    }
    assert names == {"'nndiag'"}


PRIVATE_ROOTS = ("torch", "nn", "F", "lightning", "pl", "trainer", "tensorboard", "np", "scipy")
KNOWN_PRIVATE = {
    ("observe/barrier.py", "torch.utils._python_dispatch"),  # TorchDispatchMode has no other home
    ("observe/experiments.py", "nn.modules.dropout._DropoutNd"),
    ("observe/recorder.py", "torch._C"),
    ("observe/tape.py", "nn.modules.loss._Loss"),
    ("observe/watch.py", "torch._C"),
    ("observe/wiring.py", "torch._C"),
}
"""To be moved to compat.py; nothing may be added."""


def private_names(tree: ast.Module) -> set[str]:
    found = {
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and re.match(r"_[^_]", node.attr)
        if (name := dotted(node)).partition(".")[0] in PRIVATE_ROOTS
    }
    modules = {module for _, module in imports(tree) if module.partition(".")[0] in PRIVATE_ROOTS}
    return found | {module for module in modules if "._" in module}


def test_private_names_of_others_live_in_compat():
    found = {
        (path, name) for path, tree in TREES.items() if path != "compat.py" for name in private_names(tree)
    }
    assert found <= KNOWN_PRIVATE
