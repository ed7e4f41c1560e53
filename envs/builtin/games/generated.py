"""Generated: every episode draws its rules; what a thing does is shown by its attributes and by nothing else."""

from __future__ import annotations

from functools import lru_cache
from random import Random
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from graft.envs.builtin.engine.compile import inlined, jit
from graft.envs.builtin.engine.entities import MARK, MARKS
from graft.envs.builtin.engine.game import ACT, DOWN, GAMES, LEFT, RIGHT, UP, Game
from graft.envs.builtin.engine.mechanics import MOVEMENTS, TOUCHES
from graft.envs.builtin.engine.state import EMPTY, SIZE, State, below, neighbour, uniform
from graft.errors import GraftError

ID = "Graft/Generated-v0"

FOUR_WAYS, SIDEWAYS, JUMPS, HEADING = range(4)  # as in the choices of `controls`
STILL, FALLING, RISING, ACROSS, WANDERING, PATROLLING, CHASING, FLEEING = range(len(MOVEMENTS))
DEADLY, PICKUP, SOLID, PUSHABLE, GOAL, DOOR, TARGET, SUPPORT = range(len(TOUCHES))
KEY = len(TOUCHES)  # comes with doors
SLOW, USUAL, FAST = range(3)  # paces: half of the steps, every step, two cells a step

LAST = SIZE - 1
KINDS = 5  # the last is that of keys
KEYS = KINDS - 1
SHOT, GROUND = KINDS + 1, KINDS + 2  # codes of cells; kind k is k + 1
WALKERS = 16
FACES = 8  # of a walker: its direction, and so many times its kind
START = 3  # least distance of anything from the player at the start, in steps
JUMP = 3  # cells that a jump rises
STOREYS = (7, 5, 3)  # rows with ledges, where the player jumps
SHOT_SPEED, RELOAD = 2, 2
ALIVE = 0.1  # reward of each step survived in games in which there is nothing else to gain
ROAD_HALF = 2  # a road is at most this wide on each side of its middle

# Places in the memo
CONTROL, SURVIVAL, HELD, READY, JUMPING, FACING, COUNT, ARMED, STREAMS, MIDDLE, EARNED, MISSED, SET, TOTAL = range(14)
KIND = 14  # the first of those of kind 0
MOVEMENT, TOUCH, PACE, SIDE, RATE, AMOUNT, KEEN, ROAD, MISSING, SHOWN, MARKED = range(11)
WIDTH = MARKED + 8  # of each kind: its rules, how many are to appear again, how many planes show it, and which

# Rewards are summed up in hundredths in the memo.
TAKEN, OPENED, LANDED, DEATH = 100, 50, -50, -100

THINGS = ("player", *(f"{MARK}{word}" for word in MARKS))
PLANE = {word: THINGS.index(f"{MARK}{word}") for word in MARKS}


TOUCH_WORDS = (
    ("deadly",),
    ("pickup", "reward"),
    ("solid",),
    ("pushable", "solid"),
    ("goal", "reward"),
    ("locked", "reward", "solid"),
    ("deadly", "target"),
    ("solid", "support"),
    ("pickup", "reward", "tool"),
)
MOVEMENT_WORDS = (
    (),
    ("falling", "mobile"),
    ("rising", "mobile"),
    ("mobile",),  # and `leftward` or `rightward`
    ("wandering", "mobile"),
    ("patrolling", "mobile"),
    ("chasing", "mobile"),
    ("fleeing", "mobile"),
)
IS_DIRECTION, IS_SOLID, IS_SUPPORT = (THINGS.index(f"{MARK}{word}") for word in ("direction", "solid", "support"))
SHOT_PLANES = tuple(THINGS.index(f"{MARK}{word}") for word in ("fast", "mobile", "projectile", "rising"))

