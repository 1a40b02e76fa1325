"""Which device is chosen, and that the choice says why."""

from __future__ import annotations

import pytest

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


def test_a_set_number_type_stays_and_auto_follows_the_device():
    assert [device.choose_dtype(dtype, "cpu") for dtype in ("float32", "bfloat16", "float16")] == [
        "float32",
        "bfloat16",
        "float16",
    ]
    assert device.choose_dtype("auto", "gpu") == "float16"
    assert device.choose_dtype("auto", "gpu", training=True) == "bfloat16"
    assert device.choose_dtype("auto", "cpu") == ("bfloat16" if device.cpu_multiplies_bfloat16() else "float32")
