"""Generated: every episode draws its rules; what a thing does is shown by its attributes and by nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np

from graft.envs.builtin.engine.compile import jit
from graft.envs.builtin.engine.entities import MARK, MARKS
from graft.envs.builtin.engine.game import ACT, DOWN, GAMES, LEFT, RIGHT, UP, Game
from graft.envs.builtin.engine.mechanics import MOVEMENTS, TOUCHES
from graft.envs.builtin.engine.state import EMPTY, SIZE, State, below, neighbour, uniform

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
START = 3  # least distance of anything from the player at the start, in steps
JUMP = 3  # cells that a jump rises
STOREYS = (7, 5, 3)  # rows with ledges, where the player jumps
SHOT_SPEED, RELOAD = 2, 2
ALIVE = 0.1  # reward of each step survived in games in which there is nothing else to gain
ROAD_HALF = 2  # a road is at most this wide on each side of its middle

# Places in the memo
CONTROL, SURVIVAL, DEAD, SOLVED, HELD, READY, JUMPING, FACING, COUNT, ARMED, MIDDLE, EARNED = range(12)
KIND = 12  # the first of those of kind 0
MOVEMENT, TOUCH, PACE, SIDE, RATE, AMOUNT, KEEN, ROAD, SHOWN, MARKED = range(10)  # MARKED planes follow SHOWN's count
WIDTH = MARKED + 8

# Rewards are summed up in hundredths in the memo.
TAKEN, OPENED, LANDED, DEATH = 100, 50, -50, -100

THINGS = ("player", *(f"{MARK}{word}" for word in MARKS))
PLANE = {word: THINGS.index(f"{MARK}{word}") for word in MARKS}


def _planes(*words: tuple[str, ...]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Indices of planes, a row for each group of words, filled up with 0."""
    longest = max(map(len, words))
    return np.array([[PLANE[word] for word in own] + [0] * (longest - len(own)) for own in words])


