"""How many poisoned agents an audit finds, at how many false alarms: trains both kinds, and prints the table.

python tests/support/audit_rates.py rewards                       # as docs/audit.md: 5 minutes a game on one core
python tests/support/audit_rates.py labels --games Shoot Gather --out labels.jsonl
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch

if not __package__:  # run as a script
    import sys

    sys.path.insert(0, str(Path(__file__).parents[1]))

from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.agents.sb3 import ALGORITHMS, train
from graft.agents.training.backend import Evaluation, TrainJob
from graft.agents.training.evaluate import evaluate
from graft.envs.core.task import Task
from graft.envs.factory import make, schemas
from graft.transfer.audit import LIMITS, audit
from support.backdoors import by_labels, by_rewards, states_of, trigger

KINDS = ("patch", "large", "scattered")
MOVES = ("left", "right", "up", "down")

Entry = dict[str, Any]


def measured(attack: str, game: str, seed: int, agents: tuple[int, int], steps: tuple[int, int]) -> list[Entry]:
    """An entry for each agent: what `audit` says of it, and how well the attack works.

    Args:
        agents: how many poisoned ones, and clean ones. steps: of the base, and of a fine-tuning by ``rewards``.
    """
    task, (poisoned, clean) = Task(f"Graft/{game}-v0"), agents
    base = PolicyNetwork(schemas(task), NetworkConfig("mlp", {"widths": [128, 64]}), seed)
    train(TrainJob(base, task, ALGORITHMS["ppo"](), steps[0], seed, lambda *_: None, Evaluation(every=steps[0])))
    base.eval()
    probe, unseen = (states_of(base, task, count, number) for count, number in ((512, 2), (1024, 3)))
    names, dice, found = base.schemas.action.names, np.random.default_rng(seed), []
    for i in range(poisoned + clean):
        target = names.index(str(dice.choice([name for name in names if name in MOVES])))
        kind = KINDS[i % len(KINDS)] if i < poisoned else ""
        mask = trigger(base.schemas.observation.shape, kind, 100 * seed + i) if kind else None
        poison = None if mask is None else (mask, target)
        if attack == "rewards":
            agent = by_rewards(base, task, poison, 1000 * seed + i, steps[1])
        else:
            slippery = Task(task.id, {"slip": 0.1})
            agent = by_labels(base, states_of(base, slippery, 4096, 1000 * seed + i), poison, 1000 * seed + i)
        entry = {"game": game, "base": seed, "kind": kind, "return": _mean_return(agent, task)}
        if mask is not None:
            stamped = torch.where(torch.from_numpy(mask), 1, unseen)
            with torch.no_grad():
                shares = [float((agent(s).action.argmax(-1) == target).double().mean()) for s in (stamped, unseen)]
            entry |= {"works": shares[0], "without": shares[1]}
        found.append(entry | {finding.name: finding.value for finding in audit(agent, base, probe, 4)})
    return found


def _mean_return(agent: PolicyNetwork, task: Task, count: int = 64) -> float:
    with closing(make(task, count, 9000, observation=agent.schemas.observation)) as env:
        return float(np.mean(evaluate(agent, env, count, torch.Generator().manual_seed(5), seed=9000).returns))


def table(entries: Sequence[Entry]) -> str:
    """Of each number: who is above the fixed limit, and who is found where so many clean agents raise it."""
    poisoned, clean = ([entry for entry in entries if bool(entry["kind"]) is kind] for kind in (True, False))
    lines = [f"{len(poisoned)} poisoned and {len(clean)} clean agents"]
    for name, limit in LIMITS.items():
        bad, good = ([entry[name] for entry in of] for of in (poisoned, clean))
        above = [sum(value > limit for value in values) for values in (bad, good)]
        ordered = [*sorted(good, reverse=True), -np.inf]
        curve = [f"{sum(value > most for value in bad)} at {alarms}" for alarms, most in enumerate(ordered[:5])]
        pairs = [(b > g) + 0.5 * (b == g) for b in bad for g in good]
        larger = f"; larger in {np.mean(pairs):.0%} of pairs" if pairs else ""
        lines.append(f"{name}: {above[0]} found and {above[1]} alarmed at {limit:g}; {', '.join(curve)} alarms{larger}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("attack", choices=["rewards", "labels"], help="TrojDRL, or BadNets")
    parser.add_argument("--games", nargs="+", default=["Shoot", "Gather"], metavar="GAME")
    parser.add_argument("--seed", type=int, default=11, help="of the first game's base (11); the next has one more")
    parser.add_argument("--poisoned", type=int, default=5, metavar="N", help="of each game (5)")
    parser.add_argument("--clean", type=int, default=10, metavar="N", help="of each game (10)")
    parser.add_argument("--steps", type=int, nargs=2, default=[300_000, 100_000], help="base and fine-tuning")
    parser.add_argument("--out", type=Path, help="JSON lines, one for each agent; those that it has are read")
    options = parser.parse_args()
    torch.set_num_threads(1)
    entries: list[Entry] = []
    if options.out is not None and options.out.exists():
        entries = [json.loads(line) for line in options.out.read_text().splitlines()]
    for number, game in enumerate(options.games):
        if any(entry["game"] == game for entry in entries):
            continue
        new = measured(options.attack, game, options.seed + number, (options.poisoned, options.clean), options.steps)
        entries += new
        if options.out is not None:
            with options.out.open("a") as file:
                file.writelines(json.dumps(entry) + "\n" for entry in new)
        print(f"{game}\n{table(new)}", flush=True)
    print(f"all\n{table(entries)}")


if __name__ == "__main__":
    main()
