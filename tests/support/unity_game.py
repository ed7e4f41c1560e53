"""A small game that speaks the protocol of Unity's ML-Agents: agents on a line walk to a target.

Run as ``python unity_game.py --mlagents-port 5004`` by a Python that has mlagents-envs, as Unity's builds are. Agents
are asked for an action every second step, which their number may shift; they get a new number in every episode.
"""

from __future__ import annotations

import argparse
import random
from typing import Any

import grpc
from mlagents_envs.communicator_objects.agent_info_pb2 import AgentInfoProto
from mlagents_envs.communicator_objects.brain_parameters_pb2 import ActionSpecProto, BrainParametersProto
from mlagents_envs.communicator_objects.observation_pb2 import ObservationProto
from mlagents_envs.communicator_objects.unity_message_pb2 import UnityMessageProto
from mlagents_envs.communicator_objects.unity_output_pb2 import UnityOutputProto
from mlagents_envs.communicator_objects.unity_rl_initialization_output_pb2 import UnityRLInitializationOutputProto
from mlagents_envs.communicator_objects.unity_rl_output_pb2 import UnityRLOutputProto
from mlagents_envs.communicator_objects.unity_to_external_pb2_grpc import UnityToExternalProtoStub

AGENTS, SPAN, STEPS, PERIOD, NAME = 4, 5, 21, 2, "Walker?team=0"


class Walker:
    """One agent; rewards are what it walked to the target, and 1 there. Episodes last `STEPS` steps, or end there."""

    numbers = 0

    def __init__(self, phase: int, sensors: str) -> None:
        self.phase, self.sensors = phase, sensors
        self.begin()

    def begin(self) -> None:
        self.number, Walker.numbers = Walker.numbers, Walker.numbers + 1
        self.place, self.target, self.steps, self.move = (
            random.randint(-SPAN, SPAN),
            random.randint(-SPAN, SPAN),
            0,
            0.0,
        )
        self.reward = 0.0

    def seen(self) -> list[Any]:
        found = [self._vector("VectorSensor_size2", [self.place / SPAN, self.target / SPAN])]
        if "sonar" in self.sensors:
            found.append(self._vector("Sonar", [(self.target - self.place) / SPAN]))
        if "camera" in self.sensors:
            picture = [float(column == round(self.place) + SPAN) for _ in range(8) for column in range(11)]
            data = ObservationProto.FloatData(data=picture)
            found.append(
                ObservationProto(name="Camera", shape=[8, 11, 1], dimension_properties=[2, 2, 1], float_data=data)
            )
        return found

    @staticmethod
    def _vector(name: str, values: list[float]) -> Any:
        data = ObservationProto.FloatData(data=values)
        return ObservationProto(name=name, shape=[len(values)], dimension_properties=[1], float_data=data)

    def info(self, done: bool = False, late: bool = False) -> Any:
        mask = [self.place <= -SPAN, False, self.place >= SPAN] if "mask" in self.sensors else []
        info = AgentInfoProto(
            reward=self.reward,
            done=done,
            max_step_reached=late,
            id=self.number,
            observations=self.seen(),
            action_mask=mask,
        )
        self.reward = 0.0
        return info

    def step(self, clock: int) -> list[Any]:
        """What the engine reports of it after a step."""
        before = abs(self.target - self.place)
        self.place = max(-SPAN, min(SPAN, self.place + self.move / PERIOD))
        self.steps += 1
        there, late = abs(self.place - self.target) < 0.5, self.steps == STEPS
        self.reward += before - abs(self.target - self.place) + there
        found = []
        if there or late:
            found = [self.info(True, late and not there)]
            self.begin()
        elif (clock + self.phase) % PERIOD == 0:
            found = [self.info()]
        return found


def play(port: int, sensors: str, fails_after: int) -> None:
    stub = UnityToExternalProtoStub(grpc.insecure_channel(f"127.0.0.1:{port}"))
    action = {"num_continuous_actions": 1}
    if "discrete" in sensors:
        action = {"num_discrete_actions": 1, "discrete_branch_sizes": [3]}
    brain = BrainParametersProto(brain_name=NAME, is_training=True, action_spec=ActionSpecProto(**action))
    begin = UnityRLInitializationOutputProto(
        name="Game", communication_version="1.5.0", package_version="2.1.0", brain_parameters=[brain]
    )
    walkers = [Walker(i if "shifted" in sensors else 0, sensors) for i in range(AGENTS)]
    asked: list[int] = []

    def exchange(output: Any = None) -> Any:
        message = UnityMessageProto()
        message.header.status = 200
        if output is not None:
            message.unity_output.CopyFrom(output)
        return stub.Exchange(message, wait_for_ready=True)

    exchange(UnityOutputProto(rl_initialization_output=begin))
    clock, message = 0, exchange()
    while message.header.status == 200:
        given = message.unity_input.rl_input
        if given.command == 1:  # a reset
            clock, infos = 0, []
            for walker in walkers:
                walker.begin()
                infos.append(walker.info())
        else:
            if fails_after == 0:
                return
            fails_after -= 1
            clock += 1
            by_number = {walker.number: walker for walker in walkers}
            for number, own in zip(asked, given.agent_actions[NAME].value):
                move = own.discrete_actions[0] - 1 if "discrete" in sensors else own.continuous_actions[0]
                by_number[number].move = move
            infos = [info for walker in walkers for info in walker.step(clock)]
        asked = [info.id for info in infos if not info.done]
        output = UnityRLOutputProto(agentInfos={NAME: UnityRLOutputProto.ListAgentInfoProto(value=infos)})
        parts = {"rl_initialization_output": begin} if given.command == 1 else {}
        message = exchange(UnityOutputProto(rl_output=output, **parts))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--mlagents-port", type=int, default=5004)
    parser.add_argument("--sensors", default="")
    parser.add_argument("--fails-after", type=int, default=-1)
    given = parser.parse_args()
    play(given.mlagents_port, given.sensors, given.fails_after)
