"""What each key of a policy, and of a test file, means: the words that an editor shows beside it.

Keys are named by their paths: through mappings by a point, through lists by nothing. What a monitor takes is
described by the docstring of its class. A key without words here is told by a test.
"""

from __future__ import annotations

from collections.abc import Mapping

from .actions import IN_ARMS

_POLICY = {
    "version": "Of the policy language.",
    "extends": "A shipped policy by its name, or a file beside this one: here stands what is changed.",
    "mode": "`act` changes the run; `observe` decides and records the same, and changes nothing: a dry run.",
    "signals": "The signals that you log yourself, such as eval/loss. A name may hold one star.",
    "snapshots": "The copies in memory that a rollback returns to.",
    "snapshots.keep": "How many are kept; they thin out with age. With 0 no rule may roll back.",
    "snapshots.reach": "How far back the oldest lies, in ticks.",
    "snapshots.max_overhead": "The share of run time that taking them may cost; the cadence follows from it.",
    "snapshots.every": "Fixes the cadence, in ticks, whatever it costs.",
    "snapshots.store": "In the host's memory, or on the device beside what they are copies of.",
    "checkpoints": "The durable checkpoints on disk, from which a run that died is resumed.",
    "checkpoints.every": "How often one is written, in ticks. Without it only acts have some written.",
    "checkpoints.keep": "How many of them stay, the newest good one besides.",
    "checkpoints.format": "Who writes the tensors. No rollback returns to what `accelerate` has written.",
    "monitors": "Streaming detectors by their names, which expressions use: `rise.bad`, `rise.score`.",
    "rules": "What is done when: the strongest act goes first, then the first in this list.",
    "limits": "A bound on the acts of all rules together that change the course of the run.",
    "limits.acts": "At most so many in any window of `per` ticks.",
    "limits.per": "The window, in ticks.",
    "limits.then": "What follows when one more is wanted.",
    "quiet": "Ticks in which rules only tell what they would do; skipping and recording are free of it.",
    "quiet.start": "So many from the start of the run.",
    "quiet.restart": "So many after a new process has gone on from a checkpoint.",
}
_RULES = {
    "rules.name": "A word of letters, digits, '-' and '_', for journal, metrics and messages.",
    "rules.when": "The condition that fires it, such as `blowup.bad or loss.z > 6`. Unknown does not fire.",
    "rules.unless": "While this is true the rule pauses: it neither counts nor acts.",
    "rules.foreach": "A monitor with a star: state, budget and cooldown for each instance, `this`.",
    "rules.for": "How many new measurements in a row `when` must hold.",
    "rules.cooldown": "Ticks after an act in which the rule does not look at its condition.",
    "rules.budget": "At most so many acts; beyond it only a last resort, or nothing.",
    "rules.budget.acts": "At most so many in any window of `per` ticks.",
    "rules.budget.per": "The window, in ticks.",
    "rules.budget.max": "At most so many in the whole run.",
    "rules.ladder": "Rungs of actions, each done as one act; where one did not help the next follows.",
    "rules.verify": "Whether an act helped; if not, the next rung follows without waiting for an alarm.",
    "rules.mode": "`observe` records what this rule would do, and changes nothing.",
    "rules.exclusive": "A word: of the rules that share it one is at work at a time, the others wait.",
    "rules.approve": "Acts wait until somebody says yes: midcourse approve RUN, or midcourse reject RUN.",
    "rules.approve.within": "Ticks after which silence is the answer.",
    "rules.approve.otherwise": "What silence means.",
    "verify.within": "Ticks after the act at which it is judged.",
    "verify.expect": "The condition that must hold then; may read `before.*`, and `target.*` of a rollback.",
}
_REGULATORS = {
    "regulators": "Continuous control on a cadence, below all that rules do.",
    "regulators.law": "How an update goes: what the shares of the sources, or a factor, become.",
    "regulators.signal": "What it goes by; with a star, one of each source.",
    "regulators.every": "How often it is updated, in ticks.",
    "regulators.floor": "The least share of a source, or the least factor.",
    "regulators.ceiling": "The greatest share of a source, or the greatest factor.",
    "regulators.rate": "How far a share, or the factor, moves at most in one update.",
    "regulators.actuator": "What the factor is on: `lr`, or `weight/NAME` of a source.",
    "regulators.step": "How far one update goes in the exponent of the shares.",
    "regulators.smoothing": "How much of the new is taken in, or of equal shares mixed in: see the law.",
    "regulators.scale": "By how much a reward is divided.",
    "regulators.reference": "The losses to compare with: by source, or a file or finished run that has them.",
    "regulators.target": "Where the signal is to be held.",
    "regulators.gain": "How much of the distance, in logarithms, one update makes good.",
    "regulators.dead_band": "The relative distance from the target within which nothing moves.",
}
_HOLD = "Ticks that it holds; for good, if nothing is said."
_RAMP = "Ticks over which it fades afterwards."
_LADDER = {
    "ladder.skip_step": "The optimizer does not take this step; only where `when` is judged before it.",
    "ladder.stop": "Ends the run; the last good state is saved.",
    "ladder.checkpoint": "Writes a durable checkpoint.",
    "ladder.checkpoint.name": "What it is called; `rollback: {to: {checkpoint: NAME}}` returns to it.",
    "ladder.reset_moments": "The optimizer forgets its moments.",
    "ladder.notify": "Tells a person.",
    "ladder.notify.message": "What is told.",
    "ladder.notify.url": "Where it is posted to, as JSON.",
    "ladder.scale_lr": "Multiplies the learning rate, on top of its schedule.",
    "ladder.scale_lr.factor": "By how much, at most tenfold.",
    "ladder.scale_lr.hold": _HOLD,
    "ladder.scale_lr.ramp": _RAMP,
    "ladder.restore_lr": "Lowers the learning rate by as much as it has risen.",
    "ladder.restore_lr.hold": _HOLD,
    "ladder.restore_lr.ramp": _RAMP,
    "ladder.set_lr": "Sets the learning rate, in place of its schedule.",
    "ladder.set_lr.to": "To how much.",
    "ladder.set_lr.hold": _HOLD,
    "ladder.set_lr.ramp": _RAMP,
    "ladder.reweight": "Changes how often a data source is drawn from: `to` a weight, or `scale` it.",
    "ladder.reweight.source": "The source; `this` is the instance of a rule with `foreach`.",
    "ladder.reweight.to": "The weight itself; 0 leaves the source out.",
    "ladder.reweight.scale": "A factor on its weight.",
    "ladder.reweight.hold": _HOLD,
    "ladder.reweight.ramp": _RAMP,
    "ladder.rollback": "Back to a good snapshot or checkpoint.",
    "ladder.rollback.to": "The newest good state before the change began, or of all; or {steps: n} back.",
    "ladder.rollback.to.steps": "So many training steps back.",
    "ladder.rollback.to.checkpoint": "The one of this name.",
    "ladder.trial": "Runs several corrections, and none, on the same batches from one state; keeps the best.",
    "ladder.trial.arms": "What is tried: lists of actions, by name. Doing nothing is always tried too.",
    "ladder.trial.steps": "For how many training steps each is run.",
    "ladder.trial.judge": "The number that they are compared by, such as `loss.value`: less is better.",
    "ladder.trial.from": "Where all of them begin.",
    "ladder.rollback.data": "Data since then is skipped, or taken again without the guilty batches, or all.",
}
_ARMS = {
    f"arms.{key.removeprefix('ladder.')}": words
    for key, words in _LADDER.items()
    if key.split(".")[1] in IN_ARMS
}
POLICY: Mapping[str, str] = {**_POLICY, **_REGULATORS, **_RULES, **_LADDER, **_ARMS}
"""Of a policy."""

