"""Mutated inputs: every reader of what comes from elsewhere answers or says in one line what is wrong."""
