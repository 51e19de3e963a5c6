"""For each planted bug the first simulation that caught it: mode and seed. ``make test`` runs these, ``make planted`` looks anew.

A change to the code that runs, or to the world around it, may let a seed take another course. Where one no longer catches its
bug, ``python -m tests.simulation --planted NAME`` finds the next, which belongs here; where none is found, a check is blind.
"""

from __future__ import annotations

from typing import Final

RECORDED: Final[dict[str, tuple[str, int]]] = {
    "skip-the-fsync": ("safety", 1),
    "acknowledge-before-a-majority": ("liveness", 2),
    "answer-at-once": ("liveness", 2),
    "drop-the-producer-table": ("safety", 3),
    "take-any-sequence": ("liveness", 2),
    "let-old-disks-in": ("safety", 6),
    "serve-beyond-the-commit-index": ("liveness", 4),
    "no-read-barrier": ("safety", 97),
    "trim-for-the-fastest": ("safety", 1),
    "answer-before-the-commit": ("safety", 1),
    "count-learners": ("safety", 2),
    "let-changes-overlap": ("safety", 35),
    "followers-sleep-for-ever": ("liveness", 6),
    "no-guard-matching": ("safety", 6),
    "no-guard-probes": ("safety", 5),
    "no-guard-sender": ("safety", 1),
    "no-guard-pre-vote": ("liveness", 5),
    "no-guard-durable": ("safety", 1),
    "no-guard-votes-once": ("safety", 3),
    "no-guard-membership": ("safety", 2),
    "groups-commit-without-generation": ("groups", 6),
    "groups-answer-commits-at-once": ("groups", 3),
    "groups-tell-generations-at-once": ("groups", 26),
    "groups-begin-groups-anew-at-a-failover": ("groups", 1),
    "groups-read-offsets-without-a-barrier": ("groups", 17),
    "groups-forget-offsets-at-a-restart": ("groups", 1),
    "moves-forget-members": ("moves", 1),
    "moves-delete-what-is-not-wanted": ("moves", 1),
    "returns-vote-with-an-emptied-log": ("returns", 12),
    "returns-let-old-disks-in": ("returns", 10),
    "returns-let-empty-disks-in": ("returns", 2),
    "returns-open-replicas-of-the-past": ("returns", 2),
    "returns-join-as-what-it-was": ("returns", 2),
}