_TICK = "The tick; or {from: a, to: b}, both included."
_EXPECTED = {
    "rule": "The rule's name; `limits` is the policy's own bound.",
    "instance": "Of a rule with `foreach`: which one.",
    "tick": _TICK,
    "tick.from": "The first tick.",
    "tick.to": "The last tick.",
}


def _under(path: str, words: Mapping[str, str]) -> dict[str, str]:
    return {f"{path}.{key}": said for key, said in words.items()}


TEST: Mapping[str, str] = {
    "policy": "The policy under test: a file beside this one, or the bare name of a shipped policy.",
    "tests": "Each is a run of its own, and what is expected of the policy on it.",
    "tests.name": "What it tests, in words.",
    "tests.series": "What the run measures at each tick, by signal, from tick 1: '2x300 9x40', '1+0.5x10', "
    "'_x5' (not measured), 'nan', 'inf'. The longest one says how long the run is.",
    "tests.noise": "Gaussian noise on the written values, relative to them: for all, or by signal.",
    "tests.seed": "Of the noise.",
    "tests.snapshots": "Of the simulated run.",
    "tests.snapshots.every": "Ticks from one snapshot to the next, unless the policy fixes it.",
    "tests.outcomes": "What becomes of acts, if not that they are applied. The first that fits counts.",
    **_under("tests.outcomes", _EXPECTED),
    "tests.outcomes.rung": "Only of acts of this rung, counted from 0.",
    "tests.outcomes.status": "What became of the act.",
    "tests.outcomes.reason": "In words.",
    "tests.commands": "What the policy is told from outside, after the sample of a tick.",
    "tests.commands.tick": "The tick.",
    "tests.commands.command": "What it is told.",
    "tests.commands.decision": "The id of the decision that `approve` or `reject` answers.",
    "tests.run": "A recorded run in place of series: a log of any tool, or a run's folder or journal.",
    "tests.columns": "Of a log: signal -> column, where the name does not tell.",
    "tests.step": "Of a log: the column of the training step.",
    "tests.decisions": "All decisions, in order; only written keys are compared. [] claims that there are "
    "none. Suppressed ones count only for rules of which one is expected here.",
    **_under("tests.decisions", _EXPECTED),
    "tests.decisions.step": "The training step, which rewinds with the data.",
    "tests.decisions.disposition": "What becomes of the decision.",
    "tests.decisions.rung": "Of the ladder, counted from 0.",
    "tests.decisions.actions": "All actions of the rung, by name, or as {name: {parameter: value}}.",
    "tests.decisions.reason": "Words that its reason holds.",
    "tests.verdicts": "All verdicts, in order. [] claims that there are none.",
    **_under("tests.verdicts", _EXPECTED),
    "tests.verdicts.result": "Whether the act helped.",
    "tests.verdicts.reason": "Words that its reason holds.",
    "tests.phases": "In which phase a rule is after a tick.",
    **_under("tests.phases", {key: _EXPECTED[key] for key in ("rule", "instance")}),
    "tests.phases.tick": "The tick.",
    "tests.phases.phase": "The phase.",
}
"""Of a file that tests a policy."""