CONTROL_WEIGHTS = (5, 2, 2, 1)
MOVEMENT_WEIGHTS = (6, 2, 1, 2, 2, 2, 2, 2)  # things that stand still are three times as likely
TOUCH_WEIGHTS = (5, 5, 3, 1, 1, 1, 2, 0)  # a support is drawn where the player jumps
SENSIBLE: tuple[tuple[int, ...], ...] = (
    (STILL, FALLING, RISING, ACROSS, WANDERING, PATROLLING, CHASING),
    (STILL, FALLING, RISING, ACROSS, WANDERING, PATROLLING, FLEEING),
    (STILL, PATROLLING, WANDERING),
    (STILL,),
    (STILL, WANDERING, PATROLLING, FLEEING),
    (STILL, WANDERING),
    (FALLING, ACROSS, WANDERING, PATROLLING, CHASING, FLEEING),
    (STILL,),
)
"""Movements of each touch that make a game; others are drawn only where none of these is left."""
FROM_ABOVE = (DEADLY, PICKUP, TARGET)  # what may come down on a player who stays on the lowest row
GAINS = (PICKUP, GOAL, DOOR, TARGET)
FLOWING = (FALLING, RISING, ACROSS)  # what enters on one side and leaves on the other
BLOCKING = 1 << SOLID | 1 << PUSHABLE | 1 << DOOR | 1 << SUPPORT
ROADS = 0.25  # share of what falls and kills that leaves a winding road free
RULES = 2048  # sets of rules that are drawn, of which those count that make a game
MAX_STEPS = 200

# Drawing by learnability: columns of the scores of a set of rules
PLAYED, MEAN, LOWEST, HIGHEST = range(4)  # episodes, and returns: the mean of late, the least and the most of all
BY_SCORE = 0.5  # share of the episodes that are drawn so
CANDIDATES = 8  # sets of which the one with the highest learnability is played
UNKNOWN = 3  # a set that was played less often counts as most learnable
RECENT = 10  # episodes that a mean goes over, about


class _Space(NamedTuple):
    """The settings that rules are drawn from."""

    controls: int
    movements: int
    touches: int
    ban: int
    kinds: int


# Drawing rules


def _bits(number: int) -> list[int]:
    return [k for k in range(8) if (number >> k) & 1]


