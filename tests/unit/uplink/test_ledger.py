"""Numbers that were dealt with, against a plain set of them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgeinfer.uplink.ledger import RANGES_MAX, Ledger, Span

SPANS = st.tuples(st.integers(1, 60), st.integers(0, 8)).map(lambda pair: (pair[0], pair[0] + pair[1]))
STEPS = st.lists(
    st.one_of(st.tuples(st.just("add"), SPANS), st.tuples(st.just("done"), st.integers(0, 60))), max_size=40
)


@given(STEPS, st.integers(0, 20))
def test_it_knows_what_a_set_knows(steps, begin):
    ledger, dealt_with, wont_come = Ledger(begin), set(range(1, begin + 1)), set()
    for what, value in steps:
        if what == "add":
            ledger.add(*value)
            dealt_with |= set(range(value[0], value[1] + 1))
        else:
            lost = {seq for span in ledger.settle(value) for seq in range(span.first, span.last + 1)}
            assert lost == {seq for seq in range(1, value + 1) if seq not in dealt_with | wont_come}
            wont_come |= lost
        for seq in range(1, 75):
            assert ledger.has(seq, seq) == (seq in dealt_with)
            assert ledger.has(seq, seq + 4) == (set(range(seq, seq + 5)) <= dealt_with)
        upto = next(seq for seq in range(1, 200) if seq not in dealt_with | wont_come) - 1
        assert ledger.upto == upto
        assert all(span.first > upto + 1 for span in ledger.ahead)


def test_a_hole_holds_upto_back_until_it_is_filled():
    ledger = Ledger()
    for seq in (1, 2, 4, 5, 7):
        ledger.add(seq, seq)
    assert (ledger.upto, list(ledger.ahead)) == (2, [(4, 5), (7, 7)])
    ledger.add(3, 3)
    assert ledger.upto == 5
    ledger.add(6, 6)
    assert (ledger.upto, list(ledger.ahead)) == (7, [])


def test_a_gap_fills_all_that_it_stands_for():
    ledger = Ledger()
    ledger.add(3, 3)
    ledger.add(1, 9)
    assert ledger.upto == 9


def test_what_the_node_holds_for_done_is_not_waited_for():
    ledger = Ledger()
    ledger.add(1, 1)
    ledger.add(5, 6)
    assert list(ledger.settle(7)) == [Span(2, 4), Span(7, 7)]
    assert ledger.upto == 7
    assert list(ledger.settle(7)) == []
    assert not ledger.has(3, 3)
    ledger.add(3, 3)
    assert ledger.has(3, 3)
    assert list(ledger.missing) == [Span(2, 2), Span(4, 4), Span(7, 7)]


def test_it_takes_so_much_memory_and_no_more():
    ledger = Ledger()
    for index in range(RANGES_MAX):
        assert ledger.has_room
        ledger.add(3 + 2 * index, 3 + 2 * index)
    assert not ledger.has_room
    for index in range(RANGES_MAX + 100):
        ledger.settle(20_000 + 2 * index)
        ledger.add(20_001 + 2 * index, 20_001 + 2 * index)
    assert len(ledger.missing) <= RANGES_MAX


def test_it_is_made_anew_from_what_it_shows():
    ledger = Ledger(4, [(9, 12), (6, 7)])
    again = Ledger(ledger.upto, ledger.ahead)
    assert (again.upto, list(again.ahead)) == (4, [(6, 7), (9, 12)])
