"""What ``make bench`` measures: raftlog beside a bare replication of the same bytes, in the same run on the same machine."""