class _Draw:
    """Draws sets of rules under the settings ``p``."""

    def __init__(self, p: Any) -> None:
        self.random = Random(0).random  # whose numbers are the same in every version of Python
        self.controls = _bits(p.controls)
        banned = [(p.ban >> (56 - 8 * touch)) & 255 for touch in range(len(TOUCHES))]
        moves = {touch: _bits(p.movements & ~banned[touch]) for touch in _bits(p.touches)}
        sensible = {touch: [m for m in its if m in SENSIBLE[touch]] for touch, its in moves.items()}
        self.movements = {touch: sensible[touch] or its for touch, its in moves.items() if its}
        self.kinds = p.kinds

    def row(self) -> tuple[list[int], bool]:
        """Memo of an episode with these rules, and whether they make a game: something to gain, or to keep clear of."""
        self.memo = [0] * (KIND + KINDS * WIDTH)
        for k in range(KINDS):
            self.memo[KIND + k * WIDTH + TOUCH] = -1
        control = self.memo[CONTROL] = self._control()
        kinds = [SUPPORT] if control == JUMPS and SUPPORT in self.movements else []
        among = [t for t in self.movements if TOUCH_WEIGHTS[t]] or list(self.movements)
        if control == SIDEWAYS:
            among = [t for t in among if t in FROM_ABOVE] or among
        count = self._from(1, self.kinds + 1)
        kinds += [self._weighted(among, TOUCH_WEIGHTS) for _ in range(count - len(kinds))]
        for k, touch in enumerate(kinds):
            self._kind(k, touch)
        if DOOR in kinds:
            self._kind(KEYS, KEY)
        gains = any(touch in GAINS for touch in kinds)
        self.memo[SURVIVAL] = 0 if gains else round(100 * ALIVE)
        self.memo[ARMED] = TARGET in kinds
        moves = [self.memo[KIND + k * WIDTH + MOVEMENT] for k in range(len(kinds))]
        self.memo[STREAMS] = any(m in FLOWING for m in moves)
        harms = any(
            touch == DEADLY and (control == HEADING or m not in (STILL, FLEEING))
            for touch, m in zip(kinds, moves, strict=True)
        )
        return self.memo, gains or harms

    def _from(self, first: int, end: int) -> int:
        """A whole number from ``first`` to below ``end``."""
        return first + int(self.random() * (end - first))

    def _weighted(self, among: list[int], weights: tuple[int, ...]) -> int:
        left = self.random() * sum(weights[one] for one in among)
        for one in among:
            left -= weights[one]
            if left < 0:
                return one
        return among[-1]

    def _control(self) -> int:
        """How the player moves; sideways only where something can come down."""
        comes = any(FALLING in self.movements.get(touch, ()) for touch in FROM_ABOVE)
        fit = [control for control in self.controls if control != SIDEWAYS or comes]
        return self._weighted(fit or self.controls, CONTROL_WEIGHTS)

    def _kind(self, k: int, touch: int) -> None:
        """Kind ``k``: its movement and pace, how many there are or how often one enters, and how it is shown."""
        at, control = KIND + k * WIDTH, self.memo[CONTROL]
        allowed = [STILL] if touch == KEY else self.movements[touch]
        movement = FALLING if control == SIDEWAYS and FALLING in allowed else self._weighted(allowed, MOVEMENT_WEIGHTS)
        keen, side = 25 * self._from(1, 5), self._from(LEFT, RIGHT + 1)
        pace, amount, rate, road = USUAL, 0, 0, 0
        if movement in FLOWING:
            pace = self._from(SLOW, FAST + 1)
            road = int(touch == DEADLY and movement == FALLING and control <= SIDEWAYS and self.random() < ROADS)
            rate = self._from(200, 800 if touch == TARGET else 1200) // (2 if pace == FAST else 1)
        elif movement != STILL:
            pace = SLOW if touch in (DEADLY, TARGET) or movement == FLEEING else self._from(SLOW, USUAL + 1)
            amount = self._from(1, 4 if movement == CHASING else 6)
        else:
            amount = 1 if touch in (GOAL, DOOR, KEY) else self._from(2, 9 if touch == PICKUP else 14)
        words = [*TOUCH_WORDS[touch], *MOVEMENT_WORDS[movement]]
        words += [("leftward", "rightward")[side - LEFT]] if movement == ACROSS else []
        words += ["wandering"] if movement in (CHASING, FLEEING) and keen < 100 else []
        words += [("slow", "", "fast")[pace]] if movement != STILL and pace != USUAL else []
        planes = [THINGS.index(f"{MARK}{word}") for word in words]
        own = [movement, touch, pace, side, rate, amount, keen, road, 0, len(planes), *planes]
        self.memo[at : at + len(own)] = own


@lru_cache(maxsize=32)
def _table(controls: int, movements: int, touches: int, ban: int, kinds: int) -> NDArray[np.int64]:
    draw = _Draw(_Space(controls, movements, touches, ban, kinds))
    if not draw.movements:
        raise GraftError(
            f"{ID}: movements, touches and ban leave no thing to draw; allow a movement and a touch whose combination "
            "is not banned."
        )
    drawn = [draw.row() for _ in range(RULES)]
    games = [row for row, is_game in drawn if is_game]
    return np.array(games or [row for row, _ in drawn], np.int64)


def table(p: Any) -> NDArray[np.int64]:
    """Sets of rules of the space that ``p`` leaves, one of which each episode draws.

    Raises GraftError for none, and for levels where what is drawn depends on what was played.
    """
    if p.sampling and p.levels:
        raise GraftError(f"{ID}: sampling=learnability draws no levels; leave levels out, or sampling.")
    return _table(p.controls, p.movements, p.touches, p.ban, p.kinds)


# Laying out a board


@inlined
def touch_of(s: State, i: int, code: int) -> int:
    """What the thing in a cell does; -1 for none and for shots."""
    if code == GROUND:
        return SUPPORT
    return int(s.memo[i, KIND + (code - 1) * WIDTH + TOUCH]) if 1 <= code <= KINDS else -1


@inlined
def blocks(s: State, i: int, r: int, c: int) -> bool:
    """Whether what is in a cell keeps out who does not push or open it, and holds who stands on it."""
    touch = touch_of(s, i, s.cells[i, r, c])
    return touch >= 0 and bool((BLOCKING >> touch) & 1)


