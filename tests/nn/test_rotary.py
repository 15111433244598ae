"""The 2-D rotary embedding: products depend on the grid offset only; both code paths agree."""

from __future__ import annotations

import itertools

import pytest
import torch

from imgtf.nn.rotary import grid_positions, prepend_unrotated, rotary_table, rotate


def test_rotary_products_depend_on_the_grid_offset_only() -> None:
    h, w, width = 4, 5, 16
    table = rotary_table(grid_positions((h, w)), width, 10000.0)
    q, k = torch.randn(width), torch.randn(width)
    rotated_q = rotate(q.expand(1, 1, h * w, width), table)[0, 0]
    rotated_k = rotate(k.expand(1, 1, h * w, width), table)[0, 0]
    scores = rotated_q @ rotated_k.T
    position = {t: divmod(t, w) for t in range(h * w)}
    by_offset: dict[tuple[int, int], list[float]] = {}
    for (i, (r, c)), (j, (s, d)) in itertools.product(position.items(), repeat=2):
        by_offset.setdefault((r - s, c - d), []).append(float(scores[i, j]))
    assert max(max(v) - min(v) for v in by_offset.values()) < 1e-4
    assert abs(by_offset[0, 1][0] - by_offset[1, 0][0]) > 1e-3


def test_a_rotation_keeps_the_length_and_the_type() -> None:
    x, table = torch.randn(2, 3, 6, 8), rotary_table(grid_positions((2, 3)), 8, 100.0)
    torch.testing.assert_close(rotate(x, table).norm(dim=-1), x.norm(dim=-1))
    assert rotate(x.bfloat16(), table).dtype == torch.bfloat16


def test_tables_by_row_equal_one_table() -> None:
    x, table = torch.randn(2, 3, 6, 8), rotary_table(grid_positions((2, 3)), 8, 100.0)
    assert torch.equal(rotate(x, table.expand(2, 1, -1, -1, -1)), rotate(x, table))


@pytest.mark.parametrize("shape", [(1, 2, 5, 8), (3, 1, 5, 12)])
def test_the_compiled_formula_equals_the_complex_product(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, table = torch.randn(shape), rotary_table(torch.rand(5, 2) * 7, shape[-1], 100.0)
    expected = rotate(x, table)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(rotate(x, table), expected)


def test_rows_in_front_are_not_rotated_or_zero() -> None:
    x, table = torch.randn(1, 1, 8, 8), rotary_table(grid_positions((2, 3)), 8, 100.0)
    rotated = rotate(x, prepend_unrotated(table, 2))
    assert torch.equal(rotated[:, :, :2], x[:, :, :2])
    assert torch.equal(rotated[:, :, 2:], rotate(x[:, :, 2:], table))
    assert not rotate(x, prepend_unrotated(table, 2, zero=True))[:, :, :2].any()


def test_a_coarse_grid_is_aligned_with_a_fine_one() -> None:
    coarse = grid_positions((2, 2), span=(4, 4)).view(2, 2, 2)
    fine = grid_positions((4, 4)).view(2, 2, 2, 2, 2)  # (h, 2, w, 2, row and column)
    torch.testing.assert_close(coarse, fine.mean((1, 3)))
