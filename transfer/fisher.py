"""Importances of parameters, from per-sample gradients: diagonal Fisher information, and MAS's sensitivities."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from graft.agents.networks.policy_network import Outputs, PolicyNetwork, split_choices
from graft.errors import GraftError
from graft.transfer.divergence import evaluating
from graft.transfer.state import Tensors

CHUNK = 32
"""States per forward pass: so few that the per-sample gradients of a convolution stay in the cache."""

VARIANCE_FLOOR = 1e-6
"""Added to a Gaussian policy's variance, as in Continual World."""

Rows = Callable[[Outputs], Tensor]
"""``(outputs of N states) -> (N, K)``: K scalars of each state whose gradients are looked at."""

Power = Callable[[Tensor], Tensor]
"""What is averaged of a per-sample gradient, entry by entry, in place; must satisfy f(a * b) = f(a) * f(b)."""

Layers = dict[str, nn.Linear | nn.Conv2d]

PLAIN = (1, "zeros", tuple)
"""Groups, padding mode and type of padding of a convolution whose weights multiply its unfolded inputs."""


def diagonal_fisher(network: PolicyNetwork, observations: Tensor, names: Sequence[str]) -> Tensors:
    """Diagonal Fisher information of the policy on given states.

    Mean over states of E_a~pi[(d log pi(a|s) / d theta)^2], per sample. The expectation is exact: over all actions of
    a discrete policy (of each choice, where there are several at once); sum_d [(d mu_d)^2 + 2 (d sigma_d)^2] /
    (sigma_d^2 + 1e-6) of a Gaussian one, also of one that is squashed afterwards. A greedy network's values count as
    the means of Gaussians of variance 1.

    Args:
        observations: on-policy states of the task, (N, *obs_shape), raw as the environment gives them.
        names: parameters of ``network`` to look at.
    Returns:
        Name -> tensor of the parameter's shape, >= 0, in squared nats per squared unit of the parameter.
    Raises:
        GraftError: no states.
    Source: Kirkpatrick et al. 2017, eq. 3.
    """
    greedy, sizes = network.config.distribution == "greedy", network.schemas.action.sizes

    def rows(outputs: Outputs) -> Tensor:
        if outputs.log_std is not None:
            sigma = outputs.log_std.exp().expand_as(outputs.action)
            scale = (sigma.square() + VARIANCE_FLOOR).rsqrt().detach()
            return torch.cat([outputs.action * scale, math.sqrt(2) * sigma * scale], -1)
        if greedy:
            return outputs.action
        parts = split_choices(outputs.action, sizes)
        return torch.cat([(part.unsqueeze(1) * _factor(part.detach().softmax(-1))).sum(-1) for part in parts], -1)

    return _mean_over_samples(network, observations, names, rows, Tensor.square_)


def value_fisher(network: PolicyNetwork, observations: Tensor, names: Sequence[str]) -> Tensors:
    """Diagonal Fisher information of the value function, as the mean of a Gaussian of variance 1: E[(d V / d theta)^2].

    Arguments, shapes and errors as of `diagonal_fisher`; in squared units of the return.
    """
    return _mean_over_samples(network, observations, names, lambda outputs: outputs.value.unsqueeze(-1), Tensor.square_)


def policy_and_value_fisher(
    network: PolicyNetwork, observations: Tensor, names: Sequence[str], weight: float
) -> Tensors:
    """`diagonal_fisher` plus ``weight`` times `value_fisher`, which is brought to the same mean over all entries first.

    Returns count in nats and returns in whatever the task pays, so their sum alone would depend on its scale.

    Raises:
        GraftError: as of `diagonal_fisher`, or a weight for a value head that the algorithm does not train.
    """
    policy = diagonal_fisher(network, observations, names)
    if weight == 0:
        return policy
    if network.config.distribution is not None:
        raise GraftError(
            f"value_fisher={weight:g} is not allowed here: an algorithm with critics of its own does not train the "
            f"network's value head; leave it at 0, or use PPO or APPO."
        )
    value = value_fisher(network, observations, names)
    means = [torch.stack([t.double().sum() for t in part.values()]).sum() for part in (policy, value)]
    if means[1] == 0:
        return policy
    scale = weight * float(means[0] / means[1])
    return {name: t + scale * value[name] for name, t in policy.items()}


def _factor(pi: Tensor) -> Tensor:
    """Of probabilities (N, A), a factor (N, A - 1, A) of the logits' Fisher information: F^T F = diag(pi) - pi pi^T."""
    covariance = torch.diag_embed(pi) - pi.unsqueeze(2) * pi.unsqueeze(1)
    values, vectors = torch.linalg.eigh(covariance.double())  # ascending; the first is 0
    factor: Tensor = (vectors * values.clamp(min=0).sqrt().unsqueeze(1))[:, :, 1:].mT.to(pi)
    return factor


def sensitivities(network: PolicyNetwork, observations: Tensor, names: Sequence[str]) -> Tensors:
    """Mean over states of |d ||outputs||^2 / d theta|, with the action distribution's parameters as outputs.

    Outputs are the logits (or values), or the means and standard deviations of a Gaussian policy. Arguments, shapes and
    errors as of `diagonal_fisher`.

    Source: Aljundi et al. 2018, eq. 4.
    """

    def rows(outputs: Outputs) -> Tensor:
        squared = outputs.action.square().sum(-1, keepdim=True)
        if outputs.log_std is not None:
            squared = squared + (2 * outputs.log_std).exp().expand_as(outputs.action).sum(-1, keepdim=True)
        return squared

    return _mean_over_samples(network, observations, names, rows, Tensor.abs_)