@jit
def put(s: State, i: int, k: int, distance: int) -> tuple[int, int]:
    """Put a thing of kind ``k`` on a random empty cell at least so far from the player; where, or (-1, -1).

    Where the player jumps, still things are put above what it can stand on.
    """
    still = s.memo[i, CONTROL] == JUMPS and s.memo[i, KIND + k * WIDTH + MOVEMENT] == STILL
    for _ in range(100):
        r = below(s, i, SIZE)
        c = below(s, i, SIZE)
        far = abs(r - s.player[i, 0]) + abs(c - s.player[i, 1]) >= distance
        if far and s.cells[i, r, c] == EMPTY and (not still or (r < LAST and blocks(s, i, r + 1, c))):
            s.cells[i, r, c] = k + 1
            return r, c
    return -1, -1


@jit
def lay_ledges(s: State, i: int, code: int) -> None:
    """Two ledges in each storey."""
    for row in STOREYS:
        for _ in range(2):
            start = below(s, i, SIZE)
            for c in range(start, min(start + 2 + below(s, i, 3), SIZE)):
                s.cells[i, row, c] = code


@jit
def lay_stream(s: State, i: int, k: int) -> None:
    """Some of what enters later is on the board already, in the upper half where the player stays on the lowest row."""
    at = KIND + k * WIDTH
    lowest = SIZE // 2 if s.memo[i, CONTROL] == SIDEWAYS else SIZE
    for r in range(0 if s.memo[i, at + ROAD] else lowest):
        for c in range(SIZE):
            comes = 10_000 * uniform(s, i) < s.memo[i, at + RATE] and s.cells[i, r, c] == EMPTY
            if comes and abs(r - s.player[i, 0]) + abs(c - s.player[i, 1]) >= START:
                s.cells[i, r, c] = k + 1


@jit
def lay_kind(s: State, i: int, k: int) -> None:
    """Put the things of kind ``k`` on the board."""
    at = KIND + k * WIDTH
    movement = s.memo[i, at + MOVEMENT]
    if FALLING <= movement <= ACROSS:
        lay_stream(s, i, k)
    elif movement == STILL and s.memo[i, at + TOUCH] == SUPPORT and s.memo[i, CONTROL] == JUMPS:
        lay_ledges(s, i, k + 1)
    else:
        for _ in range(s.memo[i, at + AMOUNT]):
            r, c = put(s, i, k, START)
            count = s.memo[i, COUNT]
            if r >= 0 and movement != STILL and count < WALKERS:
                s.movers[i, count, 0] = r
                s.movers[i, count, 1] = c
                s.movers[i, count, 2] = FACES * k + 1 + below(s, i, 4)
                s.memo[i, COUNT] = count + 1


@jit
def lay_out(s: State, i: int) -> None:
    """The player, and the things of all kinds: first those that others stand on."""
    s.cells[i] = EMPTY
    control = s.memo[i, CONTROL]
    s.memo[i, COUNT] = 0
    s.memo[i, HELD] = 0
    s.memo[i, JUMPING] = 0
    s.memo[i, MISSED] = 0
    s.memo[i, MIDDLE] = SIZE // 2
    s.player[i, 0] = below(s, i, SIZE)
    s.player[i, 1] = below(s, i, SIZE)
    if control == SIDEWAYS:
        s.player[i, 0] = LAST
    elif control == JUMPS:
        s.player[i, 0] = LAST - 1
        s.cells[i, LAST] = GROUND
    for k in range(KEYS):
        at = KIND + k * WIDTH
        s.memo[i, at + MISSING] = 0
        if s.memo[i, at + TOUCH] >= 0 and s.memo[i, at + ROAD]:
            s.player[i, 0] = LAST  # in the road's middle, before it comes
            s.player[i, 1] = s.memo[i, MIDDLE]
    s.memo[i, FACING] = RIGHT if s.player[i, 1] < SIZE // 2 else LEFT
    for k in range(KINDS):
        if s.memo[i, KIND + k * WIDTH + TOUCH] >= 0:
            lay_kind(s, i, k)


