"""What a machine costs an hour, by a list with the date and the source of each price: `prices.csv`, or one's own file.

A list has the columns `machine` (Compute Engine's name, or any of a machine that `--machine` takes), `region`, `on_demand`,
`spot`, `currency`, `date` and `source`; a price may be empty. One's own takes the place of the whole list.
"""

import csv
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from rlhf_tuning import environment
from rlhf_tuning.errors import ParameterError
from rlhf_tuning.limits import PRICE_PER_HOUR

_COLUMNS = ("machine", "region", "on_demand", "spot", "currency", "date", "source")


@dataclass(frozen=True, kw_only=True)
class ListPrice:
    """A line of the list; a price is None where nobody knows it."""

    machine: str
    region: str
    on_demand: float | None
    spot: float | None
    currency: str
    date: str
    source: str

    def of(self, *, spot: bool) -> float | None:
        """Return the price of a Spot machine, or of one on demand."""
        return self.spot if spot else self.on_demand

    def told(self, *, spot: bool) -> str:
        """Return the price with where it is from, in words."""
        kind = "Spot" if spot else "on demand"
        return (
            f"{self.of(spot=spot):g} {self.currency} an hour: {self.machine} {kind} in {self.region}, list price of "
            f"{self.date} ({self.source})"
        )


def list_prices() -> list[ListPrice]:
    """Return the list: one's own where the environment variable `RLHF_PRICES` names it.

    Raises:
        ParameterError: If one's own cannot be read.
    """
    if not environment.PRICES:
        lines = files(__package__).joinpath("prices.csv").read_text(encoding="utf-8").splitlines()
        return [_price(row, "prices.csv", number) for number, row in enumerate(csv.DictReader(lines), start=2)]
    path = Path(environment.PRICES).expanduser()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise ParameterError(f"RLHF_PRICES is {environment.PRICES!r}, which cannot be read: {why}.") from None
    return [_price(row, str(path), number) for number, row in enumerate(csv.DictReader(lines), start=2)]


def list_price(names: tuple[str, ...], region: str, *, spot: bool = False) -> ListPrice | None:
    """Return the line of a machine in a region; None where the list has no such price.

    Args:
        names: By which the machine is called.
        region: Where it is.
        spot: Whether it is a Spot machine.

    Raises:
        ParameterError: If one's own list cannot be read.
    """
    found = (line for line in list_prices() if line.machine in names and line.region == region)
    return next((line for line in found if line.of(spot=spot) is not None), None)


def _price(row: dict[str, str | None], file: str, number: int) -> ListPrice:
    if missing := [name for name in _COLUMNS if row.get(name) is None]:
        raise ParameterError(
            f"{file}, line {number}, has no {' and no '.join(missing)}. A list of prices is CSV with the columns "
            f"{', '.join(_COLUMNS)}."
        )
    texts = {name: str(row[name]).strip() for name in _COLUMNS}
    return ListPrice(
        machine=texts["machine"],
        region=texts["region"],
        on_demand=_number(texts["on_demand"], f"{file}, line {number}, on_demand"),
        spot=_number(texts["spot"], f"{file}, line {number}, spot"),
        currency=texts["currency"],
        date=texts["date"],
        source=texts["source"],
    )


def _number(text: str, where: str) -> float | None:
    if not text:
        return None
    try:
        price = float(text)
    except ValueError:
        price = -1.0
    if not PRICE_PER_HOUR.allows(price):
        raise ParameterError(f"{where} is {text!r}; it must be a number, {PRICE_PER_HOUR}, or empty.")
    return price
