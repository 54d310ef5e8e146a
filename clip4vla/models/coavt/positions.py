"""Sin-cos positions of a grid of patches (facts 1.3, 8.1)."""

import torch
from torch import Tensor


def grid_positions(width: int, rows: int, columns: int) -> Tensor:
    """Return the positions of patches in row-major order, float32 [rows * columns, width].

    The first half of a vector encodes the column, the second half the row. A half has the sines of
    coordinate * omega_k for all k and then the cosines, omega_k = 10000^(-k / (width / 4)).
    """
    omega = 10_000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = [coordinate.flatten()[:, None] * omega for coordinate in (column, row)]
    return torch.cat([f(angle) for angle in angles for f in (torch.sin, torch.cos)], dim=1).float()
