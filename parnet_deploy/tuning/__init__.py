"""Choose a plan by measurement: candidates, successive halving, a decision, and the record of all of it."""
