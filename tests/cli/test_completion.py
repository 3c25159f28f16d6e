"""Shell completion: the scripts of three shells, the names that are proposed, and that asking for them is light."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping

import pytest

from parnet_deploy.cli import names
from parnet_deploy.engines.registry import BACKEND_NAMES
from parnet_deploy.models.variants import VARIANTS
from parnet_deploy.planning.estimates import PROFILES
from parnet_deploy.planning.links import LINKS
from parnet_deploy.planning.partition import PARTITIONS
from parnet_deploy.training.recipe import PRESETS
from parnet_deploy.weights.releases import RELEASED

MAIN = "from parnet_deploy.cli.main import main; main()"


def run_python(code: str, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
    """Run Python code in a process of its own; return what it wrote."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return done.stdout


@pytest.mark.parametrize(
    ("proposed", "registered"),
    [
        (names.BACKENDS, BACKEND_NAMES),
        (names.DEVICE_PROFILES, PROFILES),
        (names.LINKS, LINKS),
        (names.PARTITIONS, PARTITIONS),
        (names.RECIPES, PRESETS),
        (names.RELEASED, [name.replace("_", "-") for name in RELEASED]),
        (names.VARIANTS, VARIANTS),
    ],
)
def test_names_are_those_of_the_registry(proposed: tuple[str, ...], registered: Mapping[str, object]) -> None:
    assert proposed == tuple(registered)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("build b --backend onn", ["onnxruntime", "onnxruntime-cuda"]),
        ("export c --partition terms", ["terms", "terms-shared-stem"]),
        ("init parnet_n", ["parnet_nano"]),
        ("train --model parnet_p", ["parnet_pico"]),
        ("plan b --link pcie", ["pcie4x16", "pcie3x16"]),
        ("plan b --device-profile h", ["h100", "h100-bf16", "h100-int8", "h100-fp8"]),
        ("pull parnet-xl-", ["parnet-xl-reg-se13", "parnet-xl-352"]),
        ("evaluate plan dig", ["digits"]),
        ("evaluate plan pho", []),  # the shell proposes files
        ("serve-b", ["serve-bench"]),
    ],
)
def test_bash_is_told_the_names(line: str, expected: list[str], monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    from parnet_deploy.cli.main import run_app

    words = f"parnet-deploy {line}"
    monkeypatch.setenv("_PARNET_DEPLOY_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    assert run_app([]) == 0
    assert capsys.readouterr().out.split() == expected


@pytest.mark.parametrize(
    ("shell", "sign"),
    [
        ("bash", "complete -o default -F _parnet_deploy_completion parnet-deploy"),
        ("zsh", "#compdef parnet-deploy"),
        ("fish", "complete --command parnet-deploy"),
    ],
)
def test_scripts_of_shells(cli, shell: str, sign: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Otherwise Typer looks for the shell that it was started from.
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    shown = cli("--show-completion", shell)
    assert shown.exit_code == 0
    assert sign in shown.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["build", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    # What takes the time of `--help` are its imports: torch takes seconds, the schemas a tenth of one.
    code = (
        "import sys\nfrom parnet_deploy.cli.main import run_app\nrun_app(sys.argv[1:])\n"
        "print(*sorted(set(sys.modules) - set(sys.stdlib_module_names)))"
    )
    imported = set(run_python(code, *arguments).splitlines()[-1].split())
    assert "typer" in imported
    ours = {name.split(".")[1] for name in imported if name.startswith("parnet_deploy.")}
    assert ours == {"artifacts", "cli", "errors"}
    assert {name for name in imported if "parnet_deploy.artifacts" in name} == {
        "parnet_deploy.artifacts",
        "parnet_deploy.artifacts.limits",
    }
    heavy = {
        "torch",
        "timm",
        "numpy",
        "onnx",
        "onnxruntime",
        "PIL",
        "matplotlib",
        "jinja2",
        "httpx2",
        "huggingface_hub",
    }
    assert not heavy & imported
    if arguments == ["--help"]:  # Typer itself reads the arguments of a command with pydantic
        assert "pydantic" not in imported
