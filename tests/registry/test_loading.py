"""Plugins: each isolated, each failure recorded with its stage, nothing else harmed."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from importlib.metadata import DistributionFinder, MetadataPathFinder, entry_points
from pathlib import Path

import pytest

from mutoscope.core.errors import InputError
from mutoscope.registry import loading
from mutoscope.registry.catalog import Catalog
from mutoscope.registry.loading import ROLES, Loader

PARTS = Path(__file__).with_name("parts.py")
HEAD = """
from mutoscope.core.metric import Metric
from mutoscope.core.component import Component
from mutoscope.core.plugin import hookimpl

class Own(Metric):
    "A metric of somebody's."
    name = "{name}"
    def score(self, material):
        return []
"""
GOOD = HEAD.format(name="own") + "\n@hookimpl\ndef mutoscope_components():\n    return [Own]\n"

BROKEN = {
    "import_error": ("import nowhere_to_be_found", "import", "ModuleNotFoundError"),
    "syntax": ("def (:", "import", "SyntaxError"),
    "exits": ("import sys\nsys.exit(0)", "import", "SystemExit"),
    "raises": ("raise RuntimeError('a\\nb')", "import", "RuntimeError"),
    "recursion": ("def f(): f()\nf()", "import", "RecursionError"),
    "null": ("a = 1\0", "import", "Error"),
    "repr": ("class E(Exception):\n    def __repr__(self): raise self\nraise E", "import", "E"),
    "unmarked": (GOOD.replace("@hookimpl", ""), "register", "hookimpl"),
    "misspelt": (GOOD.replace("mutoscope_components", "mutoscope_component"), "register", "unknown hook"),
    "arguments": (GOOD.replace("components()", "components(config)"), "register", "config"),
    "offer_raises": (GOOD.replace("return [Own]", "raise KeyError('x')"), "offer", "KeyError"),
    "offer_exits": (GOOD.replace("return [Own]", "raise SystemExit(3)"), "offer", "SystemExit"),
    "not_a_list": (GOOD.replace("[Own]", "(Own,)"), "offer", "not a list"),
    "a_dict": (GOOD.replace("[Own]", "{'own': Own}"), "offer", "not a list"),
    "strings": (GOOD.replace("[Own]", "['own']"), "offer", "not a class"),
    "other_class": (GOOD.replace("[Own]", "[int]"), "offer", "not a class"),
    "instance": (GOOD.replace("[Own]", "[Own()]"), "offer", "not a class"),
    "abstract_role": (GOOD.replace("[Own]", "[Metric]"), "offer", "no name"),
    "no_role": (GOOD.replace("[Own]", "[Component]"), "offer", "no role"),
    "abstract": (GOOD.replace("def score", "def skore"), "offer", "abstract"),
    "twice": (GOOD.replace("[Own]", "[Own, Own]"), "offer", "already offered by itself"),
    "clash": (GOOD.replace('"own"', '"taken"'), "offer", "already offered by the plugin taken"),
    "kwargs": (
        GOOD.replace("    def score", "    def __init__(self, **kw): ...\n    def score"),
        "offer",
        "DefinitionError",
    ),
    "bad_name": (GOOD.replace('"own"', '"Own-1"'), "import", "a name is"),
}


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / f"{name}.py"
    path.write_text(text)
    return path


@pytest.fixture
def taken(tmp_path) -> Path:
    return write(
        tmp_path, "taken", HEAD.format(name="taken") + "\n@hookimpl\ndef mutoscope_components():\n    return [Own]\n"
    )


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_costs_itself_alone(case, taken, tmp_path):
    text, stage, said = BROKEN[case]
    good = write(tmp_path, "good", GOOD.replace('"own"', '"good"'))
    catalog = Catalog.load([taken, write(tmp_path, case, text), good], entries=[])
    (failure,) = catalog.failures
    assert (failure.name, failure.stage) == (case, stage)
    assert said in str(failure)
    assert "\n" not in str(failure)
    assert list(catalog.classes("metric")) == ["good", "taken"]
    assert catalog.find("metric", "own") is None
    assert str(failure) in catalog.suggest("metric", "own")


@pytest.mark.parametrize("case", ["import_error", "misspelt", "not_a_list", "exits"])
def test_strictly_a_broken_plugin_raises(case, tmp_path):
    with pytest.raises((Exception, SystemExit)) as caught:
        Catalog.load([write(tmp_path, case, BROKEN[case][0])], strict=True, entries=[])
    assert any(case in note for note in caught.value.__notes__)


def test_a_plugin_that_hangs_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "PATIENCE", 0.2)
    before = signal.getsignal(signal.SIGALRM)
    start = time.perf_counter()
    catalog = Catalog.load([write(tmp_path, "hangs", "import time\ntime.sleep(60)")], entries=[])
    assert time.perf_counter() - start < 20
    assert "TimeoutError" in catalog.failures[0].reason
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_an_alarm_of_someone_else_is_kept(tmp_path):
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 100)
    try:
        Catalog.load([write(tmp_path, "good", GOOD)], entries=[])
        assert 50 < signal.getitimer(signal.ITIMER_REAL)[0] <= 100
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_plugins_load_in_other_threads_too(tmp_path):
    loaded = []
    path = write(tmp_path, "good", GOOD)
    thread = threading.Thread(target=lambda: loaded.append(Catalog.load([path], entries=[])))
    thread.start()
    thread.join()
    assert loaded[0].find("metric", "own") is not None


def test_what_a_plugin_prints_does_not_reach_the_output(tmp_path, capsys):
    noisy = "print('noise')\n" + GOOD.replace("    return [Own]", "    print('noise')\n    return [Own]")
    assert Catalog.load([write(tmp_path, "noisy", noisy)], entries=[]).failures == ()
    assert capsys.readouterr().out == ""


def test_a_file_loads_once_however_it_is_called(tmp_path, monkeypatch):
    path = write(tmp_path, "own", GOOD)
    (tmp_path / "link.py").symlink_to(path)
    monkeypatch.chdir(tmp_path)
    catalog = Catalog.load([path, Path("own.py"), tmp_path / "link.py"], entries=[])
    assert [plugin.name for plugin in catalog.plugins] == ["own"]
    assert catalog.plugins[0].origin == str(path)


@pytest.mark.parametrize("name", ["nowhere.py", "", "folder.py", "own.txt", "a\0.py", "x" * 5000 + ".py", "loop.py"])
def test_a_file_that_is_no_plugin_is_an_input_error(name, tmp_path):
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "own.txt").write_text(GOOD)
    (tmp_path / "loop.py").symlink_to(tmp_path / "loop.py")
    with pytest.raises(InputError, match="no such plugin file"):
        Catalog.load([tmp_path / name], entries=[])


def test_files_of_one_name_in_two_folders_are_two_plugins(tmp_path):
    for folder in "ab":
        (tmp_path / folder).mkdir()
        write(tmp_path / folder, "own", GOOD.replace('"own"', f'"own_{folder}"'))
    catalog = Catalog.load([tmp_path / "a" / "own.py", tmp_path / "b" / "own.py"], entries=[])
    assert list(catalog.classes("metric")) == ["own_a", "own_b"]
    assert catalog.find("metric", "own_a").__module__ != catalog.find("metric", "own_b").__module__


# Installed plugins


def install(folder: Path, distribution: str, entry: str, module: str, text: str | None) -> None:
    info = folder / f"{distribution}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[mutoscope]\n{entry} = {module}\n")
    if text is not None:
        (folder / f"{module}.py").write_text(text)


def installed(folder: Path):
    found = MetadataPathFinder.find_distributions(DistributionFinder.Context(path=[str(folder)]))
    return [entry for one in found for entry in one.entry_points if entry.group == "mutoscope"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_built_in_plugins_come_first_then_names_in_order(place):
    for distribution, entry in [("zed", "a"), ("Mutoscope", "z"), ("alpha", "b")]:
        install(place, distribution, entry, f"module_{entry}", GOOD.replace('"own"', f'"own_{entry}"'))
    catalog = Catalog.load(entries=installed(place))
    assert [(p.name, p.version, p.origin) for p in catalog.plugins] == [
        ("z", "1.2", "Mutoscope"),
        ("a", "1.2", "zed"),
        ("b", "1.2", "alpha"),
    ]


def test_a_third_party_cannot_take_a_built_in_name(place):
    install(place, "mutoscope", "zzz", "built_in", GOOD)
    install(place, "other", "aaa", "thief", GOOD)
    catalog = Catalog.load(entries=installed(place))
    assert catalog.find("metric", "own").__module__ == "built_in"
    assert [failure.name for failure in catalog.failures] == ["aaa"]
    assert catalog.failures[0].version == "1.2"


def test_a_broken_built_in_is_a_bug(place):
    install(place, "mutoscope", "own", "built_in_broken", "raise RuntimeError('bug')")
    with pytest.raises(RuntimeError, match="bug"):
        Catalog.load(entries=installed(place))


def test_stale_metadata_is_a_failure_to_import(place):
    install(place, "stale", "gone", "module_that_is_gone", None)
    (failure,) = Catalog.load(entries=installed(place)).failures
    assert (failure.name, failure.stage, failure.origin) == ("gone", "import", "stale")


def test_a_class_is_no_plugin(place):
    install(place, "other", "cls", "module_cls:Plugin", None)
    (place / "module_cls.py").write_text("class Plugin: ...\n")
    (failure,) = Catalog.load(entries=installed(place)).failures
    assert failure.stage == "register"
    assert "is a class" in failure.reason


def test_the_environment_is_read(monkeypatch):
    asked = []
    monkeypatch.setattr(loading, "entry_points", lambda **given: asked.append(given) or [])
    Loader().load_installed()
    assert asked == [{"group": "mutoscope"}]
    assert all(entry.group == "mutoscope" for entry in entry_points(group="mutoscope"))


# The catalogue


def test_rows_say_what_list_prints():
    catalog = Catalog.load([PARTS], strict=True, entries=[])
    rows = catalog.rows()
    assert [row["role"] for row in rows] == sorted((row["role"] for row in rows), key=ROLES.index)
    assert {"role": "denoiser", "name": "wide", "summary": "A denoiser with settings of every kind.",
            "capabilities": ["LevelDenoiser"], "paper": "Nobody 2024", "plugin": "parts"} in rows  # fmt: skip
    assert catalog.roles() == ROLES


def test_an_unknown_name_gets_the_nearest_one_or_all():
    catalog = Catalog.load([PARTS], strict=True, entries=[])
    assert catalog.suggest("denoiser", "wied") == 'did you mean "wide"?'
    assert catalog.suggest("denoiser", "zzz") == "there are: ids, wide"
    assert "'patches' is the name of a part of the role discriminator" in catalog.suggest("denoiser", "patches")


def test_a_warm_start_takes_no_torch_for_a_recipe():
    code = "import sys; import mutoscope.registry.recipe; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
