"""A second, naive engine: what DESIGN and ``phases`` say, told from the whole history at every tick.

It keeps no ledger and shares no code with the engine: budgets and limits are counted over all that was done.
Plain rules only (no ``foreach``), outcomes at the end of the tick in which they were decided.
"""

from __future__ import annotations

from dataclasses import dataclass, field

RANK = {"stop": 5, "rollback": 4, "skip_step": 3, "scale_lr": 2, "reweight": 1, "notify": 0}
CORRECTIONS = {"rollback", "scale_lr", "reweight"}
FREE = {"skip_step", "notify"}


@dataclass
class Plan:
    """One rule: its rungs hold one action each. ``approve``: for how long it asks, and what silence means."""

    name: str
    ladder: tuple[str, ...]
    needed: int
    cooldown: int
    acts: int
    per: int
    max: int | None
    within: int | None
    observe: bool
    group: str | None = None
    approve: tuple[int, str] | None = None

    @property
    def last_resort(self) -> bool:
        return len(self.ladder) > 1 and self.ladder[-1] in ("stop", "notify")


@dataclass
class Story:
    """All that happened to one rule. ``done`` are the ticks charged, ``due`` is the end of its window."""

    plan: Plan
    phase: str = "inactive"
    seen: int = 0
    rung: int = 0
    began: int = 0
    rested: int | None = None
    silent_until: int = 0
    must_clear: bool = False
    unproven: bool = False
    done: list[int] = field(default_factory=list)
    due: int | None = None
    asked: tuple[int, int] | None = None
    """Since when it asks, and for which rung."""
    reply: str | None = None

    def broke(self, tick: int) -> bool:
        inside = sum(1 for past in self.done if past > tick - self.plan.per)
        return inside >= self.plan.acts or (self.plan.max is not None and len(self.done) >= self.plan.max)