def _mean_over_samples(
    network: PolicyNetwork, observations: Tensor, names: Sequence[str], rows: Rows, power: Power
) -> Tensors:
    """Mean over states of the sum over rows of ``power(d row / d theta)``, from per-sample gradients.

    For linear layers and convolutions from the layer's inputs and the gradients at its output, which one backward pass
    batched over the rows gives; for other parameters from `torch.func`.
    """
    if not len(observations):
        raise GraftError("No states were given; importances need the states of at least one rollout.")
    device = next(network.parameters()).device
    parameters = dict(network.named_parameters())
    total = {name: torch.zeros_like(parameters[name]) for name in names}
    layers = _layers(network, names)
    simple = {f"{prefix}.{part}" for prefix in layers for part in ("weight", "bias")}
    others = [name for name in names if name not in simple]
    with evaluating(network):
        for chunk in torch.split(observations, CHUNK):
            if layers:
                _add_layers(network, layers, chunk.to(device), rows, power, total)
            if others:
                _add_others(network, others, chunk.to(device), rows, power, total)
    return {name: value / len(observations) for name, value in total.items()}


def _layers(network: PolicyNetwork, names: Sequence[str]) -> Layers:
    """Linear layers and plain convolutions, by prefix, with a parameter in ``names``."""
    layers: Layers = {}
    for prefix, module in network.named_modules():
        if f"{prefix}.weight" not in names and f"{prefix}.bias" not in names:
            continue
        if type(module) is nn.Linear or (  # a subclass may do anything with its weights
            type(module) is nn.Conv2d and (module.groups, module.padding_mode, type(module.padding)) == PLAIN
        ):
            layers[prefix] = module
    return layers


@contextmanager
def _recorded(layers: Layers) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """Input and output of each layer during the forward passes inside, by prefix."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def record(prefix: str, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen[prefix] = (inputs[0].detach(), output)

    handles = [module.register_forward_hook(partial(record, prefix)) for prefix, module in layers.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _add_layers(network: PolicyNetwork, layers: Layers, obs: Tensor, rows: Rows, power: Power, total: Tensors) -> None:
    frozen = [p for layer in layers.values() for p in layer.parameters() if not p.requires_grad]
    for parameter in frozen:  # else autograd would leave the layer out
        parameter.requires_grad_(True)
    try:
        with torch.enable_grad(), _recorded(layers) as seen:
            values = rows(network(obs)).sum(0)
        every_row = torch.eye(len(values), device=values.device)
        outputs = [output for _, output in seen.values()]
        deltas = torch.autograd.grad(values, outputs, every_row, is_grads_batched=True, allow_unused=True)
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
    for (prefix, (inputs, _)), delta in zip(seen.items(), deltas, strict=True):
        if delta is not None:
            layer = layers[prefix]
            if isinstance(layer, nn.Conv2d):
                _add_convolution(layer, prefix, inputs, delta, power, total)
            else:
                _add_linear(prefix, inputs, delta, power, total)


def _add_linear(prefix: str, inputs: Tensor, delta: Tensor, power: Power, total: Tensors) -> None:
    """Add a linear layer's powers, from its inputs (N, in) and the gradients at its output (K, N, out)."""
    weight, bias = f"{prefix}.weight", f"{prefix}.bias"
    # A sample's gradient is the outer product of delta and inputs, and so is its power.
    powers = power(delta.clone()).sum(0)
    if weight in total:
        total[weight].addmm_(powers.T, power(inputs.clone()))
    if bias in total:
        total[bias] += powers.sum(0)


def _add_convolution(
    layer: nn.Conv2d, prefix: str, inputs: Tensor, delta: Tensor, power: Power, total: Tensors
) -> None:
    """Add a convolution's powers, from its inputs (N, C, H, W) and the gradients at its output (K, N, out, H', W')."""
    weight, bias = f"{prefix}.weight", f"{prefix}.bias"
    delta = delta.flatten(3)
    if weight in total:
        patches = nn.functional.unfold(inputs, layer.kernel_size, layer.dilation, layer.padding, layer.stride)  # type: ignore[arg-type]
        for row in delta:  # one at a time, so that the products stay in the cache
            total[weight] += power(torch.bmm(row, patches.mT)).sum(0).view_as(layer.weight)
    if bias in total:
        total[bias] += power(delta.sum(3)).sum((0, 1))


def _add_others(
    network: PolicyNetwork, names: Sequence[str], obs: Tensor, rows: Rows, power: Power, total: Tensors
) -> None:
    tensors = {name: t.detach() for name, t in [*network.named_parameters(), *network.named_buffers()]}
    chosen = {name: tensors.pop(name) for name in names}

    def row(chosen: Tensors, one: Tensor, k: Tensor) -> Tensor:
        scalars: Tensor = rows(functional_call(network, {**tensors, **chosen}, (one.unsqueeze(0),)))[0]
        return (scalars * k).sum()

    with torch.no_grad():
        count = rows(network(obs[:1])).shape[1]
    every_row = torch.eye(count, device=obs.device)
    per_sample = vmap(vmap(grad(row), in_dims=(None, None, 0)), in_dims=(None, 0, None))
    for name, gradients in per_sample(chosen, obs, every_row).items():
        # Where a row does not depend on a parameter, all of its zeros are one number.
        total[name] += power(gradients.contiguous()).sum((0, 1))
