"""Which step comes next: by a seed, so that the same choices can be made again."""

from __future__ import annotations

import random

from conformance.campaigns.stress.world import PAGE, World

SECONDARIES = "ABC"
# what is done how often
STEPS = {
    "malloc": 30,
    "free": 20,
    "together": 16,
    "write": 5,
    "attach": 9,
    "close": 4,
    "kill": 4,
    "pages": 3,
    "back": 3,
}
DEADLY = {"die": 12}
ENDINGS = "tidy", "anyhow", "dead primary"
CROWDED = 36  # areas from which on more is freed than taken


class Walk:
    """Rounds of steps, each with a primary of its own; `seed` is that of the round under way.

    deadly: secondaries also die inside of a malloc. steps: these instead of random ones.
    """

    def __init__(self, world: World, seed, deadly, steps=None):
        self.world, self.seed, self.deadly, self.steps = world, seed, deadly, steps
        self.rounds = 0

    def run(self, tick):
        """tick(round) answers whether there is time for more."""
        w = self.world
        if self.steps is not None:
            for step in self.steps:
                if w.do(step):
                    w.check()
                tick(1)
            return
        while True:
            self.rounds += 1
            self.r = random.Random(self.seed)
            more = self.round(tick)
            tick(self.rounds, last=not more)
            if not more:
                break
            w.steps.clear()
            self.seed += 1
        w.forget()
        w.do(["start", "P", "-m", "2"])  # after whatever end, the next start is clean
        w.check()
        w.do(["close", "P"])
        w.check_empty()

    def round(self, tick):
        w, r = self.world, self.r
        w.forget()
        w.do(["start", "P", "-m", str(2 * r.randint(1, 4))])
        w.check()
        more = True
        for _ in range(r.randint(40, 160)):
            if not w.procs or not (more := tick(self.rounds)):
                break
            if w.do(self.next()):
                w.check(whole=r.random() < 0.3 or not w.areas)
        w.check()
        self.end()
        return more

    # choices

    def next(self):
        """A step that fits now."""
        weights = STEPS | (DEADLY if self.deadly else {})
        if len(self.world.areas) > CROWDED:
            weights = weights | {"malloc": 5, "free": 60}
        while True:
            verb = self.r.choices(list(weights), list(weights.values()))[0]
            if step := getattr(self, verb)():
                return step

    def who(self):
        return self.r.choice(self.world.living())

    def secondary(self):
        found = self.world.secondaries()
        return self.r.choice(found) if found else None

    def size(self):
        """Small ones, parts of a page, several pages."""
        r = self.r
        low, high = r.choice([(64, 8192), (64, 8192), (8192, PAGE // 2), (PAGE // 2, 6 * PAGE)])
        return r.randint(low, high)

    def malloc(self, who=None):
        align = self.r.choice([0, 0, 0, 64, 4096, PAGE])
        return ["malloc", who or self.who(), self.size(), align]

    def area(self, pages=False):
        found = [n for n in self.world.areas if (n in self.world.pages) == pages]
        return self.r.choice(found) if found else None

    def free(self, who=None):
        n = self.area()
        return n is not None and ["free", who or self.who(), n]

    def write(self):
        n = self.area()
        return n is not None and ["write", self.who(), n]

    def attach(self):
        free = [a for a in SECONDARIES if a not in self.world.procs]
        return free and ["attach", self.r.choice(free), self.r.choice(sorted(self.world.kinds))]

    def close(self):
        who = self.secondary()
        return who and ["close", who]

    def kill(self):
        who = self.secondary()
        return who and ["kill", who]

    def die(self):
        who = self.secondary()
        if not who or self.world.cannot("die"):
            return None
        size = self.r.choice([self.r.randint(64, 4096), self.r.randint(PAGE, 6 * PAGE)])
        return ["die", who, size, round(self.r.choice([1, 5, 25]) * self.r.random(), 3)]

    def pages(self):
        return "alloc" in self.world.procs["P"].child.can and ["pages", "P", self.r.randint(1, 4)]

    def back(self):
        n = self.area(pages=True)
        return n is not None and ["back", "P", n]

    def together(self):
        """Each process one thing, at the same time; perhaps one comes or goes meanwhile."""
        r, w, steps, taken = self.r, self.world, [], set()
        if r.random() < 0.25 and (step := self.attach()):
            steps.append(step)
        going = self.secondary() if r.random() < 0.15 else None
        if going and w.kind(going) == "librte_eal" and w.cannot("leave"):
            going = None
        for who in r.sample(w.living(), len(w.living())):
            step = self.free(who) if r.random() < 0.4 else self.malloc(who)
            if who == going:
                step = ["close", who]
            if step and (step[0] != "free" or step[2] not in taken):
                taken.add(step[2] if step[0] == "free" else None)
                steps.append(step)
        return len(steps) > 1 and ["together", steps]

    # endings

    def end(self):
        w, r = self.world, self.r
        ending = r.choice(ENDINGS)
        if ending == "tidy":
            w.empty(self.who)
            w.check()
            for who in r.sample(w.secondaries(), len(w.secondaries())):
                w.do(["close", who])
                w.check()
            w.do(["close", "P"])
            w.check_empty()
            return
        order = w.living()
        r.shuffle(order)
        if ending == "dead primary":
            w.do(["kill", "P"])
            order.remove("P")
            w.orphans(order)
        for who in order:
            w.do(["close", who])
            w.check_left()
