"""Synaptic intelligence: the path integral by hand on a quadratic, and what becomes of it at a task's end."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from support.tiny_tasks import MATCH, TASK, observations, small_network

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.training.backend import Batch
from graft.errors import GraftError
from graft.transfer.method import PART, State, TaskPosition
from graft.transfer.methods.si import SI

NAME = "encoder.blocks.0.1.bias"
STATES = Batch(observations(MATCH.observation, 1), torch.zeros(1, dtype=torch.long))
RATE, STEPS = 0.1, 3


def weight(network: PolicyNetwork) -> torch.nn.Parameter:
    """The one parameter that the tests train, (16,)."""
    return dict(network.named_parameters())[NAME]


def begin(network: PolicyNetwork) -> None:
    """Entries 0 and 1 at 1 and 2, all others at 0, the optimum."""
    with torch.no_grad():
        weight(network).zero_()
        weight(network)[:2] = torch.tensor([1.0, 2.0])


def descend(
    method: SI,
    network: PolicyNetwork,
    state: State,
    grads: Callable[[torch.Tensor], torch.Tensor] = lambda theta: theta,
    clip: float = 1.0,
) -> State:
    """Plain gradient descent, from 0.5 |theta|^2 if not said otherwise; ``clip`` scales what the method gives."""
    for _ in range(STEPS):
        theta = weight(network)
        step = method.gradients({NAME: grads(theta.detach()).clone()}, network, state, STATES)
        state = step.state
        with torch.no_grad():
            theta.sub_(RATE * clip * step.grads[NAME])
    return state


def ended(method: SI, network: PolicyNetwork, state: State, task: int = 0) -> State:
    return method.consolidate(network, state, STATES, TaskPosition(task, 3)).state


def omega(w: float, moved: float, xi: float = 0.1) -> float:
    return w / (moved**2 + xi)


def path(start: float) -> float:
    """theta_t = start * 0.9^t, so -g * dtheta = 0.1 * theta_t^2: the sum over three steps."""
    return 0.1 * start**2 * (1 + 0.9**2 + 0.9**4)


def test_path_integral_and_importance_by_hand():
    method, network = SI(), small_network(MATCH)
    begin(network)
    state = ended(method, network, descend(method, network, method.init(network, None)))
    expected = [omega(path(s), s * (1 - 0.9**3)) for s in (1.0, 2.0)]
    total = state[f"total.0.{NAME}"]
    assert total[:2].tolist() == pytest.approx(expected, rel=1e-5)
    assert not total[2:].any()
    assert torch.equal(state[f"anchor.0.{NAME}"], weight(network).detach())
    untouched = [t for name, t in state.items() if name.startswith("total.0.") and name != f"total.0.{NAME}"]
    assert untouched
    assert not any(t.any() for t in untouched)


def test_xi_is_in_the_denominator():
    method, network = SI(xi=2.0), small_network(MATCH)
    begin(network)
    state = ended(method, network, descend(method, network, method.init(network, None)))
    assert state[f"total.0.{NAME}"][0].item() == pytest.approx(omega(path(1.0), 1 - 0.9**3, 2.0), rel=1e-5)


def test_a_path_uphill_has_no_importance():
    """Where the loss rises along the way, as for entry 0 here, w is negative and omega is 0."""
    method, network = SI(), small_network(MATCH)
    state = method.init(network, None)
    for value in (0.0, 1.0):
        with torch.no_grad():
            weight(network)[0] = value
        state = method.gradients({NAME: torch.ones(16)}, network, state, STATES).state
    assert state[f"path.0.{NAME}"][0].item() == -1.0
    assert not ended(method, network, state)[f"total.0.{NAME}"].any()


def test_the_gradient_is_taken_before_clipping():
    """Clipping to half the length halves the steps, and the path has the full gradient: -g * dtheta = .05 theta^2."""
    method, network = SI(), small_network(MATCH)
    begin(network)
    state = ended(method, network, descend(method, network, method.init(network, None), clip=0.5))
    w = 0.05 * (1 + 0.95**2 + 0.95**4)
    assert state[f"total.0.{NAME}"][0].item() == pytest.approx(omega(w, 1 - 0.95**3), rel=1e-5)


def next_task(method: SI, network: PolicyNetwork, state: State) -> State:
    return method.init(network, Checkpoint.of(network, TASK, parts={PART: dict(state)}))


def test_the_penalty_moves_the_weights_but_is_not_in_the_path():
    """A task without a gradient: the penalty alone pulls, and nothing of that is importance for the task."""
    method, network = SI(strength=0.5), small_network(MATCH)
    begin(network)
    first = ended(method, network, descend(method, network, method.init(network, None)))
    state = next_task(method, network, first)
    with torch.no_grad():
        weight(network).add_(1.0)
    before = weight(network).detach().clone()
    state = descend(method, network, state, torch.zeros_like)
    assert not torch.equal(weight(network).detach(), before)
    second = ended(method, network, state, 1)
    assert torch.equal(second[f"total.0.{NAME}"], first[f"total.0.{NAME}"])


def test_what_it_gives_is_the_tasks_gradient_and_the_penaltys():
    method, network = SI(strength=0.5), small_network(MATCH)
    begin(network)
    state = ended(method, network, descend(method, network, method.init(network, None)))
    state = next_task(method, network, state)
    with torch.no_grad():
        weight(network)[0] += 0.5
    task = torch.full((16,), 3.0)
    step = method.gradients({NAME: task}, network, state, STATES)
    pull = 0.5 * float(state[f"omega.0.{NAME}"][0]) * 0.5
    assert pull > 0
    assert step.grads[NAME].tolist() == pytest.approx([3 + pull] + [3.0] * 15)
    assert step.penalty is not None
    assert step.penalty.item() == pytest.approx(pull * 0.5 / 2)
    assert torch.equal(step.state[f"grad.0.{NAME}"], task)


def test_importances_of_tasks_are_added_and_the_anchor_moves():
    method, network = SI(strength=0.0), small_network(MATCH)
    begin(network)
    first = ended(method, network, descend(method, network, method.init(network, None)))
    begin(network)  # the next task begins elsewhere than the first ended: Delta counts from here
    state = next_task(method, network, first)
    assert not state[f"path.0.{NAME}"].any()
    second = ended(method, network, descend(method, network, state), 1)
    twice = 2 * omega(path(1.0), 1 - 0.9**3)
    assert second[f"total.0.{NAME}"][0].item() == pytest.approx(twice, rel=1e-5)
    assert torch.equal(second[f"anchor.0.{NAME}"], weight(network).detach())
    scaled = torch.cat([t.flatten() for n, t in second.items() if n.startswith("omega.0.")])
    assert float(scaled.mean()) == pytest.approx(1, rel=1e-5)
    assert sorted({name.split(".")[0] for name in second}) == ["anchor", "omega", "raw", "total"]


def test_a_last_step_without_further_gradients_counts():
    """The step after the last minibatch is in the path when the task ends."""
    method, network = SI(), small_network(MATCH)
    begin(network)
    state = method.gradients({NAME: torch.ones(16)}, network, method.init(network, None), STATES).state
    with torch.no_grad():
        weight(network)[0] -= 0.5
    assert ended(method, network, state)[f"total.0.{NAME}"][0].item() == pytest.approx(omega(0.5, 0.5))


def test_the_state_that_was_given_is_left_alone():
    method, network = SI(), small_network(MATCH)
    begin(network)
    state = method.init(network, None)
    before = {name: t.clone() for name, t in state.items()}
    descend(method, network, state)
    assert all(torch.equal(t, before[name]) for name, t in state.items())


def test_it_watches_the_source_learn_and_needs_no_states():
    assert SI().watches_source
    assert SI.states == 0


@pytest.mark.parametrize("xi", [0.0, -1.0, float("inf")])
def test_xi_that_makes_no_sense(xi):
    with pytest.raises(GraftError, match="xi"):
        SI(xi=xi)


def test_the_importances_before_division_add_up_to_the_fall_of_the_loss():
    """0.5 theta^T A theta, small steps: sum_i w_i = -sum_t g_t . dtheta_t exactly, and the loss's fall nearly."""
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(16, 16, generator=generator)
    matrix = root @ root.T / 16 + torch.eye(16)
    method, network = SI(), small_network(MATCH)
    begin(network)
    state, exact, start = method.init(network, None), 0.0, weight(network).detach().clone()
    for _ in range(200):
        theta = weight(network)
        grad = matrix @ theta.detach()
        state = method.gradients({NAME: grad}, network, state, STATES).state
        with torch.no_grad():
            theta.sub_(0.005 * grad)
        exact += 0.005 * float(grad.double() @ grad.double())
    end = weight(network).detach()
    fall = 0.5 * float(start @ matrix @ start - end @ matrix @ end)
    path = method._path(network, state)
    assert float(sum(w.double().sum() for w in path.values())) == pytest.approx(exact, rel=1e-4)
    assert exact == pytest.approx(fall, rel=0.02)
    assert exact > fall, "left sums of a falling gradient are too large"
    total = ended(method, network, state)[f"total.0.{NAME}"]
    torch.testing.assert_close(total, path[NAME].clamp(min=0) / ((end - start).square() + 0.1))


def test_while_the_first_task_is_learned_nothing_is_added():
    method, network = SI(strength=100.0), small_network(MATCH)
    grads = {name: torch.ones_like(p) for name, p in network.named_parameters()}
    step = method.gradients(grads, network, method.init(network, None), STATES)
    assert step.penalty is None
    assert all(torch.equal(step.grads[name], g) for name, g in grads.items())


def test_a_task_that_was_not_watched():
    with pytest.raises(GraftError, match="SI must watch a task while it is learned"):
        ended(SI(), small_network(MATCH), {})
