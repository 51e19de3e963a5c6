"""The second door: the Kafka protocol. ``wire`` is pure; ``listener`` and ``connection`` do the I/O; ``handlers`` answer."""
