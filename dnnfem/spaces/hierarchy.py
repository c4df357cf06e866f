"""Hierarchies: the sequence of spaces that an adaptive run has gone through."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from dnnfem.notebook import table
from dnnfem.spaces.layout import Space
from dnnfem.spaces.transfer import Transfer


@dataclass(frozen=True)
class Hierarchy:
    """Spaces and the transfers between neighbours; printing it gives a table.

    A transfer normally goes from a level to the next finer one; after coarsening it goes back, from the coarser new
    level to the one before.

    Parameters
    ----------
    spaces : tuple of Space
        From the first level to the last.
    transfers : tuple of Transfer
        One less.

    Raises
    ------
    ValueError
        If a transfer does not fit the two spaces it stands between.
    """

    spaces: tuple[Space, ...]
    transfers: tuple[Transfer, ...] = ()

    def __post_init__(self) -> None:
        if len(self.transfers) != len(self.spaces) - 1:
            raise ValueError(f"transfers: got {len(self.transfers)} for {len(self.spaces)} spaces, expected one less")
        for number, transfer in enumerate(self.transfers):
            pair = (self.spaces[number + 1].dim, self.spaces[number].dim)
            if transfer.shape not in (pair, pair[::-1]):
                raise ValueError(
                    f"transfers: number {number} has shape {transfer.shape}, expected {pair} or {pair[::-1]}"
                )

    def __len__(self) -> int:
        return len(self.spaces)

    @property
    def finest(self) -> Space:
        """The last space."""
        return self.spaces[-1]

    def refined(self, space: Space, transfer: Transfer) -> Hierarchy:
        """Return the hierarchy with one more level."""
        return Hierarchy((*self.spaces, space), (*self.transfers, transfer))

    def prolongation(self, coarse: int, fine: int) -> Transfer:
        """Return the composed transfer from level `coarse` to level `fine`.

        Raises
        ------
        ValueError
            If the levels are out of order or a level between them was reached by coarsening.
        """
        if not 0 <= coarse <= fine < len(self):
            raise ValueError(f"levels: got {coarse} -> {fine}, expected 0 <= coarse <= fine < {len(self)}")
        result = Transfer.identity(self.spaces[coarse].dim)
        for number in range(coarse, fine):
            transfer = self.transfers[number]
            if transfer.shape[1] != self.spaces[number].dim:
                raise ValueError(
                    f"levels: level {number + 1} was reached by coarsening, there is no prolongation into it"
                )
            result = transfer.after(result)
        return result

    def _lines(self) -> list[list[str]]:
        dims = [space.dim for space in self.spaces]
        growth = ["", *(f"{after / before:.2f}" for before, after in pairwise(dims))]
        rows = [[str(k), str(dims[k]), growth[k], str(space)] for k, space in enumerate(self.spaces)]
        return [["level", "dim", "growth", "space"], *rows]

    def __repr__(self) -> str:
        return "\n".join(f"{level:>5} {dim:>7} {growth:>7}  {space}" for level, dim, growth, space in self._lines())

    def _repr_html_(self) -> str:
        return table(self._lines())
