"""What every layer stands on: errors, access levels, input boxes, per-input random numbers, row tools."""
