"""Any Keras network: its layers as matrices, its copies, a goal for its ranks, a report."""
