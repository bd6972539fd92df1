"""Every piece of work of a study, and quick answers about it: what can start, what waits for it, what is left.

All of it follows from the pieces and how they ended; nothing here decides, writes or remembers. Ten thousand trials are
answered as fast as ten, because each change touches only what depends on it. Torch-free.
"""

from __future__ import annotations

import bisect
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator

from tune.study.states import WorkState
from tune.study.task import Outcome, Piece, Work


class Backlog:
    """Pieces of work by key.

    Attributes:
        works: every one that was ever asked for.
        wanted: keys of those that the study asks for by now, in the order in which it asked.
        running: keys of those that an engine has.
    """

    def __init__(self) -> None:
        self.works: dict[str, Work] = {}
        self.wanted: dict[str, None] = {}
        self.running: set[str] = set()
        self._unfinished: set[str] = set()  # wanted, without an outcome
        self._waiting_builds: set[str] = set()
        self._ready: list[int] = []  # numbers of those that wait for nothing but a slot, ascending
        self._dependents: defaultdict[str, set[str]] = defaultdict(set)
        self._keys: dict[int, str] = {}
        self._labels: set[str] = set()
        self._num_builds: Counter[str] = Counter()
        self._made: set[str] = set()
        self._claimed: Counter[str] = Counter()
        self._trajectories: Counter[str] = Counter()
        self._lengths: defaultdict[str, set[str]] = defaultdict(set)  # trajectory -> keys of its generators' builds

    def state_of(self, key: str) -> WorkState:
        """Where a piece of work stands."""
        outcome = self.works[key].outcome
        if outcome is not None:
            return outcome.state
        return WorkState.RUNNING if key in self.running else WorkState.WAITING

    def add(self, work: Work) -> None:
        """Takes in a piece of work; one of the same key is a second try, and replaces the first."""
        before = self.works.get(work.key)
        if before is not None:
            self._not_ready(before)
        self.works[work.key] = work
        self._keys[work.number] = work.key
        self._labels.add(work.label)
        self._num_builds[work.piece.until] += before is None
        for need in work.piece.needs:
            self._dependents[need].add(work.key)
        if work.piece.trajectory is not None:
            self._lengths[work.piece.trajectory].add(work.key)
        if work.outcome is not None and work.outcome.state is WorkState.COMPLETE:
            self._made |= work.piece.makes
        self._refresh(work.key)

    def want(self, keys: Iterable[str]) -> None:
        """The study asks for these."""
        for key in keys:
            if key not in self.wanted:
                self.wanted[key] = None
                self._refresh(key)

    def unwant(self, key: str) -> None:
        """The study no longer asks for it."""
        self.wanted.pop(key, None)
        self._refresh(key)

    def start(self, work: Work) -> None:
        """An engine has it."""
        self.running.add(work.key)
        self._claim(work.piece, 1)
        self._refresh(work.key)

    def release(self, work: Work) -> None:
        """No engine has it any more, whether it has ended for good or not."""
        if work.key in self.running:
            self.running.discard(work.key)
            self._claim(work.piece, -1)
        self._refresh(work.key)

    def finish(self, work: Work, outcome: Outcome) -> None:
        """It has ended for good."""
        work.outcome = outcome
        if outcome.state is WorkState.COMPLETE:
            self._made |= work.piece.makes
        self._refresh(work.key)
        for key in self._dependents[work.key]:
            self._refresh(key)

    def stands(self, generator: str) -> None:
        """A generator has been built, by work that may still run: whoever needs this length need not wait for more."""
        self._made.add(generator)

    def shorter_lengths(self, piece: Piece) -> tuple[int, ...]:
        """Images at which others that have not ended want the generator that this piece trains, before its own end."""
        others = [other for other in self._trained_like(piece) if other.generator not in self._made]
        lengths = {other.target_images for other in others if other.target_images is not None}
        return tuple(sorted(images for images in lengths if images < (piece.target_images or 0)))

    def doomed_by(self, work: Work) -> Iterator[tuple[Work, Outcome]]:
        """What waits for a build that has ended without an artifact worth using, and how that ends."""
        outcome = work.outcome
        if outcome is None or outcome.state is WorkState.COMPLETE:
            return
        for key in sorted(self._dependents[work.key], key=lambda key: self.works[key].number):
            dependent = self.works[key]
            if dependent.outcome is None:
                yield dependent, Outcome(outcome.state, f"{work.label} {outcome.state}: {outcome.reason}")

    def first_ready(self, among: Container[str] | None = None) -> Work | None:
        """The first, in order of creation, whose needs are there and whose artifacts nobody builds now.

        Of a generator that is still to be trained the longest length that may start comes in its place: it leaves the
        shorter ones on its way.

        Args:
            among: keys that may start; None for any.
        """
        for number in self._ready:
            work = self.works[self._keys[number]]
            if (among is None or work.key in among) and self._is_free(work.piece):
                lengths = [] if work.piece.generator in self._made else self._trained_like(work.piece)
                longer = [piece for piece in lengths if among is None or piece.key in among]
                return self.works[max([work.piece, *longer], key=lambda piece: piece.target_images or 0).key]
        return None

    def waiting(self) -> list[Work]:
        """What is wanted, has not ended and does not run, in order of creation."""
        found = [self.works[key] for key in self._unfinished if key not in self.running]
        return sorted(found, key=lambda work: work.number)

    def has_waiting_build(self) -> bool:
        """Whether a build that somebody needs has not started."""
        return bool(self._waiting_builds)

    def unfinished(self, among: Container[str] | None = None) -> bool:
        """Whether anything that is wanted (among these keys) has not ended."""
        return any(among is None or key in among for key in self._unfinished)

    def label_for(self, piece: Piece, wish: str) -> str:
        """A name that no other piece of work has: what was wished for a student, a numbered noun for a build."""
        if piece.kind == "build":
            noun = "generator" if piece.until == "synthesis" else piece.until
            return f"{noun}-{self._num_builds[piece.until]}"
        number, label = 2, wish
        while label in self._labels:
            label, number = f"{wish}-{number}", number + 1
        return label

    def _refresh(self, key: str) -> None:
        """Brings what is derived for one piece of work up to date."""
        work = self.works[key]
        is_unfinished = key in self.wanted and work.outcome is None
        (self._unfinished.add if is_unfinished else self._unfinished.discard)(key)
        is_waiting = is_unfinished and key not in self.running
        is_build = is_waiting and work.piece.kind == "build"
        (self._waiting_builds.add if is_build else self._waiting_builds.discard)(key)
        self._not_ready(work)
        if is_waiting and all(self._is_complete(need) for need in work.piece.needs):
            bisect.insort(self._ready, work.number)

    def _not_ready(self, work: Work) -> None:
        place = bisect.bisect_left(self._ready, work.number)
        if place < len(self._ready) and self._ready[place] == work.number:
            del self._ready[place]

    def _is_complete(self, key: str) -> bool:
        outcome = self.works[key].outcome
        return outcome is not None and outcome.state is WorkState.COMPLETE

    def _is_free(self, piece: Piece) -> bool:
        """Nobody builds what it makes, nor trains another length of a generator that it would train."""
        if piece.trajectory is not None and self._trajectories[piece.trajectory] and piece.generator not in self._made:
            return False
        return all(digest in self._made or not self._claimed[digest] for digest in piece.makes)

    def _trained_like(self, piece: Piece) -> list[Piece]:
        """The builds of its trajectory that are wanted, have not ended and do not run."""
        keys = self._lengths[piece.trajectory] if piece.trajectory is not None else set()
        return [self.works[key].piece for key in keys if key in self._unfinished and key not in self.running]

    def _claim(self, piece: Piece, change: int) -> None:
        for digest in piece.makes:
            self._claimed[digest] += change
        if piece.trajectory is not None:
            self._trajectories[piece.trajectory] += change
