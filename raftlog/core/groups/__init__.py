"""Consumer groups, pure: the protocol between members, and what a coordinator replicates of them."""
