"""torch on the processor: eager, in either memory layout, or compiled."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from numpy.typing import NDArray

from benchmarks.contenders.base import Images, Job, Opened
from benchmarks.networks import create_network


def prepare(job: Job) -> None:
    """Nothing is kept between runs; a compiled network is compiled by each process, from inductor's cache."""


def open_contender(job: Job) -> Opened:
    """Create the network, and compile it where that is asked for."""
    network = create_network(job.case, job.form)
    layout = torch.channels_last if job.option("layout") == "channels_last" else torch.contiguous_format
    network.to(memory_format=layout)
    call: Any = network
    if job.option("compile"):
        warnings.simplefilter("ignore")
        call = torch.compile(network, mode=job.option("compile"))

    def infer(images: Images) -> NDArray[Any]:
        with torch.inference_mode():
            return call(torch.from_numpy(images).contiguous(memory_format=layout)).numpy()  # type: ignore[no-any-return]

    return Opened(infer, details={"torch": torch.__version__, "threads": str(torch.get_num_threads())})