@jit
def learnability(s: State, rules: int) -> float:
    """p (1 - p) of a set of rules, where p is how far the mean return of late is on the way from the lowest return that
    an episode had to the highest; 0 where all were the same.
    """
    if s.scores[rules, PLAYED] < UNKNOWN:
        return 0.25
    lowest, highest = s.scores[rules, LOWEST], s.scores[rules, HIGHEST]
    if highest <= lowest:
        return 0.0
    share = (s.scores[rules, MEAN] - lowest) / (highest - lowest)
    return float(share * (1.0 - share))


@jit
def by_learnability(s: State, i: int, count: int) -> int:
    """One of ``count`` sets of rules: any, or the most learnable of some."""
    rules = below(s, i, count)
    if uniform(s, i) < BY_SCORE:
        best = learnability(s, rules)
        for _ in range(CANDIDATES - 1):
            other = below(s, i, count)
            value = learnability(s, other)
            if value > best:
                rules, best = other, value
    return rules


@jit
def note_return(s: State, i: int) -> None:
    """An episode has ended: its return counts for its set of rules."""
    rules, earned = s.memo[i, SET], s.memo[i, TOTAL] / 100
    played = s.scores[rules, PLAYED]
    if played == 0:
        s.scores[rules, LOWEST] = s.scores[rules, HIGHEST] = earned
    s.scores[rules, LOWEST] = min(s.scores[rules, LOWEST], earned)
    s.scores[rules, HIGHEST] = max(s.scores[rules, HIGHEST], earned)
    s.scores[rules, PLAYED] = played + 1
    s.scores[rules, MEAN] += (earned - s.scores[rules, MEAN]) / min(played + 1, RECENT)


@jit
def begin(s: State, i: int, p: Any) -> None:
    """Draw rules, then a board for them."""
    count = p.table.shape[0]
    rules = by_learnability(s, i, count) if p.sampling else below(s, i, count)
    for n in range(p.table.shape[1]):
        s.memo[i, n] = p.table[rules, n]
    s.memo[i, SET] = rules
    lay_out(s, i)


# Playing: what moves first is moved, then the player meets what is in its cell


@inlined
def go(s: State, i: int, direction: int, p: Any) -> bool:
    """The player takes a step, unless something is in its way; whether it did."""
    r, c = s.player[i, 0], s.player[i, 1]
    nr, nc = neighbour(r, c, direction, p.wrap)
    if blocks(s, i, nr, nc):
        touch = touch_of(s, i, s.cells[i, nr, nc])
        br, bc = neighbour(nr, nc, direction, p.wrap)
        if touch == PUSHABLE and s.cells[i, br, bc] == EMPTY:
            s.cells[i, br, bc] = s.cells[i, nr, nc]
            s.cells[i, nr, nc] = EMPTY
            for m in range(s.memo[i, COUNT]):
                if s.movers[i, m, 0] == nr and s.movers[i, m, 1] == nc:
                    s.movers[i, m, 0] = br
                    s.movers[i, m, 1] = bc
        elif touch != DOOR or not s.memo[i, HELD]:
            return False
    s.player[i, 0] = nr
    s.player[i, 1] = nc
    return bool(nr != r or nc != c)


@jit
def turned(direction: int) -> int:
    """The opposite direction."""
    return direction + 1 if direction % 2 else direction - 1


@inlined
def aim(s: State, i: int, action: int) -> int:
    """The direction of the player's first step; 0 for none."""
    control = s.memo[i, CONTROL]
    if control == HEADING:
        if 1 <= action <= 4 and action != turned(s.memo[i, FACING]):
            s.memo[i, FACING] = action
        return int(s.memo[i, FACING])
    if 1 <= action <= 4 and (control == FOUR_WAYS or action >= LEFT):
        return action
    return 0


@inlined
def move_player(s: State, i: int, action: int, p: Any) -> None:
    """Walk or run; who jumps then rises or falls, and who is headed somewhere turns round where it cannot go on."""
    control, direction = s.memo[i, CONTROL], aim(s, i, action)
    if control == JUMPS and action == UP and stands(s, i):
        s.memo[i, JUMPING] = JUMP
    for part in range(2 if control == JUMPS else 1):
        if part == 1:
            if s.cells[i, s.player[i, 0], s.player[i, 1]] != EMPTY:
                return  # what it has come by first counts
            direction = UP if s.memo[i, JUMPING] > 0 else 0 if stands(s, i) else DOWN
        if direction and not go(s, i, direction, p):
            if control == HEADING:
                s.memo[i, FACING] = turned(direction)
            elif direction == UP:
                s.memo[i, JUMPING] = 1
    if s.memo[i, JUMPING] > 0:
        s.memo[i, JUMPING] -= 1


