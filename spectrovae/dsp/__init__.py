"""Signal processing as pure functions on tensors: no state, any batch, any length, in or out of a graph."""