TOUCH_PLANES = _planes(
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
MOVEMENT_PLANES = _planes(
    (),
    ("falling", "mobile"),
    ("rising", "mobile"),
    ("mobile",),  # and `leftward` or `rightward`
    ("wandering", "mobile"),
    ("patrolling", "mobile"),
    ("chasing", "mobile"),
    ("fleeing", "mobile"),
)
IS_LEFTWARD, IS_RIGHTWARD, IS_SLOW, IS_FAST = (PLANE[word] for word in ("leftward", "rightward", "slow", "fast"))
IS_WANDERING, IS_DIRECTION, IS_SOLID, IS_SUPPORT = (
    PLANE[word] for word in ("wandering", "direction", "solid", "support")
)
SHOT_PLANES = _planes(("fast", "mobile", "projectile", "rising"))[0]

CONTROL_WEIGHTS = (5, 2, 2, 1)
TOUCH_WEIGHTS = (5, 5, 3, 1, 1, 1, 2, 0)  # a support is drawn where the player jumps
SENSIBLE = (
    1 << STILL | 1 << FALLING | 1 << RISING | 1 << ACROSS | 1 << WANDERING | 1 << PATROLLING | 1 << CHASING,
    1 << STILL | 1 << FALLING | 1 << RISING | 1 << ACROSS | 1 << WANDERING | 1 << PATROLLING | 1 << FLEEING,
    1 << STILL | 1 << PATROLLING | 1 << WANDERING,
    1 << STILL,
    1 << STILL | 1 << WANDERING | 1 << PATROLLING | 1 << FLEEING,
    1 << STILL | 1 << WANDERING,
    1 << FALLING | 1 << ACROSS | 1 << WANDERING | 1 << PATROLLING | 1 << CHASING | 1 << FLEEING,
    1 << STILL,
)
"""Movements of each touch that make a game; others are drawn only where none of these is left."""
FROM_ABOVE = 1 << DEADLY | 1 << PICKUP | 1 << TARGET  # what may come down on a player who stays on the lowest row
GAINS = 1 << PICKUP | 1 << GOAL | 1 << DOOR | 1 << TARGET | 1 << KEY
FLOWING = 1 << FALLING | 1 << RISING | 1 << ACROSS  # what enters on one side and leaves on the other


# Drawing the rules


@jit
def allowed(p: Any, touch: int) -> int:
    """Movements that a thing of this touch may have, as bits: the sensible ones where there are any."""
    bits = 0
    for m in range(len(MOVEMENTS)):
        banned = (p.ban >> (8 * m + 7 - touch)) & 1
        if (p.movements >> m) & 1 and not banned:
            bits |= 1 << m
    sensible = bits & SENSIBLE[touch]
    return sensible if sensible else bits


@jit
def draw_bit(s: State, i: int, bits: int) -> int:
    """One of the set bits of a number that is not 0, each with the same chance."""
    count = 0
    for k in range(8):
        count += (bits >> k) & 1
    left = below(s, i, count)
    for k in range(8):
        if (bits >> k) & 1:
            if left == 0:
                return k
            left -= 1
    return 0


@jit
def draw_control(s: State, i: int, p: Any) -> int:
    """How the player moves; sideways only where something can come down."""
    bits = p.controls
    comes = False
    for t in (DEADLY, PICKUP, TARGET):
        comes = comes or ((p.touches >> t) & 1 and (allowed(p, t) >> FALLING) & 1)
    if not comes and bits != 1 << SIDEWAYS:
        bits &= ~(1 << SIDEWAYS)
    total = 0
    for k in range(4):
        total += CONTROL_WEIGHTS[k] * ((bits >> k) & 1)
    left = below(s, i, total)
    for k in range(4):
        left -= CONTROL_WEIGHTS[k] * ((bits >> k) & 1)
        if left < 0:
            return k
    return FOUR_WAYS


@jit
def draw_touch(s: State, i: int, p: Any, among: int) -> int:
    """What a kind of thing does, of those with a movement that is allowed; -1 where there are none."""
    total = 0
    for t in range(len(TOUCHES)):
        if (among >> t) & 1 and allowed(p, t):
            total += TOUCH_WEIGHTS[t]
    if total == 0:
        return SUPPORT if (among >> SUPPORT) & 1 and allowed(p, SUPPORT) else -1
    left = below(s, i, total)
    for t in range(len(TOUCHES)):
        if (among >> t) & 1 and allowed(p, t):
            left -= TOUCH_WEIGHTS[t]
            if left < 0:
                return t
    return -1


@jit
def draw_kind(s: State, i: int, k: int, touch: int, movements: int) -> None:
    """Kind ``k``: its movement, one of ``movements``, its pace, how many there are or how often one enters."""
    at = KIND + k * WIDTH
    movement = draw_bit(s, i, movements)
    harms = touch in (DEADLY, TARGET)
    s.memo[i, at + MOVEMENT] = movement
    s.memo[i, at + TOUCH] = touch
    s.memo[i, at + SIDE] = 3 + below(s, i, 2)
    s.memo[i, at + KEEN] = 25 * (1 + below(s, i, 4))
    s.memo[i, at + ROAD] = 0
    pace = USUAL
    if (FLOWING >> movement) & 1:
        pace = below(s, i, 3)
        if touch == DEADLY and movement == FALLING and s.memo[i, CONTROL] <= SIDEWAYS and uniform(s, i) < 0.25:
            s.memo[i, at + ROAD] = 1
        most = 600 if touch == TARGET else 1000
        s.memo[i, at + RATE] = (200 + below(s, i, most)) // (2 if pace == FAST else 1)
    elif movement != STILL:
        pace = SLOW if harms or movement == FLEEING or uniform(s, i) < 0.5 else USUAL
        s.memo[i, at + AMOUNT] = 1 + below(s, i, 3 if movement == CHASING else 5)
    elif touch in (GOAL, DOOR, KEY):
        s.memo[i, at + AMOUNT] = 1
    elif touch == PICKUP:
        s.memo[i, at + AMOUNT] = 2 + below(s, i, 7)
    else:
        s.memo[i, at + AMOUNT] = 2 + below(s, i, 12)
    s.memo[i, at + PACE] = pace
    mark(s, i, at)


@jit
def show_plane(s: State, i: int, at: int, plane: int) -> None:
    """Things of the kind whose rules are ``at`` are painted in this plane too."""
    s.memo[i, at + MARKED + s.memo[i, at + SHOWN]] = plane
    s.memo[i, at + SHOWN] += 1


@jit
def mark(s: State, i: int, at: int) -> None:
    """List the planes in which things of the kind whose rules are ``at`` are painted."""
    s.memo[i, at + SHOWN] = 0
    movement, pace = s.memo[i, at + MOVEMENT], s.memo[i, at + PACE]
    for plane in TOUCH_PLANES[s.memo[i, at + TOUCH]]:
        if plane:
            show_plane(s, i, at, plane)
    for plane in MOVEMENT_PLANES[movement]:
        if plane:
            show_plane(s, i, at, plane)
    if movement == ACROSS:
        show_plane(s, i, at, IS_LEFTWARD if s.memo[i, at + SIDE] == LEFT else IS_RIGHTWARD)
    if movement in (CHASING, FLEEING) and s.memo[i, at + KEEN] < 100:
        show_plane(s, i, at, IS_WANDERING)
    if movement != STILL and pace != USUAL:
        show_plane(s, i, at, IS_SLOW if pace == SLOW else IS_FAST)


@jit
def draw_kinds(s: State, i: int, p: Any) -> bool:
    """Draw all kinds; whether they make a game: something to gain, or something to keep clear of that moves."""
    among, control = p.touches, s.memo[i, CONTROL]
    for k in range(KINDS):
        s.memo[i, KIND + k * WIDTH + TOUCH] = -1
    first = 0
    if control == JUMPS and (among >> SUPPORT) & 1 and allowed(p, SUPPORT):
        draw_kind(s, i, 0, SUPPORT, allowed(p, SUPPORT))
        first = 1
    if control == SIDEWAYS and among & FROM_ABOVE:
        among &= FROM_ABOVE
    gains, dangers, armed = False, False, False
    for k in range(first, max(first, below(s, i, p.kinds)) + 1):
        touch = draw_touch(s, i, p, among)
        if touch < 0 or k >= KEYS:
            break
        movements = allowed(p, touch)
        if control == SIDEWAYS and (movements >> FALLING) & 1:
            movements = 1 << FALLING
        draw_kind(s, i, k, touch, movements)
        movement = s.memo[i, KIND + k * WIDTH + MOVEMENT]
        gains = gains or (GAINS >> touch) & 1
        dangers = dangers or (touch == DEADLY and (control == HEADING or (movement != STILL and movement != FLEEING)))
        armed = armed or touch == TARGET
        if touch == DOOR:
            draw_kind(s, i, KEYS, KEY, 1 << STILL)
    s.memo[i, ARMED] = armed
    s.memo[i, SURVIVAL] = 0 if gains else round(100 * ALIVE)
    return bool(gains or dangers)


@jit
def draw_rules(s: State, i: int, p: Any) -> None:
    """Draw until the rules make a game, or give up where what is allowed makes none."""
    for _ in range(50):
        s.memo[i, CONTROL] = draw_control(s, i, p)
        if draw_kinds(s, i, p):
            return


# Laying out a board


@jit
def free_for(s: State, i: int, r: int, c: int, still: bool) -> bool:
    """Whether a thing may be put there: the cell is empty and, of still things where the player jumps, in reach."""
    if s.cells[i, r, c] != EMPTY:
        return False
    if not still or s.memo[i, CONTROL] != JUMPS:
        return True
    return r > 0 and r < LAST and stands_on(s, i, s.cells[i, r + 1, c])


@jit
def put(s: State, i: int, k: int, distance: int) -> tuple[int, int]:
    """Put a thing of kind ``k`` on a random free cell at least so far from the player; where, or (-1, -1)."""
    still = s.memo[i, KIND + k * WIDTH + MOVEMENT] == STILL
    for _ in range(100):
        r = below(s, i, SIZE)
        c = below(s, i, SIZE)
        far = abs(r - s.player[i, 0]) + abs(c - s.player[i, 1]) >= distance
        if far and free_for(s, i, r, c, still):
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
    if s.memo[i, at + ROAD]:
        return
    lowest = SIZE // 2 if s.memo[i, CONTROL] == SIDEWAYS else SIZE
    for r in range(lowest):
        for c in range(SIZE):
            comes = 10_000 * uniform(s, i) < s.memo[i, at + RATE] and s.cells[i, r, c] == EMPTY
            if comes and abs(r - s.player[i, 0]) + abs(c - s.player[i, 1]) >= START:
                s.cells[i, r, c] = k + 1


@jit
def lay_kind(s: State, i: int, k: int) -> None:
    """Put the things of kind ``k`` on the board."""
    at = KIND + k * WIDTH
    movement = s.memo[i, at + MOVEMENT]
    if (FLOWING >> movement) & 1:
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
                s.movers[i, count, 2] = 1 + below(s, i, 4)
                s.memo[i, COUNT] = count + 1


@jit
def lay_out(s: State, i: int) -> None:
    """The player, and the things of all kinds: first those that others stand on."""
    s.cells[i] = EMPTY
    control = s.memo[i, CONTROL]
    s.memo[i, COUNT] = 0
    s.memo[i, HELD] = 0
    s.memo[i, JUMPING] = 0
    s.memo[i, SOLVED] = 0
    s.memo[i, MIDDLE] = SIZE // 2
    s.player[i, 0] = below(s, i, SIZE)
    s.player[i, 1] = below(s, i, SIZE)
    if control == SIDEWAYS:
        s.player[i, 0] = LAST
    elif control == JUMPS:
        s.player[i, 0] = LAST - 1
        s.cells[i, LAST] = GROUND
    for k in range(KEYS):
        if s.memo[i, KIND + k * WIDTH + TOUCH] >= 0 and s.memo[i, KIND + k * WIDTH + ROAD]:
            s.player[i, 0] = LAST  # in the road's middle, before it comes
            s.player[i, 1] = s.memo[i, MIDDLE]
    s.memo[i, FACING] = RIGHT if s.player[i, 1] < SIZE // 2 else LEFT
    for k in range(KINDS):
        if s.memo[i, KIND + k * WIDTH + TOUCH] >= 0:
            lay_kind(s, i, k)


@jit
def begin(s: State, i: int, p: Any) -> None:
    """Draw rules, then a board for them."""
    draw_rules(s, i, p)
    lay_out(s, i)


# Playing


@jit
def touch_of(s: State, i: int, code: int) -> int:
    """What the thing in a cell does; -1 for none and for shots."""
    if code == GROUND:
        return SUPPORT
    return int(s.memo[i, KIND + (code - 1) * WIDTH + TOUCH]) if 1 <= code <= KINDS else -1


@jit
def stands_on(s: State, i: int, code: int) -> bool:
    """Whether the player can stand on what is in a cell."""
    touch = touch_of(s, i, code)
    return touch in (SOLID, SUPPORT, PUSHABLE, DOOR)


@jit
def walker_at(s: State, i: int, r: int, c: int) -> int:
    """The walker that stands there, or -1."""
    for m in range(s.memo[i, COUNT]):
        if s.movers[i, m, 0] == r and s.movers[i, m, 1] == c:
            return m
    return -1


@jit
def move_thing(s: State, i: int, r: int, c: int, nr: int, nc: int) -> None:
    """A thing goes to another cell."""
    s.cells[i, nr, nc] = s.cells[i, r, c]
    s.cells[i, r, c] = EMPTY
    m = walker_at(s, i, r, c)
    if m >= 0:
        s.movers[i, m, 0] = nr
        s.movers[i, m, 1] = nc


@jit
def remove(s: State, i: int, r: int, c: int, again: bool) -> None:
    """A thing is gone; with ``again`` another of its kind appears elsewhere, unless such things enter from a side."""
    k = s.cells[i, r, c] - 1
    s.cells[i, r, c] = EMPTY
    if (FLOWING >> s.memo[i, KIND + k * WIDTH + MOVEMENT]) & 1:
        return
    m = walker_at(s, i, r, c)
    nr, nc = put(s, i, k, 2) if again else (-1, -1)
    if m >= 0:
        s.movers[i, m, 0] = nr
        s.movers[i, m, 1] = nc


@jit
def meet(s: State, i: int, r: int, c: int) -> bool:
    """The player and the thing at (r, c) meet; whether the cell can be entered, by the one that moves."""
    touch = touch_of(s, i, s.cells[i, r, c])
    if touch in (DEADLY, TARGET):
        s.memo[i, DEAD] = 1
        s.memo[i, EARNED] += DEATH
        return True
    if touch == DOOR and s.memo[i, HELD]:
        s.memo[i, HELD] = 0
        s.memo[i, EARNED] += OPENED
        remove(s, i, r, c, True)
        put(s, i, KEYS, 2)
        return True
    if touch == PICKUP:
        s.memo[i, EARNED] += TAKEN
    elif touch == GOAL:
        s.memo[i, EARNED] += TAKEN
        s.memo[i, SOLVED] = 1
    elif touch == KEY:
        s.memo[i, EARNED] += OPENED
        s.memo[i, HELD] = 1
    else:
        return touch < 0
    remove(s, i, r, c, touch == PICKUP)
    return True


@jit
def go(s: State, i: int, direction: int, p: Any) -> bool:
    """The player takes a step, unless something is in its way; whether it did."""
    r, c = s.player[i, 0], s.player[i, 1]
    nr, nc = neighbour(r, c, direction, p.wrap)
    if nr == r and nc == c:
        return False
    code = s.cells[i, nr, nc]
    if touch_of(s, i, code) == PUSHABLE:
        br, bc = neighbour(nr, nc, direction, p.wrap)
        if s.cells[i, br, bc] != EMPTY or (br == r and bc == c):
            return False
        move_thing(s, i, nr, nc, br, bc)
    elif code == SHOT:
        s.cells[i, nr, nc] = EMPTY
    elif code != EMPTY:
        s.player[i, 0] = nr  # so that what is taken appears elsewhere
        s.player[i, 1] = nc
        if not meet(s, i, nr, nc):
            s.player[i, 0] = r
            s.player[i, 1] = c
            return False
    s.player[i, 0] = nr
    s.player[i, 1] = nc
    return True


@jit
def move_player(s: State, i: int, action: int, p: Any) -> None:
    """Walk, run and jump, or go on ahead."""
    control = s.memo[i, CONTROL]
    if control == FOUR_WAYS:
        if 1 <= action <= 4:
            go(s, i, action, p)
    elif control == SIDEWAYS:
        if action in (LEFT, RIGHT):
            go(s, i, action, p)
    elif control == HEADING:
        facing = s.memo[i, FACING]
        opposite = facing + 1 if facing % 2 else facing - 1
        if 1 <= action <= 4 and action != opposite:
            s.memo[i, FACING] = action
        if not go(s, i, s.memo[i, FACING], p) and s.memo[i, FACING] == facing:
            s.memo[i, FACING] = opposite  # it turns round where it cannot go on
    else:
        jump(s, i, action, p)


@jit
def jump(s: State, i: int, action: int, p: Any) -> None:
    """Run, rise while a jump lasts, else fall."""
    r = s.player[i, 0]
    if action == UP and (r == LAST or stands_on(s, i, s.cells[i, r + 1, s.player[i, 1]])):
        s.memo[i, JUMPING] = JUMP
    if action in (LEFT, RIGHT):
        go(s, i, action, p)
    if s.memo[i, DEAD]:
        return
    r = s.player[i, 0]
    if s.memo[i, JUMPING] > 0:
        s.memo[i, JUMPING] -= 1
        if r == 0 or not go(s, i, UP, p):
            s.memo[i, JUMPING] = 0
    elif r < LAST and not stands_on(s, i, s.cells[i, r + 1, s.player[i, 1]]):
        go(s, i, DOWN, p)


@jit
def hit(s: State, i: int, r: int, c: int) -> None:
    """A shot meets what is at (r, c): a target is gone."""
    if touch_of(s, i, s.cells[i, r, c]) == TARGET:
        s.memo[i, EARNED] += TAKEN
        remove(s, i, r, c, True)


@jit
def raise_shots(s: State, i: int) -> None:
    """Shots rise until they meet something."""
    for r in range(SIZE):
        for c in range(SIZE):
            if s.cells[i, r, c] == SHOT:
                s.cells[i, r, c] = EMPTY
                row = r
                for _ in range(SHOT_SPEED):
                    row -= 1
                    if row < 0 or s.cells[i, row, c] != EMPTY:
                        break
                if row >= 0:
                    if s.cells[i, row, c] == EMPTY:
                        s.cells[i, row, c] = SHOT
                    else:
                        hit(s, i, row, c)


@jit
def shoot(s: State, i: int) -> None:
    """A shot leaves the player upwards, where it has reloaded."""
    r, c = s.player[i, 0] - 1, s.player[i, 1]
    if r < 0 or s.clock[i] < s.memo[i, READY]:
        return
    s.memo[i, READY] = s.clock[i] + RELOAD
    if s.cells[i, r, c] == EMPTY:
        s.cells[i, r, c] = SHOT
    else:
        hit(s, i, r, c)


@jit
def onto(s: State, i: int, r: int, c: int) -> bool:
    """The thing at (r, c) comes to the player; whether it is no longer where it was."""
    if not meet(s, i, r, c):
        return False
    if s.memo[i, DEAD]:
        s.cells[i, s.player[i, 0], s.player[i, 1]] = s.cells[i, r, c]
        s.cells[i, r, c] = EMPTY
    return True


@jit
def drift(s: State, i: int, r: int, c: int, direction: int) -> None:
    """A thing of a stream goes on by a cell; it is gone where it leaves the board or runs into something."""
    nr, nc = neighbour(r, c, direction, False)
    code = s.cells[i, r, c]
    target = touch_of(s, i, code) == TARGET
    if nr == s.player[i, 0] and nc == s.player[i, 1]:
        onto(s, i, r, c)
        return
    s.cells[i, r, c] = EMPTY
    if nr == r and nc == c:
        if target and direction == DOWN:
            s.memo[i, EARNED] += LANDED
    elif s.cells[i, nr, nc] == EMPTY:
        s.cells[i, nr, nc] = code
    elif target and s.cells[i, nr, nc] == SHOT:
        s.cells[i, nr, nc] = EMPTY
        s.memo[i, EARNED] += TAKEN


@jit
def drift_all(s: State, i: int, who: int, direction: int) -> None:
    """All things whose code is a bit of ``who`` go on, the foremost first."""
    back = direction in (DOWN, RIGHT)
    for a in range(SIZE):
        lane = LAST - a if back else a
        for b in range(SIZE):
            r, c = (lane, b) if direction <= DOWN else (b, lane)
            if (who >> s.cells[i, r, c]) & 1:
                drift(s, i, r, c, direction)
                if s.memo[i, DEAD]:
                    return


@jit
def enter(s: State, i: int, k: int, direction: int) -> None:
    """Things of kind ``k`` enter on the side from which they come, by chance, or all but a gap that winds."""
    at = KIND + k * WIDTH
    road = s.memo[i, at + ROAD]
    if road:
        middle = s.memo[i, MIDDLE] + below(s, i, 3) - 1
        s.memo[i, MIDDLE] = min(max(middle, ROAD_HALF), LAST - ROAD_HALF)
    for lane in range(SIZE):
        beside = abs(lane - s.memo[i, MIDDLE]) > ROAD_HALF
        comes = beside if road else 10_000 * uniform(s, i) < s.memo[i, at + RATE]
        if comes:
            r = (0 if direction == DOWN else LAST) if direction <= DOWN else lane
            c = lane if direction <= DOWN else (0 if direction == RIGHT else LAST)
            if s.cells[i, r, c] == EMPTY:
                here = r == s.player[i, 0] and c == s.player[i, 1]
                s.cells[i, r, c] = k + 1
                if here and not meet(s, i, r, c):
                    s.cells[i, r, c] = EMPTY
                if s.memo[i, DEAD]:
                    return


@jit
def direction_of(s: State, i: int, at: int) -> int:
    """Where a stream goes."""
    movement = s.memo[i, at + MOVEMENT]
    return DOWN if movement == FALLING else UP if movement == RISING else s.memo[i, at + SIDE]


@jit
def move_streams(s: State, i: int) -> None:
    """What falls, rises or goes across moves on, and more of it enters."""
    for k in range(KEYS):
        at = KIND + k * WIDTH
        if s.memo[i, at + TOUCH] < 0 or not (FLOWING >> s.memo[i, at + MOVEMENT]) & 1:
            continue
        pace, direction = s.memo[i, at + PACE], direction_of(s, i, at)
        if pace == SLOW and s.clock[i] % 2:
            continue
        for _ in range(2 if pace == FAST else 1):
            drift_all(s, i, 2 << k, direction)
            if s.memo[i, DEAD]:
                return
            enter(s, i, k, direction)
            if s.memo[i, DEAD]:
                return


@jit
def towards(s: State, i: int, r: int, c: int) -> int:
    """The direction in which the longer side of the distance to the player becomes less."""
    dr, dc = s.player[i, 0] - r, s.player[i, 1] - c
    if abs(dr) >= abs(dc):
        return DOWN if dr > 0 else UP
    return RIGHT if dc > 0 else LEFT


@jit
def way(s: State, i: int, m: int, at: int) -> int:
    """Where walker m goes next."""
    movement = s.memo[i, at + MOVEMENT]
    if movement == PATROLLING:
        return int(s.movers[i, m, 2])
    if movement != WANDERING and 100 * uniform(s, i) < s.memo[i, at + KEEN]:
        direction = towards(s, i, s.movers[i, m, 0], s.movers[i, m, 1])
        if movement == CHASING:
            return direction
        return direction + 1 if direction % 2 else direction - 1
    return 1 + below(s, i, 4)


@jit
def move_walkers(s: State, i: int, p: Any) -> None:
    """What wanders, patrols, chases or flees takes a step; who patrols turns round where it cannot go on."""
    for m in range(s.memo[i, COUNT]):
        r, c = s.movers[i, m, 0], s.movers[i, m, 1]
        if r < 0:
            continue
        at = KIND + (s.cells[i, r, c] - 1) * WIDTH
        if s.memo[i, at + PACE] == SLOW and uniform(s, i) < 0.5:
            continue
        direction = way(s, i, m, at)
        nr, nc = neighbour(r, c, direction, p.wrap)
        if nr == s.player[i, 0] and nc == s.player[i, 1]:
            gone = onto(s, i, r, c)
            if s.memo[i, DEAD]:
                return
        else:
            gone = s.cells[i, nr, nc] == EMPTY
            if gone:
                s.cells[i, nr, nc] = s.cells[i, r, c]
                s.cells[i, r, c] = EMPTY
                s.movers[i, m, 0] = nr
                s.movers[i, m, 1] = nc
            elif s.cells[i, nr, nc] == SHOT:
                s.cells[i, nr, nc] = EMPTY
                gone = True
                hit(s, i, r, c)
        s.movers[i, m, 2] = direction if gone else (direction + 1 if direction % 2 else direction - 1)


@jit
def advance(s: State, i: int, action: int, p: Any) -> tuple[float, bool]:
    """The player moves, then all things; a level that is solved is followed by another board with the same rules."""
    s.memo[i, EARNED] = s.memo[i, SURVIVAL]
    if s.memo[i, ARMED]:
        raise_shots(s, i)
    move_player(s, i, action, p)
    if action == ACT and s.memo[i, ARMED] and not s.memo[i, DEAD]:
        shoot(s, i)
    if not s.memo[i, DEAD]:
        move_streams(s, i)
    if not s.memo[i, DEAD]:
        move_walkers(s, i, p)
    dead = s.memo[i, DEAD] == 1
    if s.memo[i, SOLVED] and not dead:
        lay_out(s, i)
    if dead:
        s.memo[i, EARNED] -= s.memo[i, SURVIVAL]
    return s.memo[i, EARNED] / 100, dead


@jit
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


def impossible(p: Any) -> str | None:
    """Why these settings leave nothing to draw; None where they leave something."""
    for touch in range(len(TOUCHES)):
        banned = sum(((p.ban >> (8 * m + 7 - touch)) & 1) << m for m in range(len(MOVEMENTS)))
        if (p.touches >> touch) & 1 and p.movements & ~banned:
            return None
    return (
        "movements, touches and ban leave no thing to draw; allow a movement and a touch that are not banned together"
    )


GAME = Game(
    id="Graft/Generated-v0",
    goal="Find out from what things show how this episode's game is played; the next one has other rules.",
    things=THINGS,
    own={
        "wrap": False,
        "controls": "all",
        "movements": "all",
        "touches": "all",
        "ban": "none",
        "kinds": 4,
    },
    begin=begin,
    advance=advance,
    paint=paint,
    impossible=impossible,
    movers=WALKERS,
    memo=KIND + KINDS * WIDTH,
)
GAMES.add(GAME.id, GAME)
