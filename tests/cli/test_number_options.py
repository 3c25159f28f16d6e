"""Every option that takes a number refuses what is none, or no size of anything, before a command does anything."""

from __future__ import annotations

from typing import Any, get_args, get_type_hints

import pytest

from parnet_deploy.cli.main import app


def parameters_of(command: Any) -> dict[str, tuple[type, ...]]:
    """Return the types of a command's parameters."""
    hints = get_type_hints(command)
    return {name: get_args(hint) or (hint,) for name, hint in hints.items() if name != "return"}


COMMANDS = {
    entry.name or entry.callback.__name__.replace("_", "-"): parameters_of(entry.callback)
    for entry in app.registered_commands
    if entry.callback is not None
}
OPTIONS = [
    (command, f"--{name.replace('_', '-')}", types)
    for command, parameters in COMMANDS.items()
    for name, types in parameters.items()
    if float in types or int in types
]
NO_SIZES = [
    (command, option, value)
    for command, option, types in OPTIONS
    for value in ("9" * 30, "-" + "9" * 30, *(("nan", "inf", "-inf", "1e999") if float in types else ()))
]

# What has to be there, for the option's value to be the first that is wrong.
GIVEN = {
    "train": ["--data", "nothing", "-o", "nothing"],
    "run": ["nothing", "nothing"],
    "verify": ["nothing", "nothing"],
    "plan": ["nothing"],
}


def test_the_options_are_found() -> None:
    found = {(command, option) for command, option, _ in OPTIONS}
    assert {("build", "--memory-factor"), ("tune", "--budget"), ("train", "--seed"), ("run", "--top")} <= found


@pytest.mark.parametrize(("command", "option", "value"), NO_SIZES)
def test_what_is_no_size_of_anything_is_refused(cli, command: str, option: str, value: str) -> None:
    refused = cli(command, *GIVEN.get(command, ["nothing", "-o", "nothing"]), option, value)
    assert refused.exit_code == 2
    assert f"Invalid value for '{option}'" in refused.stderr
    assert "Traceback" not in refused.stderr