@inlined
def stands(s: State, i: int) -> bool:
    """Whether there is something below the player that holds it."""
    return s.player[i, 0] == LAST or blocks(s, i, s.player[i, 0] + 1, s.player[i, 1])


@jit
def taken(s: State, i: int, r: int, c: int) -> None:
    """A thing is gone; another of its kind appears elsewhere at the end of the step, or enters some time."""
    code = s.cells[i, r, c]
    s.cells[i, r, c] = EMPTY
    at = KIND + (code - 1) * WIDTH
    if s.memo[i, at + MOVEMENT] == STILL:  # what walks is missed where it was
        s.memo[i, at + MISSING] += 1
        s.memo[i, MISSED] = 1


@inlined
def meet(s: State, i: int) -> tuple[bool, bool]:
    """The player meets what is in its cell; whether it dies, and whether the level is solved."""
    r, c = s.player[i, 0], s.player[i, 1]
    code = s.cells[i, r, c]
    touch = touch_of(s, i, code)
    if touch in (DEADLY, TARGET):
        s.memo[i, EARNED] += DEATH - s.memo[i, SURVIVAL]
        return True, False
    if code == SHOT:
        s.cells[i, r, c] = EMPTY
    if touch < 0 or code == GROUND:
        return False, False
    s.memo[i, EARNED] += OPENED if touch in (DOOR, KEY) else TAKEN
    if touch == KEY:
        s.memo[i, HELD] = 1
        s.cells[i, r, c] = EMPTY
        return False, False
    taken(s, i, r, c)
    if touch == DOOR:
        s.memo[i, HELD] = 0
        s.memo[i, KIND + KEYS * WIDTH + MISSING] = 1
        s.memo[i, MISSED] = 1
    return False, touch == GOAL


@jit
def replace(s: State, i: int) -> None:
    """What was taken in this step appears elsewhere."""
    s.memo[i, MISSED] = 0
    for k in range(KINDS):
        at = KIND + k * WIDTH
        while s.memo[i, at + MISSING] > 0:
            put(s, i, k, 2)
            s.memo[i, at + MISSING] -= 1


@jit
def hit(s: State, i: int, r: int, c: int) -> None:
    """A shot meets what is at (r, c): a target is gone."""
    if touch_of(s, i, s.cells[i, r, c]) == TARGET:
        s.memo[i, EARNED] += TAKEN
        taken(s, i, r, c)


@inlined
def raise_shots(s: State, i: int, fires: bool) -> None:
    """Shots rise until they meet something, and another leaves the player where it ``fires`` and has reloaded."""
    bottom = SIZE
    if s.clock[i] > s.memo[i, READY] + SIZE:
        bottom = 0  # all have left the board
    for n in range(SIZE * bottom + 1):
        if n < SIZE * bottom:
            r, c = n // SIZE, n % SIZE
            if s.cells[i, r, c] != SHOT:
                continue
            s.cells[i, r, c] = EMPTY
            far = SHOT_SPEED
        else:
            if not fires or s.clock[i] < s.memo[i, READY]:
                return
            r, c = s.player[i, 0], s.player[i, 1]
            s.memo[i, READY] = s.clock[i] + RELOAD
            far = 1
        for _ in range(far):
            r -= 1
            if r < 0 or s.cells[i, r, c] != EMPTY:
                break
        if r >= 0:
            if s.cells[i, r, c] == EMPTY:
                s.cells[i, r, c] = SHOT
            else:
                hit(s, i, r, c)


@jit
def run_into(s: State, i: int, r: int, c: int, nr: int, nc: int) -> None:
    """A thing of a stream at (r, c) cannot go on to (nr, nc): it waits for the player, else it is gone."""
    if nr == s.player[i, 0] and nc == s.player[i, 1] and blocks(s, i, r, c):
        return
    if s.cells[i, nr, nc] == SHOT:
        hit(s, i, r, c)
        s.cells[i, nr, nc] = EMPTY
    s.cells[i, r, c] = EMPTY


