"""Which device is chosen, and that the choice says why."""

from __future__ import annotations

from unittest.mock import create_autospec

import pytest
import torch

from hnmine.errors import DeviceError
from hnmine.runs import device


@pytest.fixture(params=["", "-1", " , "])
def no_gpu(request, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", request.param)
    device.visible_gpus.cache_clear()
    yield
    device.visible_gpus.cache_clear()


def test_cpu_is_the_cpu_whatever_is_there():
    choice = device.choose_device("cpu", needs="no-such-distribution")
    assert (choice.kind, choice.torch_name, str(choice)) == ("cpu", "cpu", "cpu (as configured)")


def test_auto_without_a_gpu_is_the_cpu_and_says_so(no_gpu):
    assert str(device.choose_device("auto")) == "cpu (no GPU is visible)"


def test_a_gpu_that_is_not_there_is_an_error_that_tells_what_to_do(no_gpu):
    with pytest.raises(DeviceError, match=r"no GPU is visible.*device: auto"):
        device.choose_device("gpu")


@pytest.fixture
def one_gpu(monkeypatch):
    monkeypatch.setattr(device, "visible_gpus", lambda: 1)  # the hardware, not our code, is played here


def test_a_library_that_is_missing_for_the_gpu_is_named(one_gpu):
    choice = device.choose_device("auto", needs="no-such-distribution")
    assert choice.kind == "cpu"
    assert "no-such-distribution is not installed" in choice.reason
    with pytest.raises(DeviceError, match=r"no-such-distribution is not installed.*hnmine\[gpu\]"):
        device.choose_device("gpu", needs="no-such-distribution")


def test_a_gpu_that_torch_cannot_use_is_not_chosen(one_gpu, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "torch cannot use the GPU" in str(device.choose_device("auto"))
    with pytest.raises(DeviceError, match=r"torch cannot use the GPU.*device: auto"):
        device.choose_device("gpu", needs="numpy")


def test_a_gpu_with_its_library_is_chosen(one_gpu, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert device.choose_device("auto", needs="numpy").kind == "gpu"
    assert device.choose_device("gpu", needs="numpy").torch_name == "cuda"


@pytest.fixture(params=[True, False], ids=["new", "old"])
def gpu_of_bfloat16(request, monkeypatch) -> bool:
    """A GPU that multiplies bfloat16 or not; the stand-ins have the signatures of torch."""
    monkeypatch.setattr("torch.cuda.is_available", create_autospec(torch.cuda.is_available, return_value=True))
    asked = create_autospec(torch.cuda.is_bf16_supported, side_effect=lambda including_emulation=True: request.param)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", asked)
    device.gpu_multiplies_bfloat16.cache_clear()
    yield request.param
    device.gpu_multiplies_bfloat16.cache_clear()


def test_a_gpu_computes_in_bfloat16_if_it_can_and_else_in_float16_but_never_in_training(gpu_of_bfloat16):
    assert device.choose_dtype("auto", "gpu") == ("bfloat16" if gpu_of_bfloat16 else "float16")
    assert device.choose_dtype("auto", "gpu", training=True) == ("bfloat16" if gpu_of_bfloat16 else "float32")


@pytest.mark.parametrize("model_type", ["gemma", "gemma2", "gemma3_text", "embedding_gemma2", "t5gemma2"])
def test_gemma_and_its_kin_never_compute_in_float16(model_type, gpu_of_bfloat16):
    assert device.choose_dtype("auto", "gpu", model_type=model_type) == ("bfloat16" if gpu_of_bfloat16 else "float32")
    with pytest.raises(DeviceError, match=f"too narrow for the numbers of {model_type}; set auto or bfloat16"):
        device.choose_dtype("float16", "gpu", model_type=model_type)
    assert device.choose_dtype("bfloat16", "gpu", model_type=model_type) == "bfloat16"


def test_the_head_of_a_cluster_takes_the_gpus_of_its_workers_for_new():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    device.gpu_multiplies_bfloat16.cache_clear()
    assert device.choose_dtype("auto", "gpu") == "bfloat16"


def test_a_set_number_type_stays_and_auto_is_bfloat16_on_a_cpu_that_multiplies_it():
    for dtype in ("float32", "bfloat16", "float16"):
        assert {device.choose_dtype(dtype, kind) for kind in ("cpu", "gpu")} == {dtype}
    assert device.choose_dtype("auto", "cpu") == ("bfloat16" if device.cpu_multiplies_bfloat16() else "float32")


def test_from_each_number_type_there_is_a_safer_one_up_to_float32():
    assert [device.safer_dtype(dtype) for dtype in ("float16", "bfloat16", "float32")] == ["bfloat16", "float32", None]
