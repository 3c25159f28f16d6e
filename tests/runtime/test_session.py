"""Sessions over real engines: numbers, batches, bad requests, opening and closing."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parnet_deploy.errors import ArtifactError, InferenceError
from parnet_deploy.runtime import Session
from tests.engines import toy_bundles

MakePlan = Callable[..., Path]


# No test waits this long unless it fails.
PATIENCE_S = 20


def threads_at_rest() -> int:
    """Count this process's threads once the number has not changed for a while: earlier tests' may still be ending."""
    deadline, steady, count = time.monotonic() + PATIENCE_S, 0, -1
    while steady < 20 and time.monotonic() < deadline:
        time.sleep(0.01)
        found = len(os.listdir("/proc/self/task"))
        steady, count = (steady + 1 if found == count else 0), found
    return count


def images_of(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3, 16, 16)).astype(np.float32)


def stage_by_stage(bundle: Path, cut: str, images: np.ndarray) -> dict[str, np.ndarray]:
    """Run the bundle's own files one after the other in plain ONNX Runtime sessions."""
    import onnxruntime

    tensors = {"image": images}
    for stage in toy_bundles.CUTS[cut]:
        session = onnxruntime.InferenceSession(str(bundle / f"{stage.name}.onnx"), providers=["CPUExecutionProvider"])
        made = session.run(list(stage.outputs), {name: tensors[name] for name in stage.inputs})
        tensors.update(zip(stage.outputs, made, strict=True))
    return tensors


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("cut", ["whole", "chain", "diamond", "branches"])
def test_every_cut_gives_the_numbers_of_its_stages_and_of_the_whole_graph(
    make_plan: MakePlan, cut: str, precision: str
) -> None:
    folder = make_plan(cut, precision, batch=(3, 3, 3))
    images = images_of(3)
    with Session.open(folder) as session:
        logits = session.infer(images)
        tensors = session.infer_stages(images)
    bundle = folder.with_name(folder.name.replace("plan-", "bundle-"))
    expected = stage_by_stage(bundle, cut, images)
    assert sorted(tensors) == sorted(expected.keys() - {"image"})
    for name, array in tensors.items():
        assert array.dtype == expected[name].dtype
        np.testing.assert_array_equal(array, expected[name], err_msg=name)
    np.testing.assert_array_equal(tensors["logits"], logits)
    assert (logits.dtype, logits.shape) == (np.float32, (3, 5))
    whole = toy_bundles.reference_tensors(precision, images, tuple(tensors))
    tolerance = 3e-3 if precision == "fp16" else 2e-6
    for name, array in tensors.items():
        assert np.abs(array - whole[name]).max() <= tolerance * np.abs(whole[name]).max(), name


@pytest.mark.parametrize(("batch", "sizes"), [((1, 1, 1), {1}), ((4, 4, 4), {4}), ((2, 3, 5), {2, 3, 4, 5})])
@pytest.mark.parametrize("cut", ["whole", "branches"])
def test_any_number_of_images_is_split_and_padded(
    make_plan: MakePlan, cut: str, batch: tuple[int, int, int], sizes: set[int]
) -> None:
    images = images_of(13)
    expected = toy_bundles.reference_tensors("fp32", images)["logits"]
    with Session.open(make_plan(cut, batch=batch)) as session:
        ran = set()
        for count in range(1, 14):
            logits = session.infer(images[:count])
            assert logits.shape == (count, 5)
            np.testing.assert_allclose(logits, expected[:count], rtol=0, atol=1e-6)
            ran |= {max(batch[0], min(batch[2], count - start)) for start in range(0, count, batch[2])}
            np.testing.assert_array_equal(session.infer_stages(images[:count])["logits"], logits)
        assert ran == sizes


