"""What is in flight, what is done, what is sent again: without a broker."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as some

from edgeinfer.uplink.window import Burial, Limits, Window

LIMITS = Limits(size=10, outstanding_max=30, resend_s=10, resend_max_s=40, ack_timeout_s=30, strikes_max=3)


class Driven:
    """A window, and a spool of seqs 1 to `last` from which it is fed."""

    def __init__(self, mode="broker", *, last=100, receive_max=65_535, limits=LIMITS, done=0):
        self.window = Window(mode, limits, done_seq=done, last_seq=done)
        self.last = last
        self.now_s = 0.0
        self.sent: list[int] = []
        self.tokens: dict[int, int] = {}
        self.window.connected(receive_max, 0, self.now_s)

    def send(self) -> list[int]:
        """Send all that may be; the seqs."""
        window, sent = self.window, []
        while window.room() > 0:
            seq = window.next_again()
            if seq is None:
                if window.room_for_new() == 0 or window.cursor >= self.last:
                    break
                seq = window.cursor + 1
            token = len(self.tokens) + 1
            self.tokens[token] = seq
            window.sent(seq, token, 400, self.now_s)
            sent.append(seq)
        self.sent += sent
        return sent

    def acknowledge(self, *seqs: int, code: int = 0) -> list[Burial]:
        """By the broker, the newest sending of each."""
        burials = []
        for seq in seqs:
            token = max(token for token, each in self.tokens.items() if each == seq)
            burials.append(self.window.acknowledged(token, code, self.now_s))
        return [each for each in burials if each is not None]

    def lend(self) -> int:
        token = 1_000_000 + len(self.tokens)
        self.window.lent(token, 100, self.now_s)
        return token

    def lose(self, *, by_broker=True) -> Burial | None:
        burial = self.window.lost(by_broker=by_broker)
        self.window.connected(65_535, 0, self.now_s)
        return burial

    def wait(self, seconds: float) -> list[int]:
        self.now_s += seconds
        self.window.tick(self.now_s)
        return self.send()


def test_no_more_is_in_flight_than_the_window_holds():
    driven = Driven()
    assert driven.send() == list(range(1, 11))
    assert driven.window.room() == 0
    driven.acknowledge(1, 2)
    assert driven.send() == [11, 12]


def test_receive_maximum_of_the_broker_is_kept_to():
    driven = Driven(receive_max=2)
    assert driven.send() == [1, 2]
    driven.acknowledge(1)
    assert driven.send() == [3]
    assert driven.window.in_flight == 2


def test_what_is_told_besides_takes_a_slot_until_it_is_acknowledged():
    driven = Driven(receive_max=2)
    token = driven.lend()
    assert driven.send() == [1]
    driven.window.acknowledged(token, 0, 0)
    assert driven.send() == [2]


def test_bytes_in_flight_are_bounded_but_one_message_goes_always():
    driven = Driven(limits=Limits(bytes_max=300))
    assert driven.send() == [1]  # Of 400 bytes.
    assert driven.window.room() == 0


def test_done_is_contiguous_in_whatever_order_the_broker_answers():
    driven = Driven()
    driven.send()
    driven.acknowledge(2, 3, 5)
    assert driven.window.done_seq == 0
    driven.acknowledge(1)
    assert driven.window.done_seq == 3
    driven.acknowledge(4)
    assert driven.window.done_seq == 5
    assert driven.window.done_count == 5


@given(some.permutations(range(1, 11)))
def test_any_order_of_acknowledgements_ends_with_all_done(order):
    driven = Driven(last=10)
    driven.send()
    for seq in order:
        driven.acknowledge(seq)
        assert all(each in order for each in range(1, driven.window.done_seq + 1))
    assert driven.window.done_seq == 10
    assert driven.window.in_flight == driven.window.outstanding == 0


def test_an_acknowledgement_that_is_unknown_or_comes_twice_does_nothing():
    driven = Driven(last=2)
    driven.send()
    driven.acknowledge(1)
    driven.acknowledge(1)
    assert driven.window.acknowledged(999, 0, 0) is None
    assert (driven.window.done_seq, driven.window.in_flight) == (1, 1)


def test_what_was_not_acknowledged_is_sent_again_on_the_next_connection():
    driven = Driven(last=5)
    driven.send()
    driven.acknowledge(1, 3)
    driven.lose(by_broker=False)
    assert driven.send() == [2, 3, 4, 5]
    assert driven.window.is_replay(2)


def test_an_acknowledgement_of_the_connection_before_counts_for_nothing():
    driven = Driven(last=3)
    driven.send()
    driven.lose(by_broker=False)
    assert driven.window.acknowledged(1, 0, 0) is None
    assert driven.window.done_seq == 0


def test_what_a_gap_covers_is_stepped_over():
    driven = Driven(last=9)
    window = driven.window
    window.sent(1, 1, 400, 0)
    window.sent(7, 2, 300, 0, is_gap=True)  # Of 2 to 7.
    window.sent(8, 3, 400, 0)
    for token in (1, 2, 3):
        window.acknowledged(token, 0, 0)
    assert window.done_seq == 8
    assert window.done_count == 2


def test_only_what_was_sent_or_accepted_before_is_a_replay():
    window = Window("broker", LIMITS, done_seq=4, last_seq=9)
    window.connected(20, 12, 0)
    assert window.is_replay(12)
    assert not window.is_replay(13)
    window.sent(13, 1, 400, 0)
    assert window.is_replay(13)


# In mode consumer.


def test_a_consumers_word_makes_all_up_to_it_done_and_the_brokers_nothing():
    driven = Driven("consumer")
    driven.send()
    driven.acknowledge(*range(1, 11))
    assert driven.window.done_seq == 0
    assert driven.window.consumed(7, driven.now_s, resume=False)
    assert driven.window.done_seq == 7
    assert driven.window.outstanding == 3


def test_a_consumer_may_be_ahead_of_the_brokers_acknowledgement():
    driven = Driven("consumer", last=5)
    driven.send()
    driven.window.consumed(5, driven.now_s, resume=False)
    assert (driven.window.done_seq, driven.window.in_flight) == (5, 5)
    driven.acknowledge(1, 2, 3, 4, 5)
    assert driven.window.in_flight == 0


def test_what_was_never_sent_cannot_be_acknowledged():
    driven = Driven("consumer")
    driven.send()
    assert not driven.window.consumed(11, driven.now_s, resume=False)
    assert driven.window.done_seq == 0


def test_in_mode_broker_a_consumer_has_no_say():
    driven = Driven("broker")
    driven.send()
    assert not driven.window.consumed(5, driven.now_s, resume=True)
    assert driven.window.done_seq == 0


def test_no_more_is_outstanding_than_allowed():
    driven = Driven("consumer")
    for _ in range(10):
        driven.acknowledge(*driven.send())
    assert driven.window.outstanding == 30
    assert driven.send() == []
    driven.window.consumed(4, driven.now_s, resume=False)
    assert driven.send() == [31, 32, 33, 34]


def test_resume_sends_all_again_that_is_not_done():
    driven = Driven("consumer", last=20)
    driven.acknowledge(*driven.send())
    driven.window.consumed(3, driven.now_s, resume=True)
    assert driven.send() == list(range(4, 14))


def test_what_still_flies_at_a_resume_keeps_its_slot():
    driven = Driven("consumer", receive_max=4)
    driven.send()
    driven.window.consumed(1, driven.now_s, resume=True)
    assert driven.send() == []
    driven.acknowledge(1, 2, 3, 4)
    assert driven.send() == [2, 3, 4, 5]


def test_a_silent_consumer_is_asked_with_the_first_messages_at_doubling_intervals():
    driven = Driven("consumer", last=15)
    driven.acknowledge(*driven.send())
    driven.acknowledge(*driven.send())
    assert driven.wait(9.9) == []
    assert driven.wait(0.1) == list(range(1, 11))  # Not the five behind them.
    driven.acknowledge(*range(1, 11))
    assert driven.wait(19.9) == []
    assert driven.wait(0.1) == list(range(1, 11))
    driven.acknowledge(*range(1, 11))
    for delay_s in (40, 40):
        assert driven.wait(delay_s - 0.1) == []
        assert len(driven.wait(0.1)) == 10
        driven.acknowledge(*range(1, 11))


def test_new_messages_are_sent_while_a_consumer_is_silent():
    driven = Driven("consumer", last=5)
    driven.acknowledge(*driven.send())
    driven.acknowledge(*driven.wait(10))
    driven.last = 7
    assert driven.send() == [6, 7]


def test_a_consumer_that_answers_the_question_gets_what_followed_it():
    driven = Driven("consumer", last=25)
    for _ in range(3):
        driven.acknowledge(*driven.send())
    driven.acknowledge(*driven.wait(10))  # 1 to 10; what came after went to nobody.
    driven.window.consumed(10, driven.now_s, resume=False)
    assert driven.send() == list(range(11, 21))


def test_a_consumer_that_had_it_all_gets_nothing_again():
    driven = Driven("consumer", last=25)
    for _ in range(3):
        driven.acknowledge(*driven.send())
    driven.acknowledge(*driven.wait(10))  # Its word was lost, and now it says it again.
    driven.window.consumed(25, driven.now_s, resume=False)
    assert driven.send() == []
    assert driven.window.outstanding == 0


def test_progress_and_resume_begin_with_the_shortest_interval_again():
    for resume in (False, True):
        driven = Driven("consumer", last=12)
        driven.acknowledge(*driven.send())
        driven.acknowledge(*driven.wait(10))
        driven.acknowledge(*driven.wait(20))
        driven.window.consumed(0 if resume else 2, driven.now_s, resume=resume)
        driven.acknowledge(*driven.send())
        driven.acknowledge(*driven.send())
        assert driven.wait(9.9) == []
        assert driven.wait(0.1) != []


def test_a_consumer_is_not_asked_while_there_is_no_connection():
    driven = Driven("consumer", last=5)
    driven.acknowledge(*driven.send())
    driven.window.lost(by_broker=True)
    assert driven.window.due_s() is None
    assert driven.wait(100) == []


def test_after_a_lost_connection_only_what_the_broker_had_not_taken_is_sent_at_once():
    driven = Driven("consumer", last=8)
    driven.send()
    driven.acknowledge(1, 2, 3, 4, 5)
    driven.lose(by_broker=False)
    assert driven.send() == [6, 7, 8]


# What cannot be delivered.


def test_a_denied_message_is_buried_and_what_is_behind_it_goes_on():
    driven = Driven(last=5)
    driven.send()
    assert driven.acknowledge(2, code=0x87) == [Burial(2, "denied")]
    driven.acknowledge(1, 3, 4, 5)
    assert driven.window.done_seq == 1
    driven.window.send_again(2)  # The gap in its place.
    assert driven.send() == [2]
    driven.acknowledge(2)
    assert driven.window.done_seq == 5


def test_a_gap_that_is_denied_too_is_done():
    driven = Driven(last=3)
    window = driven.window
    window.sent(1, 1, 400, 0, is_gap=True)
    window.sent(2, 2, 400, 0)
    window.acknowledged(2, 0, 0)
    assert window.acknowledged(1, 0x87, 0) is None
    assert window.done_seq == 2


def test_in_mode_consumer_a_gap_that_is_denied_holds_nothing_up():
    window = Driven("consumer", last=3).window
    window.sent(1, 1, 400, 0, is_gap=True)
    window.sent(2, 2, 400, 0)
    window.acknowledged(1, 0x87, 0)
    window.acknowledged(2, 0, 0)
    assert window.done_seq == 1
    window.consumed(2, 0, resume=False)
    assert window.done_seq == 2


def test_a_broker_that_takes_nothing_now_is_tried_again_after_a_while():
    driven = Driven(last=3)
    driven.send()
    driven.acknowledge(1)
    assert driven.acknowledge(2, code=0x97) == []  # Quota exceeded.
    assert driven.send() == []
    assert driven.window.due_s() == 1
    assert driven.wait(1) == [2, 3]
    driven.acknowledge(2, code=0x97)
    assert driven.wait(1.9) == []
    assert driven.wait(0.1) == [2, 3]


def test_what_is_held_back_is_not_done_before_something_was_sent_in_its_place():
    driven = Driven(last=3)
    window = driven.window
    window.sent(1, 1, 400, 0)
    window.held(2)
    window.sent(3, 3, 400, 0)
    window.acknowledged(1, 0, 0)
    window.acknowledged(3, 0, 0)
    assert window.done_seq == 1
    window.send_again(2)
    assert window.next_again() == 2
    window.sent(2, 4, 300, 0, is_gap=True)
    window.acknowledged(4, 0, 0)
    assert window.done_seq == 3


def test_a_message_of_which_connections_die_is_buried_after_some_of_them():
    driven = Driven(last=20)
    driven.send()
    assert driven.lose() is None  # Ten were in flight: it may be any.
    for attempt in range(3):
        driven.window.acknowledged(driven.lend(), 0, 0)  # The broker takes the status, so it is well.
        assert driven.send() == [1]
        burial = driven.lose()
        assert burial == (Burial(1, "ends the connection") if attempt == 2 else None)


def test_after_one_death_the_messages_go_one_by_one_until_one_is_taken():
    driven = Driven(last=20)
    driven.send()
    driven.lose()
    assert driven.send() == [1]
    driven.acknowledge(1)
    assert driven.send() == list(range(2, 12))


def test_a_broker_that_dies_before_it_acknowledges_anything_blames_no_message():
    driven = Driven(last=20)
    driven.send()
    for _ in range(20):
        assert driven.lose() is None
        driven.send()


def test_connections_that_the_network_ends_blame_no_message():
    driven = Driven(last=20)
    for _ in range(20):
        driven.window.acknowledged(driven.lend(), 0, 0)
        driven.send()
        assert driven.lose(by_broker=False) is None


def test_progress_in_between_forgets_what_a_message_is_blamed_for():
    driven = Driven(last=20)
    driven.send()
    driven.lose()
    for _ in range(10):
        for _ in range(2):
            driven.window.acknowledged(driven.lend(), 0, 0)
            driven.send()
            assert driven.lose() is None
        driven.window.acknowledged(driven.lend(), 0, 0)
        driven.acknowledge(*driven.send())
        driven.send()
        driven.lose()


def test_a_broker_that_acknowledges_nothing_for_long_is_noticed():
    driven = Driven(last=20)
    driven.send()
    assert driven.window.due_s() == 30
    driven.now_s = 29
    driven.acknowledge(1)
    driven.now_s = 58
    assert not driven.window.is_stalled(driven.now_s)
    driven.now_s = 59
    assert driven.window.is_stalled(driven.now_s)


def test_silence_with_nothing_in_flight_is_no_stall():
    driven = Driven(last=3)
    driven.acknowledge(*driven.send())
    assert not driven.window.is_stalled(1e6)
    assert driven.window.due_s() is None


class _Peer:
    """A broker and a consumer that lose what a script says, and a spool that is read from; all in one."""

    def __init__(self, mode: str, count: int):
        self.driven = Driven(mode, last=count)
        self.had: list[int] = []
        self.acked = 0

    def step(self, choice: int) -> None:
        driven, window = self.driven, self.driven.window
        flying = [(token, flight) for token, flight in window._flights.items() if flight.entry is not None]
        if choice == 0:
            driven.send()
        elif choice == 1 and flying:  # Taken and delivered.
            token = flying[-1][0]
            self.had.append(driven.tokens[token])
            window.acknowledged(token, 0, driven.now_s)
        elif choice == 2 and flying:  # Taken, and lost in the broker: only mode consumer survives that.
            token = flying[0][0]
            if window._mode == "broker":
                self.had.append(driven.tokens[token])
            window.acknowledged(token, 0, driven.now_s)
        elif choice == 3:
            driven.lose(by_broker=bool(len(flying) % 2))
        elif choice == 4:
            driven.wait(11)
        elif choice == 5:
            self.tell(resume=False)
        elif choice == 6:
            self.tell(resume=True)

    def tell(self, *, resume: bool) -> None:
        while self.acked + 1 in self.had:
            self.acked += 1
        self.driven.window.consumed(self.acked, self.driven.now_s, resume=resume)

    def finish(self) -> None:
        """Nothing is lost any more."""
        for _ in range(200):
            self.driven.wait(11)
            for token, flight in list(self.driven.window._flights.items()):
                if flight.entry is not None:
                    self.had.append(self.driven.tokens[token])
                self.driven.window.acknowledged(token, 0, self.driven.now_s)
            self.tell(resume=False)


@settings(max_examples=50)
@given(some.sampled_from(["broker", "consumer"]), some.lists(some.integers(0, 6), max_size=120))
def test_whatever_is_lost_all_is_delivered_in_the_end_and_nothing_is_done_that_was_not(mode, script):
    peer = _Peer(mode, 40)
    for choice in script:
        peer.step(choice)
        done = peer.driven.window.done_seq
        assert set(range(1, done + 1)) <= set(peer.had)
    peer.finish()
    assert peer.driven.window.done_seq == 40
    assert set(peer.had) == set(range(1, 41))