@inlined
def drift(s: State, i: int, who: int, direction: int) -> None:
    """All things whose code is a bit of ``who`` go on by a cell, the foremost first, which leave the board."""
    dr = 1 if direction == DOWN else -1 if direction == UP else 0
    dc = 1 if direction == RIGHT else -1 if direction == LEFT else 0
    ahead = dr + dc
    pr, pc = s.player[i, 0], s.player[i, 1]
    for a in range(SIZE):
        lane = LAST - a if ahead > 0 else a
        for b in range(SIZE):
            r, c = (lane, b) if dr else (b, lane)
            code = s.cells[i, r, c]
            if not (who >> code) & 1 or (r == pr and c == pc):
                continue
            if a == 0:
                s.cells[i, r, c] = EMPTY
                if direction == DOWN and touch_of(s, i, code) == TARGET:
                    s.memo[i, EARNED] += LANDED
            elif s.cells[i, r + dr, c + dc] == EMPTY and not (r + dr == pr and c + dc == pc and blocks(s, i, r, c)):
                s.cells[i, r + dr, c + dc] = code
                s.cells[i, r, c] = EMPTY
            else:
                run_into(s, i, r, c, r + dr, c + dc)


@inlined
def enter(s: State, i: int, k: int, direction: int) -> None:
    """Things of kind ``k`` enter on the side from which they come, by chance, or all but a gap that winds."""
    at = KIND + k * WIDTH
    road, rate = s.memo[i, at + ROAD], s.memo[i, at + RATE] / 10_000
    if road:
        middle = s.memo[i, MIDDLE] + below(s, i, 3) - 1
        s.memo[i, MIDDLE] = min(max(middle, ROAD_HALF), LAST - ROAD_HALF)
    blocking = bool((BLOCKING >> s.memo[i, at + TOUCH]) & 1)
    first = LAST if direction in (UP, LEFT) else 0
    for lane in range(SIZE):
        beside = abs(lane - s.memo[i, MIDDLE]) > ROAD_HALF
        if beside if road else uniform(s, i) < rate:
            r, c = (first, lane) if direction <= DOWN else (lane, first)
            here = r == s.player[i, 0] and c == s.player[i, 1]
            if s.cells[i, r, c] == EMPTY and not (here and blocking):
                s.cells[i, r, c] = k + 1


@inlined
def direction_of(s: State, i: int, at: int) -> int:
    """Where a stream goes."""
    movement = s.memo[i, at + MOVEMENT]
    return DOWN if movement == FALLING else UP if movement == RISING else int(s.memo[i, at + SIDE])


@inlined
def move_streams(s: State, i: int) -> None:
    """What falls, rises or goes across moves on, and more of it enters; fast things do so twice, slow ones at times."""
    for part in range(2):
        for direction in range(UP, RIGHT + 1):
            who = 0
            for k in range(KEYS):
                at = KIND + k * WIDTH
                if s.memo[i, at + TOUCH] >= 0 and FALLING <= s.memo[i, at + MOVEMENT] <= ACROSS:
                    pace = s.memo[i, at + PACE]
                    goes = pace == FAST or (part == 0 and (pace == USUAL or s.clock[i] % 2 == 0))
                    if goes and direction_of(s, i, at) == direction:
                        who |= 2 << k
            if who:
                drift(s, i, who, direction)
                for k in range(KEYS):
                    if (who >> k) & 2:
                        enter(s, i, k, direction)


@inlined
def way(s: State, i: int, m: int, at: int) -> int:
    """Where walker m goes next."""
    movement = s.memo[i, at + MOVEMENT]
    if movement == PATROLLING:
        return int(s.movers[i, m, 2] % FACES)
    if movement == WANDERING or 100 * uniform(s, i) >= s.memo[i, at + KEEN]:
        return 1 + below(s, i, 4)
    dr, dc = s.player[i, 0] - s.movers[i, m, 0], s.player[i, 1] - s.movers[i, m, 1]
    vertical = abs(dr) >= abs(dc)
    nearer = (DOWN if dr > 0 else UP) if vertical else RIGHT if dc > 0 else LEFT
    return nearer if movement == CHASING else turned(nearer)


