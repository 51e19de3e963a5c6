"""Who reads what: Kafka's assignors for consumer groups, as pure functions from members and partition counts to assignments."""