def test_answers_belong_to_the_caller(make_plan: MakePlan) -> None:
    with Session.open(make_plan("diamond")) as session:
        first = session.infer(images_of(1, seed=1))
        stages = session.infer_stages(images_of(1, seed=1))
        kept, kept_stem = first.copy(), stages["stem"].copy()
        session.infer(images_of(1, seed=2))
        np.testing.assert_array_equal(first, kept)
        np.testing.assert_array_equal(stages["stem"], kept_stem)
        first += 1
        stages["logits"] += 1
        np.testing.assert_array_equal(session.infer(images_of(1, seed=1)), kept)


def test_images_of_any_memory_layout_are_taken(make_plan: MakePlan) -> None:
    images = images_of(4)
    with Session.open(make_plan("whole", batch=(1, 2, 4))) as session:
        expected = session.infer(images)
        np.testing.assert_array_equal(session.infer(np.asfortranarray(images)), expected)
        channels_last = np.ascontiguousarray(images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        np.testing.assert_array_equal(session.infer(channels_last), expected)
        reversed_rows = session.infer(images[::-1])
        np.testing.assert_array_equal(reversed_rows, expected[::-1])


def test_nan_stays_in_its_own_row(make_plan: MakePlan) -> None:
    images = images_of(3)
    with Session.open(make_plan("diamond", batch=(1, 3, 3))) as session:
        expected = session.infer(images)
        images[1, 0, 5, 5] = np.nan
        logits = session.infer(images)
    assert np.isnan(logits[1]).all()
    np.testing.assert_array_equal(logits[[0, 2]], expected[[0, 2]])


def test_padding_is_zero_and_not_an_earlier_request(make_plan: MakePlan, python_stages: Any) -> None:
    seen: list[np.ndarray] = []
    python_stages({"whole": lambda inputs, _: seen.append(inputs["image"].copy())})
    with Session.open(make_plan("whole", batch=(4, 4, 4), backend="null")) as session:
        session.infer(np.full((4, 3, 16, 16), np.nan, np.float32))
        session.infer(np.ones((1, 3, 16, 16), np.float32))
    assert np.isnan(seen[0]).all()
    assert (seen[1][0] == 1).all()
    assert (seen[1][1:] == 0).all()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (images_of(1).astype(np.float64), "images are float64"),
        (images_of(1).astype(np.float16), "images are float16"),
        (images_of(1).astype(">f4"), "images are >f4"),
        (np.zeros((1, 3, 16, 16), np.uint8), "images are uint8"),
        ([[1.0]], "images are list"),
        (images_of(1)[0], r"shape \[3, 16, 16\]"),
        (images_of(1)[:, :1], r"shape \[1, 1, 16, 16\]"),
        (np.zeros((2, 3, 16, 17), np.float32), r"shape \[2, 3, 16, 17\]"),
        (images_of(0), r"shape \[0, 3, 16, 16\], the plan takes \['N', 3, 16, 16\] with N from 1"),
    ],
)
def test_images_that_do_not_fit_are_refused_with_a_remedy(
    make_plan: MakePlan, images: np.ndarray, message: str
) -> None:
    with Session.open(make_plan("whole", backend="null")) as session:
        for ask in (session.infer, session.infer_stages, session.profile):
            with pytest.raises(InferenceError, match=message) as caught:
                ask(images)
            assert caught.value.remedy
        assert "images[None]" in (caught.value.remedy or "") or np.ndim(images) != 3
        assert session.infer(images_of(1)).shape == (1, 5)


@pytest.mark.parametrize("cut", ["whole", "diamond", "branches"])
@pytest.mark.parametrize("pipelines", [1, 3])
def test_sixteen_threads_get_the_answers_to_their_own_questions(make_plan: MakePlan, cut: str, pipelines: int) -> None:
    images = images_of(64)
    with Session.open(make_plan(cut, batch=(1, 1, 3)), pipelines=pipelines) as session:
        expected = [session.infer(images[i : i + 1 + i % 5]) for i in range(48)]
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda i: session.infer(images[i % 48 : i % 48 + 1 + i % 48 % 5]), range(960)))
    for index, answer in enumerate(answers):
        np.testing.assert_array_equal(answer, expected[index % 48])


