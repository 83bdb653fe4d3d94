"""A drill: runs are killed, starved of their disk, damaged and fed with garbage, and have to come out right.

    python -m tests.drill --kills 200 --ray-kills 30 --writes 200 --damage 150 --mutations 10000 --log drill.jsonl

Every case is a process of its own, forked from this one, so that a kill is a kill and imports are paid for once. What
a case does depends on the seed and its own number alone: with `--log` the same command goes on where it was stopped.
Printed is a table of fault, stage and outcome with counts. Outcomes:

    same            finished, bit for bit as the run that nothing happened to
    one line, same  exit code 2 and one line; resumed it ends the same
    went on, same   finished the same in spite of it
    one line        a damaged folder or input was refused
    read            an input was taken (mutations only)
    OTHER           finished with another result
    NOT RESUMED     refused to go on
    TRACEBACK       an error that nobody had thought of
"""

from tests.drill.cases import drill, plan
from tests.drill.striking import FAULTS

__all__ = ["FAULTS", "drill", "plan"]
