"""The spool: accepted messages in one SQLite file, numbered, in order, until they are done."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgeinfer.clock import Clock, ClockState
from edgeinfer.errors import SpoolLost
from edgeinfer.uplink.age import Mark, SpoolClock
from edgeinfer.uplink.blank import PAGE_BYTES
from edgeinfer.uplink.group import GROUP_BYTES_MAX, MESSAGE_BYTES_MAX, DamagedGroup, cost, pack, unpack
from edgeinfer.uplink.message import Gap, Message, Spooled
from edgeinfer.uplink.spoolfile import OnAlarm, SpoolFile, open_spool_file, pages_of

log = logging.getLogger(__name__)

# What no commit takes, so that there is room to delete, for gaps and for dead letters when the spool is full.
_BALLAST_PAGES = 96
# A full spool drops that part at once, rather than a group for each that comes.
_DROPPED_PART = 64
# What a transaction writes beside the groups themselves, at most.
_OVERHEAD_PAGES = 12
_DELETED_EVERY = 500
# What one transaction deletes: all of it is in memory meanwhile. The smallest groups are so many a page.
_STEP_PAGES = 256
_GROUPS_A_PAGE = 40
_AGED_EVERY_NS = 60_000_000_000
_DEAD_LETTERS_MAX = 100
_DEAD_LETTER_BYTES_MAX = 2048


@dataclass(frozen=True, slots=True)
class _Dropped:
    """Groups that went: everything up to a seq."""

    through: int
    reason: str


@dataclass(frozen=True, slots=True)
class _Group:
    """One row: the messages first..last, or one gap that stands for them."""

    first: int
    last: int
    messages: Sequence[Message]
    is_gap: bool = False

    def after(self, seq: int) -> Iterator[Spooled]:
        begin = self.last if self.is_gap else self.first
        return (Spooled(number, each) for number, each in enumerate(self.messages, begin) if number > seq)


class Spool:
    """For one thread at a time; others may read the plain attributes and `depth`.

    epoch: of this file, 16 hex digits; new when it is begun anew. last_seq: the highest that was accepted, 0 when none.
    done_seq: everything up to it is done. size_bytes: of the file in use. dropped: messages that were accepted and will
    not come, by reason.
    """

    def __init__(
        self, file: SpoolFile, max_bytes: int, *, max_age_s: float | None, clock: Clock, on_alarm: OnAlarm
    ) -> None:
        standing = file.standing()
        self.epoch = standing.epoch
        self.last_seq = standing.last
        self.done_seq = self._durable_done = standing.done
        self.dropped: Counter[str] = Counter()
        self._file = file
        self._pages = min(file.pages, pages_of(max_bytes))
        self._max_age_s = max_age_s
        self._wall_ns, self._monotonic_ns = clock.unix_ns, clock.monotonic_ns
        self._on_alarm = on_alarm
        self._clock_state: ClockState = "unsynced"
        self._aged_ns = self._monotonic_ns() - _AGED_EVERY_NS
        self._is_full = False
        self._cached: _Group | None = None
        self._gaps = self._find_gaps()
        self._clock = SpoolClock(clock, self._last_mark())
        oldest = file.rows("SELECT first FROM groups ORDER BY last LIMIT 1")
        self._deleted = oldest[0][0] - 1 if oldest else self.last_seq
        self.size_bytes = self._used_pages() * PAGE_BYTES

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        max_bytes: int,
        max_age_s: float | None = None,
        clock: Clock | None = None,
        on_alarm: OnAlarm = log.error,
    ) -> Spool:
        """The spool at `path`, which goes on where it was, or a new one where there is none.

        max_bytes: of the file and its write-ahead log, taken from the disk at once (half of what is free at most). A
        smaller limit than before is reached within some commits; the file itself gets its new size when it is opened
        with nothing waiting. max_age_s: see SpoolClock for how a message ages. A damaged file is set aside as
        `<name>.corrupt-<n>`, of which the newest two are kept, and a new epoch begins; on_alarm gets a line then, and
        when messages are lost. Raises SpoolError: no room, read-only, in use by another process; trying again later may
        help.
        """
        for _ in range(2):
            file = open_spool_file(path, max_bytes, on_alarm)
            try:
                return cls(file, max_bytes, max_age_s=max_age_s, clock=clock or Clock(), on_alarm=on_alarm)
            except SpoolLost:
                continue
            except BaseException:
                file.close()
                raise
        raise SpoolLost(f"the spool {path} is damaged again and again")

    @property
    def depth(self) -> int:
        """Messages that are not done, a gap counted as one."""
        return self._waiting_through(self.last_seq)

    @property
    def oldest_unix_ns(self) -> int | None:
        """The time of the oldest group that is not done. Asks the file."""
        rows = self._file.rows("SELECT unix_ns FROM groups WHERE last > ? ORDER BY last LIMIT 1", self.done_seq)
        return rows[0][0] if rows else None

    @property
    def written_bytes(self) -> int:
        """See SpoolFile."""
        return self._file.written_bytes

    def commit(self, messages: Sequence[Message]) -> range:
        """Accept messages, durably, and the seqs they got: of as many from the front as a group holds, one at least.

        messages: one at least. One that is larger than MESSAGE_BYTES_MAX leaves a gap. What is dropped for them, by
        size or by age, is the oldest. Raises SpoolError: none is accepted, and the spool can be used, and be tried
        again, later; or SpoolLost.
        """
        taken = messages[: _fitting(messages)]
        self._clock_state = taken[-1].clock
        mark = self._clock.mark(self._clock_state)
        groups = list(self._grouped(taken))
        bodies = [pack(group.messages) for group in groups]
        pages = sum(2 + len(body) // PAGE_BYTES for body in bodies) + _OVERHEAD_PAGES
        too_old = self._too_old(mark)
        is_delete_due = self.done_seq - self._deleted >= _DELETED_EVERY or self._room() < pages
        deleted = self._in_one_step(self.done_seq) if is_delete_due else self._deleted
        with self._file.transaction(pages):
            self._delete_through(deleted)
            old = self._drop(too_old, "age")
            dropped = self._drop_for(pages) or old
            self._leave_gap(dropped, mark)
            for group, body in zip(groups, bodies, strict=True):
                self._insert(group, body, mark.at_s if mark.is_settled else None, mark.wall_s, self.done_seq)
        self._deleted, self._durable_done = deleted, self.done_seq
        self._note_dropped(dropped)
        self._note_accepted(groups)
        return range(groups[0].first, groups[-1].last + 1)

    def read(self, after_seq: int, limit: int, max_bytes: int) -> Sequence[Spooled]:
        """What comes after that and is not done, in order, at most so many and so large; one at least where one is.

        Raises SpoolError, SpoolLost.
        """
        found: list[Spooled] = []
        after, size = max(after_seq, self.done_seq), 0
        while len(found) < limit and (group := self._group_after(after)) is not None:
            for each in group.after(after):
                size += len(each.message.data)
                if found and (size > max_bytes or len(found) >= limit):
                    return found
                found.append(each)
            after = group.last
        return found

    def done(self, seq: int) -> None:
        """Everything up to it is. Not yet on disk: after a crash some are delivered again."""
        self.done_seq = max(self.done_seq, min(seq, self.last_seq))
        for last in [last for last in self._gaps if last <= self.done_seq]:
            del self._gaps[last]

    def bury(self, seq: int, reason: str) -> None:
        """Put a message that cannot be delivered among the dead letters, and a gap in its place.

        A gap itself stays as it is. Raises SpoolError, SpoolLost.
        """
        group = self._group_after(seq - 1)
        if seq <= self.done_seq or group is None or group.is_gap or not group.first <= seq <= group.last:
            return
        at = seq - group.first
        before = self._gap_before(seq, reason)
        gap = Gap(seq if before is None else before.first, seq, reason)
        parts = [
            _Group(group.first, seq - 1, group.messages[:at]),
            self._gap_group(gap),
            _Group(seq + 1, group.last, group.messages[at + 1 :]),
        ]
        bodies = [pack(part.messages) for part in parts]
        with self._file.transaction(sum(2 + len(body) // PAGE_BYTES for body in bodies) + _OVERHEAD_PAGES):
            at_s, wall_s, done = self._file.ask("SELECT at_s, wall_s, done FROM groups WHERE last = ?", group.last)
            self._file.change("DELETE FROM groups WHERE last = ? OR last = ?", group.last, before and before.last)
            for part, body in zip(parts, bodies, strict=True):
                if part.messages:
                    self._insert(part, body, at_s, wall_s, done)
            self._keep_dead_letter(seq, reason, group.messages[at])
        self._cached = None
        if before is not None:
            del self._gaps[before.last]
        self._gaps[seq] = gap.first
        self.dropped[reason] += 1

    def flush(self) -> None:
        """Write down what is done, and drop what is too old. Costs some 10 kB of flash where there is something to do.

        Raises SpoolError, SpoolLost.
        """
        mark = self._clock.mark(self._clock_state)
        too_old = self._too_old(mark)
        if self.done_seq == self._durable_done and not too_old:
            return
        deleted = self._in_one_step(self.done_seq)
        with self._file.transaction(_OVERHEAD_PAGES):
            self._delete_through(deleted)
            dropped = self._drop(too_old, "age")
            self._leave_gap(dropped, mark)
            self._file.change("UPDATE spool SET last = ?, done = ?", self.last_seq, self.done_seq)
        self._deleted, self._durable_done = deleted, self.done_seq
        self._note_dropped(dropped)
        self._note_size()

    def close(self) -> None:
        """May be called twice. Raises SpoolError; nothing that was accepted is lost by it."""
        try:
            if self._file.is_open:
                self.flush()
        finally:
            self._file.close()

    def _grouped(self, messages: Sequence[Message]) -> Iterator[_Group]:
        """With the seqs that they get; a message that is too large makes a group of its own, which is a gap."""
        first = seq = self.last_seq + 1
        run: list[Message] = []
        for message in messages:
            if len(message.data) > MESSAGE_BYTES_MAX:
                if run:
                    yield _Group(first, seq - 1, run)
                yield self._gap_group(Gap(seq, seq, "too large"))
                first, run = seq + 1, []
            else:
                run.append(message)
            seq += 1
        if run:
            yield _Group(first, seq - 1, run)

    def _group_after(self, seq: int) -> _Group | None:
        """That which holds the first message after that."""
        cached = self._cached
        if cached is not None and cached.first <= seq + 1 <= cached.last:
            return cached
        rows = self._file.rows("SELECT first, last, is_gap, body FROM groups WHERE last > ? ORDER BY last LIMIT 1", seq)
        if not rows:
            return None
        first, last, is_gap, body = rows[0]
        messages: Sequence[Message]
        try:
            messages = unpack(body)
            if len(messages) != (1 if is_gap else 1 + last - first):
                raise DamagedGroup("holds another number of messages")
        except DamagedGroup as damaged:
            messages = self._give_up(first, last, damaged)
            is_gap = True
        self._cached = _Group(first, last, messages, bool(is_gap))
        return self._cached

    def _give_up(self, first: int, last: int, damaged: DamagedGroup) -> Sequence[Message]:
        """Put a gap in place of a group that cannot be read."""
        gap = self._gap_group(Gap(first, last, "damaged"))
        body = pack(gap.messages)
        with self._file.transaction(_OVERHEAD_PAGES):
            self._file.change("UPDATE groups SET is_gap = 1, body = ? WHERE last = ?", body, last)
        self.dropped["damaged"] += 0 if last in self._gaps else 1 + last - max(first, self.done_seq + 1)
        self._gaps[last] = first
        self._on_alarm(f"messages {first} to {last} in the spool {self._file.path} are damaged, and lost: {damaged}")
        return gap.messages

    def _insert(self, group: _Group, body: bytes, at_s: int | None, wall_s: int | None, done: int) -> None:
        self._file.change(
            "INSERT INTO groups VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            *(group.last, group.first, group.is_gap, at_s, wall_s, group.messages[0].unix_ns, done, body),
        )

    def _delete_through(self, seq: int) -> None:
        self._file.change("DELETE FROM groups WHERE last <= ?", seq)

    def _too_old(self, mark: Mark) -> int:
        """The last seq of what has been here too long, looked for once a minute; 0 where nothing has.

        Of groups without an age, those before one that is too old.
        """
        now_ns = self._monotonic_ns()
        if self._max_age_s is None or now_ns - self._aged_ns < _AGED_EVERY_NS:
            return 0
        kept = self._file.rows(
            "SELECT last FROM groups WHERE at_s > ? ORDER BY last LIMIT 1", mark.at_s - self._max_age_s
        )
        before = kept[0][0] if kept else self.last_seq + 1
        old = self._file.rows(
            "SELECT last FROM groups WHERE last < ? AND at_s IS NOT NULL ORDER BY last DESC LIMIT 1", before
        )
        if not old or self._is_gap_alone(old[0][0]):
            self._aged_ns = now_ns
            return 0
        return self._in_one_step(old[0][0])

    def _is_gap_alone(self, seq: int) -> bool:
        """Whether all up to that is the gap that was left when earlier ones were dropped."""
        return self._gaps.get(seq, seq + 1) <= self.done_seq + 1

    def _drop_for(self, pages: int) -> _Dropped | None:
        """As much of the oldest as a commit of so many pages needs, and some more."""
        if self._room() >= pages:
            return None
        missing = pages + self._pages // _DROPPED_PART - self._room()
        through = self._end_of_oldest(min(missing, pages + _STEP_PAGES))
        return None if self._is_gap_alone(through) else self._drop(through, "full")

    def _in_one_step(self, through: int) -> int:
        """So far, or as far as one transaction shall delete."""
        return min(through, self._end_of_oldest(_STEP_PAGES)) or self._deleted

    def _end_of_oldest(self, pages: int) -> int:
        """The last seq of the oldest groups that fill so many pages together, or of all; 0 without any."""
        through, missing = 0, pages * PAGE_BYTES
        for last, size in self._file.rows(
            "SELECT last, length(body) FROM groups ORDER BY last LIMIT ?", pages * _GROUPS_A_PAGE
        ):
            through, missing = last, missing - size
            if missing <= 0:
                break
        return through

    def _drop(self, through: int, reason: str) -> _Dropped | None:
        if not through:
            return None
        self._delete_through(through)
        return _Dropped(through, reason)

    def _leave_gap(self, dropped: _Dropped | None, mark: Mark) -> None:
        """As old as what comes after it, so that it goes together with that."""
        if dropped is None or dropped.through <= self.done_seq:
            return
        group = self._gap_group(Gap(self.done_seq + 1, dropped.through, dropped.reason))
        following = self._file.rows("SELECT at_s FROM groups ORDER BY last LIMIT 1")
        at_s = following[0][0] if following else mark.at_s
        self._insert(group, pack(group.messages), at_s, None, self.done_seq)

    def _note_dropped(self, dropped: _Dropped | None) -> None:
        if dropped is None or dropped.through <= self.done_seq:
            return
        gone = [last for last in self._gaps if last <= dropped.through]
        self.dropped[dropped.reason] += self._waiting_through(dropped.through) - len(gone)
        for last in gone:
            del self._gaps[last]
        self._gaps[dropped.through] = self.done_seq + 1
        self._cached = None
        if dropped.reason == "full" and not self._is_full:
            self._is_full = True
            self._on_alarm(f"the spool {self._file.path} is full: the oldest messages are dropped")

    def _note_accepted(self, groups: Sequence[_Group]) -> None:
        self.last_seq = groups[-1].last
        for group in groups:
            if group.is_gap:
                self._gaps[group.last] = group.first
                self.dropped["too large"] += 1
        self._cached = groups[-1]
        self._note_size()

    def _note_size(self) -> None:
        self.size_bytes = self._used_pages() * PAGE_BYTES
        if self.size_bytes < self._pages * PAGE_BYTES // 2:
            self._is_full = False

    def _gap_group(self, gap: Gap) -> _Group:
        message = Message("gap", "", self._wall_ns(), self._clock_state, msgspec.json.encode(gap))
        return _Group(gap.first, gap.last, (message,), is_gap=True)

    def _gap_before(self, seq: int, reason: str) -> Gap | None:
        """The gap that one at `seq` continues: it ends just before, for the same reason, and is not done."""
        first = self._gaps.get(seq - 1)
        group = self._group_after(seq - 2) if first is not None else None
        if first is None or group is None or msgspec.json.decode(group.messages[0].data, type=Gap).reason != reason:
            return None
        return Gap(first, seq - 1, reason)

    def _keep_dead_letter(self, seq: int, reason: str, message: Message) -> None:
        """The newest few, with the message itself where it is short."""
        body = pack([message])
        self._file.change(
            "INSERT OR REPLACE INTO dead_letters VALUES (?, ?, ?)",
            *(seq, reason, body if len(body) <= _DEAD_LETTER_BYTES_MAX else None),
        )
        self._file.change(
            "DELETE FROM dead_letters WHERE seq NOT IN (SELECT seq FROM dead_letters ORDER BY seq DESC LIMIT ?)",
            _DEAD_LETTERS_MAX,
        )

    def _waiting_through(self, seq: int) -> int:
        """Messages up to that one that are not done, a gap counted as one."""
        covered = sum(last - max(first, self.done_seq + 1) for last, first in list(self._gaps.items()) if last <= seq)
        return max(0, seq - self.done_seq) - covered

    def _used_pages(self) -> int:
        return self._file.pages - self._file.free_pages

    def _room(self) -> int:
        return self._pages - self._used_pages() - _BALLAST_PAGES

    def _find_gaps(self) -> dict[int, int]:
        """First seq of each gap that is not done, by its last. The numbers on disk must follow each other."""
        (holes,) = self._file.ask(
            "SELECT count(*) FROM (SELECT first, last, lag(last, 1, min(first - 1, ?)) OVER (ORDER BY last) AS before"
            " FROM groups) WHERE first != before + 1 OR first > last",
            self.done_seq,
        )
        (count,) = self._file.ask("SELECT count(*) FROM groups")
        if holes or (not count and self.done_seq < self.last_seq):
            raise self._file.lose("is damaged: its numbers do not follow each other")
        return dict(self._file.rows("SELECT last, first FROM groups WHERE is_gap AND last > ?", self.done_seq))

    def _last_mark(self) -> Mark:
        rows = self._file.rows("SELECT at_s, wall_s FROM groups WHERE at_s IS NOT NULL ORDER BY last DESC LIMIT 1")
        return Mark(*rows[0]) if rows else Mark(0, None)


def _fitting(messages: Sequence[Message]) -> int:
    """How many of them, from the front, one commit takes: one at least."""
    size = 0
    for count, message in enumerate(messages):
        size += cost(message) if len(message.data) <= MESSAGE_BYTES_MAX else 0
        if size > GROUP_BYTES_MAX and count:
            return count
    return len(messages)
