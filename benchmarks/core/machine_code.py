"""The machine code of a kernel by NVIDIA's tools: instructions, loops and ways through it."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from triton.backends import nvidia

_BIN = Path(nvidia.__file__).with_name("bin")
_INSTRUCTION = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(.*?);", re.MULTILINE)
# Of float64, which gaming and inference cards have few units for.
_DOUBLE = re.compile(r"\bD(ADD|MUL|FMA|SETP)\b|\bF2F\.F\S*64|\bI2F\.F64|\bF2I\S*\.F64")


def run(program: str, *arguments: str) -> str:
    """What one of the tools that Triton brings prints."""
    done = subprocess.run(
        [_BIN / program, *arguments], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout


def disassembled(cubin: bytes) -> Code:
    """The code of an ELF file with one kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return Code(*(run("cuobjdump", option, file.name) for option in ("-res-usage", "-sass")))


@dataclass(frozen=True, slots=True)
class Way:
    """One way through a kernel.

    Attributes:
        instructions: that a lane runs, each loop once.
        doubles: of them, those that compute in float64.
    """

    instructions: int
    doubles: int


class Code:
    """The code of one kernel.

    Args:
        usage: what ``cuobjdump -res-usage`` prints of it.
        listing: what ``cuobjdump -sass`` prints.

    Attributes:
        registers: of a thread.
        spilled: bytes of registers that a thread keeps in memory.
        texts: the instructions in order.
    """

    def __init__(self, usage: str, listing: str) -> None:
        used = {k: int(n) for k, n in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
        self.registers = used["REG"]
        self.spilled = used["STACK"] + used["LOCAL"]
        self.texts: list[str] = []
        self._index: dict[int, int] = {}
        for at, text in _INSTRUCTION.findall(listing):
            self._index[int(at, 16)] = len(self.texts)  # of a NOP the next
            if not text.startswith("NOP"):
                self.texts.append(text)

    def widest(self, operation: str) -> int:
        """Bits of the widest instruction of a name such as ``LDG``; without a width it is 32."""
        widths = [0]
        for text in self.texts:
            if match := re.search(rf"\b{operation}\.(\S+)", text):
                sizes = [part.lstrip("US") for part in match[1].split(".")]
                widths.append(next((int(size) for size in sizes if size.isdigit()), 32))
        return max(widths)

    @cached_property
    def box_loop(self) -> tuple[int, int] | None:
        """First and last instruction of the longest loop that is in another and has none in it."""
        loops = self._loops
        inner = (a for a in self._nested if not any(a != b and _holds(a, b) for b in loops))
        return max(inner, key=_length, default=None)

    def without_box(self) -> Way:
        """The shortest way that looks for boxes and finds none; of other kernels the longest."""
        inner = self.box_loop
        if inner is None:
            return self._way(self._to_end(0, shortest=False))
        around = (a for a in self._loops if a != inner and _holds(a, inner))
        at = min(around, key=_length)[0]
        return self._way(self._between(0, at, shortest=True) + self._to_end(at, shortest=True))

    def with_box(self) -> Way:
        """The longest way, with a box; each loop is run through once.

        None where there are loops for several maps, of which a tile runs through one.
        """
        one = len(self._nested) == 1
        return self._way(self._to_end(0, shortest=False)) if one else Way(0, 0)

    @cached_property
    def _nested(self) -> list[tuple[int, int]]:
        """The loops that are in another."""
        loops = self._loops
        return [a for a in loops if any(a != b and _holds(b, a) for b in loops)]

    @cached_property
    def _loops(self) -> list[tuple[int, int]]:
        found = ((self._target(i), i) for i in range(len(self.texts)))
        return [(start, end) for start, end in found if start is not None and start < end]

    def _target(self, i: int) -> int | None:
        """Where a branch goes; ptxas branches by conditional calls too, which do not return."""
        match = re.search(r"(?:\bBRA|^@\S+ CALL)\S*\s.*?0x([0-9a-f]+)", self.texts[i])
        return self._index.get(int(match[1], 16)) if match else None

    def _next(self, i: int) -> list[int]:
        """What may come after an instruction, forwards."""
        text, target = self.texts[i], self._target(i)
        conditional = text.startswith("@") or re.search(r"\bBRA\S*\s+!?U?P\d", text) is not None
        ends = re.search(r"\b(EXIT|RET|BRA)\b", text) is not None and not conditional
        found = [] if ends or i + 1 == len(self.texts) else [i + 1]
        return found if target is None or target <= i else [*found, target]

    def _to_end(self, start: int, shortest: bool) -> list[int]:
        exits = [i for i, text in enumerate(self.texts) if "EXIT" in text and not self._next(i)]
        ways = [self._between(start, end, shortest) for end in exits]
        return (min if shortest else max)((way for way in ways if way), key=len)

    def _between(self, start: int, end: int, shortest: bool) -> list[int]:
        """The instructions before the last of the shortest or longest way; none if there is no way.

        All of it goes forwards, since loops go backwards: in that order each is reached once.
        """
        before: dict[int, tuple[int, int]] = {start: (0, -1)}
        for i in range(start, end):
            if i in before:
                length = before[i][0] + 1
                for j in self._next(i):
                    is_better = j not in before or (length < before[j][0]) == shortest
                    if is_better:
                        before[j] = length, i
        way: list[int] = []
        i = end if end in before else start
        while i != start:
            i = before[i][1]
            way.append(i)
        return way

    def _way(self, indices: list[int]) -> Way:
        # The end itself is an instruction too.
        doubles = sum(_DOUBLE.search(self.texts[i]) is not None for i in indices)
        return Way(len(indices) + 1, doubles)


def _length(loop: tuple[int, int]) -> int:
    return loop[1] - loop[0]


def _holds(loop: tuple[int, int], other: tuple[int, int]) -> bool:
    return loop[0] <= other[0] and other[1] <= loop[1]
