"""What can be chosen from, by cores, backends and bundles."""

from __future__ import annotations

import pytest

from parnet_deploy.tuning.candidates import BackendTraits, BundleTraits, candidates_of

WHOLE = BundleTraits("whole", "fp32", 1, stages=1, width=1)
SPLIT = BundleTraits("split", "fp32", 1, stages=4, width=3)
CHAIN = BundleTraits("chain", "fp32", 1, stages=2, width=1)
ORT, OPENVINO = BackendTraits("onnxruntime"), BackendTraits("openvino")
NCNN, TENSORRT = BackendTraits("ncnn", has_lanes=False), BackendTraits("tensorrt", on_gpu=True)


def labels(bundle: BundleTraits, backend: BackendTraits, cores: int) -> set[str]:
    """Return the candidates' labels without the bundle and the backend."""
    found = candidates_of([bundle], [backend], cores)
    return {", ".join(candidate.label.split(", ")[2:]) for candidate in found}


@pytest.mark.parametrize(
    ("bundle", "backend", "cores", "expected"),
    [
        (WHOLE, ORT, 1, {"1 thread"}),
        (WHOLE, ORT, 2, {"2 threads", "1 thread", "2 threads, pinned"}),
        (WHOLE, OPENVINO, 8, {"8 threads", "4 threads", "1 thread"}),
        (CHAIN, ORT, 8, {"in turn, 8 threads"}),
        (SPLIT, NCNN, 8, {"in turn, 8 threads"}),
        (SPLIT, ORT, 1, {"in turn, 1 thread", "side by side, 1 thread"}),
        # Three lanes cannot have two cores of their own.
        (SPLIT, ORT, 2, {"in turn, 2 threads", "side by side, 2 threads", "side by side, 2 threads each"}),
        (
            SPLIT,
            ORT,
            4,
            {
                "in turn, 4 threads",
                "side by side, 4 threads",
                "side by side, 4 threads each",
                "side by side, 4 threads, pinned",
            },
        ),
        (SPLIT, OPENVINO, 4, {"in turn, 4 threads", "side by side, 4 threads", "side by side, 4 threads each"}),
        (WHOLE, TENSORRT, 8, {""}),
        (SPLIT, TENSORRT, 8, {"in turn", "side by side"}),
    ],
)
def test_arrangements(bundle: BundleTraits, backend: BackendTraits, cores: int, expected: set[str]) -> None:
    assert labels(bundle, backend, cores) == expected


def test_a_backend_that_is_built_for_more_memory_says_so() -> None:
    more = BackendTraits("ncnn", has_lanes=False, memory_factor=2.25)
    found = candidates_of([WHOLE], [NCNN, more], 1)
    assert [(entry.label, entry.memory_factor) for entry in found] == [
        ("whole, ncnn, 1 thread", None),
        ("whole, ncnn x2.25, 1 thread", 2.25),
    ]


def test_plain_candidates_come_first_and_splits_last() -> None:
    found = candidates_of([SPLIT, WHOLE], [ORT, NCNN], 4)
    assert not found[0].arrangement.is_pinned
    kinds = [candidate.is_split for candidate in found]
    assert kinds == sorted(kinds)
    assert len({candidate.label for candidate in found}) == len(found)
