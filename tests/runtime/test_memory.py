import warnings

import pytest
import torch

from tl_taskneurons.runtime.memory import is_out_of_memory, peak_of_tensors
from tl_taskneurons.tasks.batches import Batch, halves, in_memory, make_batches
from tl_taskneurons.tasks.prompts import Item

CPU = torch.device("cpu")
MIB = 2**20


def numbers(n: int) -> torch.Tensor:
    return torch.zeros(n * MIB // 4)


def test_the_peak_is_of_what_lives_at_the_same_time():
    with peak_of_tensors(CPU) as peak:
        first = numbers(4)
        second = first + 1
        del first
        third = second * 2
        del second, third
        numbers(1)
    assert peak.bytes == 8 * MIB


def test_views_and_what_was_there_before_count_nothing():
    before = numbers(4)
    with peak_of_tensors(CPU) as peak:
        before.view(2, -1).mT.add_(1)
        kept = before[:10].clone()
    assert peak.bytes == kept.untyped_storage().nbytes()


def test_the_backward_pass_counts_too():
    weight = numbers(1).requires_grad_()
    with peak_of_tensors(CPU) as forward:
        loss = (weight * 2).exp().sum()
    with peak_of_tensors(CPU) as both:
        (weight * 2).exp().sum().backward()
    assert both.bytes > forward.bytes
    assert loss.isfinite()


def batches(rows: int, widths: list[int]) -> list[Batch]:
    items = [Item(i, tuple(range(w - 1)), (7,), ()) for i, w in enumerate(widths)]
    return list(make_batches(items, token_budget=rows * max(widths)))


def test_halves_hold_all_rows_and_no_column_of_padding():
    (batch,) = batches(3, [6, 3, 2])
    upper, lower = halves(batch)
    assert upper.index + lower.index == batch.index
    whole = {i: batch.tokens[row][batch.attention_mask[row]] for row, i in enumerate(batch.index)}
    for part in (upper, lower):
        assert part.attention_mask.any(0).all()
        assert (part.answer_mask.sum(1) == 1).all()
        for row, i in enumerate(part.index):
            assert torch.equal(part.tokens[row][part.attention_mask[row]], whole[i])


def test_a_batch_that_is_too_large_runs_in_halves_and_says_so_once():
    seen: list[tuple[int, ...]] = []

    def run(batch: Batch) -> None:
        if batch.tokens.numel() > 20:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        seen.append(batch.index)

    made = batches(8, [5] * 24)
    assert [b.tokens.numel() for b in made] == [40, 40, 40]
    with pytest.warns(RuntimeWarning, match="token_budget=20") as caught:
        in_memory(made, run)
    assert len(caught) == 1
    assert [i for index in seen for i in index] == [i for b in made for i in b.index]
    assert max(map(len, seen)) == 4


def test_halves_are_cut_again_where_that_is_not_enough():
    seen: list[int] = []

    def run(batch: Batch) -> None:
        if batch.tokens.numel() > 5:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ...")
        seen.extend(batch.index)

    with pytest.warns(RuntimeWarning):
        in_memory(batches(5, [5] * 5), run)
    assert sorted(seen) == [0, 1, 2, 3, 4]


def test_one_example_that_does_not_fit_is_an_error_with_a_remedy():
    def run(batch: Batch) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(torch.OutOfMemoryError, match="single example of 5 tokens.*bfloat16"):
        in_memory(batches(1, [5]), run)


def test_other_errors_pass_through_and_nothing_runs_twice():
    ran: list[int] = []

    def run(batch: Batch) -> None:
        ran.append(len(ran))
        raise RuntimeError("shapes differ")

    with warnings.catch_warnings(), pytest.raises(RuntimeError, match="shapes differ"):
        in_memory(batches(2, [5, 5, 5]), run)
    assert ran == [0]
    assert not is_out_of_memory(ValueError("out of memory"))
