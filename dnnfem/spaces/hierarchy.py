"""Hierarchies: the sequence of spaces that an adaptive run has gone through."""

from __future__ import annotations

from dataclasses import dataclass

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

    def __repr__(self) -> str:
        lines = [f"{'level':>5} {'dim':>7} {'growth':>7}  space"]
        for number, space in enumerate(self.spaces):
            growth = f"{space.dim / self.spaces[number - 1].dim:7.2f}" if number else " " * 7
            lines.append(f"{number:5d} {space.dim:7d} {growth}  {space}")
        return "\n".join(lines)