class ReferenceEngine:
    """Says at each tick its decisions, as (rule, kind, action), and verdicts, as (rule, result).

    ``quiet`` is after how long a rule starts anew, ``start`` how long none acts at the start. ``answers`` are
    what came of questions, as (rule, reply).
    """

    def __init__(self, plans: list[Plan], limit: tuple[int, int] | None, quiet: int, start: int = 0) -> None:
        self.quiet = quiet
        self.start = start
        self.off = False
        self.answers: list[tuple[str, str]] = []
        self.stories = [Story(plan) for plan in plans]
        self.limit = limit
        self.corrections: list[int] = []
        self.observing = False
        self.acted_at = -1
        self.row = 0

    def acted(self, tick: int, action: str) -> None:
        """Count the ticks in a row at which nothing was done but to skip a step."""
        before = self.row if self.acted_at == tick - 1 else 0
        self.acted_at, self.row = tick, before + 1 if action == "skip_step" else 0

    def told(self, command: str) -> None:
        """``off`` or ``on``; ``yes`` or ``no`` to all that ask."""
        if command in ("off", "on"):
            self.off = command == "off"
        else:
            for story in self.stories:
                if story.asked is not None and story.reply is None:
                    story.reply = command

    def tick(
        self, tick: int, holds: list[bool | None], fresh: list[bool], helped: bool | None, status: str
    ) -> tuple[list[tuple[str, str, str]], list[tuple[str, str]]]:
        verdicts = self.close_due(tick, helped)
        wishes = []
        for place, story in enumerate(self.stories):
            fired = story.phase == "firing"
            wants = self.wants(story, tick, holds[place], fresh[place])
            if fired and not wants:
                self.lapse(story)
            if wants:
                rung = self.affordable(story, tick)
                wishes.append((1 if rung is None else -RANK[story.plan.ladder[rung]], place, rung))
        decisions: list[tuple[str, str, str]] = []
        actor: tuple[Story, int] | None = None
        busy = skipped = False
        for _, place, rung in sorted(wishes, key=lambda wish: wish[:2]):
            story = self.stories[place]
            action = "" if rung is None else story.plan.ladder[rung]
            if busy or (skipped and self.row < 2):
                continue
            if rung is not None and self.held_back(story, action, tick):
                continue
            if (
                action in CORRECTIONS
                and not (self.observing or self.off or story.plan.observe)
                and self.beyond_limit(tick)
            ):
                self.observing = True
                decisions.append(("limits", "observe", ""))
            if rung is not None and story.plan.approve and not (self.watches or story.plan.observe):
                rung = self.approved(story, rung, tick, decisions)
                if rung is None:
                    continue
                action = story.plan.ladder[rung]
            self.begin_turn(story, verdicts)
            asked = rung is not None and story.plan.approve and not (self.watches or story.plan.observe)
            if asked and not (story.plan.last_resort and rung == len(story.plan.ladder) - 1):
                story.rung = rung
            if rung is None:
                story.phase = "exhausted"
            elif self.watches or story.plan.observe:
                if self.watches:
                    busy = action != "skip_step"
                    skipped = True
                    self.acted(tick, action)
                self.lapse(story)
                decisions.append((story.plan.name, "observe", action))
                self.take(story, rung, tick)
                story.unproven = False
                story.must_clear = story.phase == "cooldown" and action != "skip_step"
            else:
                busy = True
                self.acted(tick, action)
                actor = (story, rung)
                decisions.append((story.plan.name, "act", action))
        if actor is not None:
            verdicts += self.outcome(*actor, tick, status)
        return decisions, verdicts

    @property
    def watches(self) -> bool:
        return self.observing or self.off

    def lapse(self, story: Story) -> None:
        if story.asked is not None:
            story.asked = story.reply = None
            self.answers.append((story.plan.name, "lapsed"))

    def held_back(self, story: Story, action: str, tick: int) -> bool:
        if self.start and tick <= self.start and action not in FREE:
            return True
        others = [s for s in self.stories if s is not story and s.plan.group == story.plan.group]
        return story.plan.group is not None and any(
            other.phase == "cooldown" or other.due is not None for other in others
        )

    def approved(
        self, story: Story, rung: int, tick: int, decisions: list[tuple[str, str, str]]
    ) -> int | None:
        """The rung that was said yes to, if it was."""
        assert story.plan.approve is not None
        within, silence = story.plan.approve
        if story.asked is None:
            story.asked = (tick, rung)
            decisions.append((story.plan.name, "awaiting_approval", story.plan.ladder[rung]))
            return None
        since, asked = story.asked
        reply = story.reply or (silence if tick - since >= within else None)
        if reply is None:
            return None
        story.asked = story.reply = None
        self.answers.append((story.plan.name, reply))
        if reply == "yes":
            return asked
        story.phase, story.silent_until, story.must_clear = "cooldown", tick + story.plan.cooldown, True
        return None

    def affordable(self, story: Story, tick: int) -> int | None:
        plan, last, rung = story.plan, len(story.plan.ladder) - 1, self.rung_of(story)
        if rung > last:
            return None
        if plan.last_resort and rung == last:
            return rung
        if story.broke(tick):
            return last if plan.last_resort else None
        return rung

    def beyond_limit(self, tick: int) -> bool:
        if self.limit is None:
            return False
        acts, per = self.limit
        return sum(1 for past in self.corrections if past > tick - per) >= acts

    def close_due(self, tick: int, helped: bool | None) -> list[tuple[str, str]]:
        verdicts = []
        for story in self.stories:
            if story.due is None or story.due > tick:
                continue
            story.due = None
            story.must_clear = False
            result = {True: "helped", False: "did_not_help", None: "inconclusive"}[helped]
            verdicts.append((story.plan.name, result))
            if helped:
                story.rung, story.unproven = 0, False
            elif helped is False:
                story.rung, story.unproven, story.silent_until = story.rung + 1, False, tick
        return verdicts

    def wants(self, story: Story, tick: int, holds: bool | None, fresh: bool) -> bool:
        if story.phase == "cooldown":
            if holds is False:
                story.must_clear = False
            if tick < story.silent_until or story.must_clear:
                return False
            story.phase, story.rested = "inactive", tick
        if story.phase == "exhausted":
            if holds is False and not story.broke(tick):
                story.phase, story.rested = "inactive", tick
            return False
        if holds is None:
            return False
        if holds is False:
            if story.phase == "firing" and story.rested is None:
                story.rested = tick
            story.phase = "inactive"
            return False
        if story.phase == "inactive":
            story.phase, story.seen, story.began = "pending", 0, tick
        if story.phase == "pending":
            story.seen += 1 if fresh else 0
            if story.seen < story.plan.needed:
                return False
            story.phase = "firing"
        return True

    def rung_of(self, story: Story) -> int:
        plan = story.plan
        if story.due is not None:
            return story.rung + 1
        if story.rested is not None and story.began - story.rested >= max(self.quiet, plan.cooldown):
            return 0
        if story.unproven and plan.ladder[story.rung] != "skip_step":
            return min(story.rung + 1, len(plan.ladder) - 1)
        return story.rung

    def begin_turn(self, story: Story, verdicts: list[tuple[str, str]]) -> None:
        story.rung = self.rung_of(story)
        story.unproven = False
        story.rested = None
        if story.due is not None:
            story.due = None
            verdicts.append((story.plan.name, "did_not_help"))

    def take(self, story: Story, rung: int, tick: int) -> None:
        plan = story.plan
        if plan.last_resort and rung == len(plan.ladder) - 1:
            story.phase = "exhausted"
            if story.rung == rung:
                story.rung += 1
            return
        story.done.append(tick)
        story.phase = "cooldown"
        story.silent_until = tick + plan.cooldown
        story.must_clear = False
        story.unproven = True

    def outcome(self, story: Story, rung: int, tick: int, status: str) -> list[tuple[str, str]]:
        action = story.plan.ladder[rung]
        if status != "applied":
            story.rung, story.unproven = rung + 1, False
            return []
        self.take(story, rung, tick)
        if action not in CORRECTIONS:
            return []
        self.corrections.append(tick)
        verdicts = []
        for other in self.stories:
            if other.due is not None:
                other.due = None
                other.must_clear = False
                verdicts.append((other.plan.name, "inconclusive"))
        if story.plan.within is not None:
            story.due = tick + story.plan.within
            story.must_clear = action != "rollback"
        if action == "rollback":
            for other in self.stories:
                if other.phase in ("pending", "firing"):
                    other.phase = "inactive"
                self.lapse(other)
        return verdicts