@inlined
def move_walkers(s: State, i: int, p: Any) -> None:
    """What wanders, patrols, chases or flees takes a step; who patrols turns round where it cannot go on.

    What has gone from its cell was taken, and appears elsewhere.
    """
    for m in range(s.memo[i, COUNT]):
        r, c, k = s.movers[i, m, 0], s.movers[i, m, 1], s.movers[i, m, 2] // FACES
        at = KIND + k * WIDTH
        if r < 0 or s.cells[i, r, c] != k + 1:
            s.movers[i, m, 0], s.movers[i, m, 1] = put(s, i, k, 2)
            continue
        if s.memo[i, at + PACE] == SLOW and uniform(s, i) < 0.5:
            continue
        direction = way(s, i, m, at)
        nr, nc = neighbour(r, c, direction, p.wrap)
        ahead = s.cells[i, nr, nc]
        here = nr == s.player[i, 0] and nc == s.player[i, 1]
        if ahead == SHOT:
            hit(s, i, r, c)
            s.cells[i, nr, nc] = EMPTY
        elif ahead == EMPTY and not (here and blocks(s, i, r, c)):
            s.cells[i, nr, nc] = k + 1
            s.cells[i, r, c] = EMPTY
            s.movers[i, m, 0] = nr
            s.movers[i, m, 1] = nc
        else:
            direction = turned(direction)
        s.movers[i, m, 2] = FACES * k + direction


@inlined
def advance(s: State, i: int, action: int, p: Any) -> tuple[float, bool]:
    """The player moves, then all things; a level that is solved is followed by another board with the same rules."""
    s.memo[i, EARNED] = s.memo[i, SURVIVAL]
    dead, solved = False, False
    for things in range(2):
        if things:
            if s.memo[i, STREAMS]:
                move_streams(s, i)
            move_walkers(s, i, p)
        else:
            move_player(s, i, action, p)
            if s.memo[i, ARMED]:
                raise_shots(s, i, action == ACT)
        dead, now = meet(s, i)
        solved = solved or now
        if dead:
            break
    if solved and not dead:
        lay_out(s, i)
    elif s.memo[i, MISSED]:
        replace(s, i)
    if p.sampling:
        s.memo[i, TOTAL] += s.memo[i, EARNED]
        if dead or s.clock[i] >= MAX_STEPS:
            note_return(s, i)
    return s.memo[i, EARNED] / 100, dead


@inlined
def paint(s: State, i: int, planes: Any) -> None:
    """Each thing in the planes of its attributes, and where the player is carried next."""
    for r in range(SIZE):
        for c in range(SIZE):
            code = s.cells[i, r, c]
            if code == EMPTY:
                continue
            if code <= KINDS:
                at = KIND + (code - 1) * WIDTH
                for n in range(s.memo[i, at + SHOWN]):
                    planes[s.memo[i, at + MARKED + n], r, c] = 1
            elif code == SHOT:
                for plane in SHOT_PLANES:
                    planes[plane, r, c] = 1
            else:
                planes[IS_SOLID, r, c] = 1
                planes[IS_SUPPORT, r, c] = 1
    r, c = s.player[i, 0], s.player[i, 1]
    planes[0, r, c] = 1
    if s.memo[i, CONTROL] == HEADING or s.memo[i, JUMPING] > 0:
        direction = s.memo[i, FACING] if s.memo[i, CONTROL] == HEADING else UP
        nr, nc = neighbour(r, c, direction, False)
        if nr != r or nc != c:
            planes[IS_DIRECTION, nr, nc] = 1


GAME = Game(
    id=ID,
    goal="Find out from what things show how this episode's game is played; the next one has other rules.",
    things=THINGS,
    own={
        "wrap": False,
        "controls": "all",
        "movements": "all",
        "touches": "all",
        "ban": "none",
        "kinds": 4,
        "sampling": "uniform",
    },
    begin=begin,
    advance=advance,
    paint=paint,
    table=table,
    movers=WALKERS,
    memo=KIND + KINDS * WIDTH,
    max_steps=MAX_STEPS,
)
GAMES.add(GAME.id, GAME)
