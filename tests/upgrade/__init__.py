"""Two versions of raftlog side by side: ``python -m tests.upgrade`` upgrades a busy cluster of the version before to this one."""
