"""What all tests share: how hypothesis runs, the data folder, and networks that hide no fusion error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.summary import pytest_terminal_summary  # noqa: F401 (a hook of pytest)

if TYPE_CHECKING:
    from parnet_deploy.artifacts.schemas import NetworkConfig
    from parnet_deploy.models.parnet import ParNet

# No deadline: timing decides no test. The same examples on every run: a failure can be repeated.
settings.register_profile("parnet", deadline=None, derandomize=True, database=None, print_blob=False)
settings.load_profile("parnet")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of files that tests read."""
    return Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Keep torch to one thread: for tiny networks, whose layers take less time than waking the others does."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def create_rough_network() -> Callable[..., ParNet]:
    """A function (config, seed=0) that returns a training-form network in eval mode whose batch norms hide nothing.

    Batch norm scales are of either sign, some of them nearly or exactly zero; variances reach down to eps, so that a
    forgotten eps shows; means and shifts are large. The scale that is applied stays of order one, and so do logits.
    """
    import torch
    from torch import nn

    from parnet_deploy.models.initialization import create_random_network

    def roughen(norm: nn.BatchNorm2d, generator: torch.Generator) -> None:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        count = norm.num_features
        applied = torch.randn(count, generator=generator) * 0.7
        kind = torch.rand(count, generator=generator)
        applied[kind < 0.1] *= 1e-6
        applied[kind < 0.03] = 0.0
        norm.running_var.copy_(10 ** (torch.rand(count, generator=generator) * 5 - 5))
        norm.running_mean.copy_(torch.randn(count, generator=generator) * 0.5)
        norm.weight.copy_(applied * (norm.running_var + norm.eps).sqrt())
        norm.bias.copy_(torch.randn(count, generator=generator) * 0.3)

    def create(cfg: NetworkConfig, seed: int = 0) -> ParNet:
        model = create_random_network(cfg, seed)
        generator = torch.Generator().manual_seed(seed + 1)
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    roughen(module, generator)
        return model

    return create
