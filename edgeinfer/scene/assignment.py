"""Which of two sets belong together: pairs of the greatest total weight."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

Pair = tuple[int, int]


def best_pairs(weights: Mapping[Pair, float]) -> list[Pair]:
    """(row, column) pairs of the greatest total weight, each row and column once at most.

    weights: above 0, of the pairs that may be; what is not there is no pair. Exact: where each row has a
    best column of its own, these are the pairs; else whatever hangs together is solved by shortest augmenting paths
    (Jonker and Volgenant 1987).
    """
    best: dict[int, tuple[float, int]] = {}
    for (row, column), weight in weights.items():
        if row not in best or weight > best[row][0]:
            best[row] = weight, column
    if len({column for _, column in best.values()}) == len(best):
        return [(row, column) for row, (_, column) in best.items()]
    of_row: dict[int, list[int]] = {}
    of_column: dict[int, list[int]] = {}
    for row, column in weights:
        of_row.setdefault(row, []).append(column)
        of_column.setdefault(column, []).append(row)
    pairs: list[Pair] = []
    for rows, columns in _groups(of_row, of_column):
        if len(rows) == 1 == len(columns):
            pairs.append((rows[0], columns[0]))
        else:
            within = [[weights.get((row, column), 0.0) for column in columns] for row in rows]
            pairs += _solved(within, rows, columns)
    return pairs


def _groups(
    of_row: Mapping[int, list[int]], of_column: Mapping[int, list[int]]
) -> Iterator[tuple[list[int], list[int]]]:
    """Rows and columns that hang together by pairs, each group once."""
    left = set(of_row)
    for first, columns in of_row.items():
        if first not in left:
            continue
        if len(columns) == 1 == len(of_column[columns[0]]):
            yield [first], columns
            continue
        left.discard(first)
        waiting = [first]
        some_rows, some_columns = {first}, set[int]()
        while waiting:
            for column in of_row[waiting.pop()]:
                if column not in some_columns:
                    some_columns.add(column)
                    new = left.intersection(of_column[column])
                    left -= new
                    some_rows |= new
                    waiting += new
        yield sorted(some_rows), sorted(some_columns)


def _solved(weights: list[list[float]], rows: list[int], columns: list[int]) -> list[Pair]:
    if len(rows) > len(columns):
        turned = [list(column) for column in zip(*weights, strict=True)]
        return [(row, column) for column, row in _solved(turned, columns, rows)]
    taken = _cheapest([[-weight for weight in row] for row in weights])
    return [(rows[row], columns[column]) for row, column in enumerate(taken) if weights[row][column] > 0]


def _cheapest(costs: list[list[float]]) -> list[int]:
    """The column of each row at the least total cost; there are no more rows than columns.

    Plain numbers: a group is small as a rule, and a call into numpy costs as much as some dozens of them.
    """
    size = len(costs[0])
    row_price, column_price = [min(row) for row in costs], [0.0] * size
    row_of: list[int] = [-1] * size
    left = []
    for row, prices in enumerate(costs):
        # Most have a best column that nobody else wants more.
        column = prices.index(row_price[row])
        if row_of[column] < 0:
            row_of[column] = row
        else:
            left.append(row)
    for first in left:
        _augment(first, costs, row_of, row_price, column_price)
    taken = [0] * len(costs)
    for column, row in enumerate(row_of):
        if row >= 0:
            taken[row] = column
    return taken


def _augment(
    first: int, costs: list[list[float]], row_of: list[int], row_price: list[float], column_price: list[float]
) -> None:
    """Give one more row a column, by the cheapest chain of rows that move on to another."""
    size = len(row_of)
    distance, before = [float("inf")] * size, [-1] * size
    open_columns, done = set(range(size)), []
    row, reached, column = first, 0.0, -1
    while True:
        base = reached - row_price[row]
        prices = costs[row]
        for each in open_columns:
            further = base + prices[each] - column_price[each]
            if further < distance[each]:
                distance[each], before[each] = further, row
        column = min(open_columns, key=distance.__getitem__)
        reached = distance[column]
        open_columns.remove(column)
        if row_of[column] < 0:
            break
        done.append(column)
        row = row_of[column]
    row_price[first] += reached
    for each in done:
        row_price[row_of[each]] += reached - distance[each]
        column_price[each] -= reached - distance[each]
    while column >= 0:
        row = before[column]
        row_of[column], column = row, _column_of(row, row_of)


def _column_of(row: int, row_of: list[int]) -> int:
    """The column that the row had until now; -1 where it had none."""
    return next((column for column, each in enumerate(row_of) if each == row), -1)
