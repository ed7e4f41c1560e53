"""Critics beside a network, their target and the temperature, as tensors by names that both backends share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn

from graft.errors import GraftError

CRITICS = "critics"
"""The part of a checkpoint that holds `CriticState.save`."""

ONLINE, TARGET, LOG_ALPHA = "online", "target", "log_alpha"
ENCODER, HEADS = "encoder", "heads"

CriticTensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class CriticState:
    """Reads and fills the critics of soft actor-critic in a learner.

    Names are ``online.encoder.<tensor>``, ``online.heads.<critic>.<layer>.<tensor>``, the same with ``target``, and
    ``log_alpha`` (1,). The first layer of a critic reads the encoder's features, then actions in [-1, 1].

    Attributes:
        online, target: modules of equal layout. log_alpha: logarithm of the coefficient of the entropy; ``learned``:
            whether training changes it.
        shared: whether the online critics read the network's own encoder, which is then not among the tensors.
        names: how names in the modules begin -> how these begin here, where not the same.
    """

    online: nn.Module
    target: nn.Module
    log_alpha: torch.Tensor
    learned: bool
    shared: bool
    names: Mapping[str, str] = field(default_factory=dict)

    def save(self) -> CriticTensors:
        """Copies on the CPU; a parametrised weight (`lora`) with its correction."""
        found = {f"{group}.{name}": _value(module, path) for group, module, name, path in self._entries()}
        if bool(self.log_alpha.isfinite().all()):
            found[LOG_ALPHA] = self.log_alpha.reshape(1)
        return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in found.items()}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Fill all but a fixed temperature; raises GraftError for critics of another layout."""
        places = {f"{group}.{name}": stored(module)[path] for group, module, name, path in self._entries()}
        given = {name: tensor for name, tensor in tensors.items() if name != LOG_ALPHA}
        wrong = sorted(given.keys() ^ places.keys())
        wrong += [name for name in sorted(given.keys() & places.keys()) if given[name].shape != places[name].shape]
        if wrong:
            raise GraftError(
                f"The critics of the source do not fit those of the algorithm (its options 'encoder' and 'critic'), "
                f"beginning with {wrong[0]}; give the options that the source was trained with, or use heads: fresh."
            )
        for name, place in places.items():
            place.copy_(given[name])
        if LOG_ALPHA in tensors and self.learned:
            self.log_alpha.copy_(tensors[LOG_ALPHA].reshape(self.log_alpha.shape))

    def _entries(self) -> list[tuple[str, nn.Module, str, str]]:
        """Group, module, name here and path in the module of every tensor."""
        entries = []
        for group, module in ((ONLINE, self.online), (TARGET, self.target)):
            for path in stored(module):
                start = next((start for start in self.names if path.startswith(start)), "")
                name = self.names.get(start, "") + path.removeprefix(start)
                if not (self.shared and group == ONLINE and name.startswith(f"{ENCODER}.")):
                    entries.append((group, module, name, path))
        return entries


def warmup_steps(warmup: float, budget: int) -> float:
    """Env steps of `Hooks.critic_warmup`."""
    return warmup * budget if warmup < 1 else warmup


@contextmanager
def without_gradients(module: nn.Module) -> Iterator[None]:
    """What is computed meanwhile depends on the module's parameters as on constants."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def stored(module: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers by path; of a parametrised weight the one that is corrected, under the weight's path."""
    found = {}
    for path, tensor in module.state_dict().items():
        owner, parametrised, rest = path.partition(".parametrizations.")
        attribute, _, which = rest.partition(".")
        if not parametrised:
            found[path] = tensor
        elif which == "original":
            found[f"{owner}.{attribute}"] = tensor
    return found


def _value(module: nn.Module, path: str) -> torch.Tensor:
    owner, _, attribute = path.rpartition(".")
    value = getattr(module.get_submodule(owner), attribute)
    assert isinstance(value, torch.Tensor)
    return value