def test_profile_times_every_stage_after_its_inputs(make_plan: MakePlan) -> None:
    with Session.open(make_plan("diamond", batch=(1, 1, 2))) as session:
        runs = session.profile(images_of(2), runs=3)
        with pytest.raises(InferenceError, match="3 images do not fit into one batch"):
            session.profile(images_of(3))
    assert [len(run) for run in runs] == [4, 4, 4]
    for run in runs:
        spans = {span.stage: span for span in run}
        assert spans.keys() == {"stem", "left", "right", "join"}
        assert all(0 <= span.start_ms < span.end_ms for span in spans.values())
        assert spans["stem"].end_ms <= min(spans["left"].start_ms, spans["right"].start_ms)
        assert max(spans["left"].end_ms, spans["right"].end_ms) <= spans["join"].start_ms
        assert {name: str(span.lane) for name, span in spans.items()} == {
            "stem": "cpu/0",
            "left": "cpu/0",
            "right": "cpu/1",
            "join": "cpu/0",
        }


def test_null_plans_answer_zeros(make_plan: MakePlan) -> None:
    with Session.open(make_plan("branches", backend="null")) as session:
        session.warm_up()
        assert not session.infer(images_of(5)).any()


def test_a_session_knows_its_plan(make_plan: MakePlan) -> None:
    folder = make_plan("branches", backend="null")
    with Session.open(str(folder)) as session:
        assert session.folder == folder
        assert [stage.name for stage in session.plan.stages] == ["left", "right", "join"]


def test_a_closed_session_refuses_and_closes_again(make_plan: MakePlan) -> None:
    session = Session.open(make_plan("branches"), pipelines=2)
    session.warm_up(1)
    session.close()
    session.close()
    for ask in (session.infer, session.infer_stages, session.profile):
        with pytest.raises(InferenceError, match="the session is closed"):
            ask(images_of(1))
    with pytest.raises(InferenceError, match="the session is closed"):
        session.warm_up()


def test_a_plan_is_opened_again_and_again(make_plan: MakePlan) -> None:
    folder = make_plan("branches")
    answers = []
    for _ in range(3):
        with Session.open(folder) as session:
            answers.append(session.infer(images_of(1)))
    np.testing.assert_array_equal(answers[0], answers[1])
    np.testing.assert_array_equal(answers[0], answers[2])


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads in /proc")
def test_closing_ends_all_threads_also_those_of_the_engines(make_plan: MakePlan) -> None:
    folder = make_plan("branches", batch=(1, 1, 2))
    Session.open(folder).close()
    before = threads_at_rest()
    session = Session.open(folder, pipelines=3)
    session.warm_up(1)
    session.infer(images_of(1))
    # Three pipelines with a worker each, and the second thread of the join's session.
    assert len(os.listdir("/proc/self/task")) == before + 4
    session.close()
    # A thread that was joined may still be listed for a moment, while the kernel takes it down.
    deadline = time.monotonic() + PATIENCE_S
    while len(os.listdir("/proc/self/task")) > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(os.listdir("/proc/self/task")) == before


def test_what_is_not_a_plan_is_refused(make_plan: MakePlan, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no plan\.json here"):
        Session.open(tmp_path / "nowhere")
    folder = make_plan("whole", backend="null")
    with pytest.raises(InferenceError, match="0 pipelines"):
        Session.open(folder, pipelines=0)
    (folder / "plan.json").write_text("{")
    with pytest.raises(ArtifactError, match="not valid JSON"):
        Session.open(folder)


def test_the_target_side_imports_neither_torch_nor_a_backend() -> None:
    code = (
        "import parnet_deploy.runtime, parnet_deploy.engines, sys; "
        "print([name for name in ('torch', 'torchvision', 'timm', 'onnx', 'onnxruntime') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
