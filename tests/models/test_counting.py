"""Memory and operations are counted as they are made."""

import torch

from fewstep.models.counting import OperationCounter


def test_live_bytes_fall_when_tensors_are_freed():
    with OperationCounter() as live:
        one = torch.empty(1000)
        two = one + 1
        assert live.now == 8000
        view = two[:10]
        del one, two
        assert live.now == 4000, "a view keeps its storage"
        del view
    assert (live.now, live.peak) == (0, 8000)


def test_products_and_what_makes_a_tensor_are_counted():
    with OperationCounter() as counter:
        product = torch.ones(3, 4) @ torch.ones(4, 5)
        product.view(15).relu_()
    assert (counter.flops, counter.kernels) == (2 * 3 * 4 * 5, 3)
