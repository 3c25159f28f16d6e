"""`parnet-deploy pull`: fetch released weights, hold them to what was seen first, and import them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from parnet_deploy.artifacts.limits import MAX_SECONDS
from parnet_deploy.cli.common import ForceOption, JsonOption, download_bar, emit, finite, format_bytes, spinner
from parnet_deploy.cli.import_ import ActivationOption, ConfigOption, EmaOption, describe_imported
from parnet_deploy.cli.names import RELEASED, complete

if TYPE_CHECKING:
    from parnet_deploy.weights.pull import PulledWeights

_FETCHING = "Fetching"


def _timeout(text: str) -> Any:
    return typer.Option(
        min=0.001, max=MAX_SECONDS, callback=finite, metavar="SECONDS", help=text, rich_help_panel=_FETCHING
    )


def pull(
    name: Annotated[
        str,
        typer.Argument(
            help="parnet-s, -m, -l, -xl, -xl-reg-se13 or -xl-352 of the authors' release.",
            show_default=False,
            autocompletion=complete(RELEASED),
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Checkpoint to write; default: NAME.safetensors")
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Fetch only: no import, no torch.")] = False,
    source: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="URL|PATH", help="A mirror of the release, or a .pth.tar.", rich_help_panel=_FETCHING
        ),
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Take it from the cache or not at all.", rich_help_panel=_FETCHING)
    ] = False,
    sha256: Annotated[
        str | None, typer.Option(metavar="HEX", help="What the file must have.", rich_help_panel=_FETCHING)
    ] = None,
    accept_changed: Annotated[
        bool,
        typer.Option(
            "--accept-changed", help="Fetch again, and record what comes in its place.", rich_help_panel=_FETCHING
        ),
    ] = False,
    cache_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Default: below ~/.cache.", rich_help_panel=_FETCHING)
    ] = None,
    connect_timeout: Annotated[float, _timeout("For a connection.")] = 10.0,
    stall_timeout: Annotated[float, _timeout("For a server that sends nothing.")] = 30.0,
    ema: EmaOption = True,
    activation: ActivationOption = None,
    config: ConfigOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Fetch weights of the authors' release into a cache, check them, and import them.

    What breaks off goes on where it stopped; size and sha256 are recorded when first seen, and checked ever after.

    Example: parnet-deploy pull parnet-l

    Example: parnet-deploy pull parnet-l --from https://mirror.example/parnet -o l.safetensors
    """
    from parnet_deploy.weights.cache import WeightsCache
    from parnet_deploy.weights.http import Timeouts
    from parnet_deploy.weights.pull import PullOptions
    from parnet_deploy.weights.pull import pull as pull_weights
    from parnet_deploy.weights.releases import find_released

    weights = find_released(name)
    options = PullOptions(source, offline, sha256, accept_changed, Timeouts(connect_timeout, stall_timeout))
    cache = WeightsCache.of_user() if cache_dir is None else WeightsCache(cache_dir)
    if raw:
        _refuse_import_options({"-o": output, "--no-ema": not ema, "--activation": activation, "--config": config})
        with download_bar() as progress:
            pulled = pull_weights(weights, cache, options, progress=progress)
        emit(_result(pulled), _describe(pulled), as_json=as_json)
        return
    from parnet_deploy.models.checkpoints import refuse_checkpoint
    from parnet_deploy.models.importing import convert_pulled

    output = output or Path(f"{weights.name}.safetensors")
    refuse_checkpoint(output, force=force)
    with download_bar() as progress:
        pulled = pull_weights(weights, cache, options, progress=progress)
    with spinner(f"importing {weights.asset}"):
        card = convert_pulled(
            pulled,
            cache,
            output,
            ema=ema,
            activation=activation.value if activation else None,
            config=config,
            force=force,
        )
    result = {**_result(pulled), "checkpoint": str(output), "card": card.model_dump(mode="json")}
    emit(result, f"{_describe(pulled)}\n{describe_imported(output, card)}", as_json=as_json)


def _refuse_import_options(options: dict[str, object]) -> None:
    from parnet_deploy.errors import DownloadError

    given = [flag for flag, value in options.items() if value]
    if given:
        raise DownloadError(f"--raw imports nothing, so it takes no {', '.join(given)}", remedy="leave --raw out")


def _result(pulled: PulledWeights) -> dict[str, Any]:
    return {
        "name": pulled.weights.name,
        "path": str(pulled.path),
        "is_new": pulled.is_new,
        "download": pulled.record.model_dump(mode="json"),
    }


def _describe(pulled: PulledWeights) -> str:
    record = pulled.record
    seen = "first seen now" if pulled.is_new else f"as first seen on {record.first_seen}"
    return (
        f"{pulled.path}: {format_bytes(record.file.size_bytes)} from {record.source}\n"
        f"sha256 {record.file.sha256}, {seen}"
    )
