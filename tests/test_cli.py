"""Tests of the `selfadapt` command."""

import subprocess
import sys
import types

import pytest

from selfadapt import cli, errors

CONFIG = """
import ml_collections
def get_config():
    return ml_collections.ConfigDict({'rounds': 2, 'data': {'path': 'w'}})
"""


@pytest.fixture
def loop(monkeypatch):
    """Replaces the training loop and records its calls."""
    module = types.ModuleType("selfadapt.experiment")
    module.calls = []
    module.train = lambda config, workdir: module.calls.append((config, workdir))
    monkeypatch.setitem(sys.modules, "selfadapt.experiment", module)
    monkeypatch.setattr("selfadapt.experiment", module, raising=False)
    return module


@pytest.fixture
def train(tmp_path, loop):
    """Runs `selfadapt train` with a small config and further arguments."""
    (tmp_path / "c.py").write_text(CONFIG)
    return lambda *more: cli.main(["train", f"--config={tmp_path}/c.py", f"--workdir={tmp_path}/run", *more])


def failing(error):
    def train(config, workdir):
        raise error

    return train


def test_train_hands_the_overridden_config_to_the_loop(train, loop, tmp_path):
    assert train("--config.rounds=3", "--config.data.path", "squad.json") == 0
    ((config, workdir),) = loop.calls
    assert config.rounds == 3 and config.data.path == "squad.json" and workdir == f"{tmp_path}/run"


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "the following arguments are required: COMMAND"),
        (["trian"], "there is no command trian. Did you mean train?"),
        (["train", "--confg=x"], "train has no argument --confg. Did you mean --config?"),
        (["train", "--config=x"], "required: --workdir"),
        (["train", "--config=x", "--workdir=y", "--config.rounds"], "--config.rounds needs a value"),
        (["train", "--config=x.py", "--workdir=y", "--conf=z"], "Did you mean --config?"),
        (["train", "--config=x.py", "--workdir=y", "stray"], "unrecognized arguments: stray"),
        (["train", "--config=absent.py", "--workdir=y"], "there is no config file absent.py"),
        (["report", "--workdir=y", "--config.rounds=2"], "takes no config"),
        (["analyze"], "give either result files"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_status_2(arguments, message, capsys):
    assert cli.main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and len(printed.err.splitlines()) == 1
    assert printed.err.startswith("selfadapt: error: ") and message in printed.err


def test_a_misspelt_field_is_one_line_and_status_2(train, capsys):
    assert train("--config.data.pth=x") == 2
    assert "Did you mean config.data.path?" in capsys.readouterr().err


USER_ERRORS = [
    errors.UserError("no\nquestions"),
    errors.InvalidValueError("no questions"),
    errors.InvalidTypeError("no questions"),
    errors.OutOfMemoryError("no questions"),
    errors.MissingPackageError("no questions"),
    FileNotFoundError(2, "no questions"),
]


@pytest.mark.parametrize("error", USER_ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_that_the_user_can_fix_is_one_line_and_status_2(train, loop, capsys, error):
    loop.train = failing(error)
    assert train() == 2
    printed = capsys.readouterr().err
    assert "no questions" in printed and len(printed.splitlines()) == 1


def test_a_config_of_another_command_is_one_line_and_status_2(tmp_path, capsys):
    workdir = f"--workdir={tmp_path}/run"
    assert cli.main(["evaluate", "--config=quickstart", workdir]) == 2
    assert "no group config.protocol" in capsys.readouterr().err
    assert cli.main(["train", "--config=seal/continual", workdir]) == 2
    assert "a protocol (continual), which `selfadapt evaluate` runs" in capsys.readouterr().err
    assert cli.main(["evaluate", "--config=seal/continual", workdir, "--config.rounds=3"]) == 2
    assert "config.rounds does not exist" in capsys.readouterr().err


def test_a_traceback_is_shown_on_request(train, loop, capsys):
    loop.train = failing(errors.UserError("no questions"))
    assert train("--traceback") == 2
    assert "Traceback (most recent call last)" in capsys.readouterr().err


@pytest.mark.parametrize("fault", [ValueError, TypeError, MemoryError, RuntimeError, ImportError])
def test_a_fault_of_the_program_keeps_its_traceback(train, loop, fault):
    loop.train = failing(fault("raised anywhere"))
    with pytest.raises(fault, match="raised anywhere"):
        train()


@pytest.mark.parametrize(
    "kind, builtin",
    [
        (errors.InvalidValueError, ValueError),
        (errors.InvalidTypeError, TypeError),
        (errors.OutOfMemoryError, MemoryError),
        (errors.MissingPackageError, ImportError),
    ],
)
def test_python_callers_can_catch_the_builtin_exception(kind, builtin):
    with pytest.raises(builtin, match="no questions"):
        raise kind("no questions")


def test_ctrl_c_lists_the_files_and_exits_130(train, loop, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "edits.jsonl").write_text("")
    loop.train = failing(KeyboardInterrupt())
    assert train() == 130
    assert capsys.readouterr().err.strip().endswith("run: edits.jsonl")


def test_ctrl_c_before_anything_was_written(train, loop, capsys):
    loop.train = failing(KeyboardInterrupt())
    assert train() == 130
    assert "Nothing was written" in capsys.readouterr().err


def test_help_imports_neither_jax_nor_numpy():
    code = (
        "import sys; from selfadapt import cli\n"
        "try: cli.main(['train', '--help'])\n"
        "except SystemExit as done: assert not done.code\n"
        "assert not {'jax', 'numpy', 'ml_collections'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--config.NAME=VALUE" in done.stdout


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "selfadapt", "nonsense"], capture_output=True, text=True)
    assert done.returncode == 2 and "there is no command nonsense" in done.stderr
